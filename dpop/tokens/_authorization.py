# SPDX-License-Identifier: Apache-2.0
"""Authorization requests, their callbacks, and device codes (RFC 6749 §4.1, RFC 7636, RFC 8628, RFC 9126, RFC 9207).

A browser sends these requests; this module does no I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_encode
from dpop.errors import (
    ArgumentTypeError,
    InvalidTokenResponseError,
    ReauthorizationError,
    TokenRefusedError,
    UsageError,
)
from dpop.tokens._responses import seconds_of

__all__ = [
    "AuthorizationRequest",
    "DeviceAuthorization",
    "new_authorization_request",
    "pushed",
    "read_device_authorization",
]

_log: Final = logging.getLogger("dpop.tokens")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:|[/?]")
_OURS = frozenset({"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method"})


@dataclass(frozen=True, slots=True, repr=False)
class AuthorizationRequest:
    """An authorization request: send the user to :attr:`url`, and keep this object until the callback.

    :param url: the URL for the browser.
    :param redirect_uri: the URL to which the server sends the browser back.
    :param state: a random text that the callback repeats, so that it belongs to this request.
    :param code_verifier: a secret that proves to the token endpoint that this client requested the code (PKCE).
    :param nonce: a random text that the ID token repeats; ``None`` if the scope has no ``openid``.
    """

    url: str
    redirect_uri: str
    state: str
    code_verifier: str
    nonce: str | None = None

    def __repr__(self) -> str:
        return f"<AuthorizationRequest to {self.url.partition('?')[0]}>"

    @hide_frames
    def code_of(self, callback: str, *, issuer: str | None = None, iss_required: bool = False) -> str:
        """Return the code in a callback: the URL to which the browser was sent back, or its query.

        :param issuer: the issuer of the server that got the request (RFC 9207 §2.4).
        :param iss_required: the server always sends ``iss``.
        :raises InvalidTokenResponseError: the callback belongs to another request or to another server.
        :raises ReauthorizationError: the user refused.
        :raises TokenRefusedError: the server refused.
        """
        response = _callback_parameters(callback)
        if "code_challenge" in response or "request_uri" in response:
            raise InvalidTokenResponseError(
                "this is the URL of the login itself; give the one to which the browser was sent back afterwards"
            )
        self._check_state(response)
        iss = response.get("iss")
        if issuer is not None and iss is None and iss_required:
            raise InvalidTokenResponseError(
                "the callback has no iss, which this server promises to send (RFC 9207); it is not used"
            )
        if issuer is not None and iss is not None and iss != issuer:
            raise InvalidTokenResponseError(
                "the callback comes from another server than the request went to: its iss differs; it is not used"
            )
        error = response.get("error")
        if error is not None:
            kind = ReauthorizationError if error == "access_denied" else TokenRefusedError
            raise kind(f"the authorization server says {_said(response)}", error=error)
        code = response.get("code")
        if not code:
            raise InvalidTokenResponseError("the callback has neither a code nor an error; was it copied completely?")
        return code

    def _check_state(self, response: Mapping[str, str]) -> None:
        """Check that the callback belongs to this request (RFC 6749 §10.12).

        :raises InvalidTokenResponseError: it does not, or does not show it.
        """
        state = response.get("state")
        if state is None:
            if "error" in response:
                raise InvalidTokenResponseError(
                    f"the callback has an error but no state, so it may belong to any request; it says"
                    f" {_said(response)}"
                )
            if "response" in response:
                raise InvalidTokenResponseError(
                    "the callback is a signed response (JARM), which is not supported; request response_mode=query"
                )
            raise InvalidTokenResponseError("the callback has no state; it is not used")
        if not hmac.compare_digest(state.encode("utf-8", "replace"), self.state.encode()):
            raise InvalidTokenResponseError(
                "the state of the callback is not that of this request: it belongs to an older login or to somebody"
                " else; it is not used"
            )


def _callback_parameters(callback: object) -> dict[str, str]:
    """Return the parameters of a callback URL or query.

    :raises ArgumentTypeError: not a str.
    :raises InvalidTokenResponseError: there are no parameters, or one is given twice.
    """
    if not isinstance(callback, str):
        raise ArgumentTypeError("callback", "the URL to which the browser was sent back, a str", callback)
    # As copied from a mail, a log or a terminal that wraps lines.
    callback = "".join(callback.split()).strip("\"'<>").replace("&amp;", "&")
    try:
        parts = urlsplit(callback)
        query = parts.query if _URL.match(callback) else callback.lstrip("?")
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50)
    except ValueError:
        raise InvalidTokenResponseError(
            "the callback is not a URL, or has too many parameters; it is not used"
        ) from None
    if not callback:
        raise InvalidTokenResponseError("the callback is empty; give the complete URL to which the browser was sent")
    if not pairs or "=" not in query or callback.startswith("#"):
        if parts.fragment:
            raise InvalidTokenResponseError(
                "the callback has its parameters after a #, in the fragment; request response_mode=query"
            )
        raise InvalidTokenResponseError("the callback has no parameters; give the complete URL with its query")
    response = dict(pairs)
    if len(response) != len(pairs):
        raise InvalidTokenResponseError("the callback has a parameter twice; it is not used")
    return response


def _said(response: Mapping[str, str]) -> str:
    said = f"{response['error']}: {response.get('error_description', '')}"
    return "".join(character for character in said if character.isprintable())[:300]


def new_authorization_request(
    endpoint: str, client_id: str, redirect_uri: str, more: list[tuple[str, str]]
) -> tuple[AuthorizationRequest, list[tuple[str, str]]]:
    """Make a request with fresh ``state`` and PKCE verifier; also return its parameters, without ``client_id``.

    If the scope has ``openid``, it also has a ``nonce`` (OpenID Connect Core §3.1.2.1), unless ``more`` contains one.

    :raises UsageError: ``more`` contains a parameter that this function sets.
    """
    taken = sorted(_OURS & {name for name, _ in more})
    if taken:
        raise UsageError(f"{', '.join(taken)} cannot be given: start_authorization sets it")
    nonce = next((value for name, value in more if name == "nonce"), None)
    if nonce is None and any(name == "scope" and "openid" in value.split() for name, value in more):
        nonce = secrets.token_urlsafe(24)
        more = [*more, ("nonce", nonce)]
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    parameters = [
        ("response_type", "code"),
        ("redirect_uri", redirect_uri),
        ("state", state),
        ("code_challenge", b64url_encode(hashlib.sha256(verifier.encode("ascii")).digest())),
        ("code_challenge_method", "S256"),
        *more,
    ]
    url = _with_query(endpoint, [("client_id", client_id), *parameters])
    return AuthorizationRequest(url, redirect_uri, state, verifier, nonce), parameters


def pushed(
    request: AuthorizationRequest, endpoint: str, client_id: str, response: Mapping[str, Any]
) -> AuthorizationRequest:
    """Return a pushed request with the ``request_uri`` of the server (RFC 9126 §4)."""
    uri = response.get("request_uri")
    if not isinstance(uri, str) or not uri:
        raise InvalidTokenResponseError("the response to the pushed authorization request has no request_uri")
    return replace(request, url=_with_query(endpoint, [("client_id", client_id), ("request_uri", uri)]))


def _with_query(endpoint: str, pairs: list[tuple[str, str]]) -> str:
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(pairs, doseq=True)}"


_MAX_INTERVAL: Final = 300.0
_INTERVAL: Final = 5.0  # RFC 8628 §3.2
_MAX_LIFETIME: Final = 86_400.0
_LIFETIME: Final = 900.0


@dataclass(frozen=True, slots=True, repr=False)
class DeviceAuthorization:
    """The codes of a device authorization: one to show to the user, and one to poll with (RFC 8628 §3.2).

    :param device_code: identifies this authorization at the token endpoint. A secret.
    :param user_code: the code that the user enters at ``verification_uri``.
    :param verification_uri_complete: ``verification_uri`` with the code, for a QR code; not all servers send it.
    :param expires_at: Unix seconds.
    :param interval: seconds between two polls.
    :param scope: the requested scope.
    """

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_at: float
    interval: float
    scope: str | None = None

    def __repr__(self) -> str:
        return f"<DeviceAuthorization at {self.verification_uri}>"


def read_device_authorization(
    members: Mapping[str, Any], asked_at: float, scope: str | None = None
) -> DeviceAuthorization:
    """Read the response of a device authorization endpoint.

    Numbers may be strings; a missing or unusable number is replaced with a usual value.

    :raises InvalidTokenResponseError: a code or the address is missing or cannot be shown.
    """
    texts = {}
    # Google uses the draft's name for the address.
    for name, other in (("device_code", ""), ("user_code", ""), ("verification_uri", "verification_url")):
        value = members.get(name) or members.get(other)
        if name != "verification_uri" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # a code of digits
        value = value.strip() if isinstance(value, str) else value
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise InvalidTokenResponseError(f"the response of the device authorization endpoint has no {name}")
        texts[name] = value
    complete = members.get("verification_uri_complete") or members.get("verification_url_complete")
    return DeviceAuthorization(
        **texts,
        verification_uri_complete=complete if isinstance(complete, str) and complete.isprintable() else None,
        expires_at=asked_at + _seconds(members, "expires_in", _LIFETIME, _MAX_LIFETIME),
        interval=_seconds(members, "interval", _INTERVAL, _MAX_INTERVAL),
        scope=scope,
    )


def _seconds(members: Mapping[str, Any], name: str, usual: float, limit: float) -> float:
    seconds = seconds_of(members.get(name))
    if seconds is None or seconds < 0:
        if members.get(name) is not None:
            _log.warning("the device authorization has an unusable %s; %.0f s are used instead", name, usual)
        return usual
    return min(float(seconds), limit)
