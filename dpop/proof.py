# SPDX-License-Identifier: Apache-2.0
"""DPoP proofs: the bytes to sign, and the compact JWT around the signature (RFC 9449 §4.2).

Making a proof is split in two, so that a caller with a slow key can sign elsewhere::

    data = signing_input(key, "POST", htu, jti=..., iat=...)
    proof = compact(data, key.sign(data))

``create_proof`` does both at once for a caller that has a URL and a key.
"""

from __future__ import annotations

import binascii
import contextlib
import json
import os
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_encode, check_nonce, sendable_token_hash
from dpop.errors import AlgorithmError, ArgumentTypeError, DPoPError, EncodingError, SigningError, UsageError
from dpop.htu import check_method, url_htu
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import unloaded_key

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = ["compact", "create_proof", "random_jti", "signing_input"]

_STANDARD_CLAIMS = frozenset({"jti", "htm", "htu", "iat", "ath", "nonce"})
_MAX_JTI_LENGTH = 256
_MAX_CLAIMS_DEPTH = 32  # a bound of our own: how deep the json module goes depends on the Python and on the stack

# (alg, thumbprint) identifies a public key and how it signs. The value is its encoded header, and the size of its
# signatures if the algorithm fixes it. When the dict is full it is cleared, and filled again from _headers_of_keys:
# a header takes ten times as long to make as a signature, and one process may sign for many users.
_Header = tuple[bytes, int | None]
_headers: dict[tuple[str, str], _Header] = {}
_MAX_HEADERS = 1024
_headers_of_keys: WeakKeyDictionary[Key, tuple[tuple[str, str], _Header]] = WeakKeyDictionary()
"""The header of each key object that still exists, with the (alg, thumbprint) that the key had."""


def random_jti() -> str:
    """Return a fresh ``jti``: 128 random bits as 32 hexadecimal digits (RFC 9449 §4.2 asks for 96 bits or more)."""
    return os.urandom(16).hex()


_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def signing_input(
    key: Key,
    method: str,
    htu: str,
    *,
    jti: str,
    iat: int,
    nonce: str | None = None,
    ath: str | None = None,
    claims: Mapping[str, Any] | None = None,
) -> bytes:
    """Return the bytes that a DPoP proof signs: BASE64URL(header) ``.`` BASE64URL(payload) (RFC 9449 §4.2).

    Unlike :func:`create_proof` it does not check its arguments: ``htu`` must come from :mod:`dpop.htu`, ``ath`` from
    :func:`dpop.encoding.sendable_token_hash`, and ``method`` and ``nonce`` must have been checked.

    :param iat: seconds since the epoch, an int.
    :param claims: further claims; they cannot replace the standard ones.
    :raises UsageError: the extra claims name a standard claim or are not JSON.
    :raises DPoPKeyError: the key's public JWK is not a key DPoP can use.
    """
    return _header_of(key)[0] + _payload(_target(method, htu), _quoted(jti), iat, nonce, ath, claims)


def _payload(  # noqa: PLR0917 - positional arguments are quicker, and every proof comes through here
    target: str,
    quoted_jti: str,
    iat: int,
    nonce: str | None,
    ath: str | None,
    claims: Mapping[str, Any] | None,
) -> bytes:
    """Return BASE64URL(payload), made from parts that are JSON already."""
    tail = "" if ath is None else f',"ath":"{ath}"'
    if nonce is not None:
        tail += f',"nonce":"{nonce}"'
    if claims:
        tail += _extra(claims)
    payload = f'{{"jti":{quoted_jti}{target}{iat}{tail}}}'
    return binascii.b2a_base64(payload.encode("ascii"), newline=False).translate(_URL_SAFE, b"=")


def compact(data: bytes, signature: bytes) -> str:
    """Join the proof: the signed bytes, a dot, and BASE64URL(signature) (RFC 7515 §3.1)."""
    encoded = binascii.b2a_base64(signature, newline=False).translate(_URL_SAFE, b"=")
    return (data + b"." + encoded).decode("ascii")


@hide_frames
def create_proof(
    key: Key,
    method: str,
    url: str,
    *,
    nonce: str | None = None,
    access_token: str | None = None,
    jti: str | None = None,
    iat: int | None = None,
    claims: Mapping[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> str:
    """Make a DPoP proof for one request: the value of its ``DPoP`` header (RFC 9449 §4.2).

    :param key: any object with the :class:`dpop.keys.Key` protocol.
    :param method: the request method as sent; case matters (``GET``, not ``get``).
    :param url: the request's URL. Query and fragment are left out of ``htu``.
    :param nonce: the server's newest ``DPoP-Nonce``, if it gave one.
    :param access_token: the token in ``Authorization: DPoP``; leave it out at token endpoints.
    :param jti: the proof's identifier; random by default. A proof is for one request: make another
        for the next.
    :param iat: creation time in whole seconds since the epoch; the clock's by default.
    :param claims: further claims, JSON values.
    :raises InvalidTargetError: the URL or method cannot be written into a proof exactly.
    :raises CredentialError: the nonce or token has characters that it must not have.
    :raises DPoPKeyError: the key cannot be used or did not sign.
    :raises UsageError: ``iat`` or ``claims`` with a key of the signing agent, which signs neither.
    """
    header, size = _header_of(key)
    if (claims or iat is not None) and getattr(key, "signs_only_proofs", False):
        raise UsageError(
            "a key of the signing agent signs proofs for now, with the claims of RFC 9449 only: leave out iat= and"
            " claims=, or load the key itself where it is kept. A program that could choose them could have proofs"
            " made for tomorrow, or other tokens"
        )
    data = header + _payload(
        _target_of_url(method, url),
        f'"{random_jti()}"' if jti is None else _quoted(_checked_jti(jti)),
        int(clock()) if iat is None else _checked_iat(iat),
        None if nonce is None else check_nonce(nonce),
        None if access_token is None else sendable_token_hash(access_token),
        claims,
    )
    signature = key.sign(data)
    if type(signature) is not bytes or len(signature) != size:
        _check_size(key, signature)
    # This is compact(), inlined: every proof comes through here.
    encoded = binascii.b2a_base64(signature, newline=False).translate(_URL_SAFE, b"=")
    return (data + b"." + encoded).decode("ascii")


def sign(key: Key, data: bytes) -> bytes:
    """Sign with the key, and check the length of the signature before it is sent (RFC 7518 §3.4).

    :raises SigningError: the key failed with an error of its own, which a caller would take for one of the connection;
        or the signature does not have the size of the algorithm.
    :raises DPoPKeyError: the key raised it.
    """
    try:
        signature = key.sign(data)
    except DPoPError:
        raise
    except Exception as error:  # noqa: BLE001 - a key of another package may raise anything
        what = type(error).__name__
    else:
        _check_size(key, signature)
        return signature
    # Raised outside the except block, so that it has no context: the original exception may contain secrets.
    raise SigningError(f"the key failed to sign with {key.alg}: {what}")


def _check_size(key: Key, signature: object) -> None:
    size = ALGORITHMS[key.alg].signature_size
    if type(signature) is not bytes or not signature or (size is not None and len(signature) != size):
        got = f"{len(signature)} bytes" if isinstance(signature, bytes) else type(signature).__name__
        hint = "; DER from the device must be converted with der_to_raw" if key.alg.startswith("ES") else ""
        raise SigningError(f"the key returned {got} for {key.alg}, expected {size or 'some'} bytes{hint}")


def _header_of(key: Key) -> tuple[bytes, int | None]:
    """The key's BASE64URL(header) with its dot, and the size of the key's signatures."""
    try:
        name = (key.alg, key.thumbprint)
    except AttributeError:
        what = "a key from generate_key or load_key, or any object with its protocol"
        raise ArgumentTypeError("key", what, key) from None
    return _headers.get(name) or _remembered_header(key, name)


def _remembered_header(key: Key, name: tuple[str, str]) -> _Header:
    """The header that this key object got before, or a new one."""
    try:
        known, header = _headers_of_keys.get(key, (None, None))
    except TypeError:  # the object cannot be hashed, or not be referred to weakly
        known = header = None
    if header is None or known != name:
        header = _header(key, *name)
        with contextlib.suppress(TypeError):
            _headers_of_keys[key] = name, header
    if len(_headers) >= _MAX_HEADERS:
        _headers.clear()
    _headers[name] = header
    return header


def _header(key: Key, alg: str, thumbprint: str) -> _Header:
    """Check the JWK and encode the header, once per key instead of once per proof."""
    # Not loaded, because a program whose key is in the agent needs no OpenSSL. A server checks the point.
    public = unloaded_key(key.public_jwk)
    if alg not in public.algs:
        raise AlgorithmError(f"the key says that it signs with {alg}, but its JWK is for {' or '.join(public.algs)}")
    if public.thumbprint != thumbprint:
        raise UsageError("the key's thumbprint does not belong to its public JWK; compute it with dpop.thumbprint")
    header = json.dumps({"typ": "dpop+jwt", "alg": alg, "jwk": public.jwk}, separators=(",", ":"))
    return b64url_encode(header.encode("ascii")).encode("ascii") + b".", ALGORITHMS[alg].signature_size


_quoted = json.encoder.encode_basestring_ascii


@lru_cache(maxsize=1024)
def _target(method: str, htu: str) -> str:
    return f',"htm":"{method}","htu":{_quoted(htu)},"iat":'


def _target_of_url(method: str, url: str) -> str:
    if type(method) is str and type(url) is str:
        return _target_of_url_path(method, url.partition("?")[0].partition("#")[0])
    return _target(check_method(method), url_htu(url))


@lru_cache(maxsize=1024)
def _target_of_url_path(method: str, url: str) -> str:
    """Return the target of a URL without query and fragment: a query may hold secrets, which must not be cached."""
    return _target(check_method(method), url_htu(url))


def _extra(claims: Mapping[str, Any]) -> str:
    if not isinstance(claims, Mapping):
        raise ArgumentTypeError("claims", "a dict of JSON values", claims)
    taken = sorted(_STANDARD_CLAIMS.intersection(claims))
    if taken:
        raise UsageError(f"claims= cannot set {', '.join(taken)}: create_proof sets these claims itself")
    if not _is_nested_at_most(_MAX_CLAIMS_DEPTH, claims):
        raise EncodingError(f"claims= must be JSON values, nested at most {_MAX_CLAIMS_DEPTH} levels deep")
    try:
        text = json.dumps(dict(claims), separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise EncodingError(f"claims= must be JSON values with str names: {error}") from None
    return "," + text[1:-1]


def _is_nested_at_most(most: int, value: Any) -> bool:
    """Whether containers stand at most ``most`` deep in each other; a container that holds itself does not."""
    level = {id(value): value}
    for _ in range(most + 1):
        level = {
            id(inner): inner
            for outer in level.values()
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
            if isinstance(inner, (Mapping, list, tuple))
        }
        if not level:
            return True
    return False


def _checked_jti(jti: object) -> str:
    if not isinstance(jti, str):
        raise ArgumentTypeError("jti", "str", jti)
    if not 1 <= len(jti) <= _MAX_JTI_LENGTH or not jti.isprintable():
        raise UsageError(f"jti must be 1 to {_MAX_JTI_LENGTH} printable characters; leave it out for a random one")
    return jti


def _checked_iat(iat: object) -> int:
    if not isinstance(iat, int) or isinstance(iat, bool):
        raise ArgumentTypeError("iat", "int, whole seconds since the epoch", iat)
    if not 0 <= iat < 10**11:
        raise UsageError("iat must be seconds since the epoch, of 11 digits at most; milliseconds need // 1000")
    return iat
