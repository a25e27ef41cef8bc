# SPDX-License-Identifier: Apache-2.0
"""A real Secret Service for the tests: GNOME's keyring on a message bus of its own, with a keyring of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator

__all__ = ["secret_service"]

# The daemon says nothing when it is ready: --unlock answers once the keyring is open.
_SCRIPT = """
printf password | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1
echo "$DBUS_SESSION_BUS_ADDRESS"
read -r _
"""


@contextlib.contextmanager
def secret_service() -> Iterator[str]:
    """Run one; the address of its bus, for ``DBUS_SESSION_BUS_ADDRESS``."""
    for program in ("dbus-run-session", "gnome-keyring-daemon"):
        assert shutil.which(program), f"no {program} here: scripts/setup test installs it"
    with tempfile.TemporaryDirectory(prefix="keyring-") as home:
        process = subprocess.Popen(
            ["dbus-run-session", "--", "bash", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HOME": home, "XDG_DATA_HOME": home, "XDG_RUNTIME_DIR": home},
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "the message bus ended before it was ready"
            yield address
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(30)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
