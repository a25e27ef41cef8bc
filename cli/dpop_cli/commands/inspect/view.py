# SPDX-License-Identifier: Apache-2.0
"""Show a proof and the verdicts on it: for people in 80 columns, and for programs as JSON."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from dpop.server import CheckVerdict, ProofReport
from dpop_cli.commands.inspect.input import SeenRequest
from dpop_cli.console.output import BAD, GOOD, TITLE, printable

__all__ = ["WIDEST", "ProofView", "report_as_json"]

WIDEST = 79
_NARROW = 60
_SHOWN = 300
_QUESTIONS = {
    "header": "one DPoP header",
    "jwt": "one well-formed JWT",
    "typ": "typ is the type of proofs",
    "alg": "alg is an accepted signature",
    "jwk": "jwk is a public key",
    "signature": "that key made the signature",
    "jti": "jti names the proof",
    "htm": "htm is the method",
    "htu": "htu is the URL",
    "iat": "iat is just now",
    "lifetime": "exp and nbf, if present",
    "nonce": "nonce is the server's",
    "ath": "ath is the token's hash",
    "binding": "the token is for this key",
    "replay": "it was not used before",
}
_LACKING = {
    "htm": "add --method METHOD",
    "htu": "add --against URL",
    "nonce": "add --nonce NONCE",
    "ath": "add --token-file FILE",
    "binding": "add --jkt JKT",
    "replay": "only the server knows",
}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"})


class ProofView:
    """Formats a report as lines.

    :param color: whether the lines have styles.
    :param width: the columns; below 60, the rule of a check is under its question.
    """

    def __init__(self, *, color: bool, width: int = WIDEST) -> None:
        self._style: Callable[..., str] = click.style if color else _plain
        self._width = width

    def lines(
        self, request: SeenRequest, report: ProofReport, at: float, *, number: int | None = None
    ) -> Iterator[str]:
        """Yield the lines of one proof, from its contents to the server's verdict.

        :param number: the number of the proof, if there are several.
        """
        if number is not None:
            status = f" -> {request.status}" if request.status is not None else ""
            title = f"{number}. {_shown(request.method or '')} {_shown(request.url or 'a request')}{status}"
            yield self._style(title, **TITLE)
        yield from self._members("Header", report.header, report, at)
        yield from self._members("Claims", report.claims, report, at)
        yield self._style("Checks", **TITLE)
        for check in report.checks:
            yield from self._check(check)
        yield ""
        if report.refusal is None:
            unknown = any(check.verdict == "not judged" and check.name != "replay" for check in report.checks)
            verdict = "Good, as far as it was judged." if unknown else "Good: a server accepts it, once."
            yield self._style(verdict, **GOOD)
        else:
            verdict = f"A server refuses it: {report.refusal.error} ({report.refusal.reason})."
            yield self._style(verdict, **BAD)
        if number is not None:
            yield ""

    def _members(self, title: str, members: Mapping[str, Any] | None, report: ProofReport, at: float) -> Iterator[str]:
        yield self._style(title, **TITLE)
        if members is None:
            yield "  cannot be read"
            return
        for name, value in members.items():
            shown = _shown(value)
            if name == "jwk" and isinstance(value, dict):
                shown = f"{_shown(value.get('kty'))} {_shown(value.get('crv', ''))}".strip()
                shown += f", thumbprint {report.jkt}" if report.jkt else ""
            elif name in {"iat", "exp", "nbf"} and isinstance(value, int | float) and not isinstance(value, bool):
                shown += _when(value, at)
            first, *rest = textwrap.wrap(shown, self._width - 9, break_on_hyphens=False) or [""]
            yield f"  {_shown(name):<6} {first}"
            yield from (f"         {line}" for line in rest)

    def _check(self, check: CheckVerdict) -> Iterator[str]:
        mark, style = {"passed": ("ok", GOOD), "failed": ("FAILED", BAD)}.get(check.verdict, ("-", {}))
        mark = self._style(f"{mark:<6}", **style)
        note = check.rule
        if check.verdict == "not judged":
            note = f"not judged; {_LACKING.get(check.name, 'what it needs is missing')}"
        if self._width < _NARROW:
            yield f"  {mark} {_QUESTIONS[check.name]}"
            yield from textwrap.wrap(note, self._width, initial_indent=" " * 9, subsequent_indent=" " * 9)
        else:
            yield f"  {mark} {_QUESTIONS[check.name]:<30} {note}"
        if check.refusal is not None:
            yield from textwrap.wrap(
                check.refusal.detail, self._width - 9, initial_indent=" " * 9, subsequent_indent=" " * 9
            )
            for name in ("expected", "got"):
                value = getattr(check.refusal, name)
                if value is not None:
                    wrapped = textwrap.wrap(printable(value), self._width - 18, break_on_hyphens=False)
                    first, *rest = wrapped or [""]
                    yield f"         {name:<9}{first}"
                    yield from (f"                  {line}" for line in rest)


def report_as_json(request: SeenRequest, report: ProofReport) -> dict[str, Any]:
    """Return a report as JSON members, without private key material, which should not be in a proof."""
    refusal = report.refusal
    return {
        "good": refusal is None,
        "error": None if refusal is None else refusal.error,
        "reason": None if refusal is None else refusal.reason,
        "method": request.method,
        "url": request.url,
        "jkt": report.jkt,
        "header": None if report.header is None else {k: _public(v) for k, v in report.header.items()},
        "claims": report.claims,
        "checks": [
            {
                "name": check.name,
                "verdict": check.verdict,
                "rule": check.rule,
                "reason": None if check.refusal is None else check.refusal.reason,
                "detail": None if check.refusal is None else check.refusal.detail,
                "expected": None if check.refusal is None else check.refusal.expected,
                "got": None if check.refusal is None else check.refusal.got,
            }
            for check in report.checks
        ],
    }


def _public(value: object) -> object:
    if not isinstance(value, dict):
        return value
    return {name: "[private, not shown]" if name in _PRIVATE else member for name, member in value.items()}


def _when(seconds: float, at: float) -> str:
    """Format a time as `` (2026-11-25 03:24:58 UTC, 12 s ago)``; return an empty text for any other value."""
    try:
        date = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return ""
    away = round(at - seconds)
    if abs(away) > 86_400:
        return f" ({date})"
    return f" ({date}, {f'{away} s ago' if away >= 0 else f'{-away} s ahead'})"


def _shown(value: object) -> str:
    """Make a stranger's text safe for a terminal: no control characters, and not too long."""
    text = value if isinstance(value, str) else json.dumps(_public(value))
    text = "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


def _plain(text: str, **_styles: object) -> str:
    return text
