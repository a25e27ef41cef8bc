# SPDX-License-Identifier: Apache-2.0
"""Base classes of token endpoints: the settings, and running steps in threads and in tasks.

:mod:`dpop.tokens._endpoint` has the methods for users; :mod:`dpop.tokens._async_endpoint` is generated from it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from dpop._tracebacks import drop_frames
from dpop.errors import DPoPError, UsageError
from dpop.origin import Origin
from dpop.tokens._grants import Grants
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._steps import Blocking, HTTPRequest, HTTPResponse, Steps, run_steps
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.client._driver import AsyncTools
    from dpop.client._prover import Prover
    from dpop.keys import Key

__all__ = ["DEFAULT_TIMEOUT", "AsyncEndpointBase", "EndpointBase", "SyncEndpointBase", "token_and_hint"]

_T = TypeVar("_T")
DEFAULT_TIMEOUT: Final = 20.0
"""Seconds for a connection and between bytes."""


class EndpointBase:
    """The settings of a token endpoint, and the requests as messages."""

    def _set_up(
        self,
        prover: Key | Prover,
        server: str | ServerMetadata,
        *,
        timeout: float,
        learn_clock: bool,
        **options: Any,
    ) -> dict[str, Any]:
        """Store the settings of :class:`Grants`; return the settings for the adapter that signs."""
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise UsageError(f"timeout must be seconds above 0, got {timeout!r:.40}")
        self.timeout: float = float(timeout)
        self._grants = Grants(prover, server, **options)
        signed = self._grants.signed_endpoints
        return {
            "origins": sorted({str(Origin.of_url(url)) for url in signed}),
            "as_endpoints": signed,
            "profile": self._grants.profile._replace(algs=None),  # the prover has an algorithm from that list already
            "insecure_origins": options.get("insecure_origins", ()),
            "learn_clock": learn_clock,
            "rebuild": self._grants.rebuild if self._grants.client_auth.makes_assertions else None,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._grants.server.token_endpoint.partition('?')[0]}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a token endpoint cannot be pickled: its key must not travel; make one in each process")

    @property
    def grants(self) -> Grants:
        """The settings, and the requests as messages."""
        return self._grants

    @property
    def server(self) -> ServerMetadata:
        """The server's endpoints."""
        return self._grants.server

    @property
    def prover(self) -> Prover:
        """The prover that signs the requests."""
        return self._grants.prover


class SyncEndpointBase(EndpointBase, ABC):
    """Base of a synchronous endpoint: an integration implements :meth:`exchange`, and steps run with it."""

    @abstractmethod
    def __init__(self, prover: Key | Prover, server: str | ServerMetadata, **options: Any) -> None: ...

    @abstractmethod
    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its response.

        :raises NoResponse: there was no response.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections that this endpoint opened; a client that the user gave stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, steps: Steps[_T]) -> _T:
        """Run steps of :attr:`grants`."""
        return run_steps(steps, self.exchange)

    def detached(self) -> Callable[[Steps[_T]], _T]:
        """Return a function that runs steps in a separate thread, so that they outlive the caller."""
        return self.run


class AsyncEndpointBase(EndpointBase, ABC):
    """Base of an asynchronous endpoint: an integration implements :meth:`exchange`, and steps run with it."""

    tools: ClassVar[AsyncTools]
    """Sleep and worker threads for the event loops of the HTTP library."""

    has_given_client: bool = False
    """Whether the user gave the client, so that requests work on its event loop only."""

    @abstractmethod
    def __init__(self, prover: Key | Prover, server: str | ServerMetadata, **options: Any) -> None: ...

    @abstractmethod
    async def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its response.

        :raises NoResponse: there was no response.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections that this endpoint opened; a client that the user gave stays open."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def run(self, steps: Steps[_T]) -> _T:
        """Run steps of :attr:`grants`."""
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, HTTPRequest):
                        outcome: Any = await self.exchange(step)
                    elif isinstance(step, Blocking):
                        outcome = await self.tools.to_thread(step.function)
                    else:
                        outcome = None
                        await self.tools.sleep(step.seconds)
                except Exception as error:  # noqa: BLE001 - the steps decide
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            result: _T = done.value
            return result
        except DPoPError as error:
            # The frames below contain tokens, secrets and codes, and crash reporters send the variables of frames.
            drop_frames(error)
            raise error.with_traceback(None)  # noqa: B904 - it is the same error
        finally:
            steps.close()  # if the task is cancelled, the generator is still suspended

    def detached(self) -> Callable[[Steps[_T]], _T]:
        """Return a function that runs steps in a separate thread, so that they outlive the caller's task and loop.

        Requests use an event loop of that thread; only a client that the user gave needs the caller's event loop.
        """
        from dpop.tokens._async_source import sent_on_callers_loop, sent_on_own_loop  # noqa: PLC0415 - asyncio

        if self.has_given_client:
            return sent_on_callers_loop(self.exchange)
        return sent_on_own_loop(self.exchange, self.aclose)


def token_and_hint(tokens: TokenSet | str, hint: str | None) -> tuple[str, str | None]:
    """Return the token to revoke, of a set the refresh token if there is one, and its type (RFC 7009 §2.1)."""
    if isinstance(tokens, str):
        return tokens, hint
    if tokens.refresh_token is not None:
        return tokens.refresh_token, "refresh_token"
    return tokens.access_token, "access_token"
