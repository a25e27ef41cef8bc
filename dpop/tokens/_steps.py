# SPDX-License-Identifier: Apache-2.0
"""Messages between a client and an authorization server, independent of any HTTP library.

Each operation is a generator of *steps*. It yields an :class:`HTTPRequest`, and the :class:`HTTPResponse` is sent back
to it. It may also yield a :class:`Pause` or a :class:`Blocking` call. A failure is thrown into the generator; a request
without a response is a :class:`NoResponse`. So each operation is written once for synchronous and asynchronous clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, TypeVar

from dpop._tracebacks import drop_frames
from dpop.errors import DPoPError

__all__ = [
    "MAX_RESPONSE",
    "Blocking",
    "HTTPRequest",
    "HTTPResponse",
    "NoResponse",
    "Pause",
    "Steps",
    "from_server",
    "is_unsent",
    "mark_unsent",
    "run_steps",
]

MAX_RESPONSE: Final = 1 << 20
"""How many bytes of a body are read: 1 MiB."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, repr=False)
class HTTPRequest:
    """One request to an authorization server.

    :param signed: whether it carries a proof: requests for tokens do, and others if the server needs it.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    signed: bool

    def __repr__(self) -> str:
        return f"<HTTPRequest {self.method} {self.url.partition('?')[0]}>"


@dataclass(frozen=True, slots=True, repr=False)
class HTTPResponse:
    """A response of an authorization server.

    :param headers: names in lower case.
    :param body: its first mebibyte and perhaps one byte more, decoded from any content coding.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the value of the first field of a name in lower case; ``None`` if there is no such field."""
        return next((value for field, value in self.headers if field == name), None)

    def __repr__(self) -> str:
        return f"<HTTPResponse {self.status}, {len(self.body)} bytes>"


@dataclass(frozen=True, slots=True)
class Pause:
    """A step that waits for a number of seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Blocking:
    """A step that calls a function which may block, such as a store's; the result is sent back to the generator."""

    function: Callable[[], Any]


class NoResponse(Exception):  # noqa: N818 - thrown into steps, never out of them
    """A request got no response.

    :param sent: whether the head of any attempt was written to a connection, so that it may have reached the server.
        It stays True if an HTTP library tries again.
    :param reason: host and port, and the innermost reason, without URLs and secrets.
    """

    def __init__(self, reason: str, *, sent: bool) -> None:
        self.reason = reason
        self.sent = sent
        super().__init__(reason)


def mark_unsent(interrupt: BaseException) -> None:
    """Note on an interrupt, such as a cancellation, that it came before anything of the request was sent."""
    vars(interrupt)["_dpop_unsent"] = True


def is_unsent(interrupt: BaseException) -> bool:
    """Whether :func:`mark_unsent` was called for this interrupt."""
    return bool(vars(interrupt).get("_dpop_unsent"))


def from_server(response: HTTPResponse, proxy: str | None) -> HTTPResponse:
    """Return the response, unless a proxy made it and the server got nothing (RFC 9110 §15.5.8).

    :param proxy: its host and port, as far as known.
    :raises NoResponse: the proxy wants authentication.
    """
    if response.status == 407:
        raise NoResponse(f"the proxy {proxy or 'in between'} wants authentication", sent=False)
    return response


Steps: TypeAlias = Generator[HTTPRequest | Pause | Blocking, Any, _T]


def run_steps(steps: Steps[_T], exchange: Callable[[HTTPRequest], HTTPResponse]) -> _T:
    """Run steps in this thread.

    :param exchange: sends one request and reads its response; raises :class:`NoResponse` where none came.
    """
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, HTTPRequest):
                    outcome: Any = exchange(step)
                elif isinstance(step, Blocking):
                    outcome = step.function()
                else:
                    outcome = time.sleep(step.seconds)  # type: ignore[func-returns-value]
            except Exception as error:  # noqa: BLE001 - the steps decide
                step = steps.throw(error)
            except BaseException as interrupt:
                _interrupted(steps, step, interrupt)
                raise
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
        steps.close()  # an interrupt leaves them where they are


def _interrupted(steps: Steps[Any], step: HTTPRequest | Pause | Blocking, interrupt: BaseException) -> None:
    """Tell the steps of an interrupt before anything was sent: they take back what they have noted."""
    if not isinstance(step, HTTPRequest):
        mark_unsent(interrupt)
    if is_unsent(interrupt):
        steps.throw(interrupt)
