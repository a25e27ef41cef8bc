# SPDX-License-Identifier: Apache-2.0
"""Decide whether a request may use an API, and how to refuse it (RFC 9449 §7, §9), without I/O.

The integrations :mod:`dpop.asgi` and :mod:`dpop.wsgi` describe requests to it and send its responses.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple, NoReturn

from dpop._event_hooks import checked_hook
from dpop._tracebacks import hide_frames
from dpop._well_known import resource_metadata_url
from dpop.encoding import b64url_encode
from dpop.errors import (
    ArgumentTypeError,
    InsecureOriginError,
    InvalidProof,
    InvalidTargetError,
    LookupUnavailableError,
    UsageError,
)
from dpop.htu import MAX_HTU, canonical, unescape
from dpop.origin import Origin, split_url
from dpop.server._challenge import nonce_field, resource_challenge
from dpop.server._credentials import (
    MAPPINGS,
    MAX_QUERY,
    Credentials,
    bound_thumbprint,
    is_bound,
    read_credentials,
    read_scheme,
)
from dpop.server._events import Event, EventHook, client_of, emit
from dpop.server._jws import Headers, header_fields
from dpop.server._reasons import Reason, refuse
from dpop.server._unhandled import REFUSALS, Refusal
from dpop.server._verifier import CheckedProof, ProofVerifier, VerifiedProof

__all__ = [
    "Access",
    "ProtectedResource",
    "ResourceRequest",
    "Response",
    "TokenLookup",
    "body_fields",
]

_log = logging.getLogger("dpop.server")
# A sentence. One of an application could have any length, and the refusals sent last are remembered.
_MAX_DETAIL = 1000

TokenLookup = Callable[[str], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""From an access token to its claims or introspection response; None if the token is not valid here.

In async code an object with an async method ``acall`` is asked by that; :class:`dpop.server.JWTAccessTokens` has one.
"""


class ResourceRequest(NamedTuple):
    """A request as a server received it.

    :param target: the request-target as it was on the wire: ``/a%2Fb?q=1``, never decoded.
    :param path: the decoded path as the routes of the application see it.
    :param headers: all fields; a field that was sent twice must be here twice.
    :param root_path: the decoded path under which the application is mounted, ``root_path`` of ASGI or
        ``SCRIPT_NAME`` of WSGI, without a final slash. It is not part of ``path``.
    :param context: the scope of ASGI or the environ of WSGI, for functions of the user.
    """

    method: str
    target: str
    path: str
    headers: Headers
    root_path: str = ""
    context: Any = None

    def __repr__(self) -> str:
        return f"<ResourceRequest {self.method}>"


class _StatusAndHeaders(NamedTuple):
    status: int
    headers: list[tuple[str, str]]

    def __repr__(self) -> str:
        return f"<Response {self.status}>"  # the header fields hold a nonce


class Response(_StatusAndHeaders):
    """A response: it unpacks into status and header fields, and has a small JSON body besides (RFC 6750 §3).

    :param body: JSON, which may be sent as ``application/json``, or nothing.
    """

    body: bytes

    def __new__(cls, status: int, headers: list[tuple[str, str]], body: bytes = b"") -> Response:  # noqa: PYI034
        """Make one."""
        made = super().__new__(cls, status, headers)
        made.body = body
        return made


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """The access granted to a request.

    :param scheme: the scheme of its token.
    :param claims: the claims of its token, or the introspection response, from the look-up.
    :param proof: its proof; None for a bearer token.
    :param next_nonce: the value to send as ``DPoP-Nonce`` with the response; None if the client needs no new nonce.
    :param on_refusal: called with each error that :meth:`require_scope` and :meth:`require_auth` raise, for an
        integration.
    :param clock: returns Unix seconds.
    """

    scheme: Literal["DPoP", "Bearer"]
    claims: Mapping[str, Any]
    proof: VerifiedProof | None
    next_nonce: str | None
    on_refusal: Callable[[InvalidProof], object] | None = field(default=None, compare=False)
    clock: Callable[[], float] = field(default=time.time, compare=False)

    def require_scope(self, scope: str) -> None:
        """Raise an error if the token lacks one of the space-separated scopes (RFC 6750 §3.1).

        :raises InvalidProof: ``insufficient_scope``.
        """
        has = self.claims.get("scope", "")
        granted = has.split() if isinstance(has, str) else has if isinstance(has, list) else []
        if not all(wanted in granted for wanted in scope.split()):
            self._refuse(refuse(Reason.SCOPE_MISSING, error="insufficient_scope", parameters={"scope": scope}))

    def require_auth(self, *, acr: str | Iterable[str] = (), max_age: float | None = None) -> None:
        """Raise an error unless the user authenticated strongly and recently enough (RFC 9470 §3).

        :param acr: authentication context classes of which the token's ``acr`` must be one, space-separated or a list.
        :param max_age: seconds since the ``auth_time`` of the token, at most.
        :raises InvalidProof: ``insufficient_user_authentication``: the challenge says what is needed.
        """
        wanted = acr.split() if isinstance(acr, str) else list(acr)
        parameters = {"acr_values": " ".join(wanted)} if wanted else {}
        because = None
        if wanted and self.claims.get("acr") not in wanted:
            because = "its acr is none of those that are needed here"
        if max_age is not None:
            parameters["max_age"] = f"{max_age:.0f}"
            then = self.claims.get("auth_time")
            # A look-up of the operator's own may give NaN, with which each comparison is false.
            recent = isinstance(then, int | float) and not isinstance(then, bool) and self.clock() - then <= max_age
            if not recent:
                because = because or "its auth_time is missing or too long ago"
        if because is not None:
            error = "insufficient_user_authentication"
            self._refuse(
                refuse(Reason.AUTHENTICATION_INSUFFICIENT, error=error, because=because, parameters=parameters)
            )

    def _refuse(self, error: InvalidProof) -> NoReturn:
        if self.on_refusal is not None:
            self.on_refusal(error)
        raise error

    def __repr__(self) -> str:
        return f"<Access {self.scheme}{'' if self.proof is None else f' key {self.proof.jkt}'}>"


class ProtectedResource:
    """Decides about each request to an API. Thread-safe if the verifier and the look-up are.

    :param verifier: verifies the proofs.
    :param url: the URL under which clients know the API: its origin, ``https://api.example``, with the start of the
        path if a proxy removes that, ``https://api.example/v1``. No request can change it.
    :param token: looks up an access token: :class:`dpop.server.JWTAccessTokens`, or a function that
        checks issuer, audience and expiry. It gets the text after the scheme. It returns the claims or the
        introspection response, whose ``cnf`` names the key, or None for a token that is not valid here. It may be
        async; then only the async methods can be used. An error that it raises becomes a 503 and not a 401; raise
        :class:`dpop.errors.LookupUnavailableError` if it cannot tell now.
    :param bearer: accept bearer tokens too, if they are bound to no key. A bound token is never accepted as a
        bearer token (RFC 9449 §7.2).
    :param public: returns True for a path, as the application sees it, that needs no token. A route there may
        still ask for one. Default: all paths need one. CORS preflight requests never need one.
    :param realm: name of the protection space, for the challenge.
    :param metadata: URL of the resource's metadata, for the challenge (RFC 9728 §5.1), if somebody else serves it.
    :param authorization_servers: issuers whose tokens are accepted. If given, the integration serves the metadata of
        this resource (RFC 9728) at its well-known place, to everybody, and challenges name that place.
    :param published: more members of that document, such as ``{"scopes_supported": ["read"]}``.
    :param certificate: returns the DER of the certificate that a request came with over mutual TLS; None for none. It
        gets the :class:`ResourceRequest`, whose ``context`` is that of the server. Needed for tokens that are bound to
        a certificate besides the key (``x5t#S256``, RFC 8705 §3.1), which are refused otherwise: no header is believed.
    :param events: gets an :class:`Event` for each request.
    :param insecure: allow an ``http`` URL of another machine (RFC 9449 §2 requires TLS).
    :raises UsageError: a URL with a query, a fragment or a final slash, or that is not canonical; a realm or
        metadata URL that no header can hold; ``token``, ``public`` or ``certificate`` is not a function.
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
        authorization_servers: Iterable[str] = (),
        published: Mapping[str, Any] | None = None,
        certificate: Callable[[ResourceRequest], bytes | None] | None = None,
        events: EventHook | None = None,
        insecure: bool = False,
    ) -> None:
        origin = Origin.of_url(url)
        if url.endswith("/") or canonical(url + "/x") != url + "/x":
            raise UsageError(
                f"url must be the public origin, plus the start of the path if a proxy removes that, in canonical form "
                f"and without a final slash, such as {origin}"
            )
        if origin.scheme != "https" and not origin.is_loopback and not insecure:
            raise InsecureOriginError(
                f"{origin} is not https: anybody on the network could read the tokens; see insecure="
            )
        if not isinstance(verifier, ProofVerifier):
            raise ArgumentTypeError("verifier", "a ProofVerifier", verifier)
        functions = {"token": token, "public": public, "certificate": certificate}
        for name, function in functions.items():
            if function is not None and not callable(function):
                raise ArgumentTypeError(name, "a function", function)
        self._verifier = verifier
        self._origin = str(origin)
        self._prefix = url.removeprefix(self._origin)
        self._decoded_prefix = unescape(self._prefix)
        self._lookup = token
        # An object that can look up without blocking an event loop says so with this method.
        self._alookup: TokenLookup = getattr(token, "acall", token)
        self._bearer = bearer
        self._public = public
        self._realm = realm
        self._certificate = certificate
        self._events = checked_hook(events)
        if isinstance(authorization_servers, str):
            raise UsageError("authorization_servers must be a list of issuers, not one str")
        servers = list(authorization_servers)
        if (servers and metadata is not None) or (published is not None and not servers):
            raise UsageError(
                "give authorization_servers= (and published=) for a document that is served here, or metadata=, the URL"
                " of one that somebody else serves"
            )
        self._metadata = self._document(url, servers, published or {}) if servers else None
        self._metadata_url = resource_metadata_url(url) if servers else metadata
        self._parameters = {} if self._metadata_url is None else {"resource_metadata": self._metadata_url}
        # A server says the same few things again and again, and anybody can make it say them.
        self._response = lru_cache(maxsize=256)(self._make_response)
        # Raises an error now, and not at each request, if a value cannot stand in a header.
        self._response("DPoP", "", "")

    def __repr__(self) -> str:
        return f"<ProtectedResource {self._origin}{self._prefix}>"

    @property
    def is_async(self) -> bool:
        """Whether the look-up or a cache of the verifier is async; only :meth:`aadmit` works then."""
        call = getattr(self._lookup, "__call__", None)  # noqa: B004 - an object may have an async one
        is_async = inspect.iscoroutinefunction
        return self._verifier.is_async or is_async(self._lookup) or is_async(call)

    def _document(self, url: str, servers: list[str], published: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **published,
            "resource": url,
            "authorization_servers": servers,
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": list(self._verifier.algs),
            "dpop_bound_access_tokens_required": not self._bearer,
        }

    def metadata(self) -> dict[str, Any]:
        """The metadata document of this resource (RFC 9728 §2).

        :raises UsageError: ``authorization_servers`` was not given.
        """
        if self._metadata is None:
            raise UsageError("authorization_servers= was not given, so there is no metadata to publish")
        return json.loads(json.dumps(self._metadata))  # type: ignore[no-any-return]

    def publication(self, request: ResourceRequest) -> Response | None:
        """The metadata, if the request asks for that; None for any other. Integrations ask this first (RFC 9728 §3)."""
        if self._metadata is None or request.method not in {"GET", "HEAD"} or "/.well-known/" not in request.path:
            return None
        places = {self._origin + request.path, self._origin + request.root_path + request.path}
        if self._metadata_url not in places:
            return None
        headers = [("Cache-Control", "max-age=3600"), ("Access-Control-Allow-Origin", "*")]
        return Response(200, headers, json.dumps(self._metadata).encode())

    def needs_token(self, request: ResourceRequest) -> bool:
        """Whether the request must be admitted before the application gets it.

        :raises InvalidProof: ``invalid_request``: the request-target has dot segments, or the application reads it
            differently than a proof would. No rule about paths can be trusted then.
        """
        _read_path(request)
        return not (_is_preflight(request) or (self._public is not None and self._public(request.path)))

    @hide_frames
    def admit(self, request: ResourceRequest) -> Access:
        """Admit a request: check its token and its proof, and record the proof as used.

        :raises InvalidProof: the request is refused; see :meth:`refusal`.
        :raises ReplayCacheError: the cache cannot tell whether the proof is a replay; see :meth:`refusal`.
        :raises LookupUnavailableError: the look-up cannot tell whether the token is valid, raised something, or
            returned neither a mapping nor None; see :meth:`refusal`.
        """
        credentials, checked = self._before_lookup(request)
        try:
            claims = self._lookup(credentials.token)
        except REFUSALS:
            raise
        except Exception as error:
            raise _outage(error) from error
        if type(claims) is not dict and inspect.isawaitable(claims):  # it takes longer than a look-up may
            if inspect.iscoroutine(claims):
                claims.close()
            raise UsageError("the token look-up is async: call aadmit, as dpop.asgi does")
        known = self._check_token(credentials, request, claims)
        if checked is None:
            return self._accepted(known, None)
        return self._accepted(known, checked._accept(bound_thumbprint(known)))  # noqa: SLF001 - without a second hide_frames

    @hide_frames
    async def aadmit(self, request: ResourceRequest) -> Access:
        """Async form of :meth:`admit`; the look-up and the caches may be sync or async."""
        credentials, checked = self._before_lookup(request)
        try:
            claims = self._alookup(credentials.token)
            if type(claims) is not dict and inspect.isawaitable(claims):
                claims = await claims
        except REFUSALS:
            raise
        except Exception as error:
            raise _outage(error) from error
        known = self._check_token(credentials, request, claims)
        if checked is None:
            return self._accepted(known, None)
        return self._accepted(known, await checked._aaccept(bound_thumbprint(known)))  # noqa: SLF001 - as above

    def _check_token(
        self, credentials: Credentials, request: ResourceRequest, claims: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        known = _check_token(credentials, request, claims)
        confirmation = known.get("cnf")
        if isinstance(confirmation, MAPPINGS) and "x5t#S256" in confirmation:
            self._check_certificate(confirmation["x5t#S256"], request)
        return known

    def _check_certificate(self, wanted: object, request: ResourceRequest) -> None:
        """Check that a request came with the certificate to which its token is bound (RFC 8705 §3)."""
        because = "this API has no function certificate= that tells"
        if self._certificate is not None:
            der = self._certificate_of(request, self._certificate)
            if der is not None and b64url_encode(hashlib.sha256(der).digest()) == wanted:
                return
            because = "it came with none" if der is None else "it came with another one"
        raise refuse(Reason.CERTIFICATE_MISMATCH, error="invalid_token", because=because)

    @staticmethod
    def _certificate_of(request: ResourceRequest, ask: Callable[[ResourceRequest], object]) -> bytes | None:
        """The certificate of a request, from the user's function, whose faults say nothing about the token."""
        try:
            der = ask(request)
        except REFUSALS:
            raise
        except Exception as error:
            _log.debug("the function certificate= failed", exc_info=True)
            raise LookupUnavailableError(f"the function certificate= raised {type(error).__name__}") from error
        if der is not None and not isinstance(der, bytes):
            raise LookupUnavailableError(
                f"the function certificate= must return the certificate in DER, as bytes, or None, not"
                f" {type(der).__name__}; ssl.PEM_cert_to_DER_cert converts PEM"
            )
        return der

    def _accepted(self, claims: Mapping[str, Any], proof: VerifiedProof | None) -> Access:
        scheme: Literal["DPoP", "Bearer"] = "Bearer" if proof is None else "DPoP"
        if self._events is not None:
            emit(self._events, Event("accepted", scheme=scheme, client=client_of(claims)))
        return Access(scheme, claims, proof, None if proof is None else proof.next_nonce)

    def _before_lookup(self, request: ResourceRequest) -> tuple[Credentials, CheckedProof | None]:
        """Read the token and check its proof before the look-up, which may cost more than both."""
        start = request.target[: MAX_HTU + 1 + MAX_QUERY]  # the target may be very long, and is not copied
        credentials = read_credentials(request.headers, start.partition("?")[2])
        if credentials is None:
            raise refuse(Reason.NO_CREDENTIALS, error="invalid_token")
        path, decoded = _read_path(request)
        if credentials.scheme == "Bearer":
            if not self._bearer:
                raise refuse(Reason.BEARER_REFUSED, error="invalid_token")
            return credentials, None
        url = self._url(request, path, decoded)
        # Without hide_frames, which each public method has once.
        checked = self._verifier._check_resource(request.headers, request.method, url, credentials.token)  # noqa: SLF001
        return credentials, checked

    def _url(self, request: ResourceRequest, path: str, decoded: str) -> str:
        """The URL of the request as its client knows it.

        The prefix that a proxy removes is put in front, unless a server that was told of it as its root path has
        done that already.
        """
        if not path.isascii() or "#" in path:  # servers read these differently (RFC 9112 §3.2)
            raise _bad_target("it has characters that no request-target may have")
        root, prefix = request.root_path, self._decoded_prefix
        is_told = prefix != "" and (root == prefix or root.startswith(f"{prefix}/"))
        has_prefix = is_told and decoded == root + request.path
        return self._origin + path if has_prefix else self._origin + self._prefix + path

    def refusal(self, request: ResourceRequest, error: Refusal, access: Access | None = None) -> Response:
        """The response to a request that is refused (RFC 9449 §7.1, §7.2, §9).

        :param access: the access of a request that was admitted and then refused by the application; the response
            carries its next nonce.
        """
        if not isinstance(error, InvalidProof):
            _log.error("a request was refused: %s", error)
            if self._events is not None:
                emit(self._events, Event("unavailable", error.code))
            retry_after = max(1, math.ceil(error.retry_after or 0))
            headers = [("Retry-After", str(retry_after)), ("Cache-Control", "no-store")]
            return Response(503, headers, _error_body("temporarily_unavailable", "try again later"))
        fault_of_issuer = error.reason == Reason.TOKEN_BINDING_MALFORMED
        _log.log(logging.WARNING if fault_of_issuer else logging.INFO, "a request was refused: %s", error)
        nothing_tried = error.reason == Reason.NO_CREDENTIALS
        asked = nothing_tried or error.error == "use_dpop_nonce"
        if self._events is not None:
            emit(self._events, Event("challenged" if asked else "refused", error.reason[:64]))
        # Without credentials there is no error to name (RFC 6750 §3.1).
        told = ("", "") if nothing_tried else (error.error, error.detail[:_MAX_DETAIL])
        tried = read_scheme(request.headers) or "DPoP"
        response = self._response(tried, *told, *error.parameters.items())
        nonce = error.nonce
        if nonce is None and access is not None:
            nonce = access.next_nonce
        elif nothing_tried:
            nonce = self._verifier.next_nonce(None)
        return Response(response.status, [*response.headers, *nonce_field(nonce)], response.body)

    def _make_response(
        self, tried: Literal["DPoP", "Bearer", "both"], error: str, detail: str, *parameters: tuple[str, str]
    ) -> Response:
        """A refusal without its nonce. If ``error`` is empty, it names no error."""
        status, headers = resource_challenge(
            InvalidProof(error, "", detail, parameters=dict(parameters)) if error else None,
            algs=self._verifier.algs,
            realm=self._realm,
            bearer=self._bearer,
            tried=tried,
            parameters=self._parameters,
        )
        return Response(status, headers, _error_body(error, detail, dict(parameters)) if error else b"")


def body_fields(body: bytes) -> list[tuple[str, str]]:
    """The header fields for the body of a :class:`Response`; none if it is empty."""
    return [("Content-Type", "application/json"), ("Content-Length", str(len(body)))] if body else []


def _error_body(error: str, description: str, more: Mapping[str, str] | None = None) -> bytes:
    return json.dumps({"error": error, "error_description": description, **(more or {})}).encode()


def _outage(error: Exception) -> LookupUnavailableError:
    """Return the error to raise for an error of the look-up, which says nothing about the token."""
    _log.debug("the token look-up failed", exc_info=True)
    return LookupUnavailableError(f"the token look-up raised {type(error).__name__}")


def _is_preflight(request: ResourceRequest) -> bool:
    """Whether the request is a CORS preflight, which browsers send without a token (Fetch Standard)."""
    return request.method == "OPTIONS" and all(
        header_fields(request.headers, name) for name in ("origin", "access-control-request-method")
    )


def _check_token(
    credentials: Credentials, request: ResourceRequest, claims: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Check that the token is active and was sent under the right scheme (RFC 9449 §7.2, RFC 7662 §2.2)."""
    if claims is not None and not isinstance(claims, MAPPINGS):
        raise LookupUnavailableError(
            f"the token look-up must return a mapping of claims, or None for a token that is not valid here, "
            f"not {type(claims).__name__}"
        )
    if claims is None or claims.get("active", True) is not True:
        raise refuse(Reason.TOKEN_INACTIVE, error="invalid_token")
    if credentials.scheme == "Bearer":
        if is_bound(claims):
            raise refuse(Reason.BOUND_TOKEN_AS_BEARER, error="invalid_token")
        if header_fields(request.headers, "dpop"):
            raise refuse(Reason.PROOF_WITH_BEARER, error="invalid_request")
    return claims


# A backslash separates segments on Windows, and so does an encoded slash once it is decoded.
_DOT_SEGMENT = re.compile(r"[/\\]\.{1,2}(?![^/\\])")


def _read_path(request: ResourceRequest) -> tuple[str, str]:
    """The path of the request-target, undecoded and decoded; of a whole URL (RFC 9112 §3.2.2) the origin is dropped.

    :raises InvalidProof: ``invalid_request``: the path has dot segments, which a proof's URL resolves and an
        application need not; or it is another than the application's, so that a proof for one would open the other.
    """
    path = request.target[: MAX_HTU + 1].partition("?")[0]
    if len(path) > MAX_HTU:
        raise _bad_target(f"it has more than {MAX_HTU} characters without its query")
    return _read_paths(path, request.root_path, request.path)


@lru_cache(maxsize=64)  # a path is read twice: before the rules about paths, and for the proof
def _read_paths(path: str, root_path: str, seen: str) -> tuple[str, str]:
    try:
        if not path.startswith("/"):
            path = split_url(path)[2] or "/"
        decoded = unescape(path)
    except InvalidTargetError as error:
        raise _bad_target(str(error)) from None
    if "." in decoded and _DOT_SEGMENT.search(decoded):
        raise _bad_target("it has a dot segment; send the path that it means")
    # A server may or may not put its root path in front of either, and a mounted application sees the end.
    if not ((root_path + seen).endswith(decoded) and decoded.endswith(seen)):
        raise _bad_target("the server and the application read different paths in it")
    return path, decoded


def _bad_target(because: str) -> InvalidProof:
    return refuse(Reason.REQUEST_URL_INVALID, error="invalid_request", because=because)
