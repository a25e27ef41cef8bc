# SPDX-License-Identifier: Apache-2.0
"""The test server: its addresses and levers, its records of requests, and tokens issued without a protocol."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self, Unpack, cast

from dpop.client import Role
from dpop.errors import UsageError
from dpop.htu import Origin
from dpop.keys import PublicKey
from dpop.profiles import NAMES, Behaviour, Profile
from dpop.server import DEFAULT_ALGS, MemoryReplayCache, ProofVerifier
from dpop.testing._authorization import new_code
from dpop.testing._authorization_server import PATHS, AuthorizationServer
from dpop.testing._clients import AssertionRules, Client, Clients
from dpop.testing._deployment import Deployment
from dpop.testing._gate import Gate, SteeredReplayCache
from dpop.testing._http_server import HTTPServer
from dpop.testing._levers import Levers, ServerLevers
from dpop.testing._resource_server import ResourceServer
from dpop.testing._router import Front
from dpop.testing._settings import Discipline, LeverSettings, check_setting
from dpop.testing._signer import TokenSigner
from dpop.testing._stats import Journal, RecordedRequest, Refusal, Stats
from dpop.testing._store import AccessToken, Code, RefreshToken, Store, new_grant
from dpop.testing._token_endpoint import TokenEndpoint

__all__ = ["DPoPTestServer", "Mode"]

Mode = str | Path | Profile
"""The kind of server: one of :data:`dpop.profiles.NAMES`, the path of a TOML file, or a profile."""

_EVERY_ADDRESS = frozenset({"", "0.0.0.0", "::", "0"})  # noqa: S104 - refused as a name

_LEVERS: Final = frozenset(LeverSettings.__annotations__) & set(Behaviour._fields)


class DPoPTestServer:
    """An authorization server and an API that really verify DPoP proofs, on a port of this machine.

    ::

        with DPoPTestServer(nonces="single-use") as server:
            token = server.issue_access_token(jkt=key.thumbprint)
            ...  # send a request to server.resource
            server.levers.lapse()
            assert server.stats.challenges == 1

    It runs in threads of this process from :meth:`start` to :meth:`stop`, or as a context manager.

    :param mode: the kind of server, by default one by the book: a name of :data:`dpop.profiles.NAMES` such as
        ``google``, a profile, or the path of a TOML file with one. It acts as the profile's ``server`` says.
    :param nonces: the nonce discipline of both roles, see :data:`dpop.testing.Discipline`.
    :param host: what to listen on; also the host of all URLs, unless there is a ``public_origin``.
    :param port: 0 for one that is free.
    :param public_origin: the origin clients use, if something stands between, such as a TLS proxy.
    :param client_id: of the confidential client; ``public_client_id`` has ``-public`` behind it.
    :param client_secret: of the confidential client; random by default.
    :param client_key: its public JWK, for ``private_key_jwt``: then it may authenticate by an assertion too.
    :param algs: algorithms accepted in proofs; by default those of the profile, or the verifier's.
    :param clock: Unix seconds.
    :param kept: how many requests and refusals are recorded, of each at most 32 MiB; the oldest are dropped first.
    :param settings: any setting of :class:`dpop.testing.Levers`.
    :raises AlgorithmError: ``algs`` is empty or contains an unknown algorithm.
    :raises UsageError: a setting is unknown or has an invalid value. From :meth:`start`: the port is not free.
    """

    def __init__(
        self,
        *,
        mode: Mode = "rfc9449",
        nonces: Discipline | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        public_origin: str | None = None,
        client_id: str = "test-client",
        client_secret: str | None = None,
        client_key: Mapping[str, object] | None = None,
        algs: Iterable[str] | None = None,
        clock: Callable[[], float] = time.time,
        kept: int = 10_000,
        **settings: Unpack[LeverSettings],
    ) -> None:
        self._profile = _profile_of(mode)
        behaviour = self._profile.server
        self.mode: str = mode if isinstance(mode, str) and mode in NAMES else self._profile.name
        for name, value in settings.items():
            check_setting(name, value)
        both: LeverSettings = {}
        if nonces is not None:
            both = {"as_nonces": nonces}
            if behaviour.api_takes_proofs:
                both["rs_nonces"] = nonces
        usual = {name: getattr(behaviour, name) for name in _LEVERS}
        self._levers = ServerLevers(**cast("LeverSettings", {**usual, **both, **settings}))
        self.client_id = client_id
        self.client_secret: str = client_secret or secrets.token_urlsafe(24)
        self._client_key = None if client_key is None else PublicKey.from_jwk(client_key)
        self.public_client_id: str = client_id + "-public"
        self._host = host
        if public_origin is None and host in _EVERY_ADDRESS:
            raise UsageError(
                f"host {host or 'without a name'} means every address of this machine, but no client can use it as a"
                " name: give public_origin too (dpop serve: --public-origin), such as http://192.0.2.7:8080"
            )
        self._port = port
        self._public_origin = None if public_origin is None else str(Origin.parse(public_origin))
        # Refused here, not in start(), when the port is open already.
        algs = self._profile.algs or DEFAULT_ALGS if algs is None else algs
        self._algs = ProofVerifier(replay=MemoryReplayCache(), algs=algs).algs
        self._real_clock = clock
        self._journal = Journal(kept=kept)
        self._store = Store(self.clock)
        self._http: HTTPServer | None = None
        self._signer = TokenSigner(self._levers)
        self._stopped = threading.Event()
        self._origin: str | None = None

    def __repr__(self) -> str:
        return f"<DPoPTestServer {self.mode} at {self._origin or 'no port yet'}>"

    @property
    def levers(self) -> Levers:
        """The settings and actions that can be changed while the server runs."""
        return self._levers

    @property
    def profile(self) -> Profile:
        """The profile that this server acts by."""
        return self._profile

    # --- life

    def start(self) -> Self:
        """Listen and serve. This does nothing if the server already runs."""
        if self._http is not None:
            return self
        http = HTTPServer(self._host, self._port, clock=self.clock, connected=self._journal.stats.count_connection)
        self._origin = self._public_origin or f"http://{http.authority}"
        self._stopped.clear()
        local = {http.authority, f"localhost:{http.port}", f"127.0.0.1:{http.port}"}
        http.start(self._front(self._origin, local).respond)
        self._http = http
        return self

    def stop(self) -> None:
        """Close all connections and the port. The records can still be read."""
        http, self._http = self._http, None
        if http is not None:
            self._levers.release_streams()
            self._stopped.set()
            http.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def clock(self) -> float:
        """Return the server's own time in Unix seconds, with the offset of the levers."""
        return self._real_clock() + self._levers.clock_offset

    # --- addresses

    @property
    def issuer(self) -> str:
        """The issuer: the origin of all URLs, without a slash at the end."""
        if self._origin is None:
            raise UsageError("the test server has no address yet; use it in a with statement or call start()")
        return self._origin

    @property
    def origin(self) -> str:
        """The origin of all URLs, for an adapter's ``origins=``; equal to the issuer."""
        return self.issuer

    @property
    def authorization_endpoint(self) -> str:
        """``/authorize``: the user agrees at once."""
        return self.issuer + PATHS["authorize"]

    @property
    def token_endpoint(self) -> str:
        """``/token``: authorization_code, refresh_token, client_credentials, device, token exchange, jwt-bearer."""
        return self.issuer + PATHS["token"]

    @property
    def par_endpoint(self) -> str:
        """``/par``: pushed authorization requests."""
        return self.issuer + PATHS["par"]

    @property
    def revocation_endpoint(self) -> str:
        """``/revoke``."""
        return self.issuer + PATHS["revoke"]

    @property
    def introspection_endpoint(self) -> str:
        """``/introspect``: for the confidential client."""
        return self.issuer + PATHS["introspect"]

    @property
    def device_authorization_endpoint(self) -> str:
        """``/device_authorization``, or Google's ``/device/code``: codes for the device grant (RFC 8628)."""
        return self.issuer + self._profile.server.device_path

    @property
    def jwks_uri(self) -> str:
        """``/jwks``: the keys that sign JWT access tokens."""
        return self.issuer + PATHS["jwks"]

    @property
    def resource(self) -> str:
        """``/resource`` and all paths below it: accept any method, and echo the request."""
        return self.issuer + "/resource"

    @property
    def stream(self) -> str:
        """``/resource/stream?chunks=3&size=1000``: a chunked response, see ``levers.hold_streams``."""
        return self.issuer + "/resource/stream"

    # --- records

    @property
    def stats(self) -> Stats:
        """Counters, for tests and benchmarks."""
        return self._journal.stats

    @property
    def refusals(self) -> list[Refusal]:
        """The last refusals, oldest first: ``[refusal.reason for refusal in server.refusals]``."""
        return self._journal.refusals

    @property
    def requests(self) -> list[RecordedRequest]:
        """The last requests as they were on the wire, oldest first. They contain secrets."""
        return self._journal.requests

    def reset(self) -> None:
        """Forget recorded requests and planned incidents. Settings, tokens and nonces stay."""
        self._journal.clear()
        self._levers.clear()

    # --- tokens without a protocol

    def issue_access_token(
        self,
        *,
        jkt: str | None = None,
        sub: str = "alice",
        scope: str = "read",
        lifetime: float | None = None,
        cnf: Mapping[str, object] | None = None,
    ) -> str:
        """Issue a new access token.

        :param jkt: the thumbprint of the key to which it is bound; None for a bearer token.
        :param lifetime: seconds, by default as the levers say; 0 or less for an expired token.
        :param cnf: any confirmation claim instead of ``jkt``, such as a malformed one.
        """
        now = self.clock()
        if cnf is None and jkt is not None:
            cnf = {"jkt": jkt}
        expires_at = now + (self._levers.token_lifetime if lifetime is None else lifetime)
        value = self._signer.value(
            self.issuer if self._levers.tokens == "jwt" else "",
            client_id=self.client_id,
            sub=sub,
            scope=scope,
            issued_at=now,
            expires_at=expires_at,
            cnf=cnf,
        )
        token = AccessToken(value, self.client_id, sub, scope, new_grant(), now, expires_at, cnf)
        self._store.add_access_token(token)
        return value

    def issue_code(
        self,
        *,
        redirect_uri: str | None = None,
        code_challenge: str | None = None,
        jkt: str | None = None,
        sub: str = "alice",
        scope: str = "read",
        client_id: str | None = None,
    ) -> str:
        """Issue a new authorization code, as if the user had just agreed.

        :param redirect_uri: if given, the token request must have the same one.
        :param code_challenge: an S256 challenge; if given, the token request must have its verifier.
        :param jkt: the ``dpop_jkt`` of the authorization request.
        :param client_id: the client of the code; by default the confidential client.
        """
        code = Code(
            new_code(),
            client_id or self.client_id,
            sub,
            scope,
            new_grant(),
            redirect_uri,
            code_challenge,
            jkt,
        )
        self._store.add_code(code)
        return code.value

    def issue_refresh_token(
        self, *, jkt: str | None = None, sub: str = "alice", scope: str = "read", client_id: str | None = None
    ) -> str:
        """Issue a new refresh token, bound to the key with thumbprint ``jkt``, or unbound if that is None."""
        value = secrets.token_urlsafe(32)
        token = RefreshToken(value, client_id or self.client_id, sub, scope, new_grant(), jkt)
        self._store.add_refresh_token(token)
        return value

    def issue_assertion(self, *, sub: str = "alice", lifetime: float = 300, audience: str | None = None) -> str:
        """Issue a new assertion for the grant ``urn:ietf:params:oauth:grant-type:jwt-bearer`` (RFC 7523).

        :param audience: its ``aud``, by default this server.
        """
        now = self.clock()
        claims: dict[str, object] = {"iss": self.issuer, "aud": audience or self.issuer, "sub": sub}
        claims |= {"iat": int(now), "exp": int(now + lifetime), "jti": secrets.token_urlsafe(16)}
        return self._signer.sign("JWT", claims)

    def revoke(self, token: str) -> None:
        """Revoke an access token, or a refresh token with all tokens of its grant."""
        self._store.revoke(token)

    def revoke_access_tokens(self) -> None:
        """Revoke all access tokens."""
        self._store.revoke_access_tokens()

    # --- assembly

    def _front(self, origin: str, local: set[str]) -> Front:
        behaviour = self._profile.server
        clients = Clients(
            Client(self.client_id, self.client_secret, self._client_key),
            *([Client(self.public_client_id)] if behaviour.public_clients else []),
            rules=_assertion_rules(self._profile, origin, self.clock),
        )
        deployment = Deployment(
            origin,
            self._store,
            clients,
            self._levers,
            self._journal,
            self._signer,
            self.clock,
            self._stopped,
            self._profile,
        )
        replay = SteeredReplayCache(self._levers, self._real_clock)

        def gate(role: Role, name: str) -> Gate:
            return Gate(
                role,
                name=name,
                levers=self._levers,
                algs=self._algs,
                clock=self.clock,
                replay=replay,
                behaviour=behaviour,
            )

        as_gate = gate(Role.AS, "AS")
        url = origin + PATHS["token"]
        token = TokenEndpoint(url, deployment, as_gate, gate(Role.AS, "code exchange"))
        return Front(
            deployment,
            AuthorizationServer(deployment, as_gate, token),
            ResourceServer(deployment, gate(Role.RS, "RS")),
            local,
        )


def _assertion_rules(profile: Profile, origin: str, clock: Callable[[], float]) -> AssertionRules:
    token_endpoint = origin + PATHS["token"]
    own = origin if profile.assertion_audience == "issuer" else token_endpoint
    return AssertionRules(
        audiences=frozenset({own} if profile.server.strict_audience else {origin, token_endpoint}),
        types=frozenset({profile.assertion_typ} if profile.server.strict_typ else {profile.assertion_typ, "JWT", None}),
        longest=profile.server.assertion_longest,
        clock=clock,
    )


def _profile_of(mode: Mode) -> Profile:
    try:
        return Profile.of(mode)
    except UsageError as error:
        raise UsageError(f"mode must be a profile: {error}") from None
