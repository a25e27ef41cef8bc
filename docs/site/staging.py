# SPDX-License-Identifier: Apache-2.0
"""Copies the Markdown files of the project into one folder of sources, so that they can be pages of the site.

The files stand where a forge shows them and link to each other from there. On the site they have shorter addresses, so
links and pictures are written anew. A link to a file that is no page stays as a name without a link, unless the file is
one of those that readers take with them: programs and vectors.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["stage"]

ROOT = Path(__file__).resolve().parents[2]

_SINGLE_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "docs/README.md": "guides.md",
    "docs/benchmarks/README.md": "benchmarks/index.md",
    "examples/README.md": "examples/index.md",
    "vectors/README.md": "vectors/index.md",
}
_FOLDERS = {
    "docs/decisions": "decisions/index.md",
    "examples": "examples/index.md",
    "examples/frameworks": "examples/frameworks.md",
    "vectors": "vectors/index.md",
    "vectors/schemas": "vectors/index.md",
}
_PICTURE = re.compile(
    r'<picture>\s*<source media="\(prefers-color-scheme: dark\)" srcset="(?P<dark>[^"]+)">\s*'
    r'<img alt="(?P<alt>[^"]+)" src="(?P<light>[^"]+)">\s*</picture>'
)
_LINK = re.compile(r'(?P<picture>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)(?P<title>\s"[^"]*")?\)')
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)

_CONTENTS = {
    "Start": ["guides", "curl", "tokens", "by-hand", "device", "playground", "testing", "troubleshooting", "glossary"],
    "Coming from": ["from-bearer", "from-google-auth", "libraries"],
    "Servers you call": ["google", "okta", "auth0", "keycloak", "atproto"],
    "Keys": ["hardware", "softhsm", "tpm", "yubikey", "cloudhsm", "kms", "signers", "openssl"],
    "Servers of your own": ["servers", "cors"],
    "Reference": ["reference/index", "commands/index", "environment", "platforms", "vectors/index", "changelog"],
    "Background": ["threats", "decisions/index", "benchmarks/index", "examples/index", "security", "contributing"],
}


def stage(into: Path) -> None:
    """Write the sources of all pages that come from files of the project.

    :param into: an empty folder.
    """
    pages = dict(_pages())
    for source, page in pages.items():
        text = _rewritten((ROOT / source).read_text("utf-8"), source, pages)
        _write(into / page, text + _appended(page))
    for source, page in _programs().items():
        _write(into / page, _program(source, 1))
    _write(into / "examples/frameworks.md", _frameworks())
    _write(into / "decisions/index.md", _decisions(pages))
    for folder in ("docs/pictures", "docs/benchmarks", "vectors"):
        for path in (ROOT / folder).glob("*.*"):
            if path.suffix in {".svg", ".json"}:
                copy = into / _position(path.relative_to(ROOT).as_posix())
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)


def _pages() -> Iterator[tuple[str, str]]:
    """Each Markdown file of the project that is a page, with the page's place."""
    yield from _SINGLE_PAGES.items()
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name != "README.md":
            yield f"docs/{path.name}", path.name
    for path in sorted((ROOT / "docs" / "decisions").glob("*.md")):
        yield f"docs/decisions/{path.name}", f"decisions/{path.name}"


def _programs() -> dict[str, str]:
    return {f"examples/{path.name}": f"examples/{path.stem}.md" for path in sorted((ROOT / "examples").glob("*.py"))}


def _position(source: str) -> str:
    """The place on the site of a file that is copied as it is."""
    return source.removeprefix("docs/")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


# -- links ------------------------------------------------------------------------------------


def _rewritten(text: str, source: str, pages: dict[str, str]) -> str:
    """The text with links and pictures as they are on the site; what stands in fences stays."""
    page = pages[source]

    def link(found: re.Match[str]) -> str:
        picture, words, target = found["picture"], found["text"], found["target"]
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        file, _, fragment = target.partition("#")
        there = os.path.normpath(PurePosixPath(source).parent / file)
        place = pages.get(there) or _programs().get(there) or _FOLDERS.get(there)
        if place is None and not picture and not there.startswith("vectors/"):
            return words
        address = _relative(place or _position(there), page) + (f"#{fragment}" if fragment else "")
        return f"{picture}[{words}]({address}{found['title'] or ''})"

    def both(found: re.Match[str]) -> str:
        drawings = "\n\n".join(
            f"```{{image}} {_relative(_position(os.path.normpath(PurePosixPath(source).parent / found[name])), page)}\n"
            f":alt: {found['alt']}\n:class: only-{name}\n```"
            for name in ("light", "dark")
        )
        return f"````{{container}} drawing\n{drawings}\n````"

    parts = _FENCE.split(text)
    parts[::2] = [_PICTURE.sub(both, _LINK.sub(link, part)) for part in parts[::2]]
    return "".join(parts)


def _relative(place: str, page: str) -> str:
    return PurePosixPath(os.path.relpath(place, PurePosixPath(page).parent)).as_posix()


# -- what only the site has -------------------------------------------------------------------


def _appended(page: str) -> str:
    if page == "index.md":
        listed = {name for names in _CONTENTS.values() for name in names}
        others = [path.stem for path in sorted((ROOT / "docs").glob("[a-z]*.md")) if path.stem not in listed]
        contents = {**_CONTENTS, "More": others} if others else _CONTENTS
        return "".join(_toctree(names, caption) for caption, names in contents.items())
    if page == "examples/index.md":
        return _toctree([*(PurePosixPath(name).stem for name in _programs().values()), "frameworks"])
    if page == "vectors/index.md":
        names = sorted(path.name for path in (ROOT / "vectors").glob("*.json"))
        return "\n## Download\n\n" + "".join(f"- {{download}}`{name}`\n" for name in names)
    return ""


def _toctree(names: list[str], caption: str | None = None) -> str:
    options = ":hidden:\n" + (f":caption: {caption}\n" if caption else "")
    return "\n```{toctree}\n" + options + "\n" + "\n".join(names) + "\n```\n"


def _program(source: str, level: int) -> str:
    """A heading and a whole program."""
    text = (ROOT / source).read_text("utf-8")
    return f"{'#' * level} {PurePosixPath(source).name}\n\n````python\n{text}````\n"


def _frameworks() -> str:
    sources = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "examples" / "frameworks").glob("*.py"))
    return "# APIs in web frameworks\n\nEach is run by a test on a real server.\n\n" + "\n".join(
        _program(source, 2) for source in sources
    )


def _decisions(pages: dict[str, str]) -> str:
    names = [PurePosixPath(page).name for source, page in pages.items() if source.startswith("docs/decisions/")]
    listed = "".join(f"- [](<{name}>)\n" for name in names)
    toctree = _toctree([PurePosixPath(name).stem for name in names])
    return f"# Decisions\n\nEach with its context, its evidence and what it costs.\n\n{listed}{toctree}"
