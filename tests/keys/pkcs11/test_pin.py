# SPDX-License-Identifier: Apache-2.0
"""PINs: where they come from, that they are asked for once, and what is remembered of refused ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from dpop.errors import KeyPasswordError, PinError
from dpop.keys.pkcs11._pin import Pin
from dpop.keys.pkcs11._uri import Pkcs11Uri

NONE = Pkcs11Uri()
TOKEN = ("label", "maker", "model", "1")


def test_a_pin_that_is_given() -> None:
    """A str is UTF-8, bytes are as they are; neither shows."""
    assert Pin("1234ä", NONE).get() == "1234ä".encode()
    assert Pin(b"\xff", NONE).get() == b"\xff"
    assert Pin(None, NONE).get() is None
    assert repr(Pin("1234", NONE)) == "<Pin>"


def test_a_pin_that_is_asked_for() -> None:
    """Only when it is needed, and once."""
    asked: list[str] = []

    def ask() -> str:
        asked.append("")
        return "1234"

    pin = Pin(ask, NONE)
    assert (asked, pin.is_asked_for) == ([], True)
    assert pin.get() == pin.get() == b"1234"
    assert len(asked) == 1


@pytest.mark.parametrize(
    "data", [b"1234", b"1234\n", b"1234\r\n", b"\xef\xbb\xbf1234\r\n", "1234\r\n".encode("utf-16")]
)
def test_a_pin_in_a_file(tmp_path: Path, data: bytes) -> None:
    """Without the end of its line and the mark of an editor, which would cost a try; it is not asked for then."""
    file = tmp_path / "pin"
    file.write_bytes(data)
    file.chmod(0o600)
    pin = Pin(lambda: pytest.fail("asked"), Pkcs11Uri(pin_source=str(file)))
    assert (pin.get(), pin.is_asked_for) == (b"1234", False)


def test_files_that_hold_no_pin(tmp_path: Path) -> None:
    """Missing, empty or too long: the path is not repeated."""
    for content, why in ((None, "No such file"), (b"\n", "empty"), (b"1" * 2000, "1024")):
        file = tmp_path / "pin"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(PinError, match=why) as refusal:
            Pin(None, Pkcs11Uri(pin_source=str(file))).get()
        assert str(tmp_path) not in str(refusal.value)


def test_a_file_that_everybody_can_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is used, with a warning, as a key file is."""
    file = tmp_path / "a pin"
    file.write_text("1234")
    file.chmod(0o644)
    assert Pin(None, Pkcs11Uri(pin_source=str(file))).get() == b"1234"
    assert f"chmod 600 '{file}'" in caplog.text


def test_a_pin_that_is_none() -> None:
    """Empty and endless ones are refused before a device sees them."""
    for value in ("", b"", "1" * 2000):
        with pytest.raises(KeyPasswordError):
            Pin(value, NONE)
        with pytest.raises(KeyPasswordError):
            Pin(lambda value=value: value, NONE).get()  # type: ignore[misc]


def test_a_refused_pin_is_remembered() -> None:
    """For that device and that PIN, whichever key it is given for; another PIN or device is free to try."""
    pin = Pin("4321", NONE)
    assert not pin.was_refused(TOKEN)
    pin.get()
    pin.forget(TOKEN)
    assert pin.get() is None
    assert Pin("4321", NONE).was_refused(TOKEN)
    assert not Pin("4322", NONE).was_refused(TOKEN)
    assert not Pin("4321", NONE).was_refused(("other", *TOKEN[1:]))
