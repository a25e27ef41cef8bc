# SPDX-License-Identifier: Apache-2.0
"""`dpop demo`: every step goes as it must, and it reads well on any terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from dpop_cli.commands.demo.command import demo, present
from dpop_cli.commands.demo.story import Step, story
from dpop_cli.commands.demo.view import Glyphs, View
from dpop_cli.wire.small_client import on_the_wire, send
from support.cli_process import READABLE, STYLES, AtTerminal, examples, invoke, run, run_script

import dpop
from dpop.client._policy import Policy
from dpop.errors import UsageError
from dpop.testing import DPoPTestServer

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    """The story, told once."""
    return list(story())


def shown(steps: list[Step], glyphs: Glyphs | None = None) -> str:
    """The steps as plain text."""
    view = View(glyphs or Glyphs(), color=False)
    return "\n".join(line for number, step in enumerate(steps, 1) for line in view.lines(number, step))


# --- the story


def test_every_step_goes_as_it_must(steps: list[Step]) -> None:
    """Five steps without a problem, each with the requests it speaks of."""
    assert [step.problems for step in steps] == [[]] * 5
    assert [[scene.exchange.status for scene in step.scenes] for step in steps] == [
        [],
        [200],
        [400, 200],
        [200, 400],
        [200, 401, 401, 401],
    ]


def test_the_thieves_are_refused_for_the_right_reasons(steps: list[Step]) -> None:
    """The reasons come from the server's own log."""
    reasons = [scene.refusal.reason for step in steps for scene in step.scenes if scene.refusal]
    assert reasons == ["key_mismatch", "proof_missing", "key_mismatch", "replayed"]


@pytest.mark.parametrize(
    ("google", "api", "bad"),
    [
        (DPoPTestServer(mode="google", nonces="endless"), None, [3, 4]),
        (DPoPTestServer(mode="rfc9449"), None, [2, 3, 4]),
        (None, DPoPTestServer(mode="google"), [5]),
        (None, DPoPTestServer(nonces="none", token_lifetime=0), [5]),
    ],
    ids=["endless nonces", "tokens bound where they should not be", "tokens unbound where they should be", "expired"],
)
def test_a_server_that_behaves_otherwise_is_noticed(
    google: DPoPTestServer | None, api: DPoPTestServer | None, bad: list[int]
) -> None:
    """No step is fine by accident: with another server its problems are named, and nothing raises."""
    told = list(story(google=google, api=api))
    assert [number for number, step in enumerate(told, 1) if step.problems] == bad
    assert "did not go as it must" in shown(told)


# --- the smallest client


def test_the_client_sends_to_its_origins_only() -> None:
    """A URL of another server is an error before anything is sent."""
    policy = Policy(dpop.generate_key(), origins="https://api.example")
    with pytest.raises(UsageError, match="origins"):
        send(policy, "GET", "http://127.0.0.1:9/resource")


def test_the_client_answers_a_challenge_of_an_api() -> None:
    """An API's 401 with a nonce costs one more request, on a path with a query too."""
    key = dpop.generate_key()
    with DPoPTestServer() as server:
        policy = Policy(key, origins=server.issuer, access_token=server.issue_access_token(jkt=key.thumbprint))
        first = send(policy, "GET", f"{server.resource}/a?b=c")
        second = send(policy, "GET", server.resource)
        assert [exchange.status for exchange in (*first, *second)] == [401, 200, 200]
        assert server.requests[0].target == "/resource/a?b=c"
        assert on_the_wire("GET", server.resource, {}).status == 401


# --- how it looks


def test_it_fits_80_columns(steps: list[Step]) -> None:
    """No line is broken by an old terminal."""
    assert max(map(len, shown(steps).splitlines())) < 80


def test_it_fits_a_narrow_terminal(steps: list[Step]) -> None:
    """Titles, facts, forms and URLs go on in the next line, and not where the terminal happens to end."""
    view = View(Glyphs(), color=False, width=39)
    lines = [line for number, step in enumerate(steps, 1) for line in view.lines(number, step)]
    assert max(len(line) for text in lines for line in text.splitlines()) < 40
    assert any(line.startswith("   │ grant_type=") and "  " not in line.strip() for line in lines)


def test_no_secret_is_shown_whole(steps: list[Step]) -> None:
    """Tokens, nonces and proofs are cut short; only the thumbprint of the key is whole."""
    text = shown(steps)
    for scene in (scene for step in steps for scene in step.scenes):
        values = [
            scene.exchange.sent.get("DPoP"),
            scene.exchange.response_header("DPoP-Nonce"),
            scene.claims.get("nonce"),
        ]
        values += [scene.exchange.json.get(name) for name in ("access_token", "refresh_token")]
        assert not [value for value in values if value and value in text]


def test_the_two_requests_of_a_challenge_are_both_there(steps: list[Step]) -> None:
    """Step 3 shows each proof with its own identifier and nonce."""
    text = shown([steps[2]])
    for scene in steps[2].scenes:
        assert scene.claims["jti"][:12] in text
        assert scene.claims["nonce"][:12] in text
    assert text.index("400 use_dpop_nonce") < text.index("200 OK")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", None, "no-such-code-page"])
def test_without_the_characters_it_is_plain_ascii(steps: list[Step], encoding: str | None) -> None:
    """A code page without one of the glyphs gets none of them."""
    assert shown(steps, Glyphs.for_encoding(encoding)).isascii()


def test_with_the_characters_they_are_used() -> None:
    """UTF-8 terminals get the lines and the ellipsis."""
    assert Glyphs.for_encoding("utf-8") == Glyphs()


def test_a_problem_is_shown_and_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that went wrong says what was expected, and the status tells a script."""
    step = Step("A step", "It goes wrong.")
    step.must(holds=False, what="the sun rises")
    assert present([step], as_data=False) == 1
    out = capsys.readouterr().out
    assert "expected: the sun rises" in out
    assert "1 of 1 steps" in out
    assert present([step], as_data=True) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


# --- the command


def test_plain_text_where_there_is_no_terminal() -> None:
    """A pipe gets no colours, status 0, and a word on what to try next."""
    done = run("demo")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "dpop serve" in done.stdout.splitlines()[-2]
    assert done.stderr == ""


def test_colours_at_a_terminal_unless_no_color(tmp_path: Path) -> None:
    """A terminal gets colours; NO_COLOR takes them away and nothing else."""
    with AtTerminal("demo", "--no-pause", cwd=tmp_path) as terminal:
        assert terminal.end() == 0
    with AtTerminal("demo", "--no-pause", cwd=tmp_path, env={"NO_COLOR": "1"}) as plain:
        assert plain.end() == 0
    assert "\x1b[32m" in terminal.shown
    assert set(STYLES.findall(terminal.shown)) <= READABLE
    assert "\x1b" not in plain.shown
    assert len(ANSI.sub("", terminal.shown).splitlines()) == len(plain.shown.splitlines())


def test_an_old_code_page_is_survived() -> None:
    """On a Western Windows console the demo runs with ASCII in place of what is missing."""
    done = run("demo", env={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()


def test_json_for_programs(steps: list[Step]) -> None:
    """Every request with its decoded proof, its status and the reason; no tokens."""
    result = invoke("demo", "--json")
    assert result.exit_code == 0
    told: dict[str, Any] = json.loads(result.stdout)
    assert told["ok"] is True
    assert [step["number"] for step in told["steps"]] == [1, 2, 3, 4, 5]
    challenge, retry = told["steps"][2]["requests"]
    assert (challenge["status"], challenge["error"], retry["status"]) == (400, "use_dpop_nonce", 200)
    assert retry["proof"]["claims"]["nonce"] == challenge["nonce"]
    assert [request["reason"] for request in told["steps"][4]["requests"]] == [
        None,
        "proof_missing",
        "key_mismatch",
        "replayed",
    ]
    assert "access_token" not in result.stdout


def test_the_examples_work(tmp_path: Path) -> None:
    """What the help shows can be typed as it stands."""
    done = run_script(examples(demo), tmp_path)
    assert done.returncode == 0, done.stderr
