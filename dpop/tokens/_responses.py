# SPDX-License-Identifier: Apache-2.0
"""Reading what an authorization server answers: tokens, or an error of our tree.

Strict, for what is read here is stored: an answer with two meanings, or none, is refused whole and the
tokens there were before stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, NoReturn

from dpop.encoding import check_access_token, json_object
from dpop.errors import (
    CredentialError,
    EncodingError,
    InvalidTokenResponseError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenRefusedError,
    UnboundTokenError,
)
from dpop.redaction import redact
from dpop.tokens._steps import MAX_RESPONSE, HTTPResponse
from dpop.tokens._token_set import TokenSet

__all__ = ["json_response", "raise_refusal", "read_tokens"]

_MAX_DEPTH: Final = 16
_MAX_SECONDS: Final = 10 * 366 * 86_400
_MAX_TEXT: Final = 300
_ERROR: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,100}\Z")  # RFC 6749 §5.2
_TOKEN_TYPE: Final = re.compile(r"[A-Za-z0-9\-._~:/?#%+]{1,100}\Z")
_REFRESH_TOKEN: Final = re.compile(r"[\x20-\x7e]{1,65536}\Z")  # RFC 6749 A.17
_OURS: Final = frozenset(
    {"access_token", "token_type", "expires_in", "refresh_token", "refresh_token_expires_in", "scope", "id_token"}
)

# Refusals of the proof or of the moment, not of the grant: the refresh token was not used.
_PASSING: Final = frozenset({"invalid_dpop_proof", "use_dpop_nonce", "temporarily_unavailable", "server_error"})


def json_response(response: HTTPResponse, what: str) -> dict[str, Any]:
    """The JSON object in an answer.

    :param what: names the answer in messages, such as "the token endpoint".
    :raises InvalidTokenResponseError: it holds none, or too much.
    """
    if len(response.body) > MAX_RESPONSE:
        raise InvalidTokenResponseError(f"{what} answered with more than {MAX_RESPONSE} octets", status=response.status)
    try:
        return json_object(response.body, max_depth=_MAX_DEPTH)
    except EncodingError as error:
        looks = "an HTML page" if response.body.lstrip()[:1] == b"<" else str(error)
        raise InvalidTokenResponseError(
            f"{what} answered {response.status} with something else than JSON: {looks}", status=response.status
        ) from None


def read_tokens(
    response: HTTPResponse,
    *,
    asked_at: float,
    jkt: str | None,
    allow_bearer: bool,
    secrets: Iterable[str],
    scope: str | None = None,
    before: TokenSet | None = None,
) -> TokenSet:
    """The tokens in the answer of a token endpoint (RFC 6749 §5.1, RFC 9449 §5).

    :param asked_at: Unix seconds when the request was sent.
    :param jkt: of the key whose proof went with it.
    :param allow_bearer: a Bearer access token in answer to a proof is taken.
    :param secrets: values that were sent and may stand in no message.
    :param scope: the scopes asked for, which is what was granted if the answer does not say (§3.3).
    :param before: the tokens that were refreshed; what the answer leaves out is theirs.
    :raises TokenRequestError: an error, or no token answer.
    """
    if response.status != 200:
        raise_refusal(response, "the token endpoint", secrets)
    members = json_response(response, "the token endpoint")
    if "error" in members and "access_token" not in members:
        raise_refusal(response, "the token endpoint", secrets)
    access_token, token_type = _access_token(members), _token_type(members)
    if token_type == "Bearer" and jkt is not None and not allow_bearer:  # noqa: S105 - a type
        raise UnboundTokenError(
            "the token endpoint answered a proof with a Bearer token, which anyone who steals it can use; it was"
            " thrown away. If the server binds only refresh tokens, use its profile or allow_bearer=True",
            status=200,
        )
    lifetime = _seconds(members, "expires_in")
    refresh_token = _refresh_token(members)
    refresh_lifetime = _seconds(members, "refresh_token_expires_in")
    if refresh_lifetime is None:
        # Keycloak's name for it; its 0 stands for a token that does not expire.
        refresh_lifetime = _seconds(members, "refresh_expires_in") or None
    kept = before if before is not None and refresh_token in {None, before.refresh_token} else None
    granted = _text(members, "scope")
    if granted is None:
        granted = scope if scope is not None or before is None else before.scope
    return TokenSet(
        access_token=access_token,
        token_type=token_type,
        issued_at=asked_at,
        expires_at=None if lifetime is None else asked_at + lifetime,
        refresh_token=refresh_token if kept is None else kept.refresh_token,
        refresh_expires_at=(
            asked_at + refresh_lifetime
            if refresh_lifetime is not None
            else (None if kept is None else kept.refresh_expires_at)
        ),
        scope=granted,
        jkt=jkt,
        id_token=_text(members, "id_token") or (None if before is None else before.id_token),
        extra={name: value for name, value in members.items() if name not in _OURS},
    )


def raise_refusal(response: HTTPResponse, what: str, secrets: Iterable[str]) -> NoReturn:
    """Raise the error that an answer which is no success stands for (RFC 6749 §5.2).

    :raises TokenRequestError: always.
    """
    status = response.status
    if 300 <= status < 400:
        raise InvalidTokenResponseError(
            f"{what} answered with a redirect ({status}), which is not followed: it would take the tokens elsewhere;"
            " check its URL",
            status=status,
        )
    try:
        members = json_response(response, what)
    except InvalidTokenResponseError:
        if status >= 500 or status == 429:
            raise TokenEndpointUnavailableError(
                f"{what} is out of order: it answered {status}", status=status, retry_after=_retry_after(response)
            ) from None
        raise
    said_error = members.get("error")
    code = said_error if isinstance(said_error, str) and _ERROR.match(said_error) else None
    facts: dict[str, Any] = {
        "error": code,
        "description": _safe(members.get("error_description"), secrets),
        "subtype": _safe(members.get("error_subtype"), secrets),
        "uri": _safe(members.get("error_uri"), secrets),
        "status": status,
        "retry_after": _retry_after(response),
    }
    said = " ".join(filter(None, [_safe(code, secrets), f"({status})", facts["subtype"]]))
    if facts["description"]:
        said += f": {facts['description']}"
    if code == "invalid_grant":
        raise ReauthorizationError(f"{what} says {said}; the user has to authorise again", **facts)
    if status >= 500 or status == 429 or code in _PASSING:
        raise TokenEndpointUnavailableError(
            f"{what} says {said}; the tokens are as they were, try again later", **facts
        )
    if code is None:
        raise InvalidTokenResponseError(f"{what} answered {status} without an OAuth error", **facts)
    raise TokenRefusedError(f"{what} says {said}", **facts)


def _access_token(members: Mapping[str, Any]) -> str:
    try:
        return check_access_token(members.get("access_token"))
    except CredentialError as error:
        raise InvalidTokenResponseError(
            f"the answer of the token endpoint cannot be used: {error}", status=200
        ) from None
    except TypeError:
        raise InvalidTokenResponseError("the answer of the token endpoint has no access_token", status=200) from None


def _token_type(members: Mapping[str, Any]) -> str:
    """The type, of the two that are known in their usual spelling: case means nothing (RFC 6749 §5.1)."""
    value = members.get("token_type")
    if not isinstance(value, str) or not _TOKEN_TYPE.match(value):
        raise InvalidTokenResponseError("the answer of the token endpoint has no token_type", status=200)
    known = {"dpop": "DPoP", "bearer": "Bearer", "n_a": "N_A"}.get(value.lower())
    if known is None:
        raise InvalidTokenResponseError(
            "the answer of the token endpoint has a token_type that is neither DPoP nor Bearer", status=200
        )
    return known


def _refresh_token(members: Mapping[str, Any]) -> str | None:
    value = members.get("refresh_token")
    if value is None:
        return None
    if not isinstance(value, str) or not _REFRESH_TOKEN.match(value):
        raise InvalidTokenResponseError(
            "the answer of the token endpoint has a refresh_token that is no token", status=200
        )
    return value


def _seconds(members: Mapping[str, Any], name: str) -> float | None:
    """A lifetime. JSON numbers only: who writes a string may mean anything by it."""
    value = members.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        what = value if isinstance(value, int | float) else f"a {type(value).__name__}"
        raise InvalidTokenResponseError(
            f"the answer of the token endpoint has {name} = {what}; expected a number of seconds from 0 to ten years",
            status=200,
        )
    return value


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and (not isinstance(value, str) or not value.isascii()):
        raise InvalidTokenResponseError(
            f"the answer of the token endpoint has a {name} that is no ASCII string", status=200
        )
    return value


def _retry_after(response: HTTPResponse) -> float | None:
    value = response.header("retry-after") or ""
    return float(value) if re.fullmatch(r"[0-9]{1,6}", value) else None


def _safe(text: object, secrets: Iterable[str]) -> str | None:
    """What a server says, fit for a log: one line, not long, with nothing in it that was sent as a secret."""
    if not isinstance(text, str) or not text:
        return None
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    line = "".join(character if character.isprintable() else " " for character in redact(text))
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "…"
