# SPDX-License-Identifier: Apache-2.0
"""The parts of httpx and httpx2 that the shared code uses, as Protocols that both libraries satisfy.

Type checkers compare them with both libraries in tests/typing/http_libraries.py. If a library declares a class of its
own for a setter or parameter, such as its URL, the Protocol declares ``Any``. The values always come from the same
library, and an exact declaration would need a type variable for each such class.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = [
    "URL",
    "AsyncByteStream",
    "AsyncClient",
    "AsyncTransport",
    "ByteStream",
    "Client",
    "Cookies",
    "Headers",
    "Info",
    "Library",
    "Maker",
    "Request",
    "RequestT",
    "Response",
    "ResponseT",
    "Transport",
]

Info: TypeAlias = Mapping[str, Any]
"""The facts that come with an event of the ``trace`` extension: objects of httpcore, different for each event."""

_T_co = TypeVar("_T_co", covariant=True)


class Headers(Protocol):
    """Header fields."""

    def __init__(self, headers: list[tuple[bytes, bytes]], /) -> None: ...
    @property
    def raw(self) -> list[tuple[bytes, bytes]]: ...
    def get(self, key: str, /) -> str | None: ...
    def get_list(self, key: str, /) -> list[str]: ...
    def multi_items(self) -> list[tuple[str, str]]: ...
    def pop(self, key: str, default: str, /) -> str: ...
    def __contains__(self, key: str, /) -> bool: ...
    def __setitem__(self, key: str, value: str, /) -> None: ...
    def __delitem__(self, key: str, /) -> None: ...


class URL(Protocol):
    """A URL."""

    def __init__(self, url: str, /) -> None: ...
    @property
    def scheme(self) -> str: ...
    @property
    def host(self) -> str: ...
    @property
    def netloc(self) -> bytes: ...
    @property
    def raw_path(self) -> bytes: ...


class ByteStream(Protocol):
    """A body that is read by iteration."""

    def __iter__(self) -> Iterator[bytes]: ...
    def close(self) -> None: ...


class AsyncByteStream(Protocol):
    """A body that is read by asynchronous iteration."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...
    async def aclose(self) -> None: ...


class Request(Protocol):
    """A request."""

    def __init__(
        self,
        method: str,
        url: Any,
        *,
        headers: Any = None,
        content: bytes | None = None,
        stream: Any = None,
        extensions: MutableMapping[str, Any] | None = None,
    ) -> None: ...
    @property
    def method(self) -> str: ...
    @property
    def url(self) -> URL: ...
    @url.setter
    def url(self, url: Any, /) -> None: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def stream(self) -> object: ...
    @property
    def content(self) -> bytes: ...
    @property
    def extensions(self) -> MutableMapping[str, Any]: ...
    @extensions.setter
    def extensions(self, extensions: dict[str, Any], /) -> None: ...
    def read(self) -> bytes: ...


class Response(Protocol):
    """A response, synchronous or asynchronous: the libraries have one class for both."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Headers: ...
    @headers.setter
    def headers(self, headers: Any, /) -> None: ...
    @property
    def request(self) -> Request: ...
    @request.setter
    def request(self, request: Any, /) -> None: ...
    @property
    def stream(self) -> object: ...
    @stream.setter
    def stream(self, stream: Any, /) -> None: ...
    @property
    def extensions(self) -> MutableMapping[str, Any]: ...
    @property
    def is_stream_consumed(self) -> bool: ...
    @property
    def content(self) -> bytes: ...
    def iter_raw(self) -> Iterator[bytes]: ...
    def aiter_raw(self) -> AsyncIterator[bytes]: ...
    def close(self) -> None: ...
    async def aclose(self) -> None: ...


RequestT = TypeVar("RequestT", bound=Request)
ResponseT = TypeVar("ResponseT", bound=Response)
_RequestT_contra = TypeVar("_RequestT_contra", bound=Request, contravariant=True)
_ResponseT_co = TypeVar("_ResponseT_co", bound=Response, covariant=True)
_ResponseT_contra = TypeVar("_ResponseT_contra", bound=Response, contravariant=True)


class Cookies(Protocol[_RequestT_contra, _ResponseT_contra]):
    """A cookie jar."""

    def extract_cookies(self, response: _ResponseT_contra, /) -> None: ...
    def set_cookie_header(self, request: _RequestT_contra, /) -> None: ...


class Transport(Protocol[_RequestT_contra, _ResponseT_co]):
    """A transport: sends one request over one connection."""

    def handle_request(self, request: _RequestT_contra, /) -> _ResponseT_co: ...
    def close(self) -> None: ...
    def __enter__(self) -> object: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class AsyncTransport(Protocol[_RequestT_contra, _ResponseT_co]):
    """An asynchronous transport."""

    async def handle_async_request(self, request: _RequestT_contra, /) -> _ResponseT_co: ...
    async def aclose(self) -> None: ...
    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class _AnyClient(Protocol[RequestT, _ResponseT_contra]):
    """The members that the synchronous and the asynchronous client share."""

    @property
    def cookies(self) -> Cookies[RequestT, _ResponseT_contra]: ...
    def build_request(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None,
        headers: list[tuple[str, str]],
        timeout: float,
        extensions: dict[str, Any],
    ) -> RequestT: ...


class Client(_AnyClient[RequestT, ResponseT], Protocol[RequestT, ResponseT]):
    """A client, with the only private method that this package uses."""

    def _transport_for_url(self, url: Any, /) -> Transport[RequestT, ResponseT]: ...
    def close(self) -> None: ...


class AsyncClient(_AnyClient[RequestT, ResponseT], Protocol[RequestT, ResponseT]):
    """An asynchronous client, with the private members that this package uses."""

    _transport: Any
    _mounts: Any

    def _transport_for_url(self, url: Any, /) -> AsyncTransport[RequestT, ResponseT]: ...
    async def aclose(self) -> None: ...


class Library(Protocol[RequestT, ResponseT]):
    """The module ``httpx`` or ``httpx2``."""

    __name__: str

    @property
    def Request(self) -> type[RequestT]: ...  # noqa: N802 - the library's name, as all below
    @property
    def Cookies(self) -> Callable[[], Cookies[RequestT, ResponseT]]: ...  # noqa: N802
    @property
    def Client(self) -> type[Client[RequestT, ResponseT]]: ...  # noqa: N802
    @property
    def AsyncClient(self) -> type[AsyncClient[RequestT, ResponseT]]: ...  # noqa: N802
    @property
    def TransportError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def DecodingError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def ConnectError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def ConnectTimeout(self) -> type[Exception]: ...  # noqa: N802
    @property
    def PoolTimeout(self) -> type[Exception]: ...  # noqa: N802
    @property
    def ProxyError(self) -> type[Exception]: ...  # noqa: N802
    @property
    def UnsupportedProtocol(self) -> type[Exception]: ...  # noqa: N802
    @property
    def ReadTimeout(self) -> type[Exception]: ...  # noqa: N802


class Maker(Protocol[_T_co]):
    """A ``functools.partial`` whose type depends on the type of its result, unlike the standard library's."""

    @property
    def func(self) -> Callable[..., _T_co]: ...
    @property
    def keywords(self) -> dict[str, Any]: ...
    def __call__(self) -> _T_co: ...
