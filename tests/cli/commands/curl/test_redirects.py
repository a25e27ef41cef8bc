# SPDX-License-Identifier: Apache-2.0
"""`dpop curl` and redirects: followed as curl follows them, within the origin, each hop with a proof of its own."""

from __future__ import annotations

import socketserver
import subprocess
import threading
from pathlib import Path

import pytest
from support.curl import TOKEN, dpop_curl, invoke, on_the_wire, plain_curl
from support.recorder import Handler, Recorder, Response, challenge, script

pytestmark = pytest.mark.usefixtures("curl_folder")


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


@pytest.mark.parametrize("where", ["other name", "other port", "user", "scheme", "nowhere", "broken"])
def test_no_redirect_leaves_the_origin(server: Recorder, where: str) -> None:
    """The other server gets no request at all; the answer that leads there is shown, and a hint."""
    with Recorder(lambda _: Response(200, [], b"stolen")) as evil:
        location = {
            "other name": server.other_origin + "/",
            "other port": evil.url("/"),
            "user": server.origin.replace("//", "//user:pa55@"),
            "scheme": server.url("/").replace("http:", "https:"),
            "nowhere": "file:///etc/passwd",
            "broken": "http://[/",
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
