# SPDX-License-Identifier: Apache-2.0
"""Reading what a server says about a proof: ``WWW-Authenticate``, error JSON, ``DPoP-Nonce``.

Everything here fails quietly towards *no*: a header that breaks the grammar, or only looks like a
challenge, never causes a second request (RFC 9110 §11.6.1, RFC 9449 §7.1, §8, §9).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dpop.encoding import check_nonce, json_object
from dpop.errors import CredentialError, EncodingError

__all__ = ["NonceField", "dpop_challenge", "error_of_json", "nonce_field"]

_TCHARS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_QUOTED = r'"((?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*)"'
_TOKEN = re.compile(_TCHARS)
_PARAMETER = re.compile(rf"({_TCHARS})[ \t]*=[ \t]*(?:{_QUOTED}|({_TCHARS}))")
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|\Z))")
_DELIMITER = re.compile(r"[ \t]*(?:,|\Z)")
_BLANKS = re.compile(r"[ \t]*")
_SEPARATORS = re.compile(r"[ \t,]*")
_MAX_FIELD_LENGTH = 16_384


def dpop_challenge(field_values: Iterable[str], *, scheme: str = "dpop") -> Mapping[str, str | None] | None:
    """The parameters of the DPoP challenge, from all ``WWW-Authenticate`` field values.

    :param scheme: of another challenge, in lower case: ``bearer`` where no proof was sent.

    Names are lower-cased, values unescaped. A parameter given twice with different values is
    ``None``: it means nothing. No DPoP challenge, or any breach of the grammar: ``None`` for the whole.

    Source: RFC 9110 §11.6.1, RFC 9449 §7.1.
    """
    text = ", ".join(field_values)
    if len(text) > _MAX_FIELD_LENGTH:
        return None
    try:
        challenges = _challenges(text)
    except ValueError:
        return None
    found = [parameters for name, parameters in challenges if name == scheme]
    if not found:
        return None
    merged: dict[str, str | None] = {}
    for name, value in (pair for parameters in found for pair in parameters):
        merged[name] = value if merged.setdefault(name, value) == value else None
    return merged


def _challenges(text: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """Split a field into (scheme, parameters); ValueError on any breach of the grammar."""
    challenges: list[tuple[str, list[tuple[str, str]]]] = []
    position = _expect(_SEPARATORS, text, 0).end()
    while position < len(text):
        parameter = _PARAMETER.match(text, position)
        if parameter is None:
            # A scheme, alone or with blanks and a token68 or its first parameter behind it.
            scheme = _expect(_TOKEN, text, position)
            parameters: list[tuple[str, str]] = []
            challenges.append((scheme.group().lower(), parameters))
            position = scheme.end()
            argument = _expect(_BLANKS, text, position).end()
            if argument > position and text[argument : argument + 1] not in {"", ","}:
                token68 = _TOKEN68.match(text, argument)
                parameter = None if token68 else _expect(_PARAMETER, text, argument)
                position = token68.end() if token68 else position
        if parameter is not None:
            if not challenges:
                raise ValueError
            name, quoted, bare = parameter.groups()
            challenges[-1][1].append((name.lower(), bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
            position = parameter.end()
        position = _expect(_DELIMITER, text, position).end()
        position = _expect(_SEPARATORS, text, position).end()
    return challenges


def _expect(pattern: re.Pattern[str], text: str, position: int) -> re.Match[str]:
    found = pattern.match(text, position)
    if found is None:
        raise ValueError
    return found


def error_of_json(body: bytes) -> str | None:
    """The ``error`` of a token endpoint's error body, or ``None`` if it is not one (RFC 6749 §5.2)."""
    try:
        error = json_object(body).get("error")
    except EncodingError:
        return None
    return error if isinstance(error, str) else None


class NonceField(NamedTuple):
    """What the ``DPoP-Nonce`` fields of a response amount to: a nonce, or why there is none."""

    nonce: str | None
    problem: str | None


def nonce_field(field_values: Iterable[str]) -> NonceField:
    """The one usable nonce of a response (RFC 9449 §8, §8.1).

    Two fields, an empty one, or one outside NQCHAR are no nonce; ``problem`` then says why,
    without the value.
    """
    values = list(field_values)
    if not values:
        return NonceField(None, None)
    if len(values) > 1:
        return NonceField(None, f"{len(values)} DPoP-Nonce fields came; at most one is allowed")
    try:
        return NonceField(check_nonce(values[0]), None)
    except CredentialError as error:
        return NonceField(None, str(error))
