# SPDX-License-Identifier: Apache-2.0
"""The difference between a server's clock and ours, up to the limit that is trusted.

If a server refuses a proof and its ``Date`` is far from our time, the log says so. Only with ``learn_clock=True`` does
the difference change later proofs, and by five minutes at most: otherwise a hostile server could obtain proofs that
become valid in the future.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from dpop.origin import Origin

__all__ = ["NOTABLE_SECONDS", "ServerClocks", "skew"]

NOTABLE_SECONDS = 5.0
_MAX_OFFSET = 300.0
_MAX_ORIGINS = 100

# The form in which servers must write a date. email.utils reads the older forms, but takes 10 ms to import.
_IMF_FIXDATE: Final = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def skew(date: str | None, sent: float, received: float) -> float | None:
    """Return by how many seconds a ``Date`` header (RFC 9110 §6.6.1) is ahead of our clock; ``None`` if unreadable.

    The server wrote it at some time between sending and receiving. Any time in between counts as 0, so that a slow
    response is not taken for a wrong clock.
    """
    if date is None:
        return None
    try:
        moment = _parse_http_date(date)
        if moment.tzinfo is None:
            return None  # no time zone, so no point in time
        server_time = moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return server_time - min(max(server_time, sent), received)


def _parse_http_date(date: str) -> datetime:
    """Parse an HTTP date (RFC 9110 §5.6.7).

    :raises ValueError: not an HTTP date.
    """
    usual = _IMF_FIXDATE.fullmatch(date)
    if usual is not None and usual[2] in _MONTHS:
        day, year, hour, minute, second = map(int, usual.group(1, 3, 4, 5, 6))
        return datetime(year, _MONTHS.index(usual[2]) + 1, day, hour, minute, second, tzinfo=UTC)
    from email.utils import parsedate_to_datetime  # noqa: PLC0415 - seldom, and slow to import

    return parsedate_to_datetime(date)


class ServerClocks:
    """The clock offset of each server, five minutes at most; it remembers a bounded number of servers."""

    __slots__ = ("_offsets",)

    def __init__(self) -> None:
        # No lock, because a forked child could inherit it locked; single operations on a dict are atomic.
        self._offsets: dict[Origin, float] = {}

    def offset(self, origin: Origin) -> float:
        """Seconds to add to our clock in proofs for this origin."""
        return self._offsets.get(origin, 0.0)

    def learn(self, origin: Origin, seconds: float) -> float:
        """Use this offset from the next call on; return it, cut to the limit."""
        kept = max(-_MAX_OFFSET, min(_MAX_OFFSET, seconds))
        if len(self._offsets) >= _MAX_ORIGINS:
            self._offsets.clear()
        self._offsets[origin] = kept
        return kept
