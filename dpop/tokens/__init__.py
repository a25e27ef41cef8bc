# SPDX-License-Identifier: Apache-2.0
"""Tokens bound to a key: asked for, kept, and fresh whenever they are needed.

The doors have the endpoint itself, each for its HTTP library: ``from dpop.requests import TokenEndpoint``.
Here is what goes into it and comes out of it:

- :class:`TokenSet` - tokens of one grant, with the ``jkt`` of their key and where the key is kept.
- :class:`FileTokenStore`, :class:`MemoryTokenStore` - where they are kept; :class:`TokenStore` is what a store of
  one's own must do. ``endpoint.source(store)`` makes a :class:`RefreshingSource` of it: call that for a token.
- :class:`Refresher` - keeps what is stored fresh, in a process of its own.
- :class:`ServerMetadata` - a server's endpoints, by hand.
- :class:`PrivateKeyJWT` - client authentication by a signed assertion.
"""

from dpop.tokens._authorization import AuthorizationRequest, DeviceAuthorization
from dpop.tokens._client_auth import ClientAuth, ClientSecretBasic, ClientSecretPost, PrivateKeyJWT, PublicClient
from dpop.tokens._file_lock import FileLock
from dpop.tokens._file_store import FileTokenStore
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._records import Sealer
from dpop.tokens._refresher import AccountStatus, Refresher
from dpop.tokens._source import RefreshingSource
from dpop.tokens._stores import DEFAULT_ACCOUNT, MemoryTokenStore, StoreLock, TokenStore, check_account, locked
from dpop.tokens._token_set import TokenSet

__all__ = [
    "DEFAULT_ACCOUNT",
    "AccountStatus",
    "AuthorizationRequest",
    "ClientAuth",
    "ClientSecretBasic",
    "ClientSecretPost",
    "DeviceAuthorization",
    "FileLock",
    "FileTokenStore",
    "MemoryTokenStore",
    "PrivateKeyJWT",
    "PublicClient",
    "Refresher",
    "RefreshingSource",
    "Sealer",
    "ServerMetadata",
    "StoreLock",
    "TokenSet",
    "TokenStore",
    "check_account",
    "locked",
]
