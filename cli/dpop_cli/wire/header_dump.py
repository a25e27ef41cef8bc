# SPDX-License-Identifier: Apache-2.0
"""Response headers that curl saved: ``curl -D FILE``, ``curl -i``, ``-w '%header{dpop-nonce}'``."""

from __future__ import annotations

import re
from typing import NamedTuple

from dpop.client import Role, dpop_challenge, nonce_field
from dpop.encoding import check_nonce
from dpop.errors import CredentialError

__all__ = ["Head", "heads", "heads_and_bodies", "last_head_with_nonce", "last_nonce"]

_STATUS_LINE = re.compile(r"HTTP/[0-9.]+ ([0-9]{3})")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:(.*)")
_LINE_END = re.compile(r"\r\n|\r|\n")


class Head(NamedTuple):
    """Status and header fields of one response; the status is 0 if no status line was saved."""

    status: int
    fields: list[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """Return all values of a field; ``name`` is in lower case."""
        return [value for field_name, value in self.fields if field_name.lower() == name]

    @property
    def role(self) -> Role | None:
        """The role of the server, if this refusal shows it: the two roles refuse differently (RFC 9449 §8, §9)."""
        if self.status == 401 and dpop_challenge(self.values("www-authenticate")) is not None:
            return Role.RS
        return Role.AS if self.status == 400 else None


def heads(text: str) -> list[Head]:
    """Return the heads of all responses in a text, in order; bodies between them are skipped."""
    return [head for head, _ in heads_and_bodies(text)]


def heads_and_bodies(text: str) -> list[tuple[Head, str]]:
    """Return all responses in a text, each with the text after its head."""
    found: list[tuple[Head, list[str]]] = [(Head(0, []), [])]
    in_head = True
    for line in _LINE_END.split(text.lstrip()):
        if status := _STATUS_LINE.match(line):
            in_head = True
            found.append((Head(int(status[1]), []), []))
        elif not in_head:
            found[-1][1].append(line)
        elif not line:
            in_head = False
        elif match := _FIELD.fullmatch(line):
            found[-1][0].fields.append((match[1], match[2].strip(" \t")))
    return [(head, "\n".join(body)) for head, body in found if head.status or head.fields]


def last_nonce(text: str) -> str:
    """Return the newest nonce in saved response headers: that of the last response with a nonce.

    Bodies are skipped. A text that is only a nonce is accepted, too.

    :raises CredentialError: there is no nonce, or the last response with a nonce has two or a bad one. No
        value is in the message.
    """
    head = last_head_with_nonce(text)
    if head is None:
        return _bare_nonce(text)
    nonce, problem = nonce_field(head.values("dpop-nonce"))
    if nonce is None:
        raise CredentialError(f"the saved headers contain no usable DPoP-Nonce: {problem}")
    return nonce


def last_head_with_nonce(text: str) -> Head | None:
    """Return the last response with a ``DPoP-Nonce``, good or bad."""
    return next((head for head in reversed(heads(text)) if head.values("dpop-nonce")), None)


def _bare_nonce(text: str) -> str:
    text = text.strip()
    # "Name: value" has a space, which no nonce has.
    if text and not _STATUS_LINE.match(text):
        try:
            return check_nonce(text)
        except CredentialError:
            pass
    raise CredentialError(
        "no DPoP-Nonce in the saved headers; expected the headers that curl -D saved of a response of this"
        " server. If the server sends no nonce, leave the nonce out"
    )
