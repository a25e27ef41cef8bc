# SPDX-License-Identifier: Apache-2.0
"""The command as a whole: its help, its exit statuses, its streams, and that nothing ends in a traceback."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from dpop_cli.console.exit_status import Status
from dpop_cli.main import COMMANDS, LazyCommand, LazyGroup, main
from support.cli_process import DPOP, STYLES, AtTerminal, environment, invoke, run
from support.paths import COMMANDS as SOURCES
from support.recorder import Recorder, Response

import dpop
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    CredentialError,
    DPoPError,
    InvalidKeyError,
    InvalidProof,
    InvalidTargetError,
    KeyFileError,
    KeyPasswordError,
    ReplayCacheError,
    SigningError,
    UnrewindableBodyError,
)

# The standard library's pathlib brings the last two before Python 3.13.
NOT_FOR_A_PROOF = {
    "asyncio",
    "concurrent.futures",
    "ctypes",
    "dpop.client._challenge",
    "dpop.client._flow",
    "dpop.keys.kms",
    "dpop.keys.pkcs11",
    "dpop.server",
    "dpop.testing",
    "dpop.tokens",
    "dpop_cli.console.folding",
    "email",
    "http.client",
    "joserfc",
    "idna",
    "importlib.metadata",
    "locale",
    "logging",
    "platformdirs",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    *(command.target.partition(":")[0] for name, command in COMMANDS.items() if name != "proof"),
    *({"ipaddress", "urllib.parse"} if sys.version_info >= (3, 13) else ()),
}


def group_that(do: Callable[[], object]) -> click.Group:
    """A group like dpop's, with one command."""
    group = LazyGroup("dpop", lazy={})
    group.add_command(click.Command("do", callback=do))
    return group


def raising(error: BaseException) -> click.Group:
    """A group whose command raises."""

    def do() -> None:
        raise error

    return group_that(do)


# --- help and loading


def test_help_lists_every_command_in_order() -> None:
    """The help shows each command with its line, in the order of the table."""
    result = invoke("--help")
    assert result.exit_code == 0
    places = [result.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert all(command.help in result.stdout for command in COMMANDS.values())


def test_alone_it_shows_a_first_thing_to_try() -> None:
    """`dpop` names a command that works as it stands, not a list of all; status 0."""
    result = invoke()
    assert (result.exit_code, result.stderr) == (0, "")
    assert "\n  dpop demo\n" in result.stdout
    assert len(result.stdout.splitlines()) < 15
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_help_fits_80_columns() -> None:
    """No line of the help is cut or wrapped on an old terminal."""
    assert max(map(len, invoke("--help").stdout.splitlines())) <= 80


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["nonsense"], []])
def test_a_light_start(args: list[str]) -> None:
    """Help, version and a typing error import neither cryptography nor the library, but for its version."""
    code = (
        "import sys\nfrom dpop_cli.main import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        f"light = {['dpop', 'dpop._extras', 'dpop._faces'] if '--version' in args else []}\n"
        "heavy = [m for m in sys.modules if m.partition('.')[0] in ('dpop', 'cryptography', 'http', 'asyncio')]\n"
        "print([m for m in heavy if m not in light])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name: str) -> None:
    """Each line of the table leads to a command with a help text."""
    module, _, attribute = COMMANDS[name].target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help
    result = invoke(name, "--help")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"Usage: dpop {name}")


def test_completion_knows_the_commands_without_loading_them() -> None:
    """A shell's Tab offers the commands."""
    env = {"_DPOP_COMPLETE": "bash_complete", "COMP_WORDS": "dpop he", "COMP_CWORD": "1"}
    result = invoke(env=env)
    assert result.stdout == "plain,headers\n"


def test_a_mistyped_command_is_guessed() -> None:
    """The nearest command is named, on stderr, with status 2."""
    result = invoke("header")
    assert result.exit_code == 2
    assert "'headers'" in result.stderr
    assert result.stdout == ""


def test_a_missing_package_is_named_with_what_to_install() -> None:
    """A command whose extra is not installed says so, instead of ending in ModuleNotFoundError."""
    group = LazyGroup("dpop", lazy={"serve": LazyCommand("no_such_package_of_dpop:serve", "…")})
    result = CliRunner().invoke(group, ["serve"])
    assert result.exit_code == 2
    assert "no_such_package_of_dpop" in result.stderr
    assert "pip install" in result.stderr


def test_version_names_the_distribution() -> None:
    """`--version` says dpop-toolkit: another package is called dpop."""
    assert invoke("--version").stdout == f"dpop-toolkit {dpop.__version__}\n"


def test_python_dash_m() -> None:
    """`python -m dpop` is the program, where its script is not on PATH."""
    done = subprocess.run(
        [sys.executable, "-m", "dpop", "--version"], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dpop-toolkit {dpop.__version__}\n", "")


def test_python_m_is_the_same_command() -> None:
    """`python -m dpop_cli` calls itself dpop."""
    assert run("--help").stdout.startswith("Usage: dpop ")


def test_a_proof_loads_only_what_it_needs(tmp_path: Path) -> None:
    """What only a terminal, a network, a hardware key or another command needs is not waited for."""
    dpop.generate_key().save(tmp_path / "key.pem")
    code = (
        "import sys\nfrom dpop_cli.main import main\n"
        f"try:\n    main(['proof', 'GET', 'https://a.example/', '--key', {str(tmp_path / 'key.pem')!r}])\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        f"print(sorted({NOT_FOR_A_PROOF!r} & sys.modules.keys()))"
    )
    env = environment(DPOP_STATE_DIR=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_dpop_curl_loads_nothing_of_tokens_without_a_store(tmp_path: Path) -> None:
    """Only a store needs the code for tokens, only a refusal what explains it, and only a warning logging.

    Where files can be in memory, it needs no temporary ones, nor what shutil loads for archives. Where there is
    posix_spawn, it needs no subprocess.
    """
    dpop.generate_key().save(tmp_path / "key.pem")
    others = {"dpop_cli.tokens.store", "dpop_cli.tokens.client", "dpop.requests", "email", "socket"}
    others |= {"dpop.client._demands", "dpop.client._forgiving", "locale", "logging"}
    others |= {"selectors", "subprocess"} if os.name == "posix" else set()
    others |= {"shutil", "tempfile"} if hasattr(os, "memfd_create") else set()
    with Recorder(lambda _: Response(200, [("Date", "Fri, 15 Jan 2027 08:00:00 GMT")])) as server:
        arguments = ["curl", "--key", str(tmp_path / "key.pem"), "-s", f"{server.origin}/"]
        code = (
            f"import sys\nfrom dpop_cli.main import main\ntry:\n    main({arguments!r})\n"
            "except SystemExit as end:\n    assert end.code == 0, end.code\n"
            f"print(sorted(n for n in sys.modules if n in {others!r} or n.startswith('dpop.tokens.')))"
        )
        env = environment(DPOP_STATE_DIR=str(tmp_path))
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_tokens_in_a_file_load_nothing_of_the_agent(tmp_path: Path) -> None:
    """`dpop tokens` loads the code of the signing agent only if --agent asks for it."""
    code = (
        "import sys\nfrom dpop_cli.main import main\ntry:\n    main(['tokens'])\nexcept SystemExit:\n    pass\n"
        "print('dpop_cli.tokens.store' in sys.modules, [name for name in sys.modules if name.startswith('dpop.agent')])"
    )
    env = environment(DPOP_STATE_DIR=str(tmp_path))
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1:] == ["True []"], done.stderr


# --- the end of the process


@pytest.mark.parametrize(
    ("doing", "told", "status"),
    [
        ("atexit.register(print, 'registered'); sys.exit(3)", "registered\n", 3),
        ("sys.stdout.write('x' * 100_000); sys.exit(0)", "x" * 100_000, 0),
        ("threading.Thread(target=lambda: (time.sleep(0.2), print('finished'))).start(); sys.exit(1)", "finished\n", 1),
    ],
)
def test_ending_at_once_loses_nothing(doing: str, told: str, status: int) -> None:
    """What was registered for the end is done, what was printed is out, and a thread is waited for."""
    code = (
        "import atexit, sys, threading, time\nimport dpop_cli.main\nfrom dpop_cli.__main__ import run\n"
        f"def command(**_):\n    {doing}\ndpop_cli.main.main = command\nrun()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr, done.returncode) == (told, "", status)


# --- exit statuses


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidProof("invalid_dpop_proof", "htm_mismatch", "the method differs"), 1),
        (UnrewindableBodyError("the body is gone"), 1),
        (DPoPError("the server refused"), 1),
        (CredentialError("the token is empty"), 2),
        (InvalidTargetError("no URL"), 2),
        (ArgumentTypeError("key", "a key", 1), 2),
        (click.UsageError("no such option"), 2),
        (InvalidKeyError("no key"), 3),
        (KeyFileError("no file"), 3),
        (KeyPasswordError("wrong"), 3),
        (AlgorithmError("none"), 3),
        (SigningError("the device is gone"), 3),
        (ReplayCacheError("full"), 3),
        (PermissionError(13, "Permission denied", "tokens.json"), 3),
        (IsADirectoryError(21, "Is a directory", "dir"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_error_has_its_status_and_one_message(error: BaseException, status: int) -> None:
    """An error becomes `Error: ...` on stderr and the status of the contract, never a traceback."""
    result = CliRunner().invoke(raising(error), ["do"])
    assert result.exit_code == status
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if status < 130:
        assert result.stderr.count("Error: ") == 1
        assert str(error.args[-1] if isinstance(error, OSError) else error) in result.stderr


def test_a_bug_shows_its_place_but_not_its_text() -> None:
    """An unforeseen exception may hold a secret, so only its type and place are printed."""
    result = CliRunner().invoke(raising(RuntimeError("s3cret")), ["do"])
    assert result.exit_code == 70
    assert "RuntimeError at test_main.py:" in result.stderr
    assert "s3cret" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_command_can_choose_its_status() -> None:
    """`ctx.exit(1)` is how a command says no without an error."""
    result = CliRunner().invoke(group_that(lambda: click.get_current_context().exit(1)), ["do"])
    assert result.exit_code == 1
    assert result.output == ""


def test_outside_standalone_mode_errors_are_the_callers() -> None:
    """Another program that embeds the group gets exceptions."""
    with pytest.raises(click.UsageError):
        main(["nonsense"], prog_name="dpop", standalone_mode=False)


# --- streams


def test_a_reader_that_has_gone_ends_it_quietly() -> None:
    """`dpop ... | head` is no error: no word on stderr, and the status a shell gives for SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*DPOP, "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            env=environment(),
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert done.stderr == ""
    assert done.returncode == 141


_INTERRUPTED_WHILE_LOADING = """
import sys
from dpop_cli.__main__ import run

class Finder:
    def find_spec(self, name, *_):
        if name == "dpop_cli.main":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Finder())
run()
"""


def test_an_interrupt_while_the_program_is_loading() -> None:
    """Ctrl-C in the first moments is status 130, too, and no traceback."""
    command = [sys.executable, "-c", _INTERRUPTED_WHILE_LOADING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")


def test_closed_stdout_is_said() -> None:
    """With stdout closed nothing is done, for the next file opened would get every print."""
    done = run("--help", shell=">&-")
    assert done.returncode == 2
    assert "standard output is closed" in done.stderr


def test_a_full_disk_is_said() -> None:
    """Output that cannot be written is status 3 with a message, and no complaint of Python's own."""
    done = run("--help", shell=">/dev/full")
    assert done.returncode == 3
    assert done.stderr == "Error: the output could not be written: No space left on device\n"


def test_closed_stderr_and_stdin_are_survived() -> None:
    """A daemon's child has neither; the statuses stay."""
    assert run("nonsense", shell="2>&- <&-").returncode == 2
    assert run("key", "thumbprint", "--key", "/nowhere/key.pem", shell="2>&- <&-").returncode == 3


@pytest.mark.parametrize(
    ("args", "status", "told"),
    [
        (["key", "generate", "--out"], 3, "home directory"),
        (["key", "rotate", "--key", "key.pem", "--out"], 3, "home directory"),
        (["rehearse", "--out"], 2, "existing folder"),
        (["login", "--key", "key.pem", "--client"], 2, "no such file"),
    ],
    ids=lambda each: "-".join(each) if isinstance(each, list) else None,
)
def test_a_home_directory_of_nobody(
    args: list[str], status: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ~ that stands for no directory that is known is a name as any other, and no bug."""
    monkeypatch.chdir(tmp_path)
    dpop.generate_key().save("key.pem")
    done = invoke(*args, "~nobody-of-this-name/file")
    assert done.exit_code == status
    assert told in " ".join(done.stderr.split())


def test_a_code_page_without_the_character_is_survived(tmp_path: Path) -> None:
    """A name that the terminal's encoding lacks is printed as an escape."""
    made = run("key", "generate", "--out", "ключ.pem", cwd=tmp_path, env={"PYTHONIOENCODING": "cp1252"})
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "ключ.pem").exists()
    assert made.stdout.startswith(r"\u043a")


def test_ctrl_c_at_a_prompt(tmp_path: Path) -> None:
    """Ctrl-C at the password prompt: status 130, one sentence, no key and no traceback."""
    with AtTerminal("key", "generate", "--password-prompt", cwd=tmp_path) as terminal:
        terminal.see("Password for the new key")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert "Interrupted" in terminal.shown
        assert "Traceback" not in terminal.shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "responses", "prompt"),
    [
        (["key", "generate", "--password-prompt", "--out", "new.pem"], ["pa55word\n"], "Repeat for confirmation"),
        (["key", "show", "--key", "locked.pem"], [], "Password of "),
        (["key", "show", "--key", "locked.pem", "--password-prompt"], [], "Password of "),
        (["proof", "GET", "https://api.example/", "--token-prompt"], [], "Access token"),
        (["headers", "GET", "https://api.example/", "--key", "locked.pem"], [], "Password of "),
        (["curl", "--key", "locked.pem", "https://api.example/"], [], "Password of "),
        (["curl", "--token-prompt", "https://api.example/"], [], "Access token"),
        (["inspect", "a.b.c", "--token-prompt"], [], "Access token"),
        (["nonce", "learn", "https://api.example/", "--from", "nonce.txt", "--role", "as"], [], "Password of "),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_ctrl_c_at_every_prompt(args: list[str], responses: list[str], prompt: str, tmp_path: Path) -> None:
    """Status 130 and one sentence, wherever a person is asked; nothing is made, and no secret shown."""
    dpop.generate_key().save(tmp_path / "locked.pem", password="pa55word")
    (tmp_path / "nonce.txt").write_text("nonce")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with AtTerminal(*args, cwd=tmp_path, env={"DPOP_KEY": "locked.pem"}) as terminal:
        for response in responses:
            terminal.see(":")
            terminal.type(response)
        terminal.see(prompt)
        terminal.type("\x03")
        assert terminal.end() == 130
    assert terminal.shown.count("Interrupted") == 1
    assert "Traceback" not in terminal.shown
    assert "pa55word" not in terminal.shown
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_word_is_broken_at_a_terminal(tmp_path: Path) -> None:
    """A long message is broken between words where the terminal ends, and not at all in a pipe."""
    with AtTerminal("proof", "GET", "https://api.example/", cwd=tmp_path) as terminal:
        assert terminal.end() == 2
    assert max(map(len, STYLES.sub("", terminal.shown).splitlines())) <= 80
    assert "DPOP_KEY=key.pem" in terminal.shown
    assert max(map(len, run("proof", "GET", "https://api.example/").stderr.splitlines())) > 80


# --- warnings


def test_warnings_of_the_library_go_to_stderr_once(tmp_path: Path) -> None:
    """A key file open to everyone is warned about once, beside the output and not in it."""
    assert invoke("key", "generate", "--out", str(tmp_path / "key.pem")).exit_code == 0
    (tmp_path / "key.pem").chmod(0o644)
    for _ in range(2):
        result = invoke("key", "show", "--key", str(tmp_path / "key.pem"), "--json")
        assert result.exit_code == 0
        assert result.stderr.count("Warning: ") == 1
        assert "chmod 600" in result.stderr
        assert json.loads(result.stdout)["alg"] == "ES256"


@pytest.mark.parametrize("command", ["proof", "headers"])
def test_a_first_command_shows_what_the_library_warns_of(command: str, tmp_path: Path) -> None:
    """A command that loads logging only where there is something to say does say it, in its own words."""
    key = tmp_path / "key.pem"
    dpop.generate_key().save(key)
    key.chmod(0o644)
    done = run(command, "GET", "https://a.example/", "--key", str(key), env={"DPOP_STATE_DIR": str(tmp_path)})
    assert (
        done.stderr == f"Warning: the key file {str(key)!r} is open to every user (mode 0644); run: chmod 600 {key}\n"
    )
    key.chmod(0o600)
    done = run(command, "GET", "https://a.example/", "--key", str(key), env={"DPOP_STATE_DIR": str(tmp_path)})
    assert (done.stderr, done.returncode) == ("", 0)


def all_commands() -> list[list[str]]:
    """Every command and subcommand, as words."""
    found = []
    for name, lazy in COMMANDS.items():
        module, _, attribute = lazy.target.partition(":")
        loaded = getattr(importlib.import_module(module), attribute)
        found += [[name, sub] for sub in loaded.commands] if isinstance(loaded, click.Group) else [[name]]
    return found


@pytest.mark.parametrize(
    "words", [each for each in all_commands() if each[0] not in {"demo", "playground", "serve"}], ids=" ".join
)
def test_no_command_takes_its_bare_name_for_a_bug(words: list[str], tmp_path: Path) -> None:
    """Without arguments each says what it expects, or does its work; it never asks for a bug report."""
    done = run(*words, cwd=tmp_path)
    assert done.returncode != Status.BUG, done.stderr
    assert "bug" not in done.stderr


def test_help_lists_exit_codes_and_variables() -> None:
    """Each exit status, and each environment variable that a command reads."""
    text = invoke("--help").stdout
    for status in Status:
        assert re.search(rf"\b{status.value}\b", text), status
    variables = {
        found
        for path in SOURCES.rglob("*.py")
        for found in re.findall(r'"((?:DPOP|PKCS11)_[A-Z_]+|NO_COLOR)"', path.read_text("utf-8"))
    }
    assert {"DPOP_KEY", "DPOP_TOKEN_STORE"} <= variables
    assert [name for name in variables if name not in text] == []
