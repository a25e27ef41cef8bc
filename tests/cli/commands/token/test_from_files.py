# SPDX-License-Identifier: Apache-2.0
"""``dpop token import``: which refresh tokens of google-auth and gcloud can be bound, and which need a new login."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import google.oauth2.credentials
import pytest
from support.cli_process import environment, invoke, run
from support.token_commands import load

import dpop
import dpop.google
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet


@pytest.fixture
def key() -> dpop.Key:
    """The key of the working directory."""
    return dpop.load_key("key.pem")


def google_auth_json(**changes: Any) -> dict[str, Any]:
    """What google-auth's own to_json() writes."""
    credentials = google.oauth2.credentials.Credentials(
        "the-access-token",
        refresh_token="the-refresh-token",
        token_uri="https://oauth2.googleapis.com/token",
        client_id="app.apps.googleusercontent.com",
        client_secret="the-client-secret",
        scopes=["openid", "https://www.googleapis.com/auth/drive.readonly"],
    )
    return {**json.loads(credentials.to_json()), **changes}


def of_server(server: DPoPTestServer, refresh_token: str | None = None) -> dict[str, Any]:
    """The same for a client of this server, with a refresh token that is bound to no key."""
    return google_auth_json(
        client_id=server.client_id,
        client_secret=server.client_secret,
        token_uri=server.token_endpoint,
        refresh_token=refresh_token or server.issue_refresh_token(client_id=server.client_id),
    )


def write(members: dict[str, Any], name: str = "token.json") -> str:
    """Write a file of JSON."""
    Path(name).write_text(json.dumps(members))
    return name


SECRETS = ("the-access-token", "the-refresh-token", "the-client-secret")


# --- a new login is needed


def test_googles_refresh_token_without_a_key_needs_a_new_login() -> None:
    """Nothing is sent or stored; the command for the login is complete, with the file as the client."""
    done = invoke("token", "import", write(google_auth_json()), "--key", "key.pem")
    assert (done.exit_code, done.stdout) == (1, "")
    told = " ".join(done.stderr.split())
    assert "issued without a key, and Google binds a refresh token only when it is issued" in told
    assert (
        "dpop token login --profile google --key key.pem --client token.json --scope openid"
        " --scope https://www.googleapis.com/auth/drive.readonly"
    ) in told
    assert [secret for secret in SECRETS if secret in done.stderr] == []
    assert not Path("tokens.json").exists()


@pytest.mark.parametrize("written_as", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark_is_read(written_as: str) -> None:
    """It is judged as the same file without one."""
    file = write(google_auth_json())
    Path(file).write_bytes(Path(file).read_text("utf-8").encode(written_as))
    done = invoke("token", "import", file, "--key", "key.pem")
    assert "issued without a key" in " ".join(done.stderr.split())


def test_gclouds_own_client_cannot_be_used_for_the_login() -> None:
    """A file of gcloud's application-default login names gcloud's client: the user needs one of their own."""
    members = {
        "type": "authorized_user",
        "client_id": "764086051850-abc.apps.googleusercontent.com",
        "client_secret": "the-client-secret",
        "refresh_token": "the-refresh-token",
    }
    done = invoke("token", "import", write(members, "application_default_credentials.json"), "-k", "key.pem")
    assert done.exit_code == 1
    assert "gcloud's own, so you need one of yours" in " ".join(done.stderr.split())


def test_gclouds_database() -> None:
    """Its accounts are listed if one must be chosen; the database is not changed."""
    with closing(sqlite3.connect("credentials.db")) as database, database:
        database.execute("CREATE TABLE credentials (account_id TEXT PRIMARY KEY, value BLOB)")
        for account in ("a@example.com", "b@example.com"):
            database.execute("INSERT INTO credentials VALUES (?, ?)", (account, json.dumps(google_auth_json())))
    before = Path("credentials.db").read_bytes()
    done = invoke("token", "import", "credentials.db", "-k", "key.pem")
    assert (done.exit_code, "a@example.com, b@example.com" in done.stderr) == (2, True)
    done = invoke("token", "import", "credentials.db", "-k", "key.pem", "--account", "b@example.com")
    assert (done.exit_code, "a new login" in done.stderr or "log in anew" in done.stderr) == (1, True)
    assert Path("credentials.db").read_bytes() == before


@pytest.mark.parametrize(
    ("members", "status", "told"),
    [
        ({"type": "service_account", "private_key": "x"}, 1, "a service account signs in with a key of its own"),
        ({"type": "external_account"}, 1, "workload identity"),
        ({"installed": {"client_id": "a"}}, 2, "describes a client and holds no tokens"),
        ({"client_id": "a", "token": "b"}, 2, "FILE has no refresh_token"),
        ([], 2, "expects JSON of google-auth or gcloud"),
    ],
)
def test_what_holds_no_refresh_token(members: Any, status: int, told: str) -> None:
    """Each kind of file is recognised and named."""
    done = invoke("token", "import", write(members), "-k", "key.pem")
    assert (done.exit_code, done.stdout) == (status, "")
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize("scopes", [5, True, {"a": 1}, [5, None]])
def test_scopes_of_another_type_are_none(scopes: Any) -> None:
    """A file that some program wrote is judged without them."""
    done = invoke("token", "import", write(google_auth_json(scopes=scopes)), "--key", "key.pem")
    assert done.exit_code == 1
    assert "issued without a key" in " ".join(done.stderr.split())


def test_a_database_whose_accounts_are_no_text() -> None:
    """They are shown as text, and any of them can be named."""
    with closing(sqlite3.connect("credentials.db")) as database, database:
        database.execute("CREATE TABLE credentials (account_id, value)")
        database.executemany("INSERT INTO credentials VALUES (?, ?)", [(1, "{}"), (None, "{}")])
    done = invoke("token", "import", "credentials.db", "--key", "key.pem")
    assert done.exit_code == 2
    assert "gcloud has the accounts 1, None in FILE" in " ".join(done.stderr.split())


def test_the_file_serves_as_the_client_of_the_login() -> None:
    """The command that the message names is one that can be run: the client is read from the tokens' file."""
    browser = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"
    Path("browser.py").write_text(browser)
    with DPoPTestServer() as server:
        members = google_auth_json(
            client_id=server.client_id, client_secret=server.client_secret, token_uri=server.token_endpoint
        )
        options = ["--client", write(members), "--issuer", server.issuer, "--key", "key.pem"]
        done = run("token", "login", *options, env={"BROWSER": "python3 browser.py %s"})
    assert done.returncode == 0, done.stderr
    assert load().client_id == server.client_id


# --- tokens that can go on


def test_our_own_credentials_are_taken_with_their_key(key: dpop.Key) -> None:
    """The JSON of dpop.google.Credentials names the key that its refresh token is bound to."""
    with DPoPTestServer(mode="google") as server:
        credentials = dpop.google.Credentials(
            None,
            refresh_token=server.issue_refresh_token(jkt=key.thumbprint, client_id=server.client_id),
            token_uri=server.token_endpoint,
            client_id=server.client_id,
            client_secret=server.client_secret,
            key=key,
        )
        members = {**json.loads(credentials.to_json()), "token_uri": server.token_endpoint}
        done = run("token", "import", write(members), "--profile", "google")
        assert done.returncode == 0, done.stderr
        assert load().jkt == key.thumbprint
        assert "bound to this key already" in " ".join(done.stderr.split())
        # And it is as good as one from a login.
        assert run("token", "refresh", "--client", "token.json", "--profile", "google").returncode == 0


def test_another_key_is_refused_before_anything_is_sent(key: dpop.Key) -> None:
    """The file notes which key its refresh token is bound to."""
    members = google_auth_json(dpop={"jkt": key.thumbprint}, token_uri="https://as.invalid/token")
    dpop.generate_key().save("other.pem")
    done = invoke("token", "import", write(members), "-k", "other.pem")
    assert (done.exit_code, "nothing was sent" in done.stderr) == (3, True)


@pytest.mark.parametrize("full", [True, False])
def test_no_refresh_token_is_spent_where_the_new_one_cannot_be_stored(full: bool, key: dpop.Key) -> None:
    """On a full disk, although the lock is there; and where the store is a directory."""
    FileTokenStore("tokens.json").save(TokenSet(access_token="a0"))
    if not full:
        Path("tokens.json").unlink()
        Path("tokens.json").mkdir()
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); " if full else "import sys; "
    begin = f"{limit}sys.argv[0] = 'dpop'; import runpy; runpy.run_module('dpop_cli', run_name='__main__')"
    with DPoPTestServer(rotate_refresh_tokens=True) as server:
        members = of_server(server)
        command = [sys.executable, "-c", begin, "token", "import", write(members), "-k", "key.pem"]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
        assert server.requests == []
    assert (done.returncode, "nothing was sent" in done.stderr) == (3, True), done.stderr
    assert sorted(path.name for path in Path().glob(".*")) == [".tokens.json.lock"]


@pytest.mark.parametrize("rotates", [True, False])
def test_another_servers_refresh_token_is_tried(rotates: bool, key: dpop.Key) -> None:
    """One refresh with a proof tells; what a copy of the file is still good for is said."""
    with DPoPTestServer(rotate_refresh_tokens=rotates) as server:
        old = server.issue_refresh_token(client_id=server.client_id)
        members = of_server(server, old)
        done = run("token", "import", write(members), "-k", "key.pem")
    assert done.returncode == 0, done.stderr
    tokens = load()
    assert (tokens.is_bound, tokens.jkt, tokens.refresh_token != old) == (True, key.thumbprint, rotates)
    told = " ".join(done.stderr.split())
    assert ("was replaced" in told, "is the old one" in told) == (rotates, not rotates)
    assert [secret for secret in (*SECRETS, old) if secret in done.stdout + done.stderr] == []


def test_a_server_that_binds_nothing(key: dpop.Key) -> None:
    """Its tokens are kept, because the old refresh token may be used up, and a new login is asked for."""
    with DPoPTestServer(bound_tokens=False) as server:
        members = of_server(server)
        done = run("token", "import", write(members), "-k", "key.pem")
    assert (done.returncode, "bound to no key" in done.stderr) == (1, True), done.stderr
    assert not load().is_bound
