# SPDX-License-Identifier: Apache-2.0
"""The state that the endpoints of one test server share."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass

from dpop.client import Role
from dpop.errors import InvalidProof
from dpop.profiles import Behaviour, Profile
from dpop.testing._clients import Client, Clients
from dpop.testing._gate import Gate
from dpop.testing._levers import ServerLevers
from dpop.testing._messages import Request
from dpop.testing._signer import TokenSigner
from dpop.testing._stats import Journal
from dpop.testing._store import Store

__all__ = ["Deployment", "granted", "is_thumbprint", "refused_as"]

_THUMBPRINT = re.compile(r"[A-Za-z0-9_-]{43}\Z")


@dataclass(frozen=True, slots=True, repr=False)
class Deployment:
    """One authorization server and one resource server at one origin.

    :param origin: the origin, such as ``http://127.0.0.1:8080``; also the issuer.
    :param signer: makes the values of access tokens.
    :param clock: Unix seconds, with the levers' offset.
    :param stopped: set when the server stops.
    :param profile: the kind of server that this one is.
    """

    origin: str
    store: Store
    clients: Clients
    levers: ServerLevers
    journal: Journal
    signer: TokenSigner
    clock: Callable[[], float]
    stopped: threading.Event
    profile: Profile

    @property
    def behaviour(self) -> Behaviour:
        """How this server acts, where no lever decides."""
        return self.profile.server

    def asks_for_nonces(self, client: Client) -> bool:
        """Whether the authorization server wants nonces of this client, where it has nonces."""
        return self.behaviour.nonces_for == "all" or not client.confidential

    def url(self, path: str) -> str:
        """Return the absolute URL of a path."""
        return self.origin + path

    def refuse_by_lever(self, role: Role, request: Request, gate: Gate) -> None:
        """Refuse valid credentials, if a lever says so.

        :raises InvalidProof: a lever says so; the error is the lever's.
        """
        planned = self.levers.incidents.take_refusal(role, request.path)
        if planned is not None:
            nonce = gate.fresh_nonce() if planned.with_nonce else None
            raise InvalidProof(planned.error, "lever", "refused because a lever of this server says so", nonce=nonce)


def refused_as(error: InvalidProof, code: str) -> InvalidProof:
    """Return the same refusal with another error code."""
    return InvalidProof(
        code,
        error.reason,
        error.detail,
        expected=error.expected,
        got=error.got,
        nonce=error.nonce,
        parameters=error.parameters,
    )


def is_thumbprint(text: str) -> bool:
    """Whether the value looks like an RFC 7638 SHA-256 thumbprint."""
    return _THUMBPRINT.match(text) is not None


def granted(asked: str, allowed: str | None) -> str:
    """Return the requested scopes that are allowed, in the requested order; all of them if there is no limit."""
    if allowed is None:
        return asked
    allowed_scopes = allowed.split()
    return " ".join(scope for scope in asked.split() if scope in allowed_scopes)
