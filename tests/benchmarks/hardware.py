# SPDX-License-Identifier: Apache-2.0
"""Keys in hardware: what the toolkit costs, what more sessions gain, and that nothing is lost under load.

SoftHSM and swtpm stand for devices; neither tells how fast a real one is. What a thing costs is a ratio against a
baseline of the same run.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from measure import Figure, Section, at_least, at_most, pairs, told
from peers import Environments

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.pkcs11_devices import Devices, SoftHsm, Tpm, devices_in
from support.pkcs11_faults import build

import dpop
from dpop.errors import DPoPError
from dpop.httpx2 import AsyncDPoPTransport
from dpop.keys import PublicKey
from dpop.keys.pkcs11 import Pkcs11Key, open_key
from dpop.keys.pkcs11._modules import close_modules
from dpop.testing import DPoPTestServer

BYTES = b"a signing input of the length that a proof has" * 8


def cost(softhsm: SoftHsm, *, short: bool) -> list[Figure]:
    """Signing through the toolkit, not verified and verified, against C_SignInit and C_Sign in the same session."""
    key = open_key(softhsm.uri())
    digest = hashlib.sha256(BYTES).digest()
    operation = key._pool._idle[0]._operation
    init, sign, session, handle = operation._init, operation._sign, operation._session, operation._key
    mechanism, buffer, length = operation._mechanism, operation._buffer, operation._length

    def bare() -> None:
        length.value = 512
        if init(session, mechanism, handle) or sign(session, digest, 32, buffer, length):
            raise RuntimeError("the device did not sign")

    rounds, repeats = (100, 15) if short else (500, 61)
    not_verified = pairs(bare, lambda: key._signer(BYTES), rounds=rounds, repeats=repeats)
    verified = pairs(bare, lambda: key.sign(BYTES), rounds=rounds, repeats=repeats)
    rate = statistics.median(alone / signed for alone, signed in not_verified)
    whole = statistics.median(alone / signed for alone, signed in verified)
    extra = statistics.median(signed - alone for alone, signed in verified) * 1e6
    key.close()
    return [
        at_least("SoftHSM, not verified, rate against a bare loop", round(rate, 3), 0.80),
        told("SoftHSM, verified, rate against a bare loop", round(whole, 3), "x"),
        told("SoftHSM, verified, more than a bare loop", round(extra, 1), "us"),
    ]


def per_second(key: Pkcs11Key, proofs: int) -> float:
    """Proofs that sixteen threads make."""
    with ThreadPoolExecutor(16) as pool:
        start = time.perf_counter()
        list(pool.map(lambda _: dpop.create_proof(key, "GET", "https://api.example/"), range(proofs)))
        return proofs / (time.perf_counter() - start)


_SESSIONS = (1, 2, 4, 8, 16)


def parallel(
    open_with: Callable[[int], Pkcs11Key], name: str, proofs: Callable[[int], int], section: Section
) -> dict[int, float]:
    """What more sessions gain: proofs per second of sixteen threads by the number of sessions."""
    rates = {}
    for sessions in _SESSIONS:
        key = open_with(sessions)
        per_second(key, 16)
        rates[sessions] = statistics.median(per_second(key, proofs(sessions)) for _ in range(3))
        close_modules()
        gain = rates[sessions] / rates[1]
        section.lines.append([name, str(sessions), f"{rates[sessions]:.0f}", f"{gain:.1f}"])
    section.raw[name] = {str(sessions): rate for sessions, rate in rates.items()}
    return rates


def touch(softhsm: SoftHsm, library: str, rules: Path) -> list[Figure]:
    """A device that waits 1.5 s for a touch: how long an event loop stands still meanwhile."""
    rules.write_text("")
    key = open_key(softhsm.uri(module=library))
    rules.write_text("C_Sign sleep=1500\n")
    stalls: list[float] = []

    async def tick() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.001)
            stalls.append(time.perf_counter() - start - 0.001)

    async def call(server: DPoPTestServer) -> int:
        token = server.issue_access_token(jkt=key.thumbprint)
        transport = AsyncDPoPTransport(key, origins=server.origin, access_token=token)
        async with httpx2.AsyncClient(transport=transport) as client:
            ticking = asyncio.create_task(tick())
            response = await client.get(server.resource, timeout=30)
            ticking.cancel()
            return response.status_code

    with DPoPTestServer() as server:
        status = asyncio.run(call(server))
    close_modules()
    worst = max(stalls) * 1e3
    reached = status == 200 and len(stalls) > 100 and worst < 50
    return [Figure("1.5 s for a touch, an event loop stands still", round(worst, 1), "ms", "<= 50", reached)]


def under_load(devices: Devices, name: str, threads: int, signatures: int) -> list[Figure]:
    """Threads that sign at once: errors, and signatures that do not verify."""
    key = open_key(devices.uri())
    public = PublicKey.from_jwk(key.public_jwk)
    bad = [0] * threads

    def work(number: int) -> None:
        for count in range(signatures):
            data = b"%d %d" % (number, count)
            try:
                bad[number] += not public.verify("ES256", data, key.sign(data))
            except DPoPError as error:
                print(error, file=sys.stderr)
                bad[number] += 1

    start = time.perf_counter()
    working = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in working:
        thread.start()
    for thread in working:
        thread.join()
    rate = threads * signatures / (time.perf_counter() - start)
    close_modules()
    return [
        at_most(f"{name}, {threads} threads x {signatures}, bad signatures", sum(bad), 0, "", timed=False),
        told(f"{name}, {threads} threads, verified twice", round(rate), "per s"),
    ]


_ENDLESS = "import dpop, sys\nkey = dpop.load_key(sys.argv[1])\nwhile True: key.sign(b'x')"
_ONCE = "import dpop, sys\nassert len(dpop.load_key(sys.argv[1]).sign(b'x')) == 64"


def killed(devices: Devices, name: str, kills: int, prepare: Callable[[], None]) -> Figure:
    """Processes killed at any moment of their lives, and after each another one that must work."""
    environment = {**os.environ, **devices.environment}
    spoiled = 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", _ENDLESS, devices.uri()], env=environment)
        time.sleep(random.uniform(0.0, 0.8))
        process.kill()
        process.wait()
        prepare()
        after = subprocess.run([sys.executable, "-c", _ONCE, devices.uri()], env=environment, check=False)
        spoiled += after.returncode != 0
    return at_most(f"{name}, {kills} processes killed, next ones spoiled", spoiled, 0, "", timed=False)


def in_a_tpm(tpm: Tpm, *, short: bool) -> list[Figure]:
    """The same in a TPM, and what it counts as attacks."""
    before = tpm.failed_tries()
    figures = under_load(tpm, "TPM", 4, 50 if short else 200)
    # /dev/tpmrm0 flushes what dead processes leave behind; here nobody else does. The tests have tpm2-abrmd for it.
    figures.append(killed(tpm, "TPM, flushed in between", 3 if short else 20, tpm.flush))
    counted = tpm.failed_tries() - before
    return [*figures, at_most("TPM, failed tries that it counted", counted, 0, "", timed=False)]


def measure(_environments: Environments, *, short: bool) -> Section:
    """All of it; the faults come from a PKCS#11 module between the toolkit and SoftHSM that is slow on purpose."""
    section = Section(
        "hardware",
        "Keys in hardware",
        "Proofs that sixteen threads make with one key, each signature verified before it is used, by the number of"
        " PKCS#11 sessions. SoftHSM computes on the same two processors; the module that takes 1, 5 or 20 ms for each"
        " signature stands for a token that computes elsewhere. A TPM in software serves one command at a time.",
        ["token", "sessions", "proofs per second", "against one session"],
    )
    before = os.environ.copy()
    try:
        with tempfile.TemporaryDirectory() as place:
            _measure(section, Path(place), short=short)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return section


def _measure(section: Section, place: Path, *, short: bool) -> None:
    for name in ("softhsm", "tpm"):
        (place / name).mkdir()
    rules, scale = place / "rules", 0.25 if short else 1
    library = str(build(place))
    with devices_in(place / "softhsm", SoftHsm) as softhsm:
        assert isinstance(softhsm, SoftHsm)
        os.environ.update(FAULT_MODULE=softhsm.module, FAULT_RULES=str(rules))
        section.figures += cost(softhsm, short=short)
        parallel(
            lambda sessions: open_key(softhsm.uri(), sessions=sessions), "SoftHSM", lambda _: int(4000 * scale), section
        )
        for ms in (5,) if short else (1, 5, 20):
            rules.write_text(f"C_Sign sleep={ms}\n")
            rates = parallel(
                lambda sessions: open_key(softhsm.uri(module=library), sessions=sessions),
                f"{ms} ms for a signature",
                lambda sessions, ms=ms: int(1200 * scale * min(sessions, 8) / ms),
                section,
            )
            if ms == 5:
                gain = round(rates[8] / rates[1], 2)
                section.figures.append(at_least("5 ms for a signature, eight sessions against one", gain, 6))
        section.figures += touch(softhsm, library, rules)
        section.figures += under_load(softhsm, "SoftHSM", 8, 500 if short else 10_000)
        section.figures.append(killed(softhsm, "SoftHSM", 3 if short else 40, lambda: None))
    with devices_in(place / "tpm", Tpm) as tpm:
        assert isinstance(tpm, Tpm)
        parallel(lambda sessions: open_key(tpm.uri(), sessions=sessions), "TPM", lambda _: int(200 * scale), section)
        section.figures += in_a_tpm(tpm, short=short)
