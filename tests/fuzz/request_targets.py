# SPDX-License-Identifier: Apache-2.0
"""Look for a request-target that a server's check and its application read differently.

Each target goes to a real server as it is, with proofs for the URLs that somebody could take it for. Where the request
is admitted, the path that the application sees must be that of the URL that was verified.

python tests/fuzz/request_targets.py [--targets 1000000] [--seed 1] [SERVER ...]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from urllib.parse import unquote

sys.path.insert(0, str(Path(__file__).parents[1]))

from frameworks.resource import PUBLIC_URL
from frameworks.servers import ASGI, FURTHER_ASGI, WSGI, ask, running

from dpop.errors import InvalidTargetError
from dpop.htu import canonical
from dpop.keys import PublicKey
from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import A

__all__ = ["SERVERS", "disagreements"]

SERVERS = (*ASGI, *FURTHER_ASGI, *WSGI)
PIECES = [
    *("/", "//", "/./", "/../", ".", "..", "%2e", "%2E", "%2f", "%2F", "%5c", "\\", "%", "%zz", "%00", "%0a", "%20"),
    *("%C3%A9", "%e9", "\xe9", "%41", "%7E", "%25", "%252e", ";", ";a=1", "?", "?a", "#", "#a", "a", "b", "private"),
    *("http://", "https://", "//evil.example", "http://internal.example:8080", "http://evil.example", "*", "@", ":"),
    *("+", "=", "&", "'", "(", "[", "|", "~", "-", "v1", "items", "\x7f", "\x1f"),
]
_TOKEN = "bound." + PublicKey.from_jwk(Draft(A, "GET", PUBLIC_URL, "j", 1).header()["jwk"]).thumbprint


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


def disagreements(port: int, *, targets: int, seed: int) -> tuple[int, list[str]]:
    """Put that many targets to the server on this port.

    :returns: how many requests were admitted, and the targets that were read in two ways.
    """
    rng = random.Random(seed)
    admitted, wrong = 0, []
    for number in range(targets):
        target = _target(rng)
        for url in sorted(_urls(target)):
            proof = Draft(A, "GET", url, f"{seed}.{number}.{url}"[:200], int(time.time()), access_token=_TOKEN).proof()
            try:
                reply = ask(port, target, ("Authorization", f"DPoP {_TOKEN}"), ("DPoP", proof))
            except (ConnectionError, ValueError, IndexError):
                continue  # a server that hangs up, or says something else than HTTP
            if reply.status != 200:
                continue
            admitted += 1
            said = json.loads(reply.body)
            if unquote(said["htu"].removeprefix(PUBLIC_URL), errors="replace") != said["path"]:
                wrong.append(f"{target!a}: verified {said['htu']}, served {said['path']!a}")
    return admitted, wrong


def main() -> int:
    """Run a long search on the servers named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="*", default=SERVERS, metavar="SERVER")
    parser.add_argument("--targets", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    found = 0
    for name in told.servers:
        with running(name, nonces=False) as port:
            admitted, wrong = disagreements(port, targets=told.targets, seed=told.seed)
        print(f"{name}: {told.targets} targets, {admitted} requests admitted, {len(wrong)} read in two ways")
        print(*wrong, sep="\n")
        found += len(wrong)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
