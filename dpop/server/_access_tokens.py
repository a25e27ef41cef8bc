# SPDX-License-Identifier: Apache-2.0
"""Verify JWT access tokens with the keys of their issuer (RFC 9068 §4, RFC 8725).

The order of the checks: length and form, header, claims, and last the signature, which costs most. Strict reading is
done here, because a JOSE library takes duplicate members and several spellings; joserfc verifies the signature.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dpop._event_hooks import checked_hook
from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, json_object
from dpop.errors import EncodingError, UsageError
from dpop.keys._algorithms import ALGORITHMS
from dpop.server._events import Event, EventHook, emit
from dpop.server._key_sets import IssuerKey, IssuerKeys
from dpop.server._lookups import Fetch, Waits, check_configured_url, default_fetch, run, run_async
from dpop.server._token_claims import (
    Memory,
    check_audience,
    check_times,
    copied_claims,
    names_of,
    refused_token,
    time_claim,
    token_name,
)
from dpop.server._verifier import known_algs

if TYPE_CHECKING:
    import ssl

__all__ = ["JWTAccessTokens", "is_signed_by"]

_MAX_TOKEN: Final = 16_384
_MAX_DEPTH: Final = 16
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_UNTYPED: Final = frozenset({"jwt", "application/jwt"})


class _Remembered(NamedTuple):
    """A token that was verified, without the token."""

    claims: Mapping[str, Any]
    exp: float
    nbf: float
    until: float
    keys: IssuerKeys
    key: tuple[str | None, str]


class _Unverified(NamedTuple):
    """A token whose claims are those of a good one, if its signature verifies."""

    keys: IssuerKeys
    kid: str | None
    alg: str
    claims: dict[str, Any]
    exp: float
    nbf: float


class JWTAccessTokens:
    """Looks up access tokens that are JWTs, in threads and in tasks. Thread-safe.

    It is the ``token`` of a :class:`dpop.server.ProtectedResource`.

    ::

        tokens = JWTAccessTokens(issuer="https://as.example", audience="https://api.example")
        api = ProtectedResource(ProofVerifier(replay=cache), url="https://api.example", token=tokens)

    The first request fetches the issuer's metadata and keys. Later ones use what is there, while a thread fetches the
    new. A token that was verified is remembered by its hash until it expires, for 300 seconds at most, or until its key
    leaves the issuer's set; its times are judged at each use. A refused one is never remembered.

    :param issuer: the ``iss`` of its tokens, exactly; several issuers in a list. Each verifies its own tokens only. The
        URL is https, or http on this machine.
    :param audience: the ``aud`` that names this API; of several one must be in the token.
    :param algs: the algorithms of signatures that are accepted, all asymmetric.
    :param require_type: the header must have the ``typ`` ``at+jwt`` (RFC 9068 §2.1). Pass False for an issuer that
        writes ``JWT`` or nothing: then make sure that its ID tokens never have this API as audience.
    :param jwks_uri: the URL of the key set of an issuer without metadata.
    :param skew: seconds that the issuer's clock may differ.
    :param refresh_after: seconds after which a request starts a refresh of the keys, for which it does not wait.
    :param ask_again_after: seconds between one fetch and the next, at least, even if one failed or tokens name keys
        that nobody knows.
    :param timeout: seconds for one fetch.
    :param max_remembered: verified tokens that are remembered, at most.
    :param fetch: sends the requests instead of the standard library, for proxies for example.
    :param tls: certificates to trust instead of the system's.
    :param events: gets an :class:`dpop.server.Event` for each token that was remembered and each look-up.
    :param clock: returns Unix seconds.
    :raises UsageError: an argument that cannot be used.
    :raises InsecureOriginError: an http URL of another machine.
    """

    def __init__(
        self,
        *,
        issuer: str | Iterable[str],
        audience: str | Iterable[str],
        algs: Iterable[str] | str = tuple(ALGORITHMS),
        require_type: bool = True,
        jwks_uri: str | None = None,
        skew: float = 30.0,
        refresh_after: float = 300.0,
        ask_again_after: float = 10.0,
        timeout: float = 5.0,
        max_remembered: int = 10_000,
        fetch: Fetch | None = None,
        tls: ssl.SSLContext | None = None,
        events: EventHook | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        issuers = names_of("issuer", issuer)
        if jwks_uri is not None and len(issuers) > 1:
            raise UsageError("jwks_uri is the key set of one issuer; give each issuer a JWTAccessTokens of its own")
        if fetch is not None and tls is not None:
            raise UsageError("tls is for the standard library; a fetch function has its own settings")
        for url in (*issuers, *([] if jwks_uri is None else [jwks_uri])):
            check_configured_url(url)
        fetching = fetch or default_fetch(tls)
        self._issuers = {
            name: IssuerKeys(
                name,
                jwks_uri=jwks_uri,
                fetch=fetching,
                refresh_after=refresh_after,
                ask_again_after=ask_again_after,
                timeout=timeout,
                events=events,
                monotonic=monotonic,
            )
            for name in issuers
        }
        self._audiences = frozenset(names_of("audience", audience))
        self._algs = known_algs(algs)
        self._require_type = require_type
        self._skew = skew
        self._remember_for = 300.0
        self._events = checked_hook(events)
        self._clock = clock
        self._monotonic = monotonic
        self._memory: Memory[_Remembered] = Memory(max_remembered)

    def __repr__(self) -> str:
        return f"<JWTAccessTokens {' '.join(self._issuers)}>"

    @hide_frames
    def __call__(self, token: str) -> Mapping[str, Any]:
        """The claims of a token, which the caller may change.

        :raises InvalidProof: ``invalid_token``: not a token of these issuers for this API, now.
        :raises LookupUnavailableError: the issuer's keys could not be fetched, and none were fetched before; or the
            token has a newer key.
        """
        name = token_name(token)
        known = self._recall(name)
        return run(self._verify(token, name)) if known is None else known

    @hide_frames
    async def acall(self, token: str) -> Mapping[str, Any]:
        """Async form: a look-up never blocks the event loop."""
        name = token_name(token)
        known = self._recall(name)
        return await run_async(self._verify(token, name)) if known is None else known

    # --- verified before

    def _recall(self, name: bytes) -> dict[str, Any] | None:
        """The claims of a token that was verified before and is good now; None if it must be verified."""
        known = self._memory.get(name)
        if known is None:
            return None
        known.keys.refresh_if_due()
        if self._monotonic() >= known.until or known.key not in known.keys.identities:
            self._memory.drop(name)
            return None
        check_times(known.exp, known.nbf, self._clock(), self._skew)
        if self._events is not None:
            emit(self._events, Event("remembered"))
        return copied_claims(known.claims)

    def _remember(self, name: bytes, checked: _Unverified, key: IssuerKey) -> None:
        now = self._monotonic()
        left = min(self._remember_for, checked.exp + self._skew - self._clock())
        claims = copied_claims(checked.claims)
        entry = _Remembered(claims, checked.exp, checked.nbf, now + left, checked.keys, key.identity)
        self._memory.put(name, entry)

    # --- verified now

    def _verify(self, token: str, name: bytes) -> Waits[dict[str, Any]]:
        checked = self._read(token)
        candidates = yield from checked.keys.candidates(checked.kid, checked.alg)
        if not candidates:
            raise refused_token("its issuer has no key of that name and algorithm")
        for key in candidates:
            if is_signed_by(token, key, checked.alg):
                self._remember(name, checked, key)
                return checked.claims
        checked.keys.ask_again()
        raise refused_token("its signature does not verify")

    def _read(self, token: str) -> _Unverified:
        """Read a token and check all but its signature."""
        if len(token) > _MAX_TOKEN:
            raise refused_token(f"it has more than {_MAX_TOKEN} characters")
        parts = token.split(".")
        if len(parts) != 3:
            encrypted = ": it is encrypted, or opaque" if len(parts) == 5 else ""
            raise refused_token(f"it is not a JWT of three parts{encrypted}")
        try:
            header = json_object(b64url_decode(parts[0]), max_depth=_MAX_DEPTH)
            claims = json_object(b64url_decode(parts[1]), max_depth=_MAX_DEPTH)
        except EncodingError as error:
            raise refused_token(f"its parts are {error}") from None
        kid, alg = self._check_header(header)
        issuer = claims.get("iss")
        keys = self._issuers.get(issuer) if isinstance(issuer, str) else None
        if keys is None:
            raise refused_token(
                "its issuer is not one that this API trusts", expected=" or ".join(self._issuers), got=issuer
            )
        check_audience(claims.get("aud"), self._audiences)
        exp, nbf = time_claim(claims, "exp"), time_claim(claims, "nbf")
        if exp is None:
            raise refused_token("it has no exp")
        iat = time_claim(claims, "iat")
        if iat is not None and iat > self._clock() + self._skew:
            raise refused_token("it was issued in the future; check the clocks")
        nbf = float("-inf") if nbf is None else nbf
        check_times(exp, nbf, self._clock(), self._skew)
        return _Unverified(keys, kid, alg, claims, exp, nbf)

    def _check_header(self, header: Mapping[str, Any]) -> tuple[str | None, str]:
        """Check ``typ``, ``alg`` and ``crit``; keys that the token brings itself are not even looked at."""
        if "crit" in header or "b64" in header:
            raise refused_token("its header has crit or b64, which no access token uses")
        typ = header.get("typ")
        named = typ.lower() if isinstance(typ, str) else None if typ is None else ""
        if named not in _TYPES and (self._require_type or (named is not None and named not in _UNTYPED)):
            raise refused_token("its typ is not that of an access token", expected="at+jwt", got=typ)
        alg, kid = header.get("alg"), header.get("kid")
        if not isinstance(alg, str) or alg not in self._algs:
            raise refused_token("its algorithm is not accepted here", expected=" or ".join(self._algs), got=alg)
        if kid is not None and not isinstance(kid, str):
            raise refused_token("its kid is not a string")
        return kid, alg


def is_signed_by(token: str, key: IssuerKey, alg: str) -> bool:
    """Whether a compact JWS verifies with a key for that algorithm. Its header must have been read strictly before."""
    from joserfc.errors import JoseError  # noqa: PLC0415 - importing dpop.server stays light

    signing_input, _, signature = token.rpartition(".")
    try:
        return bool(_algorithm(alg).verify(signing_input.encode("ascii"), b64url_decode(signature), key.jose))
    except (JoseError, ValueError):
        return False


@cache
def _algorithm(alg: str) -> Any:
    """joserfc's implementation of an algorithm. Its decoder would read the header and the claims once more."""
    from joserfc.jws import JWSRegistry  # noqa: PLC0415

    # EdDSA is the old name of Ed25519 (RFC 9864).
    return JWSRegistry.algorithms["Ed25519" if alg == "EdDSA" else alg]
