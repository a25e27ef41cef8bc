# SPDX-License-Identifier: Apache-2.0
"""PKCS#11 URIs: the examples of RFC 7512, what is refused, and that no PIN shows."""

from __future__ import annotations

from pathlib import PureWindowsPath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import ArgumentTypeError, InvalidKeyError
from dpop.keys.pkcs11._uri import Pkcs11Uri, _pin_file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pkcs11:", {}),
        ("PKCS11:token=t", {"token": "t"}),
        (
            "pkcs11:object=my-pubkey;type=private",
            {"object": "my-pubkey"},
        ),
        (
            "pkcs11:object=my-key;type=private?pin-source=file:/etc/token",
            {"object": "my-key", "pin_source": "/etc/token"},
        ),
        (
            (
                "pkcs11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;model=1.0;"
                "object=my-certificate;type=private;id=%69%95%3E%5C%F4%BD%EC%91;serial=?pin-source=file:/etc/token_pin"
            ),
            {
                "token": "The Software PKCS#11 Softtoken",
                "manufacturer": "Snake Oil, Inc.",
                "model": "1.0",
                "object": "my-certificate",
                "id": b"i\x95>\\\xf4\xbd\xec\x91",
                "serial": "",
                "pin_source": "/etc/token_pin",
            },
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-name=mypkcs11",
            {"object": "my-sign-key", "module_name": "mypkcs11"},
        ),
        (
            "pkcs11:object=my-sign-key;type=private?module-path=/mnt/libmypkcs11.so.1",
            {"object": "my-sign-key", "module_path": "/mnt/libmypkcs11.so.1"},
        ),
        (
            "pkcs11:token=Software%20PKCS%2311%20softtoken;manufacturer=Snake%20Oil,%20Inc.?pin-value=the-pin",
            {"token": "Software PKCS#11 softtoken", "manufacturer": "Snake Oil, Inc.", "pin_value": "the-pin"},
        ),
        (
            "pkcs11:slot-description=Sun%20Metaslot",
            {"slot_description": "Sun Metaslot"},
        ),
        (
            (
                "pkcs11:library-manufacturer=Snake%20Oil,%20Inc.;library-description=Soft%20Token%20Library;"
                "library-version=1.23"
            ),
            {
                "library_manufacturer": "Snake Oil, Inc.",
                "library_description": "Soft Token Library",
                "library_version": "1.23",
            },
        ),
        ("pkcs11:token=A%20name%20with%20a%20substring%20%3b", {"token": "A name with a substring ;"}),
        (
            "pkcs11:token=Name%20with%20a%20small%20A%20with%20acute:%20%C3%A1",
            {"token": "Name with a small A with acute: á"},
        ),
        ("pkcs11:id=ab%00c&d;slot-id=327", {"id": b"ab\0c&d", "slot_id": 327}),
        ("pkcs11:token=a?", {"token": "a"}),
        ("pkcs11:?pin-source=/run/pin", {"pin_source": "/run/pin"}),
        ("pkcs11:?pin-source=file:///run/my%20pin", {"pin_source": "/run/my pin"}),
        ("pkcs11:?pin-source=file://localhost/run/pin", {"pin_source": "/run/pin"}),
        ("pkcs11:?pin-value=a/b?c|d=e", {"pin_value": "a/b?c|d=e"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_uris_are_read(text: str, expected: dict[str, object]) -> None:
    """The examples of RFC 7512 §3, with the type private, and spellings that tools write."""
    assert Pkcs11Uri.parse(text) == Pkcs11Uri(**expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "does not begin"),
        ("pkcs12:token=a", "does not begin"),
        ("pkcs11:" + "a" * 5000, "at most 4096"),
        ("pkcs11:token=a;token=a", "token is given twice"),
        ("pkcs11:?pin-value=a&pin-value=a", "pin-value is given twice"),
        ("pkcs11:tokens=a", "'tokens' is not an attribute"),
        ("pkcs11:x-vendor=a", "'x-vendor' is not an attribute"),
        ("pkcs11:Token=a", "a part has no name"),
        ("pkcs11:token", "not an attribute"),
        ("pkcs11:token=a;", "a part has no name"),
        ("pkcs11:;token=a", "a part has no name"),
        ("pkcs11:?vendor=a", "a part has no name"),
        ("pkcs11:token=a b", "percent-encoded, such as %20"),
        ("pkcs11:object=a/b", "percent-encoded"),
        ("pkcs11:object=a%2", "percent-encoded"),
        ("pkcs11:object=a%zz", "percent-encoded"),
        ("pkcs11:object=a#b", "percent-encoded"),
        ("pkcs11:object=\u00e1", "percent-encoded"),
        ("pkcs11:object=a\n", "percent-encoded"),
        ("pkcs11:object=%ff", "not UTF-8"),
        ("pkcs11:object=a%00", "control character"),
        ("pkcs11:object=%0a", "control character"),
        ("pkcs11:id=", "id is empty"),
        ("pkcs11:type=public", "type is not private"),
        ("pkcs11:type=cert", "type is not private"),
        ("pkcs11:slot-id=x", "not a decimal number"),
        ("pkcs11:slot-id=-1", "not a decimal number"),
        ("pkcs11:slot-id=99999999999", "not a decimal number"),
        ("pkcs11:library-version=1.2.3", "of the form"),
        ("pkcs11:pin-value=1234", "pin-value is on the wrong side"),
        ("pkcs11:?object=a", "object is on the wrong side"),
        ("pkcs11:?pin-value=", "pin-value is empty"),
        ("pkcs11:?pin-value=1234&pin-source=/a", "pin-value and pin-source"),
        ("pkcs11:?module-path=/a&module-name=a", "module-path and module-name"),
        ("pkcs11:?module-path=a.so", "not an absolute path"),
        ("pkcs11:?module-name=../a", "not a bare name"),
        ("pkcs11:?pin-source=%7Ccat%20/etc/pin", "a command, which is never run"),
        ("pkcs11:?pin-source=|cat", "a command, which is never run"),
        ("pkcs11:?pin-source=pin", "not the absolute path"),
        ("pkcs11:?pin-source=file:pin", "not the absolute path"),
        ("pkcs11:?pin-source=https://a.example/pin", "not the absolute path"),
        ("pkcs11:?pin-source=file://other.example/pin", "not the absolute path"),
    ],
    ids=lambda value: value[:50],
)
def test_other_uris_are_refused(text: str, why: str) -> None:
    """A part that is not understood could have been what matters."""
    with pytest.raises(InvalidKeyError, match=why):
        Pkcs11Uri.parse(text)


def test_a_uri_is_a_str() -> None:
    """Octets are not."""
    with pytest.raises(ArgumentTypeError):
        Pkcs11Uri.parse(b"pkcs11:")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "pkcs11:token=t?pin-value=secret-9&pin-value=secret-9",
        "pkcs11:token=t?pin-value=secret-9&secret-9=1",
        "pkcs11:token=t?pin-value=secret-9 9",
        "pkcs11:token=t?pin-value=secret-9%ff",
        "pkcs11:token=t?pin-value=secret-9&secret-9",
        "pkcs11:pin-value=secret-9",
        "pkcs11:token=t;pin=secret-9?a",
        "pkcs11:token=t?pin-source=|secret-9",
        "pkcs11:token=t?pin-source=secret-9",
    ],
)
def test_no_message_holds_a_pin(text: str) -> None:
    """What could be one, or part of one, is not repeated."""
    with pytest.raises(InvalidKeyError) as refusal:
        Pkcs11Uri.parse(text)
    assert "secret-9" not in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


def test_no_repr_holds_a_pin() -> None:
    """Nor where it is: what is behind the question mark does not show."""
    for query in ("pin-value=secret-9", "pin-source=/secret-9", "module-path=/secret-9"):
        uri = Pkcs11Uri.parse(f"pkcs11:token=t?{query}")
        assert "secret-9" not in repr(uri) + str(uri) + uri.name
        assert uri.name == "pkcs11:token=t"


texts = st.text(st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=8)


@given(texts, texts, st.binary(min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_names_are_read_back(token: str, label: str, identifier: bytes, slot: int) -> None:
    """What name writes, parse reads, whatever characters are in it."""
    uri = Pkcs11Uri(token=token, object=label, id=identifier, slot_id=slot)
    assert uri.name.isascii()
    assert Pkcs11Uri.parse(uri.name) == uri


def test_a_reference_says_how_to_reach_a_key() -> None:
    """With its module and the PIN's file, and never with the PIN."""
    for query in ("", "?module-path=/a%20b/c.so", "?module-name=softhsm2&pin-source=/run/my%20pin"):
        assert Pkcs11Uri.parse(f"pkcs11:token=t{query}").reference == f"pkcs11:token=t{query}"
    assert Pkcs11Uri.parse("pkcs11:token=t?pin-value=1234").reference == "pkcs11:token=t"


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing else happens, and what is read is written the same way again."""
    try:
        uri = Pkcs11Uri.parse("pkcs11:" + text)
    except InvalidKeyError:
        return
    assert Pkcs11Uri.parse(uri.name).name == uri.name


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///C:/pins/pin%20one", "C:/pins/pin one"),
        ("file:/C:/pins/pin", "C:/pins/pin"),
        ("C:/pins/pin", "C:/pins/pin"),
        ("file:///pins/pin", None),  # on Windows no absolute path: it has no drive
    ],
)
def test_the_file_of_a_pin_on_windows(text: str, path: str | None) -> None:
    """A drive stands behind a third slash, which is no part of the path."""
    if path is None:
        with pytest.raises(InvalidKeyError, match="absolute"):
            _pin_file(unquote(text), PureWindowsPath)
    else:
        assert _pin_file(unquote(text), PureWindowsPath) == path
