# SPDX-License-Identifier: Apache-2.0
"""Errors of sending proofs and of verifying them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpop.errors.root import DPoPError

__all__ = [
    "InvalidProof",
    "ReplayCacheError",
    "UnrewindableBodyError",
]


class UnrewindableBodyError(DPoPError):
    """The request would be sent a second time, but its body can be read only once.

    Raised instead of sending an empty or cut body.
    """

    code = "unrewindable_body"


class InvalidProof(DPoPError):  # noqa: N818 - the contract's name, after the RFC's invalid_dpop_proof
    """A verifier's refusal (RFC 9449 §4.3, §5, §7.1).

    :param error: the OAuth error code to answer with: ``invalid_dpop_proof``, ``use_dpop_nonce``,
        ``invalid_token`` at a resource, ``invalid_grant`` at a token endpoint.
    :param reason: a stable name of the check that failed, such as ``"htu_mismatch"``.
    :param detail: one sentence for people, safe to log: it holds no proof, token or nonce.
    :param expected: what the verifier expected, where that is no secret.
    :param got: what came, where that is no secret.
    :param nonce: for ``use_dpop_nonce``, the nonce to hand out. It never appears in ``str()``.
    :param parameters: more for the challenge of a resource server, such as ``scope`` or ``acr_values``.
    """

    code = "invalid_proof"

    def __init__(
        self,
        error: str,
        reason: str,
        detail: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        nonce: str | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.error = error
        self.reason = reason
        self.detail = detail
        self.expected = expected
        self.got = got
        self.nonce = nonce
        self.parameters: Mapping[str, str] = {} if parameters is None else dict(parameters)
        text = f"{error} ({reason}): {detail}"
        if expected is not None or got is not None:
            text += f"; expected {expected or 'nothing'}, got {got or 'nothing'}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {name: getattr(self, name) for name in ("expected", "got", "nonce", "parameters")}
        return (_rebuild_invalid_proof, (self.error, self.reason, self.detail, facts))


def _rebuild_invalid_proof(error: str, reason: str, detail: str, facts: dict[str, Any]) -> InvalidProof:
    """Unpickle an InvalidProof, whose evidence is keyword-only."""
    return InvalidProof(error, reason, detail, **facts)


class ReplayCacheError(DPoPError):
    """The replay cache is full or cannot be reached: the proof must not be accepted (RFC 9449 §11.1)."""

    code = "replay_cache"
