# SPDX-License-Identifier: Apache-2.0
"""Connections to the agent: one for each request that is under way, kept for the next one."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from dpop._files import path_from_home
from dpop._forking import reset_after_fork
from dpop._tracebacks import hide_frames
from dpop.agent._peer import peer_of
from dpop.agent._place import agent_socket, check_socket, check_system
from dpop.agent._protocol import MAX_RESPONSE, VERSION, Frames, Refusal, pack
from dpop.encoding import json_object
from dpop.errors import (
    AgentLockedError,
    AgentRefusedError,
    AgentUnavailableError,
    DPoPError,
    DPoPKeyError,
    EncodingError,
    KeyAccessDeniedError,
    KeyNotFoundError,
    KeyThrottledError,
    ReauthorizationError,
    TokenError,
    TokenRequestError,
    UsageError,
)

__all__ = ["AgentClient"]

_CONNECT_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.005
_RESPONSE_SECONDS: Final = 5.0
_MAX_IDLE: Final = 64
_CHUNK: Final = 64 * 1024
_MAX_SHOWN: Final = 500
_START: Final = "start it with: dpop agent start --key NAME=PATH --origin NAME=URL"


class AgentClient:
    """The agent, as a program sees it: sends requests and returns responses. Thread-safe.

    A forked process makes connections of its own. Nothing is connected before the first request.

    :param path: the agent's socket; by default that of ``DPOP_AGENT_SOCK``, or the user's.
    :param uid: the user of the agent, if that is neither this process's user nor root.
    :raises UsageError: this system has no Unix sockets, or the path is not absolute.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, uid: int | None = None) -> None:
        check_system()
        self._path = agent_socket() if path is None else path_from_home(path)
        if not self._path.is_absolute():
            raise UsageError("the path of the agent's socket must be absolute")
        self._trusted = frozenset({0, os.geteuid()} if uid is None else {0, os.geteuid(), uid})
        self._idle: list[socket.socket] = []
        reset_after_fork(self)

    @property
    def path(self) -> Path:
        """The agent's socket."""
        return self._path

    @hide_frames
    def request(self, op: str, /, *, seconds: float = _RESPONSE_SECONDS, **members: Any) -> dict[str, Any]:
        """Send a request and return the members of the response (docs/agent-protocol.md).

        It is sent again, once, if the agent closed a connection that stood idle, as it does when it is restarted.

        :param op: the operation, such as ``"status"``.
        :param seconds: how long to wait for the response.
        :param members: those of the operation.
        :raises AgentUnavailableError: no agent listens, or it does not respond.
        :raises AgentLockedError: it is locked.
        :raises AgentRefusedError: its rules do not allow this.
        :raises KeyAccessDeniedError: the socket cannot be trusted, or the agent does not serve this user.
        :raises DPoPKeyError: the key failed; by the kind that the agent told.
        :raises TokenError: there is no access token; by the kind that the agent told.
        """
        frame = pack({"op": op, **members})
        connection = self._taken()
        response = None if connection is None else self._ask(connection, frame, seconds, was_idle=True)
        if response is None:
            response = self._ask(self._connect(), frame, seconds, was_idle=False)
        return _checked(response or {})

    def close(self) -> None:
        """Close the connections that stand idle."""
        while (connection := self._taken()) is not None:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the constructor refused
            self.close()

    def __repr__(self) -> str:
        return f"<AgentClient {self._path}>"

    def _reset_after_fork(self) -> None:
        # Closing a child's copies leaves the parent's connections open.
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _taken(self) -> socket.socket | None:
        """Take an idle connection; None if there is none. One call, because threads share the list."""
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_CONNECT_SECONDS)
        try:
            check_socket(self._path, self._trusted)
            _connect(connection, self._path)
            owner = peer_of(connection).uid
            if owner not in self._trusted:
                raise KeyAccessDeniedError(
                    f"the agent at {self._path} runs as the user {owner}; it was not used. If it is yours to use, name"
                    f" it: agent:NAME?uid={owner}"
                )
        except DPoPError:
            connection.close()
            raise
        except OSError as error:
            connection.close()
            raise self._cannot_connect(error) from None
        return connection

    def _cannot_connect(self, error: OSError) -> DPoPKeyError:
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
            return AgentUnavailableError(f"no signing agent listens at {self._path}; {_START}")
        if isinstance(error, PermissionError):
            return KeyAccessDeniedError(
                f"this user may not connect to the agent at {self._path}; the agent's folder and socket belong to"
                " another user, or to a group that this user is not in"
            )
        if isinstance(error, (TimeoutError, BlockingIOError)):
            return AgentUnavailableError(
                f"the signing agent at {self._path} takes no connection within {_CONNECT_SECONDS:.0f} s: it hangs or"
                " is stopped; look at it, or start it anew"
            )
        return AgentUnavailableError(
            f"the signing agent at {self._path} cannot be reached ({error.strerror or type(error).__name__}); {_START}"
        )

    def _ask(self, connection: socket.socket, frame: bytes, seconds: float, *, was_idle: bool) -> dict[str, Any] | None:
        """Send and receive; None if an idle connection turns out to be closed, so that nothing was done."""
        came = False
        try:
            if connection.gettimeout() != seconds:  # a system call each time
                connection.settimeout(seconds)
            # An agent that does not serve this user, or has no room, may have said so and closed the connection.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.sendall(frame)
            frames, due = Frames(MAX_RESPONSE), time.monotonic() + seconds
            while (data := frames.next()) is None:
                if frames.within:
                    connection.settimeout(max(0.001, due - time.monotonic()))
                chunk = connection.recv(_CHUNK)
                if not chunk:
                    raise ConnectionResetError
                came = True
                frames.feed(chunk)
            response = json_object(data)
        except TimeoutError:
            connection.close()
            raise AgentUnavailableError(
                f"the signing agent at {self._path} did not respond within {seconds:.0f} s: it hangs, or its key waits"
                " for a device or a person; look at it, and try again"
            ) from None
        except OSError:
            connection.close()
            if was_idle and not came:
                return None
            raise AgentUnavailableError(
                f"the signing agent at {self._path} ended the connection; try again, and see whether it runs:"
                " dpop agent status"
            ) from None
        except (EncodingError, Refusal) as error:
            connection.close()
            raise AgentUnavailableError(
                f"what listens at {self._path} does not speak the agent's protocol: {error}"
            ) from None
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        else:
            connection.close()
        return response


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect within a second. Where the agent's queue is full, Linux refuses at once instead of waiting."""
    due = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            connection.connect(str(path))
        except BlockingIOError:
            if time.monotonic() > due:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return


# --- errors that the agent tells

_E = TypeVar("_E", bound=DPoPError)

_KINDS: Final[dict[str, type[DPoPKeyError]]] = {"unknown_key": KeyNotFoundError, "denied": KeyAccessDeniedError}


def _kinds(parent: type[_E]) -> Iterator[type[_E]]:
    yield parent
    for kind in parent.__subclasses__():
        yield from _kinds(kind)


def _token_error(text: str, code: object, retry_after: object) -> TokenError:
    for kind in _kinds(TokenRequestError):
        if kind.code == code:
            return kind(text, retry_after=float(str(retry_after)) if type(retry_after) in {int, float} else None)
    return next((kind for kind in _kinds(TokenError) if kind.code == code), TokenError)(text)


def _checked(response: dict[str, Any]) -> dict[str, Any]:
    """Return the response, unless it is an error."""
    error = response.get("error")
    if response.get("v") != VERSION or not isinstance(error, str | None):
        raise AgentUnavailableError(
            f"the agent speaks another version of its protocol than {VERSION}; use the same version of dpop-toolkit"
            " on both sides"
        )
    if error is None:
        return response
    text, reason = _told(response.get("message")), response.get("reason")
    if error == "locked":
        raise AgentLockedError(f"the signing agent is locked: {text}")
    if error == "refused":
        raise AgentRefusedError(
            f"the signing agent refused: {text}", _told(reason) if isinstance(reason, str) else None
        )
    if error in {"throttled", "busy"}:
        raise KeyThrottledError(f"the signing agent: {text}")
    if error == "key_failed":
        kind = next((kind for kind in _kinds(DPoPKeyError) if kind.code == reason), DPoPKeyError)
        raise kind(f"the signing agent's key failed: {text}")
    if error == "token_failed":
        raise _token_error(f"the signing agent has no token: {text}", reason, response.get("retry_after"))
    if error == "unknown_account":
        raise ReauthorizationError(f"the signing agent: {text}")
    if error in {"bad_request", "unsupported_version"}:
        raise UsageError(f"the signing agent does not understand: {text}")
    raise _KINDS.get(_told(error), DPoPKeyError)(f"the signing agent: {text}")


def _told(text: object) -> str:
    """Make a text safe for a message."""
    from dpop.redaction import redact  # noqa: PLC0415 - it loads logging, and only errors need it

    words = "".join(c if c.isprintable() else " " for c in str(text))
    return redact(" ".join(words.split())[:_MAX_SHOWN])
