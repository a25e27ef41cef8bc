# SPDX-License-Identifier: Apache-2.0
"""Fetch 200 pages of an API at once: one login, one key, one refresh however many tasks wait for it.

    pip install 'dpop-toolkit[httpx2]'
    dpop key generate
    dpop token login --key key.pem --issuer https://as.example --client-id app --scope read
    python crawl.py https://as.example app https://api.example/pages/

tokens.json and key.pem are in the working directory. Twenty requests are on the way at a time; each carries a proof of
its own. If the token expires meanwhile, one task refreshes it and the others wait.
"""

from __future__ import annotations

import asyncio
import collections
import sys

import httpx2

from dpop.httpx2 import AsyncDPoPTransport, AsyncTokenEndpoint
from dpop.origin import Origin
from dpop.tokens import FileTokenStore

TASKS = 200
AT_ONCE = 20


async def main(issuer: str, client_id: str, start: str) -> collections.Counter[int]:
    """Fetch start + "0", start + "1" and so on; return how often each status came."""
    store = FileTokenStore("tokens.json")
    tokens = store.load()
    if tokens is None:
        sys.exit("tokens.json has no tokens: dpop token login gets some")
    key = tokens.load_key()
    free = asyncio.Semaphore(AT_ONCE)
    async with await AsyncTokenEndpoint.discover(key, issuer, client_id=client_id) as endpoint:
        transport = AsyncDPoPTransport(
            endpoint.prover, origins=str(Origin.of_url(start)), access_token=endpoint.source(store)
        )
        async with httpx2.AsyncClient(transport=transport) as client:

            async def fetch(number: int) -> int:
                async with free:
                    return (await client.get(f"{start}{number}")).status_code

            return collections.Counter(await asyncio.gather(*map(fetch, range(TASKS))))


if __name__ == "__main__":
    for status, count in sorted(asyncio.run(main(*sys.argv[1:])).items()):
        print(f"{status}: {count}")
