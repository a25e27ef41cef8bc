# SPDX-License-Identifier: Apache-2.0
"""base64url, strict JSON and the three hashes of DPoP.

Decoding is strict. A lenient decoder would accept two spellings of one key or claim, and read two meanings in one
proof. Every function here accepts exactly one form, and its error says what is wrong with any other.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import re
from typing import Any, NoReturn

from dpop._tracebacks import drop_frames, hide_frames
from dpop.errors import ArgumentTypeError, CredentialError, EncodingError, UsageError

__all__ = [
    "BASE64URL",
    "access_token_hash",
    "b64url_decode",
    "b64url_encode",
    "check_access_token",
    "check_nonce",
    "code_jti",
    "json_object",
    "sendable_token",
    "sendable_token_hash",
]

# token68 of RFC 9110 §11.2. These patterns end in \Z, because $ also matches before a newline.
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*\Z")
# VSCHAR of RFC 6749 A.12, without the comma: a header field may be split at a comma.
_SENDABLE = re.compile(r"[\x21-\x2b\x2d-\x7e]+\Z")
# NQCHAR of RFC 9449 §8.1.
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+\Z")
# A hostile server could otherwise make every later proof too long for the servers that get it.
_MAX_NONCE = 4096
# The alphabet of RFC 4648 §5.
BASE64URL = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_FROM_BASE64 = bytes.maketrans(b"+/", b"-_")
# From base64url to base64. The characters + / = are not in base64url: they become ?, which base64 refuses.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/???")
_PADDING = (b"", b"", b"==", b"=")
# The characters that may come last, by length modulo four: those whose unused bits are zero.
_LAST_CHARACTERS = {2: b"AQgw", 3: b"AEIMQUYcgkosw048"}

# A whole string, so that the brackets in it are not counted. The closing quote is optional: otherwise the search in a
# string that never ends would fail and start again at each quote, which takes quadratic time.
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*"?', re.DOTALL)
_NOT_A_BRACKET = re.compile(r"[^\[\]{}]+")

# Longer numbers are refused before int() sees them: CPython limits them with a plain ValueError
# and, below its limit, spends quadratic time.
_MAX_NUMBER_LENGTH = 40


def b64url_encode(data: bytes) -> str:
    """Return BASE64URL(data) without padding (RFC 7515 §2).

    :raises ArgumentTypeError: not bytes.
    """
    try:
        return binascii.b2a_base64(data, newline=False).translate(_FROM_BASE64, b"=").decode("ascii")
    except TypeError:
        raise ArgumentTypeError("data", "bytes", data) from None


def b64url_decode(text: str | bytes) -> bytes:
    """Decode unpadded, canonical base64url (RFC 7515 §2, RFC 4648 §3.5).

    :raises EncodingError: the text has padding, a foreign character, an impossible length, or unused bits that
        are not zero. The text itself, which may be a secret, is not in the message.
    """
    if isinstance(text, str):
        if not text.isascii():
            del text  # this frame shows in the traceback, and the text may be a secret
            raise EncodingError("not base64url: it holds characters outside ASCII")
        text = text.encode("ascii")
    elif not isinstance(text, bytes):
        wrong = ArgumentTypeError("text", "str or bytes", text)
        del text
        raise wrong
    rest = len(text) % 4
    try:
        data = binascii.a2b_base64(text.translate(_TO_BASE64) + _PADDING[rest], strict_mode=True)
    except binascii.Error:
        pass  # a foreign character, or a length that no encoding has
    else:
        if rest and text[-1] not in _LAST_CHARACTERS[rest]:
            del text, data
            raise EncodingError("not canonical base64url: the unused bits of its last character are not zero")
        return data
    only_the_length_is_wrong, length = not text.translate(None, BASE64URL), len(text)
    del text
    if only_the_length_is_wrong:
        raise EncodingError(f"not base64url: no bytes encode to {length} characters")
    raise EncodingError("not base64url: only A-Z a-z 0-9 - _ are allowed, without = padding")


def json_object(data: bytes, *, max_depth: int = 8) -> dict[str, Any]:
    """Parse bytes as one JSON object, strictly (RFC 8259; RFC 7515 §4 for unique names).

    It refuses anything but UTF-8, a byte order mark, duplicate member names at any level, NaN and
    Infinity, numbers longer than 40 characters or too large for a float, lone surrogates, nesting
    deeper than ``max_depth``, and any value that is not an object.

    :raises EncodingError: the bytes are refused; the message says why.
    """
    try:
        return _json_object(data, max_depth)
    except UsageError as error:
        del data  # this frame shows in the traceback
        drop_frames(error)
        raise error.with_traceback(None)  # noqa: B904 - it is the same error


def _json_object(data: bytes, max_depth: int) -> dict[str, Any]:
    if not isinstance(data, bytes):
        raise ArgumentTypeError("data", "bytes", data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise EncodingError("not UTF-8") from None
    if _is_too_deep(text, max_depth):
        raise EncodingError(f"JSON nested deeper than {max_depth} levels, or with brackets that do not match")
    text = text.strip(" \t\n\r")
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise EncodingError(f"not JSON: {error.msg} (character {error.pos})") from None
    except RecursionError:
        raise EncodingError("JSON nested too deep") from None
    if end != len(text):
        raise EncodingError(f"not JSON: more text follows after its end (character {end})")
    if not isinstance(value, dict):
        raise EncodingError(f"a JSON object was expected, got {_json_kind(value)}")
    if "\\" in text and "\\u" in text:  # searching for one character is fifty times as fast
        # The UTF-8 decoder refuses a lone surrogate, unless it is written as an escape.
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise EncodingError("JSON with half of a surrogate pair, which UTF-8 cannot encode") from None
    return value


def _is_too_deep(text: str, max_depth: int) -> bool:
    """Whether brackets outside strings are nested too deep, or do not match.

    Each step removes the innermost brackets, of either kind; so there is no recursion, and the time is linear.
    """
    if text.count("{") + text.count("[") <= max_depth:
        return False
    brackets = _NOT_A_BRACKET.sub("", _STRING.sub("", text)).replace("{", "[").replace("}", "]")
    if "[" * (max_depth + 1) in brackets:  # finds most such texts in one step
        return True
    for _ in range(max_depth):
        length = len(brackets)
        brackets = brackets.replace("[]", "")
        if len(brackets) == length:
            break
    return brackets != ""


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise EncodingError("JSON with a duplicate member name")
    return members


def _no_constant(name: str) -> NoReturn:
    raise EncodingError(f"not JSON: {name} is not a JSON number")


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise EncodingError(f"JSON with a number of {len(digits)} characters; at most {_MAX_NUMBER_LENGTH} are read")
    return int(digits)


def _bounded_float(digits: str) -> float:
    if len(digits) > _MAX_NUMBER_LENGTH:
        raise EncodingError(f"JSON with a number of {len(digits)} characters; at most {_MAX_NUMBER_LENGTH} are read")
    value = float(digits)
    if value in {float("inf"), float("-inf")}:
        raise EncodingError("JSON with a number too large to represent")
    return value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members,
    parse_constant=_no_constant,
    parse_int=_bounded_int,
    parse_float=_bounded_float,
)


def _json_kind(value: object) -> str:
    kinds = {list: "an array", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def check_access_token(token: object) -> str:
    """Return the token if it may follow ``Authorization: DPoP`` (RFC 9449 §7.1, token68).

    :raises ArgumentTypeError: not a str.
    :raises CredentialError: the token is empty, or has a character outside token68; the message does not contain it.
    """
    if isinstance(token, str) and _TOKEN68.match(token):
        return token
    error = _wrong_token(token)
    del token  # this frame shows in the traceback
    raise error


def _wrong_token(token: object) -> UsageError:
    if not isinstance(token, str):
        return ArgumentTypeError("access token", "str", token)
    what = "is empty" if not token else "contains characters that an Authorization header cannot carry"
    return CredentialError(f"the access token {what}; expected token68: A-Z a-z 0-9 - . _ ~ + / and = at the end")


def sendable_token(token: object) -> str:
    """Return the token if a client can send it: any VSCHAR but the comma (RFC 6749 A.12).

    Some servers issue tokens with ``!``, ``|`` or ``:`` in them, and expect them back unchanged. A
    verifier uses :func:`check_access_token`.

    :raises ArgumentTypeError: not a str.
    :raises CredentialError: the token would break the header, or has quotes, spaces or a scheme around it; the message
        does not contain it.
    """
    if type(token) is str and _SENDABLE.match(token) and token[0] not in "\"'":
        return token
    if isinstance(token, str):
        problem = _problem_of(token)
        if problem is None:
            return token
        error: UsageError = CredentialError(f"the access token cannot be sent: it {problem}")
    else:
        hint = " such as tokens.access_token" if hasattr(token, "access_token") else ""
        error = ArgumentTypeError("access token", f"str{hint}", token)
    del token  # this frame shows in the traceback
    raise error


def _problem_of(token: str) -> str | None:
    """Say why a token cannot be sent and what to do; ``None`` if it can be sent."""
    if not token:
        return "is empty"
    if len(token) > 1 and token[0] in "\"'" and token[-1] == token[0]:
        return "has quotes around it; leave them out"
    if _SENDABLE.match(token):
        return None
    if token != token.rstrip("\r\n"):
        return "ends in a line break; strip() it"
    if token.partition(" ")[0].lower() in {"bearer", "dpop"}:
        return "begins with its scheme; give the token alone, without Bearer or DPoP"
    if token != token.strip():
        return "has spaces around it; strip() it"
    return "contains a space, a comma, a control character or a character outside ASCII"


@hide_frames
def sendable_token_hash(token: str) -> str:
    """Return the ``ath`` claim for a token that a client sends (RFC 9449 §4.2).

    :raises CredentialError: as :func:`sendable_token` says.
    """
    return b64url_encode(hashlib.sha256(sendable_token(token).encode("ascii")).digest())


def check_nonce(nonce: object) -> str:
    """Return the nonce if it is 1*NQCHAR (RFC 9449 §8.1).

    :raises ArgumentTypeError: not a str.
    :raises CredentialError: the nonce is empty, longer than 4096 characters, or contains a space, quote, backslash or
        control character. The message does not contain the nonce.
    """
    if isinstance(nonce, str) and len(nonce) <= _MAX_NONCE and _NONCE.match(nonce):
        return nonce if type(nonce) is str else str.__str__(nonce)  # a subclass may show itself otherwise
    error = _wrong_nonce(nonce)
    del nonce  # this frame shows in the traceback
    raise error


def _wrong_nonce(nonce: object) -> UsageError:
    if not isinstance(nonce, str):
        return ArgumentTypeError("nonce", "str", nonce)
    if len(nonce) > _MAX_NONCE:
        return CredentialError(f"the nonce has {len(nonce)} characters; no proof carries more than {_MAX_NONCE}")
    what = "is empty" if not nonce else "contains a character that a nonce cannot have"
    return CredentialError(
        f'the nonce {what}; expected printable ASCII without space, " or \\: copy the DPoP-Nonce header as it came'
    )


@hide_frames
def access_token_hash(token: str) -> str:
    """Return the ``ath`` claim: BASE64URL(SHA-256(ASCII(token))), 43 characters (RFC 9449 §4.2).

    :raises CredentialError: the token is not token68.
    """
    return b64url_encode(hashlib.sha256(check_access_token(token).encode("ascii")).digest())


@hide_frames
def code_jti(code: str) -> str:
    """Return the ``jti`` that Google requires in a code exchange: BASE64URL(SHA-256(code)), 43 characters.

    The code is hashed as the authorization server sent it, decoded: never in its form-encoded
    spelling (``4/P7q…``, not ``4%2FP7q…``). Source: Google's guide to DPoP for web-server applications.

    :raises ArgumentTypeError: not a str.
    :raises CredentialError: the code is empty or not printable ASCII (RFC 6749 A.11); the message does not contain it.
    """
    if not isinstance(code, str):
        raise ArgumentTypeError("code", "str", code)
    if not code or not re.fullmatch(r"[\x20-\x7e]+", code):
        raise CredentialError("the authorization code must be printable ASCII and not empty")
    return b64url_encode(hashlib.sha256(code.encode("ascii")).digest())
