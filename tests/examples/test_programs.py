# SPDX-License-Identifier: Apache-2.0
"""Every program under examples/ is run as its first comment says, on real servers."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from support.agents import agent_running, rules_of, socket_folder
from support.jwt_issuer import JWTIssuer
from support.paths import ROOT
from support.pkcs11_devices import KEY, PIN, SoftHsm
from support.ports import reserved_port

import dpop
from dpop.agent import AgentLogins
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet

EXAMPLES = ROOT / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


def run(name: str, *arguments: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a folder."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@contextlib.contextmanager
def serving(*command: str, port: int, **env: str) -> Iterator[str]:
    """Run a server among the examples until the end of the block; yield its origin."""
    origin = f"http://127.0.0.1:{port}"
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=EXAMPLES,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "API_URL": origin, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            deadline = time.monotonic() + 180
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=180):
                    break
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield origin
        finally:
            process.terminate()
            process.communicate()


def called(key: dpop.Key, url: str, token: str, *, method: str = "GET") -> requests.Response:
    """Call an API with a bound token, on a new connection."""
    origin = url.rpartition("/")[0]
    with requests.Session() as session:
        session.mount(origin, DPoPAdapter(key, origins=origin, access_token=token))
        return session.request(method, url, timeout=180)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_a_program_is_short_and_says_how_to_run_it(program: Path) -> None:
    """Under 80 lines, with what to install at the top; each has a test below. A login of its own takes fifty more."""
    text = program.read_text("utf-8")
    assert len(text.splitlines()) < (135 if program.name == "mcp_client.py" else 80)
    comment = ast.get_docstring(ast.parse(text)) or ""
    assert "pip install" in comment
    assert program.stem in comment or program.stem == "test_my_client"
    assert f'"{program.name}"' in Path(__file__).read_text("utf-8") or f'"{program.stem}:app"' in Path(
        __file__
    ).read_text("utf-8")


# --- clients


def test_the_cron_job(tmp_path: Path) -> None:
    """It refreshes what is due and nothing else; a dead refresh token is status 1."""
    key = dpop.generate_key()
    key.save(tmp_path / "key.pem")
    store = FileTokenStore(tmp_path / "tokens.json")
    with DPoPTestServer(mode="google") as server:
        client = {"client_id": server.client_id, "client_secret": server.client_secret}
        (tmp_path / "client_secret.json").write_text(
            json.dumps({"installed": {**client, "token_uri": server.token_endpoint}})
        )
        for account in ("alice", "bob"):
            with TokenEndpoint(key, server.token_endpoint, profile=dpop.profiles.GOOGLE, **client) as endpoint:
                tokens = endpoint.refresh(server.issue_refresh_token(jkt=key.thumbprint, client_id=server.client_id))
            facts = {"key_reference": str(tmp_path / "key.pem")}
            store.save(tokens.replace(**facts, expires_at=1.0 if account == "alice" else tokens.expires_at), account)
        before = {account: store.load(account) for account in ("alice", "bob")}
        files = ("client_secret.json", "tokens.json")
        done = run("refresh_google_tokens.py", *files, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == ["alice: fresh", "bob: fresh"]
        alice = store.load("alice")
        assert alice is not None
        assert alice != before["alice"]
        dead = TokenSet(**{**alice.to_dict(), "refresh_token": "dead", "expires_at": 1.0})
        store.save(dead, "alice")
        assert run("refresh_google_tokens.py", *files, folder=tmp_path).returncode == 1


def test_the_crawler(tmp_path: Path) -> None:
    """200 pages, all admitted, and one refresh although the token had expired before the first."""
    key = dpop.generate_key()
    key.save(tmp_path / "key.pem")
    with DPoPTestServer(nonces="rotating") as server:
        client_id = server.public_client_id
        tokens = TokenSet(
            access_token="gone",
            expires_at=1.0,
            refresh_token=server.issue_refresh_token(jkt=key.thumbprint, client_id=client_id),
            jkt=key.thumbprint,
            key_reference=str(tmp_path / "key.pem"),
            token_endpoint=server.token_endpoint,
            client_id=client_id,
        )
        FileTokenStore(tmp_path / "tokens.json").save(tokens)
        done = run("crawl.py", server.issuer, client_id, f"{server.resource}/pages/", folder=tmp_path)
        granted = [each for each in server.requests if (each.endpoint, each.status) == ("token", 200)]
    assert (done.returncode, done.stdout) == (0, "200: 200\n"), done.stderr
    assert len(granted) == 1


def test_three_programs_with_one_login(tmp_path: Path) -> None:
    """All are admitted, at the same time, by one refresh in the agent; the API has each token-bound request signed."""
    with DPoPTestServer(nonces="rotating") as server, socket_folder() as folder:
        logins = AgentLogins(folder / "logins", TokenEndpoint)
        with agent_running(folder, rules_of(folder, origins=[server.origin]), logins=logins) as agent:
            key = agent.key()
            agent.client().request(
                "login",
                account="work",
                key="work",
                token_endpoint=server.token_endpoint,
                client_id=server.public_client_id,
                access_token="gone",
                token_type="DPoP",
                expires_at=1,
                refresh_token=server.issue_refresh_token(jkt=key.thumbprint, client_id=server.public_client_id),
            )

            def started(role: str) -> subprocess.CompletedProcess[str]:
                return run("one_login.py", role, server.resource, folder=tmp_path, DPOP_AGENT_SOCK=str(agent.path))

            with ThreadPoolExecutor() as workers:
                done = list(workers.map(started, ("report", "worker", "pool")))
        granted = [each for each in server.requests if (each.endpoint, each.status) == ("token", 200)]
    assert [each.stdout for each in done] == ["200: 1\n", "200: 50\n", "200: 3\n"], done
    assert len(granted) == 1


def test_tests_of_a_client(tmp_path: Path) -> None:
    """They pass as they stand."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", os.devnull, str(EXAMPLES / "test_my_client.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout


def test_a_key_in_a_device(softhsm: SoftHsm, tmp_path: Path) -> None:
    """With a key in SoftHSM, the API admits the request and names the key."""
    uri = f"pkcs11:token={softhsm.label};object={KEY}"
    with DPoPTestServer() as server:
        done = run(
            "hardware_key.py", uri, server.issuer, server.client_id, server.resource,
            folder=tmp_path, **softhsm.environment, PIN=PIN, CLIENT_SECRET=server.client_secret,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("200, signed by ")
    assert json.loads(done.stdout.partition("\n")[2])["jkt"] in done.stdout.partition("\n")[0]


# --- APIs


def test_the_api_of_three_workers(redis_url: str) -> None:
    """Of twelve requests at once with the same proof one is admitted, by whichever worker."""
    key = dpop.generate_key()
    port = reserved_port()
    with DPoPTestServer() as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        settings = {
            "REDIS_URL": redis_url,
            "INTROSPECTION_URL": server.introspection_endpoint,
            "CLIENT_ID": server.client_id,
            "CLIENT_SECRET": server.client_secret,
        }
        command = ["uvicorn", "api_fastapi:app", "--workers", "3", "--port", str(port), "--log-level", "error"]
        with serving(*command, port=port, **settings) as origin:
            deadline, workers = time.monotonic() + 180, set[int]()
            with ThreadPoolExecutor(8) as pool:
                while len(workers) < 2 and time.monotonic() < deadline:
                    for response in pool.map(lambda _: called(key, f"{origin}/me", token), range(8)):
                        assert (response.status_code, response.json()["sub"]) == (200, "alice")
                        workers.add(response.json()["worker"])
            assert len(workers) >= 2
            headers = {
                "Authorization": f"DPoP {token}",
                "DPoP": dpop.create_proof(key, "GET", f"{origin}/me", access_token=token),
            }
            with ThreadPoolExecutor(12) as pool:
                replies = pool.map(lambda _: requests.get(f"{origin}/me", headers=headers, timeout=180), range(12))
                seen = sorted(reply.status_code for reply in replies)
            assert requests.get(f"{origin}/health", timeout=180).json() == {"status": "well"}
    assert seen == [200] + [401] * 11


def test_the_api_with_jwt() -> None:
    """A good token is admitted; a stranger's key, another audience and a missing scope are refused, each in its way."""
    key, port = dpop.generate_key(), reserved_port()
    command = ["flask", "--app", "api_jwt:app", "run", "--port", str(port)]
    with JWTIssuer() as issuer, serving(*command, port=port, ISSUER=issuer.url) as origin:

        def token(**changes: object) -> str:
            return issuer.token(**{"aud": origin, "cnf": {"jkt": key.thumbprint}, **changes})

        good = called(key, f"{origin}/me", token())
        assert (good.status_code, good.json()) == (200, {"sub": "alice"})
        assert called(dpop.generate_key(), f"{origin}/me", token()).status_code == 401
        assert called(key, f"{origin}/me", token(aud="https://other.example")).status_code == 401
        refused = called(key, f"{origin}/notes", token(), method="POST")
        assert refused.status_code == 403
        assert "insufficient_scope" in refused.headers["WWW-Authenticate"]
        assert called(key, f"{origin}/notes", token(scope="write"), method="POST").status_code == 200


# --- MCP


def test_an_mcp_server_and_its_client(tmp_path: Path) -> None:
    """One login, then calls; the next run needs no login. A bound token is of no use without its key."""

    def client(url: str, name: str) -> tuple[list[str], int]:
        """Run the program; follow its login as a browser does. Return its other lines, and how many logins it took."""
        lines, logins = [], 0
        command = [sys.executable, str(EXAMPLES / "mcp_client.py"), f"{url}/mcp", name]
        with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("Log in at: "):
                    logins += 1
                    requests.get(line.partition(": ")[2].strip(), timeout=180)
                else:
                    lines.append(line.strip())
        assert process.returncode == 0
        return lines, logins

    port = reserved_port()
    command = ["uvicorn", "mcp_server:app", "--port", str(port), "--log-level", "error"]
    with DPoPTestServer(as_nonces="rotating") as authority:
        authority.levers.tokens = "jwt"
        settings = {"ISSUER": authority.issuer, "AUDIENCE": authority.resource, "MCP_URL": f"http://127.0.0.1:{port}"}
        with serving(*command, port=port, **settings) as url:
            told = ["tools: add, whoami", 'whoami: ["alice with read"]', 'add: ["5"]']
            assert client(url, authority.public_client_id) == (told, 1)
            assert client(url, authority.public_client_id) == (told, 0)
            key = dpop.generate_key()
            token = authority.issue_access_token(jkt=key.thumbprint)
            assert called(dpop.generate_key(), f"{url}/mcp", token, method="POST").status_code == 401
            as_bearer = {"Authorization": f"Bearer {token}"}
            refused = requests.post(f"{url}/mcp", headers=as_bearer, json={}, timeout=180)
            assert refused.status_code == 401
            assert "takes no bearer tokens" in refused.headers["WWW-Authenticate"]
            described = requests.get(f"{url}/.well-known/oauth-protected-resource", timeout=180).json()
            assert described["dpop_bound_access_tokens_required"] is True
