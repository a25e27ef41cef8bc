# SPDX-License-Identifier: Apache-2.0
"""Run Python code on a file system on which some system calls fail."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

_SOURCE = Path(__file__).with_suffix(".c")


def run_on_odd_file_system(code: str, directory: Path, **refused: str) -> str:
    """Run ``code`` with failing system calls, and return its output.

    :param directory: an empty one for the compiled library.
    :param refused: names of system calls and of the errors they fail with: ``fsync="EINVAL"``, of directories.
    """
    library = directory / "odd_file_system.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"], check=True, timeout=60)
    refusals = {f"ODD_{name.upper()}": str(getattr(errno, error)) for name, error in refused.items()}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **refusals, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
