# SPDX-License-Identifier: Apache-2.0
"""A token endpoint that behaves like Google's, as Google's guides for web servers describe it.

Where it differs from RFC 9449 as commonly read: the ``jti`` of a code exchange is the hash of the code,
also when the exchange is repeated with a nonce; a nonce is optional there and required at refresh;
access tokens are bearer tokens, and only the refresh token is bound.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from dpop.encoding import code_jti
from dpop.errors import CredentialError, InvalidProof
from dpop.server import VerifiedProof
from dpop.testing._clients import Client
from dpop.testing._deployment import Deployment
from dpop.testing._gate import Gate
from dpop.testing._messages import Request
from dpop.testing._token_endpoint import TokenEndpoint

__all__ = ["GoogleTokenEndpoint"]


class GoogleTokenEndpoint(TokenEndpoint):
    """``POST /token`` of a server that behaves like Google's.

    :param exchange_gate: whose nonces the code exchange uses while the lever ``isolate_exchange_nonces``
        is on.
    """

    def __init__(self, url: str, deployment: Deployment, gate: Gate, exchange_gate: Gate) -> None:
        super().__init__(url, deployment, gate)
        self._exchange_gate = exchange_gate

    def _gate(self, form: Mapping[str, str]) -> Gate:
        if _is_exchange(form) and self._levers.isolate_exchange_nonces:
            return self._exchange_gate
        return self._as_gate

    def _admit(self, request: Request, form: Mapping[str, str], bound_jkt: str | None) -> VerifiedProof | None:
        if not _is_exchange(form):
            return super()._admit(request, form, bound_jkt)
        if not (request.fields("DPoP") or self._levers.require_proof):
            return None
        optional = not self._levers.exchange_needs_nonce
        # The verifier remembers a jti only with a valid nonce, so the retry may repeat the jti.
        seen = self._gate(form).verify_token_request(request, self._url, nonce_optional=optional)
        with self._nonce_on_refusal(form, seen):
            _check_jti(seen, form.get("code", ""))
        return seen

    def _cnf(self, seen: VerifiedProof | None) -> None:  # noqa: ARG002 - never bound
        return None

    def _binds_refresh_token(self, client: Client) -> bool:  # noqa: ARG002 - always bound
        return True


def _is_exchange(form: Mapping[str, str]) -> bool:
    return form.get("grant_type") == "authorization_code"


def _check_jti(seen: VerifiedProof, code: str) -> None:
    try:
        expected = code_jti(code)
    except CredentialError:
        raise InvalidProof("invalid_grant", "code_unknown", "the code is missing or malformed") from None
    if not hmac.compare_digest(expected.encode(), seen.jti.encode("utf-8", "surrogatepass")):
        raise InvalidProof(
            "invalid_dpop_proof",
            "code_jti_mismatch",
            "the jti is not BASE64URL(SHA256(code)); hash the decoded code, not its form-encoded spelling",
        )
