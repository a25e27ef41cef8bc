# SPDX-License-Identifier: Apache-2.0
"""The program ``dpop``, also run by ``python -m dpop_cli``; commands start and end quickly."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading

__all__ = ["run"]

# A command makes fewer objects than this, and no garbage. Collecting would take a twentieth of its time.
_OBJECTS_BETWEEN_COLLECTIONS = 50_000
_INTERRUPTED = 128 + 2


def run() -> None:
    """Run the command in ``sys.argv`` and end the process."""
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        from dpop_cli.main import main  # noqa: PLC0415 - not before the line above

        main(prog_name="dpop")
    except SystemExit as end:
        _leave(end)
    except KeyboardInterrupt:  # Ctrl-C while the program is still loading, before main() can say so itself
        if sys.stderr is not None:
            sys.stderr.write("Interrupted.\n")
        _leave(SystemExit(_INTERRUPTED))


def _leave(end: SystemExit) -> None:
    """Exit at once if no work is left: a normal exit of the interpreter takes a sixth of a command's time."""
    if threading.active_count() > 1 or not isinstance(end.code, int):
        raise end
    atexit._run_exitfuncs()  # noqa: SLF001 - no public function runs them
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit(end.code)


if __name__ == "__main__":
    run()
