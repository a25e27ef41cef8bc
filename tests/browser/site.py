# SPDX-License-Identifier: Apache-2.0
"""Looks at the documentation's site in Chromium, at desktop and phone width, in light and dark.

make site && python tests/browser/site.py .site/html
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import sync_playwright
from support.chromium import chromium_path
from support.pages import flaws

# One page of each kind: front, guides with long tables, plots, pictures, reference, command, decision, list of names.
PAGES = (
    "index.html",
    "profiles.html",
    "environment.html",
    "tokens.html",
    "threats.html",
    "benchmarks/index.html",
    "reference/index.html",
    "commands/index.html",
    "decisions/index.html",
    "genindex.html",
)


def main(folder: Path) -> int:
    """Look at the pages, search, and count the copy buttons; return the exit status."""
    since = time.monotonic()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"])
        found = list(flaws(browser, [folder / name for name in PAGES]))
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.goto((folder / "tokens.html").as_uri())
        if page.locator("button.copybtn").count() != page.locator("div.highlight pre").count():
            found.append("tokens.html: a block of code without a copy button")
        page.goto(f"{(folder / 'search.html').as_uri()}?q=nonce")
        page.locator("ul.search li a").first.wait_for()
        browser.close()
    print("\n".join(found) or f"{len(PAGES)} pages look well, {time.monotonic() - since:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
