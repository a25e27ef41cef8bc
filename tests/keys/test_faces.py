# SPDX-License-Identifier: Apache-2.0
"""The faces of dpop.keys: light to import, and complete."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

FACES = ["dpop.keys", "dpop.keys.kms", "dpop.keys.pkcs11"]


@pytest.mark.parametrize("face", FACES)
def test_each_public_name_is_there_and_documented(face: str) -> None:
    """``__all__`` is what the module has, and the module's docstring or the name's own says what it is."""
    module = import_module(face)
    for name in module.__all__:
        assert name in (module.__doc__ or "") or getattr(module, name).__doc__, name


@pytest.mark.parametrize("face", ["dpop.keys.kms"])
def test_dir_shows_public_names_only(face: str) -> None:
    """Whoever explores it in an interpreter sees what there is."""
    assert dir(import_module(face)) == sorted(import_module(face).__all__)


def test_the_face_of_the_clouds_loads_none_of_their_libraries() -> None:
    """Naming AwsKms does not load boto3, nor the code of the other two."""
    code = (
        "import sys\nfrom dpop.keys.kms import AwsKms\n"
        "heavy = {'boto3', 'azure', 'google.cloud', 'dpop.keys.kms._azure', 'dpop.keys.kms._gcp'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
