# SPDX-License-Identifier: Apache-2.0
"""Figures of the report that other pages quote: the benchmark writes them there, so that no page says an old one.

A page quotes a figure as a link to the report, whose title is the name of the figure, or its beginning:
``[0.812](../benchmarks/README.md "verifying ES256, key known, rate against a bare check")``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from measure import Section

ROOT = Path(__file__).parents[2]
_QUOTED = re.compile(r'\[[^\]\n]*\](\([^)\s]*benchmarks/README\.md\s"([^"]*)"\))')


def pages() -> list[Path]:
    """Every page that may quote a figure."""
    inside = [page for page in (ROOT / "docs").rglob("*.md") if "benchmarks" not in page.parts]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(inside)]


def renew(sections: Iterable[Section]) -> None:
    """Write the figures into all pages that quote them."""
    sections = list(sections)
    values = {figure.name: f"{figure.value:g}" for section in sections for figure in section.figures}
    for page in pages():
        text = page.read_text("utf-8")
        new = with_figures(text, values)
        if page == ROOT / "README.md":
            new = with_price(new, next(section for section in sections if section.name == "mint"))
        if new != text:
            page.write_text(new, "utf-8")


def with_figures(text: str, values: Mapping[str, str]) -> str:
    """A page with the figures as they were measured last.

    :raises KeyError: it quotes one that the report does not have, or the beginning of several.
    """

    def quoted(found: re.Match[str]) -> str:
        title = " ".join(found[2].split())
        named = [value for name, value in values.items() if name.startswith(title)]
        if len(named) != 1:
            raise KeyError(f"{len(named)} figures of the report begin with {title!r}")
        return f"[{named[0]}]{found[1]}"

    return _QUOTED.sub(quoted, text)


def with_price(text: str, mint: Section) -> str:
    """The README with what a proof costs."""
    bare, proof = (
        next(cells[3].partition(".")[0] for cells in mint.lines if cells[:3] == ["ES256", "API request", by])
        for by in ("cryptography, signature only", "dpop-toolkit")
    )
    sentence = f"A proof takes {proof} us,\n{bare} of which are the signature."
    changed, times = re.subn(r"A proof takes \d+ us,\s\d+ of which are the signature\.", sentence, text)
    assert times == 1, "the README says nowhere what a proof takes"
    return changed
