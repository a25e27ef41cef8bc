# SPDX-License-Identifier: Apache-2.0
"""A server, a store and token sources over both, for tests of sources."""

from __future__ import annotations

import inspect
from typing import Any

from support.endpoints import Endpoint

import dpop
from dpop.errors import TokenStoreError
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet, TokenStore

KEY = dpop.generate_key()


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Sources:
    """A server, a store with tokens of it, and sources over both."""

    def __init__(self, name: str, server: DPoPTestServer, store: TokenStore) -> None:
        self.name, self.server, self.store, self.clock = name, server, store, Clock()
        self.store.save(self.old)
        self._endpoints: list[Endpoint] = []

    @property
    def old(self) -> TokenSet:
        """Tokens that have expired, with a good refresh token."""
        return TokenSet(
            access_token="old",
            issued_at=self.clock.now - 3600,
            expires_at=self.clock.now,
            refresh_token=self.server.issue_refresh_token(jkt=KEY.thumbprint),
            jkt=KEY.thumbprint,
        )

    def endpoint(self, **options: Any) -> Endpoint:
        """Another endpoint, as another process has it."""
        known = {"client_id": self.server.client_id, "client_secret": self.server.client_secret, "clock": self.clock}
        server = options.pop("server", self.server.token_endpoint)
        made = Endpoint(self.name, options.pop("key", KEY), server, **{**known, "timeout": 5, **options})
        self._endpoints.append(made)
        return made

    def source(self, store: Any = None, *, source: dict[str, Any] | None = None, **options: Any) -> Any:
        """A source, and a function that asks it."""
        endpoint = self.endpoint(**options)
        made = endpoint.it.source(store or self.store, **(source or {}))
        made.ask = lambda: endpoint.wait(asked) if inspect.isawaitable(asked := made()) else asked
        return made

    @property
    def refreshes(self) -> list[int]:
        """The status of each refresh; nonce challenges are not counted."""
        statuses = [entry.status for entry in self.server.requests if entry.path == "/token"]
        challenged = sum(refusal.error == "use_dpop_nonce" for refusal in self.server.refusals)
        return statuses[challenged:] if challenged else statuses

    def close(self) -> None:
        for endpoint in self._endpoints:
            endpoint.close()


class Fragile(FileTokenStore):
    """A store whose n-th write fails."""

    fail_at = 0
    writes = 0

    def _write(self, tokens: TokenSet, account: str) -> None:
        self.writes += 1
        if self.writes == self.fail_at:
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)
