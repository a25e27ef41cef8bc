# SPDX-License-Identifier: Apache-2.0
"""DPoP (RFC 9449): OAuth tokens that are useless without a key.

Start here:

- :func:`generate_key`, :func:`load_key` - a key; :class:`Prover` - a key with its nonces.
- :mod:`dpop.requests`, :mod:`dpop.httpx2`, :mod:`dpop.httpx`, :mod:`dpop.aiohttp` - plug into an HTTP library. Each
  sends one fresh proof with every request, through redirects, retries and nonce challenges.
- :func:`create_proof` - one proof by hand.
- :mod:`dpop.server` - verify proofs in an API or authorization server.
- :mod:`dpop.testing` - a server to try things on; on the command line ``dpop serve``.
- :class:`DPoPError` - the root of all errors; the tree is drawn in :mod:`dpop.errors`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop import profiles
    from dpop.client._nonces import NonceCache, Role
    from dpop.client._prover import Prover
    from dpop.client._request import BearerToken, RequestCredentials, TokenSource
    from dpop.encoding import access_token_hash, code_jti
    from dpop.errors import DPoPError
    from dpop.keys import Key, generate_key, load_key, thumbprint
    from dpop.proof import create_proof
    from dpop.signature import der_to_raw, raw_to_der

__version__ = "0.2.0"  # read by the build, too; in a program that was bundled there is no other record of it

__all__ = [
    "BearerToken",
    "DPoPError",
    "Key",
    "NonceCache",
    "Prover",
    "RequestCredentials",
    "Role",
    "TokenSource",
    "access_token_hash",
    "code_jti",
    "create_proof",
    "der_to_raw",
    "generate_key",
    "load_key",
    "profiles",
    "raw_to_der",
    "thumbprint",
]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dpop": ("profiles",),
        "dpop.client._nonces": ("NonceCache", "Role"),
        "dpop.client._prover": ("Prover",),
        "dpop.client._request": ("BearerToken", "RequestCredentials", "TokenSource"),
        "dpop.encoding": ("access_token_hash", "code_jti"),
        "dpop.errors": ("DPoPError",),
        "dpop.keys": ("Key", "generate_key", "load_key", "thumbprint"),
        "dpop.proof": ("create_proof",),
        "dpop.signature": ("der_to_raw", "raw_to_der"),
    },
)
