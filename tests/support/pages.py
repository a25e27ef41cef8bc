# SPDX-License-Identifier: Apache-2.0
"""What is looked at on pages in a browser: contrast, and width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

from playwright.sync_api import Browser, ConsoleMessage, Page, Request

__all__ = ["PALE_TEXTS", "WINDOWS", "flaws"]

# The contrast of each text with what is behind it (WCAG 2.2, 1.4.3), where it is too low.
PALE_TEXTS = """() => {
  const numbers = (color) => color.match(/[0-9.]+/g).map(Number)
  const light = ([r, g, b]) => [r, g, b].map((each) => each / 255)
    .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4)
    .reduce((sum, each, index) => sum + each * [0.2126, 0.7152, 0.0722][index], 0)
  const behind = (element) => {
    const found = numbers(getComputedStyle(element).backgroundColor)
    return found.length < 4 || found[3] > 0 ? found : behind(element.parentElement)
  }
  return [...document.querySelectorAll("body *")].filter((element) =>
      element.checkVisibility() && [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => {
      const style = getComputedStyle(element)
      const ink = light(numbers(element.ownerSVGElement ? style.fill : style.color))
      const paper = light(behind(element))
      return [element.textContent.slice(0, 40), (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)]
    }).filter(([, contrast]) => contrast < 4.5)
}"""

_TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"

WINDOWS = {"desktop": (1280, 900), "phone": (390, 844)}
"""Width and height of the windows in which pages are looked at."""

_SCHEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
_PATIENCE = 60_000  # milliseconds: a busy machine may need more than Playwright's thirty seconds


def flaws(browser: Browser, pages: Iterable[Path]) -> Iterator[str]:
    """Open pages in each window, in light and dark colours, and say what is wrong with them."""
    pages = list(pages)
    for window, (width, height) in WINDOWS.items():
        for scheme in _SCHEMES:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            context.set_default_timeout(_PATIENCE)
            page = context.new_page()
            for path in pages:
                yield from (f"{path.name}, {window}, {scheme}: {flaw}" for flaw in _flaws_of(page, path.as_uri()))
            context.close()


def _flaws_of(page: Page, url: str) -> list[str]:
    found: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            found.append(message.text)

    def miss(request: Request) -> None:
        found.append(f"{request.url} cannot be loaded")

    page.on("console", hear)
    page.on("requestfailed", miss)
    page.goto(url)
    too_wide = page.evaluate(_TOO_WIDE)
    if too_wide > 0:
        found.append(f"wider than its window by {too_wide} pixels")
    found += [f"pale: {text!r}, {contrast:.1f}:1" for text, contrast in page.evaluate(PALE_TEXTS)]
    page.remove_listener("console", hear)
    page.remove_listener("requestfailed", miss)
    return found
