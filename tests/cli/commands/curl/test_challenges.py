# SPDX-License-Identifier: Apache-2.0
"""`dpop curl` and challenges: a request is sent again with the nonce, if it can be, and the challenge is not seen."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli_process import DPOP, environment
from support.curl import AS_CHALLENGE, dpop_curl, invoke, plain_curl
from support.recorder import Recorder, Response, challenge, script

from dpop.testing import DPoPTestServer

pytestmark = pytest.mark.usefixtures("curl_folder")


@pytest.mark.parametrize("args", [["-s"], ["-s", "-i"], ["-sD-"], ["-s", "-w", "[%{http_code}]"], ["-sf"], ["-sS"]])
def test_a_challenge_of_an_api_is_answered_once_and_not_seen(args: list[str]) -> None:
    """Two requests with two proofs; output and status are those of the second alone, whatever is printed."""
    yes = Response(200, [("DPoP-Nonce", "n2")], b"yes")
    with Recorder(script(challenge("n1", b"no" * 100), yes)) as server:
        got = invoke("curl", "--token-file", "token.txt", *args, server.url())
    with Recorder(lambda _: yes) as other:
        expected = plain_curl(*args, other.url())
    assert (got.exit_code, got.stdout) == (0, expected.stdout)
    assert [request.nonce for request in server.requests] == [None, "n1"]
    assert server.requests[0].claims["jti"] != server.requests[1].claims["jti"]
    assert got.stderr == ""


@pytest.mark.parametrize("output", [[], ["-i"], ["-o", "out"], ["-o", "/dev/null"], ["-f"], ["-f", "-o", "out"]])
def test_a_challenge_of_an_authorization_server_is_seen_in_its_body(output: list[str]) -> None:
    """A 400 is looked into, wherever its body was to go."""
    with Recorder(script(AS_CHALLENGE, Response(200, [], b"tokens"))) as server:
        result = invoke("curl", "-s", *output, "-d", "@body.txt", server.url())
    assert result.exit_code == 0
    assert [request.nonce for request in server.requests] == [None, "n1"]
    assert [request.body for request in server.requests] == [b"a=1&b=2"] * 2
    where = result.stdout if "-o" not in output else Path("out").read_text() if "out" in output else "tokens"
    assert where.endswith("tokens")


def test_the_nonce_of_one_command_is_used_by_the_next() -> None:
    """Challenged once, never again, by curl or by any other command; each role has its own."""
    with DPoPTestServer(nonces="rotating") as server:
        client = f"{server.client_id}:{server.client_secret}"
        args = ("-s", "-u", client, "-d", "grant_type=client_credentials", server.token_endpoint)
        for _ in range(2):
            Path("token.json").write_text(invoke("curl", *args).stdout)
        for _ in range(3):
            assert invoke("curl", "--token-file", "token.json", "-s", server.resource).exit_code == 0
        assert [request.status for request in server.requests] == [400, 200, 200, 401, 200, 200, 200]
        proof = invoke("proof", "GET", server.resource, "--token-file", "token.json").stdout.strip()
        assert plain_curl("-s", "-H", f"DPoP: {proof}", server.resource).returncode == 0
        assert server.refusals[-1].reason != "nonce_missing"


@pytest.mark.parametrize(
    "responses",
    [
        [challenge("n1"), challenge("n2"), challenge("n3")],
        [challenge("n1"), challenge("n1")],
        [challenge('b"d')],
        [Response(401)],
    ],
    ids=["for ever", "the same again", "bad nonce", "no challenge"],
)
def test_three_requests_at_most(responses: list[Response]) -> None:
    """A server that challenges for ever gets three, each with a new nonce; the last response is shown."""
    with Recorder(script(*responses)) as server:
        result = invoke("curl", "--token-file", "token.txt", "-s", "-w", "%{http_code}", server.url())
    assert len(server.requests) == len(responses)
    assert (result.exit_code, result.stdout) == (0, "401")


def test_an_answer_that_is_no_challenge_comes_once() -> None:
    """invalid_grant with a nonce: shown untouched; its nonce is kept."""
    refusal = Response(400, [("DPoP-Nonce", "kept")], b'{"error": "invalid_grant"}')
    with Recorder(script(refusal)) as server:
        result = invoke("curl", "-s", "-d", "x", server.url())
        assert result.stdout == '{"error": "invalid_grant"}'
        invoke("curl", "-s", "-d", "x", server.url())
    assert [request.nonce for request in server.requests] == [None, "kept"]


def test_a_body_out_of_a_pipe_is_sent_once(server: Recorder) -> None:
    """The challenge is shown, with a warning; the nonce is kept, so the command works when it is run again."""
    server.handler = script(challenge("n1", b"no"), Response(200, [], b"yes"))
    first = dpop_curl("--token-file", "token.txt", "-s", "--data-binary", "@-", server.url(), stdin="piped")
    assert (first.returncode, first.stdout) == (0, "no")
    assert first.stderr.count("Warning: ") == 1
    second = dpop_curl("--token-file", "token.txt", "-s", "--data-binary", "@-", server.url(), stdin="piped")
    assert second.stdout == "yes"
    assert [request.body for request in server.requests] == [b"piped", b"piped"]


def test_standard_input_that_is_a_file_is_sent_again(server: Recorder) -> None:
    """A redirected file can be rewound: both requests carry all of it, from where it stood."""
    server.handler = script(challenge("n1"), Response(200, [], b"yes"))
    done = dpop_curl("--token-file", "token.txt", "-s", "-T-", server.url("/f"), shell="<body.txt")
    assert done.stdout == "yes", done.stderr
    assert [request.body for request in server.requests] == [b"a=1&b=2\n"] * 2


def test_a_client_assertion_is_not_sent_twice() -> None:
    """It is good for once: the refusal is shown, and the next command has the nonce."""
    with Recorder(script(AS_CHALLENGE)) as server:
        Path("form.txt").write_text("grant_type=x&client_assertion=eyJ.pa55.x")
        result = invoke("curl", "-s", "-d", "@form.txt", server.url())
    assert len(server.requests) == 1
    assert "use_dpop_nonce" in result.stdout
    assert "pa55" not in result.output


def test_a_challenge_without_end_is_left(server: Recorder) -> None:
    """A 401 whose body never ends costs a second, not for ever."""

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000
            time.sleep(0.05)

    refusal = challenge("n1")
    refusal.body = endless()
    server.handler = script(refusal, Response(200, [], b"yes"))
    result = invoke("curl", "--token-file", "token.txt", "-s", server.url())
    assert (result.exit_code, result.stdout) == (0, "yes")


def test_a_stream_is_shown_as_it_comes(server: Recorder, tmp_path: Path) -> None:
    """Nothing of a good answer is held back: each line is there before the server sends the next."""
    seen = tmp_path / "go"
    os.mkfifo(seen)

    def lines() -> Iterator[bytes]:
        yield b"first\n"
        seen.read_bytes()  # until the test has seen it
        yield b"second\n"

    server.handler = lambda _: Response(200, [], lines())
    process = subprocess.Popen(
        [*DPOP, "curl", "-s", server.url()],
        stdout=subprocess.PIPE,
        env=environment(DPOP_KEY=os.environ["DPOP_KEY"]),
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    seen.write_bytes(b"x")
    assert process.stdout.readline() == "second\n"
    assert process.wait(60) == 0
    process.stdout.close()


def test_files_that_curl_must_write_itself_are_written_once(server: Recorder) -> None:
    """With -J and the like there is no second try, which would add a second file; the next command has the nonce."""
    server.handler = script(challenge("n1", b"no"), Response(200, [("Content-Disposition", "filename=got")], b"yes"))
    args = ("curl", "--token-file", "token.txt", "-s", "-O", "-J", server.url("/name"))
    result = invoke(*args)
    assert len(server.requests) == 1
    assert "run the command again" in result.stderr
    assert invoke(*args).exit_code == 0
    assert Path("got").read_text() == "yes"
