# SPDX-License-Identifier: Apache-2.0
"""The draft of a correct proof, and defects: functions that write a wrong proof from a draft."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from dpop.errors import UsageError
from dpop.server._reasons import Reason
from dpop.testing.defects._forge import A, Members, Pen, b64u, make, sha256

__all__ = ["OUT", "Defect", "Draft", "Fields", "Signer", "Verdict", "WritableDefect", "Write", "refused"]

OUT = object()  # as the value of a member: leave it out

Fields = list[tuple[str, str]]
"""Header fields, name and value, one character per byte."""

Verdict = Literal["ok", "missing", "invalid_dpop_proof", "use_dpop_nonce", "invalid_token"]
"""The OAuth error code that a server must respond with; ``missing``: the response to a request without a proof."""


class Signer(Protocol):
    """The part of a key that a draft needs."""

    @property
    def alg(self) -> str:
        """JWS algorithm name."""
        ...

    @property
    def public_jwk(self) -> Mapping[str, Any]:
        """The public key."""
        ...

    def sign(self, signing_input: bytes, /) -> bytes:
        """The JWS signature of the bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Draft:
    """The content of a correct proof for one request.

    :param htu: the URL of the request without query and fragment.
    """

    key: Signer
    method: str
    htu: str
    jti: str
    iat: int
    access_token: str | None = field(default=None, repr=False)
    nonce: str | None = field(default=None, repr=False)

    @property
    def es256(self) -> Draft:
        """Return this draft with an ES256 key: its own if it has one, otherwise a published key."""
        return self if self.key.alg == "ES256" else self.by(A)

    def by(self, key: Signer) -> Draft:
        """Return this draft with another key."""
        return replace(self, key=key)

    @property
    def jwk(self) -> Members:
        """The public key."""
        return dict(self.key.public_jwk)

    @property
    def ath(self) -> str:
        """The hash of the access token."""
        return b64u(sha256(self.token.encode()))

    @property
    def token(self) -> str:
        """The access token; without one, an error that this defect needs it."""
        if self.access_token is None:
            raise UsageError("this defect is in the claim ath, so it needs an access token")
        return self.access_token

    def header(self, **changes: Any) -> Members:
        """Make the JOSE header with changes."""
        return _changed({"typ": "dpop+jwt", "alg": self.key.alg, "jwk": self.jwk}, changes)

    def claims(self, **changes: Any) -> Members:
        """Make the claims with changes."""
        honest: Members = {"jti": self.jti, "htm": self.method, "htu": self.htu, "iat": self.iat}
        if self.access_token is not None:
            honest["ath"] = self.ath
        if self.nonce is not None:
            honest["nonce"] = self.nonce
        return _changed(honest, changes)

    def proof(self, *, header: Any = None, claims: Any = None, pen: Pen | None = None) -> str:
        """Write the proof, with another header, other claims or another pen (signing function).

        :param header: any JSON value, or bytes, which are used unchanged; the same holds for ``claims``.
        """
        return make(
            self.header() if header is None else header,
            self.claims() if claims is None else claims,
            pen or self.key.sign,
        )

    # --- parts of the URL

    @property
    def origin(self) -> str:
        """Scheme, host and port, without a slash."""
        return f"{self.scheme}://{self.authority}"

    @property
    def scheme(self) -> str:
        """http or https."""
        return self.htu.partition("://")[0]

    @property
    def authority(self) -> str:
        """The host, with the port if it is not the scheme's default."""
        return self.htu.partition("://")[2].partition("/")[0]

    @property
    def host(self) -> str:
        """The host; an IPv6 address is in brackets."""
        head, colon, tail = self.authority.rpartition(":")
        return head if colon and "]" not in tail else self.authority

    @property
    def port(self) -> str:
        """The port with its colon; empty if it is the scheme's default."""
        return self.authority.removeprefix(self.host)

    @property
    def path(self) -> str:
        """The path, from the first slash on."""
        return self.htu.removeprefix(self.origin)


Write = Callable[[Draft], str | Fields]
"""A function that writes the proof: the value of the DPoP field, or all fields."""


def _changed(honest: Members, changes: Members) -> Members:
    return {name: value for name, value in (honest | changes).items() if value is not OUT}


@dataclass(frozen=True, slots=True)
class Defect:
    """One way to make a proof wrong, or, if the verdict is ``ok``, unusual.

    :param name: the name, as in ``vectors/proofs.json``.
    :param group: the part with the defect: ``accept`` for unusual but correct proofs, ``transport``, ``structure``,
        ``header``, ``jwk``, ``signature``, ``claims``, ``htu``, ``binding``, ``nonce``, ``as``.
    :param verdict: the verdict that a server must reach.
    :param reason: the reason of :class:`dpop.server.ProofVerifier`; None if it accepts the proof.
    :param note: a remark.
    :param also: error codes that some other servers respond with instead.
    :param where: a condition under which the verdict holds.
    """

    name: str
    group: str
    verdict: Verdict
    reason: Reason | None
    note: str
    also: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class WritableDefect(Defect):
    """A defect together with the function that writes proofs with it."""

    _write: Write = field(repr=False)

    def write(self, draft: Draft) -> Fields:
        """Write the header fields with the defective proof: one field DPoP, unless that is the defect.

        :raises UsageError: the defect needs a token, a nonce or a URL that the draft does not have.
        """
        written = self._write(draft)
        return [("DPoP", written)] if isinstance(written, str) else written


def refused(  # noqa: PLR0917 - a row of a table
    group: str,
    name: str,
    write: Write,
    reason: Reason = Reason.NOT_COMPACT,
    note: str = "",
    also: str = "",
    where: str = "",
    verdict: Verdict = "invalid_dpop_proof",
) -> WritableDefect:
    """Make a row of a table of defects; arguments that are usually the same have defaults.

    :param also: error codes, separated by spaces.
    """
    return WritableDefect(name, group, verdict, reason, note, tuple(also.split()), where, write)
