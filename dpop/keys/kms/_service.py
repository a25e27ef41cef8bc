# SPDX-License-Identifier: Apache-2.0
"""What the clouds' key services have in common: a key that is asked for signatures over a network."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

from dpop.errors import DPoPError, DPoPKeyError, InvalidKeyError, KeyPasswordError
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._external import SignatureFormat
from dpop.keys._pem import Password
from dpop.keys._public import PublicKey
from dpop.keys.kms._per_process import PerProcess

__all__ = ["Facts", "KeyService", "digest", "refuse_password"]

_Answer = TypeVar("_Answer")


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
