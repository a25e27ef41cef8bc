# SPDX-License-Identifier: Apache-2.0
"""Every command of the command line fails with secrets in its files, and shows none of them.

Commands and options are found in click's tree. Looked at are output, tracebacks, logs at DEBUG, the arguments and the
environment of every process that is started, and the files that stay.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from dpop_cli.main import COMMANDS, main
from support.entry_points import KEY, MARK, PROOF, logging_all, refusing, secret, secrets_in, shown_by
from support.recorder import Recorder

from dpop.keys import generate_key
from dpop.tokens import FileTokenStore, TokenSet

# Commands that have no secret of a user in their hands.
WITHOUT_SECRETS = {("demo",), ("playground",), ("rehearse",), ("serve",), ("completion",)}
# Commands whose output is what they were asked for; what they say when they fail is looked at all the same.
ASKED_FOR = {("proof",), ("headers",), ("inspect",)}
# Options whose values hold no secret, or would be one in the arguments by the user's own choice.
PLAIN = frozenset(
    re.findall(
        r"\w+",
        """
    context_name store_argument verbose account against alg algs allow_http as_json at client_id code_prompt defect
    device_uri force forget given iat if_needed jkt jti max_age no_browser no_nonce nonce once only_token out
    audit key keys lock_after origins rules socket_group socket_path
    parameters profile redirect_uri resources response role scope secrets signature timeout unsigned uri wanted
    client_credentials device device_jkt client_claims client_certificate client_certificate_key in_agent logins
    """,
    )
)

_started: list[str] = []
_listening = False


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event in {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.system"}:
        _started.append(repr(arguments) + repr(dict(os.environ)))


sys.addaudithook(_hear)  # it cannot be removed


def leaves(command: click.Command, name: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and its words."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, placeholder in command.commands.items():
        found = placeholder
        if name == ():
            module, _, attribute = COMMANDS[word].target.partition(":")
            found = getattr(importlib.import_module(module), attribute)
        yield from leaves(found, (*name, word))


LEAVES = {name: command for name, command in leaves(main) if name not in WITHOUT_SECRETS}
FILES = {
    "key_source": "key.pem",
    "named": "key.pem",
    "password_file": "password",
    "token_file": "token",
    "client_file": "client.json",
    "client_secret_file": "client",
    "client_key": "client-key.pem",
    "id_token_key": "client-key.pem",
    "client_key_password_file": "password",
    "store_path": "tokens.json",
    "store_password_file": "password",
    "refresh_token_file": "refresh",
    "code_file": "code",
    "code_verifier_file": "verifier",
    "id_token_nonce_file": "verifier",
    "nonce_from": "head",
    "proof": "proof",
    "source": "head",
    "file": "head",
}
OTHERS = {"url": "{}/r", "issuer": "{}", "token_endpoint": "{}/odd", "method": "GET"}


def make_files(place: Path, server: str) -> None:
    """Files with a secret each."""
    KEY.save(place / "key.pem", password=secret("password"))
    generate_key().save(place / "client-key.pem", password=secret("password"))
    for name in ("password", "token", "client", "refresh", "code", "verifier"):
        (place / name).write_text(secret(name))
    client = {"client_id": "c", "client_secret": secret("client"), "token_endpoint": server + "/token"}
    (place / "client.json").write_text(json.dumps(client))
    (place / "proof").write_text(PROOF[:-9] + MARK)
    (place / "head").write_text(f"HTTP/1.1 400 x\r\nDPoP-Nonce: {secret('nonce')}\r\n\r\n")
    answer = {"access_token": secret("token"), "refresh_token": secret("refresh"), "token_type": "DPoP"}
    (place / "answer.json").write_text(json.dumps(answer))
    tokens = TokenSet(access_token=secret("token"), refresh_token=secret("refresh"), expires_at=1, jkt=KEY.thumbprint)
    FileTokenStore(place / "tokens.json").save(tokens)


def test_each_option_has_an_arrangement() -> None:
    """A new option is either known to hold no secret, or has a value that does."""
    unknown = {
        f"{' '.join(name)}: {option.name}"
        for name, command in LEAVES.items()
        for option in command.params
        # The first two are the same secret from elsewhere.
        if not str(option.name).endswith(("_env", "_prompt"))
        and option.name not in PLAIN | FILES.keys() | OTHERS.keys()
    }
    assert unknown == set(), "add the names to PLAIN, FILES or OTHERS above"


def command_lines(name: tuple[str, ...], command: click.Command, server: str) -> Iterator[list[str]]:
    """The shortest line, that with each further option, and both at a server that is not there."""
    values = FILES | {key: text.format(server) for key, text in OTHERS.items()}
    if name == ("token", "import"):
        values["file"] = "answer.json"
    words = [
        values[str(each.name)] for each in command.params if isinstance(each, click.Argument) and each.name in values
    ]
    if name == ("curl",):
        words = ["-s", "--max-time", "2", values["url"]]
    options = {str(each.name): each.opts[0] for each in command.params if isinstance(each, click.Option)}
    base = [*name]
    for option in ("key_source", "password_file", "store_path", "client_file"):
        if option in options:
            base += [options[option], values[option]]
    base += {
        ("token", "login"): ["--timeout", "1"],
        ("login",): ["--timeout", "1"],
        ("token", "refresher"): ["--once"],
    }.get(name, [])
    yield [*base, *words]
    for option, spelling in options.items():
        if option in values and spelling not in base:
            yield [*base, spelling, values[option], *words]
    for flag in ("--json", "--if-needed", "--verbose"):
        if any(flag in each.opts for each in command.params):
            yield [*base, flag, *words]


@pytest.mark.parametrize("name", LEAVES, ids=" ".join)
def test_no_command_shows_a_secret(name: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to its caller, nor to other users of the machine."""
    global _listening  # noqa: PLW0603 - the hook is there for good
    temporary, place = tmp_path / "tmp", tmp_path / "place"
    temporary.mkdir()
    place.mkdir()
    monkeypatch.chdir(place)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("BROWSER", "true")
    monkeypatch.setattr(tempfile, "tempdir", None)
    _started.clear()
    with Recorder(refusing) as server, logging_all() as logged:
        make_files(place, server.origin)
        for number, line in enumerate(command_lines(name, LEAVES[name], server.origin)):
            words = [word.replace(f":{server.port}", ":1") for word in line] if number % 2 else line
            _listening = True
            try:
                result = CliRunner().invoke(main, words, prog_name="dpop")
            finally:
                _listening = False
            did = name in ASKED_FOR and result.exit_code in {0, 1}
            texts = [result.stderr, *([] if did else [result.stdout]), *_started, *logged]
            if result.exception is not None:
                texts.append(shown_by(result.exception))
            assert [found for text in texts for found in secrets_in(text)] == [], words
            _started.clear()
            logged.clear()
    left = {path for path in tmp_path.rglob("*") if path.is_file() and MARK in path.read_text("latin-1")}
    assert {path for path in left if path.parent != place or path.name not in {*FILES.values(), "answer.json"}} <= {
        place / "tokens.json"
    }
    assert (place / "tokens.json").stat().st_mode & 0o077 == 0 or not (place / "tokens.json").exists()
