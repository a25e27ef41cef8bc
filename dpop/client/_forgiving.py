# SPDX-License-Identifier: Apache-2.0
"""Read the bodies of an authorization server's responses as far as they can be understood.

Strangers' input is read strictly, by :func:`dpop.encoding.json_object`. These responses come from the server that the
user has chosen, and a strict reader could make the user lose a grant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from dpop.errors import EncodingError

__all__ = ["error_in", "error_in_pieces", "error_of_refusal", "forgiving_object", "is_form"]

_MAX_NUMBER_LENGTH: Final = 40
# GitHub's default, and PHP's: access_token=...&token_type=...
_FORM: Final = re.compile(r"[A-Za-z_]{1,40}=[^\s<>{}\"]*\Z")
# Some gateways put characters such as )]}', before an object, so that a script cannot load it.
_LONGEST_GUARD: Final = 20

# The codes that clients act on (RFC 6749 §5.2, RFC 8628 §3.5, RFC 8707 §2, RFC 9449 §5, §8). One is in no standard.
_CODES: Final = frozenset(
    {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
     "invalid_scope", "invalid_target", "authorization_pending", "slow_down", "access_denied", "expired_token",
     "invalid_dpop_proof", "use_dpop_nonce", "invalid_dpop_nonce", "temporarily_unavailable", "server_error"}
)  # fmt: skip
_NAMES_OF_CODE: Final = ("error", "code", "type", "errorCode", "error_code", "errorType")
# In a body that is no JSON: one of these names, as in JSON or XML, and then the code.
_CODE_AFTER_NAME: Final = re.compile(
    rf"""(?:["'](?:{"|".join(_NAMES_OF_CODE)})["']\s*(?::|=>)\s*["']|<(?:{"|".join(_NAMES_OF_CODE)})>)\s*([A-Za-z_]{{3,40}})\s*["'<]"""
)
_ENDS: Final = frozenset({b"}", b"]", b")", b">"})
_NAMES_OF_TEXT: Final = ("error_description", "message", "description", "errorSummary")


def error_of_refusal(body: bytes) -> str | None:
    """Return the ``error`` in the body of an authorization server's refusal; ``None`` if there is not exactly one.

    :param body: the first bytes of the body, decoded from any content coding.
    """
    try:
        members, repeated, _ = forgiving_object(body)
    except EncodingError:
        return error_in_pieces(body) if body.rstrip()[-1:] in _ENDS else None  # what is cut off may say more
    return None if "error" in repeated else error_in(members)[0] or error_in_pieces(body)


def error_in_pieces(body: bytes) -> str | None:
    """Return the error code in a refusal that no parser can read: it is cut off, wrapped, XML, or has a syntax error.

    Only a code that clients act on is found, and only if there is no second one.
    """
    text = body.decode(json.detect_encoding(body), "replace").replace("\\", "")  # an object in a string
    codes = {code for found in _CODE_AFTER_NAME.findall(text) if (code := _known(found))}
    return codes.pop() if len(codes) == 1 else None


def error_in(members: Mapping[str, Any]) -> tuple[str | None, Any]:
    """Return the error code of a refusal and its description (RFC 6749 §5.2); ``None`` without a code.

    A code that clients act on is also found in upper case, inside an object or array in place of the code, and under
    the member names of some vendors.
    """
    error = members.get("error")
    if isinstance(error, str):
        return _known(error) or error, members.get("error_description")
    for place in (error, members.get("errors"), members):
        inside = place[0] if isinstance(place, list) and place else place
        holder = inside if isinstance(inside, Mapping) else {"error": inside}
        code = next((code for name in _NAMES_OF_CODE if (code := _known(holder.get(name)))), None)
        if code is not None:
            return code, next((holder[name] for name in _NAMES_OF_TEXT if name in holder), None)
    return None, members.get("error_description")


def _known(code: object) -> str | None:
    """Return a code in the spelling of the standards; None if they do not define it."""
    usual = code.strip().lower() if isinstance(code, str) else None
    return usual if usual in _CODES else None


def is_form(text: str) -> bool:
    """Whether a body looks like a form (``application/x-www-form-urlencoded``)."""
    return bool(_FORM.match(text))


def forgiving_object(body: bytes) -> tuple[dict[str, Any], frozenset[str], bool]:
    """Read a JSON object as far as it can be understood, for bodies in which losing a member loses a grant.

    It accepts a byte order mark, repeated names (the last value counts that is neither null nor empty), NaN and numbers
    of any length (they become None), and text after the object. It also accepts objects that a gateway has wrapped: in
    a string, in an array of one element, behind a few characters that keep scripts from loading it, or behind a warning
    in HTML. A form is accepted in its place.

    :returns: the members, the names that came more than once with different values, and whether text follows.
    :raises EncodingError: not a JSON object.
    """
    text = body.decode(json.detect_encoding(body), "replace").strip(" \t\r\n\0")
    if is_form(text):
        pairs = parse_qsl(text, keep_blank_values=True)
        return _members(pairs), _repeated(pairs), False
    before, tokens, _ = text.partition('"access_token"')
    if text[:1] == "<" and tokens:
        text = text[max(0, before.find("{")) :]  # a warning of PHP, and then the tokens
    elif text[:1] not in {"{", "[", '"', "<"}:
        text = text[max(0, text.find("{", 0, _LONGEST_GUARD)) :]
    last: list[tuple[str, Any]] = []

    def members_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal last
        last = pairs  # the outermost object comes last
        return _members(pairs)

    decoder = json.JSONDecoder(
        strict=False, object_pairs_hook=members_of, parse_constant=_not_a_number, parse_int=_int, parse_float=_float
    )
    try:
        value, end = decoder.raw_decode(text)
    except json.JSONDecodeError as error:
        raise EncodingError(f"not JSON: {error.msg} (character {error.pos})") from None
    except RecursionError:
        raise EncodingError("JSON nested too deep") from None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        return forgiving_object(value.encode("utf-8", "replace"))
    if not isinstance(value, dict):
        raise EncodingError("JSON, but not an object")
    return value, _repeated(last), end != len(text)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the members by name. For a repeated name, the last value counts that is neither null nor empty."""
    members = dict(pairs)
    if len(members) != len(pairs):
        members.update(pair for pair in pairs if not _is_empty(pair[1]))
    return members


def _repeated(pairs: list[tuple[str, Any]]) -> frozenset[str]:
    """The names that came more than once with different values."""
    members = _members(pairs)
    return frozenset(name for name, value in pairs if value != members[name] and not _is_empty(value))


def _is_empty(value: object) -> bool:
    return value is None or value == ""


def _not_a_number(_name: str) -> None:
    """Replace NaN and Infinity, which are not JSON numbers."""


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_NUMBER_LENGTH else None


def _float(digits: str) -> float | None:
    value = float(digits) if len(digits) <= _MAX_NUMBER_LENGTH else None
    return None if value in {float("inf"), float("-inf")} else value
