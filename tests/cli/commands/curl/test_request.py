# SPDX-License-Identifier: Apache-2.0
"""The requests of `dpop curl` are those of curl, and what cannot be signed once for each request is refused."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from support.cli_process import DPOP, environment, run
from support.curl import TOKEN, dpop_curl, invoke, on_the_wire, plain_curl
from support.recorder import Recorder

import dpop

pytestmark = pytest.mark.usefixtures("curl_folder")


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
        (["-H", "X-A: b\r\nDPoP: pa55", "URL"], "line break"),
        (["-H", "X-A: b\nDPoP: pa55", "URL"], "line break"),
        (["-A", "a\rDPoP: pa55", "URL"], "line break"),
        (["-e", "a\nDPoP: pa55", "URL"], "line break"),
        (["-b", "a=b\nDPoP: pa55", "URL"], "line break"),
        (["-r", "0-1\nDPoP: pa55", "URL"], "line break"),
        (["-H", "@broken.txt", "URL"], "carriage return"),
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
    Path("broken.txt").write_bytes(b"X-A: b\rDPoP: pa55\n")
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
