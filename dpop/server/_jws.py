# SPDX-License-Identifier: Apache-2.0
"""From the header fields of a request to the parts of one proof, strictly.

Length comes before decoding, decoding before meaning, so that nothing a stranger sends costs more
than it should. What a JOSE library lets through here (padding, duplicate members, a byte order mark,
UTF-16) would give one proof two meanings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dpop.encoding import BASE64URL, b64url_decode, json_object
from dpop.errors import ArgumentTypeError, EncodingError
from dpop.keys._public import PublicKey
from dpop.server._reasons import Reason, refuse

__all__ = ["CompactJWS", "Headers", "JoseHeader", "header_fields", "parse_compact", "proof_field"]

Headers = Mapping[str, str] | Mapping[bytes, bytes] | Iterable[tuple[str | bytes, str | bytes]]
"""Header fields: pairs of name and value, or a mapping. Octets are read as Latin-1."""


class JoseHeader:
    """A JOSE header, decoded but not judged, and its public key once somebody has asked for it."""

    __slots__ = ("_key", "members")

    def __init__(self, members: dict[str, Any]) -> None:
        self.members: dict[str, Any] = members
        self._key: PublicKey | None = None

    @property
    def has_key(self) -> bool:
        """Whether :attr:`key` is there already."""
        return self._key is not None

    @property
    def key(self) -> PublicKey:
        """The key in ``jwk``, which must be an object.

        :raises InvalidKeyError: not a public key that DPoP can use.
        """
        if self._key is None:
            self._key = PublicKey.from_jwk(self.members["jwk"])
        return self._key


class CompactJWS:
    """The parts of a compact JWS (RFC 7515 §7.1): each is decoded when it is needed, and none is judged."""

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
        """Its octets, decoded when first asked for: of RSA, not before the key is known to be a good one.

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
        """The claims, read when first asked for: not before somebody is known to have signed them.

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

    :raises InvalidProof: there is more than one such field, equal or not.
    :raises ArgumentTypeError: ``headers`` is neither pairs nor a mapping.
    """
    found = header_fields(headers, "dpop")
    if len(found) > 1:
        raise refuse(Reason.PROOF_REPEATED, expected="1 DPoP header", got=f"{len(found)} of them")
    return found[0].strip(" \t") if found else None


def header_fields(headers: Headers, name: str) -> list[str]:
    """The values of all fields of this name, given in lower case.

    :raises ArgumentTypeError: ``headers`` is neither pairs nor a mapping.
    """
    found: list[str] = []
    size = len(name)
    # A list is no Mapping; to have that found out takes a third of the time of all this.
    pairs: Iterable[Any] = headers if type(headers) is list or not isinstance(headers, Mapping) else headers.items()
    try:
        for key, value in pairs:
            # Lengths first: most requests have twenty fields and one of interest.
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

    :param max_length: characters read at most.
    :param max_depth: levels of JSON nesting read at most.
    :raises InvalidProof: it is anything else, or its header has ``crit`` or ``b64``.
    """
    if len(text) > max_length:
        raise refuse(Reason.PROOF_TOO_LONG, expected=f"at most {max_length} characters", got=f"{len(text)} characters")
    data = text.encode("ascii", "replace")
    parts = data.split(b".")
    if data.translate(None, BASE64URL) != b".." or b"" in parts:
        raise refuse(Reason.NOT_COMPACT, because=_why_not_compact(text))
    header_part, payload_part, signature_part = parts
    header = _recent.get((header_part, max_depth)) or _read_header(header_part, max_depth)
    return CompactJWS(header, payload_part, data[: -len(signature_part) - 1], signature_part, max_depth)


# A client sends the same header each time, octet for octet. To read it, and above all to load its key,
# costs as much as the signature check, so the recent ones are kept, each from its second time on: keys
# that are used once fill nothing. Bounded by clearing; losing an entry costs one reading.
_recent: dict[tuple[bytes, int], JoseHeader] = {}
_MAX_RECENT = 1024
_came_once: set[int] = set()
_MAX_CAME_ONCE = 8192
# That of a 4096-bit RSA key, so that nobody can make it all larger than some 20 MB.
_MAX_KEPT_LENGTH = 1200


def _read_header(part: bytes, max_depth: int) -> JoseHeader:
    members = _object(part, max_depth, Reason.HEADER_MALFORMED)
    # No proof uses these, and a b64 of false would change what is signed (RFC 7515 §4.1.11, RFC 7797 §3).
    if "crit" in members or "b64" in members:
        raise refuse(Reason.CRIT_REFUSED)
    header = JoseHeader(members)
    if len(part) <= _MAX_KEPT_LENGTH:
        _keep(part, max_depth, header)
    return header


def _keep(part: bytes, max_depth: int, header: JoseHeader) -> None:
    mark = hash(part)
    if mark not in _came_once:
        if len(_came_once) >= _MAX_CAME_ONCE:
            _came_once.clear()
        _came_once.add(mark)
        return
    if len(_recent) >= _MAX_RECENT:
        _recent.clear()
    _recent[part, max_depth] = header


def _object(part: bytes, max_depth: int, reason: Reason) -> dict[str, Any]:
    try:
        return json_object(b64url_decode(part), max_depth=max_depth)
    except EncodingError as error:
        raise refuse(reason, because=str(error)) from None


def _why_not_compact(text: str) -> str:
    """Name the likely mistake without echoing the text."""
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
