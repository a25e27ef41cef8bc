# SPDX-License-Identifier: Apache-2.0
"""Look for a request-target that a server's check and its application read differently.

Each target goes to a real server as it is, with proofs for the URLs that somebody could take it for. Where the request
is admitted, the path that the application sees must be that of the URL that was verified.

python tests/fuzz/request_targets.py [--targets 1000000] [--seconds 600] [--seed 1] [SERVER ...]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.resource import PUBLIC_URL
from support.servers import ASGI, FURTHER_ASGI, WSGI, Connection, running

from dpop.errors import InvalidTargetError
from dpop.htu import canonical
from dpop.keys import PublicKey
from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import ECKey

__all__ = ["SERVERS", "Found", "disagreements"]

SERVERS = (*ASGI, *FURTHER_ASGI, *WSGI)
PIECES = [
    *("/", "//", "/./", "/../", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", "%", "%zz", "%00", "%0a", "%20"),
    *("%C3%A9", "%e9", "\xe9", "%41", "%7E", "%25", "%252e", ";", ";a=1", "?", "?a", "#", "#a", "a", "b", "private"),
    *("http://", "https://", "//evil.example", "http://internal.example:8080", "http://evil.example", "*", "@", ":"),
    *("+", "=", "&", "'", "(", "[", "|", "~", "-", "v1", "items", "\x7f", "\x1f"),
]


@dataclass
class Found:
    """What a search found.

    :param wrong: the targets that were read in two ways.
    :param refused: the requests that were not admitted, by status.
    """

    targets: int = 0
    admitted: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: Counter[int] = field(default_factory=Counter)


# The server remembers 10,000 proofs of one key; a long run has more.
_KEYS = [ECKey(f"key {number}") for number in range(16)]
_TOKENS = [
    f"bound.{PublicKey.from_jwk(Draft(key, 'GET', PUBLIC_URL, 'j', 1).header()['jwk']).thumbprint}" for key in _KEYS
]


def _target(rng: random.Random) -> str:
    text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 8)))
    return text if rng.random() < 0.2 else "/" + text


def _urls(target: str) -> set[str]:
    """The URLs that a server may take it for."""
    path = target.partition("?")[0].partition("#")[0]
    bare = "/" + path.partition("://")[2].partition("/")[2] if "://" in path else path
    urls = {PUBLIC_URL + path, PUBLIC_URL + bare, PUBLIC_URL + "/" + bare.lstrip("/")}
    for url in sorted(urls):
        try:
            urls.add(canonical(url))
        except InvalidTargetError:
            continue
    return urls


def disagreements(port: int, *, targets: int, seed: int, seconds: float = math.inf) -> Found:
    """Put that many targets to the server on this port, or as many as the time allows."""
    rng = random.Random(seed)
    found, deadline = Found(), time.monotonic() + seconds
    # Some servers do not answer some targets, and keep the connection.
    with Connection(port, timeout=3) as connection:
        while found.targets < targets and time.monotonic() < deadline:
            target = _target(rng)
            found.targets += 1
            for url in sorted(_urls(target)):
                jti = f"{seed}.{found.targets}.{url}"[:200]
                key, token = _KEYS[found.targets % 16], _TOKENS[found.targets % 16]
                proof = Draft(key, "GET", url, jti, int(time.time()), access_token=token).proof()
                try:
                    reply = connection.ask(target, ("Authorization", f"DPoP {token}"), ("DPoP", proof))
                except (OSError, ValueError, IndexError):
                    continue  # a server that hangs up, or says something else than HTTP
                if reply.status != 200:
                    found.refused[reply.status] += 1
                    continue
                found.admitted += 1
                said = json.loads(reply.body)
                if unquote(said["htu"].removeprefix(PUBLIC_URL), errors="replace") != said["path"]:
                    found.wrong.append(f"{target!a}: verified {said['htu']}, served {said['path']!a}")
    return found


def main() -> int:
    """Run a long search on the servers named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=SERVERS, metavar="SERVER")
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=math.inf, help="at most, for each server")
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    wrong = 0
    for name in told.servers:
        with running(name, nonces=False) as port:
            found = disagreements(port, targets=told.targets, seed=told.seed, seconds=told.seconds)
        print(
            f"{name}: {found.targets} targets, {found.admitted} requests admitted, {len(found.wrong)} read in two ways;"
            f" refused: {dict(found.refused)}",
            *found.wrong,
            sep="\n",
            flush=True,
        )
        wrong += len(found.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
