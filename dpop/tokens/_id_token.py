# SPDX-License-Identifier: Apache-2.0
"""Verify the ID token of a login (OpenID Connect Core §3.1.3.7); no I/O.

The claims are checked before the signature, so that they are checked also where the server's keys cannot be had.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_decode, b64url_encode, json_object
from dpop.errors import ArgumentTypeError, EncodingError, SignatureFormatError, UsageError
from dpop.keys._algorithms import ALGORITHMS

if TYPE_CHECKING:
    from dpop.server._key_sets import KeySet

__all__ = [
    "BadIDToken",
    "Expected",
    "IDToken",
    "claims_in",
    "decryption_key",
    "is_encrypted",
    "opened",
    "read_id_token",
    "refresh_remark",
]

_SKEW: Final = 300.0
"""Seconds by which the clocks may differ: a login is not worth less because of a clock."""
_MAX_DEPTH: Final = 16
_MAX_ENCRYPTED: Final = 1 << 20  # characters: as large as a whole response may be
_SHARED: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
_HASHES: Final = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}
_KEY_WRAPS: Final = ("RSA-OAEP", "RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A192KW", "ECDH-ES+A256KW")
_CIPHERS: Final = ("A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A192CBC-HS384", "A256CBC-HS512")


class BadIDToken(Exception):  # noqa: N818 - becomes an InvalidIDTokenError, which has the tokens
    """An ID token must not be believed; the message says why, and shows no claim that may be personal."""


class Expected(NamedTuple):
    """The values that an ID token must have.

    :param nonce: of the authorization request; ``None`` where there was none.
    :param access_token: came with it; ``None`` if that is not known.
    :param code: was redeemed for it; ``None`` if it was not a code.
    """

    issuer: str
    client_id: str
    nonce: str | None
    access_token: str | None
    code: str | None = None


class IDToken(NamedTuple):
    """An ID token whose claims are right; its signature is still to be verified.

    :param alg: the algorithm of its signature.
    :param kid: the name of the key; ``None`` if it names none.
    """

    text: str
    alg: str
    kid: str | None
    claims: Mapping[str, Any]

    @property
    def has_shared_secret(self) -> bool:
        """Whether it is signed with the client's secret (HS256)."""
        return self.alg in _SHARED

    def why_not_verifiable_with(self, secret: bytes | None) -> str | None:
        """Why the secret can verify no such signature; ``None`` if it can."""
        need = _SHARED[self.alg]().digest_size
        if secret is None:
            return f"it is signed with a client secret ({self.alg}), and this client has none"
        if len(secret) < need:  # RFC 7518 §3.2: a short secret can be guessed from one ID token, and others be made
            return f"it is signed with the client secret, which is too short for {self.alg}: under {need} bytes"
        return None

    @hide_frames
    def is_signed_with(self, secret: bytes) -> bool:
        """Whether the client's secret has signed it (OpenID Connect Core §3.1.3.7, 8)."""
        data, _, signature = self.text.rpartition(".")
        made = hmac.digest(secret, data.encode("ascii"), _SHARED[self.alg])
        return hmac.compare_digest(made, b64url_decode(signature))

    def is_signed_by(self, keys: KeySet) -> bool | None:
        """Whether one of the issuer's keys has signed it; ``None`` if none of them fits."""
        found = keys.find(self.kid, self.alg)
        if not found:
            return None
        data, _, signature = self.text.rpartition(".")
        raw = b64url_decode(signature)
        try:
            return any(key.public.verify(self.alg, data.encode("ascii"), raw) for key in found)
        except SignatureFormatError:
            return False


def read_id_token(text: str, expected: Expected, now: float) -> IDToken:
    """Read an ID token that is not encrypted, and check all but its signature.

    :param now: Unix seconds.
    :raises BadIDToken: it is another's, of another login or time, or malformed.
    """
    parts = text.split(".")
    if len(parts) != 3:
        raise BadIDToken("it is not a JWT of three parts")
    try:
        header = json_object(b64url_decode(parts[0]), max_depth=_MAX_DEPTH)
        claims = json_object(b64url_decode(parts[1]), max_depth=_MAX_DEPTH)
        b64url_decode(parts[2])
    except EncodingError as error:
        raise BadIDToken(f"its parts are {error}") from None
    alg, kid = _checked_header(header)
    _check_audience(claims, expected)
    _check_times(claims, now)
    subject = claims.get("sub")
    if not isinstance(subject, str) or not subject:
        raise BadIDToken("it has no sub")
    _check_nonce(claims.get("nonce"), expected.nonce)
    _check_hash(claims, "at_hash", expected.access_token, alg)
    _check_hash(claims, "c_hash", expected.code, alg)
    return IDToken(text, alg, kid, claims)


def _checked_header(header: Mapping[str, Any]) -> tuple[str, str | None]:
    if "crit" in header or "b64" in header:
        raise BadIDToken("its header has crit or b64, which no ID token uses")
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or alg not in {*ALGORITHMS, *_SHARED}:
        raise BadIDToken(f"its algorithm is {ascii(alg)[:40]}, which is no signature that can be verified")
    if kid is not None and not isinstance(kid, str):
        raise BadIDToken("its kid is not a string")
    return alg, kid


def _check_audience(claims: Mapping[str, Any], expected: Expected) -> None:
    """Check ``iss``, ``aud`` and ``azp`` (OpenID Connect Core §3.1.3.7, 2 to 5)."""
    issuer = claims.get("iss")
    # Google writes its issuer in two ways, and says so (OpenID Connect Core §15.6.2).
    if issuer != expected.issuer and (issuer, expected.issuer) != (
        "accounts.google.com",
        "https://accounts.google.com",
    ):
        raise BadIDToken(f"its iss is {ascii(issuer)[:200]}, and the server is {expected.issuer}")
    audience = claims.get("aud")
    named = [audience] if isinstance(audience, str) else audience
    if not isinstance(named, list) or expected.client_id not in named:
        raise BadIDToken("its aud does not name this client")
    party = claims.get("azp")
    if (party is not None or len(named) > 1) and party != expected.client_id:
        raise BadIDToken("its azp does not name this client")


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    times = {}
    for name in ("exp", "iat"):
        value = claims.get(name)
        if type(value) is not int and type(value) is not float:
            raise BadIDToken(f"its {name} is missing or not a number")
        times[name] = value
    if now >= times["exp"] + _SKEW:
        raise BadIDToken(f"it expired {now - times['exp']:.0f} s ago by this machine's clock")
    if times["iat"] > now + _SKEW:
        raise BadIDToken(f"it was issued {times['iat'] - now:.0f} s in the future by this machine's clock")


def _check_nonce(nonce: object, expected: str | None) -> None:
    if expected is None:
        return
    if not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode("utf-8", "replace"), expected.encode()):
        raise BadIDToken(f"its nonce is {'missing' if nonce is None else 'that of another login'}")


def _check_hash(claims: Mapping[str, Any], name: str, value: str | None, alg: str) -> None:
    """Check ``at_hash`` or ``c_hash``, if it is there (§3.1.3.6): half the hash of a value that came with the token."""
    if name not in claims or value is None:
        return
    kind = _HASHES.get(alg[-3:], hashlib.sha512)  # of Ed25519 too
    digest = kind(value.encode("ascii", "replace")).digest()
    if claims[name] != b64url_encode(digest[: len(digest) // 2]):
        what = "access token" if name == "at_hash" else "code"
        raise BadIDToken(f"its {name} is not that of the {what} it came with")


# --- without any check


def claims_in(text: str | None) -> Mapping[str, Any] | None:
    """The claims of an ID token, verified or not; ``None`` if it is encrypted or cannot be read."""
    parts = (text or "").split(".")
    if len(parts) != 3:
        return None
    try:
        return json_object(b64url_decode(parts[1]), max_depth=_MAX_DEPTH)
    except EncodingError:
        return None


def refresh_remark(new: str, before: str | None, client_id: str) -> str | None:
    """Return the fault of a refresh's ID token, or None; its signature is not verified (OpenID Connect Core §12.2)."""
    claims, old = claims_in(new), claims_in(before)
    if claims is None:
        return None  # encrypted, or nothing that anybody could believe
    audience = claims.get("aud")
    if client_id not in (audience if isinstance(audience, list) else [audience]):
        return "its aud does not name this client"
    changed = [name for name in ("iss", "sub") if old is not None and claims.get(name) != old.get(name)]
    return f"its {changed[0]} is another than that of the ID token before" if changed else None


# --- encrypted ID tokens


def is_encrypted(text: str) -> bool:
    """Whether it is a compact JWE (RFC 7516 §3.1)."""
    return text.count(".") == 4


@hide_frames
def decryption_key(key: object) -> Any:
    """Read the private key for encrypted ID tokens: PEM, or a JWK.

    :raises UsageError: it is none.
    """
    if not isinstance(key, str | bytes | Mapping):
        raise ArgumentTypeError("id_token_key", "a private key in PEM, or a JWK as a mapping", key)
    made = _imported(key)
    if made is None or not made.is_private:
        raise UsageError("id_token_key must be a private RSA, EC or X25519 key without a password: PEM, or a JWK")
    return made


def _imported(key: str | bytes | Mapping[str, Any]) -> Any:
    """The key as an object of joserfc; ``None`` if it is no RSA, EC or X25519 key."""
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - only for encrypted ID tokens
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, x448, x25519  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    from joserfc import jwk  # noqa: PLC0415
    from joserfc.errors import JoseError  # noqa: PLC0415

    try:
        if isinstance(key, Mapping):
            return jwk.import_key(dict(key)) if key.get("kty") in {"RSA", "EC", "OKP"} else None
        private = load_pem_private_key(key.encode("ascii") if isinstance(key, str) else key, password=None)
        if isinstance(private, rsa.RSAPrivateKey):
            return jwk.RSAKey.import_key(private)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            return jwk.ECKey.import_key(private)
        if isinstance(private, x25519.X25519PrivateKey | x448.X448PrivateKey):
            return jwk.OKPKey.import_key(private)
    except (JoseError, ValueError, TypeError, UnsupportedAlgorithm):
        pass
    return None


def opened(text: str, key: Any) -> str:
    """Decrypt an ID token; returns the signed one inside it (OpenID Connect Core §10.2).

    :param key: from :func:`decryption_key`.
    :raises BadIDToken: it cannot be decrypted.
    """
    from joserfc import jwe  # noqa: PLC0415 - only for encrypted ID tokens
    from joserfc.errors import JoseError  # noqa: PLC0415

    try:
        header = json_object(b64url_decode(text.partition(".")[0]), max_depth=_MAX_DEPTH)
    except EncodingError as error:
        raise BadIDToken(f"its header is {error}") from None
    alg, enc = header.get("alg"), header.get("enc")
    if alg not in _KEY_WRAPS or enc not in _CIPHERS:
        raise BadIDToken(f"its encryption is {ascii(alg)[:40]} with {ascii(enc)[:40]}, which is not supported")
    if "zip" in header or "crit" in header:
        raise BadIDToken("its header has zip or crit, which is not supported")
    try:
        registry = jwe.JWERegistry(algorithms=[alg, enc], strict_check_header=False)
        registry.max_ciphertext_length = _MAX_ENCRYPTED
        plain = jwe.decrypt_compact(text, key, registry=registry).plaintext
        return (plain or b"").decode("ascii")
    except (JoseError, ValueError, TypeError, AttributeError):
        raise BadIDToken("it cannot be decrypted with id_token_key") from None
