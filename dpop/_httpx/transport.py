# SPDX-License-Identifier: Apache-2.0
"""Transports for httpx and httpx2, which have the same API under two names.

The classes here use only the Protocols of :mod:`dpop._httpx.protocols`, so that neither library is imported.
:mod:`dpop.httpx` and :mod:`dpop.httpx2` add the library's own base classes.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Generic, Self, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar

from dpop._connections import OnePerProcess
from dpop._httpx.bodies import (
    AsyncPeekedStream,
    PeekedStream,
    Rewind,
    async_drain,
    async_peek,
    drain,
    in_memory,
    peek,
    rewind_of,
)
from dpop._httpx.cookies import DroppedCookies
from dpop._httpx.protocols import (
    AsyncTransport,
    Info,
    Library,
    Maker,
    Request,
    RequestT,
    Response,
    ResponseT,
    Transport,
)
from dpop._tracebacks import hide_frames
from dpop.client import _demands  # noqa: F401 - not first in a thread: see dpop._forking.import_now
from dpop.client._challenge import nonce_field
from dpop.client._driver import (
    ask_token,
    async_ask_token,
    async_refresh,
    async_report,
    async_sign,
    async_wait_for_nonce,
    refresh,
    report,
    sign_now,
    wait_for_nonce,
)
from dpop.client._flow import ProofFlow, Step
from dpop.client._nonces import Role
from dpop.client._policy import Policy, headers_to_withhold
from dpop.client._prover import Prover
from dpop.client._request import AccessToken, OutgoingRequest, RequestCredentials, check_token_setting
from dpop.errors import UsageError
from dpop.origin import Origin, origin_of

if TYPE_CHECKING:
    from dpop.keys import Key

__all__ = [
    "HEADERS_START",
    "AsyncSigningTransport",
    "RequestAuth",
    "SigningTransport",
    "Wire",
    "anyio_tools",
    "carries_proof",
    "fields_of",
    "give_trace_back",
    "replace_fields",
    "signing_fields",
    "stop_tracing",
]

_T = TypeVar("_T")
_TransportT = TypeVar("_TransportT")


class RequestAuth(Generic[RequestT, ResponseT]):
    """``auth=`` for one request, with its own prover and token; a mixin for the library's ``Auth``.

    :param prover: the prover that signs the requests; a key is accepted, too.
    :param access_token: a ``str``, a function, or a token source; ``None`` for an authorization server.

    It only marks the request: a DPoP transport signs it, on every hop within its origins.
    """

    @hide_frames
    def __init__(self, prover: Key | Prover, access_token: AccessToken | None = None) -> None:
        check_token_setting(access_token)
        self._prover = Prover.of(prover)
        self._access_token = access_token

    def __repr__(self) -> str:
        return f"<DPoPAuth {self._prover.thumbprint}>"

    def auth_flow(self, request: RequestT) -> Generator[RequestT, ResponseT, None]:
        """Mark the request; raise an error if no DPoP transport has seen it."""
        credentials = RequestCredentials._for_one_request(self._prover, self._access_token)  # noqa: SLF001 - ours
        request.extensions = {**request.extensions, "dpop": credentials}
        yield request
        if not credentials.seen:
            raise UsageError(
                f"the request to {request.url.host} was sent without a proof: DPoPAuth needs a client whose transport"
                " is a DPoPTransport, such as Client(transport=DPoPTransport(key, origins=…))"
            )


_LAST = frozenset({Step.DONE, Step.REPORT})
"""The steps after which the caller gets the response."""

Wire: TypeAlias = tuple[str, str, str]
"""Scheme, Host and target of a request as they will be on the wire."""


_SIGNED_FOR = "dpop_signed_for"
"""The extension that tells a DPoP transport below this one for which origin a request is signed."""

_SIGNING_FIELDS = frozenset({b"host", b"authorization", b"content-type"})


def signing_fields(request: Request) -> dict[bytes, str]:
    """Return a request's header fields that affect signing, by lower-case name; repeated fields are joined.

    The library's own lookup first detects the encoding of all fields, which takes ten times as long.
    """
    found: dict[bytes, str] = {}
    for name, value in request.headers.raw:
        lower = name.lower()
        if lower in _SIGNING_FIELDS:
            text = value.decode("latin-1")
            found[lower] = f"{found[lower]}, {text}" if lower in found else text
    return found


def _origin(request: Request) -> Origin:
    url = request.url
    return origin_of(_HTTP_OF_WEBSOCKET.get(url.scheme, url.scheme), url.netloc.decode("ascii"))


def fields_of(response: Response) -> list[tuple[str, str]]:
    """Return the header fields of a response; repeated fields stay separate."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]


HEADERS_START = ".send_request_headers.started"
"""The end of a ``trace`` event's name: the event says that headers are about to be written."""


def carries_proof(info: Info) -> bool:
    """Whether the headers of a trace event carry a proof; those of CONNECT, which opens a tunnel, do not."""
    method: bytes = info["request"].method
    return method != b"CONNECT"


def stop_tracing(event: str, info: Info) -> None:
    """Remove our ``trace`` once HTTP/1.1 headers are written, because nothing is sent again after that.

    Each event costs two microseconds, and eight of ten events would follow. For HTTP/2 the ``trace`` stays, because
    the library sends a stream again after a GOAWAY.
    """
    if event.startswith("http11."):
        info["request"].extensions.pop("trace", None)


def give_trace_back(signed: Request, request: Request) -> None:
    """Restore the caller's ``trace``, once the response has arrived and the library sends nothing again.

    Our ``trace`` and its request refer to each other. That cycle would keep the body in memory until the garbage
    collector runs.
    """
    users = request.extensions.get("trace")
    if users is None:
        signed.extensions.pop("trace", None)
    else:
        signed.extensions["trace"] = users


def replace_fields(fields: list[tuple[bytes, bytes]], headers: list[tuple[str, str]]) -> None:
    """Replace headers, by name, in the list that is about to be written."""
    ours = {name.lower().encode("ascii"): value.encode("ascii") for name, value in headers}
    fields[:] = [(name, ours.get(name.lower(), value)) for name, value in fields]


class _AnyioTools:
    """Sleep and worker threads of anyio, which work on every event loop; both libraries depend on anyio."""

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def to_thread(self, function: Callable[[], _T]) -> _T:
        """Run the function in a thread of our own: a device that hangs must not use up the program's worker threads.

        A cancelled task does not wait for the function.
        """
        try:
            limiter = _threads.get()
        except LookupError:
            limiter = anyio.CapacityLimiter(_MAX_THREADS)
            _threads.set(limiter)
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)


_MAX_THREADS = 32
_threads: RunVar[anyio.CapacityLimiter] = RunVar("dpop_threads")  # one for each event loop


anyio_tools = _AnyioTools()


# The handshake of a WebSocket is an HTTP request (RFC 6455 §4.1), so its proof names the http or https URL.
_HTTP_OF_WEBSOCKET = {"ws": "http", "wss": "https"}


class _Transport(Generic[RequestT, ResponseT, _TransportT]):
    """The common base of the synchronous and the asynchronous transport."""

    _library: Library[RequestT, ResponseT]
    _transport_class: type[_TransportT]
    _policy: Policy
    _inner: OnePerProcess[_TransportT]

    def _set_up(
        self, policy: Policy, transport: _TransportT | Callable[[], _TransportT] | None, make: Maker[_TransportT]
    ) -> None:
        """Store the settings.

        :param make: a partial with all settings, which makes the library's own transport.
        """
        if transport is not None:
            defaults = inspect.signature(make.func).parameters
            changed = sorted(name for name, value in make.keywords.items() if value != defaults[name].default)
            if changed:
                raise UsageError(f"transport= is used as it is; give {', '.join(changed)} to it instead")
        self._policy = policy
        self._inner = OnePerProcess(
            make if transport is None else transport, self._transport_class, "transport", now=True
        )

    def add_origins(self, origins: str | Iterable[str], *, insecure_origins: str | Iterable[str] = ()) -> None:
        """Allow more servers to get proofs and tokens, such as an API that discovery has found.

        :param origins: as for the constructor; the earlier ones stay allowed.
        :param insecure_origins: http:// origins, beyond this machine's own, that may get proofs all the same.
        :raises UsageError: ``origins`` is empty, or contains an invalid origin.
        :raises InsecureOriginError: an http:// origin that is not this machine's.
        """
        self._policy.add_origins(origins, insecure_origins=insecure_origins)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} for {', '.join(sorted(map(str, self._policy.origins)))}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a DPoP transport cannot be pickled: its key must not travel; make one in each process")

    def _open(self, request: RequestT, content: bytes | None, *, repeatable: bool) -> tuple[ProofFlow | None, Wire]:
        """Return the flow of the request (``None`` if it must not be signed), and its form on the wire.

        :param content: the body, if it is in memory.
        """
        if not isinstance(request, self._library.Request):
            ours, theirs = self._library.__name__, type(request).__module__.partition(".")[0]
            raise UsageError(
                f"this transport is for clients of {ours}, but the request comes from {theirs}:"
                f" import {type(self).__name__} from dpop.{theirs}"
            )
        credentials = request.extensions.get("dpop")
        if credentials is not None and not isinstance(credentials, RequestCredentials):
            raise UsageError('extensions={"dpop": …} takes dpop.RequestCredentials(prover, access_token)')
        url, fields = request.url, signing_fields(request)
        # The library connects to the host of the URL, whatever the Host header says.
        scheme = _HTTP_OF_WEBSOCKET.get(url.scheme, url.scheme)
        server, target = url.netloc.decode("ascii"), url.raw_path.decode("ascii")
        outgoing = OutgoingRequest(
            request.method.upper(),  # the library's constructor does that in the signed copy, too
            f"{scheme}://{server}{target}",
            origin=origin_of(scheme, server),
            authorization=fields.get(b"authorization"),
            content=content,
            content_type=fields.get(b"content-type"),
            repeatable=repeatable,
            credentials=credentials,
            priming=request.extensions.get("dpop_priming"),
        )
        return ProofFlow.open(self._policy, outgoing), (scheme, fields.get(b"host", ""), target)

    def _foreign(self, request: RequestT) -> RequestT:
        """Copy a request to a foreign origin without proof and bound token; the caller's request is not changed.

        One that another DPoP transport in front of this one has signed for that origin stays as it is.
        """
        signed_for = request.extensions.get(_SIGNED_FOR)
        if signed_for is not None and signed_for == _origin(request):
            return request
        names = headers_to_withhold(request.headers.get("authorization"))
        withheld = [name for name in names if name in request.headers]
        if withheld:
            request = self._signed(request, [])
            for name in withheld:
                del request.headers[name]
        return request

    def _signed(
        self,
        request: RequestT,
        headers: list[tuple[str, str]],
        content: bytes | None = None,
        dropped: DroppedCookies[RequestT, ResponseT] | None = None,
    ) -> RequestT:
        """Copy the request and add the proof: a redirect of the caller's own request must not repeat the proof."""
        method, url, extensions = request.method, request.url, request.extensions
        if content is None:
            signed = self._library.Request(
                method, url, headers=request.headers, stream=request.stream, extensions=extensions
            )
            if in_memory(request) is not None:
                signed.read()  # so that a transport of the user can use its content
        else:
            fields = [pair for pair in request.headers.raw if pair[0].lower() != b"content-length"]
            signed = self._library.Request(method, url, headers=fields, content=content, extensions=extensions)
        for name, value in headers:
            signed.headers[name] = value
        if dropped is not None:
            dropped.add_to(signed)
        return signed

    def _priming(
        self, url: str, method: str, prover: Key | Prover | None, role: Role | None, timeout: float | None
    ) -> RequestT:
        own = None if prover is None else RequestCredentials(prover)
        extensions = {
            "timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout),
            "dpop_priming": self._policy.priming_role(url, role, credentials=own),
            "dpop": own,
        }
        return self._library.Request(method, url, extensions=extensions)

    def _rebuilt(self, flow: ProofFlow, request: RequestT) -> bytes | None:
        """Rebuild the body with a new client assertion, if a retry needs that."""
        if not flow.needs_rebuild or self._policy.rebuild is None:
            return None
        return self._policy.rebuild(in_memory(request) or b"")


class SigningTransport(_Transport[RequestT, ResponseT, Transport[RequestT, ResponseT]]):
    """A transport that signs; a mixin for the library's ``BaseTransport``."""

    _peeked_stream: type[PeekedStream]

    @hide_frames
    def handle_request(self, request: RequestT) -> ResponseT:
        """Send one request to one server, with the retries that the flow decides on."""
        body = in_memory(request)
        rewind = rewind_of(request, body)
        flow, wire = self._open(request, body, repeatable=rewind is not None)
        inner = self._inner.get()
        if flow is None:
            return inner.handle_request(self._foreign(request))
        content: bytes | None = None
        dropped: DroppedCookies[RequestT, ResponseT] | None = None
        try:
            while True:
                token = ask_token(flow)
                wait_for_nonce(flow)
                signed = self._signed(request, sign_now(flow, *wire, token), content, dropped)
                self._sign_on_the_wire(flow, wire, signed, rewind)
                try:
                    response = inner.handle_request(signed)
                finally:
                    give_trace_back(signed, request)
                step = flow.received(response.status_code, fields_of(response))
                if step is Step.PEEK:
                    step = flow.judged(peek(response, self._peeked_stream))
                if step is Step.REPORT:
                    report(flow, response.close)
                if step in _LAST:
                    return response if dropped is None else dropped.hand_on(response)
                dropped = dropped or DroppedCookies(self._library.Cookies())
                dropped.take(response, signed)
                drain(response, signed)
                if step is Step.REFRESH:
                    refresh(flow)
                content = self._rebuilt(flow, request)
                if content is None:
                    _make_ready(rewind)
        except BaseException:
            flow.failed()
            raise

    def _sign_on_the_wire(self, flow: ProofFlow, wire: Wire, signed: RequestT, rewind: Rewind | None) -> None:
        """Sign again if the request waited long for a connection, or if the library itself sends it again.

        The library sends a stream again after an HTTP/2 server's GOAWAY. Its ``trace`` extension tells when headers
        are about to be written. The token stays the same, because a token source may need the connection that this
        request holds.
        """
        users = signed.extensions.get("trace")
        starts = itertools.count()

        def trace(event: str, info: Info) -> object:
            if event.endswith(HEADERS_START) and carries_proof(info):
                again = bool(next(starts))
                if again:
                    _make_ready(rewind)
                if again or flow.outdated():
                    replace_fields(info["request"].headers, sign_now(flow, *wire, flow.sent_token))
                if users is None:
                    stop_tracing(event, info)
            return users(event, info) if users is not None else None

        signed.extensions["trace"] = trace
        signed.extensions[_SIGNED_FOR] = flow.origin

    @hide_frames
    def prime(
        self,
        url: str,
        *,
        method: str = "HEAD",
        prover: Key | Prover | None = None,
        role: Role | None = None,
        timeout: float | None = 5.0,
    ) -> bool:
        """Fetch a server's nonce with a request that carries a proof and no token.

        Call it before sending a body that can be read only once. Returns whether a usable nonce came.

        :param method: the method of the request.
        :param prover: the prover whose nonce to fetch, if later requests bring their own prover.
        :param role: the server's role; ``Role.RS`` if the later requests set their own ``Authorization: DPoP``.
        :param timeout: seconds for each of connecting, writing and reading; a transport does not know its client's.
        :raises UsageError: the URL is not one of this transport's origins.
        """
        response = self.handle_request(self._priming(url, method, prover, role, timeout))
        response.close()
        return nonce_field(response.headers.get_list("dpop-nonce")).nonce is not None

    def close(self) -> None:
        """Close the inner transport."""
        inner = self._inner.own()
        if inner is not None:
            inner.close()

    def __enter__(self) -> Self:
        self._inner.get().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        inner = self._inner.own()
        if inner is not None:
            inner.__exit__(kind, error, trace)


class AsyncSigningTransport(_Transport[RequestT, ResponseT, AsyncTransport[RequestT, ResponseT]]):
    """An asynchronous transport that signs; a mixin for the library's ``AsyncBaseTransport``."""

    _peeked_stream: type[AsyncPeekedStream]

    @hide_frames
    async def handle_async_request(self, request: RequestT) -> ResponseT:
        """Send one request to one server, with the retries that the flow decides on."""
        body = in_memory(request)
        rewind = rewind_of(request, body)
        flow, wire = self._open(request, body, repeatable=rewind is not None)
        inner = self._inner.get()
        if flow is None:
            return await inner.handle_async_request(self._foreign(request))
        content: bytes | None = None
        dropped: DroppedCookies[RequestT, ResponseT] | None = None
        try:
            while True:
                signed = self._signed(request, await _async_headers(flow, wire), content, dropped)
                self._sign_on_the_wire(flow, wire, signed, rewind)
                try:
                    response = await inner.handle_async_request(signed)
                finally:
                    give_trace_back(signed, request)
                step = flow.received(response.status_code, fields_of(response))
                if step is Step.PEEK:
                    step = flow.judged(await async_peek(response, self._peeked_stream))
                if step is Step.REPORT:
                    await async_report(flow, response.aclose)
                if step in _LAST:
                    return response if dropped is None else dropped.hand_on(response)
                dropped = dropped or DroppedCookies(self._library.Cookies())
                dropped.take(response, signed)
                await async_drain(response, signed)
                if step is Step.REFRESH:
                    await async_refresh(flow)
                # The key that signs a new assertion may block.
                content = (
                    await anyio_tools.to_thread(lambda: self._rebuilt(flow, request)) if flow.needs_rebuild else None
                )
                if content is None:
                    await _async_make_ready(rewind)
        except BaseException:
            flow.failed()
            raise

    def _sign_on_the_wire(self, flow: ProofFlow, wire: Wire, signed: RequestT, rewind: Rewind | None) -> None:
        """Sign again if the request waited long for a connection, or if the library itself sends it again."""
        users = signed.extensions.get("trace")
        starts = itertools.count()

        async def trace(event: str, info: Info) -> None:
            if event.endswith(HEADERS_START) and carries_proof(info):
                again = bool(next(starts))
                if again:
                    await _async_make_ready(rewind)
                if again or flow.outdated():
                    headers = await async_sign(flow, *wire, flow.sent_token, tools=anyio_tools)
                    replace_fields(info["request"].headers, headers)
                if users is None:
                    stop_tracing(event, info)
            if users is not None:
                await users(event, info)

        signed.extensions["trace"] = trace
        signed.extensions[_SIGNED_FOR] = flow.origin

    @hide_frames
    async def prime(
        self,
        url: str,
        *,
        method: str = "HEAD",
        prover: Key | Prover | None = None,
        role: Role | None = None,
        timeout: float | None = 5.0,  # noqa: ASYNC109 - httpx's, for each of connecting, writing and reading
    ) -> bool:
        """Fetch a server's nonce with a request that carries a proof and no token.

        Call it before sending a body that can be read only once. Returns whether a usable nonce came.

        :param method: the method of the request.
        :param prover: the prover whose nonce to fetch, if later requests bring their own prover.
        :param role: the server's role; ``Role.RS`` if the later requests set their own ``Authorization: DPoP``.
        :param timeout: seconds for each of connecting, writing and reading; a transport does not know its client's.
        :raises UsageError: the URL is not one of this transport's origins.
        """
        response = await self.handle_async_request(self._priming(url, method, prover, role, timeout))
        await response.aclose()
        return nonce_field(response.headers.get_list("dpop-nonce")).nonce is not None

    async def aclose(self) -> None:
        """Close the inner transport."""
        inner = self._inner.own()
        if inner is not None:
            await inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.get().__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        inner = self._inner.own()
        if inner is not None:
            await inner.__aexit__(kind, error, trace)


async def _async_headers(flow: ProofFlow, wire: Wire) -> list[tuple[str, str]]:
    token = await async_ask_token(flow)
    await async_wait_for_nonce(flow, anyio_tools)
    return await async_sign(flow, *wire, token, tools=anyio_tools)


def _make_ready(rewind: Rewind | None) -> None:
    if rewind is not None:
        rewind()


async def _async_make_ready(rewind: Rewind | None) -> None:
    seeking = rewind() if rewind is not None else None
    if seeking is not None:
        await seeking
