# SPDX-License-Identifier: Apache-2.0
"""Code that the cloud key services share: URIs, clients, and a key that signs over a network."""

from __future__ import annotations

import hashlib
import importlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final, Generic, NamedTuple, NoReturn, TypeVar

from dpop._forking import at_fork
from dpop.errors import (
    AlgorithmError,
    DPoPError,
    DPoPKeyError,
    InvalidKeyError,
    KeyPasswordError,
    MissingExtraError,
    UsageError,
)
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._external import ExternalKey, SignatureFormat
from dpop.keys._pem import Password
from dpop.keys._public import PublicKey
from dpop.origin import Origin

__all__ = [
    "CONNECTIONS",
    "Facts",
    "KeyService",
    "KmsKey",
    "PerProcess",
    "checked_endpoint",
    "digest",
    "keep_connections",
    "need",
    "printable",
    "refuse_password",
]


def checked_endpoint(endpoint: str) -> Origin:
    """Parse an ``endpoint`` option: an https origin, or an http origin on this machine.

    :raises InvalidKeyError: anything else.
    """
    try:
        origin = Origin.parse(endpoint)
    except UsageError as error:
        raise InvalidKeyError(f"the endpoint in the URI: {error}") from None
    if origin.scheme != "https" and not origin.is_loopback:
        raise InvalidKeyError("the endpoint in the URI must be https; http is for this machine only")
    return origin


CONNECTIONS: Final = 64
"""How many connections a client keeps, so that this many threads can sign at once without opening new ones."""

_MAX_SHOWN: Final = 300


def need(module: str, extra: str) -> Any:
    """Import a module of a cloud's library.

    :raises MissingExtraError: the module is not installed; the message names the extra to install.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this key needs the Python package {error.name}, which is not installed;"
            f" run: pip install 'dpop-toolkit[{extra}]'",
            name=error.name,
        ) from None


def keep_connections(session: Any) -> None:
    """Let the ``requests`` session of a cloud library keep :data:`CONNECTIONS` connections instead of ten.

    With more than ten in use, it would close each further one after its request, and log a warning.
    """
    for adapter in session.adapters.values():
        adapter.init_poolmanager(CONNECTIONS, CONNECTIONS)


def printable(text: object) -> str:
    """Make a service's text safe for a message: one line, printable, not too long."""
    words = "".join(c if c.isprintable() else " " for c in str(text))
    return " ".join(words.split())[:_MAX_SHOWN]


_Client = TypeVar("_Client")

# How many forks are between this process and the one that started Python. Unlike a process id, which the
# system uses again, this number differs in all ancestors of a process.
_generation = 0


class _ProcessClient(Generic[_Client]):
    """The client of one process, once it is made, and a lock for making it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler of the thread that holds it may ask, too
        self.client: _Client | None = None


class PerProcess(Generic[_Client]):
    """A client that is made when it is first needed, and made again in a forked process.

    A child must not use its parent's connections, and must not wait for a lock that a thread of the parent
    held. So it gets its own client and its own lock. It keeps the parent's client without using it, because
    closing it would end the parent's connections.
    """

    def __init__(self, make: Callable[[], _Client]) -> None:
        self._make = make
        self._made: dict[int, _ProcessClient[_Client]] = {}

    def __call__(self) -> _Client:
        """Return the client of this process. If it cannot be made, each waiting thread tries again."""
        entry = self._made.get(_generation) or self._made.setdefault(_generation, _ProcessClient())
        if entry.client is None:
            with entry.lock:
                if entry.client is None:
                    entry.client = self._make()
        return entry.client


def _count_fork() -> None:
    global _generation  # noqa: PLW0603 - a fact about the process
    _generation += 1


at_fork(in_child=_count_fork)


_Answer = TypeVar("_Answer")


class Facts(NamedTuple):
    """The facts that a service states about a key.

    :param public: the public key, checked.
    :param algs: the algorithms the service signs with for it, best first.
    """

    public: PublicKey
    algs: tuple[str, ...]


class KeyService(ABC):
    """One key in a cloud's key service, with the calls that describe it and sign with it.

    A subclass declares the format of the service's ECDSA signatures, and converts the errors of the service's library
    to errors of this package.
    """

    title: ClassVar[str]
    signature_format: ClassVar[SignatureFormat]

    def __init__(self, name: str, make_client: Callable[[], Any]) -> None:
        """Store the key's name.

        :param name: the key's name for messages.
        :param make_client: a function that makes the service's client; called once in each process that uses the key.
        """
        self.name = name
        self._client = PerProcess(make_client)

    @abstractmethod
    def describe(self) -> Facts:
        """Fetch the public key; called once, when the key is opened.

        :raises DPoPKeyError: there is no such key, or it cannot be used.
        """

    @abstractmethod
    def sign(self, signing_input: bytes, alg: str) -> bytes:
        """Have the service sign the bytes; return the signature in the service's own format.

        :raises DPoPKeyError: the service did not sign.
        """

    @abstractmethod
    def explain(self, error: Exception) -> DPoPKeyError:
        """Convert an exception of the service's library to an error of this package."""

    def ask(self, call: Callable[[Any], _Answer]) -> _Answer:
        """Call a function with this process's client, and convert its errors.

        :raises DPoPKeyError: the library raised an error, which :meth:`explain` converted.
        """
        return self.guarded(lambda: call(self._client()))

    def guarded(self, work: Callable[[], _Answer]) -> _Answer:
        """Call a function, and convert errors of the service's library.

        :raises DPoPKeyError: the library raised an error, which :meth:`explain` converted.
        """
        try:
            return work()
        except DPoPError:
            raise
        except Exception as error:  # noqa: BLE001 - a cloud's library may raise anything
            trouble = self.explain(error)
        # Raised outside the except block, so that it has no context: the original refers to requests with credentials.
        raise trouble

    def trouble(self, kind: type[DPoPKeyError], what: str) -> DPoPKeyError:
        """Make an error whose message names the key."""
        return kind(f"{self.title}, key {self.name}: {what}")

    def usable(self, public: PublicKey, served: Callable[[str], bool]) -> Facts:
        """Return the facts of a key, with only the algorithms that the service signs with.

        :raises InvalidKeyError: there is no such algorithm.
        """
        algs = tuple(alg for alg in public.algs if served(alg))
        if not algs:
            raise self.trouble(InvalidKeyError, f"it does not sign with {' or '.join(public.algs)}")
        return Facts(public, algs)

    def checked_public(self, read: Callable[[], PublicKey]) -> PublicKey:
        """Return the public key that ``read`` returns; errors about it name the key."""
        try:
            return read()
        except InvalidKeyError as error:
            raise self.trouble(InvalidKeyError, str(error)) from None


def refuse_password(password: Password | None, title: str) -> None:
    """Refuse a password: a key in a service has no password.

    :raises KeyPasswordError: one was given.
    """
    if password is not None and not callable(password):
        raise KeyPasswordError(
            f"a password was given, but keys in {title} have none: the cloud's library finds credentials; leave it out"
        )


def digest(signing_input: bytes, alg: str) -> bytes:
    """Return the hash of the bytes, for services that sign a hash; ``alg`` must have one."""
    name = ALGORITHMS[alg].hash_name or ""
    return hashlib.new(name.replace("-", ""), signing_input).digest()


class KmsKey(ExternalKey):
    """A key in a cloud's key service. :func:`dpop.load_key` opens one by its URI.

    Opening it fetches the public key, once. Each signature is one request to the service and is
    verified before it is used. Thread-safe; a forked process makes its own connections.
    """

    __slots__ = ("_algs", "_service")

    def __init__(self, service: KeyService, facts: Facts, alg: str | None = None, reference: str | None = None) -> None:
        """Store the arguments: use :meth:`open` instead."""
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
        """Open the key of this service.

        :param alg: which of the key's algorithms to use; the best by default.
        :param reference: the URI by which :func:`dpop.load_key` opens the key, if there is one.
        :raises KeyNotFoundError: there is no such key.
        :raises KeyAccessDeniedError: there are no credentials, or they give no permission.
        :raises KeyDisabledError: the key is disabled.
        :raises KeyUnavailableError: the service does not respond. KeyThrottledError: it wants fewer requests.
        :raises InvalidKeyError: not a key DPoP can use.
        :raises AlgorithmError: the key does not sign with ``alg``.
        :raises MissingExtraError: the service's library is not installed.
        """
        return cls(service, service.guarded(service.describe), alg, reference)

    @property
    def algs(self) -> tuple[str, ...]:
        """All algorithm names this key can sign with, best first."""
        return self._algs

    def with_alg(self, alg: str) -> KmsKey:
        """Return this key for another of its algorithm names: for RSA, PS256, RS256 and others.

        :raises AlgorithmError: not one of :attr:`algs`.
        """
        if alg == self.alg:
            return self
        return KmsKey(self._service, Facts(self._public, self._algs), alg, self.reference)

    @property
    def _backend(self) -> str:
        return f"{self._service.title}, key {self._service.name},"

    def __repr__(self) -> str:
        return f"<KmsKey {self.alg} {self.thumbprint} in {self._service.title}: {self._service.name}>"

    def __reduce__(self) -> NoReturn:
        raise UsageError("a key cannot be pickled; pass on its URI, and load it there")
