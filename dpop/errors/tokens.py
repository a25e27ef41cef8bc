# SPDX-License-Identifier: Apache-2.0
"""Errors of tokens: asking for them, and keeping them."""

from __future__ import annotations

from typing import Any

from dpop.errors.root import DPoPError

__all__ = [
    "OutcomeUnknownError",
    "ReauthorizationError",
    "TemporaryTokenError",
    "TokenAnswerError",
    "TokenError",
    "TokenFormatError",
    "TokenLockError",
    "TokenRefusedError",
    "TokenRequestError",
    "TokenStoreError",
    "TokensNotSavedError",
    "UnboundTokenError",
]


class TokenError(DPoPError):
    """Something about tokens: asking for them, or keeping them."""

    code = "token"


class TokenRequestError(TokenError):
    """An authorization server was asked, and what was wanted did not come.

    :param error: the OAuth error code, if the server sent one (RFC 6749 §5.2).
    :param description: its ``error_description``, made safe to log: what was sent is masked in it.
    :param subtype: its ``error_subtype``, which Google sends.
    :param uri: its ``error_uri``.
    :param status: the HTTP status, ``None`` without an answer.
    :param retry_after: seconds the server asks to wait.
    """

    code = "token_request"

    def __init__(
        self,
        message: str,
        *,
        error: str | None = None,
        description: str | None = None,
        subtype: str | None = None,
        uri: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.error = error
        self.description = description
        self.subtype = subtype
        self.uri = uri
        self.status = status
        self.retry_after = retry_after
        super().__init__(message)


class TokenRefusedError(TokenRequestError):
    """The server refused the request, and will again: the client, its rights or its request are wrong.

    The refresh token, if one was sent, is as good as it was; except in
    :class:`ReauthorizationError`, of which that is the point.
    """

    code = "token_refused"


class ReauthorizationError(TokenRefusedError):
    """The user has to authorise again: ``invalid_grant``, or no refresh token is left (RFC 6749 §5.2).

    Trying again with the same tokens is of no use; ``subtype`` and ``description`` may say why.
    """

    code = "reauthorization"


class TemporaryTokenError(TokenRequestError):
    """Not now: the server is out of order or out of reach, or it refused the proof and not the grant.

    The tokens are as good as they were. Ask again later.
    """

    code = "token_temporary"


class OutcomeUnknownError(TokenRequestError):
    """The request was sent, or may have been, and no answer came.

    The server may have used up the code or refresh token. The one safe next step is in the message.
    """

    code = "token_outcome_unknown"


class TokenAnswerError(TokenRequestError):
    """What came is not the answer of a token endpoint (RFC 6749 §5.1); none of it was kept."""

    code = "token_answer"


class UnboundTokenError(TokenAnswerError):
    """A bearer token came in answer to a proof, and was thrown away (RFC 9449 §5)."""

    code = "token_unbound"


class TokenStoreError(TokenError):
    """The place where tokens are kept cannot be read or written; the cause is chained."""

    code = "token_store"


class TokensNotSavedError(TokenStoreError):
    """New tokens came and could not be kept. The old refresh token may be spent: save these.

    :param tokens: the new :class:`dpop.tokens.TokenSet`, to be saved elsewhere.
    """

    code = "tokens_not_saved"

    def __init__(self, message: str, *, tokens: Any = None) -> None:
        self.tokens = tokens
        super().__init__(message)


class TokenFormatError(TokenStoreError):
    """What is kept there is damaged, cut off, of another version, or sealed with another key."""

    code = "token_format"


class TokenLockError(TokenStoreError):
    """Another thread, process or host holds the lock of these tokens and did not let go in time."""

    code = "token_lock"
