# SPDX-License-Identifier: Apache-2.0
"""Nonces that the agent's clients share: a new process begins with the newest nonce of each server (RFC 9449 §8).

A client reports a nonce only after a response that took its proof, so that a server that refuses cannot spoil the
requests of the others. Each key, user, server and role has its own. A nonce that may be good for one request only is
given to one client, and comes back if that client ends without using it: the agent sees which nonces are signed.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

__all__ = ["NonceReport", "ReportedNonces", "SharedNonces"]

_MAX_PLACES: Final = 1024  # of all keys, users, servers and roles
_MAX_PENDING: Final = 64
_USES_NEEDED: Final = 2  # proofs with one nonce that were taken, after which it is known to be reusable


class NonceReport(NamedTuple):
    """One nonce of a server.

    :param role: ``"AS"`` or ``"RS"``.
    :param reusable: whether it is known that the server takes it more than once.
    """

    origin: str
    role: str
    nonce: str
    reusable: bool

    def __repr__(self) -> str:
        return f"<NonceReport of {self.origin}>"


class _Kept:
    __slots__ = ("holder", "report", "spent", "uses")

    def __init__(self, report: NonceReport) -> None:
        self.report = report
        self.uses = 0  # proofs that carried it
        self.spent = False  # one did, and no client has said since that the server took it
        self.holder: object = None  # the client that it was given to


class SharedNonces:
    """The nonces that the agent keeps. Thread-safe, bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, int, str, str], _Kept] = OrderedDict()

    def learn(self, jkt: str, uid: int, reports: Iterable[NonceReport]) -> None:
        """Keep the nonces that a client reports; the newest report of a server counts."""
        with self._lock:
            for report in reports:
                place = (jkt, uid, report.origin, report.role)
                before = self._kept.get(place)
                if before is None or before.report.nonce != report.nonce:
                    self._kept[place] = _Kept(report)
                else:
                    before.spent, before.holder = False, None
                    before.report = report._replace(reusable=report.reusable or before.uses >= _USES_NEEDED)
                self._kept.move_to_end(place)
                if len(self._kept) > _MAX_PLACES:
                    self._kept.popitem(last=False)

    def give(self, jkt: str, uid: int, holder: object) -> list[NonceReport]:
        """The nonces that this client may begin with. One that may be for one request goes to one client only."""
        given = []
        with self._lock:
            for (of_key, of_user, _, _), kept in self._kept.items():
                if (of_key, of_user) == (jkt, uid) and not kept.spent and (kept.report.reusable or kept.holder is None):
                    kept.holder = holder
                    given.append(kept.report)
        return given

    def used(self, jkt: str, uid: int, origin: str, nonce: str) -> None:
        """Note that a proof carries this nonce: unless it is good for more, others get it only if it was taken."""
        with self._lock:
            for role in ("AS", "RS"):
                kept = self._kept.get((jkt, uid, origin, role))
                if kept is not None and kept.report.nonce == nonce:
                    kept.uses += 1
                    kept.spent = not kept.report.reusable

    def left(self, holder: object) -> None:
        """Take back what an ended client was given and has not used."""
        with self._lock:
            for kept in self._kept.values():
                if kept.holder is holder:
                    kept.holder = None

    def __repr__(self) -> str:
        return f"<SharedNonces of {len(self._kept)} servers>"


class ReportedNonces:
    """The client's side: what the agent gave at the start, and what is to be reported with the next request.

    No lock is taken, because a nonce cache calls :meth:`report` while it holds its own.
    """

    def __init__(self, known: Iterable[Mapping[str, Any]]) -> None:
        self.known: list[tuple[str, str, str]] = [
            (each["origin"], each["role"], each["nonce"])
            for each in known
            if isinstance(each, dict) and all(isinstance(each.get(name), str) for name in ("origin", "role", "nonce"))
        ]
        self._told: dict[tuple[str, str], tuple[str, bool]] = {}
        self._pending: dict[tuple[str, str], tuple[str, bool]] = {}

    def report(self, origin: str, role: str, nonce: str, reusable: bool) -> None:
        """Note that a server took a proof and that this is its newest nonce."""
        place, told = (origin, role), (nonce, reusable)
        if self._told.get(place) != told and len(self._pending) < _MAX_PENDING:
            self._told[place] = self._pending[place] = told

    def take(self) -> list[dict[str, Any]]:
        """What is to be reported, once."""
        if not self._pending:
            return []
        pending, self._pending = self._pending, {}
        return [
            {"origin": origin, "role": role, "nonce": nonce, "reusable": reusable}
            for (origin, role), (nonce, reusable) in pending.items()
        ]

    def __repr__(self) -> str:
        return f"<ReportedNonces, {len(self._pending)} to report>"
