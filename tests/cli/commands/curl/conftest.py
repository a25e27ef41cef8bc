# SPDX-License-Identifier: Apache-2.0
"""A key, a server and a folder for the tests of `dpop curl`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.authority import Authority, make_authority
from support.curl import TOKEN
from support.recorder import Recorder, Response

import dpop


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A key on disk."""
    path = tmp_path_factory.mktemp("key") / "key.pem"
    dpop.generate_key().save(path)
    return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates."""
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def curl_folder(tmp_path: Path, key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a token and some files, and DPOP_KEY."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPOP_KEY", key_file)
    (tmp_path / "token.txt").write_text(TOKEN)
    (tmp_path / "body.txt").write_text("a=1&b=2\n")
    (tmp_path / "up load.bin").write_bytes(b"octets")


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A server that says yes."""
    with Recorder(lambda request: Response(200, [("X-Name", "v")], b"body of " + request.method.encode())) as recorder:
        yield recorder
