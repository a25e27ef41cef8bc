# SPDX-License-Identifier: Apache-2.0
"""Tokens that are bound to a key: how they are requested, stored, and kept fresh.

Each integration has a token endpoint for its HTTP library: ``from dpop.requests import TokenEndpoint``. This package
has the objects that an endpoint takes and returns:

- :class:`TokenSet` - tokens of one grant, with the ``jkt`` and the reference of their key.
- :class:`FileTokenStore`, :class:`MemoryTokenStore` - stores for token sets; :class:`TokenStore` is the protocol that
  another store must follow. ``endpoint.source(store)`` makes a :class:`RefreshingSource`: call it for a token.
- :class:`Refresher` - keeps stored tokens fresh, in a separate process.
- :class:`ServerMetadata` - a server's endpoints, to set them by hand.
- :class:`PrivateKeyJWT` - client authentication with a signed assertion.

For authors of integrations: an endpoint carries out the :data:`Steps` of :class:`Grants`, and sends each
:class:`HTTPRequest` with its HTTP library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop._client_auth import (
        ClientAuth,
        ClientSecretBasic,
        ClientSecretPost,
        PrivateKeyJWT,
        PublicClient,
        TLSClientAuth,
    )
    from dpop._well_known import resource_metadata_url
    from dpop.tokens._async_source import AsyncRefreshingSource
    from dpop.tokens._authorization import AuthorizationRequest, DeviceAuthorization
    from dpop.tokens._examination import Examination, Fit, examine
    from dpop.tokens._file_lock import FileLock
    from dpop.tokens._file_store import FileTokenStore
    from dpop.tokens._grants import Grants, Parameter
    from dpop.tokens._metadata import ResourceMetadata, ServerMetadata, read_resource_metadata
    from dpop.tokens._records import Sealer
    from dpop.tokens._refresher import AccountStatus, Refresher
    from dpop.tokens._source import RefreshingSource
    from dpop.tokens._steps import Blocking, HTTPRequest, HTTPResponse, NoResponse, Pause, Steps, run_steps
    from dpop.tokens._stores import DEFAULT_ACCOUNT, MemoryTokenStore, StoreLock, TokenStore, check_account, locked
    from dpop.tokens._token_set import TokenSet

_PLACES = {
    "dpop.tokens._async_source": ("AsyncRefreshingSource",),
    "dpop.tokens._authorization": ("AuthorizationRequest", "DeviceAuthorization"),
    "dpop._client_auth": (
        "ClientAuth",
        "ClientSecretBasic",
        "ClientSecretPost",
        "PrivateKeyJWT",
        "PublicClient",
        "TLSClientAuth",
    ),
    "dpop.tokens._examination": ("Examination", "Fit", "examine"),
    "dpop.tokens._file_lock": ("FileLock",),
    "dpop.tokens._file_store": ("FileTokenStore",),
    "dpop.tokens._grants": ("Grants", "Parameter"),
    "dpop._well_known": ("resource_metadata_url",),
    "dpop.tokens._metadata": ("ResourceMetadata", "ServerMetadata", "read_resource_metadata"),
    "dpop.tokens._records": ("Sealer",),
    "dpop.tokens._refresher": ("AccountStatus", "Refresher"),
    "dpop.tokens._source": ("RefreshingSource",),
    "dpop.tokens._steps": ("Blocking", "HTTPRequest", "HTTPResponse", "NoResponse", "Pause", "Steps", "run_steps"),
    "dpop.tokens._stores": (
        "DEFAULT_ACCOUNT",
        "MemoryTokenStore",
        "StoreLock",
        "TokenStore",
        "check_account",
        "locked",
    ),
    "dpop.tokens._token_set": ("TokenSet",),
}
__all__ = [
    "DEFAULT_ACCOUNT",
    "AccountStatus",
    "AsyncRefreshingSource",
    "AuthorizationRequest",
    "Blocking",
    "ClientAuth",
    "ClientSecretBasic",
    "ClientSecretPost",
    "DeviceAuthorization",
    "Examination",
    "FileLock",
    "FileTokenStore",
    "Fit",
    "Grants",
    "HTTPRequest",
    "HTTPResponse",
    "MemoryTokenStore",
    "NoResponse",
    "Parameter",
    "Pause",
    "PrivateKeyJWT",
    "PublicClient",
    "Refresher",
    "RefreshingSource",
    "ResourceMetadata",
    "Sealer",
    "ServerMetadata",
    "Steps",
    "StoreLock",
    "TLSClientAuth",
    "TokenSet",
    "TokenStore",
    "check_account",
    "examine",
    "locked",
    "read_resource_metadata",
    "resource_metadata_url",
    "run_steps",
]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(__name__, _PLACES)
