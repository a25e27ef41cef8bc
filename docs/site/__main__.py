# SPDX-License-Identifier: Apache-2.0
"""Builds the documentation as a site, and fails at a warning or a link that leads nowhere.

python docs/site --out .site
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from commands import write_commands
from links import broken_links
from reference import write_reference
from sphinx.cmd.build import main as sphinx
from staging import ROOT, stage

HERE = Path(__file__).parent


def main() -> int:
    """Build; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / ".site", help="this folder is emptied first")
    parser.add_argument("--external", action="store_true", help="also try each link to another site")
    arguments = parser.parse_args()
    since = time.monotonic()
    out = arguments.out
    sources, pages = out / "source", out / "html"
    for folder in (sources, pages):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    stage(sources)
    write_reference(sources / "reference")
    write_commands(sources / "commands")
    options = ["-q", "-n", "-W", "--keep-going", "-c", str(HERE), "-d", str(out / "doctrees"), str(sources)]
    if arguments.external:
        return sphinx(["-b", "linkcheck", *options, str(out / "external")])
    status = sphinx(["-E", "-b", "html", *options, str(pages)])
    if status:
        return status
    wrong, counted = broken_links(pages)
    for line in wrong:
        print(line, file=sys.stderr)
    built = len(list(pages.rglob("*.html")))
    print(f"{pages}: {built} pages, {counted} links, {len(wrong)} broken, {time.monotonic() - since:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
