# SPDX-License-Identifier: Apache-2.0
"""The clients the test server knows, and how they authenticate (RFC 6749 §2.3)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

from dpop.errors import InvalidProof
from dpop.keys import PublicKey
from dpop.server._jws import parse_compact
from dpop.testing._messages import Request

__all__ = ["AssertionRules", "Client", "Clients"]

_MAX_ASSERTION = 8192


@dataclass(frozen=True, slots=True, repr=False)
class Client:
    """A registered client; without a secret it is a public client."""

    client_id: str
    client_secret: str | None = None
    key: PublicKey | None = None

    @property
    def confidential(self) -> bool:
        """Whether the client can authenticate."""
        return self.client_secret is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class AssertionRules:
    """The client assertions that a server accepts (RFC 7523 §3).

    :param audiences: one of these must be the ``aud``.
    :param types: one of these must be the ``typ``; ``None`` among them: it may be missing.
    :param longest: seconds from ``iat`` to ``exp``, at most.
    """

    audiences: frozenset[str]
    types: frozenset[str | None]
    longest: int
    clock: Callable[[], float]


class Clients:
    """The registry: authenticates by a secret, by an assertion if a client has a key, or not at all.

    :param rules: the assertions that are accepted.
    """

    def __init__(self, *clients: Client, rules: AssertionRules | None = None) -> None:
        self._clients = {client.client_id: client for client in clients}
        self._rules = rules
        self._used: set[str] = set()

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods of authentication (RFC 8414 §2)."""
        by_key = any(client.key is not None for client in self._clients.values())
        public = any(not client.confidential for client in self._clients.values())
        methods = ["client_secret_basic", "client_secret_post"]
        return (*methods, *(["private_key_jwt"] if by_key else []), *(["none"] if public else []))

    def find(self, client_id: str | None) -> Client:
        """Return the client with this identifier.

        :raises InvalidProof: ``invalid_client``: there is no such client.
        """
        client = self._clients.get(client_id or "")
        if client is None:
            raise InvalidProof("invalid_client", "client_unknown", "no client of that client_id is registered")
        return client

    def authenticate(self, request: Request, form: Mapping[str, str]) -> Client:
        """Authenticate the client that sent the request.

        :raises InvalidProof: ``invalid_client``, or ``invalid_request`` for two methods at once.
        """
        if "client_assertion" in form:
            return self._by_assertion(form)
        basic = request.fields("Authorization")
        if not basic:
            client = self.find(form.get("client_id"))
            secret = form.get("client_secret")
        else:
            if "client_secret" in form or len(basic) > 1:
                raise InvalidProof(
                    "invalid_request",
                    "client_authentication_repeated",
                    "the client authenticated in more than one way; use one",
                )
            name, secret = _basic(basic[0])
            client = self.find(name)
            if form.get("client_id", name) != name:
                raise InvalidProof(
                    "invalid_request", "client_id_mismatch", "the form names another client than the header"
                )
        expected = client.client_secret
        if expected is None:
            if secret:
                raise InvalidProof("invalid_client", "client_is_public", "this client has no secret; send none")
        elif secret is None:
            raise InvalidProof("invalid_client", "client_secret_missing", "this client must send its client_secret")
        elif not hmac.compare_digest(secret.encode(), expected.encode()):
            raise InvalidProof("invalid_client", "client_secret_wrong", "the client_secret is wrong")
        return client

    def _by_assertion(self, form: Mapping[str, str]) -> Client:
        """Authenticate by ``private_key_jwt`` (RFC 7523 §2.2, OpenID Connect Core §9)."""
        if form.get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer":
            raise _bad_assertion("client_assertion_type is not that of a JWT")
        jws = parse_compact(form["client_assertion"], max_length=_MAX_ASSERTION, max_depth=8)
        claims = jws.payload
        client = self.find(str(claims.get("sub")))
        rules, key = self._rules, client.key
        alg = str(jws.header.members.get("alg"))
        if key is None or rules is None:
            raise _bad_assertion("this client has no key; start the server with client_key")
        if alg not in key.algs or not key.verify(alg, jws.signing_input, jws.signature):
            raise _bad_assertion("the signature is not by this client's key")
        issued_at, expires_at, identifier = claims.get("iat"), claims.get("exp"), claims.get("jti")
        if claims.get("iss") != client.client_id or form.get("client_id", client.client_id) != client.client_id:
            raise _bad_assertion("iss, sub and client_id must be the client")
        if not isinstance(claims.get("aud"), str) or claims["aud"] not in rules.audiences:
            raise _bad_assertion(f"aud must be {' or '.join(sorted(rules.audiences))}")
        if jws.header.members.get("typ") not in rules.types:
            raise _bad_assertion(f"typ must be {' or '.join(sorted(filter(None, rules.types)))}")
        if not isinstance(issued_at, int) or not isinstance(expires_at, int) or expires_at <= rules.clock():
            raise _bad_assertion("iat and exp must be times, and exp in the future")
        if expires_at - issued_at > rules.longest:
            raise _bad_assertion(f"it must not live longer than {rules.longest} s")
        if not isinstance(identifier, str) or identifier in self._used:
            raise _bad_assertion("its jti is missing, or was used before")
        self._used.add(identifier)
        return client


def _bad_assertion(why: str) -> InvalidProof:
    return InvalidProof("invalid_client", "client_assertion", f"the client_assertion is refused: {why}")


def _basic(field: str) -> tuple[str, str]:
    """Read name and secret from HTTP Basic, in which both are form-encoded (RFC 6749 §2.3.1)."""
    scheme, _, credentials = field.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        text = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidProof(
            "invalid_client", "client_authentication_unknown", "the Authorization header is not HTTP Basic"
        ) from None
    name, colon, secret = text.partition(":")
    if not colon:
        raise InvalidProof("invalid_client", "client_authentication_unknown", "HTTP Basic without a colon")
    return unquote_plus(name), unquote_plus(secret)
