# SPDX-License-Identifier: Apache-2.0
"""Shell completion: in a real bash, zsh and fish, and by the words PowerShell hands over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from dpop_cli.main import COMMANDS
from support.cli_process import environment, invoke, run

# The command as an installed one, whose completion is to be tried.
_SCRIPT = f'#!/bin/sh\nexec {sys.executable} -m dpop_cli "$@"\n'

_BASH = """
eval "$(dpop completion bash)"
complete -p dpop >&2
COMP_WORDS=(%s) COMP_CWORD=%d
_dpop_completion dpop
printf '%%s\\n' "${COMPREPLY[@]}"
"""
# zsh completes only at a prompt; what the script would offer there is printed instead.
_ZSH = """
autoload -Uz compinit; compinit -u -d "$ZDOTDIR/dump"
compadd() { local array; for last; do :; done; print -rl -- ${(P)last} }
_describe() { eval "print -rl -- \\"\\${${last::=$2}}\\"" >/dev/null; print -rl -- ${(P)2} ${(P)3} ${(P)4} }
_path_files() { print FILES }
eval "$(dpop completion zsh)"
words=(%s) CURRENT=%d
_dpop_completion
"""


@pytest.fixture
def shell_environment(tmp_path: Path) -> dict[str, str]:
    """One with dpop on the PATH."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "dpop").write_text(_SCRIPT)
    (tmp_path / "bin" / "dpop").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    return environment(PATH=path, HOME=str(tmp_path), ZDOTDIR=str(tmp_path), XDG_CONFIG_HOME=str(tmp_path))


def completed(words: list[str], shell: str, env: dict[str, str], cwd: Path) -> str:
    """What a shell offers after these words, the last one being typed."""
    if shell == "fish":
        command = ["fish", "-c", f"dpop completion fish | source; complete -C {' '.join(words)!r}"]
    else:
        script = {"bash": _BASH, "zsh": _ZSH}[shell]
        place = len(words) - (shell == "bash")
        quoted = " ".join(f"'{word}'" for word in words)
        command = [shell, *(["-f"] if shell == "zsh" else ["--norc"]), "-c", script % (quoted, place)]
    done = subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["dpop", "he"], ["headers"]),
        (["dpop", "nonce", ""], ["show", "learn", "clear"]),
        (["dpop", "key", "generate", "--a"], ["--alg"]),
        (["dpop", "key", "generate", "--alg", "ES"], ["ES256", "ES384", "ES512"]),
        (["dpop", "curl", "--token-"], ["--token-file", "--token-env", "--token-prompt"]),
    ],
    ids=" ".join,
)
def test_a_shell_completes(
    shell: str, words: list[str], offered: list[str], shell_environment: dict[str, str], tmp_path: Path
) -> None:
    """Commands, their commands, options and the values of options."""
    shown = completed(words, shell, shell_environment, tmp_path)
    assert set(offered) <= set(re.findall(r"[-\w]+", shown)), shown
    assert "proof" not in shown


def test_names_of_files_are_the_shells_own(shell_environment: dict[str, str], tmp_path: Path) -> None:
    """Where an option takes a file, the shell completes its name; fish shows what it would offer."""
    (tmp_path / "my-key.pem").write_text("")
    assert "my-key.pem" in completed(["dpop", "proof", "--key", "my-"], "fish", shell_environment, tmp_path)


@pytest.mark.parametrize(
    ("words", "word", "offered"),
    [
        (["dpop"], "", list(COMMANDS)),
        (["dpop", "he"], "he", ["headers"]),
        (["dpop", "key", "generate", "--alg"], "", ["ES256", "RS256"]),
        (["dpop", "nonce", "show", "--js"], "--js", ["--json"]),
    ],
)
def test_what_powershell_asks_is_answered(words: list[str], word: str, offered: list[str]) -> None:
    """Each line has a kind, a value and a tooltip, which is never empty."""
    env = {"_DPOP_COMPLETE": "powershell_complete", "COMP_WORDS": "\n".join(words), "COMP_WORD": word}
    lines = [line.split("\t") for line in invoke(env=env).stdout.splitlines()]
    assert all(len(line) == 3 and line[2] for line in lines)
    assert set(offered) <= {value for kind, value, _ in lines if kind == "plain"}
    assert all(value.startswith(word) for _, value, _ in lines)


def test_a_file_is_left_to_powershell() -> None:
    """For a file name the answer is of the kind file, which the script passes over."""
    env = {"_DPOP_COMPLETE": "powershell_complete", "COMP_WORDS": "dpop\nproof\n--key\nk", "COMP_WORD": "k"}
    assert invoke(env=env).stdout == "file\tk\tk\n"


def test_the_script_for_powershell_is_whole() -> None:
    """Its placeholders are filled, its brackets are even, and it cleans up what it sets."""
    script = invoke("completion", "powershell").stdout
    assert "%(" not in script
    assert all(script.count(left) == script.count(right) for left, right in ("{}", "()", "[]"))
    assert set(re.findall(r"\$env:(\w+) =", script)) == set(re.findall(r"Env:(\w+)", script))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_a_script_is_printed_quickly(shell: str) -> None:
    """It is run whenever a shell starts, so it loads none of the library."""
    code = (
        "import sys; from dpop_cli.main import main\n"
        f"try:\n    main(['completion', {shell!r}])\nexcept SystemExit:\n    pass\n"
        "print('cryptography' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stderr.strip() == "False"
    assert "dpop" in done.stdout


def test_another_shell_is_none() -> None:
    """Status 2, and the four that are."""
    done = run("completion", "tcsh")
    assert done.returncode == 2
    assert "powershell" in done.stderr


def test_help_fits_80_columns() -> None:
    """No line is broken by an old terminal."""
    assert max(map(len, invoke("completion", "--help").stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["dpop", "key", "generate", "--alg", "=", "ES"], ["ES256", "ES384", "ES512"]),
        (["dpop", "key", "generate", "--alg", "="], ["ES256", "ES384", "ES512", "Ed25519"]),
        (["dpop", "key", "show", "--key", "pkcs11", ":", "token", "=", "x", "--js"], ["--json"]),
        (["dpop", "inspect", "--against", "https", "://api.example/a", "--met"], ["--method"]),
    ],
    ids=" ".join,
)
def test_bash_separates_words_that_are_one(
    words: list[str], offered: list[str], shell_environment: dict[str, str], tmp_path: Path
) -> None:
    """= and : end a word for bash: behind --alg= and a URI options and values are offered as behind a blank."""
    shown = completed(words, "bash", shell_environment, tmp_path).splitlines()
    assert set(offered) <= set(shown), shown
