# SPDX-License-Identifier: Apache-2.0
"""Tell a dead refresh token from a temporary fault of the server, where the error code does not say it."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from dpop.errors import InvalidTokenResponseError, ReauthorizationError, TokenRefusedError, TokenRequestError
from dpop.tokens._token_set import TokenSet

__all__ = ["FACTS", "Refusals", "may_pass"]

_REFUSALS_IN_A_ROW: Final = 3
_ABOUT_PROOF: Final = re.compile(r"dpop|\bproof\b", re.IGNORECASE)
_MAX_COUNTED: Final = 1000
FACTS: Final = ("error", "description", "subtype", "uri", "status", "retry_after")
# Refusals of the client, its rights or its request: authorising again does not help.
_NOT_OF_THE_GRANT: Final = frozenset(
    {"invalid_client", "unauthorized_client", "unsupported_grant_type", "invalid_scope", "invalid_target"}
)


class Refusals:
    """Counts consecutive refusals of one refresh token, to tell a dead token from a temporary fault of the server."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def forget(self, refresh_token: str) -> None:
        """Reset the count, because the token was accepted."""
        if self._counts:
            self._counts.pop(_digest(refresh_token), None)

    def judge(self, refresh_token: str, error: TokenRequestError, before: TokenSet | None) -> TokenRequestError:
        """Return the error to raise: the given one, or, after three in a row, one that says what to do.

        :param before: the tokens to refresh. In a store, they contain the count of all processes.
        """
        of_proof = _is_about_proof(error)
        if not refresh_token or not may_pass(error):
            return error
        if len(self._counts) >= _MAX_COUNTED:
            self._counts.clear()
        known = self._counts.get(_digest(refresh_token), 0)
        if before is not None and before.refresh_sent_at is not None and not of_proof:
            known = before.refused_times or 0
        count = self._counts[_digest(refresh_token)] = known + 1
        if count < _REFUSALS_IN_A_ROW:
            return error
        facts = {name: getattr(error, name) for name in FACTS}
        if of_proof:
            return type(error)(
                f"{error}. It has refused the proof {count} times in a row: check that this key is the one for which"
                " the refresh token was issued, and that this machine's clock is right",
                **facts,
            )
        return ReauthorizationError(
            f"{error}. It has refused this refresh token {count} times in a row: the user has to authorise again",
            **facts,
        )


def may_pass(error: TokenRequestError) -> bool:
    """Whether a refusal of a refresh token or its proof may be temporary, so that only several in a row are final."""
    of_grant = error.status == 400 and (
        error.error not in _NOT_OF_THE_GRANT
        if isinstance(error, TokenRefusedError)
        else isinstance(error, InvalidTokenResponseError) and error.tokens is None
    )
    return not isinstance(error, ReauthorizationError) and (of_grant or _is_about_proof(error))


def _is_about_proof(error: TokenRequestError) -> bool:
    # If Keycloak refuses a proof, the error is invalid_request, and only the description mentions the proof.
    return error.error == "invalid_dpop_proof" or bool(_ABOUT_PROOF.search(error.description or ""))


def _digest(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode("utf-8", "replace")).hexdigest()
