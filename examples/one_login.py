# SPDX-License-Identifier: Apache-2.0
"""Three programs, one login: a report, a worker of many tasks and a pool of processes, without key or refresh token.

    pip install 'dpop-toolkit[requests,httpx2]'
    dpop key generate --out key.pem
    dpop agent start --key work=key.pem --origin work=https://api.example --origin work=https://as.example
    dpop login --agent --key agent:work --issuer https://as.example --client-id app --scope read
    python one_login.py report https://api.example/me &
    python one_login.py worker https://api.example/me &
    python one_login.py pool https://api.example/me

The signing agent has the key and the login. Each program asks it for proofs and for access tokens; it refreshes once
for all of them. Where it runs as a user of its own, none of them can read the key or the refresh token.
"""

from __future__ import annotations

import asyncio
import collections
import multiprocessing
import sys

import httpx2
import requests

import dpop
from dpop.agent import AgentTokens
from dpop.httpx2 import AsyncDPoPTransport
from dpop.origin import Origin
from dpop.requests import DPoPAdapter


def report(url: str) -> int:
    """One request, as a cron job sends it; return its status."""
    origin = str(Origin.of_url(url))
    with requests.Session() as session:
        session.mount(
            origin, DPoPAdapter(dpop.load_key("agent:work"), origins=origin, access_token=AgentTokens("work"))
        )
        return session.get(url, timeout=30).status_code


async def worker(url: str, tasks: int = 50) -> list[int]:
    """Many requests at once, as a worker sends them; return their status."""
    transport = AsyncDPoPTransport(
        dpop.load_key("agent:work"), origins=str(Origin.of_url(url)), access_token=AgentTokens("work")
    )
    async with httpx2.AsyncClient(transport=transport) as client:
        return [response.status_code for response in await asyncio.gather(*(client.get(url) for _ in range(tasks)))]


def pool(url: str, processes: int = 3) -> list[int]:
    """One request from each of several processes; return their status."""
    with multiprocessing.get_context("spawn").Pool(processes) as workers:
        return workers.map(report, [url] * processes)


def main(role: str, url: str) -> collections.Counter[int]:
    """Do what the role says, and count each status."""
    if role == "report":
        return collections.Counter([report(url)])
    return collections.Counter(pool(url) if role == "pool" else asyncio.run(worker(url)))


if __name__ == "__main__":
    for status, count in sorted(main(*sys.argv[1:]).items()):
        print(f"{status}: {count}")
