# SPDX-License-Identifier: Apache-2.0
"""The site's own tools find what is broken. ``.ci/run`` builds the site itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from support.paths import DOCS


def tool(name: str) -> ModuleType:
    """A module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ('<a href="b.html#there">', []),
        ('<a href="#own"><h1 id="own">', []),
        ('<a href="https://example.com/#x">', []),
        ('<a href="c.html">', ["a.html: no file c.html"]),
        ('<a href="b.html#nowhere">', ["a.html: no anchor b.html#nowhere"]),
        ('<a href="#nowhere">', ["a.html: no anchor #nowhere"]),
        ('<img src="picture.svg">', ["a.html: no file picture.svg"]),
        ('<source srcset="light.svg, dark.svg 2x">', ["a.html: no file dark.svg", "a.html: no file light.svg"]),
    ],
)
def test_a_broken_link_is_found(body: str, wrong: list[str], tmp_path: Path) -> None:
    """Links to pages, to anchors and to pictures are tried; links to other sites are not."""
    (tmp_path / "a.html").write_text(body, "utf-8")
    (tmp_path / "b.html").write_text('<h1 id="there">', "utf-8")
    assert tool("links").broken_links(tmp_path)[0] == wrong


def test_pages_link_to_each_other_where_the_site_has_them(tmp_path: Path) -> None:
    """Links of files that stand elsewhere on a forge are written anew; the two pictures of one drawing become both."""
    tool("staging").stage(tmp_path)
    front = (tmp_path / "index.md").read_text("utf-8")
    assert "](tokens.md)" in front
    assert "](guides.md)" in front
    assert "```{image} pictures/flow-dark.svg" in front
    assert "<picture>" not in front
    assert "](../benchmarks" not in front
    decision = (tmp_path / "decisions" / "0010-a-pkcs11-binding-of-our-own.md").read_text("utf-8")
    assert '](../benchmarks/index.md "SoftHSM, not verified, rate against a bare loop")' in decision
    guides = (tmp_path / "guides.md").read_text("utf-8")
    assert "](index.md)" in guides
    assert "](vectors/index.md)" in guides
    assert "](decisions/index.md)" in guides


def test_no_page_names_a_path_of_the_machine_that_built_it(tmp_path: Path) -> None:
    """Sources of pages come from any checkout."""
    staging = tool("staging")
    staging.stage(tmp_path)
    pages = list(tmp_path.rglob("*.md"))
    assert len(pages) > 50
    assert [path.name for path in pages if str(staging.ROOT) in path.read_text("utf-8")] == []
