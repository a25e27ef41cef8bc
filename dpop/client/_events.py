# SPDX-License-Identifier: Apache-2.0
"""Events for operators of clients: proofs, nonces, retries, refused tokens and refreshes, without secrets."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

from dpop._event_hooks import call_hook
from dpop._late_logging import late_logger
from dpop.client._nonces import Role
from dpop.errors import DPoPError
from dpop.origin import Origin

__all__ = ["ClientEvent", "emit", "timed"]

_log = late_logger("dpop.client")


class ClientEvent(NamedTuple):
    """Something that happened to a client's request; see ``events`` of :class:`dpop.Prover`.

    :param kind: ``proof``: the key signed one. ``nonce``: a response gave a nonce that its request had not carried.
        ``retried``: the server refused the proof, and the request is sent again with another. ``refused``: it refused
        the proof, and the caller gets the response. ``token_refused``: it refused the access token. ``clock``: the
        difference of its clock was learnt. ``refreshed``: a refresh token was used.
    :param origin: the server, such as ``https://api.example``.
    :param role: ``AS`` or ``RS``: whether it got a token request, or one with an access token.
    :param reason: of ``retried`` and ``refused`` the server's error; of ``token_refused`` ``sent_again`` or
        ``returned``; of a ``proof`` or ``refreshed`` that failed the error's ``code``, ``interrupted`` or ``other``.
    :param seconds: how long a ``proof`` or ``refreshed`` took; of ``clock``, how far the server's clock is ahead.
    """

    kind: Literal["proof", "nonce", "retried", "refused", "token_refused", "clock", "refreshed"]
    origin: str
    role: Role
    reason: str | None = None
    seconds: float | None = None


def emit(hook: Callable[[ClientEvent], object] | None, event: ClientEvent) -> None:
    """Give an event to a hook. An error in the hook is no reason to fail a request."""
    call_hook(hook, event, _log)


@contextmanager
def timed(
    hook: Callable[[ClientEvent], object] | None, kind: Literal["proof", "refreshed"], origin: Origin, role: Role
) -> Iterator[None]:
    """Emit an event for what is done inside, with its duration and the error that ended it."""
    began, reason = time.monotonic(), "interrupted"
    try:
        yield
    except DPoPError as error:
        reason = error.code
        raise
    except Exception:
        reason = "other"
        raise
    else:
        reason = ""
    finally:
        emit(hook, ClientEvent(kind, str(origin), role, reason or None, time.monotonic() - began))
