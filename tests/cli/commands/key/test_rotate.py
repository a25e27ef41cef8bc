# SPDX-License-Identifier: Apache-2.0
"""`dpop key rotate`: a new key beside the old one; no kill at any moment loses access."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dpop_cli.commands.serve import first_line
from support.cli_process import environment, invoke

import dpop
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, ServerMetadata, TokenSet

ROTATE = ("key", "rotate", "--key", "old.pem", "--out", "new.pem", "--client", "client.json")

# For each line on stdin it runs the command in a child, and ends the child, as a kill does, before the event of that
# number: of those that change a file or talk to a server. A child of a process that is ready takes no time to start.
_KILLED = """
import os, sys
import dpop_cli.tokens.endpoint, dpop_cli.commands.key.rotate
from dpop_cli.main import main

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.chmod", "os.truncate", "socket.connect"}
WRITES = os.O_WRONLY | os.O_RDWR

def run(left):
    def hear(event, arguments):
        nonlocal left
        path, _, flags = arguments if event == "open" else (None, None, 0)
        opened = isinstance(path, str) and isinstance(flags, int) and flags & WRITES and not path.startswith("/dev/")
        if event in CHANGES or opened:
            left -= 1
            if left < 0:
                os._exit(9)

    sys.addaudithook(hear)
    try:
        main(sys.argv[1:], prog_name="dpop")
    except SystemExit as end:
        os._exit(end.code or 0)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        run(int(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server that binds the refresh tokens of public clients only, as RFC 9449 §5 says."""
    with DPoPTestServer(bind_refresh_tokens="public") as running:
        yield running


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("old.pem")


def stored(server: DPoPTestServer, *accounts: str, public: bool = False) -> None:
    """Tokens in tokens.json that are bound to the old key, and the file that describes their client."""
    facts: dict[str, Any] = first_line(server)
    if public:
        facts = {**facts, "client_id": server.public_client_id}
        del facts["client_secret"]
    Path("client.json").write_text(json.dumps(facts), "ascii")
    key = dpop.load_key("old.pem")
    for account in accounts:
        jkt = key.thumbprint if public or server.levers.bind_refresh_tokens == "always" else None
        first = server.issue_refresh_token(jkt=jkt, client_id=facts["client_id"])
        with endpoint_of(server, key, facts["client_id"]) as endpoint:
            FileTokenStore("tokens.json").save(endpoint.refresh(first), account)


def endpoint_of(server: DPoPTestServer, key: dpop.Key, client_id: str) -> TokenEndpoint:
    """The client's endpoint."""
    secret = server.client_secret if client_id == server.client_id else None
    return TokenEndpoint(
        key, ServerMetadata(token_endpoint=server.token_endpoint), client_id=client_id, client_secret=secret
    )


def load(account: str = "default") -> TokenSet:
    """What is in tokens.json."""
    tokens = FileTokenStore("tokens.json").load(account)
    assert tokens is not None
    return tokens


def jkt_of(name: str) -> str:
    """The thumbprint of a key file."""
    return dpop.load_key(name).thumbprint


def test_a_confidential_client(server: DPoPTestServer) -> None:
    """All its tokens are bound to the new key, the old file stays, and the next run finds nothing to do."""
    stored(server, "default", "bob")
    done = invoke(*ROTATE)
    assert done.exit_code == 0, done.stderr
    for account in ("default", "bob"):
        assert (load(account).jkt, load(account).key_reference) == (jkt_of("new.pem"), str(Path("new.pem").absolute()))
    assert Path("new.pem").stat().st_mode & 0o777 == 0o600
    assert "remove it when no other store does" in " ".join(done.stderr.split())
    assert Path("old.pem").exists()
    assert invoke("token", "refresh", "--client", "client.json").exit_code == 0
    asked = len(server.requests)
    assert invoke(*ROTATE).exit_code == 0
    assert len(server.requests) == asked


def test_one_account(server: DPoPTestServer) -> None:
    """The others keep their key, and a key of another's tokens is not touched."""
    stored(server, "default", "bob")
    assert invoke(*ROTATE, "--account", "bob").exit_code == 0
    assert (load().jkt, load("bob").jkt) == (jkt_of("old.pem"), jkt_of("new.pem"))


@pytest.mark.parametrize("public", [True, False])
def test_where_it_cannot_be_done_a_login_is_planned(public: bool) -> None:
    """The tokens of a public client, or at a server that binds all: they stay as good as they were."""
    with DPoPTestServer(bind_refresh_tokens="always") as server:
        stored(server, "default", public=public)
        before = load()
        done = invoke(*ROTATE)
        assert done.exit_code == 1
        said = " ".join(done.stderr.split())
        assert "dpop login --key new.pem --token-store tokens.json" in said
        assert "keep old.pem" in said
        assert load() == before
        # The old key goes on, and the new one waits for the login.
        assert invoke("token", "refresh", "--client", "client.json").exit_code == 0
        assert load().jkt == jkt_of("old.pem")
        assert Path("new.pem").exists()


def test_a_server_that_is_down(server: DPoPTestServer) -> None:
    """Nothing is lost, and the next run goes on with the same new key."""
    stored(server, "default")
    server.levers.fail_next(10, status=503)
    before = load()
    assert invoke(*ROTATE).exit_code == 1
    assert load().fingerprint == before.fingerprint
    assert jkt_of("new.pem") != jkt_of("old.pem")
    made = jkt_of("new.pem")
    server.levers.clear()
    assert invoke(*ROTATE).exit_code == 0
    assert load().jkt == made


def test_what_cannot_be(server: DPoPTestServer) -> None:
    """The old key as the new one; and no tokens."""
    stored(server, "default")
    Path("same.pem").write_bytes(Path("old.pem").read_bytes())
    Path("same.pem").chmod(0o600)
    done = invoke("key", "rotate", "--key", "old.pem", "--out", "same.pem", "--client", "client.json")
    assert (done.exit_code, "is the old key" in done.stderr) == (2, True)
    assert invoke(*ROTATE, "--token-store", "none.json").exit_code == 3


def test_a_password_of_the_old_key_is_that_of_the_new_one(server: DPoPTestServer) -> None:
    """It is in no less safe a place."""
    stored(server, "default")
    Path("password").write_text("hush", "ascii")
    dpop.load_key("old.pem").save("sealed.pem", password="hush")
    done = invoke(*ROTATE[:2], "--key", "sealed.pem", *ROTATE[4:], "--password-file", "password")
    assert done.exit_code == 0, done.stderr
    assert load().jkt == dpop.load_key("new.pem", password="hush").thumbprint


def test_killed_at_every_step(server: DPoPTestServer) -> None:
    """Before each change of a file and each connection: the stored tokens still work, and another run completes."""
    stored(server, "default")
    before, old, status, step = Path("tokens.json").read_bytes(), jkt_of("old.pem"), 9, 0
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, *ROTATE],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        while status == 9:
            Path("new.pem").unlink(missing_ok=True)
            Path("tokens.json").write_bytes(before)
            process.stdin.write(f"{step}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            tokens = load()
            key = dpop.load_key(tokens.key_reference or "")
            assert key.thumbprint == tokens.jkt
            assert tokens.jkt == old or (Path("new.pem").exists() and tokens.jkt == jkt_of("new.pem"))
            if tokens.jkt == old:
                done = invoke(*ROTATE)  # which sends the stored refresh token
                assert done.exit_code == 0, done.stderr
                assert load().jkt == jkt_of("new.pem")
            else:
                with endpoint_of(server, key, server.client_id) as endpoint:
                    endpoint.source(FileTokenStore("tokens.json")).renew()
            step += 1
        process.stdin.close()
    assert status == 0
    assert step > 5


def test_which_tokens_are_bound_to_which_key(server: DPoPTestServer) -> None:
    """dpop key list names the keys of a store with their accounts, beside devices."""
    stored(server, "default", "bob")
    assert invoke(*ROTATE, "--account", "bob").exit_code == 0
    shown = invoke("key", "list", "--token-store", "tokens.json").stdout  # it goes on with the devices of this machine
    assert f"jkt {jkt_of('old.pem')}, {Path('old.pem').absolute()}\n  tokens of default\n" in shown
    assert f"jkt {jkt_of('new.pem')}, {Path('new.pem').absolute()}\n  tokens of bob\n" in shown
