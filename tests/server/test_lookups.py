# SPDX-License-Identifier: Apache-2.0
"""How other servers are asked: over TLS, on which hosts, how long, in threads and in tasks of either event loop."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.authority import make_authority
from support.jwt_issuer import AUDIENCE, JWTIssuer
from support.recorder import Received, Recorder, Response, script

from dpop.errors import InsecureOriginError, LookupUnavailableError
from dpop.server import JWTAccessTokens, LookupRequest
from dpop.server._lookups import Lookup, check_url, default_fetch, run


def request(url: str, configured: str | None = None, **changes: object) -> LookupRequest:
    """A GET with little time."""
    return LookupRequest("GET", url, (), b"", 2.0, 1000, configured or url)._replace(**changes)  # type: ignore[arg-type]


def served(request: Received) -> Response:
    """What every server here says."""
    return Response(200, [("Content-Type", "application/json")], request.target.encode())


def test_over_tls(tmp_path: Path) -> None:
    """With the certificates of the system, or given ones; the name in the certificate counts."""
    authority = make_authority(tmp_path)
    with Recorder(served, tls=authority.server_context()) as server:
        trusting = default_fetch(authority.client_context())
        for host in ("localhost", "127.0.0.1"):
            found = trusting(request(f"https://{host}:{server.port}/jwks?a=b#c"))
            assert (found.status, found.body) == (200, b"/jwks?a=b")
        for fetch, host in ((default_fetch(), "localhost"), (trusting, "0.0.0.0")):
            with pytest.raises(LookupUnavailableError, match="SSLCertVerificationError"):
                fetch(request(f"https://{host}:{server.port}/"))


@pytest.mark.parametrize("host", ["0.0.0.0", "[::ffff:127.0.0.1]"])
def test_a_host_that_turns_out_to_be_this_machine(host: str) -> None:
    """Whatever its name: a server elsewhere cannot make this one ask its own services."""
    with Recorder(served) as server:
        with pytest.raises(LookupUnavailableError, match="this machine"):
            default_fetch()(request(f"https://{host}:{server.port}/", configured="https://as.example"))
        assert server.requests == []


@pytest.mark.parametrize(
    "location",
    ["http://as.example/", "https://localhost/", "https://127.1.2.3/", "https://x.localhost/", "ftp://as.example/"],
)
def test_where_a_server_may_lead(location: str) -> None:
    """To https on other machines only."""
    with pytest.raises((InsecureOriginError, ValueError)):
        check_url(location, "https://as.example")
    check_url("https://keys.example/", "https://as.example")
    check_url("http://127.0.0.1:1/", "http://localhost:2")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_three_times(status: int) -> None:
    """Of a GET; each is checked like the first, and a POST is not sent again."""

    def leads(received: Received) -> Response:
        number = int(received.target[1:] or 0)
        return served(received) if number == 3 else Response(status, [("Location", f"/{number + 1}")])

    with Recorder(leads) as server:
        assert default_fetch()(request(server.url("/0"))).body == b"/3"
        assert default_fetch()(request(server.url("/0"), method="POST")).status == status
        server.handler = lambda _: Response(302, [("Location", "/0")])
        with pytest.raises(LookupUnavailableError, match="3 redirects"):
            default_fetch()(request(server.url("/0")))


class Hinting(Recorder):
    """A server that sends early hints before each response."""

    def _response(self, connection: socket.socket, request: Received, response: Response) -> None:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")
        super()._response(connection, request, response)


def test_informational_responses_are_not_the_final_one() -> None:
    """What comes behind them is the response (RFC 9110 §15.2)."""
    with Hinting(served) as server:
        response = default_fetch()(request(server.url("/keys")))
    assert (response.status, response.body) == (200, b"/keys")


def test_one_deadline_for_a_whole_response() -> None:
    """A server that sends one byte after the other holds a thread no longer than one that sends none."""

    def slowly() -> Iterator[bytes]:
        for _ in range(3000):
            yield b" "
            time.sleep(0.02)

    with Recorder(lambda _: Response(200, [], slowly())) as server:
        began = time.monotonic()
        with pytest.raises(LookupUnavailableError, match="in time"):
            default_fetch()(request(server.url(), timeout=0.3))
        assert time.monotonic() - began < 20


def test_on_trio() -> None:
    """Its tasks wait in a thread, which is left when the task is cancelled."""
    asked, release = threading.Event(), threading.Event()
    with JWTIssuer() as issuer:
        tokens = JWTAccessTokens(issuer=issuer.url, audience=AUDIENCE, timeout=60)
        token = issuer.token()

        def hold(_request: Received) -> None:
            asked.set()
            release.wait(60)

        issuer.down = hold

        async def look_up() -> str:
            async with trio.open_nursery() as tasks:
                tasks.start_soon(tokens.acall, token)
                while not asked.is_set():  # noqa: ASYNC110 - a thread sets it
                    await trio.sleep(0.01)
                tasks.cancel_scope.cancel()
            release.set()
            return str((await tokens.acall(token))["sub"])

        assert trio.run(look_up) == "alice"
        assert issuer.fetches == 1


def test_a_cancelled_task_leaves_no_error_behind(caplog: pytest.LogCaptureFixture) -> None:
    """Clients that hang up while the issuer is down must not fill the log with tracebacks."""
    release = threading.Event()

    def fail() -> None:
        release.wait(60)
        raise LookupUnavailableError("the issuer is down")

    lookup = Lookup(fail, 60)

    async def hang_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(lookup.wait_async(), 0.01)
        release.set()
        with pytest.raises(LookupUnavailableError):
            await lookup.wait_async()
        gc.collect()  # asyncio logs errors that nobody retrieved when they are collected

    asyncio.run(hang_up())
    assert caplog.records == []


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_work_that_is_interrupted(raised: type[BaseException]) -> None:
    """Those who wait for it are not: SystemExit would end the worker, and a cancellation the task."""

    def work() -> None:
        raise raised

    lookup = Lookup(work, 60)
    with pytest.raises(LookupUnavailableError, match=raised.__name__):
        lookup.wait()
    with pytest.raises(LookupUnavailableError, match=raised.__name__):
        asyncio.run(lookup.wait_async())


_FIRST_LOOKUP = """
import asyncio, sys
from dpop.server import Introspection, JWTAccessTokens
kind, url, audience, token = sys.argv[1:]
if kind == "keys":
    tokens = JWTAccessTokens(issuer=url, audience=audience)
else:
    tokens = Introspection(url, client_id="api", client_secret="secret", audience=audience)
before = set(sys.modules)
assert tokens(token)["sub"] == "alice"
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("kind", ["keys", "introspection"])
def test_a_look_up_imports_nothing(kind: str) -> None:
    """A process that is forked while a thread imports would wait for that import for ever."""
    active = json.dumps({"active": True, "sub": "alice", "aud": AUDIENCE}).encode()
    with (
        JWTIssuer() as issuer,
        Recorder(script(Response(200, [("Content-Type", "application/json")], active))) as server,
    ):
        url = issuer.url if kind == "keys" else server.url("/introspect")
        arguments = (sys.executable, "-c", _FIRST_LOOKUP, kind, url, AUDIENCE, issuer.token())
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


def test_nobody_waits_for_ever() -> None:
    """Not even for work that does not end."""
    release = threading.Event()
    lookup: Lookup[bool] = Lookup(release.wait, 0.05)

    def steps() -> Iterator[Lookup[bool]]:
        yield lookup

    with pytest.raises(LookupUnavailableError, match="in time"):
        run(steps())  # type: ignore[arg-type]
    for wait in (asyncio.run, lambda waiting: trio.run(lambda: waiting)):
        with pytest.raises(LookupUnavailableError, match="in time"):
            wait(Lookup(release.wait, 0.05).wait_async())
    release.set()
