# SPDX-License-Identifier: Apache-2.0
"""Play the model of a grant in which everything goes wrong (tests/support/grant_model.py), for an hour by default.

    python tests/benchmarks/grant_model.py [--seconds 3600] [--seed N] [--store file|redis|keyring|memory]

Prints a line for each round. A line that begins with VIOLATION names what must not be, and everything that happened in
its round. Threads and processes run as they like, so that a seed does not repeat a round exactly: play it a few times.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.grant_model import STORES, rounds
from support.redis_server import running_redis


def main() -> int:
    """Play rounds for so long; exit status 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the others follow")
    parser.add_argument("--rounds", type=int, default=10**9)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--store", choices=STORES, default=None, help="all in turn by default")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    violations = count = 0
    with running_redis() as server:
        seeds = iter(range(seed, seed + options.rounds))
        stores = (options.store,) if options.store else STORES
        until = time.monotonic() + options.seconds
        for line, violated in rounds(seeds, stores, server.url, options.steps, until=until):
            count += 1
            violations += bool(violated)
            print(line, flush=True)
    print(f"{count} rounds from seed {seed}: {violations} violations")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
