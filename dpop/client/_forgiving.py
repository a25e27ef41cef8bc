# SPDX-License-Identifier: Apache-2.0
"""Read the bodies of an authorization server's responses as far as they can be understood.

What a stranger sends is read strictly, by :func:`dpop.encoding.json_object`. These responses come from the server that
the user has chosen, and a strict reader could cost the user a grant.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final
from urllib.parse import parse_qsl

from dpop.client._challenge import error_of_json
from dpop.errors import EncodingError

__all__ = ["error_of_refusal", "forgiving_object", "is_form"]

_MAX_NUMBER_LENGTH: Final = 40
# GitHub's default, and PHP's: access_token=...&token_type=...
_FORM: Final = re.compile(r"[A-Za-z_]{1,40}=[^\s<>{}\"]*\Z")
_LONGEST_GUARD: Final = 20


def error_of_refusal(body: bytes) -> str | None:
    """The ``error`` in the body of an authorization server's refusal; ``None`` if there is not exactly one.

    :param body: its first bytes, decoded from any content coding.
    """
    error: object = error_of_json(body)
    if error is None:
        try:
            members, repeated, _ = forgiving_object(body)
        except EncodingError:
            return None
        error = None if "error" in repeated else members.get("error")
    return error if isinstance(error, str) else None


def is_form(text: str) -> bool:
    """Whether a body looks like a form (``application/x-www-form-urlencoded``)."""
    return bool(_FORM.match(text))


def forgiving_object(body: bytes) -> tuple[dict[str, Any], frozenset[str], bool]:
    """Read a JSON object as far as it can be understood, for bodies in which losing a member loses a grant.

    A byte order mark, repeated names (the last one counts), NaN, numbers of any length (both become None) and text
    after the object are no reason to refuse it. Nor are what gateways wrap it in: a string, an array of one, or a few
    characters that keep scripts from reading it; or a form in its place.

    :returns: the members, the names that came more than once with different values, and whether text follows.
    :raises EncodingError: not a JSON object.
    """
    text = body.decode(json.detect_encoding(body), "replace").strip(" \t\r\n\0")
    if is_form(text):
        pairs = parse_qsl(text, keep_blank_values=True)
        return dict(pairs), _repeated(pairs), False
    if text[:1] not in {"{", "[", '"', "<"}:
        text = text[max(0, text.find("{", 0, _LONGEST_GUARD)) :]
    last: list[tuple[str, Any]] = []

    def members_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal last
        last = pairs  # the outermost object comes last
        return dict(pairs)

    decoder = json.JSONDecoder(
        strict=False, object_pairs_hook=members_of, parse_constant=_nothing, parse_int=_int, parse_float=_float
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


def _repeated(pairs: list[tuple[str, Any]]) -> frozenset[str]:
    """The names that came more than once with different values."""
    last = dict(pairs)
    return frozenset(name for name, value in pairs if value != last[name])


def _nothing(_name: str) -> None:
    """Replace NaN and Infinity, which are not JSON numbers."""


def _int(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MAX_NUMBER_LENGTH else None


def _float(digits: str) -> float | None:
    value = float(digits) if len(digits) <= _MAX_NUMBER_LENGTH else None
    return None if value in {float("inf"), float("-inf")} else value
