# SPDX-License-Identifier: Apache-2.0
"""Every command and snippet of the guides is run as printed, against a server that behaves like the guide's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import google.oauth2.credentials
import pytest
import requests
from dpop_cli.commands.proof import proof
from dpop_cli.commands.serve import first_line
from dpop_cli.commands.token.command import token
from dpop_cli.console import configuration
from dpop_cli.console.exit_status import Status
from support.agents import socket_folder
from support.cli_process import environment, invoke
from support.paths import COMMANDS, PACKAGE, ROOT
from support.pkcs11_devices import NewTpm, devices_in, module_named
from support.redis_server import running_redis

import dpop
import dpop.errors
from dpop.keys import _sources as sources
from dpop.keys import as_cryptography_key
from dpop.keys.pkcs11._modules import close_modules
from dpop.server import Reason
from dpop.testing import DPoPTestServer

DOCS = ROOT / "docs"
REDIRECT_URI = "http://127.0.0.1/callback"

# From one shell to the next of a guide go its directory, its variables and its functions, as in one terminal.
_BEFORE = "set -euo pipefail\n[ ! -e ../session ] || . ../session\n"
_AFTER = "\n{ declare -f; export -p; set | grep -E '^[a-z_0-9]+=' || true; } > ../session\n"


@dataclass
class Guide:
    """How a guide is run.

    :param server: arguments of the server that stands in for the guide's.
    :param addresses: what the guide writes, and the server's attribute that it stands for. Longer ones go first.
    :param statuses: what the server answers, in order.
    :param reasons: why it refuses what it refuses.
    :param prepare: makes what the guide takes as given.
    :param around: what has to be there besides; gives further words of the guide and what they stand for.
    """

    server: dict[str, Any]
    addresses: dict[str, str]
    statuses: list[int]
    reasons: list[str] = field(default_factory=list)
    prepare: Callable[[DPoPTestServer], dict[str, Any]] = lambda _: {}
    around: Callable[[pytest.MonkeyPatch, Path], AbstractContextManager[dict[str, str]]] = lambda *_: nullcontext({})


AS_AND_API = {"https://as.example/token": "token_endpoint", "https://api.example/me": "resource"}
GOOGLE_TOKEN = "https://oauth2.googleapis.com/token"
HARDWARE = {**AS_AND_API, "https://api.example": "origin"}


def a_code(server: DPoPTestServer) -> dict[str, Any]:
    """Codes as a user's redirect brings them, for Python and for the shell, and a key."""
    dpop.generate_key().save("key.pem")
    code = server.issue_code(redirect_uri=REDIRECT_URI)
    Path("code.txt").write_text(server.issue_code(redirect_uri=REDIRECT_URI), "ascii")
    return {"code": code}


def a_user(server: DPoPTestServer) -> dict[str, Any]:
    """Someone who agrees at once: the answer to an authorization request is the redirect back."""
    dpop.generate_key().save("key.pem")

    def ask_the_user(url: str) -> str:
        return requests.get(url, allow_redirects=False, timeout=30).headers["Location"]

    return {"ask_the_user": ask_the_user}


def two_keys(_: DPoPTestServer) -> dict[str, Any]:
    """One for proofs, one for the client."""
    dpop.generate_key().save("key.pem")
    dpop.generate_key().save("client-key.pem")
    return {}


def a_key_and_a_token(server: DPoPTestServer) -> dict[str, Any]:
    """A session in which something goes wrong."""
    key = dpop.generate_key()
    key.save("key.pem")
    Path("token.txt").write_text(server.issue_access_token(jkt=key.thumbprint), "ascii")
    return {"key": key}


def a_bound_token(server: DPoPTestServer) -> dict[str, Any]:
    """A key, and an access token for it."""
    key = dpop.generate_key()
    key.save("key.pem")
    return {"access_token": server.issue_access_token(jkt=key.thumbprint)}


def an_app(server: DPoPTestServer) -> dict[str, Any]:
    """The same, and the files that describe the client."""
    Path("client.json").write_text(json.dumps(first_line(server)), "ascii")
    installed = {
        "client_id": server.client_id,
        "client_secret": server.client_secret,
        "auth_uri": server.authorization_endpoint,
        "token_uri": server.token_endpoint,
    }
    Path("client_secret.json").write_text(json.dumps({"installed": installed}), "ascii")
    return {**a_code(server), "another_code": server.issue_code(redirect_uri=REDIRECT_URI)}


class Browser(webbrowser.BaseBrowser):
    """Whose user agrees at once; another program, so in another thread."""

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        """Follow the redirect back to this machine."""
        threading.Thread(target=requests.get, args=(url,), kwargs={"timeout": 30}).start()
        return True


@contextmanager
def browser(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[dict[str, str]]:
    """A browser for commands and for this process, and no https for a server on this machine."""
    program = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=30)"
    (folder / "browser.py").write_text(program, "ascii")
    monkeypatch.setenv("BROWSER", f"{sys.executable} {folder / 'browser.py'} %s")
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")
    monkeypatch.setattr(webbrowser, "get", lambda _=None: Browser())
    yield {}


@contextmanager
def browser_and_redis(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[dict[str, str]]:
    """Both."""
    with browser(monkeypatch, folder), a_redis(monkeypatch, folder) as words:
        yield words


@contextmanager
def a_run_time_folder(monkeypatch: pytest.MonkeyPatch, here: Path) -> Iterator[dict[str, str]]:
    """A browser, and a user's run-time folder, whose path is short enough for a socket; no agent stays behind."""
    with socket_folder() as folder, browser(monkeypatch, here):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
        try:
            yield {}
        finally:
            invoke("agent", "stop")


def tokens_to_bind(server: DPoPTestServer) -> dict[str, Any]:
    """An authorization server that needs no code to give a token."""
    return {"issue_token": lambda jkt: server.issue_access_token(jkt=jkt)}


def tokens_and_a_client_file(server: DPoPTestServer) -> dict[str, Any]:
    """The same, and the file that describes the client."""
    Path("client.json").write_text(json.dumps(first_line(server)), "ascii")
    return tokens_to_bind(server)


def an_object(_: DPoPTestServer) -> dict[str, Any]:
    """A private key object of another library."""
    return {"private_key_object": as_cryptography_key(dpop.generate_key())}


@contextmanager
def clouds(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[dict[str, str]]:
    """The three clouds, on this machine."""
    from support.three_clouds import three_clouds

    with three_clouds(folder) as (settings, words):
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield words


@contextmanager
def a_redis(_: pytest.MonkeyPatch, __: Path) -> Iterator[dict[str, str]]:
    """A Redis of this test's own."""
    with running_redis() as server:
        yield {"redis://cache.internal/0": server.url}


@contextmanager
def softhsm(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[dict[str, str]]:
    """SoftHSM as the guide configures it, in this process too."""
    monkeypatch.setenv("SOFTHSM2_CONF", str(folder / "here" / "softhsm2.conf"))
    monkeypatch.setenv("PKCS11_MODULE", module_named("softhsm2"))
    close_modules()
    try:
        yield {"/usr/lib/softhsm/libsofthsm2.so": module_named("softhsm2")}
    finally:
        close_modules()


@contextmanager
def new_tpm(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[dict[str, str]]:
    """A TPM fresh from the shop."""
    with devices_in(folder, NewTpm) as tpm:
        monkeypatch.setenv("PKCS11_MODULE", tpm.module)
        yield {"/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so": tpm.module}


def a_client_file(server: DPoPTestServer) -> dict[str, Any]:
    """A key, and the file that describes the client."""
    dpop.generate_key().save("key.pem")
    Path("client.json").write_text(json.dumps(first_line(server)), "ascii")
    return {}


def an_old_login(server: DPoPTestServer) -> dict[str, Any]:
    """A refresh token of the time before DPoP."""
    return {"old_refresh_token": server.issue_refresh_token()}


def an_app_without_a_key(server: DPoPTestServer) -> dict[str, Any]:
    """An installed app's client, and the token.json that google-auth wrote for it."""
    prepared = an_app(server)
    Path("key.pem").unlink()
    old = google.oauth2.credentials.Credentials(
        "the-access-token",
        refresh_token=server.issue_refresh_token(),
        token_uri=GOOGLE_TOKEN,
        client_id="app",
        client_secret="s",
    )
    Path("token.json").write_text(old.to_json(), "utf-8")
    return prepared


def an_api_that_moved(server: DPoPTestServer) -> dict[str, Any]:
    """A token, and two URLs that lead elsewhere: to a neighbour, and to another origin."""
    key = dpop.generate_key()
    key.save("key.pem")
    server.levers.redirect_next("/resource/new", path="/resource/moved")
    elsewhere = server.resource.replace("127.0.0.1", "localhost")
    server.levers.redirect_next(elsewhere, path="/resource/elsewhere")
    return {"access_token": server.issue_access_token(jkt=key.thumbprint)}


@contextmanager
def google_beside(_: pytest.MonkeyPatch, __: Path) -> Iterator[dict[str, str]]:
    """Google's endpoints, beside those of another server, for the same client."""
    with DPoPTestServer(mode="google", **DEVICE) as server:
        yield {
            GOOGLE_TOKEN: server.token_endpoint,
            "https://oauth2.googleapis.com/device/code": server.device_authorization_endpoint,
        }
        assert [request.status for request in server.requests] == [200, 400, 200]


# A user who agrees at once, so that no test waits.
DEVICE: dict[str, Any] = {"client_secret": "s3cret-of-the-guide", "device_user": "agrees", "device_interval": 0}

GUIDES = {
    "tokens.md": Guide(
        {"nonces": "none", "rotate_refresh_tokens": True},
        AS_AND_API,
        # The code; then at the terminal a login, a call, a refresh, and the end.
        [200, 201, 302, 200, 200, 200, 200],
        prepare=an_app,
        around=browser_and_redis,
    ),
    "curl.md": Guide(
        {},
        AS_AND_API,
        # By dpop curl, with a challenge of each role; then the same by hand.
        [400, 200, 401, 200, 200, 400, 200, 401, 200],
        ["nonce_missing"] * 4,
    ),
    "openssl.md": Guide({"nonces": "none"}, AS_AND_API, [200, 200]),
    "google.md": Guide(
        {"mode": "google"},
        {
            GOOGLE_TOKEN: "token_endpoint",
            "https://www.googleapis.com/resource": "resource",
        },
        # A login and a call; code, call and refresh; credentials, which begin without a nonce in a class of their
        # own, and a call; a login and a call at the terminal; code and refresh by hand; a call with the store's token.
        [302, 200, 200, 200, 200, 200, 400, 200, 200, 302, 200, 200, 200, 200, 200],
        ["nonce_missing"],
        prepare=an_app,
        around=browser,
    ),
    "aiohttp.md": Guide(
        {"nonces": "rotating"},
        {"https://api.example/me": "resource", "https://api.example": "origin"},
        # A challenge; the nonce before the stream; a challenge for the user's own key.
        [401, 200, 401, 200, 401, 200],
        ["nonce_missing", "proof_without_token", "nonce_missing"],
        prepare=a_bound_token,
    ),
    "mcp.md": Guide(
        {},
        {},
        [],
        prepare=lambda server: {
            **a_bound_token(server),
            "storage": None,
            "ask_the_user": None,
            "wait_for_the_user": None,
        },
    ),
    "libraries.md": Guide(
        {"as_nonces": "rotating", "rs_nonces": "none"},
        {**AS_AND_API, "https://as.example": "origin", "https://api.example": "origin"},
        [400, 200, 200, 200, 200, 200, 200],
        ["nonce_missing"],
        prepare=an_app,
        around=browser,
    ),
    "okta.md": Guide(
        {"as_nonces": "rotating", "rs_nonces": "none"},
        {
            "https://example.okta.com/oauth2/v1/token": "token_endpoint",
            "https://example.okta.com/api/v1/users": "resource",
            "https://example.okta.com": "origin",
        },
        [400, 200, 200, 200, 400, 200, 200],
        ["nonce_missing", "nonce_missing"],
        prepare=two_keys,
    ),
    "auth0.md": Guide(
        {"as_nonces": "rotating", "rs_nonces": "none", "rotate_refresh_tokens": True},
        {
            "https://tenant.auth0.example": "issuer",
            "https://api.example/me": "resource",
            "https://api.example": "origin",
        },
        [200, 400, 201, 302, 200, 200, 200],
        ["nonce_missing"],
        prepare=a_user,
    ),
    "keycloak.md": Guide(
        {"nonces": "none", "bind_refresh_tokens": "public"},
        {
            "https://keycloak.example/realms/demo/protocol/openid-connect/userinfo": "resource",
            "https://keycloak.example/realms/demo": "issuer",
            "https://keycloak.example": "origin",
        },
        [200, 200, 200],
        prepare=two_keys,
    ),
    "atproto.md": Guide(
        {"nonces": "per-answer", "nonce_grace": 1, "rotate_refresh_tokens": True},
        {
            "https://pds.example/xrpc/com.atproto.repo.listRecords": "resource",
            "https://pds.example": "origin",
        },
        [200, 400, 201, 302, 200, 401, 200, 200, 401, 200, 200],
        ["nonce_missing", "nonce_missing", "proof_without_token"],
        prepare=a_user,
    ),
    "kms.md": Guide(
        {"nonces": "none"},
        {**AS_AND_API, "https://api.example": "origin"},
        [200],
        prepare=tokens_to_bind,
        around=clouds,
    ),
    "softhsm.md": Guide({"nonces": "none"}, HARDWARE, [200], prepare=tokens_to_bind, around=softhsm),
    "tpm.md": Guide({"nonces": "none"}, HARDWARE, [200], prepare=tokens_to_bind, around=new_tpm),
    "device.md": Guide(
        DEVICE,
        {**AS_AND_API, "https://as.example/device_authorization": "device_authorization_endpoint"},
        # Codes and a token, twice; an API call; the rehearsal: login, refresh, without a nonce, other key, revocation.
        [200, 400, 200, 200, 400, 200, 401, 200, 200, 400, 200, 200, 400, 200, 400, 400, 200, 400],
        [*["nonce_missing"] * 6, "key_mismatch", "refresh_token_unknown"],
        prepare=a_client_file,
        around=google_beside,
    ),
    "from-bearer.md": Guide(
        {"require_proof": False, "as_nonces": "rotating", "rs_nonces": "none"},
        HARDWARE,
        # A Bearer token and a call; an old refresh token with a proof; a token and a call; a call.
        [200, 200, 400, 200, 200, 200, 200],
        ["nonce_missing"],
        prepare=an_old_login,
    ),
    "from-google-auth.md": Guide(
        {"mode": "google"},
        {
            GOOGLE_TOKEN: "token_endpoint",
            "https://oauth2.googleapis.com/revoke": "revocation_endpoint",
            "https://www.googleapis.com/resource": "resource",
        },
        # The old token is given back. A login and a call; the import, which refreshes, and a call.
        [200, 302, 200, 200, 400, 200, 200],
        ["nonce_missing"],
        prepare=an_app_without_a_key,
        around=browser,
    ),
    "agent.md": Guide(
        {"nonces": "none"},
        {**HARDWARE, "https://as.example": "origin"},
        [200, 201, 302, 200, 200, 200],  # a call; a login into the agent, pushed; two calls with the agent's token
        prepare=tokens_and_a_client_file,
        around=a_run_time_folder,
    ),
    "environment.md": Guide({}, AS_AND_API, [401], ["proof_without_token"]),
    "by-hand.md": Guide(
        {},
        {"https://api.example": "origin"},
        # A challenge and its retry; a redirect to a neighbour; one to another origin, which gets no token.
        [401, 200, 307, 200, 307, 401],
        ["nonce_missing", "no_credentials"],
        prepare=an_api_that_moved,
    ),
    "README.md": Guide({}, {}, []),
    "testing.md": Guide({}, {}, []),
    "cors.md": Guide({}, {}, []),
    "threats.md": Guide({}, {}, []),
    "signers.md": Guide({}, AS_AND_API, [], prepare=an_object),
    "troubleshooting.md": Guide({}, AS_AND_API, [401, 401], ["no_credentials"] * 2, prepare=a_key_and_a_token),
}


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def with_addresses(text: str, guide: Guide, server: DPoPTestServer) -> str:
    """The text with addresses that are there in place of those of the guide."""
    for address in sorted(guide.addresses, key=len, reverse=True):
        text = text.replace(address, getattr(server, guide.addresses[address]))
    return text


def run_shell(script: str, variables: dict[str, str]) -> None:
    """Run one block as the next lines typed into the guide's terminal."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", _BEFORE + script + _AFTER],
        env=environment(**variables, PATH=path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its blocks run in their order, and the server answers what the guide says."""
    guide = GUIDES[name]
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # A guide may teach load_key another scheme, which is nothing to the tests after it.
    monkeypatch.setattr(sources, "_loaders", dict(sources._loaders))
    with guide.around(monkeypatch, tmp_path) as words, DPoPTestServer(**guide.server) as server:
        Path("client.form").write_text(f"client_id={server.client_id}&client_secret={server.client_secret}", "ascii")
        names = {
            "client_id": server.client_id,
            "client_secret": server.client_secret,
            "public_client_id": server.public_client_id,
            "redirect_uri": REDIRECT_URI,
            **guide.prepare(server),
        }
        for language, text in blocks((DOCS / name).read_text("utf-8")):
            block = with_addresses(text, guide, server)
            for word, stands_for in words.items():
                block = block.replace(word, stands_for)
            if language == "sh":
                run_shell(block, {"REDIRECT_URI": REDIRECT_URI})
            elif language == "python":
                exec(compile(block, name, "exec"), names)
        assert [request.status for request in server.requests] == guide.statuses, server.refusals
        assert [refusal.reason for refusal in server.refusals] == guide.reasons


def test_a_guide_as_its_reader_pastes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block under "Placeholders" gives a meaning to the names of the guide on tokens."""
    monkeypatch.chdir(tmp_path)
    (_, names), (_, stop) = blocks(text_of("README.md"))
    pasted: dict[str, Any] = {}
    exec(names, pasted)
    try:
        (_, tokens), *_ = [block for block in blocks(text_of("tokens.md")) if block[0] == "python"]
        exec(tokens.replace("https://as.example/token", pasted["server"].token_endpoint), pasted)
        assert pasted["source"]() == pasted["access_token"]
    finally:
        exec(stop, pasted)


def test_every_guide_is_run() -> None:
    """Each guide with commands has its entry, and no block is in a language that nothing runs."""
    for path in DOCS.glob("*.md"):
        languages = {language for language, _ in blocks(path.read_text("utf-8"))}
        if path.name == "servers.md":  # run by tests/frameworks, on real servers and behind nginx
            assert languages <= {"python", "nginx", "haproxy", "text"}
        elif path.name == "profiles.md":  # run by test_profiles.py, at one server for each section
            assert languages <= {"sh", "python", "toml"}
        else:
            assert languages <= {"sh", "python", "text", "toml", "json"}, path.name
            assert (path.name in GUIDES) == bool(languages - {"text"}), path.name
        for language, text in blocks(path.read_text("utf-8")):
            if language == "toml":  # a configuration file, whose settings tests/cli tries
                tomllib.loads(text)
            elif language == "json":
                json.loads(text)


# --- what the guides name exists


def text_of(name: str) -> str:
    """A guide."""
    return (DOCS / name).read_text("utf-8")


def test_every_reason_is_explained() -> None:
    """Whatever this package's verifier says is in the table of reasons, and nothing else is."""
    table = text_of("troubleshooting.md").partition("## By reason")[2]
    named = {name for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == {reason.value for reason in Reason}


def test_every_error_code_is_explained() -> None:
    """Those of RFC 9449, and those that come in its company, each have a section."""
    headings = " ".join(re.findall(r"^### (.*)$", text_of("troubleshooting.md"), re.MULTILINE))
    for code in ("use_dpop_nonce", "invalid_dpop_proof", "invalid_token", "invalid_grant", "insufficient_scope"):
        assert f"`{code}`" in headings


def test_the_glossary_is_in_order() -> None:
    """Each term once, by the alphabet, with one sentence and a section or the words "this package"."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", text_of("glossary.md"), re.MULTILINE)[1:]
    terms = [re.sub(r"[^a-z_ -]", "", term.lower()) for term, _, _ in rows]
    assert terms == sorted(set(terms), key=lambda term: term.replace("_", " ").replace("-", " "))
    assert [row for row in rows if not re.fullmatch(r"this package|(RFC \d+ (§[\d.]+(, )?)+)+", row[2])] == []
    assert [row for row in rows if not row[1].endswith(".") or ". " in row[1]] == []


def first_column(heading: str) -> list[str]:
    """The words in code of each row's first cell, of the first table behind a heading of environment.md."""
    table = re.search(r"^\|.*?\n\n", text_of("environment.md").partition(heading)[2], re.DOTALL | re.MULTILINE)
    assert table is not None
    cells = [row.split("|")[1] for row in table[0].strip().splitlines()[2:]]
    return [word for cell in cells for word in re.findall(r"`([^`]+)`|(\d+)", cell) for word in word if word]


def test_every_environment_variable_is_explained() -> None:
    """Those of dpop --help, those that the code reads, and one that platformdirs reads; no others."""
    help_text = invoke("--help").stdout.partition("Environment:")[2]
    listed = ", ".join(re.findall(r"^ +([A-Z0-9_, ]+?) +[a-z]", help_text, re.MULTILINE)).split(", ")
    assert "DPOP_KEY" in listed
    sources = [path.read_text("utf-8") for folder in (COMMANDS, PACKAGE) for path in folder.rglob("*.py")]
    read = {name for text in sources for name in re.findall(r'os\.environ(?:\.get\(|\[)"([A-Z0-9_]+)"', text)}
    of_completion = {"_DPOP_COMPLETE", "COMP_WORDS", "COMP_WORD", "COMP_CWORD"}
    assert of_completion < read
    expected = {*listed, *read, "XDG_STATE_HOME"} - of_completion
    assert set(first_column("## Environment variables")) == expected


def test_every_exit_status_is_explained() -> None:
    """Each once, in the order of their numbers."""
    assert [int(status) for status in first_column("## Exit statuses")] == [status.value for status in Status]


def test_every_setting_of_the_configuration_file_is_explained() -> None:
    """With the option that it stands for."""
    rows = re.findall(
        r"^\| (.*) \| `(--[a-z-]+)` \|$", text_of("environment.md").partition("contexts.NAME")[2], re.MULTILINE
    )
    told = {name: option for names, option in rows for name in re.findall(r"`(.*?)`", names)}
    commands = [token.commands["login"], proof]
    options = {word: each.name for command in commands for each in command.params for word in each.opts}
    assert {name: options[option] for name, option in told.items()} == configuration._PARAMETERS


def test_exceptions_named_in_the_guides_exist() -> None:
    """By the name that the guide gives them."""
    for path in DOCS.glob("*.md"):
        for name in re.findall(r"`(\w+Error)`", path.read_text("utf-8")):
            assert hasattr(dpop.errors, name), f"{path.name}: {name}"


def anchor(heading: str) -> str:
    """The fragment that a heading is found by."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "path",
    [*DOCS.glob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "vectors/README.md"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_lead_somewhere(path: Path) -> None:
    """To a file of the project, and to a heading that is in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        file, _, fragment = target.partition("#")
        if re.match(r"https?:", target):
            continue
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if fragment:
            headings = re.findall(r"^#+ (.*)$", found.read_text("utf-8"), re.MULTILINE)
            assert fragment in {anchor(heading) for heading in headings}, target


def test_the_index_lists_every_guide() -> None:
    """Nothing is found by chance only."""
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", text_of("README.md")))
    assert listed == {path.name for path in DOCS.glob("*.md")} - {"README.md"}
