# SPDX-License-Identifier: Apache-2.0
"""The public interface: complete, and changed only when the changelog says so."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from support import public_api
from support.paths import ROOT

import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
import dpop.requests


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


@pytest.mark.parametrize(
    "endpoint",
    [
        dpop.aiohttp.AsyncTokenEndpoint,
        dpop.requests.TokenEndpoint,
        dpop.httpx.TokenEndpoint,
        dpop.httpx.AsyncTokenEndpoint,
        dpop.httpx2.TokenEndpoint,
        dpop.httpx2.AsyncTokenEndpoint,
    ],
    ids=lambda endpoint: f"{endpoint.__module__}.{endpoint.__name__}",
)
def test_discover_names_the_settings_of_the_constructor(endpoint: Any) -> None:
    """A token endpoint that is found by its issuer takes every setting of one that is given its URL."""
    constructor, discover = (
        {
            (each.name, each.default)
            for each in inspect.signature(function).parameters.values()
            if each.kind is each.KEYWORD_ONLY
        }
        for function in (endpoint, endpoint.discover)
    )
    assert discover == constructor
