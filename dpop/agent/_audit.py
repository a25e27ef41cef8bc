# SPDX-License-Identifier: Apache-2.0
"""The agent's audit log: one line of JSON for each signature, and for each that was refused.

It holds no proof, nonce or token, and of a URL only the origin. A signature that cannot be put on record is not given
out.
"""

from __future__ import annotations

import json
import os
import stat
import sys
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from dpop._files import path_from_home
from dpop.errors import KeyFileError

__all__ = ["AuditLog"]

# json.dumps() would make one for each line.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode

_SYSLOG: Final = "syslog"
_STDERR: Final = "stderr"


class AuditLog:
    """Writes audit lines to a file, standard error or syslog. Thread-safe.

    :param target: ``"stderr"``, ``"syslog"``, or the path of a file, which is made with mode 0600 and appended to.
    :raises KeyFileError: the file cannot be opened, or others could change it.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self._lock = threading.Lock()
        self._target: str | os.PathLike[str] = target
        self._descriptor: int | None = None
        self._cut_off = False
        if target not in {_SYSLOG, _STDERR}:
            self._descriptor = _opened(path_from_home(target))

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write one event.

        :raises OSError: it cannot be written.
        """
        milliseconds = int(time.time() * 1000)
        stamp = f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"
        text = _encode({"time": stamp, **event})
        if self._descriptor is None and self._target == _SYSLOG:
            import syslog  # noqa: PLC0415 - not on every system

            syslog.openlog("dpop-agent", syslog.LOG_PID, syslog.LOG_AUTH)
            syslog.syslog(syslog.LOG_INFO, text)
            return
        line = text.encode("ascii") + b"\n"
        with self._lock:
            descriptor = sys.stderr.fileno() if self._descriptor is None else self._descriptor
            if self._cut_off:
                line = b"\n" + line
            while line:
                written = os.write(descriptor, line)
                line = line[written:]
                # On a full disk only a part of the line is written; the next line must not be joined to it.
                self._cut_off = bool(line)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                self._target = _STDERR

    def __repr__(self) -> str:
        return f"<AuditLog {self._target}>"


@lru_cache(maxsize=1)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise KeyFileError(f"the audit log {path} cannot be opened: {error.strerror}") from None
    seen = os.fstat(descriptor)
    if seen.st_uid not in {0, os.geteuid()} or (stat.S_ISREG(seen.st_mode) and seen.st_mode & 0o022):
        os.close(descriptor)
        raise KeyFileError(f"other users can change the audit log {path}; name another, or: chmod 600 {path}")
    return descriptor
