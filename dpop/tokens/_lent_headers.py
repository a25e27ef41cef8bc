# SPDX-License-Identifier: Apache-2.0
"""The header fields of a user's HTTP client that the requests of a token endpoint carry, too.

A client sends its own header fields with all requests. Most of them, such as ``User-Agent`` or a tenant's name, belong
to requests for tokens as well. Others are about one message, one connection or one server. In a request for tokens they
would be wrong, and some would cost the grant: the server would read a body of another length, the request would go to
another virtual host, or a proxy would remove the proof that ``Connection`` names.
"""

from __future__ import annotations

import re
from typing import Final

from dpop.errors import UsageError

__all__ = ["is_lent"]

_OF_ONE_MESSAGE: Final = frozenset(
    {
        *("host", "authorization", "dpop"),  # the server, and what proves the right to use it
        *("transfer-encoding", "trailer", "te", "expect", "digest", "repr-digest"),  # the body; content-*, too
        *("upgrade", "http2-settings", "keep-alive", "proxy-connection"),  # the connection
        *("range", "if-range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since"),
    }
)
_LASTING: Final = frozenset({"close", "keep-alive"})
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9a-z]+")  # RFC 9110 §5.1
_NOT_A_VALUE: Final = re.compile(r"[\r\n\0]")


def is_lent(name: str | bytes, value: str | bytes | None) -> bool:
    """Whether requests of a token endpoint carry this header field of the user's client.

    :raises UsageError: the field cannot be sent at all, so that no request for tokens could be.
    """
    known, text = _text(name).lower(), _text(value or "")
    if known in _OF_ONE_MESSAGE or known.startswith("content-"):
        return False
    if known == "connection":
        return text.strip().lower() in _LASTING
    if not _NAME.fullmatch(known) or _NOT_A_VALUE.search(text):
        raise UsageError(
            f"nothing was sent: the HTTP client given as http= has a header field {known[:40]!r} whose name or value"
            " cannot stand in a request; correct the client's headers"
        )
    return True


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
