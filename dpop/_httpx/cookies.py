# SPDX-License-Identifier: Apache-2.0
"""Keep the cookies of dropped responses; the caller never sees these responses, because their request is sent again.

Some load balancers use a cookie to send a client always to the same server. Without it, the retry could reach another
server.
"""

from __future__ import annotations

from typing import Generic

from dpop._httpx.protocols import Cookies, RequestT, ResponseT

__all__ = ["DroppedCookies"]


class DroppedCookies(Generic[RequestT, ResponseT]):
    """The cookies of dropped responses: added to the retry, and to the final response, for the client's cookie jar.

    :param jar: an empty ``Cookies`` object of the library.
    """

    def __init__(self, jar: Cookies[RequestT, ResponseT]) -> None:
        self._jar = jar
        self._fields: list[tuple[bytes, bytes]] = []

    def take(self, response: ResponseT, request: RequestT) -> None:
        """Keep the cookies of a response that is dropped."""
        fields = [(name, value) for name, value in response.headers.raw if name.lower() == b"set-cookie"]
        if fields:
            self._fields += fields
            response.request = request
            self._jar.extract_cookies(response)

    def add_to(self, request: RequestT) -> None:
        """Add the cookies to a request, in place of older ones of the same names."""
        if not self._fields:
            return
        before = request.headers.pop("cookie", "")
        self._jar.set_cookie_header(request)
        now = request.headers.get("cookie") or ""
        names = {pair.partition("=")[0].strip() for pair in now.split(";")}
        kept = [pair.strip() for pair in before.split(";") if pair.partition("=")[0].strip() not in names]
        cookies = "; ".join([*(pair for pair in kept if pair), *([now] if now else [])])
        if cookies:
            request.headers["cookie"] = cookies

    def hand_on(self, response: ResponseT) -> ResponseT:
        """Put these cookies into a response, before its own cookies, which are newer."""
        if self._fields:
            response.headers = type(response.headers)([*self._fields, *response.headers.raw])
        return response
