# SPDX-License-Identifier: Apache-2.0
"""`dpop curl`: output, exit status, proxies, help, and secrets that stay secret."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from dpop_cli.commands.curl.command import curl
from support.authority import Authority
from support.cli_process import DPOP, AtTerminal, environment, examples, run, run_script, with_url
from support.curl import AS_CHALLENGE, TOKEN, invoke, plain_curl
from support.http2_recorder import Http2Recorder
from support.recorder import Received, Recorder, Response, challenge, script
from support.relays import ForwardProxy, SocksProxy

import dpop
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet

pytestmark = pytest.mark.usefixtures("curl_folder")


# --- output and status


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_descriptors_do_not_become_our_files(server: Recorder, closed: str, tmp_path: Path) -> None:
    """What curl reads as its standard input is empty, and what it says on standard error is in no file of ours."""
    out = tmp_path / "out"
    args = ["curl", "--token-file", "token.txt", "-v", "-D", "-", "-d", "@-", server.url()]
    done = run(*args, env={"DPOP_KEY": os.environ["DPOP_KEY"]}, shell=f"{closed} >{out}")
    assert done.returncode == 0
    (received,) = server.requests
    assert received.body == b""
    assert out.read_bytes().startswith(b"HTTP/1.1 200")
    assert out.read_bytes().endswith(b"\r\n\r\nbody of POST")


def test_a_variable_without_a_name_is_survived(server: Recorder) -> None:
    """The system can hand it over, and posix_spawn refuses it."""
    done = subprocess.run(
        [*DPOP, "curl", "-s", server.url()],
        env={**environment(DPOP_KEY=os.environ["DPOP_KEY"]), "": "odd"},
        start_new_session=True,  # which subprocess does without posix_spawn
        capture_output=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"body of GET", b"")


@pytest.mark.parametrize(
    ("status", "args"),
    [
        (200, ["-f", "-w", "%{http_code}"]),
        (404, ["-f", "-w", "%{http_code}"]),
        (404, ["-fi"]),
        (404, ["-f", "-o", "out", "-w", "%{http_code}"]),
        (404, ["-f", "-s"]),
        (404, ["-f", "-sS"]),
        (404, ["--fail-with-body"]),
        (404, ["-w", "%{http_code}\n", "-o", "/dev/null"]),
        (200, ["-O", "--output-dir", "new/dir", "--create-dirs"]),
        (200, ["-o", "dir-that/is-missing/out"]),
        (200, ["-o", "/dev/full"]),
        (200, ["-o", "-"]),
        (200, ["--max-filesize", "1"]),
        (200, ["--bad-port"]),
        (200, ["-c", "-"]),
        (200, ["-v"]),
        (200, ["--trace-ascii", "-", "-o", "out"]),
    ],
    ids=str,
)
def test_output_and_status_are_curls(server: Recorder, args: list[str], status: int, tmp_path: Path) -> None:
    """Standard output, files and exit status are the same to the byte; what is said on stderr begins the same."""
    server.handler = lambda _: Response(status, [("X-A", "b")], b"some body\n")
    url = server.url("/path/name.txt")
    if args == ["--bad-port"]:
        args, url = ["-sS"], "http://127.0.0.1:1/"
    outcomes = []
    for command in (["curl", "-q"], [*DPOP, "curl"]):
        where = tmp_path / str(len(outcomes))
        where.mkdir()
        done = subprocess.run(
            [*command, *args, url],
            cwd=where,
            capture_output=True,
            text=True,
            env=environment(DPOP_KEY=os.environ["DPOP_KEY"]),
            timeout=60,
            check=False,
        )
        files = {str(path.relative_to(where)): path.read_bytes() for path in where.rglob("*") if path.is_file()}
        errors = [curls_error(line) for line in done.stderr.splitlines() if line.startswith("curl: ")]
        outcomes.append((done.returncode, done.stdout, files, errors))
    theirs, ours = outcomes
    if "--trace-ascii" in args:
        assert "Send header" in ours[1]
        assert theirs[2] == ours[2]
        return
    assert ours == theirs


def curls_error(line: str) -> str:
    """curl's own line, without times, and without the many words it has for an output that fails."""
    line = line.replace("curl: curl:", "curl:")  # curl 8.14 on an output that fails
    return re.sub(r"\(23\).*", "(23)", re.sub(r"after \d+ ms", "", line))


def test_a_reader_that_has_gone(server: Recorder) -> None:
    """`dpop curl ... | head -c 1`: curl's own word and status, no traceback."""
    server.handler = lambda _: Response(200, [], b"x" * 5_000_000)
    done = subprocess.run(
        ["bash", "-c", '"$@" | head -c 1; exit ${PIPESTATUS[0]}', "bash", *DPOP, "curl", "-s", server.url()],
        env=environment(DPOP_KEY=os.environ["DPOP_KEY"]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (23, "x")
    assert "Traceback" not in done.stderr


def test_a_large_answer_is_whole(server: Recorder) -> None:
    """Twenty megabytes pass, byte for byte, to a pipe and to a file."""
    body = os.urandom(20_000_000)
    server.handler = lambda _: Response(200, [], body)
    to_pipe = subprocess.run(
        [*DPOP, "curl", "-s", server.url()],
        env=environment(DPOP_KEY=os.environ["DPOP_KEY"]),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert to_pipe.stdout == body
    assert invoke("curl", "-s", "-o", "out", server.url()).exit_code == 0
    assert Path("out").read_bytes() == body


def test_headers_larger_than_a_pipe(server: Recorder) -> None:
    """A head of 200 KB, shown with -i, neither stops the show nor hides the nonce."""
    large = [(f"X-{number}", "v" * 10_000) for number in range(20)]
    refusal = challenge("n1")
    refusal.headers += large
    server.handler = script(refusal, Response(200, large, b"yes"))
    result = invoke("curl", "--token-file", "token.txt", "-si", server.url())
    assert result.stdout.endswith("\n\nyes")
    assert [request.nonce for request in server.requests] == [None, "n1"]


def test_interim_answers_are_not_answers(server: Recorder) -> None:
    """103 before 401: the challenge is found; -i shows what curl shows."""

    def early(request: Received) -> Response:
        if request.nonce is None:
            # The recorder writes the status line as it is given.
            return Response("103 X\r\nLink: x\r\n\r\nHTTP/1.1 401", challenge("n1").headers)  # type: ignore[arg-type]
        return Response(200, [], b"yes")

    server.handler = early
    assert invoke("curl", "--token-file", "token.txt", "-s", server.url()).stdout == "yes"


def test_a_terminal_is_kept_from_binary(server: Recorder, tmp_path: Path) -> None:
    """As curl does it: binary is not printed to a terminal unless -o - says so, and no progress meter is shown."""
    server.handler = lambda _: Response(200, [], b"a\0b")
    env = {"DPOP_KEY": os.environ["DPOP_KEY"]}
    with AtTerminal("curl", server.url(), cwd=tmp_path, env=env) as terminal:
        assert terminal.end() == 23
        assert "Binary output" in terminal.shown
        assert "% Total" not in terminal.shown
    with AtTerminal("curl", "-o", "-", server.url(), cwd=tmp_path, env=env) as terminal:
        assert terminal.end() == 0
        assert "a\0b" in terminal.shown


def test_a_signal_ends_curl_too(server: Recorder) -> None:
    """Whatever ends it: no curl is left behind, the status is the shell's, and nothing is left on the disk."""

    def as_in_a_shell() -> None:  # and not as under nohup
        for number in (signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        stop = Path(f"stop-{number}")
        os.mkfifo(stop)

        def hanging(stop: Path = stop) -> Iterator[bytes]:
            yield b"begun\n"
            stop.read_bytes()

        server.handler = lambda _, hanging=hanging: Response(200, [], hanging())  # type: ignore[misc]
        process = subprocess.Popen(
            [*DPOP, "curl", "-s", server.url()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(DPOP_KEY=os.environ["DPOP_KEY"]),
            text=True,
            preexec_fn=as_in_a_shell,  # noqa: PLW1509 - this process has no other threads that matter to it
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        stop.write_bytes(b"x")
        assert process.returncode == 128 + number
        assert "Traceback" not in errors
        assert len(children) == 1
        assert not Path(f"/proc/{children[0]}").exists()


def test_the_status_is_known_where_ends_of_children_are_ignored() -> None:
    """A parent that ignores SIGCHLD, which its children inherit, does not turn a failure into status 0."""
    done = subprocess.run(
        [*DPOP, "curl", "-s", "http://127.0.0.1:1/"],
        env=environment(DPOP_KEY=os.environ["DPOP_KEY"]),
        preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN),
        check=False,
        timeout=60,
    )
    assert done.returncode == 7


def test_curl_has_the_signals_of_a_shell(tmp_path: Path) -> None:
    """Python ignores SIGPIPE and SIGXFSZ; curl does not inherit that."""
    stub = tmp_path / "bin" / "curl"
    stub.parent.mkdir()
    stub.write_text("#!/bin/sh\ngrep SigIgn /proc/self/status >&2\nexit 4\n")
    stub.chmod(0o755)
    path = f"{stub.parent}:{os.environ['PATH']}"
    done = run("curl", "-s", "http://127.0.0.1:1/", env={"DPOP_KEY": os.environ["DPOP_KEY"], "PATH": path})
    ignored = int(done.stderr.split("SigIgn:")[1].split()[0], 16)
    assert done.returncode == 4
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1)


def test_no_curl_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Status 2 and what to do."""
    monkeypatch.setenv("PATH", "/nowhere")
    result = invoke("curl", "https://api.example/")
    assert result.exit_code == 2
    assert "no curl on the PATH" in result.stderr


# --- other ways to the server


def test_over_tls_with_both_versions_of_http(authority: Authority) -> None:
    """https, HTTP/1.1 and HTTP/2: the challenge is answered, and the certificate is checked."""
    tls = authority.server_context(http2=True)
    args = ("curl", "--token-file", "token.txt", "-sS", "--cacert", authority.ca)
    with Http2Recorder(script(challenge("n1"), Response(200, [], b"yes")), tls=tls) as server:
        assert invoke(*args, server.url("/a")).stdout == "yes"
        assert [request.claims["htu"] for request in server.requests] == [server.url("/a")] * 2
    with Recorder(script(challenge("n2"), Response(200, [], b"yes")), tls=authority.server_context()) as server:
        assert invoke(*args, server.url("/a")).stdout == "yes"
        assert invoke("curl", "-sS", server.url("/a")).exit_code == 60
        assert len(server.requests) == 2


@pytest.mark.parametrize("kind", [ForwardProxy, SocksProxy])
def test_through_a_tunnel(authority: Authority, kind: type[ForwardProxy | SocksProxy]) -> None:
    """CONNECT and SOCKS: the proxy's own answer is not taken for the server's."""
    responses = script(challenge("n1"), Response(200, [], b"yes"))
    with kind() as proxy, Recorder(responses, tls=authority.server_context()) as server:
        args = ("curl", "--token-file", "token.txt", "-sS", "--cacert", authority.ca, "-x", proxy.url, "-i")
        result = invoke(*args, server.url("/a"))
        assert result.stdout.endswith("yes")
        assert [request.nonce for request in server.requests] == [None, "n1"]


def curl_version() -> tuple[int, ...]:
    """The version of curl."""
    said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in said.split()[1].split("-")[0].split(".")[:2])


def test_a_proxy_gives_no_nonce(authority: Authority) -> None:
    """A proxy that refuses the tunnel, with a nonce and a challenge of its own, teaches nothing."""
    says = [("DPoP-Nonce", "evil"), ("Proxy-Authenticate", "DPoP"), ("WWW-Authenticate", 'DPoP error="use_dpop_nonce"')]
    with ForwardProxy(refuse=says) as proxy:
        result = invoke("curl", "--token-file", "token.txt", "-sS", "-x", proxy.url, "https://127.0.0.1:1/a")
        # From 8.23 on curl counts it as a failed connection.
        assert result.exit_code == (7 if curl_version() >= (8, 23) else 56)
        assert len(proxy.seen) == 1
    assert json.loads(invoke("nonce", "show", "--json").stdout)["nonces"] == []


@pytest.mark.parametrize(("args", "told"), [([], 1), (["-s"], 0), (["-sS"], 1)])
def test_a_refused_token_is_explained(server: Recorder, args: list[str], told: int) -> None:
    """A 401 has no body as a rule: stderr says what it means, unless -s asks for silence."""
    server.handler = script(Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')]))
    result = invoke("curl", "--token-file", "token.txt", *args, server.url())
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.count("Hint: the server refused the token: invalid_token") == told


def test_a_missing_token_is_explained() -> None:
    """An API that wants a token answers 401 without a body: stderr names the options that take one."""
    with DPoPTestServer() as api:
        key = ["--key", os.environ["DPOP_KEY"]]
        result = run("curl", *key, "-sS", api.resource)
        assert (result.returncode, result.stdout) == (0, "")
        assert "Hint: the server responded 401: it needs an access token" in result.stderr
        assert "--token-file" in result.stderr
        assert run("curl", *key, "-s", api.resource).stderr == ""


@pytest.mark.parametrize(
    ("status", "value", "words"),
    [
        (401, 'Basic realm="x"', "without a DPoP challenge"),
        (401, 'DPoP algs="ES256"', "does not say what is wrong"),
        (401, 'DPoP error="invalid_dpop_proof"', "refused the proof: invalid_dpop_proof"),
        (403, 'DPoP error="insufficient_scope"', "refused the token: insufficient_scope"),
    ],
)
def test_other_refusals_are_explained(server: Recorder, status: int, value: str, words: str) -> None:
    """Each in a sentence of its own, with what to do next where that is known."""
    server.handler = script(Response(status, [("WWW-Authenticate", value)]))
    result = invoke("curl", "--token-file", "token.txt", server.url())
    assert (result.exit_code, result.stdout) == (0, "")
    assert words in result.stderr


@pytest.mark.parametrize("args", [[], ["-i"], ["-o", "out"], ["-f"], ["-w", "%{http_code}"]], ids=str)
@pytest.mark.parametrize("refusal", [challenge("n1", b"no"), AS_CHALLENGE], ids=["api", "authorization server"])
def test_where_descriptors_have_no_names(args: list[str], refusal: Response, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: what can be seen of a challenge is answered, and the rest costs a second command at most."""
    for module in ("scratch", "transfer"):
        monkeypatch.setattr(f"dpop_cli.commands.curl.{module}.has_dev_fd", lambda: False)
    token = [] if refusal.status == 400 else ["--token-file", "token.txt"]
    yes = Response(200, [], b"yes")
    with Recorder(script(refusal, yes)) as server, Recorder(lambda _: yes) as other:
        expected = plain_curl("-s", *args, other.url()).stdout
        result = invoke("curl", *token, "-s", *args, server.url())
        hidden = refusal.status == 400 and args[:1] in [["-o"], ["-f"]]  # what -w writes behind the body is no harm
        if hidden:
            assert len(server.requests) == 1
            result = invoke("curl", *token, "-s", *args, server.url())
        assert (result.exit_code, result.stdout) == (0, expected)
        assert [request.nonce for request in server.requests] == [None, "n1"]


# --- secrets


def test_no_secret_in_a_command_line(server: Recorder, tmp_path: Path) -> None:
    """What /proc shows of dpop and of curl while they run: neither proof, token, nonce nor key."""
    server.handler = script(challenge("s3cret-nonce"), Response(200, [], b"yes"))
    fake = tmp_path / "bin" / "curl"
    fake.parent.mkdir()
    note = 'tr "\\0" " " <"/proc/$$/cmdline" >>seen; tr "\\0" " " <"/proc/$PPID/cmdline" >>seen'
    environ = 'tr "\\0" " " <"/proc/$$/environ" >>environ'
    fake.write_text(f'#!/bin/sh\n{note}\n{environ}\nPATH=$OLD_PATH exec curl "$@"\n')
    fake.chmod(0o755)
    env = {
        "DPOP_KEY": os.environ["DPOP_KEY"],
        "OLD_PATH": os.environ["PATH"],
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
    }
    done = run("curl", "--token-file", "-", "-s", server.url(), stdin=TOKEN, cwd=tmp_path, env=env)
    assert done.stdout == "yes", done.stderr
    seen = (tmp_path / "seen").read_text()
    assert seen.count("--header @/dev/fd/") == 2
    for text in (seen, (tmp_path / "environ").read_text()):
        assert TOKEN not in text
        assert "eyJ" not in text
        assert "s3cret" not in text
    assert [request.one("Authorization") for request in server.requests] == [f"DPoP {TOKEN}"] * 2


def test_nothing_is_left_in_the_temporary_directory(server: Recorder, tmp_path: Path) -> None:
    """Neither after a good end nor after kill -9."""
    empty = tmp_path / "tmp"
    empty.mkdir()
    env = environment(DPOP_KEY=os.environ["DPOP_KEY"], TMPDIR=str(empty))
    subprocess.run([*DPOP, "curl", "-s", server.url()], env=env, check=True, capture_output=True, timeout=60)
    stop = tmp_path / "stop"
    os.mkfifo(stop)

    def hanging() -> Iterator[bytes]:
        yield b"begun\n"
        stop.read_bytes()

    server.handler = lambda _: Response(200, [], hanging())
    process = subprocess.Popen([*DPOP, "curl", "-s", server.url()], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.wait()
    stop.write_bytes(b"x")
    process.stdout.close()
    assert list(empty.iterdir()) == []


def test_a_state_that_cannot_be_written_is_a_hint(server: Recorder, tmp_path: Path) -> None:
    """The answer counts: a nonce that cannot be kept is mentioned, and curl's status stays."""
    server.handler = lambda _: Response(200, [("DPoP-Nonce", "n1")], b"yes")
    (tmp_path / "file").write_text("")
    result = invoke("curl", "-s", server.url(), env={"DPOP_STATE_DIR": str(tmp_path / "file")})
    assert (result.exit_code, result.stdout) == (0, "yes")
    assert result.stderr.count("Hint: ") == 1


# --- help


def test_the_examples_work(key_file: str, tmp_path: Path) -> None:
    """What the help shows can be typed as it stands, against a server that asks for nonces."""
    with DPoPTestServer() as server:
        form = f"grant_type=client_credentials&client_id={server.client_id}&client_secret={server.client_secret}"
        (tmp_path / "form.txt").write_text(form)
        (tmp_path / "key.pem").write_bytes(Path(key_file).read_bytes())
        jkt = dpop.load_key(key_file).thumbprint
        stored = TokenSet(
            access_token=server.issue_access_token(jkt=jkt),
            jkt=jkt,
            token_endpoint=server.token_endpoint,
            client_id=server.client_id,
        )
        FileTokenStore(tmp_path / "tokens.json").save(stored)
        script_ = with_url(examples(curl), server.resource, token_url=server.token_endpoint)
        done = run_script(script_, tmp_path)
        assert done.returncode == 0, done.stderr
        assert [request.status for request in server.requests] == [400, 200, 401, 200, 200, 200]
    assert '"method": "PUT"' in done.stdout


def test_help_fits_80_columns() -> None:
    """No line is broken by an old terminal; the usage line says where curl's part begins."""
    text = invoke("curl", "--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith("Usage: dpop curl [OPTIONS] [curl's options] URL\n")


def test_json_is_passed(server: Recorder) -> None:
    """--json is curl's, with the headers it brings."""
    invoke("curl", "-s", "--json", '{"a": 1}', server.url())
    (request,) = server.requests
    assert json.loads(request.body) == {"a": 1}
    assert request.one("Content-Type") == "application/json"
