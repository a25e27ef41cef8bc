# SPDX-License-Identifier: Apache-2.0
"""The server side of DPoP: verify proofs, issue nonces, refuse requests.

- :class:`ProofVerifier` verifies the proof of each request: ``verify_resource`` at an API, ``verify_token_request``
  at an authorization server, or in two steps ``check_token_request`` and :meth:`CheckedProof.accept`. Each has
  an async form.
- :class:`MemoryReplayCache` remembers proofs, so that each is accepted once in one process.
- :class:`NonceIssuer` hands out nonces that every process with its secret recognises.
- :class:`JWTAccessTokens` verifies access tokens that are JWTs, with the keys of their issuer;
  :class:`Introspection` asks the authorization server about any other.
- :class:`ProtectedResource` decides about requests to an API; :mod:`dpop.asgi` and :mod:`dpop.wsgi` are
  middleware that enforce its decisions.
- :func:`resource_challenge` and :func:`token_error` turn a refusal into a response.
- :meth:`ProofVerifier.report` shows people the verdict of every check on a proof.
- :class:`Reason` lists every reason for a refusal.

Authors of other integrations make a :class:`ResourceRequest` of each request, ask :meth:`ProtectedResource.admit`
or ``aadmit``, send :meth:`ProtectedResource.refusal` or their own response, and add the next nonce with
:func:`with_nonce`.
"""

from __future__ import annotations

from dpop.errors import InvalidProof, LookupUnavailableError, ReplayCacheError
from dpop.server._access_tokens import JWTAccessTokens
from dpop.server._challenge import resource_challenge, token_error, with_nonce
from dpop.server._events import BearerReport, Event, EventHook
from dpop.server._introspection import Introspection
from dpop.server._jws import Headers
from dpop.server._lookups import Fetch, LookupRequest, LookupResponse
from dpop.server._nonces import NonceChecker, NonceIssuer, NonceVerdict
from dpop.server._reasons import Reason
from dpop.server._replay import AsyncReplayCache, MemoryReplayCache, ReplayCache
from dpop.server._report import CheckVerdict, ProofReport
from dpop.server._resource import Access, ProtectedResource, ResourceRequest, Response, TokenLookup, body_fields
from dpop.server._shared_responses import IntrospectionCache
from dpop.server._unhandled import REFUSALS, Refusal, refusal_behind_500
from dpop.server._verifier import DEFAULT_ALGS, CheckedProof, ProofVerifier, VerifiedProof

__all__ = [
    "DEFAULT_ALGS",
    "REFUSALS",
    "Access",
    "AsyncReplayCache",
    "BearerReport",
    "CheckVerdict",
    "CheckedProof",
    "Event",
    "EventHook",
    "Fetch",
    "Headers",
    "Introspection",
    "IntrospectionCache",
    "InvalidProof",
    "JWTAccessTokens",
    "LookupRequest",
    "LookupResponse",
    "LookupUnavailableError",
    "MemoryReplayCache",
    "NonceChecker",
    "NonceIssuer",
    "NonceVerdict",
    "ProofReport",
    "ProofVerifier",
    "ProtectedResource",
    "Reason",
    "Refusal",
    "ReplayCache",
    "ReplayCacheError",
    "ResourceRequest",
    "Response",
    "TokenLookup",
    "VerifiedProof",
    "body_fields",
    "refusal_behind_500",
    "resource_challenge",
    "token_error",
    "with_nonce",
]


def __dir__() -> list[str]:
    return sorted(__all__)
