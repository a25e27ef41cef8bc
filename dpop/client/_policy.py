# SPDX-License-Identifier: Apache-2.0
"""The settings of one adapter, and its decision for a request: which key, which token, or neither."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

from dpop._late_logging import late_logger
from dpop._tracebacks import hide_frames
from dpop.client._clock import ServerClocks
from dpop.client._nonces import Role
from dpop.client._prover import Prover
from dpop.client._refusals import RefusedTokens
from dpop.client._request import AccessToken, OutgoingRequest, RequestCredentials, check_token_setting, scheme_of
from dpop.errors import ArgumentTypeError, InsecureOriginError, UsageError
from dpop.htu import canonical
from dpop.origin import Origin, split_url
from dpop.profiles import RFC9449, Profile

if TYPE_CHECKING:
    from dpop.keys import Key

_log = late_logger("dpop.client")
_MAX_LOGGED_ORIGINS = 100

__all__ = ["Decision", "Policy", "checked_origins", "headers_to_withhold"]


class Decision(NamedTuple):
    """The decision of a policy about one request: which key signs it, for which server, in which role."""

    prover: Prover
    """The prover whose key signs the proof."""
    origin: Origin
    """The server that gets the proof."""
    role: Role
    """The role of the server for this request."""
    access_token: AccessToken | None
    """The token to send, a function or token source that returns it, or ``None``."""

    def __repr__(self) -> str:
        return f"<Decision: {self.role} at {self.origin}>"


class Policy:
    """The settings that every adapter shares.

    :param prover: signs each request that brings no prover of its own; a key is accepted, too.
    :param origins: the servers that get proofs and tokens, such as ``"https://api.example"``. All
        other requests pass through unsigned, and nothing is learnt from their responses.
    :param access_token: a ``str``, a function that returns one, or a token source. With it, requests
        are for a resource server; without it, for an authorization server.
    :param as_endpoints: URLs of an authorization server among those of a resource server. Proofs for them
        have no ``ath``, and the caller's own Authorization header is kept.
    :param insecure_origins: http:// origins, beyond this machine's own, that may get proofs all the same.
    :param profile: the known facts about the server, see :mod:`dpop.profiles`: a profile, its name, or the path of
        a TOML file.
    :param nonces: ``"required"`` or ``"auto"``, instead of the profile's.
    :param algs: the algorithms the server lists; a key with none of them is refused here.
    :param learn_clock: after an ``invalid_dpop_proof``, use the server's clock from the next request on.
    :param rebuild: gets a body that holds a ``client_assertion`` and returns one with a new assertion,
        for a retry. Without it such a request is never sent twice.
    :param serial: whether requests are sent one at a time, for a server that accepts only the newest nonce it gave.
        Each request then takes a round trip, but none is refused. ``True``: from the start; ``False``: never;
        ``None``: as the profile says, or once the server turns out to need it.
    :param renew_refused: whether a token source is told that a server refused its token. The request is then sent
        again with another token, if repeating it is safe.
    :raises UsageError: ``origins`` is empty, or a setting is invalid.
    :raises InsecureOriginError: an http:// origin that is not this machine's.
    :raises AlgorithmError: the key has none of ``algs``.
    """

    @hide_frames
    def __init__(
        self,
        prover: Key | Prover,
        *,
        origins: str | Iterable[str],
        access_token: AccessToken | None = None,
        as_endpoints: Iterable[str] = (),
        insecure_origins: str | Iterable[str] = (),
        profile: Profile | str = RFC9449,
        nonces: Literal["auto", "required"] | None = None,
        algs: Iterable[str] | str | None = None,
        learn_clock: bool = False,
        rebuild: Callable[[bytes], bytes] | None = None,
        serial: bool | None = None,
        renew_refused: bool = True,
    ) -> None:
        if nonces is not None and (not isinstance(nonces, str) or nonces not in {"auto", "required"}):
            raise UsageError(f'nonces must be "auto" or "required", not {nonces!a:.40}')
        if rebuild is not None and not callable(rebuild):
            raise ArgumentTypeError("rebuild", "a function", rebuild)
        check_token_setting(access_token)
        profile = Profile.of(profile)
        prover = Prover.of(prover)
        listed = profile.algs if algs is None else algs
        # Needed again for the provers of later requests, so the first must not use up an iterator.
        self._algs = tuple(listed) if isinstance(listed, Iterator) else listed
        if self._algs is not None:
            prover = prover.for_algs(self._algs)
        self.prover = prover
        self.origins: frozenset[Origin] = checked_origins(origins, insecure_origins)
        self._logged_origins: set[Origin] = set()
        self.access_token = access_token
        self.as_endpoints: frozenset[str] = frozenset(canonical(url) for url in _strings("as_endpoints", as_endpoints))
        self.profile = profile
        self.nonces_required: bool = (nonces or profile.nonces) == "required"
        self.clocks: ServerClocks | None = ServerClocks() if learn_clock else None
        self.renew_refused: bool = renew_refused
        self._refused_tokens: RefusedTokens = RefusedTokens()
        self.serial: bool | None = profile.serial if serial is None else serial
        self.rebuild: Callable[[bytes], bytes] | None = None if rebuild is None else _checked(rebuild)

    def __repr__(self) -> str:
        return f"<Policy for {', '.join(sorted(map(str, self.origins)))}>"

    def add_origins(self, origins: str | Iterable[str], *, insecure_origins: str | Iterable[str] = ()) -> None:
        """Allow more servers to get proofs and tokens, such as an API that discovery has found.

        :param origins: as for the policy itself; the earlier origins stay allowed.
        :param insecure_origins: http:// origins, beyond this machine's own, that may get proofs all the same.
        :raises UsageError: ``origins`` is empty, or contains an invalid origin.
        :raises InsecureOriginError: an http:// origin that is not this machine's.
        """
        self.origins |= checked_origins(origins, insecure_origins)

    def priming_role(
        self, url: str, role: Role | None = None, *, credentials: RequestCredentials | None = None
    ) -> Role:
        """The role whose nonce a priming request fetches: by default, the role of the requests to this URL.

        :param role: the role, if it does not follow from the settings: if each request brings its own
            ``Authorization``, for example.
        :param credentials: the credentials of the requests, if they bring their own.
        :raises UsageError: the URL belongs to a server that is not among ``origins``.
        """
        origin = Origin.of_url(url)
        if origin not in self.origins:
            raise UsageError(f"{origin} is not among origins= ({', '.join(sorted(map(str, self.origins)))})")
        if role is not None:
            return role
        without_token = self.access_token is None and credentials is None
        return Role.AS if without_token or self._is_as_endpoint(origin, url) else Role.RS

    def _is_as_endpoint(self, origin: Origin, url: str) -> bool:
        return bool(self.as_endpoints) and canonical(f"{origin}{split_url(url)[2]}") in self.as_endpoints

    def decide(self, request: OutgoingRequest) -> Decision | None:
        """Decide which key signs this request and which token it carries; ``None`` if it must pass through unsigned."""
        origin, credentials = request.origin, request.credentials
        if credentials is not None:
            credentials.seen = True
        if origin not in self.origins:
            if origin not in self._logged_origins:
                self._log_unsigned(origin)
            return None
        if credentials is not None and not credentials._may_go_to(origin, self):  # noqa: SLF001 - the same package
            credentials = None
        default = self.access_token if credentials is None else credentials.access_token
        if request.priming is not None:
            role, token = request.priming, None
        elif self._is_as_endpoint(origin, request.url):
            role, token = Role.AS, None
        else:
            # A caller's own DPoP token beats the adapter's; a request's own credentials beat both.
            own = request.authorization if credentials is None else None
            own_first = own is not None and (default is None or scheme_of(own) == "dpop")
            token = (request.own_token if own_first else None) or default
            role = Role.AS if token is None else Role.RS
        prover = self.prover
        if credentials is not None:
            prover = credentials.prover if self._algs is None else credentials.prover.for_algs(self._algs)
        return Decision(prover, origin, role, token)

    def _log_unsigned(self, origin: Origin) -> None:
        """Log once that an origin gets no proof; the usual reason is that the settings spell it differently."""
        import logging  # noqa: PLC0415 - slow to load, and most programs send no such request

        if len(self._logged_origins) < _MAX_LOGGED_ORIGINS and _log.isEnabledFor(logging.INFO):
            self._logged_origins.add(origin)
            listed = ", ".join(sorted(map(str, self.origins)))
            _log.info("requests to %s are sent unsigned: it is not among origins= (%s)", origin, listed)


_PROOF = frozenset({"dpop"})
_PROOF_AND_TOKEN = frozenset({"dpop", "authorization"})


def headers_to_withhold(authorization: str | None) -> frozenset[str]:
    """Names, in lower case, of headers that must not go to a foreign origin: those of a proof and a bound token.

    :param authorization: the Authorization header of the request.
    """
    return _PROOF if authorization is None or scheme_of(authorization) != "dpop" else _PROOF_AND_TOKEN


def checked_origins(origins: str | Iterable[str], insecure: str | Iterable[str]) -> frozenset[Origin]:
    """Read origins: each must be https, on this machine, or among the insecure ones that are allowed.

    :raises UsageError: origins is empty.
    :raises InvalidTargetError: an origin is invalid.
    :raises InsecureOriginError: an origin would get proofs and tokens unencrypted.
    """
    allowed = {Origin.parse(text) for text in _strings("insecure_origins", insecure)}
    wanted = frozenset(Origin.parse(text) for text in _strings("origins", origins))
    if not wanted:
        raise UsageError('origins must name at least one server, such as "https://api.example"')
    for origin in wanted:
        if origin.scheme != "https" and not origin.is_loopback and origin not in allowed:
            raise InsecureOriginError(
                f"{origin} would get proofs and tokens unencrypted; use https, or list it in insecure_origins="
                " if you know why that is safe"
            )
    return wanted


def _checked(rebuild: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Wrap ``rebuild`` with a check of the body it returns: the HTTP library would send None as an empty body."""

    def rebuilt(body: bytes) -> bytes:
        new_body: object = rebuild(body)
        if not isinstance(new_body, bytes):
            raise ArgumentTypeError("the body that rebuild() returned", "bytes", new_body)
        return new_body

    return rebuilt


def _strings(name: str, values: str | Iterable[str]) -> list[str]:
    if isinstance(values, str):
        return [values]
    try:
        strings = list(values)
    except TypeError:
        raise ArgumentTypeError(name, "a str or several", values) from None
    for value in strings:
        if not isinstance(value, str):
            raise ArgumentTypeError(name, "a str or several", value)
    return strings
