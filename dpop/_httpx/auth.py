# SPDX-License-Identifier: Apache-2.0
"""``auth=`` of httpx and httpx2: whose request it is, for the transport that signs it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from dpop.client._prover import Prover
from dpop.client._request import AccessToken, RequestCredentials, check_token_setting
from dpop.errors import UsageError

__all__ = ["AuthShell"]

# Requests of either library. Any, because the two share no base class.
_Any = Any


class AuthShell:
    """``auth=`` for one request: its own prover and token; mixed into the library's ``Auth``.

    :param prover: whose proofs; a bare key will do.
    :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.

    It only marks the request: a DPoP transport signs it, on every hop within its origins.
    """

    def __init__(self, prover: _Any, access_token: AccessToken | None = None) -> None:
        check_token_setting(access_token)
        self._prover = Prover.of(prover)
        self._access_token = access_token

    def __repr__(self) -> str:
        return f"<DPoPAuth {self._prover.thumbprint}>"

    def auth_flow(self, request: _Any) -> Generator[_Any, _Any, None]:
        """Mark the request; complain if no DPoP transport took notice."""
        credentials = RequestCredentials(self._prover, self._access_token)
        request.extensions = {**request.extensions, "dpop": credentials}
        yield request
        if not credentials.seen:
            raise UsageError(
                f"the request to {request.url.host} was sent without a proof: DPoPAuth needs a client whose transport"
                " is a DPoPTransport, such as Client(transport=DPoPTransport(key, origins=…))"
            )
