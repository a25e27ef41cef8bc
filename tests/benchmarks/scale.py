# SPDX-License-Identifier: Apache-2.0
"""Scale: what one more user, server, key or account costs when there are many of them already."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from measure import Section, at_most
from peers import WORKERS, Environments

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.redis_server import running_redis


class _Row(NamedTuple):
    """Something that grows.

    :param octets: how much memory one more may take at most; None if it takes none of this process.
    """

    what: str
    kind: str
    sizes: tuple[int, ...]
    octets: int | None


_ROWS = [
    _Row("users of one client process", "users", (100, 1_000, 10_000), 12_000),
    _Row("servers of one key", "servers", (10, 100, 1_000), 5_000),
    _Row("keys that a server has seen", "keys seen", (1_000, 10_000, 100_000, 1_000_000), 500),
    _Row("proofs in Redis", "proofs in Redis", (1_000, 10_000, 100_000), 400),
    _Row("accounts in files", "accounts in files", (100, 1_000, 10_000, 100_000), None),
    _Row("accounts in Redis", "accounts in Redis", (100, 1_000, 10_000, 100_000), 2_000),
]


def measure(_environments: Environments, *, short: bool) -> Section:
    """Each in a process of its own, at each size."""
    section = Section(
        "scale",
        "Scale",
        "One process per row, which grows. Bytes: what its memory grew by since the size before, or that of Redis,"
        " divided by what came. Users: each with a key and its nonces, in turn; servers: each with its nonce, in turn;"
        " times of both are processor time for a proof with all that a request costs but the wire. Keys: a verification"
        " of the first proof of a new key, while the proofs of all others are remembered; 1,024 keys stay loaded, too,"
        " so the first thousand take more. Proofs in Redis: a command for each, one by one. Accounts: each with"
        " a token of 670 characters; to list them is divided by their number. In files, a save is as slow as the disk.",
        ["what", "how many", "bytes for one more", "operation", "us", "against the fewest"],
    )
    with running_redis() as redis:
        for row in _ROWS:
            sizes = [size // 10 for size in row.sizes[:2]] if short else list(row.sizes)
            command = [sys.executable, str(WORKERS / "scaling.py"), row.kind, *map(str, sizes)]
            facts = json.dumps({"redis": redis.url})
            done = subprocess.run(command, input=facts, check=True, stdout=subprocess.PIPE, text=True)
            _add(section, row, [json.loads(line) for line in done.stdout.splitlines()])
    return section


def _add(section: Section, row: _Row, taken: list[dict[str, Any]]) -> None:
    fewest, most = taken[0], taken[-1]
    for one in taken:
        for operation, micros in one["micros"].items():
            octets = "-" if row.octets is None else f"{one['octets']:.0f}"
            ratio = f"{micros / fewest['micros'][operation]:.2f}"
            section.lines.append([row.what, f"{one['size']:,}", octets, operation, f"{micros:.1f}", ratio])
    section.raw[row.what] = taken
    if row.octets is not None:
        section.figures.append(
            at_most(f"{most['size']:,} {row.what}, one more", round(most["octets"]), row.octets, "bytes")
        )
    for operation, micros in most["micros"].items():
        ratio = round(micros / fewest["micros"][operation], 2)
        section.figures.append(
            at_most(f"{most['size']:,} {row.what}, {operation}, against {fewest['size']:,}", ratio, 2)
        )
