# SPDX-License-Identifier: Apache-2.0
"""A server's response, as ``curl -i`` prints it, and what a client should do next."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, field
from typing import Any

import click

from dpop.client import NOTABLE_SECONDS, Role, dpop_challenge, error_of_json, nonce_field, skew
from dpop.encoding import json_object
from dpop.errors import EncodingError
from dpop_cli.signing.nonce_state import ROLE_TITLES
from dpop_cli.wire.header_dump import Head, heads_and_bodies
from dpop_cli.wire.next_steps import NEXT_STEPS

__all__ = ["Response", "is_response", "read_response", "response_as_json", "response_lines"]

_WIDTH = 79
_SHOWN = 12
_STATUS = re.compile(r"HTTP/[0-9.]+ [0-9]{3}\b")


@dataclass(frozen=True, slots=True)
class Response:
    """The parts of a server's response that concern DPoP.

    :param role: the role of the server, if the response shows it.
    :param ahead: how many seconds the server's clock is ahead of this machine's.
    :param problem: why its DPoP-Nonce is not usable.
    """

    status: int
    role: Role | None
    error: str | None
    description: str | None
    algs: str | None
    nonce: str | None = field(repr=False)
    problem: str | None
    ahead: float | None
    token_type: str | None

    @property
    def refused(self) -> bool:
        """Whether the response is a refusal."""
        return self.status >= 400

    @property
    def next_step(self) -> str:
        """One sentence that says how the client should go on."""
        if self.error == "use_dpop_nonce" and self.nonce is None:
            return "The server asks for a nonce, but gives no usable one: a fault of the server; tell its operator."
        if self.error is not None and self.error in NEXT_STEPS:
            return NEXT_STEPS[self.error]
        if self.token_type is not None and self.token_type.lower() != "dpop":
            return (
                "The access token is of the type Bearer, so it is bound to no key: send it as Bearer, without a"
                " proof. If you expected a bound token, the request had no proof."
            )
        if not self.refused:
            return "The request succeeded." + (" Use the new nonce from now on." if self.nonce else "")
        if self.status == 401 and self.role is None:
            return "There is no DPoP challenge: the server needs other credentials, or does not know DPoP here."
        if self.status == 401:
            return "The request had no DPoP token: send one as Authorization: DPoP, with a proof."
        return "The refusal is not about DPoP."


def read_response(text: str, now: float) -> Response:
    """Read the last response in a text.

    :param now: seconds since 1970.
    :raises click.UsageError: the text contains no response.
    """
    found = [(head, body) for head, body in heads_and_bodies(text) if head.status >= 200]
    if not found:
        raise click.UsageError(
            "the input contains no response; expected a status line and headers, as curl -i prints them"
        )
    head, body = found[-1]
    challenge = dpop_challenge(head.values("www-authenticate"))
    nonce, problem = nonce_field(head.values("dpop-nonce"))
    members = _members(body)
    error = challenge.get("error") if challenge is not None else None
    in_body = error_of_json(body.encode("utf-8", "replace"))
    return Response(
        status=head.status,
        role=_role(head, members),
        error=error or in_body,
        description=(challenge or {}).get("error_description") or _text(members, "error_description"),
        algs=(challenge or {}).get("algs"),
        nonce=nonce,
        problem=problem,
        ahead=skew(next(iter(head.values("date")), None), now, now),
        token_type=_text(members, "token_type") if "access_token" in members else None,
    )


def is_response(text: str) -> bool:
    """Whether a text is a response, and not a request with a proof: it begins with a status line."""
    return _STATUS.match(text.lstrip()) is not None


def response_lines(response: Response, width: int = _WIDTH) -> list[str]:
    """Return the response as lines for people.

    :param width: columns of a narrow terminal.
    """
    who = f" from the {ROLE_TITLES[response.role]}" if response.role is not None else ""
    lines = [f"{response.status}{who}"]
    facts = [
        ("error", response.error),
        ("said", response.description),
        ("algs", response.algs),
        ("DPoP-Nonce", None if response.nonce is None else _cut(response.nonce)),
        ("DPoP-Nonce", None if response.problem is None else f"none: {response.problem}"),
        ("token_type", response.token_type),
    ]
    if response.ahead is not None and abs(response.ahead) > NOTABLE_SECONDS:
        side = "ahead of" if response.ahead > 0 else "behind"
        facts.append(
            ("Date", f"{abs(response.ahead):.0f} s {side} this machine's clock, if the response came just now")
        )
    for name, value in facts:
        if value is not None:
            shown = "".join(character if character.isprintable() else "?" for character in value)
            lines += textwrap.wrap(f"  {name:<12}{shown}", width, subsequent_indent=" " * 14, break_on_hyphens=False)
    return [*lines, "", *textwrap.wrap(f"Next: {response.next_step}", width, subsequent_indent="      ")]


def response_as_json(response: Response) -> dict[str, Any]:
    """Return the response as JSON members for programs."""
    return {
        "status": response.status,
        "role": None if response.role is None else ROLE_TITLES[response.role],
        "error": response.error,
        "error_description": response.description,
        "algs": None if response.algs is None else response.algs.split(),
        "nonce": response.nonce,
        "clock_ahead": response.ahead,
        "token_type": response.token_type,
        "retry": response.error == "use_dpop_nonce" and response.nonce is not None,
        "next": response.next_step,
    }


def _role(head: Head, members: dict[str, Any]) -> Role | None:
    return Role.AS if "access_token" in members and "token_type" in members else head.role


def _members(body: str) -> dict[str, Any]:
    try:
        return json_object(body.strip().encode("utf-8", "replace"))
    except EncodingError:
        return {}


def _text(members: dict[str, Any], name: str) -> str | None:
    value = members.get(name)
    return value if isinstance(value, str) else None


def _cut(nonce: str) -> str:
    return nonce if len(nonce) <= _SHOWN + 3 else f"{nonce[:_SHOWN]}... ({len(nonce)} characters)"
