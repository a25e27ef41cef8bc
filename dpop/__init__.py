# SPDX-License-Identifier: Apache-2.0
"""DPoP (RFC 9449): OAuth tokens that are useless without a key.

Start here:

- :func:`generate_key`, :func:`load_key` - a key; :class:`Prover` - a key with its nonces.
- :mod:`dpop.requests`, :mod:`dpop.httpx2`, :mod:`dpop.httpx` - plug into an HTTP library. Each sends one
  fresh proof with every request, through redirects, retries and nonce challenges.
- :func:`create_proof` - one proof by hand.
- :mod:`dpop.server` - verify proofs in an API or authorization server.
- :mod:`dpop.testing` - a server to try things on; on the command line ``dpop serve``.
- :class:`DPoPError` - the root of all errors; the tree is drawn in :mod:`dpop.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop import profiles
    from dpop.client._prover import Prover
    from dpop.client._request import RequestCredentials
    from dpop.encoding import access_token_hash, code_jti
    from dpop.errors import DPoPError
    from dpop.keys import Key, generate_key, load_key, thumbprint
    from dpop.proof import create_proof
    from dpop.signature import der_to_raw, raw_to_der

__all__ = [
    "DPoPError",
    "Key",
    "Prover",
    "RequestCredentials",
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

__getattr__, __dir__ = lazy(
    __name__,
    {
        "DPoPError": "dpop.errors",
        "Key": "dpop.keys",
        "Prover": "dpop.client._prover",
        "RequestCredentials": "dpop.client._request",
        "access_token_hash": "dpop.encoding",
        "code_jti": "dpop.encoding",
        "create_proof": "dpop.proof",
        "der_to_raw": "dpop.signature",
        "generate_key": "dpop.keys",
        "load_key": "dpop.keys",
        "profiles": "dpop.profiles",
        "raw_to_der": "dpop.signature",
        "thumbprint": "dpop.keys",
    },
)
