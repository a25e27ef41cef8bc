# SPDX-License-Identifier: Apache-2.0
"""An authorization server that replaces the refresh token each time and revokes all when an old one is used again."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Self
from urllib.parse import parse_qs

from support.recorder import Received, Recorder, Response

__all__ = ["RotatingServer"]


class RotatingServer:
    """Refresh tokens are ``r0``, ``r1`` and so on, access tokens ``a1``, ``a2``.

    :param meddle: called with the number of each request, before it is looked at; what it returns is the response
        instead. It may do to the store, the lock or the clock what happens at the worst moment.
    """

    def __init__(self, meddle: Callable[[int], Response | None] = lambda _: None, *, expires_in: int = 3600) -> None:
        self.meddle = meddle
        self.expires_in = expires_in
        self.sent: list[str] = []
        """The refresh tokens of all requests, in order."""
        self.newest = 0
        self.reused: list[str] = []
        """Refresh tokens that were used again after they had been replaced: each ended the grant."""
        self._lock = threading.Lock()
        self._recorder = Recorder(self._response)

    @property
    def url(self) -> str:
        return self._recorder.url("/token")

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._recorder.__exit__(None, None, None)

    def _response(self, request: Received) -> Response:
        token = parse_qs(request.body.decode())["refresh_token"][0]
        with self._lock:
            number = len(self.sent)
            self.sent.append(token)
        return self.meddle(number) or self.rotate(token)

    def rotate(self, token: str) -> Response:
        """Issue new tokens for this refresh token, if it is the newest."""
        with self._lock:
            if token != f"r{self.newest}" or self.reused:
                self.reused.append(token)
                return Response(400, [], b'{"error":"invalid_grant"}')
            self.newest += 1
            number = self.newest
        body = {
            "access_token": f"a{number}",
            "token_type": "DPoP",
            "expires_in": self.expires_in,
            "refresh_token": f"r{number}",
        }
        return Response(200, [("Content-Type", "application/json")], json.dumps(body).encode())
