# SPDX-License-Identifier: Apache-2.0
"""The look at pages finds what is wrong with them. ``.ci/run`` looks at the site itself: tests/browser/site.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from support.chromium import chromium_path
from support.pages import WINDOWS, flaws


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ("<p>words", {}),
        ('<p style="color: #999">words', {"pale: 'words', 2.8:1": ["light"]}),
        ('<p style="width: 800px">words', {"wider than its window": ["light", "dark"]}),
        ('<p>words<img src="gone.png">', {"gone.png cannot be loaded": ["light", "dark"]}),
    ],
)
def test_a_flaw_is_found(body: str, seen: dict[str, list[str]], tmp_path: Path) -> None:
    """A text that is pale in one colour scheme, a page that is too wide for a phone, a picture that is not there."""
    style = ":root { color-scheme: light dark; background: #fff; color: #000 } body { background: #fff; margin: 0 }"
    dark = "@media (prefers-color-scheme: dark) { body { background: #000; color: #fff } }"
    path = tmp_path / "page.html"
    path.write_text(
        f"<!doctype html><meta name=viewport content='width=device-width'><style>{style}{dark}</style>{body}"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"])
        found = list(flaws(browser, [path]))
        browser.close()
    windows = ["phone"] if "wider than its window" in seen else list(WINDOWS)
    expected = [(window, scheme, words) for window in windows for words, schemes in seen.items() for scheme in schemes]
    assert len(found) >= len(expected)
    for window, scheme, words in expected:
        assert any(each.startswith(f"page.html, {window}, {scheme}: ") and words in each for each in found), found
    assert bool(found) == bool(expected)
