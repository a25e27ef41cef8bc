# SPDX-License-Identifier: Apache-2.0
"""What the clouds' key services have in common: a key that is asked for signatures over a network."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, NoReturn, TypeVar

from dpop.errors import (
    AlgorithmError,
    DPoPError,
    DPoPKeyError,
    InvalidKeyError,
    KeyPasswordError,
    MissingExtraError,
    UsageError,
)
from dpop.keys.algorithms import ALGORITHMS
from dpop.keys.external import ExternalKey, SignatureFormat
from dpop.keys.kms.per_process import PerProcess
from dpop.keys.pem import Password
from dpop.keys.public import PublicKey

__all__ = ["CONNECTIONS", "Facts", "KeyService", "KmsKey", "digest", "need", "refuse_password", "told", "widen"]

_Answer = TypeVar("_Answer")

CONNECTIONS: Final = 64
"""How many connections a client keeps: as many threads may sign at once without each making its own."""

_MAX_SHOWN: Final = 300


class Facts(NamedTuple):
    """What a service says of a key.

    :param public: the public key, checked.
    :param algs: the algorithms the service signs with for it, best first.
    """

    public: PublicKey
    algs: tuple[str, ...]


class KeyService(ABC):
    """One key in a cloud's key service, and how to ask for what it can do.

    Subclasses say in what format the service writes ECDSA signatures, and turn what its library raises
    into errors of this package.
    """

    title: ClassVar[str]
    signature_format: ClassVar[SignatureFormat]

    def __init__(self, name: str, make_client: Callable[[], Any]) -> None:
        """Name a key.

        :param name: the key's, in messages.
        :param make_client: makes the service's client; called once in each process that uses the key.
        """
        self.name = name
        self._client = PerProcess(make_client)

    @abstractmethod
    def describe(self) -> Facts:
        """Fetch the public key; called once, when the key is opened.

        :raises DPoPKeyError: there is no such key, or it is of no use.
        """

    @abstractmethod
    def sign(self, signing_input: bytes, alg: str) -> bytes:
        """Have the octets signed; in the service's own format.

        :raises DPoPKeyError: it did not sign.
        """

    @abstractmethod
    def explain(self, error: Exception) -> DPoPKeyError:
        """The error of this package that says what the service's library raised."""

    def ask(self, call: Callable[[Any], _Answer]) -> _Answer:
        """Call with this process's client.

        :raises DPoPKeyError: what :meth:`explain` makes of whatever is raised.
        """
        return self.guarded(lambda: call(self._client()))

    def guarded(self, work: Callable[[], _Answer]) -> _Answer:
        """Do what may end in an error of the service's library.

        :raises DPoPKeyError: what :meth:`explain` makes of it.
        """
        try:
            return work()
        except DPoPError:
            raise
        except Exception as error:  # noqa: BLE001 - the library of a cloud may raise anything
            trouble = self.explain(error)
        # Raised out here it has no context: requests with credentials in them hang on what the library raised.
        raise trouble

    def trouble(self, kind: type[DPoPKeyError], what: str) -> DPoPKeyError:
        """An error that says which key it is about."""
        return kind(f"{self.title}, key {self.name}: {what}")

    def usable(self, public: PublicKey, served: Callable[[str], bool]) -> Facts:
        """The facts of a key, with those of its algorithms that the service signs with.

        :raises InvalidKeyError: there is none.
        """
        algs = tuple(alg for alg in public.algs if served(alg))
        if not algs:
            raise self.trouble(InvalidKeyError, f"it does not sign with {' or '.join(public.algs)}")
        return Facts(public, algs)

    def checked_public(self, read: Callable[[], PublicKey]) -> PublicKey:
        """The public key that ``read`` returns; what is wrong with it is said with the key's name."""
        try:
            return read()
        except InvalidKeyError as error:
            raise self.trouble(InvalidKeyError, str(error)) from None


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
        """This key, signing by another of its names: PS256 or RS256.

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


def need(module: str, extra: str) -> Any:
    """Import a module of a cloud's library.

    :raises MissingExtraError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this key needs the Python package {error.name}, which is not installed;"
            f" run: pip install 'dpop-toolkit[{extra}]'",
            name=error.name,
        ) from None


def widen(session: Any) -> None:
    """Let a session of requests, which the libraries use, keep :data:`CONNECTIONS` connections instead of ten.

    Beyond ten it would close each connection after one request, and log a warning.
    """
    for adapter in session.adapters.values():
        adapter.init_poolmanager(CONNECTIONS, CONNECTIONS)


def refuse_password(password: Password | None, title: str) -> None:
    """A key service knows no password; one that was given is for something else.

    :raises KeyPasswordError: one was given.
    """
    if password is not None and not callable(password):
        raise KeyPasswordError(
            f"a password was given, but a key in {title} has none: its own library finds the credentials; leave it out"
        )


def digest(signing_input: bytes, alg: str) -> bytes:
    """The hash of the octets, for services that sign a hash; ``alg`` must have one."""
    name = ALGORITHMS[alg].hash_name or ""
    return hashlib.new(name.replace("-", ""), signing_input).digest()


def told(text: object) -> str:
    """What a service says of a refusal, fit for a message: one line, printable, not too long."""
    words = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(words.split())[:_MAX_SHOWN]
