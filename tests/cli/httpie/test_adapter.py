# SPDX-License-Identifier: Apache-2.0
"""The plugin of HTTPie: its own program, against a server that verifies."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from support.cli_process import environment

import dpop
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore

KEY = dpop.generate_key()


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server whose nonces change with each response."""
    with DPoPTestServer(nonces="rotating") as server:
        yield server


@pytest.fixture
def stored(server: DPoPTestServer, tmp_path: Path) -> Path:
    """A file of tokens that a login brought; their key is named in it."""
    KEY.save(tmp_path / "key.pem")
    key = dpop.load_key(tmp_path / "key.pem")
    with TokenEndpoint.discover(key, server.issuer, client_id="test-client-public") as endpoint:
        login = endpoint.start_authorization("http://127.0.0.1/", scope="read")
        back = requests.get(login.url, allow_redirects=False, timeout=30).headers["location"]
        FileTokenStore(tmp_path / "tokens.json").save(endpoint.finish_authorization(login, back))
    server.reset()
    return tmp_path / "tokens.json"


def http(home: Path, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the program ``http`` with a home of its own."""
    program = Path(sys.executable).with_name("http")
    settings = {"HOME": str(home), "DPOP_STATE_DIR": str(home / "state"), "NO_COLOR": "1", **extra}
    return subprocess.run(
        [program, "--ignore-stdin", "--check-status", "--print=hb", *args],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def names(server: DPoPTestServer) -> set[str]:
    """The names of the header fields of the last request, in lower case."""
    return {name.lower() for name, _ in server.requests[-1].headers}


def statuses(server: DPoPTestServer) -> list[int]:
    """The status of each response since the login."""
    return [request.status for request in server.requests]


def test_tokens_of_a_store(server: DPoPTestServer, stored: Path) -> None:
    """The token goes out with a proof, a challenge is met, and the next run begins with the nonce that this one got."""
    for expected in ([401, 200], [200]):
        server.reset()
        done = http(stored.parent, "--auth-type=dpop", "-a", str(stored), f"{server.resource}/things")
        assert (done.returncode, statuses(server), server.refusals[1:]) == (0, expected, []), done.stderr


def test_an_expired_token_is_refreshed_and_kept(server: DPoPTestServer, stored: Path) -> None:
    """The refreshed token is in the file afterwards."""
    before = FileTokenStore(stored).load()
    assert before is not None
    FileTokenStore(stored).save(dataclasses.replace(before, issued_at=1, expires_at=2))
    done = http(stored.parent, "-A", "dpop", "-a", str(stored), f"{server.resource}/things")
    after = FileTokenStore(stored).load()
    assert after is not None
    assert (done.returncode, after.access_token != before.access_token) == (0, True), done.stderr


def test_a_body_is_sent_again(server: DPoPTestServer, stored: Path) -> None:
    """With the challenge's nonce, and through a redirect."""
    server.levers.redirect_next("/resource/there", status=307, path="/resource/things")
    args = ("-A", "dpop", "-a", str(stored), "--follow", "PUT", f"{server.resource}/things", "name=value")
    done = http(stored.parent, *args)
    assert done.returncode == 0, done.stdout + done.stderr
    sent = [request for request in server.requests if request.status == 200]
    assert [(request.method, request.path) for request in sent] == [("PUT", "/resource/there")]


def test_nothing_goes_to_another_origin(server: DPoPTestServer, stored: Path) -> None:
    """A redirect to another server brings it neither token nor proof."""
    with DPoPTestServer() as other:
        server.levers.redirect_next(f"{other.resource}/things", path="/resource/things")
        http(stored.parent, "-A", "dpop", "-a", str(stored), "--follow", f"{server.resource}/things")
        assert len(other.requests) == 1
        assert not {"authorization", "dpop"} & names(other)


def test_a_key_alone(server: DPoPTestServer, stored: Path) -> None:
    """It signs without a token; without ``-a`` the key is that of DPOP_KEY."""
    for args, extra in (
        (("-a", str(stored.parent / "key.pem")), {}),
        ((), {"DPOP_KEY": str(stored.parent / "key.pem")}),
    ):
        server.reset()
        http(stored.parent, "-A", "dpop", *args, f"{server.resource}/things", **extra)
        assert {"authorization", "dpop"} & names(server) == {"dpop"}


def test_a_session_file_holds_no_secret(server: DPoPTestServer, stored: Path) -> None:
    """HTTPie writes ``-a`` into it, which is a name. HTTPie reads it too late to sign, so each run names the key."""
    session = stored.parent / "session.json"
    url = f"{server.resource}/things"
    for _ in range(2):
        done = http(stored.parent, f"--session={session}", "-A", "dpop", "-a", str(stored), url)
        assert done.returncode == 0, done.stdout + done.stderr
    tokens = FileTokenStore(stored).load()
    assert tokens is not None
    assert tokens.access_token not in session.read_text()
    assert str(tokens.refresh_token) not in session.read_text()
    server.reset()
    done = http(stored.parent, f"--session={session}", url)
    assert (done.returncode, server.requests) == (1, [])
    assert "name the key in each run, -A dpop -a" in done.stderr


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no-such-file.pem", "cannot read the key file 'no-such-file.pem'"),
        (
            "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln",
            "there is no such file, and its name looks like a key or",
        ),
        ("", "which key? use -a key.pem, -a tokens.json, or DPOP_KEY"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, named: str, said: str) -> None:
    """In a sentence, as HTTPie says it, without a traceback."""
    done = http(tmp_path, "-A", "dpop", *(("-a", named) if named else ()), "http://127.0.0.1:9/")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.strip().startswith(f"http: error: {said}")


def test_other_runs_load_nothing_of_this_package(server: DPoPTestServer, tmp_path: Path) -> None:
    """HTTPie loads its plugins at every start; without these credentials its own transport is used."""
    assert http(tmp_path, f"{server.resource}/things").returncode == 4
    assert "dpop" not in names(server)
    code = (
        "import sys\nfrom httpie.core import main\n"
        "main(['http', '--ignore-stdin', sys.argv[1]])\n"
        "assert 'dpop_cli.httpie' in sys.modules\nprint([name for name in sys.modules if name == 'dpop'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, server.resource], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
