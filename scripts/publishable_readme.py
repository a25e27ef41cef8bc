#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Rewrite README.md for a package index, where links inside the repository lead nowhere.

    scripts/publishable_readme.py https://forge.example/owner/repository v0.2.0

The release workflow runs it before it builds: only there the address of the repository and the tag are known. Links to
files become links to that tag, pictures links to their bytes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_README = Path(__file__).parents[1] / "README.md"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)]+)(?=\))")
_PICTURE = re.compile(r'(?<= src=")(?![a-z]+:)([^"]+)(?=")|(?<= srcset=")(?![a-z]+:)([^"]+)(?=")')


def with_links_to(text: str, repository: str, tag: str) -> str:
    """The text with each link inside the repository made a link to it.

    :param repository: its address, such as ``https://forge.example/owner/repository``.
    """
    text = _LINK.sub(lambda link: f"{repository}/blob/{tag}/{link[0]}", text)
    return _PICTURE.sub(lambda link: f"{repository}/raw/{tag}/{link[0]}", text)


def main(arguments: list[str]) -> int:
    """Rewrite the file in place; 2 if an argument is missing or is no address."""
    if len(arguments) != 2 or not arguments[0].startswith("https://"):
        print(__doc__, file=sys.stderr)
        return 2
    repository, tag = arguments
    _README.write_text(with_links_to(_README.read_text("utf-8"), repository.rstrip("/"), tag), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
