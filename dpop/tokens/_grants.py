# SPDX-License-Identifier: Apache-2.0
"""The requests of one client to one authorization server, and how their responses are read.

Each method is a generator of steps (:mod:`dpop.tokens._steps`) and does no I/O. The methods for users, in
:mod:`dpop.tokens._endpoint`, run the steps; the integrations send the requests.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, urlencode

from dpop._client_auth import ClientAuth, PrivateKeyJWT, PublicClient, TLSClientAuth, client_auth_of
from dpop._tracebacks import hide_frames
from dpop.client._events import timed
from dpop.client._nonces import Role
from dpop.client._policy import checked_origins
from dpop.client._prover import Prover
from dpop.encoding import json_object
from dpop.errors import (
    ArgumentTypeError,
    EncodingError,
    InvalidTokenResponseError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenRefusedError,
    TokenRequestError,
    UsageError,
)
from dpop.htu import canonical
from dpop.origin import Origin
from dpop.profiles import RFC9449, Profile
from dpop.tokens._authorization import (
    AuthorizationRequest,
    DeviceAuthorization,
    new_authorization_request,
    pushed,
    read_device_authorization,
)
from dpop.tokens._dead_grants import FACTS, Refusals
from dpop.tokens._id_token_check import IDTokenCheck
from dpop.tokens._key_reference import key_reference_of
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._responses import is_success, json_response, raise_refusal, read_tokens
from dpop.tokens._steps import Blocking, HTTPRequest, HTTPResponse, NoResponse, Pause, Steps
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["Grants", "Parameter"]

_FORM: Final = ("Content-Type", "application/x-www-form-urlencoded")
_JSON: Final = ("Accept", "application/json")
_SECRETS: Final = frozenset(
    {"refresh_token", "code", "code_verifier", "client_secret", "client_assertion", "token", "device_code",
     "password", "assertion", "subject_token", "actor_token"}
)  # fmt: skip
_MAX_DEPTH: Final = 16
_MAY_BE_SIGNED: Final = ("revocation", "introspection", "device_authorization")
_PUSH_LATER: Final = "no tokens were asked for yet: try again later, or leave the push out with push=False"
_TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a name
_JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"  # noqa: S105 - the beginning of names (RFC 8693 §3)
_DEVICE_CODE: Final = "urn:ietf:params:oauth:grant-type:device_code"

_MAX_POLL_BACKOFF: Final = 40.0

Parameter = str | Iterable[str] | None
"""A form parameter: a ``str``, or several, which are sent one after the other; ``None`` is not sent."""


class Grants:
    """The requests of one client with one key to one authorization server, and what their responses mean.

    :param server: the URL of the token endpoint, or the server's :class:`ServerMetadata`.
    :raises UsageError: the arguments contradict each other.
    :raises InsecureOriginError: an endpoint is http:// and not on this machine.
    :raises AlgorithmError: the key has none of the server's algorithms.
    """

    @hide_frames
    def __init__(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        client_id: str | None = None,
        client_secret: str | None = None,
        client_auth: str | ClientAuth | None = None,
        profile: Profile | str = RFC9449,
        allow_bearer: bool | None = None,
        signed_endpoints: Iterable[str] | None = None,
        key_reference: str | None = None,
        insecure_origins: str | Iterable[str] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        profile = Profile.of(profile)
        self.server: ServerMetadata = (
            server if isinstance(server, ServerMetadata) else ServerMetadata(token_endpoint=server)
        )
        prover = Prover.of(prover)
        algs = profile.algs or self.server.dpop_algs
        self.prover: Prover = prover.for_algs(algs) if algs else prover
        self.client_auth: ClientAuth = client_auth_of(
            client_id, client_secret, client_auth, self.server.client_auth_methods
        )
        if isinstance(self.client_auth, PrivateKeyJWT):
            self.client_auth = self.client_auth.following(
                typ=profile.assertion_typ, lifetime=profile.assertion_life, nbf=profile.assertion_nbf
            )
        # Tokens may have come from either: a client can change its authentication.
        self._token_endpoints = {canonical(self.server.token_endpoint)}
        if isinstance(self.client_auth, TLSClientAuth):
            self.server = self.server.with_aliases()
            self._token_endpoints.add(canonical(self.server.token_endpoint))
        own_key = getattr(self.client_auth, "key", None)
        if own_key is not None and own_key.thumbprint == prover.thumbprint:
            raise UsageError(
                "the client authenticates with the key that signs its proofs; use another key (RFC 7523 §3)"
            )
        self.profile: Profile = profile
        self.allow_bearer: bool = profile.allow_bearer if allow_bearer is None else allow_bearer
        self._signed = _names_of_endpoints(profile.signed_endpoints if signed_endpoints is None else signed_endpoints)
        self.key_reference: str | None = key_reference_of(prover.key, key_reference)
        self.clock: Callable[[], float] = clock
        self.refresh_parameters: Mapping[str, Parameter] = {}
        self.rebinds: bool = False
        self._refusals = Refusals()
        urls = [url for name in dir(self.server) if (url := self._url(name))]
        if self.server.jwks_uri is not None:
            urls.append(self.server.jwks_uri)
        checked_origins([str(Origin.of_url(url)) for url in urls], insecure_origins)
        self._id_tokens = IDTokenCheck(self.server, self.client_auth, insecure_origins, clock)

    def __repr__(self) -> str:
        return f"<Grants of {self.client_auth.client_id} at {self.server.token_endpoint.partition('?')[0]}>"

    def _url(self, name: str) -> str | None:
        value = getattr(self.server, name) if name.endswith("_endpoint") else None
        return value if isinstance(value, str) else None

    @property
    def signed_endpoints(self) -> tuple[str, ...]:
        """The URLs whose requests carry a proof.

        These are the token and the pushed authorization request endpoint (RFC 9449 §5, §10.1), and those that the
        profile or ``signed_endpoints=`` adds.
        """
        urls = (self._url(f"{name}_endpoint") for name in ("token", *self._signed))
        return tuple(url for url in urls if url is not None)

    def rebuild(self, body: bytes) -> bytes:
        """Rebuild the form with a new client assertion, for a retry with a nonce."""
        fields = dict(parse_qsl(body.decode("ascii"), keep_blank_values=True))
        pairs = [
            (name, value)
            for name, value in parse_qsl(body.decode("ascii"), keep_blank_values=True)
            if name != "client_assertion"
        ]
        assertion = self.client_auth.parameters(self._audience(), self.clock())["client_assertion"]
        return _form([*pairs, ("client_assertion", assertion)]) if "client_assertion" in fields else body

    def refreshing_with(self, parameters: Mapping[str, Parameter]) -> Grants:
        """Return a copy that sends these parameters with every refresh, such as ``scope`` or ``resource``."""
        _pairs(parameters)  # a wrong type is an error now, not at a refresh hours later
        clone = copy.copy(self)
        clone.refresh_parameters = {name: value for name, value in parameters.items() if value is not None}
        return clone

    def rebinding(self) -> Grants:
        """A copy whose refreshes go out with this key, whichever key the tokens are bound to (RFC 9449 §5).

        :raises UsageError: the client is a public one, whose refresh tokens are bound to their key for good.
        """
        if type(self.client_auth) is PublicClient:
            raise UsageError(
                "the refresh tokens of a public client are bound to their key for good (RFC 9449 §5); nothing was sent."
                " Log in with the new key"
            )
        made = copy.copy(self)
        made.rebinds = True
        return made

    # -- tokens

    def grant(
        self, grant_type: str, parameters: Mapping[str, Parameter], *, before: TokenSet | None = None
    ) -> Steps[TokenSet]:
        """Request tokens with any grant (RFC 6749 §4).

        :param before: the tokens that a refresh is to replace.
        """
        pairs = [("grant_type", grant_type), *_pairs(parameters)]
        asked_at = self.clock()
        try:
            response = yield (yield from self._post(self.server.token_endpoint, pairs, signed=True))
        except NoResponse as failure:
            raise self._unanswered(grant_type, failure) from failure
        scope = parameters.get("scope")
        resource = tuple(value for name, value in pairs if name == "resource")
        refresh_token = "" if before is None else before.refresh_token or ""
        try:
            tokens = read_tokens(
                response,
                asked_at=asked_at,
                jkt=self.prover.thumbprint,
                allow_bearer=self.allow_bearer,
                secrets=self._secrets(pairs),
                scope=scope if isinstance(scope, str) else None,
                before=before,
                key_reference=self.key_reference or (before.key_reference if before is not None else None),
                token_endpoint=self.server.token_endpoint,
                client_id=self.client_auth.client_id,
                resource=resource,
            )
        except TokenRequestError as error:
            raise self._refusals.judge(refresh_token, error, before) from None
        self._refusals.forget(refresh_token)
        if before is not None:
            self._id_tokens.look_at_refreshed(tokens, before)
        return tokens

    def redeem_code(
        self,
        code: str,
        redirect_uri: str | None,
        code_verifier: str | None,
        more: Mapping[str, Parameter],
        *,
        nonce: str | None = None,
        id_token_key: object = None,
    ) -> Steps[TokenSet]:
        """Exchange an authorization code (RFC 6749 §4.1.3, RFC 7636 §4.5).

        :param nonce: of the authorization request; the ID token is verified if it is given.
        """
        if not isinstance(code, str) or not code:
            raise ArgumentTypeError("code", "the authorization code, a str", code)
        _check_whole("code", code)
        parameters = {"code": code, "redirect_uri": redirect_uri, "code_verifier": code_verifier, **more}
        steps = self.grant("authorization_code", parameters)
        if nonce is None:
            return (yield from steps)
        return (yield from self._id_tokens.during(steps, nonce=nonce, code=code, id_token_key=id_token_key))

    def exchange(
        self,
        subject: TokenSet | str,
        more: Mapping[str, Parameter],
        *,
        subject_type: str = "access_token",
        actor: TokenSet | str | None = None,
        actor_type: str = "access_token",
        wanted_type: str | None = None,
    ) -> Steps[TokenSet]:
        """Exchange a token for another one (RFC 8693 §2.1); types may be given without their long beginning."""
        parameters: dict[str, Parameter] = {
            "subject_token": _text_of("subject token", subject, subject_type),
            "subject_token_type": _type_of(subject_type),
        }
        if actor is not None:
            parameters |= {
                "actor_token": _text_of("actor token", actor, actor_type),
                "actor_token_type": _type_of(actor_type),
            }
        if wanted_type is not None:
            parameters["requested_token_type"] = _type_of(wanted_type)
        return self.grant(_TOKEN_EXCHANGE, {**parameters, **more})

    def redeem_assertion(self, assertion: str, more: Mapping[str, Parameter]) -> Steps[TokenSet]:
        """Exchange an assertion of another issuer for tokens (RFC 7523 §2.1)."""
        if not isinstance(assertion, str) or not assertion:
            raise ArgumentTypeError("assertion", "a JWT, a str", assertion)
        _check_whole("assertion", assertion)
        return self.grant(_JWT_BEARER, {"assertion": assertion, **more})

    def refresh(
        self, tokens: TokenSet | str, more: Mapping[str, Parameter], *, rebind: bool = False
    ) -> Steps[TokenSet]:
        """Use a refresh token (RFC 6749 §6, RFC 9449 §5); one that is bound to another key is not sent.

        The resources of the first request are requested again (RFC 8707 §2.2).
        """
        if isinstance(tokens, str):
            _check_whole("refresh token", tokens)
            tokens = TokenSet(access_token="none", refresh_token=tokens)  # noqa: S106 - a placeholder
        if not isinstance(tokens, TokenSet):
            raise ArgumentTypeError("tokens", "a TokenSet or a refresh token", tokens)
        self.check(tokens, rebind=rebind)
        remembered = {"resource": tokens.resource} if tokens.resource else {}
        parameters = {"refresh_token": tokens.refresh_token, **remembered, **self.refresh_parameters, **more}
        return self._timed(self.grant("refresh_token", parameters, before=tokens))

    def _timed(self, steps: Steps[TokenSet]) -> Steps[TokenSet]:
        with timed(self.prover.events, "refreshed", Origin.of_url(self.server.token_endpoint), Role.AS):
            return (yield from steps)

    def check(self, tokens: TokenSet, *, rebind: bool = False) -> None:
        """Check that these tokens can be refreshed here with this key, before anything is sent.

        :param rebind: a confidential client may change its key, because its refresh tokens are bound to its
            authentication instead (RFC 9449 §5).
        :raises KeyMismatchError: the tokens are bound to another key.
        :raises UsageError: the tokens came from another server, or belong to another client.
        :raises ReauthorizationError: there is no refresh token.
        """
        if not tokens.refresh_token:
            raise ReauthorizationError("there is no refresh token; the user has to authorise again")
        if not (rebind or self.rebinds):
            tokens.check_key(self.prover.thumbprint)
        if tokens.token_endpoint and canonical(tokens.token_endpoint) not in self._token_endpoints:
            raise UsageError(
                f"the tokens came from {tokens.token_endpoint.partition('?')[0]}, but would go to another server;"
                " nothing was sent"
            )
        if tokens.client_id and tokens.client_id != self.client_auth.client_id:
            raise UsageError("the tokens were issued to another client_id than this endpoint's; nothing was sent")

    # -- other endpoints

    def revoke(self, token: str, hint: str | None) -> Steps[None]:
        """Revoke a token (RFC 7009); with a proof only if the server needs one."""
        yield from self._call("revocation", {"token": token, "token_type_hint": hint})

    def introspect(self, token: str, hint: str | None) -> Steps[Mapping[str, Any]]:
        """Ask the server about a token (RFC 7662, RFC 9449 §6.2); with a proof only if the server needs one."""
        response = yield from self._call("introspection", {"token": token, "token_type_hint": hint})
        try:
            members = json_object(response.body, max_depth=_MAX_DEPTH)
        except EncodingError as error:
            raise InvalidTokenResponseError(
                f"the response of the introspection endpoint cannot be read: {error}", status=response.status
            ) from None
        if not isinstance(members.get("active"), bool):
            raise InvalidTokenResponseError(
                "the response of the introspection endpoint does not say whether the token is active"
            )
        return members

    def start_authorization(
        self,
        redirect_uri: str,
        scope: str | None,
        more: Mapping[str, Parameter],
        *,
        push: bool | None,
        dpop_jkt: bool | None,
    ) -> Steps[AuthorizationRequest]:
        """Make an authorization request with PKCE; push it if the server has an endpoint for that."""
        endpoint = self.server.endpoint("authorization")
        if dpop_jkt is None:
            dpop_jkt = self.profile.dpop_jkt
        can_push = self.server.pushed_authorization_request_endpoint is not None
        if push is None:
            push = can_push
        request, pairs = new_authorization_request(
            endpoint,
            self.client_auth.client_id,
            redirect_uri,
            _pairs({"scope": scope, "dpop_jkt": self.prover.thumbprint if dpop_jkt else None, **more}),
        )
        if not push:
            return request
        response = yield from self._call("pushed_authorization_request", pairs, named=True, later=_PUSH_LATER)
        return pushed(request, endpoint, self.client_auth.client_id, json_response(response, "the PAR endpoint"))

    def finish_authorization(
        self,
        request: AuthorizationRequest,
        callback: str,
        more: Mapping[str, Parameter],
        *,
        id_token_key: object = None,
    ) -> Steps[TokenSet]:
        """Redeem the code of a callback, after checking that the callback belongs to the request."""
        code = request.code_of(callback, issuer=self.server.issuer, iss_required=self.server.iss_in_responses)
        return self.redeem_code(
            code,
            request.redirect_uri,
            request.code_verifier,
            more,
            nonce=request.nonce,
            id_token_key=id_token_key,
        )

    def start_device(
        self, scope: str | None, more: Mapping[str, Parameter], *, dpop_jkt: bool = False
    ) -> Steps[DeviceAuthorization]:
        """Ask for codes a user types in on another device (RFC 8628 §3.1)."""
        asked_at = self.clock()
        jkt = self.prover.thumbprint if dpop_jkt else None
        response = yield from self._call("device_authorization", {"scope": scope, "dpop_jkt": jkt, **more})
        members = json_response(response, "the device authorization endpoint")
        return read_device_authorization(members, asked_at, scope)

    def poll_device(self, device: DeviceAuthorization, *, id_token_key: object = None) -> Steps[TokenSet]:
        """Poll until the user has decided (RFC 8628 §3.4, §3.5), with a new proof each time."""
        steps = self._poll(device)
        if "openid" not in (device.scope or "").split():
            return (yield from steps)
        return (yield from self._id_tokens.during(steps, nonce=None, code=None, id_token_key=id_token_key))

    def _poll(self, device: DeviceAuthorization) -> Steps[TokenSet]:
        interval = device.interval
        trouble: Exception | None = None
        while self.clock() < device.expires_at:
            yield Pause(interval)
            trouble = None
            try:
                tokens = yield from self.grant(_DEVICE_CODE, {"device_code": device.device_code})
                return tokens if tokens.scope is not None else tokens.replace(scope=device.scope)
            except TokenRefusedError as error:
                if error.error == "slow_down":
                    interval += 5.0
                elif error.error == "expired_token":
                    raise ReauthorizationError(
                        "the server says that the codes have expired; ask for new ones",
                        error=error.error,
                        description=error.description,
                        status=error.status,
                    ) from error
                elif error.error == "access_denied":
                    facts = {name: getattr(error, name) for name in FACTS}
                    raise TokenRefusedError(f"the user has refused: {error}", **facts) from error
                elif error.error != "authorization_pending":
                    raise
            except (TokenEndpointUnavailableError, OutcomeUnknownError) as error:
                trouble = error
                # RFC 8628 §3.5 asks for exponential backoff; without a bound the codes would expire before the next.
                interval = max(interval, min(interval * 2, _MAX_POLL_BACKOFF))
        if trouble is not None:
            raise ReauthorizationError(
                f"the codes have expired, and the last question failed: {trouble}; ask for new codes",
                error="expired_token",
            ) from trouble
        raise ReauthorizationError(
            "the user did not decide before the codes expired; ask for new ones", error="expired_token"
        )

    def verify_id_token(self, tokens: TokenSet, nonce: str | None, id_token_key: object) -> Steps[Mapping[str, Any]]:
        """Verify the ID token of a token set with the server's keys as they are now; returns its claims."""
        return self._id_tokens.claims_of(tokens, nonce=nonce, id_token_key=id_token_key)

    # -- messages

    def _call(
        self,
        name: str,
        parameters: Mapping[str, Parameter] | list[tuple[str, str]],
        *,
        named: bool = False,
        later: str = "try again later",
    ) -> Steps[HTTPResponse]:
        what = f"the {name.replace('_', ' ')} endpoint"
        pairs = parameters if isinstance(parameters, list) else _pairs(parameters)
        try:
            signed = name in self._signed
            request = yield from self._post(self.server.endpoint(name), pairs, signed=signed, named=named)
            response: HTTPResponse = yield request
        except NoResponse as failure:
            outcome = "got the request, but did not respond" if failure.sent else "cannot be reached"
            nothing = "" if failure.sent else "nothing was sent, "
            raise TokenEndpointUnavailableError(
                f"{what} {outcome} ({failure.reason}); {nothing}try again later"
            ) from failure
        if not is_success(response):
            raise_refusal(response, what, self._secrets(pairs), later=later)
        return response

    def _post(self, url: str, pairs: list[tuple[str, str]], *, signed: bool, named: bool = False) -> Steps[HTTPRequest]:
        """Make a POST request with client authentication.

        :param named: add the ``client_id``, even if the client authenticates without it.
        """
        audience, now = self._audience(), self.clock()
        own: dict[str, str]
        if self._may_wait_to_authenticate:
            own = yield Blocking(lambda: self.client_auth.parameters(audience, now))
        else:
            own = self.client_auth.parameters(audience, now)
        if named:  # RFC 9126 §2.1
            own = {"client_id": self.client_auth.client_id, **own}
        pairs = [*pairs, *own.items()]
        names = [name for name, _ in pairs]
        for name in ("client_id", "client_secret", "client_assertion", "grant_type"):
            if names.count(name) > 1:
                raise UsageError(f"the parameter {name} is set by the endpoint itself; leave it out")
        headers = (_FORM, _JSON, *self.client_auth.headers())
        return HTTPRequest("POST", url, headers, _form(pairs), signed)

    @property
    def _may_wait_to_authenticate(self) -> bool:
        """Whether authentication may wait for a device or service with the key of the assertions."""
        if not self.client_auth.makes_assertions:
            return False
        return bool(getattr(getattr(self.client_auth, "key", None), "blocking", True))

    def _audience(self) -> str:
        """The audience of a client assertion."""
        if self.profile.assertion_audience == "issuer" and self.server.issuer:
            return self.server.issuer
        return self.server.token_endpoint

    def _secrets(self, pairs: list[tuple[str, str]]) -> list[str]:
        return [value for name, value in pairs if name in _SECRETS]

    def _unanswered(self, grant_type: str, failure: NoResponse) -> Exception:
        if not failure.sent:
            return TokenEndpointUnavailableError(
                f"the token endpoint cannot be reached ({failure.reason}); nothing was sent, try again later"
            )
        next_step = {
            "authorization_code": "the code may be used up: begin a new authorization",
            "refresh_token": (
                "refresh once more with the same refresh token; if that is refused as invalid_grant, the server"
                " had replaced it, and the user has to authorise again"
            ),
        }.get(grant_type, "ask again")
        return OutcomeUnknownError(f"the token endpoint did not respond to a request ({failure.reason}); {next_step}")


def _names_of_endpoints(further: Iterable[str]) -> tuple[str, ...]:
    """Return the endpoints, besides the token endpoint, whose requests carry a proof.

    :raises UsageError: one of them is not known.
    """
    names = (further,) if isinstance(further, str) else tuple(further)
    unknown = [name for name in names if name not in _MAY_BE_SIGNED]
    if unknown:
        raise UsageError(
            f"signed_endpoints names {unknown[0]!r:.60}; the token and the pushed authorization request endpoint always"
            f" get a proof, and these can be added: {', '.join(_MAY_BE_SIGNED)}"
        )
    return ("pushed_authorization_request", *names)


def _type_of(name: str) -> str:
    """A token type (RFC 8693 §3); a short one is the end of a registered one."""
    return name if ":" in name else _TOKEN_TYPE + name


def _text_of(what: str, token: TokenSet | str, token_type: str) -> str:
    """The token to send: of a set the one of that type."""
    if isinstance(token, TokenSet):
        name = _type_of(token_type).removeprefix(_TOKEN_TYPE)
        held = {"refresh_token": token.refresh_token, "id_token": token.id_token}.get(name, token.access_token)
        if not held:
            raise UsageError(f"the token set has no {name.replace('_', ' ')} to exchange")
        return held
    if not isinstance(token, str) or not token:
        raise ArgumentTypeError(what.replace(" ", "_"), "a TokenSet or a token, a str", token)
    _check_whole(what, token)
    return token


def _check_whole(what: str, text: str) -> None:
    """Check that a code or token has no extra characters from copy and paste.

    :raises UsageError: the text has white space or quotes around it.
    """
    if text != text.strip():
        around = "a line break" if text != text.strip("\r\n") else "white space"
        raise UsageError(f"the {what} has {around} around it; strip() it")
    if len(text) > 1 and text[0] in "\"'" and text[0] == text[-1]:
        raise UsageError(f"the {what} has quotes around it; leave them out")


def _pairs(parameters: Mapping[str, Parameter]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        if value is not None and not isinstance(value, Iterable):
            raise ArgumentTypeError(name, "a str or several", value)
        for each in [value] if isinstance(value, str) else value or ():
            if not isinstance(each, str):
                raise ArgumentTypeError(name, "a str or several", each)
            pairs.append((name, each))
    return pairs


def _form(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Encode a form (RFC 6749 appendix B)."""
    # doseq takes a str as it is; without it urlencode calls str(), and a subclass may show itself otherwise.
    return urlencode(list(pairs), doseq=True).encode("ascii")
