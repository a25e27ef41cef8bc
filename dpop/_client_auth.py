# SPDX-License-Identifier: Apache-2.0
"""Client authentication: none, a secret in the header or the form, a signed assertion, or a certificate.

RFC 6749 §2.3, RFC 7523 §2.2, OpenID Connect Core §9, RFC 8705 §2.
"""

from __future__ import annotations

import copy
import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote_plus

from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_encode
from dpop.errors import ArgumentTypeError, UsageError
from dpop.proof import random_jti, sign

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = [
    "ClientAuth",
    "ClientSecretBasic",
    "ClientSecretPost",
    "PrivateKeyJWT",
    "PublicClient",
    "TLSClientAuth",
    "client_auth_of",
]

_ASSERTION_TYP = "client-authentication+jwt"
_ASSERTION_SECONDS = 60
_JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


class ClientAuth(Protocol):
    """Adds the client's credentials to a request. Its methods are called for every request on the wire."""

    @property
    def client_id(self) -> str:
        """The client's identifier."""
        ...

    @property
    def makes_assertions(self) -> bool:
        """Whether :meth:`parameters` returns an assertion, which may be sent only once."""
        ...

    def parameters(self, audience: str, now: float) -> dict[str, str]:
        """The parameters to add to the form.

        :param audience: the issuer, or the token endpoint if the issuer is unknown.
        :param now: Unix seconds.
        """
        ...

    def headers(self) -> list[tuple[str, str]]:
        """The fields to add to the header."""
        ...


class PublicClient:
    """A public client: its ``client_id`` and nothing else (``none``)."""

    makes_assertions: bool = False

    def __init__(self, client_id: str) -> None:
        self.client_id: str = _checked("client_id", client_id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.client_id}>"

    def parameters(self, audience: str, now: float) -> dict[str, str]:  # noqa: ARG002 - as the protocol has it
        """The parameter ``client_id``."""
        return {"client_id": self.client_id}

    def headers(self) -> list[tuple[str, str]]:
        """No header fields."""
        return []


class ClientSecretPost(PublicClient):
    """A client that sends its secret in the form (``client_secret_post``)."""

    @hide_frames
    def __init__(self, client_id: str, client_secret: str) -> None:
        super().__init__(client_id)
        self._secret = _checked("client_secret", client_secret)

    def parameters(self, audience: str, now: float) -> dict[str, str]:  # noqa: ARG002 - as the protocol has it
        """The parameters ``client_id`` and ``client_secret``."""
        return {"client_id": self.client_id, "client_secret": self._secret}


class ClientSecretBasic(PublicClient):
    """A client that sends its secret in the header, as HTTP Basic (``client_secret_basic``)."""

    @hide_frames
    def __init__(self, client_id: str, client_secret: str) -> None:
        super().__init__(client_id)
        self._secret = _checked("client_secret", client_secret)

    def parameters(self, audience: str, now: float) -> dict[str, str]:  # noqa: ARG002 - as the protocol has it
        """No parameters."""
        return {}

    def headers(self) -> list[tuple[str, str]]:
        """The header field ``Authorization``; identifier and secret are form-encoded first (RFC 6749 §2.3.1)."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self._secret)}"
        return [("Authorization", f"Basic {b64encode(pair.encode('ascii')).decode('ascii')}")]


def secret_of(auth: object) -> bytes | None:
    """The secret that client and server share, in UTF-8; ``None`` if there is none or the class is a user's own."""
    return auth._secret.encode() if isinstance(auth, ClientSecretPost | ClientSecretBasic) else None  # noqa: SLF001


class PrivateKeyJWT(PublicClient):
    """A client that sends a signed assertion, a new one for each request (``private_key_jwt``).

    :param key: the client's own key. It must not be the one that signs the proofs, so that a program which can make
        proofs cannot pose as the client (RFC 7523 §3).
    :param kid: the server's name for the key.
    :param typ: the ``typ`` of the assertion; older servers expect ``JWT``. By default as the server's profile says.
    :param audience: the ``aud`` of the assertion, one or several; by default the issuer.
    :param lifetime: seconds for which an assertion is valid (``exp``); by default as the server's profile
        says.
    :param valid_from: adds ``nbf``, this many seconds after the assertion is made; a negative number for earlier.
        By default as the server's profile says.
    :param claims: further claims, such as ``cnf`` or ``authorization_details``: JSON values. They replace claims of
        the same name, and ``None`` removes a claim; ``jti`` is always fresh.
    :param jti: a function that returns a fresh identifier.
    :raises UsageError: an argument that cannot be used.
    """

    makes_assertions: bool = True

    @hide_frames
    def __init__(
        self,
        client_id: str,
        key: Key,
        *,
        kid: str | None = None,
        typ: str | None = None,
        audience: str | Iterable[str] | None = None,
        lifetime: int | None = None,
        valid_from: int | None = None,
        claims: Mapping[str, Any] | None = None,
        jti: Callable[[], str] = random_jti,
    ) -> None:
        super().__init__(client_id)
        self.key: Key = key
        self._kid = kid
        self._typ = typ
        self._audience = audience if audience is None or isinstance(audience, str) else list(audience)
        self._lifetime = lifetime
        self._valid_from = valid_from
        self._claims = _checked_claims({} if claims is None else claims)
        self._jti = jti

    def following(self, *, typ: str, lifetime: int, nbf: bool = False) -> PrivateKeyJWT:
        """Return a copy that follows the rules of a server, where this one was not told otherwise.

        :param nbf: add a ``nbf``, equal to ``iat``.
        """
        made = copy.copy(self)
        valid_from = 0 if nbf and self._valid_from is None else self._valid_from
        lifetime = lifetime if self._lifetime is None else self._lifetime
        made.__dict__.update(_typ=self._typ or typ, _lifetime=lifetime, _valid_from=valid_from)
        return made

    @hide_frames
    def parameters(self, audience: str, now: float) -> dict[str, str]:
        """The parameters ``client_assertion`` and ``client_assertion_type``."""
        header = {"alg": self.key.alg, "typ": self._typ or _ASSERTION_TYP}
        if self._kid is not None:
            header["kid"] = self._kid
        claims: dict[str, Any] = {
            "iss": self.client_id,
            "sub": self.client_id,
            "aud": self._audience or audience,
            "jti": self._jti(),
            "iat": int(now),
            "exp": int(now) + (_ASSERTION_SECONDS if self._lifetime is None else self._lifetime),
            "nbf": None if self._valid_from is None else int(now) + self._valid_from,
            **self._claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        data = f"{_segment(header)}.{_segment(claims)}".encode("ascii")
        assertion = f"{data.decode('ascii')}.{b64url_encode(sign(self.key, data))}"
        return {"client_id": self.client_id, "client_assertion_type": _JWT_BEARER, "client_assertion": assertion}


class TLSClientAuth(PublicClient):
    """A certificate in the TLS handshake (``tls_client_auth``, ``self_signed_tls_client_auth``; RFC 8705 §2).

    The HTTP library shows the certificate: give the endpoint an ``http=`` that has one, such as a
    :class:`requests.Session` with ``cert``. Requests go to the server's ``mtls_endpoint_aliases``, if it has any (§5).
    """


def client_auth_of(
    client_id: str | None, client_secret: str | None, how: str | ClientAuth | None, listed: tuple[str, ...]
) -> ClientAuth:
    """Choose the client authentication for the arguments of an endpoint.

    :param how: a method's registered name, or an object with the :class:`ClientAuth` protocol; by default what the
        other arguments allow.
    :param listed: the methods that the server's metadata lists; empty if unknown.
    :raises UsageError: the arguments do not fit together.
    """
    if how is not None and not isinstance(how, str):
        if client_secret is not None or client_id not in {None, how.client_id}:
            raise UsageError("client_auth brings its own client_id and secret; leave client_id and client_secret out")
        return how
    if client_id is None:
        raise UsageError("client_id is missing: give the identifier of the registered client, or client_auth=")
    if how is None:
        methods = [m for m in ("client_secret_basic", "client_secret_post") if not listed or m in listed]
        how = "none" if client_secret is None else (methods or ["client_secret_basic"])[0]
    if how in _WITHOUT_SECRET:
        if client_secret is not None:
            raise UsageError(f'client_auth is "{how}", but a client_secret was given; leave one of them out')
        return _WITHOUT_SECRET[how](client_id)
    methods_with_secret = {"client_secret_basic": ClientSecretBasic, "client_secret_post": ClientSecretPost}
    if how not in methods_with_secret:
        raise UsageError(
            "client_auth must be none, client_secret_basic, client_secret_post, tls_client_auth,"
            f" self_signed_tls_client_auth or a PrivateKeyJWT, not {how!r:.60}"
        )
    if client_secret is None:
        raise UsageError(f"client_auth is {how}, and the client_secret is missing")
    return methods_with_secret[how](client_id, client_secret)


_WITHOUT_SECRET: Final[Mapping[str, type[PublicClient]]] = {
    "none": PublicClient,
    "tls_client_auth": TLSClientAuth,
    "self_signed_tls_client_auth": TLSClientAuth,
}


def _checked(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise UsageError(f"{name} must be a str of printable characters and not empty")
    return value


def _checked_claims(claims: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(claims, Mapping):
        raise ArgumentTypeError("claims", "a mapping of names to JSON values", claims)
    if "jti" in claims:
        raise UsageError("claims cannot set jti: each assertion has a fresh one; jti= takes a function that makes it")
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(claims), allow_nan=False))
    except (TypeError, ValueError):
        raise UsageError("claims must hold JSON values only") from None
    return copy


def _segment(members: dict[str, Any]) -> str:
    return b64url_encode(json.dumps(members, separators=(",", ":")).encode("ascii"))
