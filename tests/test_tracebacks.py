# SPDX-License-Identifier: Apache-2.0
"""What a crash reporter gets to see of a key that could not be loaded or saved: nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dpop
from dpop._tracebacks import hide_frames
from dpop.errors import DPoPError, KeyFileError, UsageError

PASSWORD = "correct horse"


def frames(error: BaseException | None) -> Iterator[dict[str, Any]]:
    """The local variables of each frame of an error and of what it was made from, this file's own left out."""
    if error is None:
        return
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            yield trace.tb_frame.f_locals
        trace = trace.tb_next
    yield from frames(error.__cause__)
    yield from frames(error.__context__)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    """A key in a file."""
    dpop.generate_key().save(tmp_path / "key.pem")
    return (tmp_path / "key.pem").read_text("ascii")


def damaged(directory: Path, pem: str) -> Path:
    """A file of a private key that is cut."""
    path = directory / "damaged.pem"
    path.touch(0o600)
    path.write_text(pem[:-30], "ascii")
    return path


def test_a_key_file_that_cannot_be_read(tmp_path: Path, pem: str) -> None:
    """Neither its octets nor a password that was asked for are in any frame of the error."""
    dpop.generate_key().save(tmp_path / "locked.pem", password=PASSWORD)
    plain, locked = tmp_path / "key.pem", tmp_path / "locked.pem"
    attempts: list[Callable[[], object]] = [
        lambda: dpop.load_key(damaged(tmp_path, pem)),
        lambda: dpop.load_key(plain, password="needless"),
        lambda: dpop.load_key(plain, alg="PS256"),
        lambda: dpop.load_key(locked),
        lambda: dpop.load_key(locked, password=lambda: PASSWORD[::-1]),
    ]
    secrets = (pem.splitlines()[1], PASSWORD[::-1], locked.read_text("ascii").splitlines()[1])
    for attempt in attempts:
        with pytest.raises(DPoPError) as raised:
            attempt()
        shown = repr(list(frames(raised.value)))
        assert not any(secret in shown for secret in secrets)


def test_a_key_that_cannot_be_written(tmp_path: Path) -> None:
    """The octets that were to be written are in no frame, and the reason is still there."""
    key = dpop.generate_key()
    with pytest.raises(KeyFileError, match="No such file") as raised:
        key.save(tmp_path / "nowhere" / "key.pem")
    assert "PRIVATE KEY" not in repr(list(frames(raised.value)))
    assert isinstance(raised.value.__cause__, FileNotFoundError)


def test_a_hidden_context_is_forgotten() -> None:
    """An error raised from None keeps, out of sight, the one it hides: that goes too; any other error is left."""

    @hide_frames
    def fail() -> None:
        try:
            raise ValueError("hidden")
        except ValueError:
            raise UsageError("shown") from None

    with pytest.raises(UsageError, match="shown") as raised:
        fail()
    assert raised.value.__context__ is None

    @hide_frames
    def crash() -> None:
        raise RuntimeError("whole")

    with pytest.raises(RuntimeError) as crashed:
        crash()
    assert crashed.traceback[-1].name == "crash"
