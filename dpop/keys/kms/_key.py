# SPDX-License-Identifier: Apache-2.0
"""Keys in a cloud's key service."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from dpop.errors import AlgorithmError, UsageError
from dpop.keys._external import ExternalKey
from dpop.keys.kms._service import Facts, KeyService

__all__ = ["KmsKey"]


class KmsKey(ExternalKey):
    """A key in a cloud's key service. :func:`dpop.load_key` opens one by its URI.

    Opening it fetches the public key, once. Each signature is one request to the service and is
    verified before it is used. Thread-safe; a forked process makes its own connections.
    """

    __slots__ = ("_algs", "_service")

    def __init__(self, service: KeyService, facts: Facts, alg: str | None = None, reference: str | None = None) -> None:
        """Not to be called; see :meth:`open`."""
        if alg is not None and alg not in facts.algs:
            names = " or ".join(facts.algs)
            raise AlgorithmError(f"{service.title}, key {service.name}: it signs with {names}, not with {alg!r:.40}")
        self._service = service
        self._algs = facts.algs
        super().__init__(
            facts.public,
            partial(service.sign, alg=alg or facts.algs[0]),
            signature_format=service.signature_format,
            alg=alg or facts.algs[0],
            reference=reference,
        )

    @classmethod
    def open(cls, service: KeyService, *, alg: str | None = None, reference: str | None = None) -> KmsKey:
        """Open the key that ``service`` stands for.

        :param alg: which of the key's algorithms to use; the best by default.
        :param reference: the URI, if one is known, that :func:`dpop.load_key` opens it by.
        :raises KeyNotFoundError: there is no such key.
        :raises KeyAccessError: no credentials, or no permission.
        :raises KeyDisabledError: it is switched off.
        :raises KeyUnavailableError: the service does not answer; KeyThrottledError: it wants fewer requests.
        :raises InvalidKeyError: not a key DPoP can use.
        :raises AlgorithmError: it does not sign with ``alg``.
        :raises MissingExtraError: the service's library is not installed.
        """
        return cls(service, service.guarded(service.describe), alg, reference)

    @property
    def algs(self) -> tuple[str, ...]:
        """All names this key can sign by, best first."""
        return self._algs

    def with_alg(self, alg: str) -> KmsKey:
        """This key, signing by another of its names: of RSA, PS256, RS256 and others.

        :raises AlgorithmError: not one of :attr:`algs`.
        """
        if alg == self.alg:
            return self
        return KmsKey(self._service, Facts(self._public, self._algs), alg, self.reference)

    @property
    def _keeper(self) -> str:
        return f"{self._service.title}, key {self._service.name},"

    def __repr__(self) -> str:
        return f"<KmsKey {self.alg} {self.thumbprint} in {self._service.title}: {self._service.name}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a key cannot be pickled; hand on its URI, and load it there")
