# SPDX-License-Identifier: Apache-2.0
"""`dpop nonce` and the state behind it: what one command learns, the next one uses, whatever happens to the disk."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import platformdirs
import pytest
from dpop_cli.commands.nonce import clear, learn, show
from dpop_cli.signing.nonce_state import MAX_NONCES, NonceState, StateError
from dpop_cli.wire.exchange import parts
from support.cli_process import DPOP, environment, examples, invoke, run, run_script, with_url

import dpop
from dpop.client._nonces import NonceKey, Role
from dpop.origin import Origin
from dpop.testing import DPoPTestServer

URL = "https://api.example/me"
REFUSED = 'HTTP/1.1 401 Unauthorized\r\nDPoP-Nonce: {}\r\nWWW-Authenticate: DPoP error="use_dpop_nonce"\r\n\r\n'


@pytest.mark.parametrize("named", ["", "  ", "/var/tmp/state", "state", "~/state"])
def test_the_directory_is_the_systems(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The place of state is the one of platformdirs, whether or not XDG_STATE_HOME names one."""
    monkeypatch.delenv("DPOP_STATE_DIR", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", named)
    expected = platformdirs.user_state_path("dpop", appauthor=False)
    assert NonceState.of_user().directory == expected / "nonces"


def key_of(url: str = URL, jkt: str = "jkt", role: Role = Role.RS) -> NonceKey:
    """Whose nonce."""
    return NonceKey(jkt, Origin.of_url(url), role)


@pytest.fixture
def state(tmp_path: Path) -> NonceState:
    """An empty state."""
    return NonceState(tmp_path / "state")


def nonce_in(*args: str, token: str | None = None) -> str | None:
    """The nonce in the proof of a command."""
    rest = ("--token-file", "-") if token is not None else ()
    result = invoke("proof", "GET", *args, *rest, stdin=token)
    assert result.exit_code == 0, result.stderr
    nonce: str | None = parts(result.stdout.strip())[1].get("nonce")
    return nonce


# --- the state


def test_the_newest_nonce_of_each_key_origin_and_role(state: NonceState) -> None:
    """Nonces of other keys, servers and roles are others."""
    for nonce in ("old", "new"):
        state.learn(key_of(), nonce)
    state.learn(key_of("https://api.example:8443/"), "port")
    state.learn(key_of(role=Role.AS), "role")
    state.learn(key_of(jkt="other"), "key")
    assert state.newest(key_of("https://API.example/other?x")) == "new"
    assert state.newest(key_of("http://api.example/")) is None
    assert sorted(entry.nonce for entry in state.all()) == ["key", "new", "port", "role"]


def test_files_and_directory_are_their_owners_alone(state: NonceState) -> None:
    """0700 and 0600, whatever the umask."""
    before = os.umask(0)
    try:
        state.learn(key_of(), "nonce")
    finally:
        os.umask(before)
    assert stat.S_IMODE(state.directory.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in state.directory.iterdir()] == [0o600]


def test_it_is_bounded(state: NonceState) -> None:
    """The servers not heard of for longest go first, and what a crash left goes with them."""
    state.directory.mkdir(parents=True)
    (state.directory / ".left-by-kill-9.tmp").write_text("{")
    os.utime(state.directory / ".left-by-kill-9.tmp", (1, 1))
    for number in range(MAX_NONCES):
        state.learn(key_of(f"https://h{number}.example/"), f"n{number}")
        (path,) = (p for p in state.directory.iterdir() if f'"n{number}"' in p.read_text())
        os.utime(path, (1000 + number, 1000 + number))
    for number in range(MAX_NONCES, MAX_NONCES + 3):
        state.learn(key_of(f"https://h{number}.example/"), f"n{number}")
    assert len(list(state.directory.iterdir())) == MAX_NONCES
    assert state.newest(key_of("https://h2.example/")) is None
    assert state.newest(key_of("https://h3.example/")) == "n3"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"jkt": "jkt", "origin": "https://api.example", "role": "rs", "nonce": "a b", "learnt": 1}',
        b'{"jkt": "jkt", "origin": "api", "role": "rs", "nonce": "a", "learnt": 1}',
        b'{"jkt": "jkt", "origin": "https://api.example", "role": "x", "nonce": "a", "learnt": 1}',
        b'{"jkt": "jkt", "origin": "https://api.example", "role": "rs", "nonce": "a", "learnt": "x"}',
        b'{"jkt": "another", "origin": "https://api.example", "role": "rs", "nonce": "a", "learnt": 1}',
        b" " * 20_000,
    ],
)
def test_what_is_no_nonce_is_none(state: NonceState, content: bytes) -> None:
    """A file cut short, of another program or another key costs a round trip, and the next nonce replaces it."""
    state.learn(key_of(), "nonce")
    (path,) = state.directory.iterdir()
    path.write_bytes(content)
    assert state.newest(key_of()) is None
    state.learn(key_of(), "next")
    assert state.newest(key_of()) == "next"


def test_clear_takes_what_a_crash_left_and_nothing_in_the_making(state: NonceState) -> None:
    """A file that another command is writing now stays; one that nobody will finish goes."""
    state.learn(key_of(), "nonce")
    for name in (".fresh.tmp", ".stale.tmp"):
        (state.directory / name).write_text("{")
    os.utime(state.directory / ".stale.tmp", (1, 1))
    (whole,) = state.directory.glob("*.json")
    shutil.copy(whole, state.directory / ".written.tmp")  # all but its name is there
    assert state.forget() == 1
    assert {path.name for path in state.directory.iterdir()} == {".fresh.tmp", ".written.tmp"}


def test_many_at_once(state: NonceState) -> None:
    """Threads that learn, read and clear at once: every nonce read is whole, and nothing is left over."""

    def work(number: int) -> None:
        for turn in range(30):
            state.learn(key_of(f"https://h{number % 3}.example/"), f"nonce-{number}-{turn}" * 20)
            read = state.newest(key_of(f"https://h{turn % 3}.example/"))
            assert read is None or len(read) % 20 == 0
            if turn == 15:
                state.forget()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert all(path.suffix == ".json" for path in state.directory.iterdir())


def test_processes_at_once(key_file: str, tmp_path: Path) -> None:
    """Commands that learn at the same time for two servers: both nonces are there."""
    dumps = []
    for number in range(6):
        dump = tmp_path / f"{number}.txt"
        dump.write_text(REFUSED.format(f"nonce-{number}"))
        dumps.append(dump)
    learning = [
        subprocess.Popen(
            [*DPOP, "nonce", "learn", f"https://h{number % 2}.example/", "--from", str(dump), "--key", key_file],
            env=environment(),
            stderr=subprocess.PIPE,
        )
        for number, dump in enumerate(dumps)
    ]
    assert [process.communicate()[1] and process.returncode for process in learning] == [0] * 6
    shown = json.loads(invoke("nonce", "show", "--json").stdout)
    assert [(entry["origin"], entry["role"]) for entry in sorted(shown["nonces"], key=lambda e: e["origin"])] == [
        ("https://h0.example", "rs"),
        ("https://h1.example", "rs"),
    ]


# --- what the next command uses


def test_a_learnt_nonce_is_used_by_the_next_command(key_file: str, tmp_path: Path) -> None:
    """Learnt from an API's refusal: the next proof with a token has it, one without a token or key has not."""
    (tmp_path / "headers.txt").write_text(REFUSED.format("fresh"))
    learnt = invoke("nonce", "learn", URL, "--from", str(tmp_path / "headers.txt"), "--key", key_file)
    assert (learnt.exit_code, learnt.stdout) == (0, "")
    assert nonce_in(URL, "--key", key_file, token="t") == "fresh"
    assert nonce_in(URL, "--key", key_file) is None
    assert nonce_in("https://api.example.evil.test/", "--key", key_file, token="t") is None
    assert nonce_in(URL, "--key", key_file, "--no-nonce", token="t") is None
    assert nonce_in(URL, "--key", key_file, "--nonce", "mine", token="t") == "mine"
    dpop.generate_key().save(tmp_path / "other.pem")
    assert nonce_in(URL, "--key", str(tmp_path / "other.pem"), token="t") is None


def test_nonce_from_is_kept(key_file: str, tmp_path: Path) -> None:
    """--nonce-from teaches the next command; --nonce is for once."""
    (tmp_path / "headers.txt").write_text(REFUSED.format("saved"))
    assert nonce_in(URL, "--key", key_file, "--nonce", "once") == "once"
    assert nonce_in(URL, "--key", key_file) is None
    assert nonce_in(URL, "--key", key_file, "--nonce-from", str(tmp_path / "headers.txt")) == "saved"
    assert nonce_in(URL, "--key", key_file) == "saved"


@pytest.mark.parametrize(
    ("dump", "role"),
    [
        (REFUSED.format("n"), "rs"),
        ("HTTP/1.1 400 Bad Request\r\nDPoP-Nonce: n\r\n\r\n", "as"),
        ("HTTP/1.1 401 No\r\nDPoP-Nonce: n\r\nWWW-Authenticate: Basic\r\n\r\n", None),
        ("HTTP/1.1 200 OK\r\nDPoP-Nonce: n\r\n\r\n", None),
        ("n", None),
    ],
)
def test_the_role_is_in_the_answer_or_asked_for(key_file: str, dump: str, role: str | None) -> None:
    """A refusal tells which role the server has; any other answer does not, and nothing is guessed."""
    args = ("nonce", "learn", URL, "--from", "-", "--key", key_file)
    result = invoke(*args, stdin=dump)
    if role is None:
        assert result.exit_code == 2
        assert "--role" in result.stderr
        assert invoke(*args, "--role", "as", stdin=dump).exit_code == 0
    (entry,) = json.loads(invoke("nonce", "show", "--json").stdout)["nonces"]
    assert entry["role"] == (role or "as")
    assert entry["jkt"] == dpop.load_key(key_file).thumbprint


def test_show_fits_a_terminal_and_cuts_nonces(key_file: str) -> None:
    """The list has one line for each, 80 columns, and no whole nonce; an origin narrows it."""
    for host in ("a.example", "b.example"):
        dump = REFUSED.format("secretly-long-nonce-of-a-server")
        invoke("nonce", "learn", f"https://{host}/x", "--from", "-", "--key", key_file, stdin=dump)
    shown = invoke("nonce", "show").stdout
    assert len(shown.splitlines()) == 2
    assert "secretly-lon" in shown
    assert "of-a-server" not in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert len(invoke("nonce", "show", "https://b.example").stdout.splitlines()) == 1


def test_clear_forgets_all_or_one_server(key_file: str) -> None:
    """`clear URL` forgets that server's, `clear` all; an empty list is said on stderr."""
    for host in ("a.example", "b.example"):
        dump = REFUSED.format("n")
        invoke("nonce", "learn", f"https://{host}/", "--from", "-", "--key", key_file, stdin=dump)
    assert "1 nonce forgotten" in invoke("nonce", "clear", "https://a.example/x").stderr
    assert "1 nonce forgotten" in invoke("nonce", "clear").stderr
    assert "0 nonces forgotten" in invoke("nonce", "clear").stderr
    shown = invoke("nonce", "show")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "No nonces" in shown.stderr


# --- trouble with the disk


@pytest.fixture(params=["file", "full", "nobody's"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A state directory nothing can be written to, root's writes included."""
    if request.param == "full":
        return "/dev/full"
    if request.param == "nobody's":
        return "/proc/self/state"
    (tmp_path / "a-file").write_text("")
    return str(tmp_path / "a-file")


def test_learn_says_when_nothing_can_be_kept(key_file: str, unwritable: str) -> None:
    """Status 3 and a sentence with what to do."""
    args = ("nonce", "learn", URL, "--from", "-", "--key", key_file)
    result = invoke(*args, stdin=REFUSED.format("s3cret"), env={"DPOP_STATE_DIR": unwritable})
    assert result.exit_code == 3
    assert result.stderr.count("Error: ") == 1
    assert "DPOP_STATE_DIR" in result.stderr
    assert "s3cret" not in result.stderr


def test_a_proof_goes_on_without_state(key_file: str, unwritable: str, tmp_path: Path) -> None:
    """Nothing kept is no obstacle: the proof is made; only --nonce-from mentions it."""
    env = {"DPOP_STATE_DIR": unwritable}
    plain = invoke("proof", "GET", URL, "--key", key_file, env=env)
    assert (plain.exit_code, plain.stderr) == (0, "")
    (tmp_path / "headers.txt").write_text(REFUSED.format("n"))
    args = ("proof", "GET", URL, "--key", key_file, "--nonce-from", str(tmp_path / "headers.txt"))
    saved = invoke(*args, env=env)
    assert saved.exit_code == 0
    assert parts(saved.stdout.strip())[1]["nonce"] == "n"
    assert saved.stderr.count("Hint: ") == 1


def test_a_full_disk_leaves_the_nonce_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails half-way: the error is said, the nonce before stays, no temporary file does."""
    state = NonceState(tmp_path)
    state.learn(key_of(), "before")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StateError, match="No space left"):
        state.learn(key_of(), "after")
    assert state.newest(key_of()) == "before"
    assert len(list(state.directory.iterdir())) == 1


def test_a_disk_that_takes_nothing_is_said(key_file: str, tmp_path: Path) -> None:
    """No byte can be written: status 3, a sentence, the nonce before is as it was, and nothing is left over."""
    args = ("nonce", "learn", URL, "--from", "-", "--key", key_file)
    assert invoke(*args, stdin=REFUSED.format("before")).exit_code == 0
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *DPOP, *args],
        env=environment(),
        input=REFUSED.format("after"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stderr.count("Error: ") == 1
    shown = json.loads(invoke("nonce", "show", "--json").stdout)
    assert [entry["nonce"] for entry in shown["nonces"]] == ["before"]
    assert len(list(Path(shown["directory"]).iterdir())) == 1


def test_without_a_home_nothing_is_put_into_the_working_directory(key_file: str, tmp_path: Path) -> None:
    """No HOME and no user entry: a proof is made, learning is status 3, and no directory "~" appears."""
    away = tmp_path / "away"
    away.mkdir()
    code = (
        "import os, pwd, sys\n"
        "for name in ('HOME', 'XDG_STATE_HOME', 'DPOP_STATE_DIR'): os.environ.pop(name, None)\n"
        "def missing(_): raise KeyError\n"
        "pwd.getpwuid = missing\n"
        "from dpop_cli.main import main\n"
        "main(sys.argv[1:], prog_name='dpop')\n"
    )

    def homeless(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [DPOP[0], "-c", code, *args],
            cwd=away,
            env=environment(),
            input=REFUSED.format("n"),
            capture_output=True,
            text=True,
            check=False,
        )

    assert homeless("proof", "GET", URL, "--key", key_file).returncode == 0
    learning = homeless("nonce", "learn", URL, "--from", "-", "--key", key_file)
    assert learning.returncode == 3
    assert "no home directory" in learning.stderr
    assert list(away.iterdir()) == []


def test_the_state_is_in_the_users_place(key_file: str, tmp_path: Path) -> None:
    """Without DPOP_STATE_DIR it is where the system keeps such things: XDG's place on Linux."""
    env = {"DPOP_STATE_DIR": "", "XDG_STATE_HOME": str(tmp_path / "xdg")}
    done = run("nonce", "learn", URL, "--from", "-", "--key", key_file, stdin=REFUSED.format("n"), env=env)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "xdg" / "dpop" / "nonces").iterdir())) == 1


# --- help


def test_the_examples_work(key_file: str, tmp_path: Path) -> None:
    """What the help shows can be typed as it stands: curl meets a challenge, its nonce is learnt, shown, cleared."""
    with DPoPTestServer() as server:
        script = "".join(with_url(examples(command), server.resource) for command in (learn, show, clear))
        # An API challenges for a nonce only a request that has a token and a proof.
        token = server.issue_access_token(jkt=dpop.load_key(key_file).thumbprint)
        (tmp_path / "token.txt").write_text(token)
        with_proof = f"dpop headers GET {server.resource} --key key.pem --token-file token.txt | curl -H @-"
        script = script.replace("curl", with_proof, 1)
        done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Learnt a nonce" in done.stderr
    assert server.origin in done.stdout


@pytest.mark.parametrize("command", ["show", "learn", "clear"])
def test_help_fits_80_columns(command: str) -> None:
    """No line is broken by an old terminal."""
    assert max(map(len, invoke("nonce", command, "--help").stdout.splitlines())) <= 80


def test_a_pipe_in_the_place_of_a_file_is_passed_over(tmp_path: Path) -> None:
    """A FIFO among the nonces, or as the token store: no command waits for its other end."""
    directory = tmp_path / "nonces"
    directory.mkdir()
    os.mkfifo(directory / "0.json")
    os.mkfifo(tmp_path / "tokens.json")
    shown = run("nonce", "show", env={"DPOP_STATE_DIR": str(tmp_path)})
    assert (shown.returncode, shown.stdout) == (0, "")
    for account in ([], ["--account", "x"]):
        stored = run("token", "show", "--store", str(tmp_path / "tokens.json"), *account)
        assert stored.returncode == 3, stored.stderr
    assert "not a regular file" in run("token", "show", "--store", str(tmp_path / "tokens.json")).stderr
