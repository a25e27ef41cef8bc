# SPDX-License-Identifier: Apache-2.0
"""Find tokens in the body of a token response that no parser can read.

The body may be cut off, have a syntax error, be wrapped several times, or be XML; it may be in base64 or
percent-encoded. The server has used up the refresh token or code nevertheless, so what can be read is read. Only
complete values count: those whose end is there.
"""

from __future__ import annotations

import binascii
import html
import json
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_plus

__all__ = ["MEMBERS", "pieces_of"]

MEMBERS: Final = {
    "accessToken": "access_token",
    "refreshToken": "refresh_token",
    "tokenType": "token_type",
    "expiresIn": "expires_in",
    "idToken": "id_token",
}
"""The usual name of each member that some servers write in camel case."""

_NAME: Final = (
    "access_token|refresh_token|token_type|expires_in|refresh_token_expires_in|refresh_expires_in|scope|id_token|"
    + "|".join(MEMBERS)
)
# A value ends before another one can begin: otherwise the time would grow with the square of the body's length, which
# the server chooses. Names must be quoted, too: a page of a login wall may have a script with a variable of that name.
_QUOTED: Final = re.compile(
    rf"""(?P<quote>["'])(?P<name>{_NAME})(?P=quote)\s*(?::|=>)\s*"""
    r"""(?:"(?P<double>(?:[^"\\]|\\.)*)"|'(?P<single>(?:[^'\\]|\\.)*)'|(?P<number>[0-9]{1,20})(?=[\s,}]))""",
    re.DOTALL,
)
_OF_FORM: Final = re.compile(rf"(?:\A|[&\s])(?P<name>{_NAME})=(?P<value>[^\s&;\"'<>(){{}}]+)(?=[\s&;]|\Z)")
_ELEMENT: Final = re.compile(rf"<(?P<name>{_NAME})>(?P<value>[^<>]+)</(?P=name)>")
# JSON in base64: its first characters stand for a brace or bracket. A JWT has dots around, and is none.
_BASE64: Final = re.compile(r"(?<![\w.+/-])(?:e[wy]|W3)[A-Za-z0-9+/_-]{20,}+={0,2}+(?![.=])")
_BASE64_ON_LINES: Final = re.compile(r"[\sA-Za-z0-9+/_=-]+")
_USUAL_ALPHABET: Final = str.maketrans("-_", "+/")


def pieces_of(body: bytes) -> tuple[dict[str, str | int], frozenset[str]]:
    """Return the members of a token response that can be found in a body, and the names with different values.

    Both are empty if there is neither an access token nor a refresh token.
    """
    text = body.decode(json.detect_encoding(body), "replace").replace("\0", "")
    once = text.replace('\\"', '"')  # an object in a string, perhaps in one more
    for spelling in (text, once, once.replace('\\"', '"').replace('\\"', '"'), html.unescape(text), *_decoded(text)):
        members: dict[str, str | int] = {}
        repeated = set()
        for name, value in _found(spelling):
            if members.get(name, value) != value:
                repeated.add(name)
            members[name] = value
        if members.keys() & {"access_token", "refresh_token"}:
            return members, frozenset(repeated)
    return {}, frozenset()


def _decoded(text: str) -> Iterator[str]:
    """Decode a text with percent-encoded quotation marks, or one that has JSON in base64, perhaps on several lines."""
    if "%22" in text:
        yield unquote_plus(text)
    for _ in range(2):
        if _BASE64_ON_LINES.fullmatch(text):
            text = "".join(text.split())
        inside = [_of_base64(each) for each in _BASE64.findall(text.replace("\\/", "/"))]
        if not inside:
            return
        text = '"\n'.join(inside)  # the quotation mark ends a value that was cut off
        yield text
        yield text.replace('\\"', '"')


def _of_base64(text: str) -> str:
    usual = text.rstrip("=").translate(_USUAL_ALPHABET)
    usual = usual[: len(usual) - (len(usual) % 4 == 1)]  # a body that was cut off
    return binascii.a2b_base64(usual + "=" * (-len(usual) % 4)).decode("utf-8", "replace")


def _found(text: str) -> Iterator[tuple[str, str | int]]:
    for match in _QUOTED.finditer(text):
        if match["number"] is not None:
            value: object = int(match["number"])
        elif match["single"] is not None:
            value = match["single"].replace("\\'", "'")
        else:
            try:
                value = json.loads(f'"{match["double"]}"', strict=False)
            except ValueError:
                continue
        if isinstance(value, str | int) and value != "":
            yield MEMBERS.get(match["name"], match["name"]), value
    for match in _OF_FORM.finditer(text):
        yield MEMBERS.get(match["name"], match["name"]), unquote_plus(match["value"])
    for match in _ELEMENT.finditer(text):
        value = html.unescape(match["value"].strip())
        if value:
            yield MEMBERS.get(match["name"], match["name"]), value
