# SPDX-License-Identifier: Apache-2.0
"""Show token sets to people and scripts, without secrets unless the user asks for them."""

from __future__ import annotations

import time
from typing import Any, overload

import click

from dpop.tokens import TokenSet
from dpop_cli.console.output import TITLE, hanging, printable

__all__ = ["as_facts", "as_line", "as_lines", "duration", "moment", "print_lines"]

_COLUMN = 15
_SECRETS = ("access_token", "refresh_token", "id_token", "extra")


def as_facts(tokens: TokenSet, account: str, *, secrets: bool) -> dict[str, Any]:
    """Stored tokens as JSON members, for scripts."""
    facts = tokens.to_dict()
    shown = {name: value for name, value in facts.items() if secrets or name not in _SECRETS}
    return {"account": account, "has_refresh_token": tokens.refresh_token is not None, **shown}


def as_lines(tokens: TokenSet, account: str, *, secrets: bool, now: float | None = None) -> list[str]:
    """Stored tokens as lines, for people."""
    now = time.time() if now is None else now
    refresh = "yes" if tokens.refresh_token else "none"
    if tokens.refresh_token and tokens.refresh_expires_at is not None:
        refresh = f"yes, {_expiry(tokens.refresh_expires_at, now)}"
    bound = f"{tokens.jkt} ({tokens.key_reference})" if tokens.key_reference else tokens.jkt
    rows: list[tuple[str, str | None]] = [
        ("account", account),
        ("access token", f"{_clean(tokens.token_type)}, {_expiry(tokens.expires_at, now)}"),
        ("refresh token", refresh),
        ("id token", _id_token(tokens)),
        ("scope", _clean(tokens.scope)),
        ("resource", _clean(" ".join(tokens.resource))),
        ("key", _clean(bound)),
        ("client", _clean(tokens.client_id)),
        ("from", _clean(tokens.token_endpoint)),
    ]
    if tokens.refusal:
        rows.append(("refused", f"{_clean(str(tokens.refusal.get('message', 'yes')))} (dpop token login)"))
    elif tokens.refresh_sent_at is not None:
        rows.append(("note", f"a refresh began at {moment(tokens.refresh_sent_at)}; its outcome is not known"))
    if secrets:
        rows += [(name, _clean(getattr(tokens, name))) for name in _SECRETS[:3]]
    return [f"{name:<{_COLUMN - 1}} {value}" for name, value in rows if value]


@overload
def _clean(text: str) -> str: ...
@overload
def _clean(text: str | None) -> str | None: ...
def _clean(text: str | None) -> str | None:
    """Return a text that a server may have chosen, in one line and with control characters as escapes."""
    return text and printable(text).replace("\n", "\\n")


def _id_token(tokens: TokenSet) -> str | None:
    if tokens.id_token is None:
        return None
    return "verified at the login" if tokens.id_token_verified else "not verified"


def as_line(tokens: TokenSet, account: str, *, now: float | None = None) -> str:
    """Stored tokens in one line, for people."""
    parts = [f"{_clean(tokens.token_type)}, {_expiry(tokens.expires_at, time.time() if now is None else now)}"]
    if tokens.refusal:
        parts.append("refused (dpop login)")
    else:
        parts.append("can be refreshed" if tokens.refresh_token else "no refresh token")
    if tokens.scope:
        parts.append(_clean(tokens.scope))
    if tokens.jkt:
        parts.append(f"key {_clean(tokens.key_reference or tokens.jkt)}")
    return f"{account:<{_COLUMN - 1}} {'; '.join(parts)}"


def print_lines(*lines: str) -> None:
    """Print lines of :func:`as_lines`; a long value goes on in its column at a terminal, but not a secret."""
    for line in lines:
        click.echo(line if line.startswith(_SECRETS) else hanging(line, _COLUMN))


def duration(seconds: float) -> str:
    """Format seconds in the largest unit that fits."""
    for name, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {name}"
    return f"{seconds:.0f} s"


def moment(when: float) -> str:
    """Format a time of day, with the date if it is not today."""
    there, today = time.localtime(when), time.localtime()
    return time.strftime("%H:%M:%S" if there[:3] == today[:3] else "%Y-%m-%d %H:%M", there)


def _expiry(when: float | None, now: float) -> str:
    if when is None:
        return "no expiry known"
    if when <= now:
        return click.style("expired", **TITLE) + f" {duration(now - when)} ago"
    return f"for {duration(when - now)}, until {moment(when)}"
