# SPDX-License-Identifier: Apache-2.0
"""The gate in front of an MCP server of the SDK, and the verifier that tells the server what the gate has found."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field

from mcp.server.auth.provider import AccessToken, TokenVerifier

from dpop.asgi import Application, DPoPMiddleware, Receive, Scope, Send, access
from dpop.errors import UsageError
from dpop.server import Access, ProtectedResource
from dpop.server._credentials import read_scheme

__all__ = ["VerifiedAccess", "protect"]


@dataclass(frozen=True, slots=True)
class _Admitted:
    token: str = field(repr=False)
    access: Access = field(repr=False)


_current: ContextVar[_Admitted | None] = ContextVar("dpop_mcp_admitted", default=None)


def protect(app: Application, resource: ProtectedResource, *, required_scopes: Iterable[str] = ()) -> Application:
    """Put the checks of token and proof in front of ``server.streamable_http_app()``.

    The server keeps its own ``auth=AuthSettings(…)``, with ``token_verifier=VerifiedAccess()``.

    :param app: the SDK's application, or another ASGI application that contains it.
    :param resource: decides which requests are admitted. Give it ``authorization_servers=``: the document that it then
        serves (RFC 9728) stands in place of the SDK's, which cannot say that tokens must be bound.
    :param required_scopes: each token must have them. Use these instead of ``AuthSettings.required_scopes``, whose
        refusals name the scheme ``Bearer``.
    :raises UsageError: ``required_scopes`` is one str, whose letters would be taken for scopes.
    """
    if isinstance(required_scopes, str):
        raise UsageError("required_scopes must be a list of scopes, not one str")
    return DPoPMiddleware(_Bridge(app, " ".join(required_scopes)), resource)


class VerifiedAccess(TokenVerifier):
    """The SDK's ``token_verifier=``: accepts the tokens that :func:`protect` has verified with their proofs, no others.

    ``get_access_token()`` in a tool returns what is made here: client, subject, scopes, expiry and all claims.
    """

    async def verify_token(self, token: str) -> AccessToken | None:
        """Describe the token of the request that is being served; None for any other."""
        admitted = _current.get()
        if admitted is None or not hmac.compare_digest(admitted.token.encode(), token.encode()):
            return None
        claims = admitted.access.claims
        clients = [claims[name] for name in ("client_id", "azp") if isinstance(claims.get(name), str)]
        subject, audience, expiry, scope = (claims.get(name) for name in ("sub", "aud", "exp", "scope"))
        audience = audience[0] if isinstance(audience, list) and audience else audience
        scopes = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
        return AccessToken(
            token=token,
            client_id=clients[0] if clients else "",
            scopes=[each for each in scopes if isinstance(each, str)],
            expires_at=int(expiry) if isinstance(expiry, (int, float)) and expiry is not True else None,
            resource=audience if isinstance(audience, str) else None,
            subject=subject if isinstance(subject, str) else None,
            claims=dict(claims),
        )


class _Bridge:
    """Shows the SDK's server an admitted request as one with a bearer token, the only kind that it knows."""

    def __init__(self, app: Application, scope: str) -> None:
        self._app = app
        self._required = scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection (ASGI 3)."""
        # On a public path there may be none, or another scheme: clients authenticate with Basic at a token endpoint.
        if scope["type"] not in {"http", "websocket"} or read_scheme(scope["headers"]) is None:
            await self._app(scope, receive, send)
            return
        admitted = await access(scope)
        if self._required:
            admitted.require_scope(self._required)
        fields = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        token = fields[0].split(None, 1)[1].strip()
        headers = [pair for pair in scope["headers"] if pair[0].lower() != b"authorization"]
        headers.append((b"authorization", b"Bearer " + token))
        before = _current.set(_Admitted(token.decode("latin-1"), admitted))
        try:
            await self._app({**scope, "headers": headers}, receive, send)
        finally:
            _current.reset(before)
