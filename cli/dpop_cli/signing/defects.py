# SPDX-License-Identifier: Apache-2.0
"""``--defect``: make a proof that is wrong in one way, to test a server; and list the defects."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpop_cli.console.command import Command, Detail
from dpop_cli.console.output import hint

if TYPE_CHECKING:
    from dpop.testing.defects import Defect

__all__ = ["DefectCommand", "defect_option", "expected"]

_METHOD_OF_CURL = ("-X", "--request", "--method")

_Function = TypeVar("_Function", bound=Callable[..., Any])


def defect_option(command: _Function) -> _Function:
    """Add ``--defect``, for a :class:`DefectCommand`; ``ProofRequest.of`` takes it out again."""
    return click.option(
        "--defect",
        cls=Detail,
        metavar="NAME",
        help="Make the proof wrong in one way, to test a server; --defect list shows all ways.",
    )(command)


class DefectCommand(Command):
    """A command with :func:`defect_option`; ``--defect list`` needs no other argument."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments; or list the defects and exit."""
        if not ctx.resilient_parsing and any(
            word == "--defect=list" or (word, following) == ("--defect", "list")
            for word, following in pairwise([*args, ""])
        ):
            _list(as_json="--json" in args)
            ctx.exit()
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in _METHOD_OF_CURL:
                ctx.fail("METHOD is an argument before the URL, and no option, as in: POST URL")
            raise
        except click.MissingParameter as error:
            if error.param is not None and error.param.name == "url" and "://" in ctx.params.get("method", ""):
                ctx.fail("METHOD is missing; it comes before the URL, as in: GET URL")
            raise


def expected(name: str) -> dict[str, Any]:
    """Return a server's correct verdict on a defect, as JSON members; also print it as a hint."""
    from dpop.testing.defects import DEFECTS  # noqa: PLC0415 - it makes keys, and is seldom wanted

    defect = DEFECTS[name]
    where = f", for {defect.where}" if defect.where else ""
    if defect.verdict == "ok":
        hint(f"a server must accept this{where}")
    elif defect.verdict == "missing":
        hint("a server must respond as to a request without a proof")
    else:
        hint(f"a server must respond {defect.verdict}{where}; dpop.server's reason is {defect.reason}")
    return _members(defect)


def _list(*, as_json: bool) -> None:
    from dpop.testing.defects import DEFECTS  # noqa: PLC0415 - see above

    if as_json:
        click.echo(json.dumps([_members(defect) for defect in DEFECTS.values()], indent=2))
        return
    width = max(map(len, DEFECTS))
    group = ""
    for defect in DEFECTS.values():
        if defect.group != group:
            group = defect.group
            click.echo(f"{group}:")
        reason = "accepted" if defect.reason is None else str(defect.reason)
        remark = "; ".join(filter(None, [defect.note, defect.where and f"for {defect.where}"]))
        click.echo(f"  {defect.name:{width}}  {reason:20}  {remark}".rstrip())


def _members(defect: Defect) -> dict[str, Any]:
    return {
        "name": defect.name,
        "group": defect.group,
        "verdict": defect.verdict,
        "reason": defect.reason,
        "also": list(defect.also),
        "note": defect.note,
        "where": defect.where,
    }
