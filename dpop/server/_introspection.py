# SPDX-License-Identifier: Apache-2.0
"""Ask the introspection endpoint about access tokens (RFC 7662), also for signed responses (RFC 9701).

A token is asked about once however many requests have it, and few questions are open at once: strangers can make
tokens that nobody knows, and neither this API nor the authorization server may be brought down by that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlencode

from dpop._client_auth import ClientAuth, client_auth_of
from dpop._event_hooks import checked_hook
from dpop._files import without_mark
from dpop._forking import reset_after_fork
from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, json_object
from dpop.errors import EncodingError, InvalidProof, LookupUnavailableError, UsageError
from dpop.keys._algorithms import ALGORITHMS
from dpop.server._access_tokens import is_signed_by
from dpop.server._events import Event, EventHook, emit
from dpop.server._key_sets import IssuerKeys
from dpop.server._lookups import (
    Fetch,
    Guard,
    Lookup,
    LookupRequest,
    LookupResponse,
    Waits,
    check_configured_url,
    default_fetch,
    run,
    run_async,
)
from dpop.server._shared_responses import IntrospectionCache, SharedResponse, SharedResponses
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

__all__ = ["Introspection"]

_MAX_RESPONSE: Final = 1 << 16
_MAX_DEPTH: Final = 16
_MAX_RETRY_AFTER: Final = 60.0
_REFUSED_FOR: Final = 5.0
_MAX_REFUSED: Final = 1000
_PAUSE: Final = 1.0  # seconds without questions after one that had no response in time
_JWT: Final = "application/token-introspection+jwt"


class _Verdict(NamedTuple):
    """The authorization server's judgement of a token.

    :param claims: its response; None for a token that is not active.
    :param until: when it must be asked again, of the monotonic clock.
    """

    claims: dict[str, Any] | None
    exp: float
    nbf: float
    until: float


class Introspection:
    """Looks up access tokens at the introspection endpoint (RFC 7662), in threads and in tasks. Thread-safe.

    It is the ``token`` of a :class:`dpop.server.ProtectedResource`::

        tokens = Introspection("https://as.example/introspect", client_id="api", client_secret=secret)

    Of requests with one token that come together one asks, and the others wait for it. A response is remembered under
    the token's hash. The question carries no proof (RFC 9449 §6.2).

    :param endpoint: its URL: https, or http on this machine.
    :param client_id: this API as a client of the authorization server.
    :param client_secret: its secret.
    :param client_auth: how it authenticates: ``"client_secret_basic"``, ``"client_secret_post"``, ``"none"``, or a
        :class:`dpop.tokens.PrivateKeyJWT`.
    :param audience: this API's names; one must be in the ``aud`` of the response. Without it ``aud`` is not looked at:
        then the authorization server must answer for this API only.
    :param issuer: the authorization server; compared with an ``iss`` in the response, and the audience of assertions.
    :param signed: ask for a signed response (RFC 9701), and believe no other. The ``issuer`` is needed, because its
        keys are found by its metadata.
    :param jwks_uri: the URL of these keys, of an issuer without metadata.
    :param algs: the algorithms of signed responses that are accepted.
    :param remember_for: seconds for which a response is believed, and so for which a revoked token may still be
        accepted; never longer than the token lives. That a token is not active is believed for five seconds at most.
    :param cache: keeps responses for all processes and hosts, such as a :class:`dpop.redis.RedisIntrospectionCache`. A
        response counts from when it was asked for, wherever that was, so ``remember_for`` stays the bound. That a token
        is not active is not shared. If the cache fails, the endpoint is asked.
    :param cache_secret: 16 bytes or more, the same in all processes: the cache gets names and entries that are useless
        without it. Entries of a cache that others can write to are believed only if they were made with it.
    :param max_remembered: tokens that are remembered in this process, at most.
    :param max_pending: questions that are open at once, at most. A token that would be one more gets a 503.
    :param timeout: seconds for one question.
    :param skew: seconds that the authorization server's clock may differ.
    :param fetch: sends the requests instead of the standard library, to keep connections open or for proxies.
    :param tls: certificates to trust, and one's own, instead of the system's.
    :param events: gets an :class:`dpop.server.Event` for each token that was remembered and each look-up.
    :param clock: returns Unix seconds.
    :param monotonic: returns the seconds of a clock that is never set.
    :raises UsageError: an argument that cannot be used.
    :raises InsecureOriginError: an http URL of another machine.
    """

    @hide_frames
    def __init__(
        self,
        endpoint: str,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        client_auth: str | ClientAuth | None = None,
        audience: str | Iterable[str] | None = None,
        issuer: str | None = None,
        signed: bool = False,
        jwks_uri: str | None = None,
        algs: Iterable[str] | str = tuple(ALGORITHMS),
        remember_for: float = 30.0,
        cache: IntrospectionCache | None = None,
        cache_secret: bytes | None = None,
        max_remembered: int = 10_000,
        max_pending: int = 32,
        timeout: float = 5.0,
        skew: float = 30.0,
        fetch: Fetch | None = None,
        tls: ssl.SSLContext | None = None,
        events: EventHook | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        for url in (endpoint, issuer, jwks_uri):
            if url is not None:
                check_configured_url(url)
        if signed and issuer is None:
            raise UsageError("signed responses need issuer=: the authorization server whose keys verify them")
        if fetch is not None and tls is not None:
            raise UsageError("tls is for the standard library; a fetch function has its own settings")
        if max_pending < 1:
            raise UsageError("max_pending must be 1 or more: otherwise no question could be asked")
        if (cache is None) != (cache_secret is None):
            raise UsageError("cache= and cache_secret= belong together: entries of a cache are encrypted")
        self._endpoint = endpoint
        self._auth = client_auth_of(client_id, client_secret, client_auth, ())
        self._audiences = None if audience is None else frozenset(names_of("audience", audience))
        self._issuer = issuer
        self._algs = known_algs(algs)
        self._fetch = fetch or default_fetch(tls)
        self._keys = (
            IssuerKeys(
                issuer,
                jwks_uri=jwks_uri,
                fetch=self._fetch,
                refresh_after=300.0,
                ask_again_after=10.0,
                timeout=timeout,
                events=events,
                monotonic=monotonic,
            )
            if signed and issuer is not None
            else None
        )
        self._remember_for = remember_for
        self._max_pending = max_pending
        self._timeout = timeout
        self._skew = skew
        self._events = checked_hook(events)
        self._clock = clock
        self._monotonic = monotonic
        self._active: Memory[_Verdict] = Memory(max_remembered)
        # Apart from the others: strangers can make as many as they like.
        self._refused: Memory[_Verdict] = Memory(min(max_remembered, _MAX_REFUSED))
        self._lock = Guard()
        self._pending: dict[bytes, Lookup[_Verdict]] = {}
        self._reading: dict[bytes, Lookup[_Verdict | None]] = {}
        self._shared = None
        if cache is not None and cache_secret is not None:
            # The response may depend on who asks (RFC 7662 §2.2), and is believed for other reasons if it is signed.
            context = (endpoint, issuer or "", self._auth.client_id or "", "signed" if signed else "")
            self._shared = SharedResponses(cache, cache_secret, context, events=events, monotonic=monotonic)
        self._not_before = -math.inf
        reset_after_fork(self)

    def __repr__(self) -> str:
        return f"<Introspection {self._endpoint}>"

    def _reset_after_fork(self) -> None:
        """In a forked child: the threads that ask are gone."""
        self._lock = Guard()
        self._pending, self._reading = {}, {}

    @hide_frames
    def __call__(self, token: str) -> Mapping[str, Any]:
        """The response for a token, which the caller may change.

        :raises InvalidProof: ``invalid_token``: the token is not active, or not for this API.
        :raises LookupUnavailableError: the endpoint did not tell, or too many questions are open.
        """
        known = self._recall(token)
        return self._judged(run(self._ask(token)) if known is None else known)

    @hide_frames
    async def acall(self, token: str) -> Mapping[str, Any]:
        """Async form: a look-up never blocks the event loop."""
        known = self._recall(token)
        return self._judged(await run_async(self._ask(token)) if known is None else known)

    def _recall(self, token: str) -> _Verdict | None:
        known = self._remembered(token_name(token))
        if known is not None:
            emit(self._events, Event("remembered"))
        return known

    def _remembered(self, name: bytes) -> _Verdict | None:
        for memory in (self._active, self._refused):
            known = memory.get(name)
            if known is not None:
                if self._monotonic() < known.until:
                    return known
                memory.drop(name)
        return None

    def _judged(self, verdict: _Verdict) -> dict[str, Any]:
        if verdict.claims is None:
            raise refused_token("the authorization server does not know it as active")
        check_times(verdict.exp, verdict.nbf, self._clock(), self._skew)
        if self._issuer is not None and verdict.claims.get("iss", self._issuer) != self._issuer:
            raise refused_token("it is of another issuer", expected=self._issuer, got=verdict.claims["iss"])
        if self._audiences is not None:
            check_audience(verdict.claims.get("aud"), self._audiences)
        return copied_claims(verdict.claims)

    # --- questions

    def _ask(self, token: str) -> Waits[_Verdict]:
        name = token_name(token)
        if self._shared is not None:
            reading = self._read_shared(name, token, self._shared)
            try:
                known: _Verdict | None = None if reading is None else (yield reading)
            except LookupUnavailableError:  # it did not respond in time
                known = None
            if known is not None:
                return known
        with self._lock.held():
            lookup = self._pending.get(name)
            if lookup is None:
                # Another request may have asked since this one looked.
                if (asked := self._remembered(name)) is not None:
                    return asked
                left = self._not_before - self._monotonic()
                if left > 0:
                    raise LookupUnavailableError(f"{self._endpoint} did not respond a moment ago", retry_after=left)
                if len(self._pending) >= self._max_pending:
                    raise LookupUnavailableError(
                        f"{len(self._pending)} questions to {self._endpoint} are open, and no more may be",
                        retry_after=_PAUSE,
                    )
                # The thread takes the lock before it removes this entry, so that it is there by then.
                lookup = self._pending[name] = Lookup(lambda: self._question(name, token), 2 * self._timeout + 2)
        verdict: _Verdict = yield lookup
        return verdict

    def _read_shared(self, name: bytes, token: str, shared: SharedResponses) -> Lookup[_Verdict | None] | None:
        """Begin to read the cache of all processes; None if too many do. It may block, as a question may."""
        with self._lock.held():
            reading = self._reading.get(name)
            if reading is None and len(self._reading) < self._max_pending:
                reading = self._reading[name] = Lookup(lambda: self._from_shared(name, token, shared), self._timeout)
            return reading

    def _from_shared(self, name: bytes, token: str, shared: SharedResponses) -> _Verdict | None:
        """Read the cache of all processes and remember what was found; runs in the thread of a look-up."""
        try:
            found = shared.get(token)
            left = 0.0 if found is None else found.asked_at + self._remember_for - self._clock()
            if found is None or left <= 0:
                return None
            # A clock that is behind the writer's must not make it longer.
            age = max(0.0, self._remember_for - left)
            verdict = self._verdict(found.response, self._monotonic() - age)
            self._active.put(name, verdict)
            return verdict
        finally:
            with self._lock.held():
                self._reading.pop(name, None)

    def _question(self, name: bytes, token: str) -> _Verdict:
        """Ask about one token and remember the response; runs in the thread of a look-up."""
        began, failure = time.monotonic(), LookupUnavailableError.code
        try:
            verdict = self._asked(token)
        except LookupUnavailableError:
            raise
        except InvalidProof as error:  # of a signed response
            raise LookupUnavailableError(f"{self._endpoint} sent a response that cannot be believed: {error}") from None
        except BaseException as error:  # noqa: BLE001 - a fetch function or a key may raise anything
            raise LookupUnavailableError(f"{self._endpoint}: the question raised {type(error).__name__}") from None
        else:
            failure = ""
            (self._refused if verdict.claims is None else self._active).put(name, verdict)
            return verdict
        finally:
            with self._lock.held():
                self._pending.pop(name, None)
            emit(self._events, Event("looked_up", failure or None, seconds=time.monotonic() - began))

    def _asked(self, token: str) -> _Verdict:
        form = {"token": token, "token_type_hint": "access_token"}
        form |= self._auth.parameters(self._issuer or self._endpoint, self._clock())
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json" if self._keys is None else _JWT,
            **dict(self._auth.headers()),
        }
        body = urlencode(form, doseq=True).encode("ascii")
        request = LookupRequest(
            "POST", self._endpoint, tuple(headers.items()), body, self._timeout, _MAX_RESPONSE, self._endpoint
        )
        began, asked, asked_at = time.monotonic(), self._monotonic(), self._clock()
        try:
            response = self._fetch(request)
        except LookupUnavailableError:
            if time.monotonic() - began > self._timeout / 2:  # it would hold thread after thread
                self._not_before = self._monotonic() + _PAUSE
            raise
        if response.status != 200:
            raise self._unavailable(response)
        said = self._read(response)
        verdict = self._verdict(said, asked)
        if verdict.claims is not None and self._shared is not None:
            seconds = min(self._remember_for, verdict.exp - self._clock())
            self._shared.put(token, SharedResponse(said, asked_at), seconds)
        return verdict

    def _unavailable(self, response: LookupResponse) -> LookupUnavailableError:
        wait = response.headers.get("retry-after", "")
        seconds = min(float(wait), _MAX_RETRY_AFTER) if wait.isascii() and wait.isdigit() else None
        if response.status in {429, 503}:
            self._not_before = self._monotonic() + (seconds or _PAUSE)
        why = "; check this API's client_id and credentials" if response.status in {400, 401, 403} else ""
        return LookupUnavailableError(f"{self._endpoint} responded {response.status}{why}", retry_after=seconds)

    def _read(self, response: LookupResponse) -> dict[str, Any]:
        if len(response.body) > _MAX_RESPONSE:
            raise LookupUnavailableError(f"the response of {self._endpoint} has more than {_MAX_RESPONSE} bytes")
        is_jwt = response.headers.get("content-type", "").partition(";")[0].strip().lower() == _JWT
        if is_jwt != (self._keys is not None):
            unexpected = "a signed response; pass signed=True" if is_jwt else "a response that is not signed"
            raise LookupUnavailableError(f"{self._endpoint} sent {unexpected}")
        try:
            if self._keys is not None:
                return self._signed(response.body.decode("ascii", "replace").strip(), self._keys)
            return json_object(without_mark(response.body), max_depth=_MAX_DEPTH)
        except EncodingError as error:
            raise LookupUnavailableError(f"the response of {self._endpoint} is {error}") from None

    def _signed(self, text: str, keys: IssuerKeys) -> dict[str, Any]:
        """The response in a JWT for this client (RFC 9701 §5).

        :raises InvalidProof: it is not signed by the issuer, or not for this API.
        """
        parts = text.split(".")
        if len(parts) != 3:
            raise EncodingError("not a JWT of three parts, or encrypted")
        header = json_object(b64url_decode(parts[0]), max_depth=_MAX_DEPTH)
        claims = json_object(b64url_decode(parts[1]), max_depth=_MAX_DEPTH)
        typ, alg, kid = header.get("typ"), header.get("alg"), header.get("kid")
        if not isinstance(typ, str) or typ.lower().removeprefix("application/") != "token-introspection+jwt":
            raise refused_token("its typ is another", expected="token-introspection+jwt", got=typ)
        if not isinstance(alg, str) or alg not in self._algs or "crit" in header or "b64" in header:
            raise refused_token("its algorithm or crit is not accepted here", got=alg)
        if claims.get("iss") != self._issuer:
            raise refused_token("it is of another issuer", expected=self._issuer, got=claims.get("iss"))
        check_audience(claims.get("aud"), frozenset({self._auth.client_id}))
        iat = time_claim(claims, "iat")
        if iat is None or abs(self._clock() - iat) > self._skew + self._timeout:
            raise refused_token("it was not made now")
        candidates = run(keys.candidates(kid if isinstance(kid, str) else None, alg))
        if not any(is_signed_by(text, key, alg) for key in candidates):
            keys.ask_again()
            raise refused_token("its signature does not verify")
        response = claims.get("token_introspection")
        if not isinstance(response, dict):
            raise EncodingError("a JWT without token_introspection")
        return response

    def _verdict(self, response: dict[str, Any], asked: float) -> _Verdict:
        """Read a response.

        :param asked: when it was asked for, of the monotonic clock: from then on it is believed.
        """
        active = response.get("active")
        if not isinstance(active, bool):
            raise LookupUnavailableError(f"{self._endpoint} did not say whether the token is active")
        if not active:
            return _Verdict(None, math.inf, -math.inf, asked + min(_REFUSED_FOR, self._remember_for))
        try:
            exp, nbf = time_claim(response, "exp"), time_claim(response, "nbf")
        except InvalidProof as error:
            raise LookupUnavailableError(f"the response of {self._endpoint} cannot be read: {error.detail}") from None
        exp = math.inf if exp is None else exp
        return _Verdict(response, exp, -math.inf if nbf is None else nbf, asked + self._remember_for)
