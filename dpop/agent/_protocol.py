# SPDX-License-Identifier: Apache-2.0
"""The agent's protocol: one JSON object after its length, and what a request may hold (docs/agent-protocol.md).

Both sides use this module. The agent reads what any program that reaches its socket sends, so a request is read
strictly: its length before its text, its text before its meaning, and nothing is accepted that no operation has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from dpop.encoding import json_object
from dpop.errors import EncodingError

__all__ = [
    "LENGTH_BYTES",
    "MAX_INPUT",
    "MAX_REQUEST",
    "MAX_RESPONSE",
    "NAME",
    "VERSION",
    "Frames",
    "Refusal",
    "Request",
    "pack",
    "read_request",
    "refused",
]

VERSION: Final = 1
LENGTH_BYTES: Final = 4
MAX_REQUEST: Final = 32 * 1024
MAX_RESPONSE: Final = 1024 * 1024
MAX_INPUT: Final = 8192
"""Characters of a signing input: no verifier of this package reads a longer proof."""

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Names of keys and accounts."""

_MAX_DEPTH: Final = 4
_MAX_TEXT: Final = 2048
_MAX_LIST: Final = 64
_MAX_TOKEN: Final = 12 * 1024
_MAX_TIME: Final = 1e11
_MAX_SECONDS: Final = 300
_ATH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")  # RFC 6749 appendix A.12, without the space
_ROLES: Final = ("AS", "RS")  # a set would raise an error for a list
_MAX_NONCE: Final = 256  # a longer one is not worth a share of everybody's memory
_NONCE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 9449 §8.1


class Refusal(Exception):  # noqa: N818 - it is a response, not a failure of the agent
    """A request that the agent does not serve, as the response tells it.

    :param error: the stable code.
    :param reason: which rule refused a signature; None for other errors.
    :param retry_after: seconds to wait, where that helps.
    """

    def __init__(
        self, error: str, message: str, *, reason: str | None = None, retry_after: float | None = None
    ) -> None:
        self.error = error
        self.message = message
        self.reason = reason
        self.retry_after = retry_after
        super().__init__(message)

    def response(self) -> dict[str, Any]:
        """The members of the response."""
        members = {"error": self.error, "message": self.message}
        if self.reason is not None:
            members["reason"] = self.reason
        if self.retry_after is not None:
            return {**members, "retry_after": self.retry_after}
        return members


def refused(reason: str, message: str) -> Refusal:
    """Make the refusal of a signature that a rule does not allow."""
    return Refusal("refused", message, reason=reason)


class Request(NamedTuple):
    """A request whose members have the right types and lengths."""

    op: str
    members: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"<Request {self.op}>"


# json.dumps() would make one for each message.
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def pack(message: Mapping[str, object]) -> bytes:
    """One frame: the length in four bytes, the most significant first, and the JSON object in UTF-8."""
    text = _encode({"v": VERSION, **message}).encode("ascii")
    return len(text).to_bytes(LENGTH_BYTES, "big") + text


class Frames:
    """Cuts the bytes of a connection into frames.

    :param limit: bytes of one frame at most, its length not counted.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = b""
        self._limit = limit

    @property
    def within(self) -> bool:
        """Whether a part of a frame has come, and its end has not."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes as they came."""
        self._buffer += data

    def next(self) -> bytes | None:
        """Take the next whole frame out; None until one is there.

        :raises Refusal: its length is 0 or over the limit. Nothing after it can be read.
        """
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if not 0 < length <= self._limit:
            raise Refusal("bad_request", f"a frame has 1 to {self._limit} bytes; this one says {length}")
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        frame, self._buffer = self._buffer[LENGTH_BYTES:end], self._buffer[end:]
        return frame


# --- what a request may hold


def _is_name(value: object) -> bool:
    return isinstance(value, str) and NAME.fullmatch(value) is not None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()


def _is_input(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_INPUT and value.isascii()


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_LIST and all(map(_is_text, value))


def _is_secret(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT


def _is_secrets(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= _MAX_LIST
        and all(map(_is_name, value))
        and all(map(_is_secret, value.values()))
    )


def _are_nonces(value: object) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_LIST and all(map(_is_nonce, value))


def _is_nonce(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"origin", "role", "nonce", "reusable"}
        and _is_text(value["origin"])
        and value["role"] in _ROLES
        and isinstance(value["nonce"], str)
        and len(value["nonce"]) <= _MAX_NONCE
        and _NONCE.fullmatch(value["nonce"]) is not None
        and type(value["reusable"]) is bool
    )


def _is_token(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TOKEN and _TOKEN.fullmatch(value) is not None


def _is_ath(value: object) -> bool:
    return isinstance(value, str) and _ATH.fullmatch(value) is not None


def _is_flag(value: object) -> bool:
    return type(value) is bool


def _is_time(value: object) -> bool:
    return type(value) in {int, float} and 0 <= float(str(value)) <= _MAX_TIME


def _is_assertion(value: object) -> bool:
    return isinstance(value, dict) and all(
        name in _ASSERTION and _ASSERTION[name](each) for name, each in value.items()
    )


def _is_audience(value: object) -> bool:
    return _is_text(value) or (_is_texts(value) and value != [])


def _is_seconds(value: object) -> bool:
    return type(value) is int and abs(value) <= _MAX_SECONDS


_ASSERTION: Final[Mapping[str, Callable[[object], bool]]] = {
    "kid": _is_text,
    "typ": _is_text,
    "aud": _is_audience,
    "exp": _is_seconds,
    "nbf": _is_seconds,
}


class _Members(NamedTuple):
    needed: Mapping[str, Callable[[object], bool]]
    optional: Mapping[str, Callable[[object], bool]] = {}


_OPERATIONS: Final[Mapping[str, _Members]] = {
    "status": _Members({}),
    "list": _Members({}),
    "key": _Members({"key": _is_name}),
    "sign": _Members({"key": _is_name, "input": _is_input}, {"learnt": _are_nonces}),
    "learn": _Members({"key": _is_name, "learnt": _are_nonces}),
    "token": _Members({"account": _is_name}, {"refused": _is_ath}),
    "login": _Members(
        {
            "account": _is_name,
            "key": _is_name,
            "token_endpoint": _is_text,
            "client_id": _is_text,
            "access_token": _is_token,
            "token_type": _is_text,
        },
        {
            "refresh_token": _is_token,
            "grant": _is_text,
            "client_secret": _is_secret,
            "client_auth": _is_text,
            "client_key": _is_name,
            "client_assertion": _is_assertion,
            "profile": _is_text,
            "issuer": _is_text,
            "revocation_endpoint": _is_text,
            "scope": _is_text,
            "resource": _is_texts,
            "issued_at": _is_time,
            "expires_at": _is_time,
            "refresh_expires_at": _is_time,
        },
    ),
    "logout": _Members({"account": _is_name}, {"forget": _is_flag}),
    "add": _Members({"key": _is_name, "uri": _is_text, "origins": _is_texts}, {"password": _is_secret}),
    "lock": _Members({}),
    "unlock": _Members({}, {"passwords": _is_secrets}),
    "reload": _Members({}),
    "stop": _Members({}),
}


_CHECKS: Final = {op: {**members.needed, **members.optional} for op, members in _OPERATIONS.items()}


def read_request(data: bytes) -> Request:
    """Read one frame as a request.

    :raises Refusal: not one JSON object, another version, an operation that is not known, or members that are
        missing, too many, or of the wrong type or length.
    """
    try:
        members = json_object(data, max_depth=_MAX_DEPTH)
    except EncodingError as error:
        raise Refusal("bad_request", f"the request is {error}") from None
    version, op = members.pop("v", None), members.pop("op", None)
    if type(version) is not int or version != VERSION:
        raise Refusal("unsupported_version", f"this agent speaks version {VERSION} of the protocol")
    if not isinstance(op, str) or op not in _OPERATIONS:
        raise Refusal("bad_request", f"op must be one of {', '.join(_OPERATIONS)}")
    needed, checks = _OPERATIONS[op].needed, _CHECKS[op]
    for name in needed.keys() - members.keys():
        raise Refusal("bad_request", f"{op} needs {name}")
    for name, value in members.items():
        if name not in checks:
            raise Refusal("bad_request", f"{op} has a member that is not known; expected {', '.join(checks) or 'none'}")
        if not checks[name](value):
            raise Refusal("bad_request", f"{name} is not what {op} expects there, or too long")
    return Request(op, members)
