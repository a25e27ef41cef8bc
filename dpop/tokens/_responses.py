# SPDX-License-Identifier: Apache-2.0
"""Reads the responses of an authorization server: tokens, or an error of this package.

A 2xx response means that the refresh token or code is used up. So a token response is read leniently: unusual side
facts are logged, and the tokens are used. If the tokens must be refused, the error contains them. That is also so where
tokens came with another status.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from dpop.client._clock import skew
from dpop.client._decoding import decoded_start
from dpop.client._forgiving import error_in, error_in_pieces, forgiving_object, is_form
from dpop.errors import (
    EncodingError,
    InvalidTokenResponseError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenRefusedError,
    UnboundTokenError,
)
from dpop.redaction import redact
from dpop.tokens._pieces import MEMBERS, pieces_of
from dpop.tokens._steps import MAX_RESPONSE, HTTPResponse
from dpop.tokens._token_set import TokenSet

__all__ = [
    "TokenResponse",
    "is_success",
    "json_response",
    "raise_refusal",
    "read_tokens",
    "seconds_of",
    "token_response",
    "whole_body",
]

_log: Final = logging.getLogger("dpop.tokens")

_MAX_DEPTH: Final = 16
_MAX_SECONDS: Final = 10 * 366 * 86_400
_MAX_TEXT: Final = 300
_ERROR: Final = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]{1,100}\Z")  # RFC 6749 §5.2
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{0,20})?\Z")
_TYPES: Final = {"dpop": "DPoP", "bearer": "Bearer", "n_a": "N_A"}
_SCHEME: Final = re.compile(r"\A(?:dpop|bearer)\s+", re.IGNORECASE)
_BESIDE_LETTERS: Final = re.compile(r"[-_\s\ufeff]+")
_USUAL: Final = {name.replace("_", ""): name for name in MEMBERS.values()}
_MAX_WRAPPERS: Final = 3
_COMPRESSED: Final = {b"\x1f\x8b\x08": "gzip", b"\x78\x01": "deflate", b"\x78\x9c": "deflate", b"\x78\xda": "deflate"}
_TOKENS: Final = ("access_token", "refresh_token", "token_type")
_OURS: Final = frozenset(
    {"access_token", "token_type", "expires_in", "refresh_token", "refresh_token_expires_in", "scope", "id_token"}
)

# Errors about the proof, and temporary errors, not about the grant: the refresh token was not used.
_TEMPORARY: Final = frozenset({"invalid_dpop_proof", "use_dpop_nonce", "temporarily_unavailable", "server_error"})
# Google's subtypes: the user must log in again, whatever the error code is.
_LOGIN_AGAIN: Final = frozenset({"invalid_rapt", "rapt_required"})
# The server has not looked at the request (RFC 9110 §15.5.9, RFC 8470 §5.2, RFC 6585 §4).
_LATER_STATUS: Final = frozenset({408, 425, 429})
_LATER: Final = "the tokens are unchanged, try again later"


def is_success(response: HTTPResponse) -> bool:
    """Whether the status is 2xx; servers use 200, 201, 202 and 204."""
    return 200 <= response.status < 300


# -- JSON


def _is_whole(body: bytes) -> bool:
    """Whether a body contains its whole JSON object, however its transfer ended."""
    try:
        forgiving_object(body)
    except EncodingError:
        return False
    return not is_form(body.decode("latin-1"))  # a form has no visible end


def _can_be_stored(value: Any, depth: int = 0) -> bool:
    """Whether a store can read the value back: it has no half surrogate pair and no deep nesting."""
    if depth > _MAX_DEPTH:
        return False
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
    if isinstance(value, dict):
        return all(_can_be_stored(each, depth + 1) for pair in value.items() for each in pair)
    return not isinstance(value, list) or all(_can_be_stored(each, depth + 1) for each in value)


def json_response(response: HTTPResponse, what: str) -> dict[str, Any]:
    """Return the JSON object in a response.

    :param what: the server's name in messages, such as "the token endpoint".
    :raises InvalidTokenResponseError: there is no object, or the body is too long.
    """
    return _object_in(response, what)[0]


def _object_in(response: HTTPResponse, what: str) -> tuple[dict[str, Any], frozenset[str], bool]:
    """Read the JSON object in a response by :func:`forgiving_object`.

    :raises InvalidTokenResponseError: there is no object, or the body is too long.
    """
    body = response.body
    if len(body) > MAX_RESPONSE:
        raise InvalidTokenResponseError(
            f"{what} sent a body of more than {MAX_RESPONSE} bytes, which was not read", status=response.status
        )
    try:
        return forgiving_object(body)
    except EncodingError as error:
        looks = "an HTML page" if body.lstrip()[:1] == b"<" else str(error) if body.strip() else "an empty body"
        hint = "; is the client authentication right?" if response.status == 401 else ""
        raise InvalidTokenResponseError(
            f"{what} responded {response.status} without JSON: {looks}{hint}", status=response.status
        ) from None


def whole_body(coding: str | None, data: bytes, failure: Exception | None) -> bytes:
    """Return the decoded body of a response, even if its transfer failed after its JSON object or its refresh token.

    If the header names a wrong coding, such as ``Content-Encoding: utf-8``, the body is used unchanged.

    :param coding: its ``Content-Encoding``.
    :param failure: the error that ended the transfer, if one did: a wrong ``Content-Length``, or a missing last chunk.
    :raises Exception: ``failure``, if the object is not complete, and no new refresh token has come.
    """
    body = decoded_start(coding, data, MAX_RESPONSE + 1) or data
    for _ in range(2):
        # Compressed twice, or without a header that says so.
        coding = next((coding for start, coding in _COMPRESSED.items() if body.startswith(start)), None)
        body = decoded_start(coding, body, MAX_RESPONSE + 1) or body
    if failure is None or _is_whole(body):
        return body
    if is_form(body.decode("latin-1")):
        body = body[: body.rfind(b"&") + 1]  # the last value may be cut off
    if "refresh_token" not in pieces_of(body)[0]:
        raise failure
    return body  # to send the old refresh token again would look like a theft


# -- tokens


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TokenResponse:
    """The members of a token endpoint's 2xx response, each in its usual form; ``None`` if absent or unusable.

    :param access_token: empty if there is no token that can be stored.
    :param token_type: ``DPoP``, ``Bearer`` or ``N_A``.
    :param expires_in: seconds, 0 or more.
    :param extra: members that have no field here.
    :param odd: remarks for the log about unusual members.
    :param fault: why the tokens must not be used; ``None`` if they may be used.
    """

    access_token: str
    token_type: str | None
    expires_in: float | None
    refresh_token: str | None
    refresh_expires_in: float | None
    scope: str | None
    id_token: str | None
    extra: Mapping[str, Any]
    odd: tuple[str, ...]
    fault: str | None


def token_response(response: HTTPResponse) -> TokenResponse:
    """Read a 2xx response of a token endpoint (RFC 6749 §5.1).

    :raises InvalidTokenResponseError: there is no JSON object in it.
    """
    reader, repeated = _reader_of(response)
    members = reader.members
    access_token = reader.access_token()
    fault = None if access_token else "it has no access_token"
    said_type = _only("token_type", members.get("token_type"))
    token_type = _TYPES.get(said_type.strip().lower()) if isinstance(said_type, str) else None
    if said_type is not None and token_type is None:
        fault = fault or "its token_type is neither DPoP nor Bearer"
    if len(response.body) > MAX_RESPONSE:
        fault = fault or f"its body has more than {MAX_RESPONSE} bytes"
    twice = [name for name in _TOKENS if name in repeated]
    if twice:
        fault = fault or f"it has two values for {' and '.join(twice)}"
    for name in sorted(repeated - set(_TOKENS)):
        reader.note(f"{_shown(name)} with two values, of which the last was taken")
    refresh_expires_in = reader.seconds("refresh_token_expires_in", 1)
    if refresh_expires_in is None:
        # Keycloak's name for it; 0 means that the token does not expire.
        refresh_expires_in = reader.seconds("refresh_expires_in", 1, zero_is_never=True)
    return TokenResponse(
        access_token=access_token,
        token_type=token_type,
        expires_in=reader.seconds("expires_in", 0, null_is_odd=True),
        refresh_token=reader.text("refresh_token", empty_is_odd=False),
        refresh_expires_in=refresh_expires_in,
        scope=reader.scope(),
        id_token=reader.text("id_token"),
        extra=reader.extra(),
        odd=tuple(reader.odd),
        fault=fault,
    )


def _reader_of(response: HTTPResponse) -> tuple[_Reader, frozenset[str]]:
    """Return a reader of the members of a token response, and the names that came with different values.

    :raises InvalidTokenResponseError: there is no JSON object, and no token in what there is.
    """
    unreadable: InvalidTokenResponseError | None = None
    reader, repeated, more_follows = _Reader({}), frozenset[str](), False
    try:
        whole, repeated, more_follows = _object_in(response, "the token endpoint")
        reader = _Reader(whole)
        reader.unwrap()
    except InvalidTokenResponseError as error:
        unreadable = error
    if not reader.members.get("access_token") and not reader.members.get("refresh_token"):
        pieces, twice = pieces_of(response.body)
        if pieces:
            reader, repeated, more_follows = _Reader({**reader.members, **pieces}), repeated | twice, False
            reader.note("a form that no parser can read")
        elif unreadable is not None:
            raise unreadable
    if more_follows:
        reader.note("text after its end")
    return reader, repeated


def _tokens_inside(members: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the only object in these members with an access token; if there is not exactly one, the members."""
    found = [members] if _has_token(members) else []
    places: list[Any] = list(members.values())
    for _ in range(_MAX_WRAPPERS):
        places = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in places]
        objects = [value for value in places if isinstance(value, dict)]
        found += [value for value in objects if _has_token(value)]
        places = [value for each in objects for value in each.values()]
    return found[0] if len(found) == 1 else members


def _has_token(members: Mapping[str, Any]) -> bool:
    return any(_usual(name) == "access_token" for name in members)


def _usual(name: str) -> str:
    """Return the usual name of a member, such as ``access_token`` for ``accessToken`` and ``ACCESS-TOKEN ``."""
    return _USUAL.get(_BESIDE_LETTERS.sub("", name).lower(), name)


@dataclass(slots=True)
class _Reader:
    """Reads members in their usual form, and records those in another form."""

    members: Mapping[str, Any]
    odd: list[str] = field(default_factory=list)

    def note(self, remark: str) -> None:
        self.odd.append(remark)

    def unwrap(self) -> None:
        """Find the members inside another member, and in other spellings."""
        inner = _tokens_inside(self.members) if "access_token" not in self.members else self.members
        if inner is not self.members:
            self.note("its tokens inside another member")
            # Without the outer objects: one of them contains the tokens, too.
            outer = {name: value for name, value in self.members.items() if not isinstance(value, dict | list)}
            inner = {**outer, **inner}
        respelled = {usual: name for name in inner if (usual := _usual(name)) != name and usual not in inner}
        if respelled:
            self.note("names in another spelling")
        renamed = {name: usual for usual, name in respelled.items()}
        self.members = {renamed.get(name, name): value for name, value in inner.items()}

    def access_token(self) -> str:
        """Return the access token without the scheme that some servers put before it; empty if there is none."""
        value = _only("access_token", self.members.get("access_token"))
        if not isinstance(value, str) or not _can_be_stored(value):
            return ""
        bare = _SCHEME.sub("", value.strip())
        if bare != value:
            self.note("a scheme or white space beside the access token, which was left out")
        return bare

    def text(self, name: str, *, empty_is_odd: bool = True) -> str | None:
        value = self.members.get(name)
        if name == "refresh_token":
            value = _only(name, value)
        if isinstance(value, str) and value and _can_be_stored(value):
            bare = value.strip()
            if bare != value:
                self.note(f"white space beside the {name}, which was left out")
            return bare or None
        if value is not None and (value != "" or empty_is_odd):
            self.note(f"{name} as {_kind(value)}, which was left out")
        return None

    def scope(self) -> str | None:
        value = self.members.get("scope")
        if isinstance(value, list):
            scopes = [each for each in value if isinstance(each, str) and each.strip() and _can_be_stored(each)]
            if scopes:
                return " ".join(scopes)
        return self.text("scope")

    def seconds(
        self, name: str, least: float, *, null_is_odd: bool = False, zero_is_never: bool = False
    ) -> float | None:
        """Read a lifetime; zero or less counts as 0 if ``least`` is 0, otherwise as unknown."""
        if name not in self.members:
            return None
        value = self.members[name]
        if (value is None and not null_is_odd) or (zero_is_never and value in (0, "0") and value is not False):
            return None
        seconds = seconds_of(value)
        if seconds is None:
            self.note(f"{name} as {_kind(value)}, so that the lifetime is unknown")
        elif seconds <= 0:
            self.note(f"{name} = {seconds:g}")
            return 0.0 if least == 0 else None
        return seconds

    def extra(self) -> dict[str, Any]:
        kept = {}
        for name, value in self.members.items():
            if name in _OURS:
                continue
            if _can_be_stored(value) and _can_be_stored(name):
                kept[name] = value
            else:
                self.note(f"a member {_shown(name)} that cannot be stored, which was left out")
        return kept


def _only(name: str, value: object) -> object:
    """Return the token in an array of one, in an object, or as a number; other values are returned unchanged."""
    if isinstance(value, dict):
        value = next((value[each] for each in (name, "token", "value") if isinstance(value.get(each), str)), value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def seconds_of(value: object) -> float | None:
    """Read seconds from a JSON number or a string of digits; ``None`` if it is neither, or over ten years."""
    if isinstance(value, str) and _NUMBER.match(value.strip()):
        value = float(value) if "." in value else int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= _MAX_SECONDS:
        return None
    return value


def _kind(value: object) -> str:
    """Describe a value's type; the text of a string is not shown, because it may be secret."""
    if isinstance(value, bool) or value is None:
        return str(value).lower().replace("none", "null")
    if isinstance(value, int | float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return "a string" if value else "an empty string"
    return "an array" if isinstance(value, list) else "an object"


def _shown(name: str) -> str:
    return ascii(name[:40])


def read_tokens(
    response: HTTPResponse,
    *,
    asked_at: float,
    jkt: str | None,
    allow_bearer: bool,
    secrets: Iterable[str],
    scope: str | None = None,
    before: TokenSet | None = None,
    **facts: Any,
) -> TokenSet:
    """Return the tokens in the response of a token endpoint (RFC 6749 §5.1, RFC 9449 §5).

    :param asked_at: Unix seconds when the request was sent.
    :param jkt: of the key whose proof went with it.
    :param allow_bearer: take a Bearer access token in response to a proof.
    :param secrets: values that were sent and may stand in no message.
    :param scope: the scopes asked for, which is what was granted if the response does not say (§3.3).
    :param before: the tokens that were refreshed; what the response leaves out is taken from them.
    :param facts: more fields of the token set.
    :raises InvalidTokenResponseError: tokens came and must not be used; the error has them as ``tokens``.
    :raises TokenRequestError: no tokens came.
    """
    failed = not is_success(response)
    if failed and not _has_new_tokens(response, frozenset(secrets)):
        raise_refusal(response, "the token endpoint", secrets)
    read = token_response(response)
    if not read.access_token and not read.refresh_token and read.extra.get("error") is not None:
        raise_refusal(response, "the token endpoint", secrets)
    # A server without token_type is one of bearer tokens; where those are taken, this one is as well.
    token_type = read.token_type or ("Bearer" if allow_bearer and read.fault is None else None)
    kept = before if before is not None and read.refresh_token in {None, before.refresh_token} else None
    granted = read.scope
    if granted is None:
        granted = scope if scope is not None or before is None else before.scope
    tokens = TokenSet(
        access_token=read.access_token,
        token_type=token_type or "DPoP",
        issued_at=asked_at,
        expires_at=None if read.expires_in is None else asked_at + read.expires_in,
        refresh_token=read.refresh_token if kept is None else kept.refresh_token,
        refresh_expires_at=(
            asked_at + read.refresh_expires_in
            if read.refresh_expires_in is not None
            else (None if kept is None else kept.refresh_expires_at)
        ),
        scope=granted,
        jkt=jkt,
        id_token=read.id_token or (None if before is None else before.id_token),
        id_token_verified=(
            before is not None and before.id_token_verified and read.id_token in {None, before.id_token}
        ),
        extra=read.extra,
        **facts,
    )
    fault = read.fault or (None if token_type else "it has no token_type")
    if failed:
        fault = f"it has tokens, but its status is {response.status}"
    if fault is not None:
        got = "; what came is in error.tokens" if tokens.access_token or read.refresh_token else ""
        raise InvalidTokenResponseError(
            f"the response of the token endpoint cannot be used: {fault}{got}",
            status=response.status,
            tokens=tokens if got else None,
        )
    if token_type == "Bearer" and jkt is not None and not allow_bearer:  # noqa: S105 - a type
        raise UnboundTokenError(
            "the token endpoint answered a proof with a Bearer token, which anyone who steals it can use; it was not"
            " stored and is in error.tokens. If the server binds only refresh tokens, use its profile or"
            " allow_bearer=True",
            status=response.status,
            tokens=tokens,
        )
    if read.odd:
        _log.warning("the token response has %s; its tokens were taken", ", and ".join(read.odd))
    return tokens


def _has_new_tokens(response: HTTPResponse, sent: frozenset[str]) -> bool:
    """Whether a response that is no success has tokens all the same, with which the server has used up the old ones.

    One access token, and one more member of a token response: a page that explains tokens, or a refusal that repeats
    what was sent, perhaps masked, must not pass for a new grant. A refresh token alone does not count for that reason.
    """
    try:
        read = token_response(response)
    except InvalidTokenResponseError:
        return False
    if not read.access_token or read.access_token in sent:
        return False
    return bool(
        read.token_type or read.expires_in is not None or (read.refresh_token and read.refresh_token not in sent)
    )


# -- refusals


def raise_refusal(response: HTTPResponse, what: str, secrets: Iterable[str], *, later: str = _LATER) -> NoReturn:
    """Raise the error for a response that is not a success (RFC 6749 §5.2).

    :param later: the text to add if the server may accept the same request later.
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
        members = {}
        if error_in_pieces(response.body) is None:
            if status >= 500 or status in _LATER_STATUS:
                raise TokenEndpointUnavailableError(
                    f"{what} is out of order: it answered {status}", status=status, retry_after=_retry_after(response)
                ) from None
            raise
    code, description = error_in(members)
    code = code or error_in_pieces(response.body)
    code = code if code is not None and _ERROR.match(code) else None
    facts: dict[str, Any] = {
        "error": code,
        "description": _safe(description, secrets),
        "subtype": _safe(members.get("error_subtype"), secrets),
        "uri": _safe(members.get("error_uri"), secrets),
        "status": status,
        "retry_after": _retry_after(response),
    }
    said = " ".join(filter(None, [_safe(code, secrets), f"({status})", facts["subtype"]]))
    if facts["description"]:
        said += f": {facts['description']}"
    if code == "invalid_grant" or facts["subtype"] in _LOGIN_AGAIN:
        raise ReauthorizationError(f"{what} says {said}; the user has to authorise again", **facts)
    if status >= 500 or status in _LATER_STATUS or code in _TEMPORARY:
        raise TokenEndpointUnavailableError(f"{what} says {said}; {later}", **facts)
    if code is None:
        hint = "; is the client authentication right?" if status == 401 else ""
        raise InvalidTokenResponseError(f"{what} answered {status} without an OAuth error{hint}", **facts)
    raise TokenRefusedError(f"{what} says {said}", **facts)


def _retry_after(response: HTTPResponse) -> float | None:
    """The seconds of ``Retry-After``; a date counts from the response's own ``Date`` (RFC 9110 §10.2.3)."""
    value = (response.header("retry-after") or "").strip()
    if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{0,6})?", value):
        return float(value)
    now = skew(response.header("date"), 0.0, 0.0)
    moment = None if now is None else skew(value, now, now)
    return None if moment is None else max(0.0, moment)


def _safe(text: object, secrets: Iterable[str]) -> str | None:
    """Make a server's text safe for a log: one short line, without any secret that was sent."""
    if not isinstance(text, str) or not text:
        return None
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[redacted]")
    line = "".join(character if character.isprintable() else " " for character in redact(text))
    return line if len(line) <= _MAX_TEXT else line[:_MAX_TEXT] + "…"
