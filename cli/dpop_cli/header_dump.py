# SPDX-License-Identifier: Apache-2.0
"""The nonce in what curl saved of an answer: ``curl -D FILE``, ``curl -i``, ``-w '%header{dpop-nonce}'``."""

from __future__ import annotations

import re

from dpop.client.challenge import nonce_field
from dpop.encoding import check_nonce
from dpop.errors import CredentialError

__all__ = ["last_nonce"]

_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ [0-9]{3}")
_NONCE_LINE = re.compile(r"DPoP-Nonce[ \t]*:[ \t]*(.*?)[ \t]*", re.IGNORECASE)


def last_nonce(text: str) -> str:
    """The newest nonce in saved response headers, the last response's where there are several.

    Bodies are skipped. A text of one line that is nothing but a nonce is taken as one.

    :raises CredentialError: there is none, or the last response that has any has two or a bad one. No
        value is in the message.
    """
    found: list[list[str]] = [[]]
    in_head = True
    for line in re.split(r"\r\n|\r|\n", text.lstrip()):
        if _STATUS_LINE.match(line):
            in_head = True
            found.append([])
        elif not line:
            in_head = False
        elif in_head and (match := _NONCE_LINE.fullmatch(line)):
            found[-1].append(match.group(1))
    answers = [values for values in found if values]
    if not answers:
        return _bare_nonce(text)
    nonce, problem = nonce_field(answers[-1])
    if nonce is None:
        raise CredentialError(f"the saved headers hold no usable DPoP-Nonce: {problem}")
    return nonce


def _bare_nonce(text: str) -> str:
    text = text.strip()
    # "Name: value" has a space, which no nonce has.
    if text and not _STATUS_LINE.match(text):
        try:
            return check_nonce(text)
        except CredentialError:
            pass
    raise CredentialError(
        "no DPoP-Nonce in the saved headers; expected what curl -D writes of an answer to a request to this"
        " server. If the server sends none, leave the nonce out"
    )
