# SPDX-License-Identifier: Apache-2.0
"""``dpop completion``: prints the script with which a shell completes dpop's commands on Tab."""

from __future__ import annotations

import os
import re
from typing import ClassVar

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from dpop_cli.console.command import Command

__all__ = ["PowerShellComplete", "WholeWordBash", "completion"]

_VARIABLE = "_DPOP_COMPLETE"

# The words are passed one per line, because PowerShell has already removed their quotes. File names are left to
# PowerShell, which completes them if a completer returns nothing.
_POWERSHELL = """\
Register-ArgumentCompleter -Native -CommandName %(prog_name)s -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -le $cursorPosition } |
        ForEach-Object { $_.Extent.Text.Trim("'", '"') })
    $env:%(complete_var)s = 'powershell_complete'
    $env:COMP_WORDS = $words -join "`n"
    $env:COMP_WORD = "$wordToComplete".Trim("'", '"')
    try {
        %(prog_name)s | ForEach-Object {
            $kind, $value, $help = $_ -split "`t", 3
            if ($kind -eq 'plain') {
                [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $help)
            }
        }
    } finally {
        Remove-Item Env:%(complete_var)s, Env:COMP_WORDS, Env:COMP_WORD -ErrorAction SilentlyContinue
    }
}
"""


class PowerShellComplete(ShellComplete):
    """Completion for PowerShell 5.1 and later, on all its systems."""

    name: ClassVar[str] = "powershell"
    source_template: ClassVar[str] = _POWERSHELL

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one being typed, and that word."""
        words = os.environ.get("COMP_WORDS", "").split("\n")[1:]
        incomplete = os.environ.get("COMP_WORD", "")
        if incomplete and words and words[-1] == incomplete:
            words.pop()
        return words, incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Format a completion: kind, value and a tooltip, which must not be empty."""
        tooltip = " ".join((item.help or item.value).split())
        return f"{item.type}\t{item.value}\t{tooltip}"


class WholeWordBash(BashComplete):
    """Completion for bash, which splits words at = and :, so that ``--alg=ES`` and ``pkcs11:x`` arrive in pieces."""

    _typed = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one being typed, and that word; their pieces are joined again."""
        handed = os.environ["COMP_WORDS"]
        pieces = handed.split("\n") if "\n" in handed else split_arg_string(handed)
        words: list[str] = []
        for piece in pieces[: int(os.environ["COMP_CWORD"]) + 1]:
            if len(words) > 1 and (words[-1].endswith((":", "=")) or re.fullmatch("[:=]+", piece)):
                words[-1] += piece
            else:
                words.append(piece)
        if len(pieces) <= int(os.environ["COMP_CWORD"]):
            words.append("")  # the next word has not begun
        *before, self._typed = ["".join(split_arg_string(word)) for word in words[1:]] or [""]
        return before, self._typed

    def format_completion(self, item: CompletionItem) -> str:
        """Format a completion: kind, and the part of the value after the last separator, which bash replaces."""
        value = str(item.value)
        start = max(self._typed.rfind(":"), self._typed.rfind("=")) + 1
        if item.type == "plain" and start and value.startswith(self._typed[:start]):
            value = value[start:]
        return f"{item.type},{value}"


add_completion_class(PowerShellComplete)
add_completion_class(WholeWordBash)


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish", "powershell"]))
def completion(*, shell: str) -> None:
    """Print a script that lets a shell complete dpop's commands and options on Tab.

    \b
    Put one of these where your shell reads its settings:
      bash        ~/.bashrc        eval "$(dpop completion bash)"
      zsh         ~/.zshrc         eval "$(dpop completion zsh)"
      fish        config.fish      dpop completion fish | source
      powershell  $PROFILE         dpop completion powershell | Out-String |
                                     Invoke-Expression

    zsh needs its completion system before that: autoload -Uz compinit; compinit.
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the four are there
    root = click.get_current_context().find_root()
    click.echo(found(root.command, {}, "dpop", _VARIABLE).source())
