# SPDX-License-Identifier: Apache-2.0
"""Read what a server says about a proof: ``WWW-Authenticate``, error JSON, ``DPoP-Nonce``.

A header that breaks the grammar, or only looks like a challenge, never causes a second request (RFC 9110 §11.6.1,
RFC 9449 §7.1, §8, §9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dpop.encoding import check_nonce, json_object
from dpop.errors import CredentialError, EncodingError

__all__ = ["NonceField", "challenges", "dpop_challenge", "error_of_json", "nonce_field"]

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# Bytes over 0x7f are obs-text: some HTTP libraries decode them as UTF-8, with surrogates for what is none. Written as
# what is not allowed: the class with all of Unicode in it takes 5 ms to compile, at each start of a program.
_QUOTED = r'"((?:[^\x00-\x08\x0a-\x1f\x7f"\\]|\\[^\x00-\x08\x0a-\x1f\x7f])*)"'
_TOKEN = re.compile(_TCHARS)
_PARAMETER = re.compile(rf"({_TCHARS})[ \t]*=[ \t]*(?:{_QUOTED}|({_TCHARS}))")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|\Z))")
_DELIMITER = re.compile(r"[ \t]*(?:,|\Z)")
_BLANKS = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_MAX_FIELD_LENGTH = 16_384


def dpop_challenge(field_values: Iterable[str], *, scheme: str = "dpop") -> Mapping[str, str | None] | None:
    """Return the parameters of the DPoP challenge, from all ``WWW-Authenticate`` field values.

    Names are in lower case, values unescaped. A parameter that is given twice with different values is ``None``.
    The result is ``None`` if there is no DPoP challenge, or if any field breaks the grammar.

    :param scheme: the scheme of the challenge to return, in lower case.

    Source: RFC 9110 §11.6.1, RFC 9449 §7.1.
    """
    try:
        return challenges(field_values).get(scheme)
    except EncodingError:
        return None


def challenges(field_values: Iterable[str]) -> dict[str, dict[str, str | None]]:
    """Return the parameters of each challenge, by its scheme in lower case, from all ``WWW-Authenticate`` values.

    Names are in lower case, values unescaped. A parameter that is given twice with different values is ``None``.

    :raises EncodingError: the fields break the grammar of RFC 9110 §11.6.1; the message says where.
    """
    text = ", ".join(field_values)
    if len(text) > _MAX_FIELD_LENGTH:
        raise EncodingError(f"it has {len(text)} characters; at most {_MAX_FIELD_LENGTH} are read")
    found: dict[str, dict[str, str | None]] = {}
    for scheme, parameters in _challenges(text):
        merged = found.setdefault(scheme, {})
        for name, value in parameters:
            merged[name] = value if merged.setdefault(name, value) == value else None
    return found


def _challenges(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Split a field into (scheme, parameters); raise EncodingError if it violates the grammar."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    position = _skip(_SEPARATORS, text, 0)
    while position < len(text):
        parameter = _PARAMETER.match(text, position)
        if parameter is None:
            # A scheme, alone or followed by blanks and either a token68 or its first parameter.
            scheme = _expect(_TOKEN, text, position, "a scheme")
            parameters: list[tuple[str, str]] = []
            found.append((scheme.group().lower(), parameters))
            position = scheme.end()
            argument = _skip(_BLANKS, text, position)
            if argument > position and text[argument : argument + 1] not in {"", ","}:
                token68 = _TOKEN68.match(text, argument)
                parameter = None if token68 else _expect(_PARAMETER, text, argument, 'a parameter such as error="…"')
                position = token68.end() if token68 else position
        if parameter is not None:
            if not found:
                raise _broken(text, position, "a scheme before the first parameter")
            name, quoted, bare = parameter.groups()
            found[-1][1].append((name.lower(), bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
            position = parameter.end()
        position = _expect(_DELIMITER, text, position, "a comma").end()
        position = _skip(_SEPARATORS, text, position)
    return found


def _skip(pattern: re.Pattern[str], text: str, position: int) -> int:
    """The position after a match of the pattern, which may match the empty string."""
    found = pattern.match(text, position)
    return position if found is None else found.end()


def _expect(pattern: re.Pattern[str], text: str, position: int, what: str) -> re.Match[str]:
    found = pattern.match(text, position)
    if found is None:
        raise _broken(text, position, what)
    return found


def _broken(text: str, position: int, what: str) -> EncodingError:
    """Make the error that says where the grammar is violated, without the text, which may contain a nonce."""
    if text[position:].count('"') % 2:
        what = f"{what}, and the quotation marks after it are not in pairs"
    return EncodingError(f"at character {position + 1} of {len(text)}, expected {what}")


def error_of_json(body: bytes) -> str | None:
    """Return the ``error`` in the JSON body of a refusal, or ``None`` for any other body (RFC 6749 §5.2)."""
    try:
        error = json_object(body).get("error")
    except EncodingError:
        return None
    return error if isinstance(error, str) else None


class NonceField(NamedTuple):
    """The one usable nonce of a response, or the reason why it has none."""

    nonce: str | None
    problem: str | None


def nonce_field(field_values: Iterable[str]) -> NonceField:
    """Read the ``DPoP-Nonce`` fields of a response (RFC 9449 §8, §8.1).

    Two different fields, an empty one, or one outside NQCHAR give no nonce; ``problem`` then says why, without the
    value. Some gateways send the same field twice.
    """
    values = list(dict.fromkeys(field_values))
    if not values:
        return NonceField(None, None)
    if len(values) > 1:
        return NonceField(None, f"{len(values)} DPoP-Nonce fields came; at most one is allowed")
    try:
        return NonceField(check_nonce(values[0]), None)
    except CredentialError as error:
        return NonceField(None, str(error))
