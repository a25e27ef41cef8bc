# SPDX-License-Identifier: Apache-2.0
"""Find the proof in the header fields of a request and split it into its parts, strictly.

The length is checked before decoding, and the encoding before the meaning, so that no input costs more than it
should. JOSE libraries accept padding, duplicate members, a byte order mark or UTF-16 here: each would give one
proof two meanings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from dpop.encoding import BASE64URL, b64url_decode, json_object
from dpop.errors import ArgumentTypeError, EncodingError
from dpop.keys import _loaded  # noqa: F401 - a server loads OpenSSL when it starts, not in its first request
from dpop.keys._public import PublicKey, unloaded_key
from dpop.server._reasons import Reason, refuse

__all__ = [
    "CompactJWS",
    "FieldsByName",
    "Headers",
    "JoseHeader",
    "PassedHeader",
    "header_fields",
    "parse_compact",
    "proof_field",
]

Headers = Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[str | bytes, str | bytes]]
"""Header fields: pairs of name and value, or a mapping. Bytes are read as Latin-1."""


class FieldsByName:
    """Header fields, as pairs, each of which is found by its name without reading the others, which may be many."""

    def named(self, name: str) -> list[str]:
        """The values of all fields with this name.

        :param name: in lower case.
        """
        raise NotImplementedError

    def __iter__(self) -> Iterator[tuple[str, str]]:
        raise NotImplementedError


class JoseHeader:
    """A decoded JOSE header that is not checked yet, and its public key, read on first use."""

    __slots__ = ("_key", "members", "passed")

    def __init__(self, members: dict[str, Any]) -> None:
        self.members: dict[str, Any] = members
        self._key: PublicKey | None = None
        self.passed: PassedHeader | None = None
        """The result of the checks when they passed last. The checks set it."""

    @property
    def key(self) -> PublicKey:
        """The public key in ``jwk``, which must be an object. OpenSSL loads it when it verifies a signature.

        :raises InvalidKeyError: not a public key that DPoP can use.
        """
        if self._key is None:
            self._key = unloaded_key(self.members["jwk"])
        return self._key


class PassedHeader(NamedTuple):
    """A header that passed its checks.

    :param algs: the algorithms that were allowed.
    """

    algs: tuple[str, ...]
    alg: str
    key: PublicKey


class CompactJWS:
    """The parts of a compact JWS (RFC 7515 §7.1). Each is decoded on first use; none is checked."""

    __slots__ = ("_max_depth", "_payload", "_payload_part", "_signature", "_signature_part", "header", "signing_input")

    def __init__(
        self, header: JoseHeader, payload_part: bytes, signing_input: bytes, signature_part: bytes, max_depth: int
    ) -> None:
        self.header: JoseHeader = header
        self.signing_input: bytes = signing_input
        self._payload: dict[str, Any] | None = None
        self._payload_part = payload_part
        self._signature: bytes | None = None
        self._signature_part = signature_part
        self._max_depth = max_depth

    @property
    def signature(self) -> bytes:
        """The bytes of the signature, decoded on first use. An RSA signature is decoded after its key was checked.

        :raises InvalidProof: not base64url.
        """
        if self._signature is None:
            try:
                self._signature = b64url_decode(self._signature_part)
            except EncodingError as error:
                raise refuse(Reason.SIGNATURE_MALFORMED, because=str(error)) from None
        return self._signature

    @property
    def payload(self) -> dict[str, Any]:
        """The claims, decoded on first use, which is after the signature was verified.

        :raises InvalidProof: not one JSON object.
        """
        if self._payload is None:
            self._payload = _object(self._payload_part, self._max_depth, Reason.PAYLOAD_MALFORMED)
        return self._payload

    def __repr__(self) -> str:
        return "<CompactJWS>"


def proof_field(headers: Headers) -> str | None:
    """The value of the one DPoP header field, or None if there is none (RFC 9449 §4.3 (1)).

    Names match in any case (RFC 9110 §5.1). Space and tab around the value are not part of it (§5.5).

    :raises InvalidProof: more than one DPoP field, even if they are equal.
    :raises ArgumentTypeError: ``headers`` is neither pairs nor a mapping.
    """
    found = header_fields(headers, "dpop")
    if len(found) > 1:
        raise refuse(Reason.PROOF_REPEATED, expected="1 DPoP header", got=f"{len(found)} of them")
    return found[0].strip(" \t") if found else None


def header_fields(headers: Headers, name: str) -> list[str]:
    """The values of all fields with this name.

    :param name: in lower case.
    :raises ArgumentTypeError: ``headers`` is neither pairs nor a mapping.
    """
    if isinstance(headers, FieldsByName):
        return headers.named(name)
    found: list[str] = []
    size = len(name)
    # isinstance(list, Mapping) would take a third of the time of this function, so a list is recognised first.
    pairs: Iterable[Any] = headers if type(headers) is list or not isinstance(headers, Mapping) else headers.items()
    try:
        for key, value in pairs:
            # Length first: of the twenty or so fields of a request, one is wanted.
            if len(key) == size and (key if type(key) is str else _text(key)).lower() == name:
                found.append(_text(value))
    except (TypeError, ValueError):
        raise ArgumentTypeError("headers", "(name, value) pairs or a mapping, each a str or bytes", headers) from None
    return found


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise TypeError


def parse_compact(text: str, *, max_length: int, max_depth: int) -> CompactJWS:
    """Split one compact JWS, and decode its header (RFC 9449 §4.3 (2), RFC 7515 §7.1).

    :param max_length: characters in the text, at most.
    :param max_depth: levels of JSON nesting, at most.
    :raises InvalidProof: not a compact JWS, or its header has ``crit`` or ``b64``.
    """
    if len(text) > max_length:
        raise refuse(Reason.PROOF_TOO_LONG, expected=f"at most {max_length} characters", got=f"{len(text)} characters")
    data = text.encode("ascii", "replace")
    parts = data.split(b".")
    if data.translate(None, BASE64URL) != b".." or b"" in parts:
        raise refuse(Reason.NOT_COMPACT, because=_why_not_compact(text))
    header_part, payload_part, signature_part = parts
    if len(header_part) > max_length // 2:
        # It is read before the signature is checked. With a 4096-bit RSA key it has 1,200 characters.
        raise refuse(
            Reason.PROOF_TOO_LONG,
            expected=f"a header of at most {max_length // 2} characters",
            got=f"{len(header_part)} characters",
        )
    read = _kept_header if len(header_part) <= _MAX_KEPT_LENGTH else _read_header
    header = read(header_part, max_depth)
    return CompactJWS(header, payload_part, data[: -len(signature_part) - 1], signature_part, max_depth)


def _read_header(part: bytes, max_depth: int) -> JoseHeader:
    members = _object(part, max_depth, Reason.HEADER_MALFORMED, most=_MOST_IN_HEADER)
    # No proof uses these, and b64 false would change the signing input (RFC 7515 §4.1.11, RFC 7797 §3).
    if "crit" in members or "b64" in members:
        raise refuse(Reason.CRIT_REFUSED)
    return JoseHeader(members)


# A client sends the same header bytes each time. To read the header, and above all to load its key, costs half as much
# as the signature check, so those used last are kept.
_kept_header = lru_cache(maxsize=1024)(_read_header)
# The length with a 4096-bit RSA key: it bounds the whole cache to about 20 MB.
_MAX_KEPT_LENGTH = 1200


# The header of any honest proof has fewer values. To parse hundreds, which anybody can send without a signature, takes
# longer than to check one. Each value but the first of an object or array stands behind a comma.
_MOST_IN_HEADER = 64


def _object(part: bytes, max_depth: int, reason: Reason, most: int | None = None) -> dict[str, Any]:
    try:
        data = b64url_decode(part)
        if most is not None and data.count(b"{") + data.count(b"[") + data.count(b",") > most:
            raise EncodingError(f"JSON with more than {most} brackets and commas")
        return json_object(data, max_depth=max_depth)
    except EncodingError as error:
        raise refuse(reason, because=str(error)) from None


def _why_not_compact(text: str) -> str:
    """Describe the likely mistake, without repeating the text itself."""
    if not text:
        return "it is empty"
    if "," in text:
        return "it holds a comma, as if two DPoP headers had been joined into one"
    if text.startswith("{"):
        return "it is JSON; use the compact serialisation"
    if text.count(".") != 2:
        return f"it has {text.count('.') + 1} parts"
    if ".." in text or text.startswith(".") or text.endswith("."):
        return "one of its parts is empty"
    return "only A-Z a-z 0-9 - _ and the two dots are allowed, without = padding"
