# SPDX-License-Identifier: Apache-2.0
"""Find out what a server is: its metadata, its clock, and how it treats proofs, by requests that change nothing.

The questions about proofs are refreshes with a refresh token that was made up: a server that has accepted the proof
says ``invalid_grant``. So no token is needed, and none is sent. A server that authenticates the client first says
``invalid_client``, and nothing more can be seen without a client's identifier.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from dpop._client_auth import ClientAuth, PublicClient
from dpop._well_known import metadata_urls, resource_metadata_url
from dpop.client._challenge import challenges
from dpop.client._clock import skew
from dpop.client._forgiving import forgiving_object
from dpop.encoding import check_nonce
from dpop.errors import CredentialError, EncodingError, UsageError
from dpop.origin import Origin
from dpop.profiles import NAMES, Profile
from dpop.proof import create_proof
from dpop.tokens._steps import HTTPRequest, HTTPResponse, NoResponse

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["Examination", "Fit", "examine"]

_JSON: Final = (("Accept", "application/json"),)
_FORM: Final = (("Content-Type", "application/x-www-form-urlencoded"), *_JSON)
_MADE_UP: Final = "dpop-doctor-made-this-up"
_UNKNOWN_CLIENT: Final = "dpop-doctor"
# Ages to try, each between two limits that servers are known to have.
_PAST: Final = (27, 45, 90, 150, 250)
_FUTURE: Final = (5, 13, 22, 100, 250)
_CLOCK_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a profile fits what was seen.

    :param profile: one of :data:`dpop.profiles.NAMES`.
    :param agrees: the facts that are as the profile has them.
    :param differs: the facts that are not.
    """

    profile: str
    agrees: tuple[str, ...]
    differs: tuple[str, ...]


@dataclass(slots=True)
class Examination:
    """The facts about a server that were found out.

    :param url: the URL that was asked about.
    :param issuer: the authorization server, if its metadata was found.
    :param resource: the API, if its metadata was found.
    :param metadata: the members of the authorization server's metadata.
    :param clock: seconds that the server's clock is ahead; ``None`` if no response had a ``Date``.
    :param seen: facts by name, such as ``asks for a nonce``.
    :param odd: remarks, each one sentence.
    :param fits: the profiles, those that fit best first.
    """

    url: str
    issuer: str | None = None
    resource: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    clock: float | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    fits: tuple[Fit, ...] = ()

    @property
    def profiles(self) -> tuple[str, ...]:
        """The names of the profiles that fit best: several, if what was seen does not tell them apart."""
        best = [fit for fit in self.fits if _rank(fit) == _rank(self.fits[0])]
        return tuple(fit.profile for fit in best)


def examine(
    url: str,
    key: Key,
    *,
    client_auth: ClientAuth | None = None,
    clock: Callable[[], float] = time.time,
) -> Generator[HTTPRequest, HTTPResponse, Examination]:
    """Find out what a server is: yields requests to send, without following redirects, and returns what was found.

    :param url: an issuer, or the URL of an API.
    :param key: signs the proofs; make one for this purpose.
    :param client_auth: whose authentication to send. By default a name that no server knows; a
        :class:`dpop.tokens.PublicClient` with a client's identifier sends no secret and finds out more.
    :raises UsageError: not an http or https URL, or one without TLS that is not on this machine.
    """
    _check_transport(url)
    doctor = _Doctor(Examination(url), key, client_auth, clock)
    yield from doctor.find_metadata()
    if doctor.token_endpoint is not None:
        yield from doctor.ask_about_proofs(doctor.token_endpoint)
    found = doctor.found
    found.fits = tuple(sorted((_fit(name, found) for name in NAMES), key=_rank))
    return found


def _check_transport(url: str) -> None:
    origin = Origin.of_url(url)
    if origin.scheme != "https" and not origin.is_loopback:
        raise UsageError(f"{origin} is asked by https only; anybody in between could change what it says")


class _Doctor:
    """Asks the questions, and writes down the responses."""

    def __init__(
        self, found: Examination, key: Key, client_auth: ClientAuth | None, clock: Callable[[], float]
    ) -> None:
        self.found = found
        self.token_endpoint: str | None = None
        self._key = key
        self._auth = client_auth or PublicClient(_UNKNOWN_CLIENT)
        self._named = client_auth is not None
        self._clock = clock
        self._nonce: str | None = None
        if client_auth is not None:
            found.seen["client has a secret"] = type(client_auth) is not PublicClient

    # --- metadata

    def find_metadata(self) -> Generator[HTTPRequest, HTTPResponse, None]:
        """Find the metadata of the authorization server, by that of the API if the URL is an API's."""
        url = self.found.url
        if (yield from self._server_metadata(url)):
            return
        document = yield from self._document(resource_metadata_url(url))
        if document is None:
            response = yield from self._ask(HTTPRequest("GET", url, _JSON, None, signed=False))
            place = None if response is None else self._read_challenge(response)
            document = None if place is None else (yield from self._document(place))
        servers = [] if document is None else document.get("authorization_servers")
        if document is not None:
            self._read_resource(document)
        if isinstance(servers, list) and servers and isinstance(servers[0], str):
            if len(servers) > 1:
                self.found.odd.append(f"the API names {len(servers)} authorization servers; the first was looked at")
            try:
                _check_transport(servers[0])
            except UsageError as error:
                self.found.odd.append(f"the API names an authorization server that is not asked: {error}")
                return
            yield from self._server_metadata(servers[0])
        else:
            self.found.odd.append("no metadata was found: neither an authorization server's nor an API's")

    def _server_metadata(self, issuer: str) -> Generator[HTTPRequest, HTTPResponse, bool]:
        for place in metadata_urls(issuer):
            document = yield from self._document(place)
            endpoint = None if document is None else document.get("token_endpoint")
            if document is not None and isinstance(endpoint, str):
                self._read_server(issuer, document, endpoint)
                return True
        return False

    def _document(self, url: str) -> Generator[HTTPRequest, HTTPResponse, dict[str, Any] | None]:
        try:
            _check_transport(url)
        except UsageError:
            return None
        response = yield from self._ask(HTTPRequest("GET", url, _JSON, None, signed=False))
        if response is None or response.status != 200:
            return None
        try:
            return forgiving_object(response.body)[0]
        except EncodingError as error:
            self.found.odd.append(f"{url.partition('?')[0]} has something else than metadata: {error}")
            return None

    def _read_server(self, issuer: str, document: Mapping[str, Any], endpoint: str) -> None:
        found = self.found
        found.metadata = document
        named = document.get("issuer")
        found.issuer = named if isinstance(named, str) else issuer
        if named != issuer:
            found.odd.append(f"the metadata is of another issuer than was asked for: {_shown(named)}")
        try:
            _check_transport(endpoint)
        except UsageError:
            found.odd.append("the token endpoint has no TLS, so it was not asked")
        else:
            self.token_endpoint = endpoint
        algs = document.get("dpop_signing_alg_values_supported")
        if not isinstance(algs, list) or not algs:
            found.odd.append("the metadata lists no dpop_signing_alg_values_supported (RFC 9449 §5.1)")
        else:
            found.seen["algorithms"] = sorted(str(alg) for alg in algs)
            unsafe = [str(alg) for alg in algs if str(alg) == "none" or str(alg).startswith("HS")]
            if unsafe:
                found.odd.append(f"the metadata lists {', '.join(unsafe)}, which no proof may use (RFC 9449 §4.2)")
        found.seen["requires pushed requests"] = document.get("require_pushed_authorization_requests") is True
        device = document.get("device_authorization_endpoint")
        if isinstance(device, str):
            found.seen["device endpoint"] = device.partition("://")[2].partition("/")[2]
        methods = document.get("token_endpoint_auth_methods_supported")
        if isinstance(methods, list):
            found.seen["clients without a secret"] = "none" in methods

    def _read_resource(self, document: Mapping[str, Any]) -> None:
        named = document.get("resource")
        self.found.resource = named if isinstance(named, str) else self.found.url
        if named != self.found.url:
            self.found.odd.append(f"the API calls itself {_shown(named)} (RFC 9728 §3.3)")
        self.found.seen["API requires bound tokens"] = document.get("dpop_bound_access_tokens_required") is True

    def _read_challenge(self, response: HTTPResponse) -> str | None:
        """The place of the metadata that a challenge names (RFC 9728 §5.1)."""
        try:
            said = challenges(value for name, value in response.headers if name == "www-authenticate")
        except EncodingError as error:
            self.found.odd.append(f"the API's WWW-Authenticate cannot be read: {error}")
            return None
        self.found.seen["API's schemes"] = sorted(said)
        return next((told["resource_metadata"] for told in said.values() if told.get("resource_metadata")), None)

    # --- proofs

    def ask_about_proofs(self, url: str) -> Generator[HTTPRequest, HTTPResponse, None]:
        """Ask for a nonce, with a bad proof, and with proofs of other times."""
        seen = self.found.seen
        error, _ = yield from self._try(url, proof=False)
        if error in {"invalid_client", "unauthorized_client"}:
            hint = "; it does not know this client" if self._named else "; name a client to find out more (--client-id)"
            self.found.odd.append(f"the server asks who the client is before it looks at a proof{hint}")
            return
        seen["without a proof"] = error
        error, given = yield from self._try(url)
        asks = given is not None and error != "invalid_grant"
        seen["asks for a nonce"] = asks
        if asks:
            seen["error for a nonce"] = error
            error, new = yield from self._try(url, nonce=given)
            again, _ = yield from self._try(url, nonce=given)
            if error == "invalid_grant":
                single = again != "invalid_grant"
                changing = new is not None and new != given
                seen["nonces"] = "single-use" if single else "per-answer" if changing else "rotating"
        elif error not in {"invalid_grant", "invalid_dpop_proof"}:
            told = error or "without an error"
            self.found.odd.append(f"a good proof with a made-up refresh token is answered {told}")
        error, _ = yield from self._retried(url, method="GET")
        seen["bad proof"] = error
        if error == "invalid_grant":
            self.found.odd.append("a proof for another method was accepted: proofs are not checked (RFC 9449 §4.3)")
            return
        for name, sign, ages in (("accepts the past", -1, _PAST), ("accepts the future", 1, _FUTURE)):
            longest = 0
            for age in ages:
                error, _ = yield from self._retried(url, offset=sign * age)
                if error != "invalid_grant":
                    break
                longest = age
            seen[name] = longest

    def _retried(
        self, url: str, *, method: str = "POST", offset: float = 0
    ) -> Generator[HTTPRequest, HTTPResponse, tuple[str | None, str | None]]:
        """Ask with the newest nonce, and once more if the server wants another."""
        error, given = yield from self._try(url, method=method, offset=offset, nonce=self._nonce)
        if given is not None and error == self.found.seen.get("error for a nonce"):
            error, given = yield from self._try(url, method=method, offset=offset, nonce=given)
        return error, given

    def _try(
        self, url: str, *, proof: bool = True, method: str = "POST", nonce: str | None = None, offset: float = 0
    ) -> Generator[HTTPRequest, HTTPResponse, tuple[str | None, str | None]]:
        """Refresh with a made-up token; return the error code, and the nonce that came."""
        now = self._clock()
        audience = self.found.issuer or url
        form = {"grant_type": "refresh_token", "refresh_token": _MADE_UP, **self._auth.parameters(audience, now)}
        headers = [*_FORM, *self._auth.headers()]
        if proof:
            iat = int(now + (self.found.clock or 0) + offset)
            headers.append(("DPoP", create_proof(self._key, method, url, nonce=nonce, iat=iat)))
        body = urlencode(form).encode("ascii")
        response = yield from self._ask(HTTPRequest("POST", url, tuple(headers), body, signed=False))
        if response is None:
            return None, None
        try:
            code = forgiving_object(response.body)[0].get("error")
        except EncodingError:
            code = None
        given = response.header("dpop-nonce")
        try:
            given = None if given is None else check_nonce(given)
        except CredentialError:
            self.found.odd.append("the server sent a DPoP-Nonce that cannot stand in a proof")
            given = None
        self._nonce = given or self._nonce
        return code if isinstance(code, str) and code.isprintable() else None, given

    def _ask(self, request: HTTPRequest) -> Generator[HTTPRequest, HTTPResponse, HTTPResponse | None]:
        """Send one request; measure the clock by its response."""
        begun = self._clock()
        try:
            response = yield request
        except NoResponse as failure:
            if request.url == self.found.url or not self.found.odd:
                self.found.odd.append(f"no response: {failure.reason}")
            return None
        ahead = skew(response.header("date"), begun, self._clock())
        if ahead is not None and self.found.clock is None:
            self.found.clock = round(ahead, 1)
            if abs(ahead) >= _CLOCK_SECONDS:
                way = "ahead of" if ahead > 0 else "behind"
                self.found.odd.append(f"its clock is {abs(ahead):.0f} s {way} this machine's; one of the two is wrong")
        if 300 <= response.status < 400:
            self.found.odd.append(f"{request.url.partition('?')[0]} redirects, which is not followed")
        return response


def _shown(value: object) -> str:
    return ascii(value)[:120]


# --- which profile


def _expected(name: str, found: Examination) -> dict[str, Any]:
    """The facts as a profile has them, by the names of what can be seen."""
    profile = Profile.load(name)
    server = profile.server
    missing = server.missing_proof or "invalid_dpop_proof"
    public = not found.seen.get("client has a secret", False)
    asks = server.as_nonces != "none" and (server.nonces_for == "all" or public)
    expected = {
        "requires pushed requests": server.require_par,
        "without a proof": missing if server.require_proof else "invalid_grant",
        "asks for a nonce": asks,
        "bad proof": server.bad_proof,
        "accepts the past": max((age for age in _PAST if age <= server.max_age), default=0),
        "accepts the future": max((age for age in _FUTURE if age <= server.skew), default=0),
        "clients without a secret": server.public_clients,
        "device endpoint": server.device_path.lstrip("/"),
    }
    if asks:
        expected |= {"nonces": server.as_nonces, "error for a nonce": server.nonce_error}
    if profile.algs is not None:
        expected["algorithms"] = sorted(profile.algs)
    return expected


def _fit(name: str, found: Examination) -> Fit:
    agrees: list[str] = []
    differs: list[str] = []
    for fact, value in _expected(name, found).items():
        if fact == "device endpoint" and found.seen.get(fact) not in {"device_authorization", "device/code"}:
            continue  # elsewhere it is the server's own affair
        if fact in found.seen:
            (agrees if found.seen[fact] == value else differs).append(fact)
    issuers = Profile.load(name).issuers
    if any(fnmatchcase(found.issuer or "", pattern) for pattern in issuers):
        agrees.insert(0, "issuer")
    return Fit(name, tuple(agrees), tuple(differs))


def _rank(fit: Fit) -> tuple[bool, int, int]:
    """Sorts the best first: known by its issuer, then few differences, then many facts that agree."""
    return ("issuer" not in fit.agrees, len(fit.differs), -len(fit.agrees))
