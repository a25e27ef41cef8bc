# SPDX-License-Identifier: Apache-2.0
"""An introspection endpoint (RFC 7662) that says what a test tells it, or does something else instead."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

from support.recorder import Received, Recorder, Response

__all__ = ["IntrospectionEndpoint"]


class IntrospectionEndpoint(Recorder):
    """Its path is ``/introspect``; ``says`` is its response to each token, ``down`` what it does instead."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {"active": True, "sub": "alice", "exp": int(time.time()) + 600}
        self.down: Callable[[Received], Response | None] = lambda _request: None
        super().__init__(self._respond)

    def _respond(self, request: Received) -> Response:
        instead = self.down(request)
        if instead is not None:
            return instead
        return Response(200, [("Content-Type", "application/json")], json.dumps(self.says).encode())

    @property
    def asked(self) -> list[str]:
        """The tokens that were asked about."""
        return [parse_qs(request.body.decode())["token"][0] for request in self.requests]
