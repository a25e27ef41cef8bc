# SPDX-License-Identifier: Apache-2.0
"""Every public entry point fails with secrets in its hands, and shows none of them.

Looked at are the variables of every frame of a traceback, messages, everything reachable from the error by its
attributes, the representation of what is returned, the logs at DEBUG, processes that are started with their
environment, and the files that are left behind.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.entry_points import (
    MARK,
    PLAIN,
    Entry,
    arguments,
    as_text,
    entries,
    logging_all,
    refusing,
    secrets_in,
    shown_by,
)
from support.recorder import Recorder

# What is asked over a device, a terminal or a network of its own, or stands still: their own tests look at them.
ELSEWHERE = {
    "dpop.keys.pkcs11.Pkcs11Key",  # needs a device
    "dpop.keys.pkcs11.close_modules",  # ends the devices of other tests
    "dpop.keys.register_scheme",  # would stay registered
    "dpop.testing.DPoPTestServer",  # a server that shows what it was sent, for tests
    "dpop.testing.RecordedRequest",  # what it was sent
    "dpop.testing.Levers",
    "dpop.testing.Stats",
    "dpop.testing.check_replay_cache",  # holds no secret, and takes its time
    "dpop.testing.Refusal",
    "dpop.testing.defects",
}
ENTRIES = [
    entry
    for entry in entries()
    if not any(entry.name == name or entry.name.startswith(name + ".") for name in ELSEWHERE)
]
GROUPS = sorted({".".join(entry.name.split(".")[:2]) for entry in ENTRIES})
IS_SECRET = {name for name in arguments(Path(tempfile.mkdtemp()), "http://127.0.0.1:1") if "." not in name}


def test_each_parameter_has_an_arrangement() -> None:
    """A new parameter is either known to hold no secret, or has values that do."""
    unknown = {
        f"{entry.name}({parameter.name})"
        for entry in ENTRIES
        for parameter in entry.parameters()
        if parameter.name not in PLAIN | IS_SECRET and parameter.kind is not parameter.VAR_KEYWORD
    }
    assert unknown == set(), "add the names to PLAIN, or values to arguments(), in tests/support/entry_points.py"


class Walk:
    """Calls entry points and looks at what they show."""

    def __init__(self, place: Path, server: str, logged: list[str]) -> None:
        self.values = arguments(place, server)
        self.runner = asyncio.Runner()
        self.logged = logged
        self.shown: list[str] = []
        self.made: dict[type, list[Any]] = {}
        self.calls = 0
        self.failed = 0

    def values_of(self, entry: Entry, parameter: inspect.Parameter) -> list[Any]:
        """Values for one parameter, the first of which lets the call go on."""
        *_, last = entry.name.split(".")
        of_class = entry.name.split(".")[-2]
        for key in (f"{of_class}.{last}.{parameter.name}", f"{last}.{parameter.name}", f"{of_class}.{parameter.name}"):
            if key in self.values:
                return self.values[key]
        return self.values.get(parameter.name, [])

    def plans(self, entry: Entry) -> Iterator[dict[str, Any]]:
        """Arguments: the required ones with their first values, and then each other value of each in turn."""
        parameters = [each for each in entry.parameters() if each.kind is not each.VAR_KEYWORD]
        known = {each.name: self.values_of(entry, each) for each in parameters}
        first = {
            each.name: known[each.name][0] for each in parameters if each.default is each.empty and known[each.name]
        }
        yield first
        for name, values in known.items():
            for value in values[name in first :]:
                yield {**first, name: value}
        everything = {name: values[0] for name, values in known.items() if values}
        yield {**everything, **first}

    def call(self, entry: Entry, instance: Any, plan: dict[str, Any]) -> Any:
        """Make one call and look at what it shows; what it returned, or the error."""
        self.calls += 1
        before = len(self.logged)
        positional = [
            plan[each.name] for each in entry.parameters() if each.kind is each.POSITIONAL_ONLY and each.name in plan
        ]
        named = {
            each.name: plan[each.name]
            for each in entry.parameters()
            if each.kind is not each.POSITIONAL_ONLY and each.name in plan
        }
        own = [] if instance is None else [instance]
        try:
            result = entry.call(*own, *positional, **named)
            if inspect.isawaitable(result):
                result = self.runner.run(_awaited(result))
            if inspect.isgenerator(result):
                result = list(itertools.islice(result, 3))
        except Exception as error:  # noqa: BLE001 - any
            self.failed += 1
            self.look(entry, "its error", shown_by(error))
            return error
        if type(result).__module__.partition(".")[0] == "dpop":
            self.look(entry, "what it returns", as_text(result))
        for text in self.logged[before:]:
            self.look(entry, "a log", text)
        return result

    def look(self, entry: Entry, where: str, text: str) -> None:
        """Note which secret a text shows."""
        self.shown += [f"{entry.name}: {where} shows {found}" for found in secrets_in(text)[:1]]

    def walk(self, entry: Entry) -> None:
        """Make all calls of an entry point."""
        for instance in self.instances(entry):
            for plan in self.plans(entry):
                result = self.call(entry, instance, plan)
                if hasattr(result, "close") and not isinstance(result, ModuleType) and not inspect.isclass(result):
                    closed = result.close()
                    if inspect.isawaitable(closed):
                        self.runner.run(_awaited(closed))

    def instances(self, entry: Entry) -> list[Any]:
        """Instances for a method: for each way in which its class can be made."""
        if entry.owner is None:
            return [None]
        if entry.owner in self.made and not entry.name.endswith(("close", "__enter__")):
            return self.made[entry.owner]
        of_class = Entry(entry.name.rpartition(".")[0], entry.owner, None)
        made = []
        for plan in itertools.islice(self.plans(of_class), 8):
            try:
                instance = entry.owner(**plan)
            except Exception:  # noqa: BLE001 - the walk of the class itself looks at it
                continue
            self.look(entry, "an instance", as_text(instance))
            made.append(instance)
        return self.made.setdefault(entry.owner, made) if not entry.name.endswith(("close", "__enter__")) else made


async def _awaited(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, 10)


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged at DEBUG."""
    with logging_all() as texts:
        yield texts


@pytest.mark.parametrize("group", GROUPS)
def test_no_entry_point_shows_a_secret(
    group: str, tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames, messages, attributes, representations, logs, environment and temporary files."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with Recorder(refusing) as server, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        walk = Walk(tmp_path, server.origin, logged)
        for entry in ENTRIES:
            if entry.name == group or entry.name.startswith(group + "."):
                walk.walk(entry)
        walk.runner.close()
    assert walk.shown == []
    assert [text for text in map(str, warned) if MARK in text] == []
    assert [name for name, value in os.environ.items() if MARK in value] == []
    assert [path for path in temporary.rglob("*") if path.is_file() and MARK in path.read_text("latin-1")] == []
    assert walk.calls > 0
