# SPDX-License-Identifier: Apache-2.0
"""The guide to profiles: each server's commands are run as printed, at the mode of that server."""

from __future__ import annotations

import json
import re
import shlex
import threading
import tomllib
import webbrowser
from pathlib import Path

import pytest
import requests
from dpop_cli.commands.serve import first_line
from support.cli_process import invoke
from support.paths import DOCS

import dpop
from dpop.profiles import NAMES, Profile
from dpop.testing import DPoPTestServer

PAGE = (DOCS / "profiles.md").read_text("utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
CLIENT_KEY = dpop.generate_key()
PAGES_OF_THEIR_OWN = {"google", "okta", "auth0", "keycloak", "atproto"}


def profiles_of(section: str) -> list[str]:
    """The profiles that a section names as its own."""
    named = re.search(r"Profiles? (`[^.]*`)\.", section)
    return re.findall(r"`([\w-]+)`", named[1]) if named else []


BY_COMMANDS = [name for name in SECTIONS if "```sh" in SECTIONS[name] and profiles_of(SECTIONS[name])]
BY_PROGRAM = [name for name in SECTIONS if "```python" in SECTIONS[name] and profiles_of(SECTIONS[name])]


def browse(url: str) -> bool:
    """A browser whose user agrees at once."""
    threading.Thread(target=requests.get, args=(url,), kwargs={"timeout": 30}).start()
    return True


def test_every_profile_is_on_a_page() -> None:
    """Here or on a page of its own, each with its sources."""
    here = {name for section in SECTIONS.values() for name in profiles_of(section)}
    assert here == {*NAMES} - PAGES_OF_THEIR_OWN - {"rfc9449"}
    for name in PAGES_OF_THEIR_OWN:
        assert f"--mode {name}`" in (DOCS / f"{name}.md").read_text("utf-8"), name
    for name, section in SECTIONS.items():
        if profiles_of(section):
            assert re.search(r"^Sources?: ", section.lstrip()), name


@pytest.mark.parametrize("name", BY_COMMANDS)
def test_the_commands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the login to the first call in two commands."""
    section = SECTIONS[name]
    (mode,) = profiles_of(section)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPOP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(webbrowser, "open", browse)
    dpop.generate_key().save("key.pem")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    with DPoPTestServer(mode=mode) as server:
        text = block.replace("https://identity.example", server.issuer).replace(
            "https://api.example/me", server.resource
        )
        commands = [shlex.split(line)[1:] for line in text.splitlines()]
        assert len(commands) == 2
        for command in commands:
            done = invoke(*(server.public_client_id if word == "app" else word for word in command))
            assert done.exit_code == 0, f"{command}\n{done.output}\n{server.refusals}"
        assert server.requests[-1].status == 200


@pytest.mark.parametrize("mode", NAMES)
def test_three_commands_at_every_mode(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The block of the page, with the file that the server wrote: a key, a login, a call."""
    section = SECTIONS["Rehearse"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPOP_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(webbrowser, "open", browse)
    (block,) = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    with DPoPTestServer(mode=mode) as server:
        Path("client.json").write_text(json.dumps(first_line(server)), "ascii")
        lines = block.replace("https://api.example/me", server.resource).splitlines()
        assert len(lines) <= 3
        for line in lines:
            done = invoke(*shlex.split(line)[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}\n{server.refusals}"
        assert server.requests[-1].status == 200
        challenges = server.stats.challenges
    assert f"| `{mode}` | {len(lines)} | {challenges or 'none'} |" in section, (mode, len(lines), challenges)


def test_the_doctors_command() -> None:
    """As printed, at a server that is none of those that differ in the times they accept."""
    (block,) = re.findall(r"^```sh\n(.*?)^```$", SECTIONS["Which profile fits?"], re.DOTALL | re.MULTILINE)
    with DPoPTestServer(mode="atproto") as server:
        words = shlex.split(block.replace("https://identity.example", server.issuer))[1:]
        done = invoke(*(server.public_client_id if word == "app" else word for word in words))
    assert (done.exit_code, "ok atproto (atproto) fits best" in done.stdout) == (0, True), done.output


@pytest.mark.parametrize("name", BY_PROGRAM)
def test_the_programs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that authenticate by a key, from the login to the tokens."""
    section = SECTIONS[name]
    mode = profiles_of(section)[0]
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")
    CLIENT_KEY.save("client-key.pem")
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)

    def ask_the_user(url: str) -> str:
        return requests.get(url, allow_redirects=False, timeout=30).headers["Location"]

    with DPoPTestServer(mode=mode, client_key=CLIENT_KEY.public_jwk) as server:
        names = {"client_id": server.client_id, "redirect_uri": "http://127.0.0.1/cb", "ask_the_user": ask_the_user}
        start = "import dpop\nfrom dpop.requests import TokenEndpoint\nfrom dpop.tokens import PrivateKeyJWT\n"
        start += "client_key = dpop.load_key('client-key.pem')\n"
        exec(compile(start + block.replace("https://identity.example", server.issuer), name, "exec"), names)
        assert server.requests[-1].status == 200


def test_the_first_lines_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The record can be looked at, and the example of a file is one."""
    (first,) = re.findall(r"^```python\n(.*?)^```$", PAGE.partition("\n## ")[0], re.DOTALL | re.MULTILINE)
    exec(compile(first, "profiles.md", "exec"), {})
    assert "required 300 ('https://developer.okta.com" in capsys.readouterr().out
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert tomllib.loads(text)["like"] == "duende"
    path = tmp_path / "own.toml"
    path.write_text(text, "utf-8")
    assert Profile.load(path).server.max_age == 120
