# SPDX-License-Identifier: Apache-2.0
"""The stored form of a token set: JSON with a version, encrypted if the store has a sealer."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from typing import Any, Final

from dpop._files import without_mark
from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, b64url_encode, json_object
from dpop.errors import ArgumentTypeError, EncodingError, TokenFormatError, UsageError
from dpop.tokens._token_set import TokenSet

__all__ = ["MAX_RECORD", "Sealer", "read_record", "write_record"]

_log = logging.getLogger("dpop.tokens")

_ALG: Final = "A256GCM"
_SCRYPT: Final = {"n": 2**15, "r": 8, "p": 1}
_MIN_PASSWORD: Final = 8


class Sealer:
    """Encrypts the tokens in a store, so that its files or records are useless without the key.

    :param key: 32 random bytes, stored in another place than the tokens: ``os.urandom(32)``.
    :param password: eight characters or more, instead of a key. It costs a tenth of a second, once.
    :raises UsageError: both or neither are given, the key has another length, or the password is too short.
    """

    __slots__ = ("_derived", "_key", "_lock", "_password", "_salt")

    @hide_frames
    def __init__(self, key: bytes | None = None, *, password: str | bytes | None = None) -> None:
        if (key is None) == (password is None):
            raise UsageError("give either a key of 32 bytes or a password")
        if key is not None and (not isinstance(key, bytes) or len(key) != 32):
            raise UsageError("the key to encrypt with must be 32 bytes, such as os.urandom(32) made once")
        data = password.encode() if isinstance(password, str) else password
        if data is not None and len(data) < _MIN_PASSWORD:
            raise UsageError(f"the password to encrypt with must have at least {_MIN_PASSWORD} characters")
        self._key = key
        self._password = data
        self._salt: bytes = os.urandom(16)
        self._derived: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<Sealer>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a Sealer cannot be pickled: its key must not travel")

    @hide_frames
    def seal(self, data: bytes, context: bytes) -> dict[str, str]:
        """Encrypt bytes; the result is JSON, and :meth:`open` needs the same context."""
        nonce = os.urandom(12)
        salt = {} if self._password is None else {"salt": b64url_encode(self._salt)}
        ciphertext = _aes_gcm(self._key_for(self._salt)).encrypt(nonce, data, context)
        return {"alg": _ALG, **salt, "nonce": b64url_encode(nonce), "octets": b64url_encode(ciphertext)}

    @hide_frames
    def open(self, sealed: Any, context: bytes, where: str) -> bytes:
        """Decrypt what :meth:`seal` returned.

        :raises TokenFormatError: the key or password is wrong, or the bytes were changed.
        """
        try:
            if not isinstance(sealed, Mapping) or sealed["alg"] != _ALG:
                raise TokenFormatError(f"{where} is encrypted in an unknown way")
            if ("salt" in sealed) != (self._password is not None):
                raise TokenFormatError(
                    f"{where} is encrypted with a {'password' if 'salt' in sealed else 'key'}, but the store was given"
                    f" a {'key' if 'salt' in sealed else 'password'}"
                )
            salt = b64url_decode(sealed["salt"]) if "salt" in sealed else b""
            nonce, ciphertext = b64url_decode(sealed["nonce"]), b64url_decode(sealed["octets"])
        except (KeyError, EncodingError, ArgumentTypeError):
            raise TokenFormatError(f"{where} is damaged; authorise again") from None
        try:
            data: bytes = _aes_gcm(self._key_for(salt)).decrypt(nonce, ciphertext, context)
        except Exception:  # noqa: BLE001 - InvalidTag, and ValueError for a nonce of another length
            raise TokenFormatError(
                f"{where} does not open with this key or password, or was changed since it was written"
            ) from None
        if self._password is not None:
            self._salt = salt  # the next write uses the key that is derived already
        return data

    def _key_for(self, salt: bytes) -> bytes:
        if self._key is not None:
            return self._key
        with self._lock:
            key = self._derived.get(salt)
            if key is None:
                key = _scrypt(self._password or b"", salt)
                self._derived = {**dict(list(self._derived.items())[-15:]), salt: key}
            return key


def _aes_gcm(key: bytes) -> Any:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - few stores are encrypted

    return AESGCM(key)


def _scrypt(password: bytes, salt: bytes) -> bytes:
    import hashlib  # noqa: PLC0415 - as above

    return hashlib.scrypt(password, salt=salt, dklen=32, maxmem=2**26, **_SCRYPT)


MAX_RECORD: Final = 4_000_000
_VERSION: Final = 1
_MAX_DEPTH: Final = 24


def write_record(tokens: TokenSet, account: str, sealer: Sealer | None) -> bytes:
    """Return the bytes to store for a token set, which can be read again.

    Further members of a response, or a caller's own, can be anything. They are left out, with a warning, so
    that the tokens are not lost.

    :raises UsageError: the tokens could not be read again without these members either.
    """
    try:
        return _checked_record(tokens, account, sealer)
    except (TokenFormatError, TypeError, ValueError, RecursionError):  # whose text may contain a value
        if not tokens.extra:
            raise UsageError("these tokens cannot be stored, because they could not be read again") from None
    record = write_record(tokens.replace(extra={}), account, sealer)
    _log.warning("further members of the tokens of %r could not be read again, and are not stored", account)
    return record


def _checked_record(tokens: TokenSet, account: str, sealer: Sealer | None) -> bytes:
    record: dict[str, object] = {"dpop_tokens": _VERSION, "account": account}
    if sealer is None:
        record["tokens"] = tokens.to_dict()
    else:
        record["sealed"] = sealer.seal(tokens.to_json(), _context(account))
    data = json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
    if len(data) > MAX_RECORD:
        raise TokenFormatError(f"more than {MAX_RECORD} bytes")
    read_record(data, account, sealer, "the record")
    return data


def read_record(data: bytes, account: str, sealer: Sealer | None, where: str) -> TokenSet:
    """Read the tokens from stored bytes.

    :param where: the place, for messages.
    :raises TokenFormatError: the record is cut off, damaged, of another version or another account, or sealed with
        another key; or it is sealed and the store has no key, or the other way round.
    """
    if not data.strip(b"\0\n "):
        raise TokenFormatError(f"{where} is empty, because writing was interrupted; authorise again")
    data = without_mark(data)
    # Tokens may come with a certificate beside them, in a further member of the response.
    if b"-----BEGIN " in data[:4096] and not data.lstrip().startswith(b"{"):
        raise TokenFormatError(
            f"{where} contains a key or certificate (PEM), but no tokens; name the file of the tokens"
        )
    record = _json(data, where)
    version = record.get("dpop_tokens")
    if version != _VERSION or isinstance(version, bool):
        if isinstance(version, int) and version > _VERSION:
            raise TokenFormatError(f"{where} was written by a newer dpop-toolkit (format {version}); use that")
        raise TokenFormatError(f"{where} contains no tokens of this package; it was left unchanged")
    if record.get("account") != account:
        raise TokenFormatError(f"{where} contains the tokens of another account than {account!r}")
    if "sealed" in record:
        if sealer is None:
            raise TokenFormatError(f"{where} is encrypted; give the store the key or password it was encrypted with")
        facts = _json(sealer.open(record["sealed"], _context(account), where), where)
    elif sealer is not None:
        # Otherwise everybody who can write the file could replace the tokens.
        raise TokenFormatError(f"{where} is not encrypted, as it should be; authorise again")
    else:
        plain = record.get("tokens")
        facts = plain if isinstance(plain, dict) else {}
    return TokenSet.from_dict(facts)


def _json(data: bytes, where: str) -> dict[str, Any]:
    try:
        return json_object(data, max_depth=_MAX_DEPTH)
    except EncodingError as error:
        raise TokenFormatError(f"{where} is cut off or damaged ({error}); authorise again") from None


def _context(account: str) -> bytes:
    """Return the context of a sealed record, so that one account's record cannot replace another's."""
    return f"dpop-toolkit tokens {_VERSION} {account}".encode()
