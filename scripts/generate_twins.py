#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Generate the modules that repeat another one: for a second HTTP library, for tasks instead of threads.

    python scripts/generate_twins.py            write them
    python scripts/generate_twins.py --check    fail if one is not what would be written

A twin is its source with some texts replaced, in the order given here. A pattern that no longer occurs in the source
is an error, so that this list stays true. ruff sorts the imports and breaks the lines.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Twin(NamedTuple):
    """A module that is generated."""

    path: str
    source: str
    replacements: list[tuple[str, str]]
    """Regular expressions with their replacements."""


TWINS = [
    Twin("dpop/httpx.py", "dpop/httpx2.py", [(r"httpx2", "httpx")]),
    Twin(
        "dpop/tokens/_async_endpoint.py",
        "dpop/tokens/_endpoint.py",
        [
            (r"for tasks is :mod:`dpop.tokens._async_endpoint`", "for threads is :mod:`dpop.tokens._endpoint`"),
            (r"methods of token endpoints for threads", "methods of token endpoints for tasks"),
            (r"(?<=    )def (?!source\()(?=\w)", "async def "),
            (r"with make\(", "async with make("),
            (r"( timeout: float = .*,)", r"\1  # noqa: ASYNC109 - of the endpoint, as in its constructor"),
            (r"(\w+\.run\()", r"await \1"),
            (r"\bSync(?=Endpoint)", "Async"),
            (r"\bRefreshingSource", "AsyncRefreshingSource"),
            (r"tokens\._source", "tokens._async_source"),
            (r"Make a token source: call it for", "Make a token source: await a call of it for"),
            (
                r"endpoint for threads; the base of every integration's ``Token",
                "endpoint for tasks; the base of ``AsyncToken",
            ),
            (r"from any thread", "from any task"),
            (r"several threads", "several tasks"),
        ],
    ),
    Twin(
        "dpop/redis/_async_replay.py",
        "dpop/redis/_replay.py",
        [
            (r"in Redis for threads", "in Redis for tasks"),
            (r"for tasks is :mod:`dpop.redis._async_replay`", "for threads is :mod:`dpop.redis._replay`"),
            (r"(?<=    )def (?!__)", "async def "),
            (r"self\._fallback\.add\(.*\)", r"await awaited(\g<0>)"),
            (r"add_unbound_of\(.*\)", r"await awaited(\g<0>)"),
            (r"(self\._set|self\._client\.(set|info)|pipeline\.execute|(?<=return )self\.add)\(", r"await \g<0>"),
            (r"\bwith self", "async with self"),
            (r"all_primaries,", "all_primaries, awaited,"),
            (r"\bredis(?=\.Redis|$)", "redis.asyncio"),
            (r"\bRedisReplayCache", "AsyncRedisReplayCache"),
            (r"(?<=\| )ReplayCache", "ReplayCache | AsyncReplayCache"),
            (r"import ReplayCache", "import AsyncReplayCache, ReplayCache"),
            (
                r"A replay cache, or a store of used nonces, for several processes and hosts",
                "A :class:`dpop.redis.RedisReplayCache` for ``redis.asyncio`` and the async methods of a verifier",
            ),
            (r"a client with timeouts", "a client of ``redis.asyncio`` with timeouts"),
            (r"such as a MemoryReplayCache,", "such as a MemoryReplayCache or an async one,"),
        ],
    ),
]


def generated(twin: Twin) -> str:
    """The text of a twin.

    :raises SystemExit: a replacement has nothing to replace.
    """
    text = (ROOT / twin.source).read_text("utf-8")
    for pattern, replacement in twin.replacements:
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        if count == 0:
            raise SystemExit(f"{twin.source} no longer contains {pattern!r}; correct scripts/generate_twins.py")
    notice = f"# Generated from {twin.source} by scripts/generate_twins.py; do not edit.\n"
    licence, rest = text.split("\n", 1)
    text = f"{licence}\n{notice}{rest}"
    for command in (["check", "--fix", "--exit-zero", "--select=I001,RUF022"], ["format"]):
        options = ["--quiet", f"--stdin-filename={twin.path}", "-"]
        ruff = [sys.executable, "-m", "ruff", *command, *options]
        text = subprocess.run(ruff, input=text, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT).stdout
    return text


def main() -> None:
    """Write all twins, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a module is not what it should be")
    check = parser.parse_args().check
    stale = []
    for twin in TWINS:
        path, text = ROOT / twin.path, generated(twin)
        if path.read_text("utf-8") == text:
            continue
        stale.append(twin.path)
        if not check:
            path.write_text(text, "utf-8")
            print(f"wrote {twin.path}")
    if check and stale:
        raise SystemExit(f"{', '.join(stale)}: not as generated; run python scripts/generate_twins.py")


if __name__ == "__main__":
    main()
