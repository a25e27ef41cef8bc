# SPDX-License-Identifier: Apache-2.0
"""The rules of keys: their file, what is wrong with it, and how they take effect."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from support.agents import API, agent_running, rules_of

import dpop
from dpop.agent import AgentRules, AuditLog, KeyRules, password_from_askpass, read_rules
from dpop.agent._askpass import confirmed
from dpop.errors import (
    AgentRefusedError,
    DPoPKeyError,
    KeyFileError,
    KeyNotFoundError,
    KeyThrottledError,
    UsageError,
)
from dpop.origin import Origin

FILE = """
lock-after = 60

[keys.work]
uri = "work.pem"
origins = ["https://api.example", "https://as.example"]
methods = ["GET"]
uids = [0, 1000]
gids = [990]
rate = 600

[keys.work.clock-offset]
"https://as.example" = -30
"""


def written(folder: Path, text: str) -> Path:
    """A rules file."""
    path = folder / "agent.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_rules_file(folder: Path) -> None:
    """Everything that a rules file can say is read; paths count from its folder."""
    rules = read_rules(written(folder, FILE))
    (key,) = rules.keys
    assert (rules.lock_after, rules.path, rules.on_disk()) == (60, folder / "agent.toml", True)
    assert (key.name, key.uri, key.rate, key.confirm) == ("work", str(folder / "work.pem"), 600, False)
    assert set(key.origins) == {Origin.parse(API), Origin.parse("https://as.example")}
    assert (set(key.methods), set(key.uids), set(key.gids)) == ({"GET"}, {0, 1000}, {990})
    assert dict(key.clock_offset) == {Origin.parse("https://as.example"): -30}


def test_a_rules_file_that_is_a_pipe(folder: Path) -> None:
    """Nobody may ever write to it, so it is not waited for, neither at the start nor when the status is asked."""
    rules = read_rules(written(folder, FILE))
    (folder / "agent.toml").unlink()
    os.mkfifo(folder / "agent.toml")
    found: list[object] = []

    def read() -> None:
        try:
            found.append(rules.on_disk())
            read_rules(folder / "agent.toml")
        except UsageError as error:
            found.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert found == [False, f"the rules file {folder / 'agent.toml'} cannot be read: it is not a regular file"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", r"no table \[keys.NAME\]"),
        ("keys = 1", "no table"),
        ("[keys.work", "not TOML"),
        ("\xff", "not TOML|no table"),
        ("a = " + "[" * 5_000, "not TOML: it is nested too deep"),
        ("a = " + "1" * 5_000, "not TOML: a number in it is too long"),
        ("more = 1\n[keys.work]\nuri='a'\norigins=['https://a.example']", "something else"),
        ("lock-after = 0\n[keys.work]\nuri='a'\norigins=['https://a.example']", "number of seconds"),
        ("lock-after = true\n[keys.work]\nuri='a'\norigins=['https://a.example']", "number of seconds"),
        ("[keys]\nwork = 1", "expected a table"),
        ("[keys.work]\norigins=['https://a.example']", "uri is missing"),
        ("[keys.work]\nuri='a'", "origins is missing"),
        ("[keys.work]\nuri='a'\norigins=[]", "names no server"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example/path']", "no path"),
        ("[keys.work]\nuri='a'\norigins=[1]", "an origin must be"),
        ("[keys.work]\nuri='a'\norigins={a=1}", "origins expects a list"),
        ("[keys.work]\nuri=1\norigins=['https://a.example']", "text in quotes"),
        ("[keys.work]\nuri='pkcs11:object=a?pin-value=1234'\norigins=['https://a.example']", "holds a secret"),
        ("[keys.work]\nuri='agent:a'\norigins=['https://a.example']", "cannot be in an agent"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nmethods='GET'", "methods expects a list"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nmethods=['GET /']", "method"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nuids=[-1]", "numbers"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nuids=[true]", "numbers"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nrate=0", "rate must be"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nconfirm=1", "true or false"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\npolicy=1", "policy is not known"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nclock-offset=1", "expects a table"),
        (
            "[keys.work]\nuri='a'\norigins=['https://a.example']\n[keys.work.clock-offset]\n'https://b.example'=1",
            "not among origins",
        ),
        (
            "[keys.work]\nuri='a'\norigins=['https://a.example']\n[keys.work.clock-offset]\n'https://a.example'=1e9",
            "a day at most",
        ),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nclient-id=''", "client-id must be"),
        ("[keys.work]\nuri='a'\norigins=['https://a.example']\nclient-id='c'\nmethods=['GET']", "signs no requests"),
        ("[keys.'../a']\nuri='a'\norigins=['https://a.example']", "name of a key"),
    ],
    ids=map(str, range(30)),
)
def test_a_mistake_in_the_file(folder: Path, text: str, why: str) -> None:
    """One mistake, and nothing of the file counts; the message says where and what, and repeats no value."""
    path = folder / "agent.toml"
    path.write_bytes(text.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(UsageError, match=why) as error:
        read_rules(path)
    assert "1234" not in str(error.value)


def test_a_file_that_others_could_change(folder: Path) -> None:
    """The rules are as strong as the file's owner and mode, and its folder's."""
    path = written(folder, FILE)
    path.chmod(0o620)
    with pytest.raises(UsageError, match="chmod go-w"):
        read_rules(path)
    path.chmod(0o600)
    folder.chmod(0o770)
    with pytest.raises(UsageError, match="chmod go-w"):
        read_rules(path)
    folder.chmod(0o700)
    with pytest.raises(UsageError, match="cannot be read"):
        read_rules(folder / "none.toml")
    with pytest.raises(UsageError, match=r"cannot be read|regular file"):
        read_rules(folder)


def test_a_clock_that_is_wrong(folder: Path) -> None:
    """The agent's rules say how far a server's clock is off; a client's own clock says nothing."""
    now = 1_700_000_000.0
    rules = rules_of(folder, origins=[API, "https://late.example"], clock_offset={"https://late.example": -300})
    with agent_running(folder, rules, clock=lambda: now) as running:
        key = running.key()
        late = {"clock": lambda: now - 300}
        # A clock is the program's own; iat= would be refused before the agent is asked.
        dpop.create_proof(key, "GET", "https://late.example/", **late)
        dpop.create_proof(key, "GET", API, clock=lambda: now)
        for url, clock in ((API, lambda: now - 300), ("https://late.example/", lambda: now)):
            with pytest.raises(AgentRefusedError, match="clock-offset") as error:
                dpop.create_proof(key, "GET", url, clock=clock)
            assert error.value.reason == "iat"


def test_a_rate(folder: Path) -> None:
    """Beyond its rate a key signs no more, for any client, and says when it will again."""
    with agent_running(folder, rules_of(folder, rate=3)) as running:
        for _ in range(3):
            dpop.create_proof(running.key(), "GET", API)
        with pytest.raises(KeyThrottledError, match="3 times a minute; try again in"):
            dpop.create_proof(running.key(), "GET", API)


def test_a_reload(folder: Path) -> None:
    """Rules are read anew as a whole: a key that stays is not opened again, and a wrong file changes nothing."""
    rules_of(folder), rules_of(folder, "more")
    text = "[keys.work]\nuri='work.pem'\norigins=['https://api.example']\n"
    path = written(folder, text)

    def read() -> AgentRules:
        return read_rules(path)

    with agent_running(folder, rules=read(), read=read) as running:
        client, key = running.client(), running.key()

        def told() -> tuple[bool, bool]:
            rules: dict[str, Any] = client.request("status")["rules"]
            return rules["in_force"], rules["problem"] is None

        assert told() == (True, True)
        path.write_text(text + "nonsense")
        assert told() == (False, True)
        with pytest.raises(UsageError, match="as they were"):
            client.request("reload")
        assert told() == (False, False)
        dpop.create_proof(key, "GET", API)
        (folder / "work.pem").unlink()  # it is open, so it is not needed
        path.write_text(
            "[keys.work]\nuri='work.pem'\norigins=['https://other.example']\n"
            "[keys.more]\nuri='more.pem'\norigins=['https://api.example']\n"
        )
        client.request("reload")
        assert told() == (True, True)
        with pytest.raises(AgentRefusedError):
            dpop.create_proof(key, "GET", API)
        dpop.create_proof(key, "GET", "https://other.example/")
        dpop.create_proof(running.key("more"), "GET", API)
        path.write_text("[keys.more]\nuri='none.pem'\norigins=['https://api.example']\n")
        with pytest.raises(UsageError, match=r"none\.pem"):
            client.request("reload")
        dpop.create_proof(running.key("more"), "GET", API)


def test_adding_a_key(folder: Path) -> None:
    """A key can be added, and never a second time: its rules would be others."""
    with agent_running(folder, rules_of(folder)) as running:
        client = running.client()
        new = rules_of(folder, "new")
        client.request("add", key="new", uri=new.uri, origins=["https://new.example"])
        dpop.create_proof(running.key("new"), "GET", "https://new.example/")
        for name, uri in (("new", new.uri), ("newer", new.uri), ("other", str(folder / "work.pem"))):
            with pytest.raises(UsageError, match="rules stay as they are"):
                client.request("add", key=name, uri=uri, origins=["https://evil.example"])
        with pytest.raises(DPoPKeyError):
            client.request("add", key="none", uri=str(folder / "none.pem"), origins=[API])
        with pytest.raises(KeyNotFoundError):
            running.key("none")


def test_no_signature_without_its_line(folder: Path) -> None:
    """A signature that cannot be put on record is not given out."""

    def full(_event: object) -> None:
        raise OSError("the disk is full")

    with agent_running(folder, rules_of(folder), audit=full) as running, pytest.raises(DPoPKeyError, match="audit log"):
        dpop.create_proof(running.key(), "GET", API)


def test_the_audit_log(folder: Path) -> None:
    """Each line is JSON with what an auditor asks for, and holds neither the proof, a token's hash nor a path."""
    log = AuditLog(folder / "audit.jsonl")
    with agent_running(folder, rules_of(folder), audit=log) as running:
        key = running.key()
        proof = dpop.create_proof(key, "GET", f"{API}/private?q=1", nonce="n0nce", access_token="t0ken", jti="j-1")
        with pytest.raises(AgentRefusedError):
            dpop.create_proof(key, "GET", "https://evil.example/private")
    log.close()
    path = folder / "audit.jsonl"
    text = path.read_text()
    signed, refused = map(dpop.encoding.json_object, text.encode().splitlines())
    assert (path.stat().st_mode & 0o777, signed["event"], refused["event"]) == (0o600, "signed", "refused")
    assert (signed["pid"], signed["uid"], signed["jti"]) == (os.getpid(), os.geteuid(), "j-1")
    assert (signed["key"], signed["jkt"], signed["method"], signed["origin"]) == ("work", key.thumbprint, "GET", API)
    assert (refused["origin"], refused["reason"]) == ("https://evil.example", "origin")
    for secret in ("n0nce", "t0ken", "private", *proof.split(".")):
        assert secret not in text
    path.chmod(0o622)
    with pytest.raises(KeyFileError, match="chmod 600"):
        AuditLog(path)


def test_rules_in_code(folder: Path) -> None:
    """Rules made in code are checked as those of a file."""
    with pytest.raises(UsageError, match="name of a key"):
        KeyRules("a b", "key.pem", [API])
    assert repr(KeyRules("a", "key.pem", API)) == f"<KeyRules a: {API}>"
    with pytest.raises(UsageError, match="two keys"):
        dpop.agent.Agent([rules_of(folder), rules_of(folder)])
    with pytest.raises(UsageError, match="no key"):
        dpop.agent.Agent([])


def askpass(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program that asks a person, who behaves like the script."""
    program = folder / "askpass"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("DPOP_ASKPASS", str(program))


def test_a_person_is_asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``confirm``, nothing is signed unless a person agrees; the question is the rules', not the client's."""
    for name in ("DPOP_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.delenv(name, raising=False)
    with agent_running(folder, rules_of(folder, confirm=True)) as running:
        key = running.key()
        with pytest.raises(AgentRefusedError, match="DPOP_ASKPASS") as error:
            dpop.create_proof(key, "GET", API)
        assert error.value.reason == "not_confirmed"
        askpass(folder, monkeypatch, f'echo "$SSH_ASKPASS_PROMPT: $1" > {folder}/asked')
        dpop.create_proof(key, "TEXT.OF.CLIENT", f"{API}/text-of-client", jti="text-of-client")
        assert (folder / "asked").read_text() == f"confirm: Allow the key work to sign a request to {API}?\n"
        askpass(folder, monkeypatch, "exit 1")
        with pytest.raises(AgentRefusedError, match="did not agree"):
            dpop.create_proof(key, "GET", API)


def test_a_person_is_asked_no_more_often_than_the_rate_allows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that goes on asking after a no cannot wear a person down."""
    askpass(folder, monkeypatch, f"echo asked >> {folder}/asked; exit 1")
    with agent_running(folder, rules_of(folder, confirm=True, rate=2)) as running:
        reasons = []
        for _ in range(5):
            with pytest.raises((AgentRefusedError, KeyThrottledError)) as error:
                dpop.create_proof(running.key(), "GET", API)
            reasons.append(type(error.value))
    assert reasons == [AgentRefusedError] * 2 + [KeyThrottledError] * 3
    assert (folder / "asked").read_text() == "asked\n" * 2


def test_a_person_who_does_not_come(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not there has not agreed."""
    askpass(folder, monkeypatch, "exec sleep 60")
    assert not confirmed("Agree?", seconds=0.05)
    monkeypatch.setenv("DPOP_ASKPASS", str(folder / "none"))
    assert not confirmed("Agree?")
    assert password_from_askpass("PIN?") is None
    askpass(folder, monkeypatch, 'echo "$1 1234"')
    assert password_from_askpass("PIN?") == "PIN? 1234"
