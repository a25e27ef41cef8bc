# SPDX-License-Identifier: Apache-2.0
"""Who may use an API, and what is answered to the others (RFC 9449 §7, §9), without I/O.

The doors :mod:`dpop.asgi` and :mod:`dpop.wsgi` bring requests here and carry the answers away.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs

from dpop.encoding import check_access_token
from dpop.errors import (
    CredentialError,
    InsecureOriginError,
    InvalidProof,
    InvalidTargetError,
    ReplayCacheError,
    UsageError,
)
from dpop.htu import canonical
from dpop.origin import Origin, split_url
from dpop.server._challenge import resource_challenge
from dpop.server._jws import Headers, header_fields
from dpop.server._reasons import Reason, refuse
from dpop.server._verifier import CheckedProof, ProofVerifier, VerifiedProof

__all__ = [
    "Access",
    "Credentials",
    "ProtectedResource",
    "ResourceRequest",
    "Response",
    "TokenLookup",
    "bound_thumbprint",
    "is_bound",
    "read_credentials",
]

_SCHEMES: Mapping[str, Literal["DPoP", "Bearer"]] = {"dpop": "DPoP", "bearer": "Bearer"}


class Credentials(NamedTuple):
    """An access token, not looked at yet, and the scheme it came with."""

    scheme: Literal["DPoP", "Bearer"]
    token: str

    def __repr__(self) -> str:
        return f"<Credentials {self.scheme}>"


def read_scheme(headers: Headers) -> Literal["DPoP", "Bearer", "both"] | None:
    """The scheme a client tried, for the challenge; ``"both"`` if it sent more than one Authorization field.

    Names match in any case (RFC 9110 §11.1). None if there is no field, or one of a scheme without meaning here.
    """
    fields = header_fields(headers, "authorization")
    if len(fields) > 1:
        return "both"
    scheme = _SCHEMES.get(fields[0].strip(" \t").partition(" ")[0].lower()) if fields else None
    # WSGI servers join two fields with a comma, which no token holds.
    return "both" if scheme is not None and "," in fields[0] else scheme


def read_credentials(headers: Headers, query: str) -> Credentials | None:
    """The one access token of a request, None if it has none (RFC 9449 §7.1, RFC 6750 §2).

    :param query: of the URL, as it came. Forms in bodies are not looked at: a token there is simply none.
    :raises InvalidProof: ``invalid_request`` for more than one Authorization field and for a token in the
        query; ``invalid_token`` if not exactly one token follows the scheme.
    """
    scheme = read_scheme(headers)
    if scheme == "both":
        raise refuse(Reason.AUTHORIZATION_REPEATED, error="invalid_request")
    looks_like_it = "access_token" in query or "%" in query
    if looks_like_it and "access_token" in parse_qs(query, keep_blank_values=True, errors="replace"):
        raise refuse(Reason.TOKEN_OUTSIDE_HEADER, error="invalid_request")
    if scheme is None:
        return None
    (field,) = header_fields(headers, "authorization")
    token = field.strip(" \t").partition(" ")[2].strip(" ")
    try:
        return Credentials(scheme, check_access_token(token))
    except CredentialError:
        raise refuse(Reason.TOKEN_MALFORMED, error="invalid_token") from None


def is_bound(claims: Mapping[str, Any]) -> bool:
    """Whether a token is bound to anything, be it something this server does not know (RFC 7800 §3.1)."""
    return claims.get("cnf") is not None


def bound_thumbprint(claims: Mapping[str, Any]) -> str | None:
    """``cnf.jkt`` of a token's claims or introspection response, None if it is bound to no key (RFC 9449 §6).

    Whether it is a thumbprint is for the verifier to say, which refuses everything else.

    :raises InvalidProof: ``invalid_token``; ``cnf`` is no object, or its ``jkt`` no string.
    """
    confirmation = claims.get("cnf")
    if confirmation is None:
        return None
    if not isinstance(confirmation, Mapping):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error="invalid_token")
    if "jkt" not in confirmation:
        return None
    jkt = confirmation["jkt"]
    if not isinstance(jkt, str):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error="invalid_token")
    return jkt


_log = logging.getLogger("dpop.server")

TokenLookup = Callable[[str], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""Given an access token, its claims or its introspection response, None if it is not good here."""


class ResourceRequest(NamedTuple):
    """A request as a server received it.

    :param target: the request-target as it was on the wire: ``/a%2Fb?q=1``, never decoded.
    :param path: the path as the application sees it, decoded; for ``public`` only.
    :param headers: all fields, those that came twice twice.
    """

    method: str
    target: str
    path: str
    headers: Headers

    def __repr__(self) -> str:
        return f"<ResourceRequest {self.method}>"


class Response(NamedTuple):
    """A response without a body: status and header fields."""

    status: int
    headers: list[tuple[str, str]]


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """A request that was let in: whose token it has, and whose proof.

    :param claims: what the look-up said of the token.
    :param proof: None for a bearer token.
    :param next_nonce: what to send as ``DPoP-Nonce`` with the response, if anything.
    """

    scheme: Literal["DPoP", "Bearer"]
    claims: Mapping[str, Any]
    proof: VerifiedProof | None
    next_nonce: str | None

    def require_scope(self, scope: str) -> None:
        """Raise if the token lacks one of the space-separated scopes (RFC 6750 §3.1).

        :raises InvalidProof: ``insufficient_scope``.
        """
        has = self.claims.get("scope", "")
        granted = has.split() if isinstance(has, str) else has if isinstance(has, list) else []
        if not all(wanted in granted for wanted in scope.split()):
            raise refuse(Reason.SCOPE_MISSING, error="insufficient_scope", parameters={"scope": scope})

    def __repr__(self) -> str:
        return f"<Access {self.scheme}{'' if self.proof is None else f' key {self.proof.jkt}'}>"


class ProtectedResource:
    """Decides about each request to an API. Thread-safe if the verifier and the look-up are.

    :param verifier: of the proofs.
    :param url: what clients know the API by: its origin, ``https://api.example``, and the front of the path if a
        proxy cuts that off, ``https://api.example/v1``. Nothing a request says changes it.
    :param token: looks an access token up: verifies the JWT, or asks the introspection endpoint, and checks
        issuer, audience and expiry. It gets what stood behind the scheme, and returns the claims or the
        response, where ``cnf`` tells the key, and None for a token that is not good here. It may be async
        for the async methods.
    :param bearer: take bearer tokens too, those that are bound to nothing. A token that is bound is never
        taken as a bearer token (RFC 9449 §7.2).
    :param public: whether a path, as the application sees it, needs no token. A route behind it may ask for one
        all the same. Default: all paths need one. A browser's question what it may send (CORS) needs none.
    :param realm: name of the protection space, for the challenge.
    :param metadata: URL of the resource's metadata, for the challenge (RFC 9728 §5.1).
    :param insecure: allow an ``http`` URL of another machine (RFC 9449 §2 wants TLS).
    :raises UsageError: a URL with a query, a fragment or a slash at its end, or of no use; a realm or metadata that
        no header can hold.
    :raises InsecureOriginError: an ``http`` URL of another machine.
    """

    def __init__(
        self,
        verifier: ProofVerifier,
        *,
        url: str,
        token: TokenLookup,
        bearer: bool = False,
        public: Callable[[str], bool] | None = None,
        realm: str | None = None,
        metadata: str | None = None,
        insecure: bool = False,
    ) -> None:
        origin = Origin.of_url(url)
        if url.endswith("/") or canonical(url + "/x") != url + "/x":
            raise UsageError(
                f"url must be the public origin, with the path a proxy cuts off if one does, in lower case and without "
                f"a slash at the end, such as {origin}"
            )
        if origin.scheme != "https" and not origin.is_loopback and not insecure:
            raise InsecureOriginError(f"{origin} is not https: whoever listens reads the tokens; see insecure=")
        self._verifier = verifier
        self._url = url
        self._lookup = token
        self._bearer = bearer
        self._public = public
        self._realm = realm
        self._parameters = {} if metadata is None else {"resource_metadata": metadata}
        # What no header can hold is told now, and not by every request.
        resource_challenge(None, algs=verifier.algs, realm=realm, parameters=self._parameters)

    def __repr__(self) -> str:
        return f"<ProtectedResource {self._url}>"

    @property
    def is_async(self) -> bool:
        """Whether the look-up or a cache of the verifier is async, so that only :meth:`aadmit` can be used."""
        call = getattr(self._lookup, "__call__", None)  # noqa: B004 - an object may have an async one
        is_async = inspect.iscoroutinefunction
        return self._verifier.is_async or is_async(self._lookup) or is_async(call)

    # --- who may come in

    def needs_token(self, request: ResourceRequest) -> bool:
        """Whether a request is to be let in before the application sees it."""
        return not (_is_preflight(request) or (self._public is not None and self._public(request.path)))

    def admit(self, request: ResourceRequest) -> Access:
        """Let a request in.

        :raises InvalidProof: it may not come in; see :meth:`refusal`.
        :raises ReplayCacheError: whether it may cannot be told; see :meth:`refusal`.
        """
        credentials, checked = self._before_lookup(request)
        claims = self._lookup(credentials.token)
        if inspect.isawaitable(claims):
            if inspect.iscoroutine(claims):
                claims.close()
            raise UsageError("the token look-up is async: use aadmit, as dpop.asgi does")
        known = _check_token(credentials, request, claims)
        if checked is None:
            return Access("Bearer", known, None, None)
        return _access(known, checked.accept(bound_jkt=bound_thumbprint(known)))

    async def aadmit(self, request: ResourceRequest) -> Access:
        """As :meth:`admit`, with a look-up and caches that may be awaited."""
        credentials, checked = self._before_lookup(request)
        response = self._lookup(credentials.token)
        claims = await response if inspect.isawaitable(response) else response
        known = _check_token(credentials, request, claims)
        if checked is None:
            return Access("Bearer", known, None, None)
        return _access(known, await checked.aaccept(bound_jkt=bound_thumbprint(known)))

    def _before_lookup(self, request: ResourceRequest) -> tuple[Credentials, CheckedProof | None]:
        """The token, and the proof if it must have one: whoever has no good proof costs no question."""
        target, _, query = request.target.partition("?")
        credentials = read_credentials(request.headers, query)
        if credentials is None:
            raise refuse(Reason.NO_CREDENTIALS, error="invalid_token")
        if credentials.scheme == "Bearer":
            if not self._bearer:
                raise refuse(Reason.BEARER_REFUSED, error="invalid_token")
            return credentials, None
        url = self._url + _path(target)
        checked = self._verifier.check_resource(request.headers, request.method, url, access_token=credentials.token)
        return credentials, checked

    # --- what is answered to the others

    def refusal(
        self, request: ResourceRequest, error: InvalidProof | ReplayCacheError, access: Access | None = None
    ) -> Response:
        """The answer to a request that may not come in (RFC 9449 §7.1, §7.2, §9).

        :param access: if it was let in before, and refused by the application: its nonce goes along.
        """
        if isinstance(error, ReplayCacheError):
            _log.error("a request was refused: %s", error)
            return Response(503, [("Retry-After", "1"), ("Cache-Control", "no-store")])
        fault_of_issuer = error.reason == Reason.TOKEN_BINDING_MALFORMED
        _log.log(logging.WARNING if fault_of_issuer else logging.INFO, "a request was refused: %s", error)
        nothing_tried = error.reason == Reason.NO_CREDENTIALS
        nonce = self._verifier.next_nonce(None) if nothing_tried else None
        status, headers = resource_challenge(
            None if nothing_tried else error,
            algs=self._verifier.algs,
            realm=self._realm,
            bearer=self._bearer,
            tried=read_scheme(request.headers) or "DPoP",
            parameters=self._parameters,
            nonce=nonce if access is None else access.next_nonce,
        )
        return Response(status, headers)


def _is_preflight(request: ResourceRequest) -> bool:
    """Whether a browser asks what it may send, which it does without a token (Fetch Standard, CORS-preflight)."""
    return request.method == "OPTIONS" and all(
        header_fields(request.headers, name) for name in ("origin", "access-control-request-method")
    )


def _check_token(
    credentials: Credentials, request: ResourceRequest, claims: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """The claims of a token that is good here, and that came as it must (RFC 9449 §7.2, RFC 7662 §2.2)."""
    if claims is None or claims.get("active", True) is not True:
        raise refuse(Reason.TOKEN_INACTIVE, error="invalid_token")
    if credentials.scheme == "Bearer":
        if is_bound(claims):
            raise refuse(Reason.BOUND_TOKEN_AS_BEARER, error="invalid_token")
        if header_fields(request.headers, "dpop"):
            raise refuse(Reason.PROOF_WITH_BEARER, error="invalid_request")
    return claims


def _access(claims: Mapping[str, Any], proof: VerifiedProof) -> Access:
    return Access("DPoP", claims, proof, proof.next_nonce)


def _path(target: str) -> str:
    """The path of a request-target, which may be a whole URL (RFC 9112 §3.2.2): whose, says the configuration."""
    # Octets that are no ASCII and fragments have no place here, and no two servers read them alike (RFC 9112 §3.2).
    if target.isascii() and "#" not in target:
        if target.startswith("/"):
            return target
        with contextlib.suppress(InvalidTargetError):
            return split_url(target)[2] or "/"
    raise refuse(Reason.REQUEST_URL_INVALID, because="the request-target is neither a path nor a URL")
