# SPDX-License-Identifier: Apache-2.0
"""Private JWKs: joserfc reads and writes them, after the checks of this package (RFC 7517 §4, RFC 7518 §6).

A private JWK also contains its public key. The two are compared, because with a wrong pair no proof would verify with
the key that it carries. joserfc is imported when the first JWK is read or written. It reads only keys of the user,
never the key in a stranger's proof; docs/decisions/0003 says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from dpop.errors import InvalidKeyError
from dpop.keys._public import COORDINATE_SIZES, REQUIRED_MEMBERS, PublicKey, decode_bytes, decode_number, is_given

__all__ = ["PrivateKey", "read_private_jwk", "write_private_jwk"]

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_CRT_MEMBERS: Final = ("p", "q", "dp", "dq", "qi")
_MAX_RSA_BITS: Final = 8192


def read_private_jwk(jwk: Mapping[str, object]) -> tuple[PrivateKey, PublicKey]:
    """Read a JWK's private key, and its public key, which has the JWK's ``declared_alg``.

    A member that is null or empty counts as absent.

    :raises InvalidKeyError: the JWK is a public or symmetric key, a JWK Set, a weak key or one of another curve;
        members are missing, misspelt or do not belong together; or ``use`` or ``key_ops`` excludes signing.
        Neither the message nor a chained error contains a value of the JWK.
    """
    if not isinstance(jwk, Mapping):
        raise InvalidKeyError(f"a JWK must be a JSON object, not {type(jwk).__name__}")
    jwk = {name: value for name, value in jwk.items() if is_given(jwk, name)}
    kty = jwk.get("kty")
    names = REQUIRED_MEMBERS.get(kty, ()) if isinstance(kty, str) else ()
    # An unknown key type has no names; this call then refuses it with the usual message.
    public = PublicKey.from_jwk({name: jwk[name] for name in (*names, "alg", "kty", "keys") if name in jwk})
    if "d" not in jwk:
        raise InvalidKeyError('this is a public key, but a private key is needed: the JWK has no "d"')
    _check_purpose(jwk, public)
    private = _private_members(jwk)
    from joserfc.jwk import import_key  # noqa: PLC0415 - slow to load, and most keys are files in PEM

    try:
        key: Any = import_key({**public.jwk, **private}).private_key
        matches = PublicKey.from_cryptography(key.public_key()) == public
    except Exception:  # noqa: BLE001 - errors of cryptography or joserfc may contain numbers of the key
        matches = False
    if not matches:
        raise InvalidKeyError("the private and the public members of the JWK do not belong together")
    return key, public


def write_private_jwk(key: PrivateKey) -> dict[str, str]:
    """Return all members of the private JWK (RFC 7518 §6.2.2, §6.3.2, RFC 8037 §2)."""
    from joserfc.jwk import ECKey, OKPKey, RSAKey  # noqa: PLC0415 - see above

    jwk: Any
    if isinstance(key, ec.EllipticCurvePrivateKey):
        jwk = ECKey.import_key(key)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        jwk = OKPKey.import_key(key)
    else:
        jwk = RSAKey.import_key(key)
    members: dict[str, str] = jwk.as_dict(private=True)
    return members


def _private_members(jwk: Mapping[str, object]) -> dict[str, str]:
    """Return the private members; each is decoded once, so that an error names the wrong member."""
    if "oth" in jwk:
        raise InvalidKeyError("the JWK is an RSA key of more than two primes, which is not supported")
    if jwk["kty"] != "RSA":
        size = 32 if jwk["kty"] == "OKP" else COORDINATE_SIZES[str(jwk["crv"])]
        decode_bytes(jwk, "d", size)
        return {"d": str(jwk["d"])}
    # RFC 7518 §6.3.2: a JWK may leave out all five, but not only some of them.
    names = ("d", *_CRT_MEMBERS) if any(name in jwk for name in _CRT_MEMBERS) else ("d",)
    for name in names:
        decode_number(jwk, name, _MAX_RSA_BITS)
    return {name: str(jwk[name]) for name in names}


def _check_purpose(jwk: Mapping[str, object], public: PublicKey) -> None:
    if "use" in jwk and jwk["use"] != "sig":
        raise InvalidKeyError('the "use" of the JWK is not "sig": the key is not for signatures')
    if "key_ops" in jwk:
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or "sign" not in operations:
            raise InvalidKeyError('the "key_ops" of the JWK have no "sign": the key is not for signing')
    if public.declared_alg is not None and public.declared_alg not in public.algs:
        raise InvalidKeyError(
            f'the "alg" of the JWK does not match its key, which can be used for {" or ".join(public.algs)}'
        )
