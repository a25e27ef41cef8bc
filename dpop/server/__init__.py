# SPDX-License-Identifier: Apache-2.0
"""The other side of DPoP: verify proofs, issue nonces, refuse politely.

- :class:`ProofVerifier` judges the proof of each request: ``verify_resource`` at an API,
  ``verify_token_request`` at an authorization server, or in two steps ``check_token_request`` and
  :meth:`CheckedProof.accept`; all have async twins.
- :class:`MemoryReplayCache` sees to it that each proof is accepted once, in one process.
- :class:`NonceIssuer` hands out nonces that any process with its secret recognises.
- :class:`ProtectedResource` decides about requests to an API; :mod:`dpop.asgi` and :mod:`dpop.wsgi` bring them.
- :func:`resource_challenge` and :func:`token_error` turn a refusal into an answer.
- :meth:`ProofVerifier.report` shows every check's verdict on a proof, for people.
- :class:`Reason` lists every reason for a refusal.
"""

from __future__ import annotations

from dpop.errors import InvalidProof, ReplayCacheError
from dpop.server._challenge import resource_challenge, token_error
from dpop.server._nonces import NonceChecker, NonceIssuer, NonceVerdict
from dpop.server._reasons import Reason
from dpop.server._replay import AsyncReplayCache, MemoryReplayCache, ReplayCache
from dpop.server._report import CheckVerdict, ProofReport
from dpop.server._resource import Access, ProtectedResource, ResourceRequest, Response, TokenLookup
from dpop.server._verifier import DEFAULT_ALGS, CheckedProof, ProofVerifier, VerifiedProof

__all__ = [
    "DEFAULT_ALGS",
    "Access",
    "AsyncReplayCache",
    "CheckVerdict",
    "CheckedProof",
    "InvalidProof",
    "MemoryReplayCache",
    "NonceChecker",
    "NonceIssuer",
    "NonceVerdict",
    "ProofReport",
    "ProofVerifier",
    "ProtectedResource",
    "Reason",
    "ReplayCache",
    "ReplayCacheError",
    "ResourceRequest",
    "Response",
    "TokenLookup",
    "VerifiedProof",
    "resource_challenge",
    "token_error",
]
