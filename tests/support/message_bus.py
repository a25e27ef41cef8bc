# SPDX-License-Identifier: Apache-2.0
"""A D-Bus message bus for one test: separate from the desktop's, and without services that start by themselves.

with message_bus() as address:
    subprocess.run(command, env={**os.environ, "DBUS_SESSION_BUS_ADDRESS": address})
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["message_bus"]

# Without <standard_session_servicedirs>, which would let a client start what the machine has installed.
_SETTINGS = """
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={directory}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@contextlib.contextmanager
def message_bus() -> Iterator[str]:
    """Run a bus; yield its address for ``DBUS_SESSION_BUS_ADDRESS``."""
    program = shutil.which("dbus-daemon")
    assert program is not None, "no dbus-daemon here: scripts/setup test gets one"
    # Not in pytest's own directory: the path of a unix socket may have some 100 characters only.
    with tempfile.TemporaryDirectory(prefix="bus-") as directory:
        settings = Path(directory, "bus.conf")
        settings.write_text(_SETTINGS.format(directory=directory).lstrip())
        process = subprocess.Popen(
            [program, f"--config-file={settings}", "--nofork", "--nopidfile", "--print-address"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            assert address, "dbus-daemon ended before it was ready"
            yield address
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()
