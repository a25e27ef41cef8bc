# SPDX-License-Identifier: Apache-2.0
"""Finds links, anchors and pictures of built pages that lead nowhere."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

__all__ = ["broken_links"]


class _Page(HTMLParser):
    """The anchors of a page, and all that it links to or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of what the tag names."""
        del tag
        for name, value in attrs:
            if value is None:
                continue
            if name in {"id", "name"}:
                self.anchors.add(value)
            elif name in {"href", "src"}:
                self.targets.add(value)
            elif name == "srcset":
                self.targets.update(part.split()[0] for part in value.split(","))


def broken_links(folder: Path) -> tuple[list[str], int]:
    """Links from page to page, to anchors, pictures and other files that are not there; and how many were tried.

    :param folder: the built site.
    """
    pages = {path.resolve(): _Page(path.read_text("utf-8")) for path in folder.rglob("*.html")}
    wrong, tried = [], 0
    for path, page in pages.items():
        for target in sorted(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            tried += 1
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            fragment = unquote(parts.fragment)
            if not there.is_file():
                wrong.append(f"{path.relative_to(folder.resolve())}: no file {target}")
            elif fragment and there in pages and fragment not in pages[there].anchors:
                wrong.append(f"{path.relative_to(folder.resolve())}: no anchor {target}")
    return wrong, tried
