# SPDX-License-Identifier: Apache-2.0
"""A storm of processes and threads on an expired token: one refresh for each expiry, and nobody gets an error.

    python tests/benchmarks/storm.py [--expiries 200] [--processes 4] [--threads 16]

The server is oidc-provider, which replaces the refresh token each time and revokes everything when an old one
is used again. How often it was asked is what it says itself. Exit status 1 if that was not once for each expiry.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from interop.application import browse
from interop.peers import OidcProvider, running_oidc_provider

import dpop
from dpop.errors import DPoPError
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore

_HOUR = 3600.0


def work(facts: dict[str, Any]) -> None:
    """One process: at each line on standard input an hour goes by, and all its threads ask for a token."""
    now = [0.0]
    endpoint = TokenEndpoint(
        dpop.load_key(facts["key"]), facts["url"], client_id="public", clock=lambda: time.time() + now[0]
    )
    source = endpoint.source(FileTokenStore(facts["path"]))
    barrier = threading.Barrier(facts["threads"])

    def ask(_: int) -> str:
        barrier.wait()
        try:
            return source()
        except DPoPError as error:
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(facts["threads"]) as pool:
        print("ready", flush=True)
        while sys.stdin.readline():
            now[0] += _HOUR
            print(json.dumps(sorted(set(pool.map(ask, range(facts["threads"]))))), flush=True)


def storm(provider: OidcProvider, *, expiries: int, processes: int, threads: int, directory: Path) -> int:
    """How many expiries did not go as they should; says which."""
    key, store = directory / "key.pem", FileTokenStore(directory / "tokens.json")
    dpop.generate_key().save(key)
    with TokenEndpoint.discover(dpop.load_key(str(key)), provider["issuer"], client_id="public") as endpoint:
        asked = endpoint.start_authorization(provider["redirect_uri"], scope="openid offline_access", prompt="consent")
        store.save(endpoint.finish_authorization(asked, browse(provider, asked.url)))
    facts = {"key": str(key), "path": str(store.path), "url": provider["token_endpoint"], "threads": threads}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", json.dumps(facts)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    missed, last = 0, ""
    try:
        for worker in workers:
            assert line_of(worker) == "ready"
        provider.seen()
        for number in range(expiries):
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
            got = {token for worker in workers for token in json.loads(line_of(worker))}
            # The first refresh of a process may be asked for a nonce; that is no refresh.
            seen = [entry for entry in provider.seen() if entry.error != "use_dpop_nonce"]
            statuses = [entry.status for entry in seen]
            if statuses != [200] or len(got) != 1 or last in got:
                missed += 1
                print(f"expiry {number}: the server answered {statuses}; the callers got {len(got)} answers: "
                      f"{[text[:120] for text in got if ' ' in text]}")  # fmt: skip
            last = got.pop()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    return missed


def line_of(worker: subprocess.Popen[str]) -> str:
    """What a worker says next."""
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        sys.exit("a worker ended early")
    return line.strip()


def main() -> int:
    """Run the storm and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--expiries", type=int, default=200)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(json.loads(options.work))
        return 0
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as name, running_oidc_provider({"keys": []}) as provider:
        missed = storm(
            provider,
            expiries=options.expiries,
            processes=options.processes,
            threads=options.threads,
            directory=Path(name),
        )
    callers = options.processes * options.threads
    print(
        f"{options.expiries} expiries, {callers} callers each: {options.expiries - missed} with one refresh and one"
        f" token for all, in {time.perf_counter() - start:.0f} s"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
