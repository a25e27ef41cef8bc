# SPDX-License-Identifier: Apache-2.0
"""Another package called dpop in the place of this one, or beside it. Needs the checkout: a copy of it is damaged."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dpop_cli.console.exit_status import Status
from support.cli_process import environment
from support.paths import ROOT


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory of packages with this project's two, to be damaged."""
    for package in ("dpop", "cli/dpop_cli"):
        source = ROOT / package
        shutil.copytree(source, tmp_path / "site" / source.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


# Only the copy is importable, wherever else this project is installed.
_FROM_SITE = (
    "import os, sys; here = os.getcwd(); sys.path[:] = [here, *(p for p in sys.path if p"
    " and not os.path.exists(os.path.join(p, 'dpop', 'errors.py')))]; "
)


def run_from(site: Path, code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Python code with the copy of this project, as if it were installed there."""
    command = [sys.executable, "-c", _FROM_SITE + code, *args]
    env = environment(PYTHONPATH="")
    return subprocess.run(command, cwd=site, env=env, capture_output=True, text=True, timeout=60, check=False)


DPOP_CODE = "sys.argv[0] = 'dpop'; import runpy; runpy.run_module('dpop_cli', run_name='__main__')"
REPAIR = "pip uninstall dpop dpop-toolkit"


@pytest.mark.parametrize("module", ["dpop.client", "dpop.testing"])
@pytest.mark.parametrize("overwritten", [True, False])
def test_an_unrelated_package_in_our_place_is_named(site: Path, overwritten: bool, module: str) -> None:
    """It has overwritten files, or taken them away when it was removed: command and import say the repair."""
    place = site / "dpop" / "__init__.py"
    if overwritten:
        place.write_text("VERSION = '0.0.1'\n")
    else:
        place.unlink()
    for args in (["proof", "GET", "https://api.example/"], ["serve"], ["key", "show", "--key", "key.pem"]):
        done = run_from(site, DPOP_CODE, *args)
        assert (done.returncode, REPAIR in done.stderr, "bug" in done.stderr) == (Status.TROUBLE, True, False), (
            done.stderr
        )
    done = run_from(site, f"import {module} as m; getattr(m, m.__all__[0])")
    assert REPAIR in done.stderr


def test_an_unrelated_package_beside_ours_is_mentioned(site: Path) -> None:
    """``dpop --version`` is what one asks when something is odd."""
    assert "Hint" not in run_from(site, DPOP_CODE, "--version").stderr
    metadata = site / "dpop-0.0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: dpop\nVersion: 0.0.1\n")
    done = run_from(site, DPOP_CODE, "--version")
    assert (done.returncode, REPAIR in done.stderr) == (0, True)
