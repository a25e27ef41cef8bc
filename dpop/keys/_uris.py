# SPDX-License-Identifier: Apache-2.0
"""URIs of keys: a scheme, the key's name, and options, as in ``agent:work?verify=yes``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from dpop.errors import InvalidKeyError

__all__ = ["KeyUri", "read_uri"]

# The characters of a URI (RFC 3986 §2). A fragment has no meaning here, so # is not among them.
_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_MAX_LENGTH: Final = 2048


class KeyUri(NamedTuple):
    """A parsed URI: the key's name and the options."""

    name: str
    options: Mapping[str, str]


def read_uri(uri: str, known: Mapping[str, str], form: str) -> KeyUri:
    """Parse the URI of a key. The values of options are percent-decoded; the name is not.

    :param known: the known options, each with a pattern for its whole value.
    :param form: the expected form of the URI, for messages.
    :raises InvalidKeyError: the URI has another form, an unknown option, an option that is given twice, or one with a
        wrong value. The message names the option, but contains no value.
    """
    scheme, _, rest = uri.partition(":")
    if len(uri) > _MAX_LENGTH or not _CHARACTERS.fullmatch(rest):
        raise InvalidKeyError(
            f"the {scheme.lower()}: URI is too long, or has characters that must be percent-encoded; expected {form}"
        )
    name, mark, query = rest.partition("?")
    if name.startswith("/"):
        raise InvalidKeyError(f"the {scheme.lower()}: URI has slashes after its colon; leave them out: {form}")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        option, equals, value = part.partition("=")
        if option not in known or not equals:
            names = ", ".join(known) or "none"
            raise InvalidKeyError(f"the {scheme.lower()}: URI has an unknown option; expected {names}")
        if option in options:
            raise InvalidKeyError(f"the {scheme.lower()}: URI gives {option} twice")
        options[option] = unquote(value, errors="replace")
        if not re.fullmatch(known[option], options[option]):
            raise InvalidKeyError(f"the {option} in the {scheme.lower()}: URI is not valid; expected {form}")
    return KeyUri(name, options)
