# SPDX-License-Identifier: Apache-2.0
"""`dpop curl`: curl's request, output and exit status, with one fresh proof on every request on the wire."""

from __future__ import annotations

import json
import os
import re
import signal
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from adapters.authority import Authority, make_authority
from adapters.http2_recorder import Http2Recorder
from adapters.recorder import Handler, Received, Recorder, Response, challenge, script
from adapters.relays import ForwardProxy, SocksProxy
from click.testing import Result
from dpop_cli.commands.curl.command import curl
from support.cli_process import DPOP, AtTerminal, environment, examples, run, run_script, with_url
from support.cli_process import invoke as invoke_bare

import dpop
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet

TOKEN = "to-ken.4711"
AS_CHALLENGE = Response(400, [("DPoP-Nonce", "n1")], b'{"error": "use_dpop_nonce"}')


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A key on disk."""
    path = tmp_path_factory.mktemp("key") / "key.pem"
    dpop.generate_key().save(path)
    return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Certificates."""
    return make_authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, key_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with a token and some files, and DPOP_KEY."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DPOP_KEY", key_file)
    (tmp_path / "token.txt").write_text(TOKEN)
    (tmp_path / "body.txt").write_text("a=1&b=2\n")
    (tmp_path / "up load.bin").write_bytes(b"octets")


@pytest.fixture
def server() -> Iterator[Recorder]:
    """A server that says yes."""
    with Recorder(lambda request: Response(200, [("X-Name", "v")], b"body of " + request.method.encode())) as recorder:
        yield recorder


def invoke(*args: str, stdin: str | None = None, env: dict[str, str] | None = None) -> Result:
    """`dpop`, within this process."""
    return invoke_bare(*args, stdin=stdin, env={"DPOP_KEY": os.environ["DPOP_KEY"], **(env or {})})


def dpop_curl(*args: str, stdin: str = "", shell: str = "") -> subprocess.CompletedProcess[str]:
    """`dpop curl`, as a process."""
    return run("curl", *args, stdin=stdin, shell=shell, env={"DPOP_KEY": os.environ["DPOP_KEY"]})


def plain_curl(*args: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """curl itself."""
    return subprocess.run(
        ["curl", "-q", "-H", "Expect:", *args], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )


def on_the_wire(request: Received) -> tuple[str, list[tuple[str, str]], bytes]:
    """What curl sent, without what must differ."""
    ours = {"dpop", "authorization", "expect"}
    headers = [(name, value) for name, value in request.headers if name.lower() not in ours]
    body = request.body
    if boundary := re.search(rb"-{24}[0-9A-Za-z]+", body):
        body = body.replace(boundary[0].rstrip(b"-"), b"boundary")
        headers = [(n, v) for n, v in headers if n.lower() not in {"content-type", "content-length"}]
    return request.line, headers, body


# --- the request


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["-X", "DELETE"],
        ["-XPATCH", "-d", "x"],
        ["-X", "get"],
        ["-d", "a=b c", "--data-urlencode", "q=ä &", "--data-raw", "@not-a-file"],
        ["-d", "@body.txt", "--data-binary", "@body.txt"],
        ["--data-urlencode", "name@body.txt"],
        ["-G", "-d", "a=b", "--data-urlencode", "q=1 2"],
        ["-G", "-I", "-d", "a=b"],
        ["--json", '{"a": 1}'],
        ["-F", "a=b", "-F", "file=@body.txt;type=text/plain"],
        ["-T", "body.txt"],
        ["-I"],
        ["-sSXPOST", "-dx", "-HX-A: b", "-Afoo"],
        ["--url-query", "a=b", "--no-keepalive", "-0"],
        ["-u", "user:pass", "-d", "grant_type=x"],
        ["-b", "a=b", "-e", "http://before.example/", "-r", "0-5", "--compressed"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", ["/a/b?c=d"])
def test_it_is_the_request_that_curl_sends(server: Recorder, args: list[str], path: str) -> None:
    """Method, target, headers and body are curl's own, and the proof names them."""
    expected = plain_curl("-s", *args, server.origin + path)
    got = invoke("curl", "-s", *args, server.origin + path)
    assert (got.exit_code, got.stdout) == (expected.returncode, expected.stdout), got.stderr
    theirs, ours = server.requests
    assert on_the_wire(ours) == on_the_wire(theirs)
    assert ours.claims["htm"] == ours.method
    assert ours.claims["htu"] == server.origin + ours.target.partition("?")[0]


@pytest.mark.parametrize("path", ["/a/../b/./c", "", "/%7Euser/%2F?a=%20", "/a//b/;c#fragment"])
def test_it_is_the_url_that_curl_makes_of_it(server: Recorder, path: str) -> None:
    """Dot segments, an empty path, escapes: what is on the wire is what curl would send, and the proof names it."""
    test_it_is_the_request_that_curl_sends(server, ["-d", "x"], path)


@pytest.mark.parametrize("url", ["/dir/", "", "/file?q", "/file"])
def test_an_upload_gets_its_files_name(server: Recorder, url: str) -> None:
    """-T adds the name to a URL that has none, as curl does, and the proof names the result."""
    plain_curl("-s", "-T", "up load.bin", server.origin + url)
    invoke("curl", "-s", "-T", "up load.bin", server.origin + url)
    theirs, ours = server.requests
    assert ours.line == theirs.line
    assert ours.claims["htu"] == server.origin + ours.target.partition("?")[0]


def test_the_url_may_stand_anywhere_and_be_named(server: Recorder) -> None:
    """Before the options, between them, after --, or with --url."""
    url = server.url("/x")
    for args in (
        [url, "-s", "-X", "PUT"],
        ["-s", url, "-X", "PUT"],
        ["-sX", "PUT", "--", url],
        ["-XPUT", "--url", url],
    ):
        assert invoke("curl", *args).exit_code == 0
    assert [request.claims["htm"] for request in server.requests] == ["PUT"] * 4


def test_a_token_goes_with_its_hash(server: Recorder) -> None:
    """Authorization: DPoP and ath; without a token neither."""
    invoke("curl", "--token-file", "token.txt", "-s", server.url())
    invoke("curl", "-s", server.url())
    with_token, without = server.requests
    assert with_token.one("Authorization") == f"DPoP {TOKEN}"
    assert with_token.claims["ath"] == dpop.access_token_hash(TOKEN)
    assert without.all("Authorization") == []
    assert "ath" not in without.claims


@pytest.mark.parametrize(
    "args",
    [
        ["-s", "--token-file", "token.txt", "URL"],
        ["URL", "-s", "--token-file=token.txt"],
        ["-sXGET", "URL", "--token-file", "token.txt"],
        ["--token-file", "token.txt", "--", "-s", "URL"],
        ["-sA", "--token-env", "--token-file", "token.txt", "URL"],
        ["-s", "--user-agent", "--no-nonce", "--token-file", "token.txt", "--", "URL"],
    ],
    ids=" ".join,
)
def test_our_options_may_stand_among_curls(server: Recorder, args: list[str]) -> None:
    """Wherever they are, they are ours; a value of one of curl's options is never taken for one."""
    result = invoke("curl", *(arg.replace("URL", server.url()) for arg in args))
    assert result.exit_code == 0, result.stderr
    (request,) = server.requests
    assert request.one("Authorization") == f"DPoP {TOKEN}"


def test_key_is_curls_behind_its_options(server: Recorder, key_file: str) -> None:
    """`--key` first is the proof's; behind curl's options, or behind --, it goes to curl, with --cert."""
    with_both = ("--key", key_file, "--", "--key", "tls.pem", "--cert", "tls.crt", "-s", server.url())
    assert invoke("curl", *with_both).exit_code == 0  # plain http asks for neither
    assert invoke("curl", "-s", "--key", "tls.pem", "--cert", "tls.crt", server.url()).exit_code == 0
    assert len(server.requests) == 2


def test_header_lines_from_a_file_and_from_a_pipe(server: Recorder) -> None:
    """-H @file and -H @- work as they do with curl."""
    Path("headers.txt").write_text("X-One: 1\r\nX-Two: 2\n\n")
    assert invoke("curl", "-s", "-H", "@headers.txt", "-H", "X-Three: 3", server.url()).exit_code == 0
    assert invoke("curl", "-s", "-H", "@-", server.url(), stdin="X-Four: 4\n").exit_code == 0
    first, second = server.requests
    assert [first.one(name) for name in ("X-One", "X-Two", "X-Three")] == ["1", "2", "3"]
    assert second.one("X-Four") == "4"


def test_curlrc_is_not_read(server: Recorder, tmp_path: Path) -> None:
    """A .curlrc with retries or -L would break the promise, so curl runs with -q."""
    (tmp_path / ".curlrc").write_text('header = "X-From-Rc: 1"\n')
    done = run("curl", "-s", server.url(), env={"DPOP_KEY": os.environ["DPOP_KEY"], "HOME": str(tmp_path)})
    assert done.returncode == 0
    assert server.requests[0].all("X-From-Rc") == []


def test_standard_input_is_curls(server: Recorder) -> None:
    """-d @- and -T - read what is piped in."""
    assert dpop_curl("-s", "--data-binary", "@-", server.url(), stdin="piped").stdout == "body of POST"
    assert dpop_curl("-s", "-T", "-", server.url("/f"), stdin="piped").stdout == "body of PUT"
    assert [request.body for request in server.requests] == [b"piped", b"piped"]


# --- what is refused


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no URL"),
        (["URL", "URL"], "2 URLs"),
        (["URL", "--url", "URL"], "2 URLs"),
        (["URL{a,b}"], "brackets and braces"),
        (["URL[1-3]"], "brackets and braces"),
        (["-T", "{a,b}", "URL"], "brackets and braces"),
        (["URL", "--next", "URL"], "a proof of its own"),
        (["URL", "-:", "URL"], "a proof of its own"),
        (["-Z", "URL"], "a proof of its own"),
        (["-K", "config", "URL"], "any option"),
        (["--retry", "3", "URL"], "the same proof again"),
        (["--location-trusted", "URL"], "within the origin"),
        (["--anyauth", "URL"], "twice"),
        (["--digest", "-u", "pa55:pa55", "URL"], "twice"),
        (["--oauth2-bearer", "pa55", "URL"], "--token-file"),
        (["--request-target", "/pa55", "URL"], "URL"),
        (["--expand-url", "pa55", "URL"], "URL"),
        (["--libcurl", "out.c", "URL"], "to a file"),
        (["--proxy-digest", "URL"], "--proxy-basic"),
        (["-H", "DPoP: pa55", "URL"], "its own"),
        (["-H", "Host: api.example", "URL"], "--resolve"),
        (["-H", "Authorization: DPoP pa55", "URL"], "--token-file"),
        (["-H", "authorization:bearer pa55", "URL"], "--token-file"),
        (["-H", "@proofs.txt", "URL"], "its own"),
        (["-H", "@missing-pa55", "URL"], "cannot be read"),
        (["-I", "-d", "x", "URL"], "one of them"),
        (["-F", "a=b", "-d", "x", "URL"], "one of them"),
        (["-T", "f", "-d", "x", "URL"], "one of them"),
        (["-T", "f", "URL/?q"], "versions of curl differ"),
        (["URL", "-X"], "is missing"),
        (["URL", "--pa55" * 9], "does not pass on an option"),
        (["-pa55", "URL"], "does not pass on an option"),
        (["-", "URL"], "does not pass on an option"),
        (["-X", "G ET", "URL"], "method"),
        (["api.example/x"], "absolute"),
        (["ftp://api.example/x"], "http"),
        (["https://user:pa55@api.example/"], "user"),
        (["http://api.example/"], "--allow-http"),
        (["https://api.example/a b"], "space"),
        (["https://api.example/?a b"], "space"),
        (["-s", "--key", "key.pem", "URL"], "for TLS"),
        (["--token-file", "token.txt", "-u", "pa55:pa55", "URL"], "give one of them"),
        (["--token-file", "-", "-d", "@-", "URL"], "both name standard input"),
        (["--max-redirs", "x", "-L", "URL"], "a number"),
        (["--max-redirs", "-5", "-L", "URL"], "-1 for no limit"),
        (["URL/[a]"], "%5B"),
        (["-g", "URL/[a]"], "%5B"),
        (["--help-me", "URL"], "does not pass on an option"),
    ],
)
def test_what_cannot_be_signed_once_per_request_is_refused(server: Recorder, args: list[str], words: str) -> None:
    """Status 2 before anything is sent, with what to do, and without repeating what may be a secret."""
    Path("proofs.txt").write_text("dpop: pa55\n")
    result = invoke("curl", *(arg.replace("URL", server.url("/x")) for arg in args), stdin="x")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "pa55" not in result.output.replace("@missing-pa55", "").replace("--pa55" * 9, "")
    assert server.requests == []


def test_literal_brackets_are_one_request(server: Recorder) -> None:
    """With -g a bracket in the query is a bracket, as with curl."""
    assert invoke("curl", "-s", "-g", server.url("/x?a[]={1}")).exit_code == 0
    assert server.requests[0].target == "/x?a[]={1}"


@pytest.mark.parametrize(
    "args",
    [
        ["--no-clobber"],
        ["-R"],
        ["--create-file-mode", "0644"],
        ["-w", "%{filename_effective}|%{http_code}"],
        ["-w", "@format.txt"],
        ["-o", "out", "-w", "%{filename_effective}|"],
        ["-o", "100%.txt", "-w", "%{filename_effective}|"],
        ["-O", "--output-dir", "down", "--create-dirs", "-w", "%{filename_effective}|"],
    ],
    ids=" ".join,
)
def test_options_about_the_output_file_see_the_users_file(server: Recorder, args: list[str]) -> None:
    """curl writes to a pipe of this command, and no option shows that or trips over it; the response is not lost."""
    Path("format.txt").write_text("%{filename_effective}|%{http_code}\n")
    known = plain_curl("-s", *args, server.url("/name"))
    made = {path.name: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    for path in Path().rglob("*"):
        if path.is_file() and path.name in {"out", "name", "100%.txt"}:
            path.unlink()
    got = dpop_curl("-s", *args, server.url("/name"))
    assert (got.returncode, got.stdout) == (known.returncode, known.stdout), got.stderr
    assert {path.name: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == made


def test_json_about_a_transfer_names_no_pipe(server: Recorder) -> None:
    """-w '%{json}' holds the name of the output file, as curl says it."""
    known = plain_curl("-s", "-o", "out", "-w", "%{json}", server.url())
    got = dpop_curl("-s", "-o", "out", "-w", "%{json}", server.url())
    assert json.loads(got.stdout)["filename_effective"] == json.loads(known.stdout)["filename_effective"] == "out"
    assert "/dev/fd" not in dpop_curl("-s", "-w", "%{json}", server.url()).stdout


@pytest.mark.parametrize(
    "args", [[b"-T", b"\xff.bin"], [b"-d", b"@\xff.bin"], [b"--data-urlencode", b"\xfe@\xff.bin"], [b"-o", b"\xff.out"]]
)
def test_names_of_files_need_not_be_utf_8(server: Recorder, args: list[bytes]) -> None:
    """The request is the one that curl sends."""
    Path(os.fsdecode(b"\xff.bin")).write_bytes(b"content")
    for command in (["curl", "-q", "-H", "Expect:"], [*DPOP, "curl"]):
        words = [*map(os.fsencode, command), b"-s", *args, server.url("/").encode()]
        env = environment(DPOP_KEY=os.environ["DPOP_KEY"])
        done = subprocess.run(words, capture_output=True, timeout=60, check=False, env=env)
        assert (done.returncode, done.stderr) == (0, b"")
    (line, *rest), (their_line, *their_rest) = map(on_the_wire, reversed(server.requests))
    # Versions of curl differ in the case of the hex digits.
    assert (line.upper(), rest) == (their_line.upper(), their_rest)


# --- challenges


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


# --- redirects


def redirect(location: str, status: int = 307) -> Response:
    """An answer that leads elsewhere."""
    return Response(status, [("Location", location)], b"moved")


def by_path(**responses: Response) -> Handler:
    """An answer for each path, 200 for any other."""
    return lambda request: responses.get(request.target.strip("/").partition("?")[0], Response(200, [], b"there"))


@pytest.mark.parametrize(
    ("status", "args", "method", "keeps_body"),
    [
        (307, ["-d", "x"], "POST", True),
        (308, ["-T", "body.txt"], "PUT", True),
        (302, ["-d", "x"], "GET", False),
        (301, ["-d", "x", "--post301"], "POST", True),
        (303, ["-T", "body.txt"], "GET", False),
        (302, ["-X", "PATCH", "-d", "x"], "PATCH", False),
        (303, ["-I"], "HEAD", False),
        (302, ["-G", "-d", "a=b"], "GET", False),
    ],
)
def test_a_redirect_is_followed_as_curl_does(
    server: Recorder, status: int, args: list[str], method: str, keeps_body: bool
) -> None:
    """-L: method, target and body of each hop are curl's own; each has a proof of its own, with the token."""
    server.handler = by_path(a=redirect("b?x=y", status), b=redirect("/c", 307))
    expected = plain_curl("-sL", *args, server.url("/a"))
    theirs = [on_the_wire(request) for request in server.requests]
    server.requests.clear()
    got = invoke("curl", "--token-file", "token.txt", "-sL", *args, server.url("/a"))
    assert [on_the_wire(request) for request in server.requests] == theirs
    assert got.stdout == expected.stdout
    assert len(server.requests) == 3
    last = server.requests[-1]
    assert (last.method, bool(last.body)) == (method, keeps_body)
    assert len({request.claims["jti"] for request in server.requests}) == 3
    for request in server.requests:
        assert request.claims["htu"] == server.origin + request.target.partition("?")[0]
        assert request.claims["htm"] == request.method
        assert request.one("Authorization") == f"DPoP {TOKEN}"


@pytest.mark.parametrize("args", [["-c", "jar"], ["-c", "jar", "-b", "jar"], ["-b", "x=y", "-c", "jar"], ["-b", "x=y"]])
def test_cookies_go_along_as_with_curl(server: Recorder, args: list[str]) -> None:
    """What one answer sets is sent with the next request, and after a challenge too, where curl keeps cookies."""
    moved = redirect("/b")
    moved.headers.append(("Set-Cookie", "id=1; Path=/"))
    server.handler = by_path(a=moved)
    plain_curl("-sL", *args, server.url("/a"))
    theirs = [sorted("; ".join(request.all("Cookie")).split("; ")) for request in server.requests]
    Path("jar").unlink(missing_ok=True)
    server.requests.clear()
    refusal = challenge("n1")
    refusal.headers.append(("Set-Cookie", "id=1; Path=/"))
    server.handler = lambda request: refusal if request.nonce is None else by_path(a=moved)(request)
    invoke("curl", "--token-file", "token.txt", "-sL", *args, server.url("/a"))
    ours = [sorted("; ".join(request.all("Cookie")).split("; ")) for request in server.requests]
    assert ours[0] == theirs[0]
    assert ours[2] == theirs[1]
    assert ours[1] == theirs[1]  # as if the challenge had been the redirect


@pytest.mark.parametrize("args", [["-i"], ["-D", "-"], ["-D", "heads.txt"]])
def test_heads_of_all_hops_are_shown(server: Recorder, args: list[str]) -> None:
    """-i and -D show each hop's head, as with curl; a challenge's between them is not seen."""
    server.handler = by_path(a=redirect("/b"))
    expected = plain_curl("-sL", *args, server.url("/a"))
    theirs = Path("heads.txt").read_bytes() if "heads.txt" in args else b""
    responses = [redirect("/b"), challenge("n1"), Response(200, [], b"there")]
    server.handler = script(*responses)
    got = invoke("curl", "--token-file", "token.txt", "-sL", *args, server.url("/a"))
    assert got.stdout == expected.stdout
    assert (Path("heads.txt").read_bytes() if "heads.txt" in args else b"") == theirs


@pytest.mark.parametrize("where", ["other name", "other port", "user", "scheme", "nowhere"])
def test_no_redirect_leaves_the_origin(server: Recorder, where: str) -> None:
    """The other server gets no request at all; the answer that leads there is shown, and a hint."""
    with Recorder(lambda _: Response(200, [], b"stolen")) as evil:
        location = {
            "other name": server.other_origin + "/",
            "other port": evil.url("/"),
            "user": server.origin.replace("//", "//user:pa55@"),
            "scheme": server.url("/").replace("http:", "https:"),
            "nowhere": "file:///etc/passwd",
        }[where]
        server.handler = script(redirect(location))
        result = invoke("curl", "--token-file", "token.txt", "-s", "-L", server.url("/a"))
        assert evil.requests == []
    assert (result.exit_code, result.stdout) == (0, "moved")
    assert result.stderr.count("Hint: ") == 1
    assert "pa55" not in result.stderr
    assert len(server.requests) == 1


def test_redirects_end(server: Recorder) -> None:
    """A loop ends as with curl: status 47, at --max-redirs."""
    server.handler = lambda _: redirect("/again")
    result = invoke("curl", "-sS", "-L", "--max-redirs", "3", server.url())
    assert result.exit_code == plain_curl("-s", "-L", "--max-redirs", "3", server.url()).returncode == 47
    assert len(server.requests) == 8
    assert "(47)" in result.stderr


def test_without_l_a_redirect_is_an_answer(server: Recorder) -> None:
    """As with curl."""
    server.handler = script(redirect("/b"))
    assert invoke("curl", "-s", server.url()).stdout == "moved"
    assert len(server.requests) == 1


def test_a_redirect_that_wants_a_gone_body(server: Recorder) -> None:
    """Status 65, as with curl, and no cut body."""
    server.handler = by_path(a=redirect("/b"))
    done = dpop_curl("-sS", "-L", "--data-binary", "@-", server.url("/a"), stdin="piped")
    assert done.returncode == 65
    assert len(server.requests) == 1


def test_what_curl_itself_would_do(server: Recorder) -> None:
    """Why all this: curl's -L sends the DPoP header to another host, and --retry sends the same proof again."""
    with Recorder(lambda _: Response()) as other:
        server.handler = script(redirect(other.url("/")))
        plain_curl("-s", "-L", "-H", "DPoP: proof", "-H", "Authorization: DPoP token", server.url())
        assert other.requests[0].one("DPoP") == "proof"
    server.requests.clear()
    server.handler = script(Response(503), Response(200))
    plain_curl("-s", "--retry", "1", "--retry-delay", "0", "-H", "DPoP: proof", server.url())
    assert [request.one("DPoP") for request in server.requests] == ["proof", "proof"]


def test_no_proof_is_sent_again_without_expect(tmp_path: Path) -> None:
    """To a 417 curl sends its request again, proof and all; with dpop curl nothing asks for a 417."""
    heads: list[bytes] = []
    size = 1_100_000  # newer curls expect 100 only for more than a MiB
    (tmp_path / "large.bin").write_bytes(bytes(size))

    class Unexpecting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()).strip():
                heads.append(line)
                while (field := self.rfile.readline()).strip():
                    heads[-1] += field
                if b"Expect:" not in heads[-1]:
                    self.rfile.read(size)
                self.wfile.write(b"HTTP/1.1 417 X\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Unexpecting) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}/f"
        try:
            subprocess.run(["curl", "-qsT", "large.bin", "-H", "DPoP: proof", url], check=True)
            theirs = list(heads)
            heads.clear()
            assert invoke("curl", "-s", "-T", "large.bin", url).exit_code == 0
        finally:
            server.shutdown()
            thread.join()
    assert [b"DPoP: proof" in head for head in theirs] == [True, True]
    assert len(heads) == 1


# --- output and status


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
