# SPDX-License-Identifier: Apache-2.0
"""How far a server's clock is from ours, as far as it may be believed.

A refused proof with a far-off ``Date`` is explained in the log. Only with ``learn_clock=True`` does
the difference change later proofs, by five minutes at most: otherwise a hostile server could have
proofs made out for a time to come.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from dpop.origin import Origin

__all__ = ["NOTABLE_SECONDS", "ServerClocks", "skew"]

NOTABLE_SECONDS = 5.0
_MAX_OFFSET = 300.0
_MAX_ORIGINS = 100


def skew(date: str | None, sent: float, received: float) -> float | None:
    """Seconds that a ``Date`` header (RFC 9110 §6.6.1) is ahead of our clock; ``None`` if it says nothing.

    It was written at some time between sending and receiving, so all in between counts as 0: an answer
    that took long is no wrong clock.
    """
    if date is None:
        return None
    try:
        moment = parsedate_to_datetime(date)
        if moment.tzinfo is None:
            return None  # the time of which place?
        told = moment.timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return told - min(max(told, sent), received)


class ServerClocks:
    """Offsets by origin, bounded, five minutes at most each."""

    __slots__ = ("_offsets",)

    def __init__(self) -> None:
        # No lock, which a forked child could find held: single operations on a dict are whole.
        self._offsets: dict[Origin, float] = {}

    def offset(self, origin: Origin) -> float:
        """Seconds to add to our clock in proofs for this origin."""
        return self._offsets.get(origin, 0.0)

    def learn(self, origin: Origin, seconds: float) -> float:
        """Use this difference from the next call on; returns what is kept of it."""
        kept = max(-_MAX_OFFSET, min(_MAX_OFFSET, seconds))
        if len(self._offsets) >= _MAX_ORIGINS:
            self._offsets.clear()
        self._offsets[origin] = kept
        return kept
