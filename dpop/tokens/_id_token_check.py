# SPDX-License-Identifier: Apache-2.0
"""The steps that verify ID tokens: fetch the issuer's keys, get the tokens, judge.

The keys are fetched before a code is sent: tokens that have come must not wait for another request, because whoever
ends the program meanwhile would lose them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from dpop._client_auth import secret_of
from dpop.errors import (
    EncodingError,
    InvalidIDTokenError,
    TokenEndpointUnavailableError,
    TokenRequestError,
    UsageError,
)
from dpop.tokens._discovery import discovery
from dpop.tokens._id_token import (
    BadIDToken,
    Expected,
    IDToken,
    decryption_key,
    is_encrypted,
    opened,
    read_id_token,
    refresh_remark,
)
from dpop.tokens._steps import Blocking, HTTPRequest, NoResponse, Steps

if TYPE_CHECKING:
    from dpop._client_auth import ClientAuth
    from dpop.server._key_sets import KeySet
    from dpop.tokens._metadata import ServerMetadata
    from dpop.tokens._token_set import TokenSet

__all__ = ["IDTokenCheck"]

_log: Final = logging.getLogger("dpop.tokens")
_JSON: Final = ("Accept", "application/json")


class IDTokenCheck:
    """Verifies the ID tokens of one client at one server.

    :param auth: of the client; its secret verifies signatures by HS256.
    :param clock: Unix seconds.
    """

    def __init__(
        self,
        server: ServerMetadata,
        auth: ClientAuth,
        insecure_origins: str | Iterable[str],
        clock: Callable[[], float],
    ) -> None:
        self._server = server
        self._auth = auth
        self._client_id = auth.client_id
        self._insecure_origins = insecure_origins
        self._clock = clock

    def during(
        self, login: Steps[TokenSet], *, nonce: str | None, code: str | None, id_token_key: object
    ) -> Steps[TokenSet]:
        """Run the steps of a login, and verify the ID token that comes.

        :raises InvalidIDTokenError: it must not be believed.
        """
        key = None if id_token_key is None else decryption_key(id_token_key)
        keys = yield from self._keys()
        tokens: TokenSet = yield from login
        if tokens.id_token is None:
            return tokens
        expected = Expected(self._server.issuer or "", self._client_id, nonce, tokens.access_token, code)
        _, doubt = yield from self._judge(tokens, keys, expected, key)
        if doubt is not None:
            _log.warning("the ID token is kept and marked as not verified: %s", doubt)
            return tokens
        return tokens.replace(id_token_verified=True)

    def claims_of(self, tokens: TokenSet, *, nonce: str | None, id_token_key: object) -> Steps[Mapping[str, Any]]:
        """Verify an ID token that came before; returns its claims.

        :raises UsageError: there is none, or it cannot be verified with these settings.
        :raises TokenEndpointUnavailableError: the keys could not be fetched.
        :raises InvalidIDTokenError: it must not be believed.
        """
        if tokens.id_token is None:
            raise UsageError("there is no ID token; ask for the scope openid at the login")
        key = None if id_token_key is None else decryption_key(id_token_key)
        keys = yield from self._keys()
        # No access token: that of the set may be of a later refresh.
        expected = Expected(self._server.issuer or "", self._client_id, nonce, None)
        token, doubt = yield from self._judge(tokens, keys, expected, key)
        if doubt is not None or token is None:
            kind = TokenEndpointUnavailableError if doubt is keys else UsageError
            raise kind(f"the ID token cannot be verified: {doubt}")
        return token.claims

    def look_at_refreshed(self, tokens: TokenSet, before: TokenSet) -> None:
        """Log what is wrong with the ID token of a refresh, which is kept: a refresh waits for no other request."""
        if tokens.id_token is None or tokens.id_token == before.id_token:
            return
        remark = refresh_remark(tokens.id_token, before.id_token, self._client_id)
        if remark is not None:
            _log.warning("the ID token of a refresh is kept and must not be believed: %s", remark)

    def _judge(
        self, tokens: TokenSet, keys: KeySet | str, expected: Expected, key: Any
    ) -> Steps[tuple[IDToken | None, str | None]]:
        """The ID token, and why it could not be verified; ``None`` if it was.

        :raises InvalidIDTokenError: it must not be believed.
        """
        try:
            return (yield from self._read(tokens, keys, expected, key))
        except BadIDToken as bad:
            raise InvalidIDTokenError(
                f"the ID token must not be believed: {bad}. The tokens that came with it were not stored; they are in"
                " error.tokens",
                tokens=tokens,
            ) from None

    def _read(
        self, tokens: TokenSet, keys: KeySet | str, expected: Expected, key: Any
    ) -> Steps[tuple[IDToken | None, str | None]]:
        text = tokens.id_token or ""
        if is_encrypted(text):
            if key is None:
                return None, "it is encrypted; give the key as id_token_key"
            text = yield Blocking(lambda: opened(text, key))
        if not expected.issuer:
            return None, _NO_ISSUER
        token = read_id_token(text, expected, self._clock())
        if token.has_shared_secret:
            return token, self._doubt_of_secret(token)
        if isinstance(keys, str):
            return token, keys
        signed = token.is_signed_by(keys)
        if signed is None:
            keys = yield from self._keys()  # it may have a new one by now
            if isinstance(keys, str):
                return token, keys
            signed = token.is_signed_by(keys)
        if signed is None:
            raise BadIDToken("its issuer has no key of that name and algorithm")
        if not signed:
            raise BadIDToken("its signature does not verify")
        return token, None

    def _doubt_of_secret(self, token: IDToken) -> str | None:
        """Why a signature with the client's secret could not be verified; ``None`` if it was.

        Only the client's own secret counts, never the bytes of a key that the server publishes.

        :raises BadIDToken: somebody else made it.
        """
        secret = secret_of(self._auth)
        doubt = token.why_not_verifiable_with(secret)
        if secret is not None and doubt is None and not token.is_signed_with(secret):
            raise BadIDToken("its signature does not verify")
        return doubt

    def _keys(self) -> Steps[KeySet | str]:
        """The keys of the issuer, or why they cannot be had."""
        from dpop.server._key_sets import read_key_set  # noqa: PLC0415 - only for ID tokens

        if self._server.issuer is None:
            return _NO_ISSUER
        uri = self._server.jwks_uri
        try:
            if uri is None:
                uri = (yield from discovery(self._server.issuer, self._insecure_origins)).jwks_uri
            if uri is None:
                return f"the metadata of {self._server.issuer} names no jwks_uri that can be used"
            response = yield HTTPRequest("GET", uri, (_JSON,), None, signed=False)
            if response.status != 200:
                return f"{uri} answered {response.status}"
            keys, skipped = yield Blocking(lambda: read_key_set(response.body))
        except NoResponse as failure:
            return f"the keys of {self._server.issuer} cannot be fetched ({failure.reason})"
        except EncodingError as error:
            return f"{uri} is {error}"
        except (TokenRequestError, UsageError) as error:
            return str(error)
        if skipped:
            _log.warning("keys of %s are not used: %s", self._server.issuer, "; ".join(skipped[:8]))
        found: KeySet = keys
        return found


_NO_ISSUER: Final = "the issuer is not known; give it in ServerMetadata(issuer=...)"
