# SPDX-License-Identifier: Apache-2.0
"""URIs of keys in key services: ``scheme:name?option=value&option=value``, read strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from dpop.errors import InvalidKeyError, UsageError
from dpop.origin import Origin

__all__ = ["KmsUri", "checked_endpoint", "read_uri"]

# RFC 3986 §2: what a URI is written in; a fragment is never sent anywhere, so none is allowed.
_CHARACTERS: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_MAX_LENGTH: Final = 2048


class KmsUri(NamedTuple):
    """A key's name and the options behind it."""

    name: str
    options: Mapping[str, str]


def read_uri(uri: str, known: Mapping[str, str], form: str) -> KmsUri:
    """Take a URI apart. Percent-encoding is undone in the values of options, and not in the name.

    :param known: the options there are, each with the pattern of its whole value.
    :param form: what the URI should look like, for messages.
    :raises InvalidKeyError: another form, an unknown option, one that is given twice or has a value of
        another form. The message names the option and repeats no value.
    """
    scheme, _, rest = uri.partition(":")
    if len(uri) > _MAX_LENGTH or not _CHARACTERS.fullmatch(rest):
        raise InvalidKeyError(
            f"the {scheme.lower()}: URI is too long, or has characters that no URI has as they are; expected {form}"
        )
    name, mark, query = rest.partition("?")
    options: dict[str, str] = {}
    for part in query.split("&") if mark else ():
        option, equals, value = part.partition("=")
        if option not in known or not equals:
            names = ", ".join(known) or "none"
            raise InvalidKeyError(f"the {scheme.lower()}: URI has an option that is not known; expected {names}")
        if option in options:
            raise InvalidKeyError(f"the {scheme.lower()}: URI gives {option} twice")
        options[option] = unquote(value, errors="replace")
        if not re.fullmatch(known[option], options[option]):
            raise InvalidKeyError(f"the {option} in the {scheme.lower()}: URI is not one; expected {form}")
    return KmsUri(name, options)


def checked_endpoint(endpoint: str) -> Origin:
    """The origin that an ``endpoint`` option names: https, or http to this machine, and no path.

    :raises InvalidKeyError: anything else.
    """
    try:
        origin = Origin.parse(endpoint)
    except UsageError as error:
        raise InvalidKeyError(f"the endpoint in the URI: {error}") from None
    if origin.scheme != "https" and not origin.is_loopback:
        raise InvalidKeyError("the endpoint in the URI must be https; http is for this machine only")
    return origin
