# SPDX-License-Identifier: Apache-2.0
"""Every reason for which a verifier or a protected resource refuses a request.

The value of a reason is stable and becomes ``InvalidProof.reason``. Its sentence is for people and may change.
They stand in the order of the checks, which RFC 9449 §4.3 leaves to the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from dpop.errors import InvalidProof

__all__ = ["Reason", "refuse"]

_SHOWN = 200


class Reason(StrEnum):
    """The stable name of the check that failed, with a sentence for people in ``.detail``."""

    detail: str

    def __new__(cls, value: str, detail: str) -> Self:
        """Make a str member with the sentence as an attribute."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.detail = detail
        return member

    # The header field: RFC 9449 §4.1, §4.3 (1).
    PROOF_MISSING = "proof_missing", "the request has no DPoP header; send one proof with each request"
    PROOF_REPEATED = "proof_repeated", "the request has more than one DPoP header; send exactly one"
    PROOF_TOO_LONG = "proof_too_long", "the proof is longer than this server reads"
    # One well-formed JWT: RFC 9449 §4.3 (2), RFC 7515.
    NOT_COMPACT = "not_compact", "the proof is not a compact JWS of three base64url parts"
    HEADER_MALFORMED = "header_malformed", "the JOSE header cannot be read"
    SIGNATURE_MALFORMED = "signature_malformed", "the signature has the wrong form for its algorithm"
    CRIT_REFUSED = "crit_refused", "the JOSE header has crit or b64, which no DPoP proof uses"
    # The JOSE header: RFC 9449 §4.3 (4), (5).
    TYP_MISMATCH = "typ_mismatch", "the JOSE header typ is not that of a DPoP proof"
    ALG_REFUSED = "alg_refused", "the algorithm is not one this server accepts"
    # The key: RFC 9449 §4.3 (7), RFC 7518 §6, RFC 8725 §3.4.
    JWK_MISSING = "jwk_missing", "the JOSE header has no jwk object with the public key"
    JWK_PRIVATE = (
        "jwk_private",
        "the jwk holds private or symmetric key material; this key is now public, so replace it",
    )
    JWK_INVALID = "jwk_invalid", "the jwk is not a public key that can be used"
    JWK_ALG_MISMATCH = "jwk_alg_mismatch", "the key and the algorithm do not belong together"
    # The signature: RFC 9449 §4.3 (6).
    SIGNATURE_INVALID = "signature_invalid", "the signature does not verify with the key in the jwk header"
    # The claims: RFC 9449 §4.3 (2), (3), (8), (9), RFC 7519 §4.1.
    PAYLOAD_MALFORMED = "payload_malformed", "the claims cannot be read"
    JTI_MISSING = "jti_missing", "the jti claim is missing, empty or not a string"
    JTI_TOO_LONG = "jti_too_long", "the jti claim is longer than this server stores"
    HTM_MISSING = "htm_missing", "the htm claim is missing, empty or not a string"
    HTU_MISSING = "htu_missing", "the htu claim is missing, empty or not a string"
    IAT_MISSING = "iat_missing", "the iat claim is missing or not a number"
    IAT_OUT_OF_RANGE = "iat_out_of_range", "the iat claim is not a plausible time; it counts seconds since 1970"
    NONCE_MALFORMED = "nonce_malformed", "the nonce claim is not a string"
    TIME_CLAIM_MALFORMED = "time_claim_malformed", "the exp or nbf claim is not a number"
    HTM_MISMATCH = "htm_mismatch", "the htm claim names another method than that of the request"
    HTU_INVALID = "htu_invalid", "the htu claim is not a URL a proof may name"
    HTU_MISMATCH = "htu_mismatch", "the htu claim names another URL than that of the request"
    REQUEST_URL_INVALID = "request_url_invalid", "the URL of the request is not one a proof can name"
    EXPIRED = "expired", "the exp claim has passed"
    NOT_YET_VALID = "not_yet_valid", "the nbf claim lies in the future"
    # The nonce: RFC 9449 §4.3 (10), §8, §9.
    NONCE_MISSING = "nonce_missing", "this server requires a nonce in the DPoP proof"
    NONCE_UNKNOWN = (
        "nonce_unknown",
        "the nonce is not one of the recent nonces of this server; use the new one",
    )
    NONCE_USED = "nonce_used", "the nonce was used before; use the new one"
    # The time: RFC 9449 §4.3 (11), §11.1.
    IAT_TOO_OLD = "iat_too_old", "the proof is too old; make one per request and check the clock"
    IAT_IN_FUTURE = "iat_in_future", "the proof was made in the future; check the clock"
    # The binding: RFC 9449 §4.3 (12), §6, §10.
    ATH_MISSING = "ath_missing", "the ath claim, the hash of the access token, is missing"
    ATH_MALFORMED = "ath_malformed", "the ath claim is not an unpadded base64url SHA-256"
    ATH_MISMATCH = "ath_mismatch", "the ath claim is not the hash of the access token of this request"
    TOKEN_MALFORMED = "token_malformed", "one access token must follow the scheme, of characters a token can have"
    TOKEN_UNBOUND = "token_unbound", "the access token is not bound to a key"
    TOKEN_BINDING_MALFORMED = (
        "token_binding_malformed",
        "the cnf of the token holds no SHA-256 thumbprint of a key",
    )
    KEY_MISMATCH = "key_mismatch", "the proof was made with another key than the one it must be made with"
    # A request for a protected resource: RFC 9449 §7.1, §7.2, RFC 6750 §2, §3.1.
    NO_CREDENTIALS = "no_credentials", "the request has no access token"
    AUTHORIZATION_REPEATED = "authorization_repeated", "the request has more than one Authorization header; send one"
    TOKEN_OUTSIDE_HEADER = (
        "token_outside_header",
        "an access token is in the URL or in a form; send it in the Authorization header only",
    )
    TOKEN_INACTIVE = "token_inactive", "the access token is unknown, expired, revoked or for another API"
    TOKEN_EXPIRED = "token_expired", "the access token has expired; get a fresh one"
    BEARER_REFUSED = "bearer_refused", "this API takes no bearer tokens; send the token as DPoP with a proof"
    BOUND_TOKEN_AS_BEARER = "bound_token_as_bearer", "the token is bound to a key; send it as DPoP with a proof"
    PROOF_WITH_BEARER = (
        "proof_with_bearer",
        "a bearer token came with a DPoP header; send the token as DPoP, or no proof",
    )
    CERTIFICATE_MISMATCH = (
        "certificate_mismatch",
        "the token is bound to a certificate too, and the request has not been seen to come with it",
    )
    AUTHENTICATION_INSUFFICIENT = (
        "authentication_insufficient",
        "the user must authenticate again, or in a stronger way; ask for a new authorization",
    )
    SCOPE_MISSING = "scope_missing", "the access token does not allow this"
    # Replay: RFC 9449 §11.1.
    REPLAYED = "replayed", "the proof, or its jti, was used before; make a new one for each request"


def refuse(
    reason: Reason,
    *,
    error: str = "invalid_dpop_proof",
    because: str | None = None,
    expected: str | None = None,
    got: object = None,
    nonce: str | None = None,
    parameters: Mapping[str, str] | None = None,
) -> InvalidProof:
    """Build the refusal for ``reason``.

    :param because: the exact fault, added to the sentence.
    :param got: the value that was received. A string is shortened and escaped, because it is untrusted text on its
        way into a log; of any other value only the type is kept.
    :param parameters: more parameters for the challenge.
    """
    detail = reason.detail if because is None else f"{reason.detail}: {because}"
    return InvalidProof(
        error,
        reason.value,
        detail,
        expected=expected,
        got=None if got is None else _shown(got),
        nonce=nonce,
        parameters=parameters,
    )


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return f"a JSON {type(value).__name__}"
    text = ascii(value)[1:-1]
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
