# SPDX-License-Identifier: Apache-2.0
"""Token endpoints as users hold them, for tasks: the same as :mod:`dpop.tokens._endpoint`, awaited.

Nothing here is imported before an asynchronous endpoint is wanted.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dpop._tracebacks import drop_frames
from dpop.errors import DPoPError, UsageError
from dpop.tokens._async_source import AsyncRefreshingSource
from dpop.tokens._endpoint import Endpoint, token_and_hint
from dpop.tokens._grants import Parameter, discovery
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._steps import Blocking, HTTPRequest, HTTPResponse, Steps
from dpop.tokens._stores import DEFAULT_ACCOUNT, LOCK_SECONDS, TokenStore
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.keys import Key
    from dpop.tokens._authorization import AuthorizationRequest, DeviceAuthorization

__all__ = ["AsyncEndpoint"]

_T = TypeVar("_T")


class AsyncEndpoint(Endpoint, ABC):
    """A token endpoint for tasks; ``AsyncTokenEndpoint`` in the doors."""

    @abstractmethod
    def __init__(self, prover: Key | Prover, server: str | ServerMetadata, **options: Any) -> None: ...

    @abstractmethod
    async def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its answer.

        :raises NoResponse: none came.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections made here; a client that was given stays open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def run(self, steps: Steps[_T]) -> _T:
        """Carry out steps of :attr:`grants`."""
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, HTTPRequest):
                        outcome: Any = await self.exchange(step)
                    elif isinstance(step, Blocking):
                        outcome = await asyncio.to_thread(step.function)
                    else:
                        outcome = await asyncio.sleep(step.seconds, None)
                except Exception as error:  # noqa: BLE001 - the steps decide
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            result: _T = done.value
            return result
        except DPoPError as error:
            # The frames below hold tokens, secrets and codes, and crash reporters send what is in frames.
            drop_frames(error)
            raise error.with_traceback(None)  # noqa: B904 - it is the same error
        finally:
            steps.close()  # a task that is cancelled leaves them where they are

    @classmethod
    async def discover(cls, prover: Key | Prover, issuer: str, **options: Any) -> Self:
        """An endpoint whose addresses come from the issuer's ``/.well-known`` metadata (RFC 8414).

        :param options: as for the constructor.
        :raises TokenRequestError: there is no metadata, or it is another issuer's.
        """
        async with cls(prover, issuer, **options) as asking:
            metadata = await asking.run(discovery(issuer, options.get("insecure_origins", ())))
        return cls(prover, metadata, **options)

    async def grant(self, grant_type: str, **parameters: Parameter) -> TokenSet:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.grant`."""
        return await self.run(self._grants.grant(grant_type, parameters))

    async def redeem_code(
        self,
        code: str,
        *,
        redirect_uri: str | None = None,
        code_verifier: str | None = None,
        **parameters: Parameter,
    ) -> TokenSet:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.redeem_code`."""
        return await self.run(self._grants.redeem_code(code, redirect_uri, code_verifier, parameters))

    async def refresh(self, tokens: TokenSet | str, *, rebind: bool = False, **parameters: Parameter) -> TokenSet:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.refresh`."""
        return await self.run(self._grants.refresh(tokens, parameters, rebind=rebind))

    async def start_authorization(
        self,
        redirect_uri: str,
        *,
        scope: str | None = None,
        push: bool | None = None,
        dpop_jkt: bool | None = None,
        **parameters: Parameter,
    ) -> AuthorizationRequest:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.start_authorization`."""
        return await self.run(
            self._grants.start_authorization(redirect_uri, scope, parameters, push=push, dpop_jkt=dpop_jkt)
        )

    async def finish_authorization(
        self, request: AuthorizationRequest, callback: str, **parameters: Parameter
    ) -> TokenSet:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.finish_authorization`."""
        return await self.run(self._grants.finish_authorization(request, callback, parameters))

    async def start_device(self, *, scope: str | None = None, **parameters: Parameter) -> DeviceAuthorization:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.start_device`."""
        return await self.run(self._grants.start_device(scope, parameters))

    async def poll_device(self, device: DeviceAuthorization) -> TokenSet:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.poll_device`."""
        return await self.run(self._grants.poll_device(device))

    async def revoke(self, tokens: TokenSet | str, *, token_type_hint: str | None = None) -> None:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.revoke`."""
        await self.run(self._grants.revoke(*token_and_hint(tokens, token_type_hint)))

    def source(
        self,
        store: TokenStore,
        *,
        account: str = DEFAULT_ACCOUNT,
        ahead: float | None = None,
        lock_seconds: float = LOCK_SECONDS,
        grant: str | None = None,
        **parameters: Parameter,
    ) -> AsyncRefreshingSource:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.source`; what comes back is awaited."""
        if parameters and grant is None:
            raise UsageError(f"{', '.join(sorted(parameters))}: only a grant= has parameters")
        return AsyncRefreshingSource(
            self.run,
            self._grants,
            store,
            account,
            ahead=ahead,
            lock_seconds=lock_seconds,
            grant=None if grant is None else (grant, parameters),
        )

    async def introspect(self, token: str, *, token_type_hint: str | None = None) -> Mapping[str, Any]:
        """See :meth:`dpop.tokens._endpoint.SyncEndpoint.introspect`."""
        return await self.run(self._grants.introspect(token, token_type_hint))
