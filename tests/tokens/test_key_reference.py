# SPDX-License-Identifier: Apache-2.0
"""Where a key is found again: the holder of a key, or of its reference alone."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import dpop
from dpop.errors import KeyMismatchError, UsageError
from dpop.tokens._key_reference import KeyHolder

KEY = dpop.generate_key()
OTHER = dpop.generate_key()


def test_a_key_or_its_reference_is_needed(tmp_path: Path) -> None:
    """Each of them is enough; the error without both says how to give one."""
    path = tmp_path / "key.pem"
    KEY.save(path)
    for holder in (KeyHolder(KEY), KeyHolder(reference=str(path)), KeyHolder(KEY, reference=str(path))):
        assert holder.prover().thumbprint == KEY.thumbprint
    with pytest.raises(UsageError, match="neither a key nor a reference"):
        KeyHolder()


def test_another_key_is_refused_at_once(tmp_path: Path) -> None:
    """Tokens are bound to one key: another one is refused when it is given, or else when it is loaded."""
    path = tmp_path / "key.pem"
    OTHER.save(path)
    with pytest.raises(KeyMismatchError, match="nothing was sent"):
        KeyHolder(OTHER, jkt=KEY.thumbprint)
    holder = KeyHolder(reference=str(path), jkt=KEY.thumbprint)
    with pytest.raises(KeyMismatchError, match=rf"this key \({re.escape(str(path))}\) is .*nothing was sent"):
        holder.prover()


def test_a_pickle_holds_the_reference_and_the_thumbprint(tmp_path: Path) -> None:
    """The key is read again where the pickle is, and must be the same one."""
    path = tmp_path / "key.pem"
    KEY.save(path)
    pickled = pickle.dumps(KeyHolder(KEY, reference=str(path)))
    assert pickle.loads(pickled).prover().thumbprint == KEY.thumbprint
    path.unlink()
    OTHER.save(path)
    with pytest.raises(KeyMismatchError):
        pickle.loads(pickled).prover()
