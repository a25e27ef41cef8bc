# SPDX-License-Identifier: Apache-2.0
"""Authorization requests: PKCE, state, and what comes back (RFC 6749 §4.1, RFC 7636, RFC 9126, RFC 9207).

A request is made here and sent by a browser; no I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from dpop.encoding import b64url_encode
from dpop.errors import InvalidTokenResponseError, ReauthorizationError, TokenRefusedError, UsageError

__all__ = [
    "AuthorizationRequest",
    "DeviceAuthorization",
    "new_authorization_request",
    "pushed",
    "read_device_authorization",
]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:|[/?]")
_OURS = frozenset({"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method"})


@dataclass(frozen=True, slots=True, repr=False)
class AuthorizationRequest:
    """One authorization request: send the user to :attr:`url`, keep the rest until they come back.

    :param url: for the browser.
    :param state: comes back with the answer, and ties it to this request.
    :param code_verifier: proves at the token endpoint that the code was asked for here. A secret.
    """

    url: str
    redirect_uri: str
    state: str
    code_verifier: str

    def __repr__(self) -> str:
        return f"<AuthorizationRequest to {self.url.partition('?')[0]}>"

    def code_of(self, callback: str, *, issuer: str | None = None, iss_required: bool = False) -> str:
        """The code in the URL, or query, that the user came back with.

        :param issuer: of the server that was asked (RFC 9207 §2.4).
        :param iss_required: the server always sends ``iss``.
        :raises InvalidTokenResponseError: it is not the answer to this request, or another server's.
        :raises ReauthorizationError: the user said no.
        :raises TokenRefusedError: the server did.
        """
        try:
            query = urlsplit(callback).query if _URL.match(callback) else callback
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise InvalidTokenResponseError(
                "what came back is no URL, or has too many parameters; the answer is not used"
            ) from None
        response = dict(pairs)
        if len(response) != len(pairs):
            raise InvalidTokenResponseError("a parameter came back twice; the answer is not used")
        if not hmac.compare_digest(response.get("state", "").encode("utf-8", "replace"), self.state.encode()):
            raise InvalidTokenResponseError(
                "the state that came back is not that of this request; the answer is not used"
            )
        iss = response.get("iss")
        if issuer is not None and (iss is not None or iss_required) and iss != issuer:
            raise InvalidTokenResponseError("the answer is not that of the server that was asked: its iss differs")
        error = response.get("error")
        if error is not None:
            shown = "".join(c for c in f"{error}: {response.get('error_description', '')}" if c.isprintable())[:300]
            kind = ReauthorizationError if error == "access_denied" else TokenRefusedError
            raise kind(f"the authorization server says {shown}", error=error)
        code = response.get("code")
        if not code:
            raise InvalidTokenResponseError("neither a code nor an error came back")
        return code


def new_authorization_request(
    endpoint: str, client_id: str, redirect_uri: str, more: list[tuple[str, str]]
) -> tuple[AuthorizationRequest, list[tuple[str, str]]]:
    """A request with fresh ``state`` and PKCE verifier, and its parameters without ``client_id``.

    :raises UsageError: ``more`` sets what is set here.
    """
    taken = sorted(_OURS & {name for name, _ in more})
    if taken:
        raise UsageError(f"{', '.join(taken)} cannot be given: the authorization request sets it itself")
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
    return AuthorizationRequest(url, redirect_uri, state, verifier), parameters


def pushed(
    request: AuthorizationRequest, endpoint: str, client_id: str, response: Mapping[str, Any]
) -> AuthorizationRequest:
    """The same request, by the ``request_uri`` it was given when it was pushed (RFC 9126 §4)."""
    uri = response.get("request_uri")
    if not isinstance(uri, str) or not uri:
        raise InvalidTokenResponseError("the answer to the pushed authorization request has no request_uri")
    return replace(request, url=_with_query(endpoint, [("client_id", client_id), ("request_uri", uri)]))


def _with_query(endpoint: str, pairs: list[tuple[str, str]]) -> str:
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(pairs)}"


_MAX_INTERVAL: Final = 300.0
_MAX_LIFETIME: Final = 86_400.0


@dataclass(frozen=True, slots=True, repr=False)
class DeviceAuthorization:
    """What to show the user, and what to ask with (RFC 8628 §3.2).

    :param user_code: to type in at ``verification_uri``.
    :param verification_uri_complete: the same with the code in it, for a QR code; not every server has it.
    :param expires_at: Unix seconds.
    :param interval: seconds between two questions.
    """

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_at: float
    interval: float

    def __repr__(self) -> str:
        return f"<DeviceAuthorization at {self.verification_uri}>"


def read_device_authorization(members: Mapping[str, Any], asked_at: float) -> DeviceAuthorization:
    """The codes in an answer.

    :raises InvalidTokenResponseError: one is missing, or a number makes no sense.
    """
    texts = {}
    for name in ("device_code", "user_code", "verification_uri"):
        value = members.get(name)
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise InvalidTokenResponseError(f"the answer of the device authorization endpoint has no {name}")
        texts[name] = value
    complete = members.get("verification_uri_complete")
    return DeviceAuthorization(
        **texts,
        verification_uri_complete=complete if isinstance(complete, str) and complete.isprintable() else None,
        expires_at=asked_at + _number(members, "expires_in", None, _MAX_LIFETIME),
        interval=_number(members, "interval", 5.0, _MAX_INTERVAL),
    )


def _number(members: Mapping[str, Any], name: str, default: float | None, limit: float) -> float:
    value = members.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise InvalidTokenResponseError(
            f"the answer of the device authorization endpoint has no {name} that makes sense"
        )
    return float(value)
