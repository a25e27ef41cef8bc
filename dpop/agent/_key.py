# SPDX-License-Identifier: Apache-2.0
"""Keys in the signing agent: ``agent:NAME?jkt=THUMBPRINT&uid=USER&verify=yes``.

NAME is the key's name in the agent. ``jkt`` pins the key, so that another agent or another key of that name is
refused. ``uid`` names the user that the agent runs as, by number or name, where that is neither this user nor root.
``verify=yes`` has each signature verified in this process, too.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from weakref import finalize

from dpop._tracebacks import hide_frames
from dpop.agent._connection import AgentClient
from dpop.agent._nonces import ReportedNonces
from dpop.agent._protocol import NAME
from dpop.encoding import b64url_decode
from dpop.errors import (
    AgentUnavailableError,
    AlgorithmError,
    ArgumentTypeError,
    DPoPError,
    InvalidKeyError,
    KeyMismatchError,
    KeyPasswordError,
    SigningError,
    UsageError,
)
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import unloaded_key
from dpop.keys._uris import read_uri
from dpop.signature import check_raw

if TYPE_CHECKING:
    from dpop.keys._pem import Password

__all__ = ["AgentKey", "load"]

_FORM: Final = "agent:NAME; jkt=THUMBPRINT, uid=USER and verify=yes may follow"
_OPTIONS: Final = {"jkt": r"[A-Za-z0-9_-]{43}", "uid": r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}", "verify": "yes"}
_MOST_SECONDS: Final = 300.0
_LAST_SECONDS: Final = 1.0


class AgentKey:
    """A key in the signing agent. :func:`dpop.load_key` opens one by its URI, ``agent:NAME``.

    This process has neither the key nor a password of it: it sends what a proof signs, and gets the signature. The
    agent signs proofs only, for now, and for the origins that its rules name. Thread-safe; a forked process makes
    connections of its own; an agent that is restarted is found again.
    """

    __slots__ = (
        "__weakref__",
        "_alg",
        "_client",
        "_name",
        "_public",
        "_reference",
        "_seconds",
        "_shared_nonces",
        "_thumbprint",
        "_verify",
    )

    blocking = True
    signs_only_proofs = True

    @hide_frames
    def __init__(
        self,
        client: AgentClient,
        name: str,
        facts: dict[str, Any],
        *,
        verify: bool = False,
        reference: str | None = None,
    ) -> None:
        """Do not call; use :meth:`open`."""
        try:
            self._public = unloaded_key(facts["jwk"])
            self._alg: str = facts["alg"]
            self._seconds = min(float(facts["wait"]), _MOST_SECONDS)
            if self._alg not in self._public.algs:
                raise ValueError
        except (DPoPError, KeyError, TypeError, ValueError):
            raise AgentUnavailableError(
                f"the program that listens at {client.path} gave no key named {name} that DPoP can use; is it the agent"
                " of dpop-toolkit?"
            ) from None
        self._shared_nonces = ReportedNonces(facts.get("nonces") or ())
        self._client = client
        self._name = name
        self._thumbprint = self._public.thumbprint
        self._verify = verify
        self._reference = reference

    @classmethod
    @hide_frames
    def open(
        cls,
        name: str,
        *,
        client: AgentClient | None = None,
        jkt: str | None = None,
        verify: bool = False,
        reference: str | None = None,
    ) -> Self:
        """Open a key of the agent.

        :param name: the key's name in the agent.
        :param client: the agent; by default the one at ``DPOP_AGENT_SOCK`` or the user's.
        :param jkt: thumbprint that the key must have.
        :param verify: verify each signature in this process, too.
        :param reference: the URI that :func:`dpop.load_key` opens it by; ``agent:NAME`` by default.
        :raises AgentUnavailableError: no agent listens, or it does not respond.
        :raises AgentLockedError: it is locked, and has not had this key since.
        :raises KeyNotFoundError: it has no key of this name for this user.
        :raises KeyMismatchError: the key has another thumbprint.
        :raises KeyAccessDeniedError: the socket cannot be trusted, or the agent does not serve this user.
        """
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise InvalidKeyError(
                "the name of an agent's key is 1 to 64 letters, digits, dots, hyphens and underscores"
            )
        client = AgentClient() if client is None else client
        made = cls(client, name, client.request("key", key=name), verify=verify, reference=reference or f"agent:{name}")
        if jkt not in {None, made.thumbprint}:
            raise KeyMismatchError(
                f"the agent's key {name} has the thumbprint {made.thumbprint}, where {jkt:.43} was expected; nothing"
                " was sent",
                expected=jkt,
                got=made.thumbprint,
            )
        finalize(made, _report_rest, client, name, made._shared_nonces)
        return made

    @property
    def alg(self) -> str:
        """The JWS algorithm name of the key's signatures."""
        return self._alg

    @property
    def public_jwk(self) -> dict[str, str]:
        """The public key as a JWK with its required members only, in a new dict (RFC 7638 §3.2)."""
        return self._public.jwk

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the public key, 43 characters: the ``jkt``."""
        return self._thumbprint

    @property
    def name(self) -> str:
        """The key's name in the agent."""
        return self._name

    @property
    def client(self) -> AgentClient:
        """The agent."""
        return self._client

    @property
    def reference(self) -> str | None:
        """The URI by which :func:`dpop.load_key` opens the key."""
        return self._reference

    @hide_frames
    def sign(self, signing_input: bytes) -> bytes:
        """Have the agent sign what a proof signs; return the JWS signature (RFC 7518 §3).

        :raises AgentRefusedError: it is no proof, or the agent's rules do not allow it.
        :raises AgentUnavailableError: the agent is gone, or does not respond.
        :raises AgentLockedError: the agent is locked.
        :raises SigningError: the signature does not fit this key's algorithm.
        :raises DPoPKeyError: the key failed in the agent, by the kind that the agent told.
        :raises ArgumentTypeError: not bytes.
        """
        if not isinstance(signing_input, bytes):
            raise ArgumentTypeError("signing_input", "bytes", signing_input)
        learnt = self._shared_nonces.take()
        response = self._client.request(
            "sign",
            seconds=self._seconds,
            key=self._name,
            input=signing_input.decode("ascii", "replace"),
            **({"learnt": learnt} if learnt else {}),
        )
        try:
            signature = b64url_decode(response["signature"])
            algorithm = ALGORITHMS[self._alg]
            if algorithm.kty == "EC":
                check_raw(signature, (algorithm.signature_size or 0) // 2)
            good = self._public.verify(self._alg, signing_input, signature) if self._verify else bool(signature)
        except (DPoPError, KeyError) as error:
            raise SigningError(f"the agent did not return a signature with {self._alg}: {error}") from None
        if not good:
            raise SigningError("the agent returned a signature that does not verify with the key's public key")
        return signature

    def __repr__(self) -> str:
        return f"<AgentKey {self._alg} {self._thumbprint} in the agent: {self._name}>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise UsageError("a key cannot be pickled; hand on its URI, and load it there")


def _report_rest(client: AgentClient, name: str, nonces: ReportedNonces) -> None:
    """Report the nonces that no request has reported, at the end of the key or of the program."""
    learnt = nonces.take()
    if learnt:
        with contextlib.suppress(DPoPError):  # nobody waits for this
            client.request("learn", seconds=_LAST_SECONDS, key=name, learnt=learnt)
    client.close()


def load(uri: str, *, password: Password | None, alg: str | None) -> AgentKey:
    """Open the key that an ``agent:`` URI names; the loader of :func:`dpop.load_key`."""
    name, options = read_uri(uri, _OPTIONS, _FORM)
    if password is not None and not callable(password):
        raise KeyPasswordError(
            "a password was given, but the agent asks for its keys' passwords itself; leave it out: dpop agent unlock"
        )
    if not NAME.fullmatch(name):
        raise InvalidKeyError(f"the agent: URI names no key; expected {_FORM}")
    client = AgentClient(uid=_uid(options["uid"]) if "uid" in options else None)
    key = AgentKey.open(name, client=client, jkt=options.get("jkt"), verify="verify" in options, reference=uri)
    if alg not in {None, key.alg}:
        raise AlgorithmError(f"the agent's key {name} signs with {key.alg}, not with {alg!r:.40}")
    return key


def _uid(user: str) -> int:
    if user.isdigit():
        return int(user)
    import pwd  # noqa: PLC0415 - only where a user is named, and never on Windows

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise InvalidKeyError("the uid in the agent: URI names no user of this system") from None
