# SPDX-License-Identifier: Apache-2.0
"""The pytest fixture, by use, and by pytest in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.paths import ROOT

TESTS = """
import pytest
import dpop.testing

@pytest.mark.dpop_server(mode="google", nonces="rotating", token_lifetime=5)
def test_marked(dpop_server):
    assert isinstance(dpop_server, dpop.testing.DPoPTestServer)
    assert (dpop_server.mode, dpop_server.levers.as_nonces) == ("google", "rotating")
    assert dpop_server.levers.token_lifetime == 5

class TestPlain:
    def test_fresh(self, dpop_server):
        assert dpop_server.mode == "rfc9449"
        assert dpop_server.issuer.startswith("http://127.0.0.1:")
        dpop_server.levers.nonces = "endless"

    def test_fresh_again(self, dpop_server):
        assert dpop_server.levers.nonces == "rotating"
"""


def test_the_fixture_gives_a_fresh_server(tmp_path: Path) -> None:
    """A server per test, with the marker's arguments; the marker is known to a strict pytest."""
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--strict-markers",
        "-W",
        "error",
        "-q",
    ]
    # Loaded by hand, so that the test is the same with and without the package installed.
    command += ["-p", "dpop.testing._pytest_plugin", str(tmp_path)]
    env = {**_env(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, env=env)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_to_load_the_plugin_loads_no_server() -> None:
    """pytest loads the plugin in every run of everyone, so it must not load the server with it."""
    code = (
        "import sys, dpop.testing._pytest_plugin\n"
        "print([name for name in sys.modules if name.startswith('dpop.testing.')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=_env()
    )
    assert done.stdout.strip() == "['dpop.testing._pytest_plugin']"


def test_the_door_knows_its_names() -> None:
    """Every name of __all__ is there, and no other."""
    code = (
        "import dpop.testing\n"
        "for name in dpop.testing.__all__: getattr(dpop.testing, name)\n"
        "try: dpop.testing.nothing\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=_env()
    )
    assert done.stdout.strip() == "module 'dpop.testing' has no attribute 'nothing'"


def _env() -> dict[str, str]:
    """The environment, with the checkout's packages in reach."""
    import os

    root = ROOT
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "cli")])}
