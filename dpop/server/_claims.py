# SPDX-License-Identifier: Apache-2.0
"""The claims of a proof, present and of the right type (RFC 9449 §4.2, §4.3 (3))."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from dpop.server._reasons import Reason, refuse

__all__ = ["ProofClaims", "read_claims"]

# The year 10000: later times cannot be printed, and milliseconds since 1970 are all later.
_LAST_SECOND = 253_402_300_800


class ProofClaims(NamedTuple):
    """What a verifier compares. ``ath`` keeps whatever came: it matters only where a token is."""

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
    """Take the claims out of the payload, none missing, none mistyped, none oversized.

    :param max_jti: characters of ``jti`` accepted at most (RFC 9449 §11.1).
    :param max_htu: characters of ``htu`` accepted at most.
    :raises InvalidProof: with the claim's own reason.
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
    """``iat`` is a NumericDate: a number, maybe with a fraction (RFC 7519 §2)."""
    iat = _number(payload.get("iat"))
    if iat is None:
        raise refuse(Reason.IAT_MISSING, got=payload.get("iat"))
    if not 0 < iat < _LAST_SECOND:
        because = "it looks like milliseconds" if iat >= _LAST_SECOND else None
        raise refuse(Reason.IAT_OUT_OF_RANGE, because=because)
    return iat


def _nonce(payload: Mapping[str, object]) -> str | None:
    """``nonce``, where an empty string is none: clients exist that send one before they know any."""
    if "nonce" not in payload:
        return None
    nonce = payload["nonce"]
    if not isinstance(nonce, str):
        raise refuse(Reason.NONCE_MALFORMED, got="null" if nonce is None else nonce)
    return nonce or None


def _optional_time(payload: Mapping[str, object], name: str) -> int | float | None:
    """``exp`` and ``nbf`` are no DPoP claims, but a JWT that has them means them (RFC 7519 §4.1)."""
    value = _number(payload[name])
    if value is None:
        raise refuse(Reason.TIME_CLAIM_MALFORMED, because=name)
    return value


def _number(value: object) -> int | float | None:
    """The value if it is a JSON number; to Python, ``true`` is an int too."""
    if type(value) is int or type(value) is float:
        return value
    return None
