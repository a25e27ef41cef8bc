# SPDX-License-Identifier: Apache-2.0
"""Run ``dpop`` as its users do: as a process, at a terminal, and by the examples in its help."""

from __future__ import annotations

import codecs
import inspect
import os
import pty
import re
import select
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import click
from click.testing import CliRunner, Result
from dpop_cli.main import main

# What can be read on light and on dark terminals alike: bold, red, green and magenta.
READABLE = {"0", "1", "31", "32", "35"}
STYLES = re.compile(r"\x1b\[([0-9;]*)m")

DPOP = (sys.executable, "-m", "dpop_cli")

# Makes the terminal on its stdin the controlling one, as a shell would, and goes on as dpop.
_AT_TERMINAL = (
    "import fcntl, runpy, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "sys.argv[0] = 'dpop'; runpy.run_module('dpop_cli', run_name='__main__')"
)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without the developer's settings for dpop and terminals, with a state directory."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "DPOP_STATE_DIR" or not (name.startswith("DPOP_") or name == "NO_COLOR")
    }
    return {**kept, "TERM": "xterm", **extra}  # whatever terminal the tests are run at, or none


def invoke(*args: str, stdin: str | bytes | None = None, env: Mapping[str, str] | None = None) -> Result:
    """Run ``dpop`` within this process."""
    return CliRunner().invoke(main, args, input=stdin, env={"DPOP_KEY": None, **(env or {})}, prog_name="dpop")


def run(
    *args: str, cwd: Path | None = None, stdin: str = "", env: Mapping[str, str] | None = None, shell: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run ``dpop`` as a process; ``shell`` is the text that follows the command in a shell, such as a redirection."""
    command = [*DPOP, *args] if not shell else ["sh", "-c", f'exec "$@" {shell}', "sh", *DPOP, *args]
    return subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        env=environment(**(env or {})),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def examples(command: click.Command) -> str:
    """Extract the commands of a help text as one script, in which ``dpop`` is a function."""
    lines = [line[2:] for line in inspect.cleandoc(command.help or "").splitlines() if line.startswith("  ")]
    function = 'dpop() { "$PYTHON" -m dpop_cli "$@"; }\n'
    return function + "\n".join(lines) + "\n"


def run_script(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script with bash, which stops at the first failure, also inside a pipe."""
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd,
        env=environment(PYTHON=sys.executable, **env),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def with_url(script: str, url: str, *, token_url: str = "") -> str:
    """Replace the example addresses in a script by the addresses of running servers."""
    script = script.replace("https://api.example/me", url).replace("https://as.example/token", token_url or url)
    return re.sub(r"\bURL\b", url, script)


class AtTerminal:
    """Runs ``dpop`` at a new terminal: reads its output and types input."""

    def __init__(self, *args: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _AT_TERMINAL, *args],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=cwd,
                env=environment(**(env or {})),
                start_new_session=True,
            )
        finally:
            os.close(slave)
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")()  # a read may end within a character

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.hang_up()

    def hang_up(self) -> None:
        """Close the terminal, as a person closes its window."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1

    def see(self, text: str) -> None:
        """Wait until the terminal shows the text."""
        while text not in self.shown:
            assert self._read(), f"{text!r} was expected at the terminal, which shows {self.shown!r}"

    def type(self, text: str | bytes) -> None:
        """Type the text; bytes are those of a terminal with another encoding."""
        os.write(self._master, text.encode() if isinstance(text, str) else text)

    def end(self) -> int:
        """Read the remaining output and return the exit status."""
        while self._read():
            pass
        return self.process.wait(timeout=180)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 60)[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux tells that nobody holds the other end any more
            return False
        self.shown += self._decoder.decode(data)
        return bool(data)
