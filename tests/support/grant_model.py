# SPDX-License-Identifier: Apache-2.0
"""A model of a grant among several hosts, in which everything may go wrong: no grant is lost that nobody says is lost.

Each round is made by one seed: a store, an authorization server that replaces refresh tokens and revokes a grant when
one of its old ones is used again, and a few processes with threads and tasks that ask for tokens. The server is slow,
drops requests before and after it has looked at them, challenges, and fails. Meanwhile processes are killed and
frozen, clocks are set, locks and leases end, the store is emptied, replaced by a snapshot, or cannot be written. Then
all goes well again, and it is asked:

- Does a caller wait for ever, or get an error that is none of ours?
- Is the grant alive: does the store, or an error that a caller got, have the newest refresh token? If not, does each
  process say that the user has to authorise again?
- If the grant was lost because a response was, does the error say so?
- Was a refresh token sent again although its first send had been answered? That must not be, unless the process that
  got the response was killed or lost its lock from outside before it could store it, or the store itself was changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

import keyring.backend
import keyring.errors
from support.recorder import Received, Recorder, Response

import dpop
from dpop.errors import (
    DPoPError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenFormatError,
    TokensNotSavedError,
    TokenStoreError,
)
from dpop.httpx2 import AsyncTokenEndpoint
from dpop.keyring import KeyringTokenStore
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, MemoryTokenStore, TokenSet

__all__ = ["STORES", "Round", "rounds"]

STORES: Final = ("file", "redis", "keyring", "memory")
LIFE: Final = 3600.0
LEASE: Final = 1.5
TIMEOUT: Final = 20.0
DEADLINE: Final = 90.0
"""Seconds in which every call has to return. It holds two waits for the lock, a frozen process, and a busy machine."""
SAVE_SECONDS: Final = 30.0
"""The longest time that a busy machine may need between the store and the wire, in either direction."""
# Each round has some of these faults: what one fault excuses must not hide what another brings about.
_FAULTS: Final = ("kill", "freeze", "clock", "lock", "full", "wipe", "snapshot")
_OF_PROCESSES: Final = frozenset({"kill", "freeze", "lock"})


@dataclass
class Grant:
    """What the server knows of one login."""

    number: int
    newest: int = 0
    revoked_by: str | None = None
    answered: dict[str, float] = field(default_factory=dict)
    """When the response to each refresh token was sent, on a connection that stood."""
    late_by: float = 0.0
    """Seconds from the response to a refresh token until its next use came in, which ended the grant.

    Negative if both were under way at once."""

    @property
    def refresh_token(self) -> str:
        """The newest one."""
        return f"r{self.number}.{self.newest}"


class Server:
    """An authorization server with rotation and reuse detection, which misbehaves as its dice say."""

    def __init__(self, seed: int, pauses: tuple[float, ...]) -> None:
        self.dice = random.Random(seed)
        self.pauses = pauses
        self.lies = True
        self.grants = [Grant(0)]
        self.pending = 0
        """Requests that have come in and are not answered."""
        self.log: list[str] = []
        self._began = time.monotonic()
        self._nonce = 0
        self.lock = threading.Lock()
        self.recorder = Recorder(self._response)

    @property
    def grant(self) -> Grant:
        """The grant of the last login."""
        return self.grants[-1]

    def note(self, what: str) -> None:
        """Record what happened, and when."""
        self.log.append(f"{time.monotonic() - self._began:.2f} {what}")

    def _response(self, request: Received) -> Response:
        came = time.monotonic()
        token = parse_qs(request.body.decode()).get("refresh_token", [""])[0]
        if not request.complete or not token:
            return Response(drop=True)  # its sender was killed
        with self.lock:
            self.pending += 1
            roll = self.dice.random() if self.lies else 1.0
            pause = self.dice.choice(self.pauses) if self.lies else 0
        try:
            response = self._by_the_dice(token, came, roll, pause)
        finally:
            with self.lock:
                self.pending -= 1
        self.note(f"{token}: {'dropped' if response.drop else response.status}")
        return response

    def _by_the_dice(self, token: str, came: float, roll: float, pause: float) -> Response:
        if roll < 0.08:
            return Response(drop=True)
        if roll < 0.14:
            return Response(503, [], b"{}")
        if roll < 0.22:
            with self.lock:
                self._nonce += 1
            return Response(400, [("DPoP-Nonce", f"n{self._nonce}")], b'{"error":"use_dpop_nonce"}')
        if roll < 0.6:
            time.sleep(pause)
        response = self._rotate(token, came)
        if roll > 0.6:
            time.sleep(pause)
        if 0.22 <= roll < 0.26:
            return Response(drop=True)  # it never saw the new tokens
        if response.status == 200:
            with self.lock:
                self.grant_of(token).answered[token] = time.monotonic()
        return response

    def grant_of(self, token: str) -> Grant:
        """The grant that a refresh token belongs to."""
        return self.grants[int(token[1:].partition(".")[0])]

    def _rotate(self, token: str, came: float) -> Response:
        with self.lock:
            grant = self.grant_of(token)
            if grant.revoked_by is None and token != grant.refresh_token:
                grant.revoked_by = token
                grant.late_by = came - grant.answered.get(token, came)
            if grant.revoked_by is not None:
                return Response(400, [], b'{"error":"invalid_grant"}')
            grant.newest += 1
            text = f"{grant.number}.{grant.newest}"
        body = {"access_token": f"a{text}", "token_type": "DPoP", "expires_in": LIFE, "refresh_token": f"r{text}"}
        return Response(200, [("Content-Type", "application/json")], json.dumps(body).encode())


# -- stores that can be full


class Facts(NamedTuple):
    """What a host has to know."""

    url: str
    key: str
    store: str
    place: str
    kind: str
    lock_seconds: float


class _FileStore(FileTokenStore):
    """A file store whose disk is full while a file of that name is beside it."""

    def _write(self, tokens: TokenSet, account: str) -> None:
        if self.path.with_name("full").exists():
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)


class _MemoryStore(MemoryTokenStore):
    """A store in memory that can be full."""

    full = False

    def _write(self, tokens: TokenSet, account: str) -> None:
        if self.full:
            raise TokenStoreError("no space left on device")
        super()._write(tokens, account)


class _Keyring(keyring.backend.KeyringBackend):
    """A keyring whose entries are files; it is locked while a file called ``full`` is beside them."""

    priority = 0  # type: ignore[assignment]  # chosen by nobody

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = Path(directory)

    def _entry(self, service: str, username: str) -> Path:
        return self._directory / f"{hashlib.sha256(f'{service} {username}'.encode()).hexdigest()[:16]}.entry"

    def get_password(self, service: str, username: str) -> str | None:
        try:
            return self._entry(service, username).read_text()
        except FileNotFoundError:
            return None

    def set_password(self, service: str, username: str, password: str) -> None:
        if (self._directory / "full").exists():
            raise keyring.errors.KeyringLocked("locked")
        new = self._directory / f"{threading.get_ident()}.{os.getpid()}.new"
        new.write_text(password)
        new.rename(self._entry(service, username))

    def delete_password(self, service: str, username: str) -> None:
        try:
            self._entry(service, username).unlink()
        except FileNotFoundError:
            raise keyring.errors.PasswordDeleteError("not there") from None


def open_store(facts: Facts) -> Any:
    """The store that all hosts share, but one in memory."""
    if facts.store == "file":
        return _FileStore(str(Path(facts.place) / "tokens.json"))
    if facts.store == "keyring":
        return KeyringTokenStore("model", backend=_Keyring(facts.place), lock_directory=facts.place)
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from dpop.redis import RedisTokenStore

    client = redis.Redis.from_url(facts.place, socket_timeout=2, retry=Retry(NoBackoff(), 1))
    return RedisTokenStore(client, lease_seconds=LEASE)


# -- hosts


def process(facts: Facts, wire: Connection) -> None:
    """One process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.disable()
    host(facts, open_store(facts), wire)


def host(facts: Facts, store: Any, wire: Connection) -> None:
    """At each order some threads or tasks ask for a token; what they got goes back."""
    skew, settling = [0.0], False
    key = dpop.load_key(facts.key)
    options: dict[str, Any] = {"client_id": "c", "timeout": TIMEOUT, "clock": lambda: time.time() + skew[0]}
    if facts.kind == "threads":
        sync = TokenEndpoint(key, facts.url, **options).source(store, lock_seconds=facts.lock_seconds)

        def ask(*, new: bool) -> str:
            return sync.renew() if new else sync()
    else:
        source = AsyncTokenEndpoint(key, facts.url, **options).source(store, lock_seconds=facts.lock_seconds)

        def ask(*, new: bool) -> str:
            wanted = source.renew if new else source.atoken
            return asyncio.run(brief(wanted, hasty=facts.kind == "short loops" and not settling))

    dice = random.Random(1)
    wire.send("ready")
    while True:
        try:
            order = wire.recv()
        except EOFError:
            return
        skew[0], settling = order["clock"], order["settling"]
        got: list[tuple[str, str]] = []
        if order["save"] is not None:
            now = time.time() + skew[0]
            store.save(TokenSet(access_token="", refresh_token=order["save"], issued_at=now, jkt=key.thumbprint))
        new = not settling and dice.random() < 0.2
        asking = functools.partial(ask, new=new)
        threads = [threading.Thread(target=one, args=(asking, got), daemon=True) for _ in range(dice.randint(1, 3))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
        if any(thread.is_alive() for thread in threads):
            import faulthandler

            faulthandler.dump_traceback()
            got.append(("hangs", ""))
        wire.send(got)


async def brief(wanted: Callable[[], Any], *, hasty: bool) -> str:
    """A view; a hasty one gives up at once, and its event loop ends."""
    if hasty:
        with contextlib.suppress(TimeoutError):
            token: str = await asyncio.wait_for(wanted(), 0.05)
            return token
        return ""
    result: str = await wanted()
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
_processes.set_forkserver_preload(
    ["dpop.httpx2", "dpop.requests", "dpop.redis", "dpop.keyring", "dpop.keys", "asyncio"]
)


class Host:
    """A process, as the model sees it; for a store in memory a thread with a source of its own."""

    def __init__(self, facts: Facts, store: Any = None) -> None:
        self.wire, theirs = _processes.Pipe()
        self.process = None
        if store is not None:
            threading.Thread(target=host, args=(facts, store, theirs), daemon=True).start()
        else:
            self.process = _processes.Process(target=process, args=(facts, theirs), daemon=True)
            self.process.start()
            theirs.close()
        assert self.wire.poll(DEADLINE), "a process does not start"
        self.wire.recv()
        self.busy = False

    def ask(self, clock: float, *, settling: bool = False, save: str | None = None) -> None:
        """Have its threads ask for tokens; when all settles, they wait for them.

        :param save: the refresh token of an error, which is stored before.
        """
        self.wire.send({"clock": clock, "settling": settling, "save": save})
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

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)

    def end(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.signal(signal.SIGCONT)
            self.process.kill()
            self.process.join()
        self.wire.close()


class Round:
    """One round: ``run`` plays it, and returns what was violated."""

    def __init__(
        self, seed: int, store: str, place: str, key: str, *, pauses: tuple[float, ...], lock_seconds: float
    ) -> None:
        self.dice = random.Random(seed)
        self.server = Server(seed, pauses)
        self.facts = Facts(self.server.recorder.url("/token"), key, store, place, "", lock_seconds)
        self.said = Counter[str]()
        """What callers got since the last login, or since all succeeded."""
        self.total = Counter[str]()
        self.violations: list[str] = []
        # On a busy machine a lease ends because its holder gets no time to renew it.
        self.always_excused = {"lock lost"} if store == "redis" else set[str]()
        self.excused = set(self.always_excused)
        self.unsaved: set[str] = set()
        self.holders: dict[Host, str] = {}
        """Who said last that it could not save these refresh tokens."""
        faults = [kind for kind in _FAULTS if self.dice.random() < 0.3]
        self.faults = [kind for kind in faults if store != "memory" or kind not in _OF_PROCESSES]
        self.clock = self.latest = 0.0
        self.over = False
        self.hosts: list[Host] = []

    def run(self, steps: int) -> list[str]:
        """Do so many things, then let all go well; return what was violated."""
        self.store: Any = _MemoryStore() if self.facts.store == "memory" else open_store(self.facts)
        thumbprint = dpop.load_key(self.facts.key).thumbprint
        self.first = TokenSet(access_token="a0.0", expires_at=1, issued_at=0, refresh_token="r0.0", jkt=thumbprint)
        self.store.save(self.first)
        with self.server.recorder:
            try:
                for _ in range(2):
                    self.start()
                for _ in range(steps):
                    self.step()
                self.settle()
            finally:
                for each in self.hosts:
                    each.end()
        return self.violations

    def start(self) -> None:
        """Another process."""
        kind = self.dice.choice(["threads", "tasks", "short loops"])
        shared = self.store if self.facts.store == "memory" else None
        self.hosts.append(Host(self.facts._replace(kind=kind), shared))

    def step(self) -> None:
        """One thing that happens."""
        if self.over:
            self.do_login()
        name = self.dice.choice(["ask"] * 6 + ["expire"] * 4 + ["wait"] + self.faults * 2)
        self.server.note(name)
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
                    self.holders[each] = detail
                elif what == "token":
                    self.holders.pop(each, None)
                self.over = self.over or what in {"lost", "dead"}
                if what in {"hangs", "raw"}:
                    self.violations.append(f"a caller {what}: {detail}")
                self.server.note(f"{what} {detail[:80]}")

    def do_ask(self) -> None:
        """Some process asks."""
        idle = [each for each in self.hosts if not each.busy]
        if idle:
            self.dice.choice(idle).ask(self.clock)
        time.sleep(self.dice.choice([0, 0.002, 0.02, 0.1]))

    def do_expire(self) -> None:
        """Time goes by, and everybody asks."""
        self.clock += LIFE
        self.latest = max(self.latest, self.clock)
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
        self.hosts.remove(victim)
        self.holders.pop(victim, None)
        victim.end()
        with contextlib.suppress(DPoPError):
            stored = self.store.load()
            if self.server.pending or stored is None or stored.refresh_token != self.server.grant.refresh_token:
                self.excused.add("killed")
        self.start()

    def do_freeze(self) -> None:
        """A process stands still for longer than a lease, and goes on."""
        victim = self.dice.choice(self.hosts)
        victim.signal(signal.SIGSTOP)
        for each in self.hosts:
            if each is not victim and not each.busy:
                each.ask(self.clock)
        time.sleep(self.dice.choice([0.1, LEASE, 1.5 * LEASE]))
        victim.signal(signal.SIGCONT)

    def do_clock(self) -> None:
        """All clocks were wrong, and are set."""
        self.clock += self.dice.choice([-90_000.0, -LIFE / 2, 90_000.0])
        self.latest = max(self.latest, self.clock)

    def do_lock(self) -> None:
        """The lock files are deleted, the lease ends."""
        self.excused.add("lock lost")
        if self.facts.store == "redis":
            self.store._client.delete("dpop:tokens:{default}:lease")
            return
        for path in Path(self.facts.place).glob("*.lock"):
            path.unlink(missing_ok=True)

    def do_full(self) -> None:
        """The disk gets full while refreshes are under way, for a while; or Redis takes no writes."""
        self.do_expire()
        self.writable(yes=False)
        time.sleep(self.dice.choice([0.01, 0.1, 1.0]))
        self.writable(yes=True)
        self.do_expire()

    def writable(self, *, yes: bool) -> None:
        """Let writes to the store work or fail."""
        if self.facts.store == "memory":
            self.store.full = not yes
        elif self.facts.store == "redis":
            self.store._client.config_set("maxmemory", "0" if yes else "1")
        else:
            full = Path(self.facts.place, "full")
            full.unlink(missing_ok=True) if yes else full.touch()

    def do_wait(self) -> None:
        """Nothing, for a moment."""
        time.sleep(0.1)

    def do_login(self) -> None:
        """The toolkit has said that the grant is lost: the user logs in again, once all callers have heard it."""
        self.until_idle()
        self.judge_what_was_said()
        with self.server.lock:
            self.server.grants.append(Grant(len(self.server.grants)))
        number, now = self.server.grant.number, time.time() + self.clock
        tokens = self.first.replace(access_token=f"a{number}.0", refresh_token=f"r{number}.0", issued_at=now)
        with contextlib.suppress(TokenStoreError):  # or else the user is told so once more
            self.store.save(tokens)
            self.excused = set(self.always_excused)
            self.said.clear()
            self.server.note("login")
        self.over = False

    def until_idle(self) -> None:
        """Wait until every process has said what its callers got."""
        deadline = time.monotonic() + 2 * DEADLINE
        while any(each.busy for each in self.hosts) and time.monotonic() < deadline:
            self.collect(0.05)
        if any(each.busy for each in self.hosts):
            self.violations.append("a process does not return")

    def do_wipe(self) -> None:
        """Somebody empties the store: what was in it is lost, unless newer tokens come."""
        self.excused.add("store changed")
        if self.facts.store == "memory":
            self.store._tokens.clear()
        elif self.facts.store == "redis":
            self.store._client.flushdb()
        else:
            for name in ("tokens.json", "*.entry"):
                for path in Path(self.facts.place).glob(name):
                    path.unlink(missing_ok=True)

    def do_snapshot(self) -> None:
        """Somebody restores what was there at the beginning."""
        self.excused.add("store changed")
        with contextlib.suppress(DPoPError):
            for there in (self.store.load(), None):
                if self.store.replace(there, self.first, "default"):
                    return

    def judge_what_was_said(self) -> None:
        """Only a response that never arrived can have ended the grant, and so the callers are told."""
        # Without the lock two hosts send one refresh token, and the tokens that either gets are revoked. So are those
        # that come while the server has not yet looked at the request of a host that was killed.
        overlap = "killed" in self.excused and self.server.grant.late_by < 0
        if self.said["dead"] and not overlap and not self.excused & {"lock lost", "store changed"}:
            self.violations.append("the grant is lost, and callers are not told that a response never arrived")

    def settle(self) -> None:
        """Let all go well again, and see whether everybody gets a token."""
        self.server.lies = False
        self.until_idle()
        self.judge_what_was_said()
        self.clock = self.latest  # all clocks are right again
        for number in range(8):
            if number >= 3 and self.said.keys() - {"error", "unknown"}:
                break  # otherwise a busy machine has not let the holder of the lock do anything yet
            self.said.clear()
            self.clock += LIFE + 100_000
            for each in self.hosts:
                each.ask(self.clock, settling=True)
            self.until_idle()
            self.judge_what_was_said()
        if self.said["unsaved"] and not self.said["token"]:
            self.save_what_an_error_had()
        try:
            stored = self.store.load()
        except TokenFormatError as error:
            # Somebody who empties a keyring in the middle of a write leaves half an entry, and the store says so.
            if "store changed" not in self.excused or not self.said["error"]:
                self.violations.append(str(error))
            return
        there = None if stored is None else stored.refresh_token
        # A snapshot may have brought an earlier grant back.
        grants = [self.server.grant, *([self.server.grant_of(there)] if there else [])]
        alive = any(grant.revoked_by is None and grant.refresh_token in {there, *self.unsaved} for grant in grants)
        told = self.said["lost"] + self.said["dead"] > 0 and not self.said["token"]
        if not alive and not told:
            ends = [f"newest {grant.refresh_token}, revoked by {grant.revoked_by}" for grant in grants]
            self.violations.append(
                f"the grant is lost and nobody says so: {ends}, stored {there}, said {dict(self.said)}"
            )
        self.judge_what_was_sent()

    def save_what_an_error_had(self) -> None:
        """Do what the error says if the store has other tokens, which nobody may replace: save those that it carries.

        Only then they are used. Until then nobody can find out that another host has had them revoked.
        """
        self.server.note(f"save {list(self.holders.values())}")
        self.said.clear()
        for each, token in list(self.holders.items()):
            each.ask(self.clock, settling=True, save=token)
            self.until_idle()
        for each in self.hosts:
            each.ask(self.clock, settling=True)
        self.until_idle()
        self.judge_what_was_said()

    def judge_what_was_sent(self) -> None:
        """A refresh token that was answered is not sent again."""
        grant = self.server.grant
        if grant.revoked_by not in grant.answered:
            return  # its response was lost
        # A process may lose its lock after a response came and before it is stored, but that takes a moment only.
        only_lock = self.excused == {"lock lost"} and not {"full", "freeze"} & set(self.faults)
        if not self.excused or (only_lock and grant.late_by > SAVE_SECONDS):
            self.violations.append(f"{grant.revoked_by} was sent {grant.late_by:.1f} s after it had been answered")


def rounds(
    seeds: Iterator[int],
    stores: tuple[str, ...],
    redis_url: str,
    steps: int,
    *,
    pauses: tuple[float, ...] = (0, 0, 0.005, 0.05, 0.4, 1.6),
    lock_seconds: float = 8.0,
    until: float = float("inf"),
) -> Iterator[tuple[str, list[str]]]:
    """Play rounds until the time is over or the seeds are; yield a line and the violations of each round.

    :param pauses: in seconds, one of which the server makes with each response.
    :param lock_seconds: how long a source waits for the lock.
    :param until: by the monotonic clock.
    """
    with tempfile.TemporaryDirectory() as name:
        key = str(Path(name) / "key.pem")
        dpop.generate_key().save(key)
        for number, seed in enumerate(seeds):
            if time.monotonic() > until:
                return
            store = stores[number % len(stores)]
            directory = Path(name) / str(number)
            directory.mkdir()
            place = redis_url if store == "redis" else str(directory)
            model = Round(seed, store, place, key, pauses=pauses, lock_seconds=lock_seconds)
            violations = model.run(steps)
            if store == "redis":
                model.writable(yes=True)
                model.store._client.flushdb()
                model.store._client.close()
            refreshes = sum(grant.newest for grant in model.server.grants)
            line = f"seed {seed} {store} {model.faults}: {refreshes} refreshes, {dict(model.total)}"
            if violations:
                line = f"VIOLATION {line}: {violations}; {model.server.log}"
            yield line, violations
