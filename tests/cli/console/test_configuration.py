# SPDX-License-Identifier: Apache-2.0
"""Contexts of the configuration file: what they set, what counts more, and which files are not read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.cli_process import invoke, run

import dpop
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration folder of a user, with a key in it, and a working directory that is elsewhere."""
    folder = tmp_path / "config" / "dpop"
    folder.mkdir(parents=True, mode=0o700)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("DPOP_CONTEXT", "DPOP_KEY", "DPOP_TOKEN_STORE", "DPOP_CLIENT"):
        monkeypatch.delenv(name, raising=False)
    dpop.generate_key().save(folder / "key.pem")
    return folder


def configure(folder: Path, text: str) -> Path:
    """Write the configuration file."""
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    path.chmod(0o600)
    return path


def jkt(folder: Path, name: str = "key.pem") -> str:
    """The thumbprint of a key in the folder."""
    return dpop.load_key(folder / name).thumbprint


@pytest.mark.parametrize(
    "words",
    [["--context", "work", "key", "thumbprint"], ["key", "thumbprint", "--context", "work"], ["key", "thumbprint"]],
    ids=["in front", "behind", "variable"],
)
def test_a_context_names_the_key(words: list[str], folder: Path) -> None:
    """In front of the command, behind it, or by DPOP_CONTEXT; its paths are relative to the file."""
    configure(folder, '[contexts.work]\nkey = "key.pem"\n')
    env = {} if "--context" in words else {"DPOP_CONTEXT": "work"}
    assert invoke(*words, env=env).stdout.strip() == jkt(folder)


@pytest.mark.parametrize("written_as", ["utf-8-sig", "utf-16"])
def test_a_file_with_a_byte_order_mark(written_as: str, folder: Path) -> None:
    """Some editors write one, and PowerShell writes UTF-16."""
    configure(folder, "").write_bytes('[contexts.work]\nkey = "key.pem"\n'.encode(written_as))
    assert invoke("key", "thumbprint", env={"DPOP_CONTEXT": "work"}).stdout.strip() == jkt(folder)


def test_what_counts_more(folder: Path) -> None:
    """An option more than the context, the context more than a variable."""
    configure(folder, '[contexts.work]\nkey = "key.pem"\n')
    dpop.generate_key().save(folder / "other.pem")
    env = {"DPOP_KEY": str(folder / "other.pem")}
    words = ["key", "thumbprint", "--context", "work"]
    assert invoke(*words, env=env).stdout.strip() == jkt(folder)
    assert invoke(*words, "--key", str(folder / "other.pem")).stdout.strip() == jkt(folder, "other.pem")
    assert invoke("key", "thumbprint", env=env).stdout.strip() == jkt(folder, "other.pem")


@pytest.mark.parametrize("scopes", ['scope = ["read", "write"]', 'scopes = "read write"'])
def test_a_login_with_nothing_but_a_context(scopes: str, folder: Path) -> None:
    """Server, client, key, store and scopes all come from it; the browser is a script."""
    browser = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"
    (folder / "browser.py").write_text(browser)
    with DPoPTestServer() as server:
        configure(
            folder,
            f'[contexts.work]\nserver = "{server.issuer}"\nclient-id = "{server.public_client_id}"\n'
            f'key = "key.pem"\nstore = "tokens.json"\n{scopes}\n',
        )
        env = {"BROWSER": f"python3 {folder / 'browser.py'} %s"}
        done = run("token", "login", "--context", "work", env=env)
        assert done.returncode == 0, done.stderr
        tokens = FileTokenStore(folder / "tokens.json").load()
        assert tokens is not None
        assert (tokens.scopes, tokens.jkt) == ({"read", "write"}, jkt(folder))
        called = run("--context", "work", "curl", "-s", server.resource)
        assert json.loads(called.stdout)["jkt"] == jkt(folder), called.stderr


def test_tokens_of_a_context_go_only_where_they_belong(folder: Path) -> None:
    """As with DPOP_TOKEN_STORE: not with curl's -u, and not if they are bound to no key."""
    configure(folder, '[contexts.work]\nkey = "key.pem"\nstore = "tokens.json"\n')
    with DPoPTestServer() as server:
        tokens = TokenSet(access_token=server.issue_access_token(), token_type="Bearer", client_id="app")
        FileTokenStore(folder / "tokens.json").save(tokens)
        done = run("--context", "work", "curl", "-s", server.resource)
        assert "bound to no key" in done.stderr
        run("--context", "work", "curl", "-s", "-u", "a:b", server.resource)
        sent = [value for request in server.requests for _, value in request.headers]
    assert all(tokens.access_token not in value for value in sent)


def test_a_command_without_settings_needs_no_context(folder: Path) -> None:
    """DPOP_CONTEXT is for commands that take something from it; others and help do not read the file."""
    assert not (folder / "config.toml").exists()
    env = {"DPOP_CONTEXT": "work"}
    assert invoke("sig", "to-raw", "3006020101020101", "--alg", "ES256", env=env).exit_code == 0
    assert invoke("key", "show", "--help", env=env).exit_code == 0
    assert invoke("key", "show", str(folder / "key.pem"), env=env).exit_code == 2


# --- files that are not read


def test_nothing_is_read_from_the_working_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by its name, and not by a variable that names a folder relative to it."""
    for place in (Path("config.toml"), Path("dpop/config.toml"), Path(".dpop.toml")):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f'[contexts.work]\nkey = "{folder / "key.pem"}"\n')
    done = invoke("key", "thumbprint", "--context", "work")
    assert (done.exit_code, done.stdout, "there is no configuration file" in done.stderr) == (2, "", True)
    monkeypatch.setenv("XDG_CONFIG_HOME", ".")
    done = invoke("key", "thumbprint", "--context", "work")
    assert (done.exit_code, done.stdout, "not an absolute path" in done.stderr) == (2, "", True)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_change_is_refused(mode: int, folder: Path) -> None:
    """It decides which server is trusted. The message has the command that repairs it."""
    path = configure(folder, '[contexts.work]\nkey = "key.pem"\n')
    path.chmod(mode)
    done = invoke("key", "thumbprint", "--context", "work")
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"chmod go-w {path}" in done.stderr
    path.chmod(0o644)  # others may read it
    assert invoke("key", "thumbprint", "--context", "work").exit_code == 0
    folder.chmod(0o777)
    assert "other users can change files" in invoke("key", "thumbprint", "--context", "work").stderr


def test_a_pipe_is_refused_at_once(folder: Path) -> None:
    """Nobody may ever write to it."""
    path = configure(folder, "")
    path.unlink()
    os.mkfifo(path, 0o600)
    assert "is not a regular file" in run("key", "thumbprint", "--context", "work").stderr


def test_a_file_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the process is another user than the owner of the file."""
    configure(folder, '[contexts.work]\nkey = "key.pem"\n')
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    done = invoke("key", "thumbprint", "--context", "work")
    assert (done.exit_code, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('client_secret = "hush-hush"', "--client-secret-file"),
        ('client-secret = "hush-hush"', "--client-secret-file"),
        ('password = "hush-hush"', "--password-file"),
        ('pin = "hush-hush"', "--password-file"),
        ('refresh_token = "hush-hush"', "dpop token import"),
        ('access_token = "hush-hush"', "dpop token login"),
        ('key = "pkcs11:token=a;object=b?pin-value=hush-hush"', "without its PIN"),
        ('key = "-----BEGIN PRIVATE KEY-----hush-hush"', "contains a secret"),
        ("""key = '{"kty": "EC", "d": "hush-hush"}'""", "contains a secret"),
    ],
)
def test_a_secret_is_refused_and_told_where_it_belongs(line: str, told: str, folder: Path) -> None:
    """The file holds none; the message does not repeat it."""
    configure(folder, f"[contexts.work]\n{line}\n")
    done = invoke("key", "thumbprint", "--context", "work")
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr
    assert "hush-hush" not in done.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[contexts.work]\nkeey = "a"\n', "did you mean key?"),
        ("[contexts.work]\nkey = 5\n", "expects text in quotes"),
        ('[contexts.work]\nkey = ""\n', "expects text in quotes"),
        ('[contexts.wrk]\nkey = "a"\n', "did you mean wrk?"),
        ("contexts = 5\n", "expects each context as a table"),
        ("[contexts.work\n", "is not TOML: at line 1"),
        ("a = " + "[" * 5_000, "is not TOML: it is nested too deep"),
        ("a = " + "1" * 5_000, "is not TOML: a number in it is too long"),
        ("", "it has none"),
    ],
)
def test_what_is_wrong_is_said(text: str, told: str, folder: Path) -> None:
    """With the name that was probably meant, or the line."""
    configure(folder, text)
    done = invoke("key", "thumbprint", "--context", "work")
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr


def test_tab_completes_contexts(folder: Path) -> None:
    """The names in the file; without a usable file none, and no error."""
    path = configure(folder, "[contexts.work]\n[contexts.weekend]\n[contexts.home]\n")
    words = "dpop key thumbprint --context w"
    env = {"_DPOP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "4"}
    assert invoke(env=env).stdout == "plain,weekend\nplain,work\n"
    path.unlink()
    assert invoke(env=env).stdout.strip() == ""
