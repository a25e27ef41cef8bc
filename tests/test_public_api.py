# SPDX-License-Identifier: Apache-2.0
"""The public interface: complete, and changed only when the changelog says so."""

from __future__ import annotations

import re

from support import public_api
from support.paths import ROOT


def test_every_name_in_a_signature_can_be_imported() -> None:
    """Whoever reads a signature can write its types down, without importing from an inner module."""
    assert public_api.unreachable_names() == []


def test_what_a_module_shows_is_what_is_public() -> None:
    """``dir()`` of a package shows its public names, and each of them is there."""
    wrong = []
    for face in public_api.faces():
        shown = {name for name in dir(face) if not name.startswith("_")}
        lacking = [name for name in face.__all__ if name not in shown or getattr(face, name, None) is None]
        wrong += [f"{face.__name__} lacks {name}" for name in lacking]
    assert wrong == []


def test_a_change_of_the_interface_is_in_the_changelog() -> None:
    """Each public name that came, went or changed since docs/public-api.txt was written is named in the changelog."""
    frozen = dict(line.split(": ", 1) for line in public_api.FROZEN.read_text("utf-8").splitlines())
    now = public_api.described()
    changed = sorted(name for name in frozen.keys() | now.keys() if frozen.get(name) != now.get(name))
    unreleased = (ROOT / "CHANGELOG.md").read_text("utf-8").partition("\n## [")[2].partition("\n## [")[0]
    told = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", unreleased))))
    assert [name for name in changed if name.rpartition(".")[2] not in told] == [], (
        "name it in CHANGELOG.md, in its first section, then run: make api"
    )
