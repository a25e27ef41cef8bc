# SPDX-License-Identifier: Apache-2.0
"""An integration whose library is missing says what to install."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib

import pytest
from support.paths import ROOT

from dpop._extras import extra

# Each integration, and the extra that brings its library.
INTEGRATIONS = {
    "dpop.aiohttp": "aiohttp",
    "dpop.fastapi": "fastapi",
    "dpop.google": "google",
    "dpop.httpx": "httpx",
    "dpop.httpx2": "httpx2",
    "dpop.keyring": "keyring",
    "dpop.mcp": "mcp",
    "dpop.redis": "redis",
    "dpop.requests": "requests",
    "dpop.starlette": "starlette",
}

# All of these libraries are away: a finder in front of the others says so, as Python does where none is installed.
WITHOUT = """
import importlib, json, sys

missing = set(sys.argv[1].split(","))


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Missing())
said = {}
for name in sys.argv[2].split(","):
    try:
        module = importlib.import_module(name)
        [getattr(module, each) for each in module.__all__]
    except ModuleNotFoundError as error:
        said[name] = [str(error), error.name, error.__cause__ is None and error.__suppress_context__]
print(json.dumps(said))
"""
LIBRARIES = "aiohttp,fastapi,google,httpx,httpx2,keyring,mcp,redis,requests,starlette,urllib3"


def test_a_missing_library_is_named_with_the_command_that_installs_it() -> None:
    """An import, or the first use of a name that is imported late, is still a ModuleNotFoundError."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT, LIBRARIES, ",".join(INTEGRATIONS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = json.loads(ran.stdout)
    assert said.keys() == INTEGRATIONS.keys()
    for name, brings in INTEGRATIONS.items():
        message, missing, alone = said[name]
        assert message == f"the Python package {missing} is not installed; run: pip install 'dpop-toolkit[{brings}]'"
        assert missing.partition(".")[0] in LIBRARIES.split(",")
        assert alone


@pytest.mark.parametrize("name", ["dpop.client", "fcntl", None])
def test_what_is_missing_of_this_package_or_of_python_names_no_extra(name: str | None) -> None:
    """A damaged installation is not mended by installing an optional dependency."""
    found = ModuleNotFoundError("nothing there", name=name)
    with pytest.raises(ModuleNotFoundError) as caught, extra("requests"):
        raise found
    assert caught.value is found


def test_each_extra_is_one() -> None:
    """The names are those of pyproject.toml."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(INTEGRATIONS.values()) <= extras.keys()
