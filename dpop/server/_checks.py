# SPDX-License-Identifier: Apache-2.0
"""The checks of RFC 9449 §4.3 that need only the proof and the request, one function each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from dpop import htu as targets
from dpop.encoding import access_token_hash
from dpop.errors import ArgumentTypeError, CredentialError, InvalidKeyError, InvalidTargetError, SignatureFormatError
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import PublicKey, is_given, private_member
from dpop.server._jws import CompactJWS, JoseHeader
from dpop.server._reasons import Reason, refuse
from dpop.signature import check_raw

__all__ = [
    "ProofClaims",
    "check_access_token",
    "check_grant_binding",
    "check_header",
    "check_key",
    "check_key_is_public",
    "check_key_kind",
    "check_method",
    "check_point",
    "check_signature",
    "check_signature_form",
    "check_target",
    "check_token_binding",
    "check_validity",
    "read_claims",
]

# The year 10000: later times cannot be printed, and milliseconds since 1970 are all later.
_LAST_SECOND = 253_402_300_800

_MAX_SHOWN = 256
_MAX_SHOWN_ESCAPES = 16

# Larger values make no key safer. The time of a check grows with both, and any stranger can choose them.
MAX_RSA_MODULUS = 683  # base64url characters of 4096 bits
MAX_RSA_EXPONENT = 4  # base64url characters of 24 bits; 65537 has four


class ProofClaims(NamedTuple):
    """The claims that a verifier compares. ``ath`` may hold any value: it is checked only if there is a token."""

    jti: str
    htm: str
    htu: str
    iat: int | float
    nonce: str | None
    exp: int | float | None
    nbf: int | float | None
    ath: object

    def __repr__(self) -> str:
        return f"<ProofClaims {self.htm} {self.htu}>"


def read_claims(payload: Mapping[str, object], *, max_jti: int, max_htu: int) -> ProofClaims:
    """Read the claims from the payload: none may be missing, of the wrong type or too long.

    :param max_jti: characters of ``jti`` accepted at most (RFC 9449 §11.1).
    :param max_htu: characters of ``htu`` accepted at most.
    :raises InvalidProof: with a reason that names the claim.
    """
    jti = _string(payload, "jti", Reason.JTI_MISSING)
    if len(jti) > max_jti:
        raise refuse(Reason.JTI_TOO_LONG, expected=f"at most {max_jti} characters", got=f"{len(jti)} characters")
    htm = _string(payload, "htm", Reason.HTM_MISSING)
    htu = _string(payload, "htu", Reason.HTU_MISSING)
    if len(htu) > max_htu:
        raise refuse(Reason.HTU_INVALID, expected=f"at most {max_htu} characters", got=f"{len(htu)} characters")
    iat, nonce = _created(payload), _nonce(payload)
    exp = _optional_time(payload, "exp") if "exp" in payload else None
    nbf = _optional_time(payload, "nbf") if "nbf" in payload else None
    return ProofClaims(jti, htm, htu, iat, nonce, exp, nbf, payload.get("ath"))


def _string(payload: Mapping[str, object], name: str, reason: Reason) -> str:
    value = payload.get(name)
    if not isinstance(value, str) or not value:
        raise refuse(reason, got=value)
    return value


def _created(payload: Mapping[str, object]) -> int | float:
    """Read ``iat``, a NumericDate: a number that may have a fraction (RFC 7519 §2)."""
    iat = _number(payload.get("iat"))
    if iat is None:
        raise refuse(Reason.IAT_MISSING, got=payload.get("iat"))
    if not 0 < iat < _LAST_SECOND:
        because = "it looks like milliseconds" if iat >= _LAST_SECOND else None
        raise refuse(Reason.IAT_OUT_OF_RANGE, because=because)
    return iat


def _nonce(payload: Mapping[str, object]) -> str | None:
    """Read ``nonce``; an empty string counts as absent, because some clients send it before they know a nonce."""
    if "nonce" not in payload:
        return None
    nonce = payload["nonce"]
    if not isinstance(nonce, str):
        raise refuse(Reason.NONCE_MALFORMED, got="null" if nonce is None else nonce)
    return nonce or None


def _optional_time(payload: Mapping[str, object], name: str) -> int | float | None:
    """Read ``exp`` or ``nbf``: DPoP does not define them, but in any JWT they limit its life (RFC 7519 §4.1)."""
    value = _number(payload[name])
    if value is None:
        raise refuse(Reason.TIME_CLAIM_MALFORMED, because=name)
    return value


def _number(value: object) -> int | float | None:
    """The value if it is a JSON number, otherwise None. In Python, ``True`` is an int too."""
    if type(value) is int or type(value) is float:
        return value
    return None


_SHA256 = re.compile(r"[A-Za-z0-9_-]{43}\Z")
ONE_KEY_TWO_NAMES = frozenset({"EdDSA", "Ed25519"})  # RFC 9864 §2.2


def check_header(header: JoseHeader, algs: tuple[str, ...]) -> str:
    """Check ``typ`` and ``alg``, and return ``alg`` (RFC 9449 §4.3 (4), (5); RFC 8725 §3.1, §3.11)."""
    typ = header.members.get("typ")
    if typ != "dpop+jwt":
        raise refuse(Reason.TYP_MISMATCH, expected="dpop+jwt", got=typ)
    alg = header.members.get("alg")
    if not isinstance(alg, str) or alg not in algs:
        known = isinstance(alg, str) and alg in ALGORITHMS
        because = "this package knows it, and a server allows it with algs=" if known else None
        raise refuse(Reason.ALG_REFUSED, because=because, expected=" or ".join(algs), got=alg)
    return alg


def check_key_is_public(header: JoseHeader) -> dict[str, object]:
    """Check that ``jwk`` is there and no member of a private or symmetric key has a value (RFC 9449 §4.3 (7))."""
    jwk = header.members.get("jwk")
    if not isinstance(jwk, dict):
        raise refuse(Reason.JWK_MISSING)
    if private_member(jwk) is not None:
        raise refuse(Reason.JWK_PRIVATE)
    return jwk


def check_key_kind(header: JoseHeader, alg: str) -> None:
    """Check that ``jwk`` is a public key of the type and curve that ``alg`` needs (RFC 8725 §3.1).

    :func:`check_key`, which costs more, checks its numbers.
    """
    jwk = check_key_is_public(header)
    wanted = ALGORITHMS[alg]
    if jwk.get("kty") != wanted.kty or (wanted.crv is not None and jwk.get("crv") != wanted.crv):
        kind = _algs_of_kind(jwk)
        if not kind:
            check_key(header)
        raise refuse(Reason.JWK_ALG_MISMATCH, expected=f"a key for {alg}", got=f"a key for {' or '.join(kind)}")
    declared = jwk["alg"] if is_given(jwk, "alg") else alg
    if declared != alg and isinstance(declared, str) and {declared, alg} != ONE_KEY_TWO_NAMES:
        raise refuse(Reason.JWK_ALG_MISMATCH, expected=f"a key for {alg}", got=f"a key for {declared}")


def check_key(header: JoseHeader) -> PublicKey:
    """Read ``jwk``, which must be a valid public key in its one spelling (RFC 7518 §6; RFC 8725 §3.4).

    Whether its point is on the curve takes longer: :func:`check_point` and :func:`check_signature` say so.
    """
    jwk = header.members["jwk"]
    if jwk.get("kty") == "RSA":
        _check_rsa_size(jwk)
    try:
        return header.key
    except InvalidKeyError as error:
        raise refuse(Reason.JWK_INVALID, because=str(error)) from None


def check_point(key: PublicKey) -> None:
    """Check that the key is a point of its curve (RFC 8725 §3.4)."""
    try:
        key.to_cryptography()
    except InvalidKeyError as error:
        raise refuse(Reason.JWK_INVALID, because=str(error)) from None


def _check_rsa_size(jwk: Mapping[str, object]) -> None:
    n, e = jwk.get("n"), jwk.get("e")
    if isinstance(n, str) and len(n) > MAX_RSA_MODULUS:
        raise refuse(Reason.JWK_INVALID, because="an RSA key of a proof may have 4096 bits at most")
    if isinstance(e, str) and len(e) > MAX_RSA_EXPONENT:
        raise refuse(Reason.JWK_INVALID, because="the exponent of an RSA key of a proof may have 24 bits at most")


def _algs_of_kind(jwk: Mapping[str, object]) -> list[str]:
    """The algorithms for keys of this type and curve; empty if the type or curve is not known."""
    kty, crv = jwk.get("kty"), jwk.get("crv")
    return [name for name, kind in ALGORITHMS.items() if kind.kty == kty and (kind.crv is None or kind.crv == crv)]


def check_signature_form(alg: str, jws: CompactJWS) -> None:
    """Check the length of the signature, and for ECDSA the range of r and s, without the key (RFC 7518 §3.4).

    The length of an RSA signature depends on the key, so it is not checked here.
    """
    size = ALGORITHMS[alg].signature_size
    if size is None:
        return
    try:
        if ALGORITHMS[alg].kty == "EC":
            check_raw(jws.signature, size // 2)
        elif len(jws.signature) != size:
            raise SignatureFormatError(f"a signature by {alg} has {size} bytes, not {len(jws.signature)}")
    except SignatureFormatError as error:
        raise refuse(Reason.SIGNATURE_MALFORMED, because=str(error)) from None


def check_signature(key: PublicKey, alg: str, jws: CompactJWS) -> None:
    """Verify the signature with the key in the header (RFC 9449 §4.3 (6)). A high S is allowed.

    Its form is checked first, which costs less than to load a key that is used for the first time.
    """
    try:
        good = key.verify(alg, jws.signing_input, jws.signature)
    except SignatureFormatError as error:
        raise refuse(Reason.SIGNATURE_MALFORMED, because=str(error)) from None
    except InvalidKeyError as error:
        raise refuse(Reason.JWK_INVALID, because=str(error)) from None
    if not good:
        raise refuse(Reason.SIGNATURE_INVALID)


def check_method(claims: ProofClaims, method: str) -> None:
    """Check that ``htm`` equals the method, including its case (RFC 9449 §4.3 (8); RFC 9110 §9.1)."""
    if not isinstance(method, str):
        raise ArgumentTypeError("method", "str", method)
    if claims.htm != method:
        raise refuse(Reason.HTM_MISMATCH, expected=method, got=claims.htm)


def check_target(claims: ProofClaims, url: str) -> bytes:
    """Check that ``htu`` names the URL of the request, without query and fragment (RFC 9449 §4.3 (9)).

    :returns: the form of the URL under which its proofs are remembered, see :func:`dpop.htu.compared_request`.
    """
    try:
        compared = targets.compared_request(url)
    except InvalidTargetError as error:
        # The client chose the path, so this is not a UsageError; the message shows if the origin is wrong.
        raise refuse(Reason.REQUEST_URL_INVALID, because=str(error)) from None
    if claims.htu == url:
        return compared
    bare = url.partition("?")[0].partition("#")[0]
    try:
        same = targets.names_request(claims.htu, bare, compared)
    except InvalidTargetError as error:
        raise refuse(Reason.HTU_INVALID, because=str(error), expected=_for_people(bare)) from None
    if not same:
        raise refuse(Reason.HTU_MISMATCH, expected=_for_people(bare), got=_for_people(claims.htu))
    return compared


def _for_people(url: str) -> str:
    """Describe a URL for messages: its canonical form, or its start if the canonical form would take long to make."""
    if len(url) > _MAX_SHOWN or not url.isascii() or url.count("%") > _MAX_SHOWN_ESCAPES:
        return url[:_MAX_SHOWN]
    try:
        return targets.canonical(url)
    except InvalidTargetError:
        return url


def check_validity(claims: ProofClaims, now: float, skew: float) -> None:
    """Check ``exp`` and ``nbf`` as in any JWT (RFC 7519 §4.1.4, §4.1.5)."""
    if claims.exp is not None and now >= claims.exp + skew:
        raise refuse(Reason.EXPIRED)
    if claims.nbf is not None and now < claims.nbf - skew:
        raise refuse(Reason.NOT_YET_VALID)


def check_access_token(access_token: str, claims: ProofClaims) -> None:
    """Check that ``ath`` is the hash of this access token (RFC 9449 §4.3 (12))."""
    try:
        expected = access_token_hash(access_token)
    except CredentialError:
        raise refuse(Reason.TOKEN_MALFORMED, error="invalid_token") from None
    # A plain comparison is safe: the sender knows the token and can compute its hash; thumbprints are public.
    if claims.ath == expected:
        return
    if claims.ath is None:
        raise refuse(Reason.ATH_MISSING)
    if not isinstance(claims.ath, str) or not _SHA256.match(claims.ath):
        raise refuse(Reason.ATH_MALFORMED)
    raise refuse(Reason.ATH_MISMATCH)


def check_token_binding(bound_jkt: str | None, jkt: str) -> None:
    """Check that the access token is bound to this key (RFC 9449 §4.3 (12), §6)."""
    if bound_jkt is None:
        raise refuse(Reason.TOKEN_UNBOUND, error="invalid_token")
    _check_same_key(bound_jkt, jkt, "invalid_token")


def check_grant_binding(bound_jkt: str | None, jkt: str) -> None:
    """Check that the refresh token or code is bound to this key, or to no key (RFC 9449 §5, §10)."""
    if bound_jkt is not None:
        _check_same_key(bound_jkt, jkt, "invalid_grant")


def _check_same_key(bound_jkt: str, jkt: str, error: str) -> None:
    if bound_jkt == jkt:
        return
    if not isinstance(bound_jkt, str) or not _SHA256.match(bound_jkt):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error=error)
    raise refuse(Reason.KEY_MISMATCH, error=error, expected=bound_jkt, got=jkt)
