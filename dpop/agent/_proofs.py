# SPDX-License-Identifier: Apache-2.0
"""Read the signing input of a proof as the agent must: with a verifier's strict readers, and nothing else passes.

A program that may use a key could otherwise have a client assertion, an ID token or a proof for tomorrow signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from dpop.agent._protocol import MAX_INPUT, refused
from dpop.encoding import check_nonce
from dpop.errors import InvalidProof, UsageError
from dpop.htu import check_method, url_htu
from dpop.origin import Origin
from dpop.server._checks import read_claims
from dpop.server._jws import parse_compact

__all__ = ["ProofToSign", "check_time", "read_proof"]

_HEADER: Final = frozenset({"typ", "alg", "jwk"})
_NEEDED: Final = frozenset({"jti", "htm", "htu", "iat"})
_ALLOWED: Final = _NEEDED | {"nonce", "ath"}
_ATH: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_JTI: Final = 256
_MAX_HTU: Final = 4096
_MAX_DEPTH: Final = 4

# A client makes the proof before it connects, and a busy machine takes its time.
_OLDEST: Final = 15
_NEWEST: Final = 5


class ProofToSign(NamedTuple):
    """What a proof says, once it is known to be one."""

    method: str
    origin: Origin
    jti: str
    iat: int
    nonce: str | None

    def __repr__(self) -> str:
        return f"<ProofToSign {self.method} {self.origin}>"


def read_proof(text: str, alg: str, jwk: Mapping[str, str]) -> ProofToSign:
    """Read BASE64URL(header) ``.`` BASE64URL(payload) of a proof with this key (RFC 9449 §4.2).

    :param alg: the key's algorithm.
    :param jwk: its public JWK, with the required members only.
    :raises Refusal: it is anything else. No claim is in the message.
    """
    try:
        # A signature follows in a proof; this one stands in for it, and is not looked at.
        jws = parse_compact(f"{text}.AA", max_length=MAX_INPUT + 3, max_depth=_MAX_DEPTH)
        header, payload = jws.header.members, jws.payload
        if header.keys() != _HEADER or header["typ"] != "dpop+jwt":
            raise refused("no_proof", "an agent signs DPoP proofs only: a header of exactly typ, alg and jwk")
        if header["alg"] != alg or header["jwk"] != jwk:
            raise refused("key_mismatch", "the proof names another key or algorithm than the agent has by this name")
        if not payload.keys() >= _NEEDED or not payload.keys() <= _ALLOWED:
            raise refused("no_proof", "an agent signs the claims jti, htm, htu, iat, nonce and ath, and no others")
        claims = read_claims(payload, max_jti=_MAX_JTI, max_htu=_MAX_HTU)
        if "nonce" in payload:
            check_nonce(payload["nonce"])
        method, htu = check_method(claims.htm), url_htu(claims.htu)
    except InvalidProof as error:
        raise refused("no_proof", f"this is not what a proof signs: {error.reason}") from None
    except UsageError as error:
        raise refused("no_proof", f"this is not what a proof signs: {error}") from None
    if type(claims.iat) is not int or not claims.jti.isprintable():
        raise refused("no_proof", "iat must be a whole number, and jti printable")
    if "ath" in payload and (not isinstance(claims.ath, str) or not _ATH.fullmatch(claims.ath)):
        raise refused("no_proof", "ath is not the hash of an access token")
    if htu != claims.htu:
        # Two spellings of one URL are two chances to misread its host.
        raise refused("no_proof", "htu must be in its normal form, without query and fragment")
    return ProofToSign(method, Origin.of_url(htu), claims.jti, claims.iat, claims.nonce)


def check_time(iat: int, now: float, offset: float) -> None:
    """Check that the time of a proof or an assertion is now, by the clock of its server as far as that is known.

    :param offset: seconds by which the server's clock is ahead, from the rules of the origin, never from a client.
    :raises Refusal: it is not.
    """
    late = iat - (now + offset)
    if not -_OLDEST <= late <= _NEWEST:
        raise refused(
            "iat",
            f"iat is {late:+.0f} s from now, and an agent signs for now only; where the server's clock is wrong, give"
            " its origin a clock-offset in the agent's rules",
        )
