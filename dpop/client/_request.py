# SPDX-License-Identifier: Apache-2.0
"""A description of a request that is independent of the HTTP library; an integration fills it in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias
from urllib.parse import parse_qsl

from dpop._tracebacks import hide_frames
from dpop.client._nonces import Role
from dpop.client._prover import Prover
from dpop.encoding import sendable_token
from dpop.errors import ArgumentTypeError
from dpop.origin import Origin

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = [
    "AccessToken",
    "BearerToken",
    "OutgoingRequest",
    "RequestCredentials",
    "TokenSource",
    "check_token_setting",
    "form_of",
    "scheme_of",
]

_MAX_FORM = 65_536


class BearerToken(str):
    """An access token that is bound to no key: it is sent as ``Bearer``, without a proof (RFC 9449 §5).

    A token source returns it where the server binds refresh tokens only. It is a ``str`` like any other.
    """

    __slots__ = ()


class TokenSource(Protocol):
    """A callable that returns a fresh access token and can be told that one was refused.

    A source may also have ``atoken()``, a coroutine function, for asynchronous clients; its
    ``refused`` may return an awaitable there.
    """

    def __call__(self) -> str:
        """A fresh access token."""

    def refused(self, token: str, /) -> Awaitable[None] | None:
        """Record that a resource server refused this token: the next call should return another one."""


AccessToken: TypeAlias = "str | Callable[[], str] | Callable[[], Awaitable[str]] | TokenSource"
"""A token, a function that returns one, or a token source. A function is asked once per attempt."""


def check_token_setting(access_token: object) -> None:
    """Check the ``access_token`` setting of an adapter or a request.

    :raises CredentialError: a str that cannot stand in a header.
    :raises ArgumentTypeError: neither a str nor callable.
    """
    if isinstance(access_token, str):
        sendable_token(access_token)
    elif access_token is not None and not callable(access_token):
        raise ArgumentTypeError("access_token", "a str, a function that returns one, or a token source", access_token)


class _Policy(Protocol):
    """What is needed of a policy here."""

    origins: frozenset[Origin]


class RequestCredentials:
    """The prover and token of one request, in place of the adapter's: one client can serve many users.

    An adapter sets ``seen``, so that the integration can tell that a DPoP adapter handled the request.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.
    :raises UsageError: neither a key nor a prover; a token that cannot stand in a header.
    """

    __slots__ = ("_first", "_of_one_request", "access_token", "prover", "seen")

    @hide_frames
    def __init__(self, prover: Key | Prover, access_token: AccessToken | None = None) -> None:
        check_token_setting(access_token)
        self.prover: Prover = Prover.of(prover)
        self.access_token: AccessToken | None = access_token
        self.seen: bool = False
        self._of_one_request: bool = False
        self._first: _Policy | None = None

    @classmethod
    def _for_one_request(cls, prover: Prover, access_token: AccessToken | None) -> RequestCredentials:
        """Credentials of one request and its redirects, which only the servers of its first adapter may get."""
        made = cls(prover, access_token)
        made._of_one_request = True
        return made

    def _may_go_to(self, origin: Origin, policy: _Policy) -> bool:
        """Whether a server may get them: a redirect may lead to another adapter, whose servers are not meant.

        :param policy: of the adapter that asks.
        """
        if not self._of_one_request:
            return True  # its user decides for which requests
        self._first = self._first or policy
        return origin in self._first.origins

    def __repr__(self) -> str:
        return f"<RequestCredentials of {self.prover!r}>"


class OutgoingRequest:
    """One request to one server, as it is about to be sent.

    :param url: the absolute URL to which the HTTP library will connect. Only its origin is used, and its
        path to recognise ``as_endpoints``.
    :param origin: the origin of the URL, if the HTTP library has parsed it already.
    :param authorization: the Authorization header the caller or the library set.
    :param content: the body, if it is in memory.
    :param repeatable: whether the same body can be sent again, whole.
    :param priming: the role for which this request only fetches a nonce. Such a request carries no token
        and is not sent again, because that would use up the nonce it fetched.
    :raises InvalidTargetError: the URL has no origin.
    """

    __slots__ = (
        "authorization",
        "content",
        "content_type",
        "credentials",
        "method",
        "origin",
        "priming",
        "repeatable",
        "url",
    )

    def __init__(
        self,
        method: str,
        url: str,
        *,
        origin: Origin | None = None,
        authorization: str | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
        repeatable: bool = True,
        credentials: RequestCredentials | None = None,
        priming: Role | None = None,
    ) -> None:
        self.method: str = method
        self.url: str = url
        self.origin: Origin = Origin.of_url(url) if origin is None else origin
        self.authorization: str | None = authorization
        self.content: bytes | None = content
        self.content_type: str | None = content_type
        self.repeatable: bool = repeatable
        self.credentials: RequestCredentials | None = credentials
        self.priming: Role | None = priming

    def __repr__(self) -> str:
        return f"<OutgoingRequest {self.method}>"

    @property
    def own_token(self) -> str | None:
        """The token of a caller's own ``Authorization: DPoP`` or ``Bearer``."""
        if self.authorization is None or scheme_of(self.authorization) not in {"dpop", "bearer"}:
            return None
        return self.authorization.partition(" ")[2].strip() or None


def scheme_of(authorization: str) -> str:
    """The scheme of an Authorization header, in lower case."""
    return authorization.partition(" ")[0].lower()


def form_of(request: OutgoingRequest) -> dict[str, str]:
    """The fields of a form body, decoded; empty for any other body (RFC 6749 appendix B)."""
    kind = (request.content_type or "").partition(";")[0].strip().lower()
    if request.content is None or kind != "application/x-www-form-urlencoded" or len(request.content) > _MAX_FORM:
        return {}
    try:
        return dict(parse_qsl(request.content.decode("ascii"), keep_blank_values=True, max_num_fields=1000))
    except ValueError:
        return {}
