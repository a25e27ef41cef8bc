# SPDX-License-Identifier: Apache-2.0
"""The command line as people type it: short options, slips, help, colours, waits, and what is said at the end."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from dpop_cli.console import output
from dpop_cli.console.command import Detail
from dpop_cli.main import COMMANDS
from support.cli_process import DPOP, READABLE, STYLES, AtTerminal, environment, invoke, run
from support.recorder import Received, Recorder, Response

import dpop
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet


def all_commands() -> list[tuple[str, ...]]:
    """Every command and subcommand, as words."""
    found: list[tuple[str, ...]] = [()]
    for name, lazy in COMMANDS.items():
        module, _, attribute = lazy.target.partition(":")
        loaded = getattr(importlib.import_module(module), attribute)
        found += [(name, sub) for sub in loaded.commands] if isinstance(loaded, click.Group) else []
        found.append((name,))
    return found


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key in key.pem of the working directory."""
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")
    return "key.pem"


# --- help


@pytest.mark.parametrize("words", all_commands(), ids=lambda words: " ".join(words) or "dpop")
def test_help_is_one_screen_and_all_of_it_is_behind_help_all(words: tuple[str, ...]) -> None:
    """Short help has at most 50 lines of 80 columns, names variables and examples; --help-all has every option."""
    short, whole = invoke(*words, "--help"), invoke(*words, "--help-all")
    assert short.exit_code == whole.exit_code == 0
    for text in (short.stdout, whole.stdout):
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        assert "NO_COLOR" in text
    assert len(short.stdout.splitlines()) <= 50
    module, _, attribute = COMMANDS[words[0]].target.partition(":") if words else ("dpop_cli.main", ":", "main")
    command: click.Command = getattr(importlib.import_module(module), attribute)
    if len(words) == 2:
        assert isinstance(command, click.Group)
        command = command.commands[words[1]]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            long = max(parameter.opts, key=len)
            assert long in whole.stdout
            listed = re.findall(r"--[a-z0-9-]+", short.stdout.partition("Options:")[2])
            assert (long in listed) == (not isinstance(parameter, Detail)), long


def test_help_names_the_variables_that_a_command_reads() -> None:
    """Each variable is in the help of the commands that read it, and dpop --help says what it is for."""
    for words in (["proof"], ["curl"], ["token", "login"], ["nonce", "learn"]):
        line = " ".join(invoke(*words, "--help").stdout.partition("Environment:")[2].split())
        assert {"DPOP_KEY", "DPOP_CONTEXT", "DPOP_STATE_DIR"} <= set(re.findall(r"[A-Z][A-Z_]+[A-Z0-9]", line)), words
    for words, variable in (
        (["token", "refresh"], "DPOP_CLIENT"),
        (["token", "login"], "BROWSER"),
        (["playground"], "BROWSER"),
        (["nonce", "show"], "DPOP_STATE_DIR"),
        (["nonce", "clear"], "DPOP_STATE_DIR"),
        (["key", "list"], "PKCS11_MODULE"),
        (["key", "generate"], "PKCS11_MODULE"),
        (["proof"], "DPOP_AGENT_SOCK"),
        (["token", "show"], "DPOP_AGENT_SOCK"),
    ):
        assert variable in invoke(*words, "--help").stdout.partition("Environment:")[2], (words, variable)


@pytest.mark.parametrize(
    ("typed", "meant"), [(["help"], ["--help"]), (["help", "key", "show"], ["key", "show", "--help"])]
)
def test_help_is_a_word_too(typed: list[str], meant: list[str]) -> None:
    """``dpop help`` and ``dpop help COMMAND``."""
    assert invoke(*typed).stdout == invoke(*meant).stdout


@pytest.mark.parametrize("typed", ["version", "-V", "--version"])
def test_version_is_a_word_and_has_a_letter(typed: str) -> None:
    """``dpop version``, ``dpop -V``."""
    assert invoke(typed).stdout.startswith("dpop-toolkit ")


def test_a_narrow_terminal_gets_help_that_fits(tmp_path: Path) -> None:
    """At 40 columns options stand above their texts, and no line of prose is longer than the terminal."""
    with AtTerminal("key", "show", "--help", cwd=tmp_path, env={"COLUMNS": "40"}) as terminal:
        assert terminal.end() == 0
    lines = STYLES.sub("", terminal.shown).splitlines()
    assert "  -k, --key PATH|URI" in lines
    assert max(len(line) for line in lines) <= 40


def test_a_narrow_terminal_gets_examples_and_first_steps_that_fit(tmp_path: Path) -> None:
    """A command goes on after a backslash, and what dpop alone says breaks between words."""
    for words, line in ((["serve", "--help"], "    dpop serve --mode google \\"), ([], "in another terminal:")):
        with AtTerminal(*words, cwd=tmp_path, env={"COLUMNS": "40"}) as terminal:
            terminal.end()
        lines = STYLES.sub("", terminal.shown).splitlines()
        assert line in lines
        assert max(len(line) for line in lines) <= 40


def test_one_name_for_one_thing() -> None:
    """An option that several commands have takes the same kind of value in each; in an agent's, it gets a name, too."""
    kinds: dict[str, set[tuple[object, ...]]] = {}
    for words in all_commands():
        if not words:
            continue
        module, _, attribute = COMMANDS[words[0]].target.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        for parameter in (command.commands[words[1]] if len(words) == 2 else command).params:
            if isinstance(parameter, click.Option) and not (words[0] == "agent" and "NAME=" in str(parameter.metavar)):
                for name in parameter.opts:
                    kind = (parameter.metavar, parameter.is_flag, parameter.multiple, parameter.envvar)
                    kinds.setdefault(name, set()).add(kind)
    assert {name: kind for name, kind in kinds.items() if len(kind) > 1} == {}


# --- short options


def test_short_options(key: str, tmp_path: Path) -> None:
    """-k names the key and -o the file, as in other programs; -V is the version."""
    assert invoke("key", "generate", "-o", "second.pem").exit_code == 0
    proof = invoke("proof", "GET", "https://api.example/", "-k", key).stdout
    assert proof.count(".") == 2
    (tmp_path / "signature").write_text(proof.strip().rpartition(".")[2])
    assert invoke("sig", "to-der", "signature", "-o", "signature.der").exit_code == 0
    assert (tmp_path / "signature.der").read_bytes()[:1] == b"\x30"


def test_in_dpop_curl_letters_are_curls(key: str) -> None:
    """There -k is --insecure; somebody who names a key with it is told about --key, and nothing is sent."""
    with Recorder(lambda _: Response(200)) as server:
        done = invoke("curl", "-k", key, f"{server.origin}/")
        assert (done.exit_code, "--key FILE" in done.stderr) == (2, True)
        assert server.requests == []
        assert run("curl", "--key", key, "-k", "-s", "-o", "out", f"{server.origin}/").returncode == 0
    assert Path("out").exists()


# --- slips


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["kye", "show"], "'key'"),
        (["key", "genrate"], "'generate'"),
        (["authorize"], "'dpop login'"),
        (["keygen"], "'dpop key generate'"),
        (["proof", "--kye", "a", "GET", "https://a.example/"], "--key"),
        (["token", "--store", "a.json", "show"], "come after the command"),
        (["curl", "--tokn-file", "a", "https://a.example/"], "did you mean --token-file?"),
        (["curl", "--includ", "https://a.example/"], "did you mean --include?"),
        (["key", "generate", "--alg", "ES265"], "ES256"),
        (["inspect", "no-such-proof.txt"], "there is no file no-such-proof.txt"),
        (["inspect", "proof"], "there is no file proof"),
        (["help", "kye"], "'key'"),
        (["hlep"], "'dpop help'"),
        (["thumbprnt"], "'dpop key thumbprint'"),
        (["proof", "https://a.example/"], "METHOD is missing; it comes before the URL"),
        (["headers", "https://a.example/"], "METHOD is missing; it comes before the URL"),
        (["proof", "-X", "POST", "https://a.example/"], "METHOD is an argument before the URL"),
        (["headers", "-XPOST", "https://a.example/"], "METHOD is an argument before the URL"),
        (["proof", "https://a.example/", "--request", "POST"], "METHOD is an argument before the URL"),
        (["login", "--issuer", "localhost:8000"], "Invalid value for '--issuer': not an absolute URL"),
        (["token", "refresh", "--token-endpoint", "as.example/token"], "'--token-endpoint': not an absolute URL"),
        (["proof", "--access-token", "a", "GET", "https://a.example/"], "Did you mean '--token-file'?"),
        (["proof", "--acess-token", "a", "GET", "https://a.example/"], "Did you mean '--token-file'?"),
        (["login", "--server", "https://a.example/"], "Did you mean '--issuer'?"),
        (["doctor", "--issuer", "https://a.example/"], "URL is an argument, as in: dpop doctor URL"),
        (["proof", "GET", "--url", "https://a.example/"], "URL is an argument, as in: dpop proof METHOD URL"),
        (["inspect", "--proof", "p.txt"], "PROOF is an argument, as in: dpop inspect [PROOF]"),
        (["proof", "--kee", "k.pem", "GET", "https://a.example/"], "No such option '--kee'. Did you mean '--key'?"),
        (["login", "https://a.example/"], "a server with --issuer"),
        (["key", "generate", "key.pem"], "a new file with --out"),
        (["agent", "start", "--key", "work=key.pem"], "add --origin work=https://"),
        (["curl", "--access-token", "a", "https://a.example/"], "did you mean --token-file?"),
        (["curl", "--token", "a", "https://a.example/"], "did you mean --token-file?"),
        (["--key", "key.pem", "proof", "GET", "https://a.example/"], "options come after the command"),
        (["serve", "8080"], "Name a port with --port."),
        (["completion"], "Choose from: bash, zsh, fish, powershell"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_a_slip_gets_the_right_word(typed: list[str], words: str) -> None:
    """Of commands and options, ours and curl's; status 2 and nothing on standard output."""
    done = invoke(*typed)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in " ".join(done.stderr.split())


@pytest.mark.parametrize("group", ["key", "token", "nonce", "sig"])
def test_a_group_alone_shows_its_help(group: str) -> None:
    """`dpop token` shows the lines of `dpop token --help`, not a message in one paragraph; status 2, on stderr."""
    done = invoke(group)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == invoke(group, "--help").stdout.splitlines()


def test_a_key_file_that_is_missing_is_named_with_the_command_that_makes_it(key: str) -> None:
    """Status 3; a file that is there but is no key gets no such hint."""
    missing = invoke("proof", "GET", "https://a.example/", "--key", "my key.pem")
    assert (missing.exit_code, "dpop key generate --out 'my key.pem'" in missing.stderr) == (3, True)
    Path("text.pem").write_text("no key")
    wrong = invoke("proof", "GET", "https://a.example/", "--key", "text.pem")
    assert (wrong.exit_code, "key generate" in wrong.stderr) == (3, False)


def test_a_mistyped_defect_is_guessed(key: str) -> None:
    """The nearest defects, and the command that lists all; status 2."""
    near = invoke("proof", "GET", "https://a.example/", "--defect", "sig-drr", "--key", key)
    far = invoke("proof", "GET", "https://a.example/", "--defect", "x", "--key", key)
    assert (near.exit_code, "did you mean sig-der" in near.stderr) == (2, True)
    assert (far.exit_code, "'x'. All are in DEFECTS: dpop proof --defect list" in far.stderr) == (2, True)


def test_a_secret_in_place_of_a_command_is_not_repeated() -> None:
    """A token that was pasted as the first word stays out of the message."""
    secret = "eyJhbGciOi" * 10
    assert secret not in invoke(secret).stderr
    assert secret not in invoke("curl", f"--{secret}", "https://a.example/").stderr


# --- files as arguments


def test_inspect_takes_a_file_of_any_kind(key: str, tmp_path: Path) -> None:
    """A proof, and a response as curl -i saves it, found out by what is in the file; a name without dots too."""
    proof = invoke("proof", "GET", "https://api.example/", "--key", key).stdout
    for name in ("p.txt", "proof", "a.b.c"):
        (tmp_path / name).write_text(proof)
        assert "Checks" in invoke("inspect", name).stdout, name
    (tmp_path / "response.txt").write_text(
        'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: DPoP error="invalid_token"\r\n\r\n'
    )
    done = invoke("inspect", "response.txt")
    assert (done.exit_code, done.stdout.startswith("401 from the resource server")) == (1, True)


def test_a_store_and_saved_headers_may_be_arguments(key: str, tmp_path: Path) -> None:
    """``dpop token show FILE`` and ``dpop nonce learn URL FILE``; naming them twice is refused."""
    assert "there are no tokens" in invoke("token", "show", "mine.json").stderr
    done = invoke("token", "show", "mine.json", "--store", "mine.json")
    assert (done.exit_code, "name the store once" in done.stderr) == (2, True)
    (tmp_path / "headers.txt").write_text("HTTP/1.1 401 Unauthorized\nWWW-Authenticate: DPoP\nDPoP-Nonce: abc\n\n")
    learnt = ["nonce", "learn", "https://api.example/", "headers.txt", "-k", key]
    assert invoke(*learnt).exit_code == 0
    assert invoke(*learnt, "--from", "headers.txt").exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"access_token": "a", "token_type": "DPoP"}', "--token-file"),
        ('{"installed": {"client_id": "a"}}', "--client"),
        ('{"kty": "EC"}', "--key"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "dpop key show FILE"),
        ("eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwczovL2FzLmV4YW1wbGUiLCJzdWIiOiJhIn0.AAAA", "a token, not a proof"),
    ],
)
def test_inspect_says_what_a_file_is_instead(content: str, words: str, tmp_path: Path) -> None:
    """Tokens, a client, a key: the option or command that reads it is named."""
    path = tmp_path / "file"
    path.write_text(content)
    done = invoke("inspect", str(path))
    assert done.exit_code in {1, 2}
    assert words in " ".join(done.stderr.split())


def test_inspect_knows_a_token_store(key: str) -> None:
    """The file that ``dpop token login`` writes."""
    FileTokenStore("tokens.json").save(TokenSet(access_token="a", jkt=dpop.load_key(key).thumbprint))
    assert "dpop token show FILE" in invoke("inspect", "tokens.json").stderr


def test_method_and_url_the_wrong_way_round(key: str) -> None:
    """It is said which comes first."""
    done = invoke("proof", "https://api.example/", "GET", "-k", key)
    assert (done.exit_code, "METHOD comes first" in done.stderr) == (2, True)


# --- colours and waits


def test_errors_have_colours_at_a_terminal(tmp_path: Path) -> None:
    """As inspect has; NO_COLOR takes them away, and so does a terminal that calls itself dumb."""
    shown = []
    for env in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        with AtTerminal("key", "show", cwd=tmp_path, env=env) as terminal:
            assert terminal.end() == 2
        shown.append(terminal.shown)
    assert "\x1b[31m\x1b[1mError:\x1b[0m no key is named" in shown[0]
    assert set(STYLES.findall(shown[0])) <= READABLE
    assert "\x1b" not in shown[1] + shown[2]


class SlowServer(Recorder):
    """A token endpoint that refuses once ``go_on`` is set, and an arrangement of a refresh at it."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        super().__init__(self._refuse)
        Path("refresh.txt").write_text("anything")
        self.refresh = ["token", "refresh", "-k", "key.pem", "--token-endpoint", self.url("/token")]
        self.refresh += ["--client-id", "app", "--refresh-token-file", "refresh.txt"]

    def _refuse(self, _request: Received) -> Response:
        self.go_on.wait(60)
        return Response(400, [], b'{"error":"invalid_grant"}')


@pytest.mark.usefixtures("key")
def test_a_wait_is_said_after_a_second() -> None:
    """One line on standard error where that is no terminal, with the server that is waited for."""
    with SlowServer() as server:
        with subprocess.Popen(
            [*DPOP, *server.refresh], stderr=subprocess.PIPE, env=environment(), text=True
        ) as process:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if line == f"Waiting for {server.origin} ...\n":
                    server.go_on.set()
    assert server.go_on.is_set(), said
    assert "\r" not in "".join(said)


@pytest.mark.usefixtures("key")
def test_a_response_in_time_is_not_waited_for_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said within the first second, which lasts long enough here for a busy machine."""
    monkeypatch.setattr(output, "_QUIET_SECONDS", 60)
    with SlowServer() as server:
        server.go_on.set()
        done = invoke(*server.refresh)
    assert (len(server.requests), "Waiting" in done.stderr) == (1, False), done.stderr


@pytest.mark.usefixtures("key")
def test_a_wait_turns_at_a_terminal(tmp_path: Path) -> None:
    """A line that counts seconds, and is gone when the response comes."""
    with SlowServer() as server, AtTerminal(*server.refresh, cwd=tmp_path) as terminal:
        terminal.see(f"Waiting for {server.origin}, ")
        server.go_on.set()
        assert terminal.end() != 0
    assert re.search(
        rf"\r[|/\\-] Waiting for {re.escape(server.origin)}, [1-9]\d* s.*\r\x1b\[K", terminal.shown, re.DOTALL
    )


@pytest.mark.usefixtures("key")
def test_a_narrow_terminal_shows_the_seconds_too(tmp_path: Path) -> None:
    """The name of what is waited for is cut, so that the line is not broken."""
    with SlowServer() as server, AtTerminal(*server.refresh, cwd=tmp_path, env={"COLUMNS": "30"}) as terminal:
        terminal.see("..., ")
        server.go_on.set()
        assert terminal.end() != 0
    (line, *_) = re.findall(r"\r([|/\\-] Waiting for http[^\r]*)", terminal.shown)
    assert re.fullmatch(r".*\.\.\., [1-9]\d* s", line)
    assert len(line) < 30


# --- what is said at the end


def test_the_demo_waits_for_its_reader(tmp_path: Path) -> None:
    """At a terminal each step is shown when Enter is pressed, and q ends it."""
    with AtTerminal("demo", cwd=tmp_path) as terminal:
        terminal.see("Enter shows step 2 of 5")
        assert "A code becomes tokens" not in terminal.shown
        terminal.type("\n")
        terminal.see("Enter shows step 3 of 5")
        assert "A code becomes tokens" in terminal.shown
        terminal.type("q\n")
        assert terminal.end() == 130


def test_refresh_says_what_it_did_and_what_is_next(key: str, tmp_path: Path) -> None:
    """A refresh, and one that was not needed, are told apart; both say how the token is used."""
    with DPoPTestServer() as server:
        token = server.issue_refresh_token(jkt=dpop.load_key(key).thumbprint, client_id=server.public_client_id)
        (tmp_path / "refresh.txt").write_text(token)
        options = ["--issuer", server.issuer, "--client-id", server.public_client_id]
        first = run("token", "refresh", "-k", key, *options, "--refresh-token-file", "refresh.txt")
        seen = len(server.requests)
        second = run("token", "refresh", "--if-needed", *options)
        asked = [request.endpoint for request in server.requests[seen:]]
    assert "Done: refreshed;" in first.stderr, first.stderr
    assert "Done: nothing had to be refreshed" in second.stderr, second.stderr
    assert "token" not in asked
    for done in (first, second):
        assert "dpop curl --token-store tokens.json URL" in done.stderr


def test_a_login_says_what_it_waits_for_and_what_is_next(key: str, tmp_path: Path) -> None:
    """A word while it waits for the browser, and one when it is done."""
    os.mkfifo("waits")
    (tmp_path / "browser.py").write_text(
        "import sys, urllib.request; open('waits').read(); urllib.request.urlopen(sys.argv[1]).read()"
    )
    said = ""
    with DPoPTestServer() as server:
        options = ["--issuer", server.issuer, "--client-id", server.public_client_id, "--timeout", "60"]
        env = environment(BROWSER=f"{sys.executable} browser.py %s")
        command = [*DPOP, "token", "login", "-k", key, *options]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env=env, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said += line
                if line == "Waiting for your browser ...\n":
                    Path("waits").write_text("")
    assert process.returncode == 0, said
    assert "Your browser comes back to http://127.0.0.1:" in said
    assert "Waiting for your browser ..." in said
    assert "Done: logged in; the tokens are in tokens.json. Use them: dpop curl --token-store" in said


def test_a_server_that_could_not_start_stopped_nothing() -> None:
    """The message is the error alone, without a count of requests."""
    with DPoPTestServer() as taken:
        done = run("serve", "--port", taken.issuer.rpartition(":")[2])
    assert (done.returncode, "Stopped after" in done.stderr) == (2, False)
    assert "choose another port" in done.stderr


def test_notes_of_the_demo_keep_their_column(tmp_path: Path) -> None:
    """The note beside a long URL stands under it, in the column of the others."""
    with AtTerminal("demo", "--no-pause", cwd=tmp_path, env={"NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    lines = terminal.shown.splitlines()
    columns = {line.index(note) for note in ("at this URL", "for this method") for line in lines if note in line}
    assert len(columns) == 1


# --- what is on the wire


@pytest.mark.parametrize("words", [["--verbose", "token", "refresh"], ["token", "refresh", "--verbose"]], ids=" ".join)
def test_verbose_shows_each_request_without_its_secrets(words: list[str], key: str, tmp_path: Path) -> None:
    """The refused request and its retry are both there; no token, proof, nonce or secret is."""
    with DPoPTestServer(nonces="single-use") as server:
        token = server.issue_refresh_token(jkt=dpop.load_key(key).thumbprint, client_id=server.client_id)
        (tmp_path / "refresh.txt").write_text(token)
        (tmp_path / "secret.txt").write_text(server.client_secret)
        done = run(
            *words, "-k", key, "--token-endpoint", server.token_endpoint, "--client-id", server.client_id,
            "--client-secret-file", "secret.txt", "--refresh-token-file", "refresh.txt",
        )  # fmt: skip
        seen = [request for request in server.requests if request.endpoint == "token"]
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"> POST {server.token_endpoint}") == len(seen) == 2
    assert [line for line in done.stderr.splitlines() if re.match(r"< \d{3}$", line)] == ["< 400", "< 200"]
    assert '"error": "use_dpop_nonce"' in done.stderr
    assert "grant_type=refresh_token" in done.stderr
    secrets = [token, server.client_secret, *(request.proof or "" for request in seen)]
    stored = json.loads(run("token", "show", "--json", "--secrets").stdout)
    secrets += [stored["access_token"], stored["refresh_token"]]
    secrets += [nonce for request in seen for nonce in re.findall(r"DPoP-Nonce: (\S+)", str(request.headers))]
    assert [secret for secret in secrets if secret and secret in done.stdout + done.stderr] == []


def test_verbose_masks_what_a_server_repeats(key: str, tmp_path: Path) -> None:
    """An error's description may hold the refresh token that was sent, and control characters."""
    secret = "a-refresh-token-of-somebody"
    (tmp_path / "refresh.txt").write_text(secret)

    def respond(_request: Received) -> Response:
        told = json.dumps({"error": "invalid_grant", "error_description": f"{secret} is \x1b[2Junknown"})
        return Response(400, [("Content-Type", "application/json")], told.encode())

    with Recorder(respond) as server:
        options = ["--token-endpoint", f"{server.origin}/token", "--client-id", "app"]
        done = run("token", "refresh", "--verbose", "-k", key, *options, "--refresh-token-file", "refresh.txt")
    assert "invalid_grant" in done.stderr
    assert secret not in done.stderr.partition("Error:")[0]
    assert "\x1b" not in done.stderr


def test_verbose_in_front_of_curl(key: str, tmp_path: Path) -> None:
    """What dpop adds to curl's request is shown masked; curl's own -v stays curl's."""
    (tmp_path / "token.txt").write_text("a-secret-token")
    with Recorder(lambda _: Response(200, body=b"ok")) as server:
        done = run("--verbose", "curl", "--key", key, "--token-file", "token.txt", "-sS", f"{server.origin}/x")
    assert done.stdout == "ok"
    assert f"> GET {server.origin}/x" in done.stderr
    assert "> Authorization: DPoP [redacted]" in done.stderr
    assert "a-secret-token" not in done.stderr
    assert "htm=GET" in done.stderr
