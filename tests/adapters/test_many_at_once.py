# SPDX-License-Identifier: Apache-2.0
"""Threads, tasks, users, event loops and forks, on every client, judged by what a server recorded."""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from support.clients import ASYNCHRONOUS, CLIENTS, SYNCHRONOUS, make
from support.recorder import Handler, Received, Recorder, Response, challenge

import dpop
import dpop.requests
from dpop.client._prover import Prover
from dpop.errors import UsageError

TOKEN = "access-token-1"


class SingleUse:
    """Takes each nonce once and gives one with every answer."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.valid: set[str] = set()
        self.count = itertools.count()

    def __call__(self, request: Received) -> Response:
        with self.lock:
            fresh = f"n{next(self.count)}"
            good = request.nonce in self.valid
            self.valid.discard(request.nonce or "")
            self.valid.add(fresh)
        return Response(200, [("DPoP-Nonce", fresh)]) if good else challenge(fresh)


def windowed() -> Handler:
    """Takes one nonce from everybody."""
    return lambda request: Response(200) if request.nonce == "n1" else challenge("n1")


@pytest.mark.parametrize("name", SYNCHRONOUS)
@pytest.mark.parametrize("server_kind", [windowed, SingleUse])
def test_64_threads_meet_one_challenge(name: str, server_kind: Callable[[], Handler]) -> None:
    """All succeed, each request with its own proof, on servers of both kinds."""
    with Recorder(server_kind()) as server, make(name, origins=server.origin, access_token=TOKEN) as client:
        barrier = threading.Barrier(64)

        def work(_number: int) -> list[int]:
            barrier.wait()
            return [client.send("GET", server.url("/r")).status for _ in range(3)]

        with ThreadPoolExecutor(64) as pool:
            statuses = [status for result in pool.map(work, range(64)) for status in result]
        assert statuses == [200] * 192
        identifiers = [request.claims["jti"] for request in server.requests]
        assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
@pytest.mark.parametrize("server_kind", [windowed, SingleUse])
def test_500_tasks_meet_one_challenge(name: str, server_kind: Callable[[], Handler]) -> None:
    """All succeed, each request with its own proof, on servers of both kinds."""
    # The pool of httpx 0.28 takes time with the square of its tasks: one storm of 500 will do there, and no
    # timeout may decide how long it takes.
    tasks = 150 if name == "httpx-async" and server_kind is SingleUse else 500
    with Recorder(server_kind()) as server, make(name, origins=server.origin, access_token=TOKEN) as client:

        async def storm() -> list[int]:
            replies = await asyncio.gather(*(client.asend("GET", server.url(f"/r{n}")) for n in range(tasks)))
            return [reply.status for reply in replies]

        assert client.runner.run(storm()) == [200] * tasks
        identifiers = [request.claims["jti"] for request in server.requests]
        assert len(set(identifiers)) == len(identifiers)
        assert len(server.requests) <= 2 * tasks


class FewUses:
    """Takes each nonce three times, and gives a new one when one is used up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = itertools.count()
        self.left: dict[str | None, int] = {}
        self.newest = ""

    def __call__(self, request: Received) -> Response:
        with self.lock:
            left = self.left.get(request.nonce, 0)
            if left:
                self.left[request.nonce] = left - 1
            if not self.left.get(self.newest):
                self.newest = f"n{next(self.count)}"
                self.left[self.newest] = 3
            fresh = self.newest
        return Response(200, [("DPoP-Nonce", fresh)]) if left else challenge(fresh)


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_six_threads_at_a_server_whose_nonces_are_good_for_three_uses(name: str) -> None:
    """Others may use up the nonce of a retry. That is found out, and then requests go one at a time: none is lost.

    Of those that are on their way at that moment, each may be.
    """
    with Recorder(FewUses()) as server, make(name, origins=server.origin, access_token=TOKEN) as client:
        barrier = threading.Barrier(6)

        def work(_number: int) -> list[int]:
            barrier.wait()
            return [client.send("GET", server.url("/r")).status for _ in range(50)]

        with ThreadPoolExecutor(6) as pool:
            statuses = [status for result in pool.map(work, range(6)) for status in result]
        assert statuses.count(200) >= 295
        assert len(server.requests) <= 330


class NewestOnly:
    """Takes only the newest nonce it gave, gives a new one with each response, and redirects a quarter of the requests.

    Another quarter gets a body in two pieces, the second of which comes when others have been served.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.newest = ""
        self.count = itertools.count()
        self.refused = 0

    def __call__(self, request: Received) -> Response:
        with self.lock:
            fresh = f"n{next(self.count)}"
            good = request.nonce == self.newest
            self.newest = fresh
            self.refused += not good
        if not good:
            return challenge(fresh)
        if request.target.startswith("/redirect"):
            return Response(307, [("DPoP-Nonce", fresh), ("Location", "/r")])
        return Response(200, [("DPoP-Nonce", fresh)], slow_body() if request.target.startswith("/slow") else b"done")


def slow_body() -> Iterator[bytes]:
    """Two pieces with a pause between them."""
    yield b"begun"
    time.sleep(0.05)
    yield b"done"


PATHS = ["/r", "/redirect", "/slow", "/r?q=1"]


def by_threads(client: Any, server: Recorder, threads: int, each: int) -> list[int]:
    """Statuses of so many requests by so many threads."""
    barrier = threading.Barrier(threads)

    def work(_number: int) -> list[int]:
        barrier.wait()
        return [client.send("GET", server.url(PATHS[n % len(PATHS)])).status for n in range(each)]

    with ThreadPoolExecutor(threads) as pool:
        return [status for result in pool.map(work, range(threads)) for status in result]


async def by_tasks(client: Any, server: Recorder, tasks: int, each: int) -> list[int]:
    """Statuses of so many requests by so many tasks."""

    async def work() -> list[int]:
        return [(await client.asend("GET", server.url(PATHS[n % len(PATHS)]))).status for n in range(each)]

    return [status for result in await asyncio.gather(*(work() for _ in range(tasks))) for status in result]


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_16_threads_at_a_server_that_takes_only_its_newest_nonce(name: str) -> None:
    """All 640 succeed, redirects and slow bodies among them, and at most five are refused on the way."""
    handler = NewestOnly()
    with Recorder(handler) as server, make(name, origins=server.origin, access_token=TOKEN) as client:
        assert by_threads(client, server, 16, 40) == [200] * 640
        assert handler.refused <= 5
        assert len(server.requests) == 640 + 160 + handler.refused
        identifiers = [request.claims["jti"] for request in server.requests]
        assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_64_tasks_at_a_server_that_takes_only_its_newest_nonce(name: str) -> None:
    """All succeed, redirects and slow bodies among them, and at most five are refused on the way."""
    handler, each = NewestOnly(), 3 if name == "httpx-async" else 10  # see above: its pool takes its time
    with Recorder(handler) as server, make(name, origins=server.origin, access_token=TOKEN) as client:
        assert client.runner.run(by_tasks(client, server, 64, each)) == [200] * 64 * each
        assert handler.refused <= 5


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_threads_and_tasks_at_a_server_that_takes_only_its_newest_nonce(name: str) -> None:
    """Threads with one library and tasks with another share a prover: all succeed."""
    handler, prover = NewestOnly(), Prover(dpop.generate_key())
    with Recorder(handler) as server, make(name, prover, origins=server.origin, access_token=TOKEN) as tasks:
        with make("requests", prover, origins=server.origin, access_token=TOKEN) as threads:
            with ThreadPoolExecutor(1) as pool:
                beside = pool.submit(by_threads, threads, server, 8, 20)
                assert tasks.runner.run(by_tasks(tasks, server, 32, 5)) == [200] * 160
                assert beside.result() == [200] * 160
        assert handler.refused <= 5


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_server_known_to_take_only_its_newest_nonce(name: str) -> None:
    """With serial=True nothing is tried out: one refusal, which brings the first nonce."""
    handler = NewestOnly()
    with Recorder(handler) as server, make(name, origins=server.origin, access_token=TOKEN, serial=True) as client:
        assert by_threads(client, server, 8, 8) == [200] * 64
        assert handler.refused == 1


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_a_cancelled_turn_passes_on(name: str) -> None:
    """Tasks that are cancelled while they wait, or while their request is on its way, hold nobody up."""
    handler = NewestOnly()
    with Recorder(handler) as server, make(name, origins=server.origin, access_token=TOKEN) as client:

        async def scene() -> list[int]:
            tasks = [asyncio.ensure_future(client.asend("GET", server.url("/r"))) for _ in range(40)]
            await tasks[0]
            for task in tasks[1::2]:
                task.cancel()
            return [reply.status for reply in await asyncio.gather(*tasks[::2])]

        assert client.runner.run(scene()) == [200] * 20


@pytest.mark.parametrize("name", SYNCHRONOUS)
@pytest.mark.parametrize("options", [{}, {"nonces": "required"}, {"serial": True}], ids=str)
def test_a_request_of_a_signal_handler_waits_for_none_that_it_interrupts(name: str, options: dict[str, Any]) -> None:
    """A signal arrives while the first request is on its way; the handler's request, with the same prover, goes out."""
    arrived = threading.Event()
    in_time: list[bool] = []

    def handler(request: Received) -> Response:
        if request.target == "/interrupted" and request.nonce is None:
            os.kill(os.getpid(), signal.SIGUSR1)
            in_time.append(arrived.wait(60))
        elif request.target == "/handler":
            arrived.set()
        return Response(200) if request.nonce == "n1" else challenge("n1")

    statuses = []
    with Recorder(handler) as server, make(name, origins=server.origin, access_token=TOKEN, **options) as client:
        before = signal.signal(
            signal.SIGUSR1, lambda *_: statuses.append(client.send("GET", server.url("/handler")).status)
        )
        try:
            statuses.append(client.send("GET", server.url("/interrupted")).status)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert statuses == [200, 200]
    assert in_time == [True]


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_a_required_nonce_is_fetched_once(name: str) -> None:
    """With nonces="required" the first request goes alone; the others go with its nonce."""
    with Recorder(windowed()) as server:
        with make(name, origins=server.origin, access_token=TOKEN, nonces="required") as client:
            if name in ASYNCHRONOUS:

                async def storm() -> None:
                    await asyncio.gather(*(client.asend("GET", server.url("/r")) for _ in range(50)))

                client.runner.run(storm())
            else:
                with ThreadPoolExecutor(16) as pool:
                    list(pool.map(lambda _n: client.send("GET", server.url("/r")), range(50)))
        assert [request.nonce for request in server.requests].count(None) == 1
        assert len(server.requests) == 51


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_who_comes_during_the_first_retry_waits_for_its_nonce(name: str) -> None:
    """A server that has asked one for a nonce asks all: the next request goes out with the nonce, not without."""
    held, release = threading.Event(), threading.Event()

    def handler(request: Received) -> Response:
        if request.nonce is None:
            return challenge("n1")
        if not held.is_set():
            held.set()
            release.wait(60)
        return Response(200)

    with Recorder(handler) as server, make(name, origins=server.origin, access_token=TOKEN) as client:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(client.send, "GET", server.url("/first"))
            held.wait(60)
            second = pool.submit(client.send, "GET", server.url("/second"))
            threading.Timer(0.2, release.set).start()
            assert [first.result(60).status, second.result(60).status] == [200, 200]
        assert [request.nonce for request in server.requests] == [None, "n1", "n1"]


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_100_users_on_one_client(name: str) -> None:
    """Each request carries its own user's token and key, through challenges and redirects."""
    users = {f"user-{number}": Prover(dpop.generate_key()) for number in range(100)}

    def handler(request: Received) -> Response:
        user = request.target.split("/")[-1]
        if request.nonce != f"for-{user}":
            return challenge(f"for-{user}")
        return (
            Response(200) if request.target.startswith("/final/") else Response(307, [("Location", f"/final/{user}")])
        )

    with Recorder(handler) as server:
        with make(name, origins=server.origin, access_token="nobody") as client:
            if name in ASYNCHRONOUS:

                async def storm() -> list[Any]:
                    return await asyncio.gather(
                        *(client.asend("GET", server.url(f"/start/{u}"), user=(p, u)) for u, p in users.items())
                    )

                replies = client.runner.run(storm())
            else:
                with ThreadPoolExecutor(20) as pool:
                    replies = list(
                        pool.map(lambda u: client.send("GET", server.url(f"/start/{u}"), user=(users[u], u)), users)
                    )
        assert [reply.status for reply in replies] == [200] * 100
        assert len(server.requests) == 300
        for request in server.requests:
            user = request.target.split("/")[-1]
            assert request.one("Authorization") == f"DPoP {user}"
            assert request.claims["ath"] == dpop.access_token_hash(user)
            assert dpop.thumbprint(request.jwk) == users[user].thumbprint


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_a_prover_in_several_event_loops(name: str) -> None:
    """One prover serves clients in event loops of several threads at once."""
    prover = Prover(dpop.generate_key())
    with Recorder(windowed()) as server:

        def loop(_number: int) -> list[int]:
            with make(name, prover, origins=server.origin, access_token=TOKEN, nonces="required") as client:
                return [client.send("GET", server.url("/r")).status for _ in range(5)]

        with ThreadPoolExecutor(8) as pool:
            assert [s for statuses in pool.map(loop, range(8)) for s in statuses] == [200] * 40


@pytest.mark.parametrize("name", ASYNCHRONOUS)
def test_a_cancelled_first_request_holds_nobody_up(name: str) -> None:
    """Cancelling the task that fetches the nonce lets the others go on."""
    gate, arrived = threading.Event(), threading.Event()

    def handler(request: Received) -> Response:
        if request.target == "/slow":
            arrived.set()
            gate.wait(60)
        return windowed()(request)

    with Recorder(handler) as server:
        with make(name, origins=server.origin, access_token=TOKEN, nonces="required") as client:

            async def scene() -> int:
                first = asyncio.ensure_future(client.asend("GET", server.url("/slow")))
                await asyncio.to_thread(arrived.wait, 20)
                second = asyncio.ensure_future(client.asend("GET", server.url("/r")))
                await asyncio.sleep(0)
                first.cancel()
                return int((await second).status)

            try:
                assert client.runner.run(scene()) == 200
            finally:
                gate.set()


@pytest.mark.parametrize("name", SYNCHRONOUS)
def test_a_forked_child_goes_on_by_itself(name: str) -> None:
    """After a fork, child and parent use the same adapter on connections and nonces of their own."""
    with Recorder(SingleUse()) as server, make(name, origins=server.origin, access_token=TOKEN) as client:
        for _ in range(3):
            assert client.send("GET", server.url("/parent")).status == 200
        children = []
        for number in range(3):
            pid = os.fork()
            if pid == 0:
                status = 1
                signal.alarm(60)
                try:
                    replies = [client.send("GET", server.url(f"/child{number}")).status for _ in range(3)]
                    status = 0 if replies == [200] * 3 else 2
                finally:
                    os._exit(status)
            children.append(pid)
        assert [client.send("GET", server.url("/parent")).status for _ in range(3)] == [200] * 3
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
        parents = {request.connection for request in server.requests if request.target == "/parent"}
        for number in range(3):
            own = {request.connection for request in server.requests if request.target == f"/child{number}"}
            assert own.isdisjoint(parents)
        carried = [request.nonce for request in server.requests if request.nonce]
        assert len(carried) == len(set(carried))


class SlowToStart(dpop.requests.DPoPAdapter):
    """Whose pools take their time to be made anew, once."""

    waits = False
    making, go_on = threading.Event(), threading.Event()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        if self.waits:
            self.waits = False
            self.making.set()
            self.go_on.wait(60)
        super().init_poolmanager(*args, **options)


def test_two_threads_of_a_child_start_at_once() -> None:
    """While one makes the child's pools, the other does not write to a socket of the parent."""
    with Recorder(lambda request: Response(200)) as server, requests.Session() as session:
        session.trust_env = False
        adapter = SlowToStart(dpop.generate_key(), origins=server.origin, access_token=TOKEN)
        session.mount("http://", adapter)
        session.get(server.url("/parent"), timeout=60)
        pid = os.fork()
        if pid == 0:
            status = 1
            signal.alarm(120)
            try:
                adapter.waits = True
                first = threading.Thread(target=session.get, args=(server.url("/child"),), kwargs={"timeout": 60})
                first.start()
                adapter.making.wait(60)
                session.get(server.url("/child"), timeout=60)
                adapter.go_on.set()
                first.join()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        by_path = {path: {r.connection for r in server.requests if r.target == path} for path in ("/parent", "/child")}
        assert len(server.requests) == 3
        assert by_path["/parent"].isdisjoint(by_path["/child"])


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_adapters_do_not_travel(name: str) -> None:
    """Pickling or copying an adapter would take its key along: refused, with what to do."""
    with make(name, origins="https://api.example") as client:
        for travel in (pickle.dumps, copy.deepcopy):
            with pytest.raises(UsageError, match="must not travel"):
                travel(client.transport)
