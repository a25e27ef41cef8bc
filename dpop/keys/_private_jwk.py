# SPDX-License-Identifier: Apache-2.0
"""Private JWKs: reading with every check, and writing (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).

A private JWK holds its public key too. The two are compared: with a wrong pair every proof would
carry a key that did not sign it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dpop.encoding import b64url_encode
from dpop.errors import InvalidKeyError
from dpop.keys._public import CURVES, REQUIRED_MEMBERS, PublicKey, decode_bytes, decode_number

__all__ = ["PrivateKey", "read_private_jwk", "secret_members"]

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_CRT_MEMBERS: Final = ("p", "q", "dp", "dq", "qi")
_MAX_RSA_BITS: Final = 8192

_MISMATCH: Final = "the private and the public members of the JWK do not belong together"


def read_private_jwk(jwk: Mapping[str, object]) -> tuple[PrivateKey, PublicKey]:
    """The private key of a JWK, and the public key in it, whose ``declared_alg`` is that of the JWK.

    :raises InvalidKeyError: a public or symmetric key, a JWK Set, a weak key, another curve, members
        missing, misspelt or not belonging together, ``use`` or ``key_ops`` that rule out signing.
        No value of the JWK is in the message or chained to it.
    """
    if not isinstance(jwk, Mapping):
        raise InvalidKeyError(f"a JWK must be a JSON object, not {type(jwk).__name__}")
    kty = jwk.get("kty")
    names = REQUIRED_MEMBERS.get(kty, ()) if isinstance(kty, str) else ()
    # Without names this refuses the key type, in the words it has for that.
    public = PublicKey.from_jwk({name: jwk[name] for name in (*names, "alg", "kty", "keys") if name in jwk})
    if "d" not in jwk:
        raise InvalidKeyError('a public key came where a private one is needed: the JWK has no "d"')
    _check_purpose(jwk, public)
    # cryptography's own text may hold numbers of the key, so no error of its is chained.
    try:
        key = _READERS[kty if isinstance(kty, str) else ""](jwk)
        matches = PublicKey.from_cryptography(key.public_key()) == public
    except (ValueError, UnsupportedAlgorithm) as error:
        reason = str(error) if isinstance(error, InvalidKeyError) else _MISMATCH
    else:
        if matches:
            return key, public
        reason = _MISMATCH
    raise InvalidKeyError(reason)


def secret_members(key: PrivateKey) -> dict[str, str]:
    """The members that make a public JWK the private one (RFC 7518 §6.2.2, §6.3.2, RFC 8037 §2)."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return {"d": b64url_encode(key.private_bytes_raw())}
    numbers = key.private_numbers()
    if isinstance(numbers, ec.EllipticCurvePrivateNumbers):
        # The length of the order (RFC 7518 §6.2.2.1), for these curves that of the coordinates.
        size = (key.key_size + 7) // 8
        return {"d": b64url_encode(numbers.private_value.to_bytes(size, "big"))}
    values = (numbers.d, numbers.p, numbers.q, numbers.dmp1, numbers.dmq1, numbers.iqmp)
    return {
        name: b64url_encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
        for name, value in zip(("d", *_CRT_MEMBERS), values, strict=True)
    }


def _check_purpose(jwk: Mapping[str, object], public: PublicKey) -> None:
    if "use" in jwk and jwk["use"] != "sig":
        raise InvalidKeyError('the "use" of the JWK is not "sig": the key is not for signatures')
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or "sign" not in operations:
            raise InvalidKeyError('the "key_ops" of the JWK have no "sign": the key is not for signing')
    if public.declared_alg is not None and public.declared_alg not in public.algs:
        raise InvalidKeyError(
            f'the "alg" of the JWK does not fit its key, which can be used for {" or ".join(public.algs)}'
        )


def _read_ec(jwk: Mapping[str, object]) -> ec.EllipticCurvePrivateKey:
    curve = CURVES[str(jwk["crv"])]
    d = int.from_bytes(decode_bytes(jwk, "d", (curve.key_size + 7) // 8), "big")
    return ec.derive_private_key(d, curve)


def _read_ed25519(jwk: Mapping[str, object]) -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.from_private_bytes(decode_bytes(jwk, "d", 32))


def _read_rsa(jwk: Mapping[str, object]) -> rsa.RSAPrivateKey:
    if "oth" in jwk:
        raise InvalidKeyError("the JWK is an RSA key of more than two primes, which is not supported")
    n, e, d = (decode_number(jwk, name, _MAX_RSA_BITS) for name in ("n", "e", "d"))
    if any(name in jwk for name in _CRT_MEMBERS):
        p, q, dp, dq, qi = (decode_number(jwk, name, _MAX_RSA_BITS) for name in _CRT_MEMBERS)
    else:
        # RFC 7518 §6.3.2 lets all five be left out, never some of them.
        p, q = rsa.rsa_recover_prime_factors(n, e, d)
        dp, dq, qi = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, dp, dq, qi, rsa.RSAPublicNumbers(e, n)).private_key()


_READERS: Final[dict[str, Callable[[Mapping[str, object]], PrivateKey]]] = {
    "EC": _read_ec,
    "OKP": _read_ed25519,
    "RSA": _read_rsa,
}
