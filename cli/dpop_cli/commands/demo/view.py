# SPDX-License-Identifier: Apache-2.0
"""Layout of the demo: decoded proofs in columns, at most 80 wide, in characters the terminal can show."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import click

from dpop.keys import thumbprint
from dpop_cli.commands.demo.story import Scene, Step
from dpop_cli.console.output import BAD, GOOD, TITLE, WAITING

__all__ = ["Glyphs", "View", "as_json"]

_WIDTH = 79
_SHOWN = 12
_NOTES = {
    "typ": "a DPoP proof, no other JWT",
    "alg": "the signature's algorithm",
    "jwk": "the public key; here its thumbprint",
    "jti": "its name: for one request only",
    "htm": "for this method",
    "htu": "at this URL",
    "ath": "the access token's hash",
    "nonce": "the server's last nonce",
}


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The non-ASCII characters that the demo uses, or their ASCII substitutes."""

    ellipsis: str = "…"
    rule: str = "─"
    bar: str = "│"
    response: str = "←"

    @classmethod
    def for_encoding(cls, encoding: str | None) -> Glyphs:
        """Return the characters for an output encoding: the non-ASCII ones if it has all of them, or substitutes."""
        glyphs = cls()
        try:
            f"{glyphs.ellipsis}{glyphs.rule}{glyphs.bar}{glyphs.response}".encode(encoding or "ascii")
        except (UnicodeEncodeError, LookupError):
            return cls("...", "-", "|", "<-")
        return glyphs


class View:
    """Formats steps as lines.

    :param color: whether the lines have styles.
    :param width: the columns; a note that does not fit beside its value is put under it.
    """

    def __init__(self, glyphs: Glyphs, *, color: bool, width: int = _WIDTH) -> None:
        self._glyphs = glyphs
        self._width = width
        self._style: Callable[..., str] = click.style if color else _plain
        self._header_told = False

    def lines(self, number: int, step: Step) -> Iterator[str]:
        """Yield the lines of one step, from its title to its conclusion."""
        *before, last = textwrap.wrap(
            f"{self._glyphs.rule * 2} {number}  {step.title}", self._width - 1, subsequent_indent=" " * 6
        )
        yield from (self._style(line, **TITLE) for line in before)
        yield self._style(f"{last} {self._glyphs.rule * (self._width - len(last) - 1)}", **TITLE)
        yield from self._wrapped(step.text, "   ")
        for name, value in step.facts.items():
            yield from textwrap.wrap(value, self._width, initial_indent=f"   {name:<12}", subsequent_indent=" " * 15)
        for scene in step.scenes:
            yield ""
            yield from self._scene(scene)
        if step.moral:
            yield ""
            yield from self._wrapped(step.moral, "   ")
        for problem in step.problems:
            yield self._style(f"   This did not go as it must; expected: {problem}.", **BAD)
        yield ""

    def _scene(self, scene: Scene) -> Iterator[str]:
        exchange = scene.exchange
        if scene.caption:
            yield from self._wrapped(scene.caption, "   ")
        yield f"   {self._style(f'{exchange.method} {exchange.url}', **TITLE)}"
        scheme, _, token = exchange.sent.get("Authorization", "").partition(" ")
        if token:
            yield self._row("", "", f"Authorization: {scheme} {self._short(token)}", "")
        if scene.form:
            shown = [f"{name}={value if name == 'grant_type' else self._short(value)}" for name, value in scene.form]
            in_one = self._row("", "", "  ".join(shown), "")
            yield from [in_one] if len(in_one) <= self._width else (self._row("", "", each, "") for each in shown)
        if scene.brief:
            yield self._row("", "", scene.brief, "")
        elif scene.proof is not None:
            yield from self._proof(scene, *scene.proof)
        yield from self._response(scene)

    def _proof(self, scene: Scene, header: dict[str, Any], claims: dict[str, Any]) -> Iterator[str]:
        notes = {**_NOTES, "iat": f"made at {time.strftime('%H:%M:%S', time.localtime(claims['iat']))}", **scene.notes}
        jwk = self._short(thumbprint(header["jwk"]))
        if self._header_told:
            yield self._row("header", "jwk", jwk, notes["jwk"] if "jwk" in scene.notes else "the same key")
        else:
            self._header_told = True
            yield self._row("header", "typ", header["typ"], notes["typ"])
            yield self._row("", "alg", header["alg"], notes["alg"])
            yield self._row("", "jwk", jwk, notes["jwk"])
        group = "claims"
        for name, value in claims.items():
            shown = self._short(value) if name in {"jti", "ath", "nonce"} else str(value)
            yield self._row(group, name, shown, notes.get(name, ""))
            group = ""

    def _response(self, scene: Scene) -> Iterator[str]:
        exchange = scene.exchange
        good = exchange.status < 300
        style = GOOD if good else WAITING if scene.error == "use_dpop_nonce" else BAD
        status = f"{exchange.status} {scene.error or HTTPStatus(exchange.status).phrase}"
        yield f"   {self._glyphs.response} {self._style(status, **style)}"
        for name, note in scene.response.items():
            value = exchange.json.get(name, exchange.response_header(name))
            if value is not None:
                yield self._row("", name, self._short(str(value)), note)
        if scene.refusal is not None:
            refusal = scene.refusal
            text = f"The server's log says {refusal.reason}: {refusal.detail}"
            if refusal.expected and refusal.got:
                text += f"; expected {self._short(refusal.expected)}, got {self._short(refusal.got)}"
            yield from self._wrapped(text, "     ")

    def _row(self, group: str, name: str, value: str, note: str) -> str:
        """Format a row: ``| header  typ  dpop+jwt   note``; names in responses are longer than those of claims."""
        left = f"{group:<8}{name:<7}" if len(name) < 7 else f"{name:<15}"
        line = f"   {self._glyphs.bar} {left if name else ''}{value}"
        lead = f"   {self._glyphs.bar}   "
        if name and len(line) > self._width:
            below = textwrap.wrap(value, self._width, initial_indent=lead, subsequent_indent=lead)
            line = "\n".join([line.removesuffix(value).rstrip(), *below])
        if not note:
            return line
        column = 5 + len(left) + 22
        if column + len(note) <= self._width:
            if len(value) <= 20:
                return f"{line:<{column}}{note}"
            bar = f"   {self._glyphs.bar}"
            return f"{line}\n{bar:<{column}}{note}"  # in its column, under a value that is wider
        return "\n".join([line, *textwrap.wrap(note, self._width, initial_indent=lead, subsequent_indent=lead)])

    def _wrapped(self, text: str, indent: str) -> list[str]:
        return textwrap.wrap(text, self._width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)

    def _short(self, value: str) -> str:
        return value if len(value) <= _SHOWN + 3 else value[:_SHOWN] + self._glyphs.ellipsis


def as_json(number: int, step: Step) -> dict[str, Any]:
    """Return a step as JSON for programs. Tokens and complete proofs are left out."""
    return {
        "number": number,
        "title": step.title,
        "problems": step.problems,
        "requests": [_scene_as_json(s) for s in step.scenes],
    }


def _scene_as_json(scene: Scene) -> dict[str, Any]:
    header, claims = scene.proof or (None, None)
    refusal = scene.refusal
    return {
        "method": scene.exchange.method,
        "url": scene.exchange.url,
        "proof": None if header is None else {"header": header, "claims": claims},
        "status": scene.exchange.status,
        "error": scene.error or None,
        "nonce": scene.exchange.response_header("DPoP-Nonce"),
        "reason": None if refusal is None else refusal.reason,
    }


def _plain(text: str, **_styles: object) -> str:
    return text
