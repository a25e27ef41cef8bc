# SPDX-License-Identifier: Apache-2.0
"""Files and folders of this project that a document names: each exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.paths import COMMANDS, DOCS, PACKAGE, ROOT

DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "vectors").glob("*.md"), *ROOT.glob("examples/*.md")]
)
DOCUMENTS.remove(DOCS / "environment.md")  # it names files of users, in folders that are called dpop, too
_PATH = re.compile(r"`((?:dpop|cli|tests|docs|examples|vectors|scripts|\.ci|\.github)/[\w./-]*)")
ELSEWHERE = {
    "dpop/agent.sock",  # files of users
    "dpop/config.toml",
    "dpop/grpc.py",  # where what decision 14 postpones would stand
}


def place(name: str) -> Path:
    """Where a path of the checkout is; the package and the commands may be installed somewhere else."""
    for folder, installed in (("dpop", PACKAGE), ("cli/dpop_cli", COMMANDS)):
        if name == folder or name.startswith(f"{folder}/"):
            return installed / name.removeprefix(folder).lstrip("/")
    return ROOT / name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_in_documents(document: Path) -> None:
    """A file that was renamed or removed is named by its old path in no document."""
    names = {name.rstrip("/") for name in _PATH.findall(document.read_text("utf-8"))}
    assert [name for name in sorted(names - ELSEWHERE) if not place(name).exists()] == []
