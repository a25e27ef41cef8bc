# SPDX-License-Identifier: Apache-2.0
"""A model of a grant among several hosts, in which everything may go wrong: no grant lost that nobody said was lost.

    python tests/benchmarks/grant_model.py [--seconds 3600] [--seed N] [--store file|redis]

Each round is made by one seed: a store, an authorization server that replaces refresh tokens and revokes all when
an old one is used again, and a few processes with threads and tasks that ask for tokens. The server is slow, drops
requests before and after it has looked at them, challenges, and fails. Meanwhile processes are killed and frozen,
clocks are set, locks and leases end, the store is emptied, replaced by a snapshot, or cannot be written. Then all
goes well again, and it is asked:

- Does a caller wait for ever, or get an error that is none of ours?
- Is the grant alive: does the store, or an error that a caller got, have the newest refresh token? If not, does each
  process say that the user has to authorise again?
- Was a refresh token sent again although its first send had been answered? That must not be, unless the process that
  got the response was killed or lost its lock from outside before it could store it, or the store itself was changed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

sys.path.insert(0, str(Path(__file__).parents[1]))

from adapters.recorder import Received, Recorder, Response
from support.redis_server import running_redis

import dpop
from dpop.errors import DPoPError, OutcomeUnknownError, ReauthorizationError, TokensNotSavedError, TokenStoreError
from dpop.httpx2 import AsyncTokenEndpoint
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, TokenSet

LIFE = 3600.0
LEASE = 1.5
LOCK_SECONDS = 8.0
TIMEOUT = 20.0
DEADLINE = 90.0
"""Seconds in which every call has to return. It holds two waits for the lock, a frozen process, and a busy machine."""


class Server:
    """An authorization server with rotation and reuse detection, which misbehaves as its dice say.

    It knows what became of each refresh token: whether new tokens for it were sent on a connection that stood.
    """

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.lies = True
        self.newest = 0
        self.revoked_by: str | None = None
        self.answered: dict[str, float] = {}
        self.late_by = 0.0
        """Seconds from the response to a refresh token until its next use came in, which ended the grant."""
        self.violations: list[str] = []
        self.sends = Counter[str]()
        self._nonce = 0
        self.lock = threading.Lock()
        self.recorder = Recorder(self._response)

    def _response(self, request: Received) -> Response:
        came = time.monotonic()
        token = parse_qs(request.body.decode()).get("refresh_token", [""])[0]
        if not request.complete or not token:
            return Response(drop=True)  # its sender was killed
        with self.lock:
            roll = self.dice.random() if self.lies else 1.0
            pause = self.dice.choice([0, 0, 0.005, 0.05, 0.4, 1.6]) if self.lies else 0
            self.sends[token] += 1
        if roll < 0.08:
            return Response(drop=True)
        if roll < 0.14:
            return Response(503, [], b"{}")
        if roll < 0.22:
            with self.lock:
                self._nonce += 1
            return Response(400, [("DPoP-Nonce", f"n{self._nonce}")], b'{"error":"use_dpop_nonce"}')
        if pause and roll < 0.6:
            time.sleep(pause)
        response = self._rotate(token, came)
        if roll > 0.6:
            time.sleep(pause)
        if 0.22 <= roll < 0.26:
            return Response(drop=True)  # it never saw the new tokens
        if response.status == 200:
            with self.lock:
                self.answered[token] = time.monotonic()
        return response

    def _rotate(self, token: str, came: float) -> Response:
        with self.lock:
            if self.revoked_by is not None:
                return Response(400, [], b'{"error":"invalid_grant"}')
            if token != f"r{self.newest}":
                self.revoked_by = token
                self.late_by = came - self.answered.get(token, came)
                return Response(400, [], b'{"error":"invalid_grant"}')
            self.newest += 1
            number = self.newest
        body = {"access_token": f"a{number}", "token_type": "DPoP", "expires_in": LIFE, "refresh_token": f"r{number}"}
        return Response(200, [("Content-Type", "application/json")], json.dumps(body).encode())


class Facts(NamedTuple):
    """What a host has to know."""

    url: str
    key: str
    store: str
    place: str
    kind: str


class Stubborn(FileTokenStore):
    """A file store whose disk is full while a file of that name is beside it."""

    def _write(self, tokens: TokenSet, account: str) -> None:
        if self.path.with_name("full").exists():
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)


def open_store(facts: Facts) -> Any:
    """The store all hosts share."""
    if facts.store == "file":
        return Stubborn(facts.place)
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from dpop.redis import RedisTokenStore

    client = redis.Redis.from_url(facts.place, socket_timeout=2, retry=Retry(NoBackoff(), 1))
    return RedisTokenStore(client, lease_seconds=LEASE)


def host(facts: Facts, wire: Connection) -> None:
    """One process: at each order some threads or tasks ask for a token; what they got goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()
    store, skew, settling = open_store(facts), [0.0], False
    key = dpop.load_key(facts.key)
    options: dict[str, Any] = {"client_id": "c", "timeout": TIMEOUT, "clock": lambda: time.time() + skew[0]}
    if facts.kind == "threads":
        sync = TokenEndpoint(key, facts.url, **options).source(store, lock_seconds=LOCK_SECONDS)
        ask: Callable[[], str] = sync
    else:
        source = AsyncTokenEndpoint(key, facts.url, **options).source(store, lock_seconds=LOCK_SECONDS)

        def ask() -> str:
            return asyncio.run(brief(source, facts.kind == "short loops" and not settling))

    dice = random.Random(1)
    wire.send("ready")
    while True:
        order = wire.recv()
        skew[0], settling = order["clock"], order["settling"]
        got: list[tuple[str, str]] = []
        threads = [threading.Thread(target=one, args=(ask, got), daemon=True) for _ in range(dice.randint(1, 3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        if any(thread.is_alive() for thread in threads):
            import faulthandler

            faulthandler.dump_traceback()
            got.append(("hangs", ""))
        wire.send(got)


async def brief(source: Any, hasty: bool) -> str:
    """A view; a hasty one gives up at once, and its event loop ends."""
    if hasty:
        with contextlib.suppress(TimeoutError):
            token: str = await asyncio.wait_for(source.atoken(), 0.05)
            return token
        return ""
    result: str = await source.atoken()
    return result


def one(ask: Callable[[], str], got: list[tuple[str, str]]) -> None:
    """One caller."""
    try:
        token = ask()
        got.append(("token", token) if token else ("nothing", ""))
    except TokensNotSavedError as error:
        got.append(("unsaved", str(error.tokens.refresh_token)))
    except ReauthorizationError as error:
        got.append(("lost" if "never arrived" in str(error) else "dead", str(error)))
    except OutcomeUnknownError:
        got.append(("unknown", ""))
    except DPoPError as error:
        got.append(("error", f"{type(error).__name__}: {error}"))
    except BaseException as error:  # noqa: BLE001 - a caller may get nothing else
        got.append(("raw", repr(error)))


_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["dpop.httpx2", "dpop.requests", "dpop.redis", "dpop.keys", "asyncio"])


class Host:
    """A process, as the model sees it."""

    def __init__(self, facts: Facts) -> None:
        self.wire, theirs = _processes.Pipe()
        self.process = _processes.Process(target=host, args=(facts, theirs), daemon=True)
        self.process.start()
        theirs.close()
        assert self.wire.poll(DEADLINE), "a process does not start"
        self.wire.recv()
        self.busy = False

    def ask(self, clock: float, *, settling: bool = False) -> None:
        """Have its threads ask for tokens; when all settles, they wait for them."""
        self.wire.send({"clock": clock, "settling": settling})
        self.busy = True

    def got(self, seconds: float) -> list[tuple[str, str]] | None:
        """What they got; ``None`` if that is not there yet."""
        if not self.busy or not self.wire.poll(seconds):
            return None
        self.busy = False
        try:
            got: list[tuple[str, str]] = self.wire.recv()
        except EOFError:
            return [("raw", "the process ended")]
        return got

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()
        self.wire.close()


class Model:
    """One round."""

    def __init__(self, seed: int, store: str, place: str, key: str) -> None:
        self.dice = random.Random(seed)
        self.server = Server(seed)
        self.facts = Facts(self.server.recorder.url("/token"), key, store, place, "")
        self.said = Counter[str]()
        self.total = Counter[str]()
        self.excused: set[str] = set()
        self.unsaved: set[str] = set()
        # Each round has faults of some kinds only: what one kind excuses must not hide what another brings about.
        kinds = ["kill", "freeze", "clock", "lock", "full", "wipe", "snapshot"]
        self.faults = [kind for kind in kinds if self.dice.random() < 0.3]
        self.clock = 0.0
        self.over = False
        self.hosts: list[Host] = []
        self.log: list[str] = []

    def run(self, steps: int) -> list[str]:
        """Do so many things, then let all go well; what was violated."""
        store = open_store(self.facts)
        thumbprint = dpop.load_key(self.facts.key).thumbprint
        self.first = TokenSet(access_token="a0", expires_at=1, issued_at=0, refresh_token="r0", jkt=thumbprint)
        store.save(self.first)
        self.store = store
        with self.server.recorder:
            try:
                for _ in range(2):
                    self.start()
                for _ in range(steps):
                    self.step()
                return self.settle()
            finally:
                for each in self.hosts:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(each.process.pid or 0, signal.SIGCONT)
                    each.kill()

    def start(self) -> None:
        """Another process."""
        kind = self.dice.choice(["threads", "tasks", "short loops"])
        self.hosts.append(Host(self.facts._replace(kind=kind)))

    def step(self) -> None:
        """One thing that happens."""
        if self.over:
            self.do_login()
        name = self.dice.choice(["ask"] * 6 + ["expire"] * 4 + ["wait"] + self.faults * 2)
        self.log.append(name)
        getattr(self, f"do_{name}")()
        self.collect(0.0)

    def collect(self, seconds: float) -> None:
        """Hear what the callers got."""
        for each in self.hosts:
            for what, detail in each.got(seconds) or ():
                self.said[what] += 1
                self.total[what] += 1
                if what == "unsaved":
                    self.unsaved.add(detail)
                self.over = self.over or what in {"lost", "dead"}
                if what in {"hangs", "raw"}:
                    self.server.violations.append(f"a caller {what}: {detail}")
                self.log.append(f"{what} {detail[:80]}")

    def do_ask(self) -> None:
        """Some process asks."""
        idle = [each for each in self.hosts if not each.busy]
        if idle:
            self.dice.choice(idle).ask(self.clock)
        time.sleep(self.dice.choice([0, 0.002, 0.02, 0.1]))

    def do_expire(self) -> None:
        """Time goes by, and everybody asks."""
        self.clock += LIFE
        for each in self.hosts:
            if not each.busy:
                each.ask(self.clock)
        self.collect(self.dice.choice([0, 0.02, 0.2]))

    def do_kill(self) -> None:
        """A process is killed; what it alone knew is lost, and that is no fault of the toolkit."""
        victim = self.dice.choice(self.hosts)
        if not victim.busy:
            victim.ask(self.clock)
        if self.dice.random() < 0.7:
            time.sleep(self.dice.random() * 0.05)
        self.excused.add("killed")
        self.hosts.remove(victim)
        victim.kill()
        self.start()

    def do_freeze(self) -> None:
        """A process stands still for longer than a lease, and goes on."""
        victim = self.dice.choice(self.hosts)
        pid = victim.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        for each in self.hosts:
            if each is not victim and not each.busy:
                each.ask(self.clock)
        if self.facts.store == "redis":
            self.excused.add("lock lost")
        time.sleep(self.dice.choice([0.1, LEASE, 1.5 * LEASE]))
        os.kill(pid, signal.SIGCONT)

    def do_clock(self) -> None:
        """All clocks were wrong, and are set."""
        self.clock += self.dice.choice([-90_000.0, -LIFE / 2, 90_000.0])

    def do_lock(self) -> None:
        """The lock file is deleted, the lease ends."""
        self.excused.add("lock lost")
        if self.facts.store == "file":
            path = Path(self.facts.place)
            path.with_name(f".{path.name}.lock").unlink(missing_ok=True)
        else:
            self.store._client.delete("dpop:tokens:{default}:lease")

    def do_full(self) -> None:
        """The disk gets full while refreshes are under way, for a while; or Redis takes no writes."""
        self.do_expire()
        self.writable(yes=False)
        time.sleep(self.dice.choice([0.01, 0.1, 1.0]))
        self.writable(yes=True)
        self.do_expire()

    def writable(self, *, yes: bool) -> None:
        """Let writes to the store work or fail."""
        if self.facts.store == "file":
            full = Path(self.facts.place).with_name("full")
            full.unlink(missing_ok=True) if yes else full.touch()
        else:
            self.store._client.config_set("maxmemory", "0" if yes else "1")

    def do_wait(self) -> None:
        """Nothing, for a moment."""
        time.sleep(0.1)

    def do_login(self) -> None:
        """The toolkit has said that the grant is lost: once nobody is at it any more, the user logs in again."""
        self.until_idle()
        with self.server.lock:
            self.server.newest += 1
            self.server.revoked_by = None
            number = self.server.newest
        with contextlib.suppress(TokenStoreError):  # or else is told so once more
            refresh_token, now = f"r{number}", time.time() + self.clock
            self.store.save(self.first.replace(access_token=f"a{number}", refresh_token=refresh_token, issued_at=now))
            self.excused.clear()
            self.log.append("login")
        self.over = False

    def until_idle(self) -> None:
        """Wait until every process has answered."""
        deadline = time.monotonic() + 2 * DEADLINE
        while any(each.busy for each in self.hosts) and time.monotonic() < deadline:
            self.collect(0.05)
        if any(each.busy for each in self.hosts):
            self.server.violations.append("a process does not return")
        time.sleep(0.1)  # callers who are hasty do not wait for what they began

    def do_wipe(self) -> None:
        """Somebody empties the store: what was in it is lost, unless newer tokens come."""
        self.excused.add("store changed")
        if self.facts.store == "file":
            Path(self.facts.place).unlink(missing_ok=True)
        else:
            self.store._client.flushdb()

    def do_snapshot(self) -> None:
        """Somebody restores what was there at the beginning."""
        self.excused.add("store changed")
        with contextlib.suppress(DPoPError):
            for there in (self.store.load(), None):
                if self.store.replace(there, self.first, "default"):
                    return

    def settle(self) -> list[str]:
        """Let all go well again, and see whether everybody gets a token."""
        self.server.lies = False
        self.until_idle()
        for _ in range(3):
            self.said.clear()
            self.clock += LIFE + 100_000
            for each in self.hosts:
                each.ask(self.clock, settling=True)
            self.until_idle()
        stored = self.store.load()
        newest = f"r{self.server.newest}"
        alive = self.server.revoked_by is None and stored is not None and stored.refresh_token == newest
        told = self.said["lost"] + self.said["dead"] > 0 and not self.said["token"]
        if not alive and not told and newest not in self.unsaved:
            self.server.violations.append(
                f"the grant is lost and nobody says so: newest {newest}, revoked by {self.server.revoked_by}, stored"
                f" {stored and stored.refresh_token}, said {dict(self.said)}"
            )
        if self.facts.store == "redis":
            self.excused.add("lock lost")  # on a busy machine a lease ends because its holder gets no time to renew it
        if self.said["dead"] and not self.excused:
            self.server.violations.append("the grant is lost, and nobody can say why")
        again = self.server.revoked_by
        # A process may lose its lock after a response came and before it is stored, but that takes no second.
        only_lock = self.excused == {"lock lost"} and not {"full", "freeze"} & set(self.log)
        if again in self.server.answered and (not self.excused or (only_lock and self.server.late_by > 1.0)):
            self.server.violations.append(f"{again} was sent {self.server.late_by:.1f} s after it had been answered")
        return self.server.violations


def rounds(seeds: Iterator[int], kinds: list[str], url: str | None, steps: int, until: float) -> Iterator[str]:
    """Play rounds until the time is over or the seeds are; yields a line for each round, violations marked."""
    with tempfile.TemporaryDirectory() as name:
        key = str(Path(name) / "key.pem")
        dpop.generate_key().save(key)
        for number, seed in enumerate(seeds):
            if time.monotonic() > until:
                return
            kind = kinds[number % len(kinds)]
            directory = Path(name) / str(number)
            directory.mkdir()
            place = str(directory / "tokens.json") if kind == "file" else str(url)
            model = Model(seed, kind, place, key)
            violations = model.run(steps)
            if kind == "redis":
                model.writable(yes=True)
                model.store._client.flushdb()
            line = f"seed {seed} {kind}: {model.server.newest} refreshes, {dict(model.total)}"
            yield f"VIOLATION {line}: {violations}; {model.log}" if violations else line


def main() -> int:
    """Play rounds for so long; exit status 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the others follow")
    parser.add_argument("--rounds", type=int, default=10**9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--store", choices=["file", "redis"], default=None, help="both in turn by default")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    kinds = [options.store] if options.store else ["file", "redis"]
    violations = count = 0
    with running_redis() as server:
        seeds = iter(range(seed, seed + options.rounds))
        for line in rounds(seeds, kinds, server.url, options.steps, time.monotonic() + options.seconds):
            count += 1
            violations += line.startswith("VIOLATION")
            print(line, flush=True)
    print(f"{count} rounds from seed {seed}: {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
