# SPDX-License-Identifier: Apache-2.0
"""`dpop inspect`: every check's verdict, from any form a proof is found in, and what an answer asks for."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import click
import pytest
from dpop_cli.commands.inspect.command import inspect
from dpop_cli.commands.inspect.input import seen_requests
from hypothesis import given
from hypothesis import strategies as st
from support.cli_process import (
    DPOP,
    READABLE,
    STYLES,
    AtTerminal,
    environment,
    examples,
    invoke,
    run,
    run_script,
    with_url,
)

import dpop
from dpop.encoding import b64url_encode
from dpop.testing import DPoPTestServer

URL = "https://api.example/things"
TOKEN = "to-ken.4711"
KEY = dpop.generate_key()


def proof(method: str = "GET", url: str = URL, **claims: Any) -> str:
    """A proof."""
    return dpop.create_proof(KEY, method, url, **claims)


def inspected(*args: str, stdin: str | None = None) -> tuple[int, list[dict[str, Any]]]:
    """Status and what --json says of each proof."""
    result = invoke("inspect", "--json", *args, stdin=stdin)
    assert result.exit_code in {0, 1}, result.stderr
    judged: list[dict[str, Any]] = json.loads(result.stdout)["proofs"]
    return result.exit_code, judged


def verdicts(judged: dict[str, Any]) -> dict[str, str]:
    """Verdict by check."""
    return {check["name"]: check["verdict"] for check in judged["checks"]}


def failures(judged: dict[str, Any]) -> dict[str, str]:
    """Reason by check."""
    return {check["name"]: check["reason"] for check in judged["checks"] if check["verdict"] == "failed"}


def dump(*lines: str) -> str:
    """Saved request headers."""
    return "\r\n".join([*lines, "", ""])


# --- what it says


def test_a_good_proof_for_a_request() -> None:
    """Against its request all is good, but for what only the server knows; status 0."""
    args = ("--against", f"{URL}?q", "--token-file", "-", "--jkt", KEY.thumbprint, "--nonce", "n")
    status, (judged,) = inspected(proof(access_token=TOKEN, nonce="n"), *args, stdin=TOKEN)
    assert status == 0
    assert judged["good"] is True
    assert {name for name, said in verdicts(judged).items() if said != "passed"} == {"replay"}
    assert judged["claims"]["htu"] == URL
    assert judged["jkt"] == KEY.thumbprint
    text = invoke("inspect", proof(access_token=TOKEN, nonce="n"), *args, stdin=TOKEN).stdout
    assert "Good: a server accepts it, once." in text


def test_everything_that_is_wrong_with_it() -> None:
    """Each fault with its rule, and expected against got; the verdict is the one a server gives."""
    args = ("--against", URL, "--method", "POST", "--token-file", "-", "--jkt", "A" * 43, "--nonce", "n")
    bad = proof(url="https://other.example/", iat=int(time.time()) - 100)
    status, (judged,) = inspected(bad, *args, stdin=TOKEN)
    assert status == 1
    assert failures(judged) == {
        "htm": "htm_mismatch",
        "htu": "htu_mismatch",
        "iat": "iat_too_old",
        "nonce": "nonce_missing",
        "ath": "ath_missing",
        "binding": "key_mismatch",
    }
    assert (judged["error"], judged["reason"]) == ("invalid_dpop_proof", "htm_mismatch")
    htm = next(check for check in judged["checks"] if check["name"] == "htm")
    assert (htm["rule"], htm["expected"], htm["got"]) == ("RFC 9449 §4.3 (8)", "POST", "GET")
    text = invoke("inspect", bad, *args, stdin=TOKEN).stdout
    assert text.count("FAILED") == 6
    assert "expected POST" in text
    assert "A server refuses it: invalid_dpop_proof (htm_mismatch)." in text
    assert max(map(len, text.splitlines())) < 80


def test_a_proof_alone_is_judged_as_far_as_it_goes() -> None:
    """Without a request nothing is said of it, and what would help is named."""
    result = invoke("inspect", proof())
    assert result.exit_code == 0
    assert "Good, as far as it was judged." in result.stdout
    assert "not judged; add --against URL" in result.stdout


def test_the_time_can_be_named() -> None:
    """An old proof was good at its time."""
    old = proof(iat=1_700_000_000)
    assert inspected(old)[0] == 1
    assert inspected(old, "--at", "1700000030")[0] == 0
    assert failures(inspected(old, "--at", "1700000070")[1][0]) == {"iat": "iat_too_old"}
    assert inspected(old, "--at", "1700000070", "--max-age", "90")[0] == 0


def test_algorithms_can_be_named() -> None:
    """What one server refuses another accepts."""
    assert failures(inspected(proof(), "--algs", "PS256 EdDSA")[1][0]) == {"alg": "alg_refused"}


def test_the_clients_own_key_is_never_shown() -> None:
    """A proof with a private key in it: that is the fault, and the key is not repeated."""
    _header, claims, signature = proof().split(".")
    members = {"typ": "dpop+jwt", "alg": "ES256", "jwk": {**KEY.public_jwk, "d": "s3cret-s3cret"}}
    leaky = f"{b64url_encode(json.dumps(members).encode())}.{claims}.{signature}"
    for args in ([], ["--json"]):
        result = invoke("inspect", leaky, *args)
        assert result.exit_code == 1
        assert "jwk_private" in result.stdout
        assert "s3cret" not in result.output


def test_a_strangers_text_cannot_move_the_cursor() -> None:
    """Escape sequences and line ends in claims are shown as what they are."""
    payload = {"jti": "\x1b[2J", "htm": "GE\nT", "htu": URL, "iat": 1, "extra\x07": ["\u202e"], "nonce": "x" * 4000}
    header = proof().split(".")[0]
    nasty = f"{header}.{b64url_encode(json.dumps(payload).encode())}.AAAA"
    result = invoke("inspect", nasty, "--against", URL)
    assert result.exit_code == 1
    assert all(line.isprintable() for line in result.stdout.splitlines())
    assert max(map(len, result.stdout.splitlines())) < 80


def test_a_har_file_cannot_move_the_cursor(tmp_path: Path) -> None:
    """Its method and URL are a stranger's, too, and are shown as what the proof should have named."""
    request = {"method": "G\x1b[2J", "url": URL, "headers": [{"name": "DPoP", "value": proof()}]}
    (tmp_path / "a.har").write_text(json.dumps({"log": {"entries": [{"request": request, "response": {}}]}}))
    result = invoke("inspect", "--from", str(tmp_path / "a.har"))
    assert "expected G\\x1b[2J" in result.stdout
    assert all(line.isprintable() for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a.b.c", "header_malformed"),
        ("not a proof", "not_compact"),
        ("x" * 1_000_000, "proof_too_long"),
        (f"{proof()}=", "not_compact"),
        (f"{proof()}, {proof()}", "not_compact"),
        ("ä.ö.ü", "not_compact"),
        (b64url_encode(b"[" * 500) + ".e30.e30", "header_malformed"),
        (b64url_encode(b"[" * 5000) + ".e30.e30", "proof_too_long"),
    ],
    ids=["dots", "words", "1 MB", "padding", "two in one", "foreign", "deep", "deeper"],
)
def test_what_is_no_proof_is_refused_with_a_reason(text: str, reason: str) -> None:
    """Status 1 and the verifier's own sentence, however odd it is."""
    result = invoke("inspect", stdin=text)
    assert result.exit_code == 1, result.output
    assert f"({reason})" in result.stdout
    assert len(result.stdout) < 10_000


# --- where it is found


def test_from_standard_input_an_argument_or_a_file(tmp_path: Path) -> None:
    """A proof may be piped, named - or given; --from names a file."""
    text = proof()
    (tmp_path / "proof.txt").write_text(f"{text}\n")
    for args, stdin in (
        ([text], None),
        (["-"], text),
        ([], f"{text}\n"),
        (["--from", str(tmp_path / "proof.txt")], None),
    ):
        assert inspected(*args, stdin=stdin)[0] == 0


def test_saved_request_headers_tell_of_their_request() -> None:
    """Method, URL and token are in the dump; what they say is compared with the proof."""
    lines = ("POST /things?q HTTP/1.1", "Host: api.example", f"DPoP: {proof('POST', access_token=TOKEN)}")
    _, (judged,) = inspected(stdin=dump(*lines, f"Authorization: DPoP {TOKEN}"))
    assert (judged["method"], judged["url"]) == ("POST", f"{URL}?q")
    assert {name for name, said in verdicts(judged).items() if said != "passed"} == {"nonce", "binding", "replay"}
    _, (judged,) = inspected(stdin=dump(*lines, "Authorization: DPoP another"))
    assert failures(judged) == {"ath": "ath_mismatch"}
    _, (judged,) = inspected("--against", "https://other.example/", stdin=dump(*lines))
    assert failures(judged) == {"htu": "htu_mismatch"}


def test_two_headers_are_one_fault() -> None:
    """A request with two proofs is refused for that."""
    _, (judged,) = inspected(stdin=dump("GET /things HTTP/1.1", f"DPoP: {proof()}", f"dpop: {proof()}"))
    assert failures(judged) == {"header": "proof_repeated"}


def test_what_curl_v_says_is_understood() -> None:
    """`curl -v` marks what it sent; this machine is reached by http."""
    url = "http://127.0.0.1:8080/a"
    said = [f"* Trying ({n})" for n in range(2)] + ["> GET /a HTTP/1.1", "> Host: 127.0.0.1:8080"]
    said += [f"> DPoP: {proof(url=url)}", "> ", "< HTTP/1.1 302 Found", "< DPoP-Nonce: n", "< ", "{}"]
    said += ["> GET /b HTTP/1.1", "> Host: 127.0.0.1:8080", f"> DPoP: {proof(url=url)}", "> "]
    status, (first, second) = inspected(stdin=dump(*said))
    assert status == 1
    assert first["good"] is True
    assert failures(second) == {"htu": "htu_mismatch"}


def test_json_of_our_own_commands() -> None:
    """What `dpop proof --json` and `dpop headers --json` print."""
    assert inspected(stdin=json.dumps({"proof": proof(), "header": {}}))[0] == 0
    text = json.dumps({"DPoP": proof(access_token="other"), "Authorization": f"DPoP {TOKEN}"})
    assert failures(inspected(stdin=text)[1][0]) == {"ath": "ath_mismatch"}


def har(*entries: dict[str, Any]) -> str:
    """A HAR file."""
    return json.dumps({"log": {"version": "1.2", "entries": list(entries)}})


def entry(text: str | None, *, method: str = "GET", at: str = "2023-11-14T22:13:25.000Z") -> dict[str, Any]:
    """An entry of one."""
    headers = [{"name": "accept", "value": "*/*"}]
    headers += [] if text is None else [{"name": "dpop", "value": text}]
    request = {"method": method, "url": f"{URL}?a=b", "headers": headers}
    return {"startedDateTime": at, "request": request, "response": {"status": 401}}


def test_a_har_file_is_judged_request_by_request(tmp_path: Path) -> None:
    """Each as of its own time; requests without a proof are passed over; the answer's status is shown."""
    good = entry(proof(iat=1_700_000_000))
    bad = entry(proof(iat=1_700_000_000), method="POST")
    text = har(entry(None), good, bad)
    (tmp_path / "a.har").write_text(text)
    status, (first, second) = inspected("--from", str(tmp_path / "a.har"))
    assert status == 1
    assert first["good"] is True
    assert failures(second) == {"htm": "htm_mismatch"}
    shown = invoke("inspect", stdin=text).stdout
    assert f"2. POST {URL}?a=b -> 401" in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{}",
        "[]",
        "[" * 100_000,
        har(),
        har(entry(None)),
        har({}, {"request": 1}, {"request": {"headers": [1, {"name": 1}]}}),
        '{"log": {"entries": [1, "x"]}}',
        '{"log": 1}',
        dump("GET / HTTP/1.1", "X-DPoP: a"),
        "GET / HTTP/1.1\nDPoP-Nonce: x\ndpop",
    ],
)
def test_where_there_is_none_that_is_said(text: str) -> None:
    """Status 2 or a verdict, one sentence, no traceback."""
    result = invoke("inspect", stdin=text)
    assert result.exit_code in {1, 2}
    assert result.stderr.count("Error: ") == (result.exit_code == 2)


@given(
    st.text()
    | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(json.dumps)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    """Whatever is pasted, there are requests or a sentence."""
    with contextlib.suppress(click.UsageError):
        assert list(seen_requests(text))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["a.b.c", "--from", "x"], "not both"),
        (["--response", "x", "a.b.c"], "one or the other"),
        (["--from", "missing"], "cannot be read"),
        (["a.b.c", "--against", "api.example"], "absolute"),
        (["a.b.c", "--method", "G ET"], "method"),
        (["a.b.c", "--nonce", "s3cret nonce"], "nonce"),
        (["a.b.c", "--algs", "none"], "--algs"),
        (["a.b.c", "--token-file", "missing"], "cannot be read"),
        (["a.b.c", "d"], "more argument"),
    ],
)
def test_what_cannot_be_used_is_status_2(
    args: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do, and no secret."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "token.txt").write_text(TOKEN)
    result = invoke("inspect", *args, stdin="")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "s3cret" not in result.output


def test_the_binding_of_a_jwt_is_read() -> None:
    """An access token that is a JWT says which key it is bound to."""
    token = ".".join(b64url_encode(part) for part in (b"{}", json.dumps({"cnf": {"jkt": "B" * 43}}).encode(), b"s"))
    args = (proof(access_token=token), "--token-file", "-")
    assert failures(inspected(*args, stdin=token)[1][0]) == {"binding": "key_mismatch"}


# --- answers


@pytest.mark.parametrize(
    ("response", "expected", "words"),
    [
        (
            (
                "HTTP/1.1 401 X\r\nDPoP-Nonce: n1\r\n"
                'WWW-Authenticate: DPoP error="use_dpop_nonce", algs="ES256 PS256"\r\n\r\n'
            ),
            {"role": "resource server", "error": "use_dpop_nonce", "retry": True, "algs": ["ES256", "PS256"]},
            "send the request again",
        ),
        (
            'HTTP/1.1 400 X\r\nDPoP-Nonce: n1\r\n\r\n{"error": "use_dpop_nonce"}',
            {"role": "authorization server", "error": "use_dpop_nonce", "retry": True},
            "send the request again",
        ),
        ('HTTP/2 400 \n\n{"error": "use_dpop_nonce"}', {"retry": False, "nonce": None}, "fault of the server"),
        ('HTTP/2 400 \nDPoP-Nonce: a b\n\n{"error": "use_dpop_nonce"}', {"retry": False}, "fault of the server"),
        ('HTTP/1.1 400 X\r\n\r\n{"error": "invalid_dpop_proof"}', {"error": "invalid_dpop_proof"}, "dpop inspect"),
        ('HTTP/1.1 401 X\r\nWWW-Authenticate: DPoP error="invalid_token"\r\n\r\n', {}, "get a new one"),
        ("HTTP/1.1 401 X\r\nWWW-Authenticate: DPoP algs=ES256\r\n\r\n", {"error": None}, "Authorization: DPoP"),
        ("HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer\r\n\r\n", {"role": None}, "no DPoP challenge"),
        ("HTTP/1.1 500 X\r\n\r\n<html>", {"status": 500}, "not about DPoP"),
        ("HTTP/1.1 200 X\r\nDPoP-Nonce: n2\r\n\r\nbody", {"nonce": "n2"}, "new nonce"),
        ('HTTP/1.1 200 X\r\n\r\n{"access_token": "s3cret", "token_type": "Bearer"}', {}, "bound to no key"),
        (
            'HTTP/1.1 200 X\r\n\r\n{"access_token": "s3cret", "token_type": "DPoP"}',
            {"token_type": "DPoP"},
            "request succeeded",
        ),
        ("HTTP/1.1 100 X\r\n\r\nHTTP/1.1 302 X\r\n\r\nHTTP/1.1 403 X\r\n\r\n", {"status": 403}, "not about DPoP"),
    ],
)
def test_an_answer_says_what_to_do(response: str, expected: dict[str, Any], words: str) -> None:
    """From `curl -i`: status 1 for a refusal, the next step in words, no token."""
    result = invoke("inspect", "--response", "-", "--json", stdin=response)
    told = json.loads(result.stdout)
    assert {name: told[name] for name in expected} == expected
    assert words in told["next"]
    assert result.exit_code == (told["status"] >= 400)
    text = invoke("inspect", "--response", "-", stdin=response).stdout
    assert words in " ".join(text.split())
    assert max(map(len, text.splitlines())) < 80
    assert "s3cret" not in text + result.stdout


def test_a_wrong_clock_is_seen_in_an_answer() -> None:
    """Date is compared with this machine's clock."""
    response = 'HTTP/1.1 400 X\r\nDate: Tue, 14 Nov 2023 22:13:20 GMT\r\n\r\n{"error": "invalid_dpop_proof"}'
    assert "behind this machine's clock" in invoke("inspect", "--response", "-", stdin=response).stdout


@pytest.mark.parametrize("response", ["", "nothing", "HTTP/1.1 100 Continue\r\n\r\n", "DPoP-Nonce: n\r\n"])
def test_no_answer_is_said(response: str) -> None:
    """Status 2."""
    result = invoke("inspect", "--response", "-", stdin=response)
    assert result.exit_code == 2
    assert "no response" in result.stderr


# --- as a program


def test_nothing_to_inspect_at_a_terminal(tmp_path: Path) -> None:
    """Typed alone it says what to give, rather than wait."""
    with AtTerminal("inspect", cwd=tmp_path) as terminal:
        assert terminal.end() == 2
        assert "dpop proof" in terminal.shown


def test_colours_at_a_terminal_unless_no_color(tmp_path: Path) -> None:
    """A terminal gets them; NO_COLOR and a pipe do not."""
    with AtTerminal("inspect", proof(), cwd=tmp_path) as terminal:
        assert terminal.end() == 0
    with AtTerminal("inspect", proof(), cwd=tmp_path, env={"NO_COLOR": "1"}) as plain:
        assert plain.end() == 0
    assert "\x1b[32m" in terminal.shown
    assert set(STYLES.findall(terminal.shown)) <= READABLE
    assert "\x1b" not in plain.shown
    assert "\x1b" not in run("inspect", stdin=proof()).stdout


def test_the_examples_work(tmp_path: Path) -> None:
    """What the help shows can be typed as it stands."""
    KEY.save(tmp_path / "key.pem")
    with DPoPTestServer() as server:
        done = run_script(with_url(examples(inspect), server.resource), tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"good": true' in done.stdout
    assert "Next: " in done.stdout


def test_help_fits_80_columns() -> None:
    """No line is broken by an old terminal."""
    assert max(map(len, invoke("inspect", "--help").stdout.splitlines())) <= 80


def test_a_large_har_file_is_judged_entry_by_entry(tmp_path: Path) -> None:
    """Its first line comes before its last entry is read, and memory does not grow with the number of proofs."""
    dpop.generate_key().save(tmp_path / "key.pem")
    proof = invoke("proof", "GET", "https://api.example/me", "--key", str(tmp_path / "key.pem")).stdout.strip()
    entry = {
        "startedDateTime": "2026-11-29T00:00:00Z",
        "request": {"method": "GET", "url": "https://api.example/me", "headers": [{"name": "DPoP", "value": proof}]},
    }
    one = json.dumps(entry)
    har = tmp_path / "t.har"
    with har.open("w") as file:
        file.write('{"log": {"version": "1.2", "entries": [')
        file.write(",\n".join([one] * 20_000))
        file.write(', {"broken"')
    process = subprocess.Popen(
        [*DPOP, "inspect", "--from", str(har)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with process:
        assert process.stdout is not None
        assert "1. GET https://api.example/me" in process.stdout.readline()
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = int(re.search(r"VmHWM:\s+([0-9]+) kB", status)[1])  # type: ignore[index]
        process.kill()
    assert peak < 150_000


def test_json_of_several_proofs_is_one_object(tmp_path: Path) -> None:
    """Printed as it is judged, and still one document."""
    dpop.generate_key().save(tmp_path / "key.pem")
    proof = invoke("proof", "GET", "https://api.example/me", "--key", str(tmp_path / "key.pem")).stdout.strip()
    headers = [{"name": "DPoP", "value": proof}]
    entry = {"request": {"method": "GET", "url": "https://api.example/me", "headers": headers}}
    (tmp_path / "t.har").write_text(json.dumps({"log": {"entries": [entry, entry]}}, indent=1))
    shown = json.loads(invoke("inspect", "--from", str(tmp_path / "t.har"), "--json").stdout)
    assert (shown["good"], len(shown["proofs"])) == (True, 2)


@pytest.mark.parametrize("form", ["{}", "DPoP {}", '"{}"', "'DPoP {}'", "DPoP: {}"])
def test_a_proof_as_it_was_copied(tmp_path: Path, form: str) -> None:
    """With its scheme, in quotes, or as a header line; as the argument, in a file or on standard input."""
    dpop.generate_key().save(tmp_path / "key.pem")
    proof = invoke("proof", "GET", "https://api.example/me", "--key", str(tmp_path / "key.pem")).stdout.strip()
    text = form.format(proof)
    (tmp_path / "p.txt").write_text(f"{text}\n")
    for args, stdin in (([text], None), ([str(tmp_path / "p.txt")], None), (["-"], text), ([], text)):
        result = invoke("inspect", *args, "--against", "https://api.example/me", stdin=stdin)
        assert result.exit_code == 0, result.output
        assert "Good, as far as it was judged" in result.stdout


@pytest.mark.parametrize(
    ("command", "good"),
    [
        ("curl 'https://api.example/me' -H 'DPoP: PROOF'", True),
        ("$ curl -s \\\n  -X GET \\\n  -H 'dpop: PROOF' \\\n  --compressed https://api.example/me", True),
        ("dpop curl -HDPoP:PROOF --url https://api.example/me", True),
        ("curl https://api.example/me -H 'DPoP: PROOF' --data-raw a=b", False),
        ("curl -XPOST https://api.example/me -H 'DPoP: PROOF'", False),
        ("curl -I https://api.example/me -H 'DPoP: PROOF'", False),
        ("curl https://api.example/other -H 'DPoP: PROOF'", False),
    ],
)
def test_a_copied_curl_command(tmp_path: Path, command: str, good: bool) -> None:
    """Method and URL are compared with the proof, as browsers' "copy as cURL" has them."""
    dpop.generate_key().save(tmp_path / "key.pem")
    proof = invoke("proof", "GET", "https://api.example/me", "--key", str(tmp_path / "key.pem")).stdout.strip()
    result = invoke("inspect", "-", "--json", stdin=command.replace("PROOF", proof))
    shown = json.loads(result.stdout)
    assert (shown["good"], result.exit_code) == (good, int(not good)), result.output
    failed = {check["name"] for check in shown["proofs"][0]["checks"] if check["verdict"] == "failed"}
    assert failed <= {"htm", "htu"}


def test_a_curl_command_that_cannot_be_read() -> None:
    """A quote that is not closed: status 2, and nothing of it is repeated."""
    result = invoke("inspect", "-", stdin="curl -H 'DPoP: pa55")
    assert (result.exit_code, "quote" in result.stderr, "pa55" in result.stderr) == (2, True, False)
