# SPDX-License-Identifier: Apache-2.0
"""Both HTTP libraries satisfy the Protocols of dpop._httpx; checked, never executed."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import httpx2

from dpop._httpx import protocols

request: type[protocols.Request] = httpx.Request
response: type[protocols.Response] = httpx.Response
headers: type[protocols.Headers] = httpx.Headers
url: type[protocols.URL] = httpx.URL
cookies: Callable[[], protocols.Cookies[httpx.Request, httpx.Response]] = httpx.Cookies
stream: type[protocols.ByteStream] = httpx.SyncByteStream
async_stream: type[protocols.AsyncByteStream] = httpx.AsyncByteStream
transport: type[protocols.Transport[httpx.Request, httpx.Response]] = httpx.BaseTransport
async_transport: type[protocols.AsyncTransport[httpx.Request, httpx.Response]] = httpx.AsyncBaseTransport
client: type[protocols.Client[httpx.Request, httpx.Response]] = httpx.Client
async_client: type[protocols.AsyncClient[httpx.Request, httpx.Response]] = httpx.AsyncClient
made: httpx.Request = httpx.Request("GET", "https://api.example", headers=[], content=b"", extensions={})
copied: httpx.Request = httpx.Request("GET", made.url, headers=made.headers, stream=made.stream, extensions={})

request2: type[protocols.Request] = httpx2.Request
response2: type[protocols.Response] = httpx2.Response
headers2: type[protocols.Headers] = httpx2.Headers
url2: type[protocols.URL] = httpx2.URL
cookies2: Callable[[], protocols.Cookies[httpx2.Request, httpx2.Response]] = httpx2.Cookies
stream2: type[protocols.ByteStream] = httpx2.SyncByteStream
async_stream2: type[protocols.AsyncByteStream] = httpx2.AsyncByteStream
transport2: type[protocols.Transport[httpx2.Request, httpx2.Response]] = httpx2.BaseTransport
async_transport2: type[protocols.AsyncTransport[httpx2.Request, httpx2.Response]] = httpx2.AsyncBaseTransport
client2: type[protocols.Client[httpx2.Request, httpx2.Response]] = httpx2.Client
async_client2: type[protocols.AsyncClient[httpx2.Request, httpx2.Response]] = httpx2.AsyncClient
made2: httpx2.Request = httpx2.Request("GET", "https://api.example", headers=[], content=b"", extensions={})
copied2: httpx2.Request = httpx2.Request("GET", made2.url, headers=made2.headers, stream=made2.stream, extensions={})

library: protocols.Library[httpx.Request, httpx.Response] = httpx
