# SPDX-License-Identifier: Apache-2.0
"""Ask a person: by the program that DPOP_ASKPASS or SSH_ASKPASS names, as ssh-agent does."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import Final

__all__ = ["askpass_program", "confirmed", "password_from_askpass"]

_CONFIRM_SECONDS: Final = 30.0
_PASSWORD_SECONDS: Final = 120.0
_one_prompt: Final = threading.Lock()


def askpass_program() -> str | None:
    """The program that asks; None if none is named."""
    return os.environ.get("DPOP_ASKPASS") or os.environ.get("SSH_ASKPASS") or None


def password_from_askpass(question: str) -> str | None:
    """Ask for a password; None without a program, or if the person declined."""
    program = askpass_program()
    if program is None:
        return None
    with _one_prompt:
        try:
            asked = subprocess.run(  # noqa: S603 - the user named it
                [program, question], stdout=subprocess.PIPE, check=False, timeout=_PASSWORD_SECONDS
            )
        except (OSError, subprocess.SubprocessError):
            return None
    text = asked.stdout.decode("utf-8", "replace").rstrip("\r\n")
    return text if asked.returncode == 0 and text else None


def confirmed(question: str, *, seconds: float = _CONFIRM_SECONDS) -> bool:
    """Whether a person agrees; not without a program to ask with, nor after ``seconds``. One prompt at a time.

    :param question: printable ASCII, and no text that a client chose.
    """
    program = askpass_program()
    if program is None or not _one_prompt.acquire(timeout=seconds):
        return False
    try:
        asked = subprocess.run(  # noqa: S603 - the user named it
            [program, question],
            env={**os.environ, "SSH_ASKPASS_PROMPT": "confirm"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
            timeout=seconds,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        _one_prompt.release()
    return asked.returncode == 0
