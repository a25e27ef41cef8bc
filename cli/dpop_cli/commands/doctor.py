# SPDX-License-Identifier: Apache-2.0
"""``dpop doctor``: the kind of a server, how it treats proofs, and the settings that fit it."""

from __future__ import annotations

import dataclasses
import json
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

import click

import dpop
from dpop.errors import UsageError
from dpop.origin import Origin
from dpop.profiles import Profile
from dpop_cli.console.command import Command
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import BAD, GOOD, TITLE, may_color, waiting, width_of
from dpop_cli.tokens.client import OAuthClient
from dpop_cli.tokens.options import client_options

if TYPE_CHECKING:
    from dpop.tokens import ClientAuth, Examination, HTTPRequest, HTTPResponse

__all__ = ["doctor"]

_WIDE = 80
_SECONDS = 20.0
_MAX_BYTES = 1 << 20
_MOST_NAMED = 4


@click.command(cls=Command)
@click.argument("url")
@click.option("--client-id", metavar="ID", help="A client that the server knows; its secret is not needed.")
@client_options
@click.option("--json", "as_json", is_flag=True, help="Print one object of JSON.")
@click.pass_context
def doctor(ctx: click.Context, /, *, url: str, client_id: str | None, as_json: bool, **options: Any) -> None:
    """Find out what a server is: its metadata, its clock, its nonces, and which profile fits.

    URL is an issuer, or an API whose metadata names one. The command sends about twenty requests, and none changes
    anything: it reads metadata, and sends an invented refresh token with proofs by a new key. It sends no token of
    yours, and no secret, unless you name a client that has one (--client).

    Many servers check proofs only for clients that they know: name one with --client-id. Its secret is not sent.

    The status is 1 if no metadata was found.

    \b
    Examples:
      dpop doctor https://as.example
      dpop doctor https://as.example --client-id app
      dpop doctor https://api.example/me --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    found = _examined(url, _client_auth(options, client_id))
    if as_json:
        click.echo(json.dumps(_facts(found), indent=2, ensure_ascii=True))
    else:
        _print(found)
    ctx.exit(Status.DONE if found.issuer is not None else Status.REFUSED)


def _client_auth(options: dict[str, Any], client_id: str | None) -> ClientAuth | None:
    from dpop.tokens import ClientSecretPost, PublicClient  # noqa: PLC0415 - help needs no cryptography

    client = OAuthClient.of({**options, "client_id": client_id})
    named = client.facts.get("client_id")
    if named is None:
        return None
    if client.secret is not None and client_id is None:
        return ClientSecretPost(named, client.secret)
    return PublicClient(named)


def _examined(url: str, client_auth: ClientAuth | None) -> Examination:
    """Send the requests of :func:`dpop.tokens.examine` with the library requests."""
    try:
        import requests  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"asking a server needs the Python package {error.name}; run: pip install 'dpop-toolkit[requests]'"
        ) from None
    from dpop.tokens import NoResponse, examine  # noqa: PLC0415 - help needs no cryptography

    questions = examine(url, dpop.generate_key(), client_auth=client_auth)
    with requests.Session() as session:
        try:
            question = next(questions)
            while True:
                try:
                    with waiting(f"Waiting for {Origin.of_url(question.url)}"):
                        response = _answered(session, question)
                except requests.RequestException as error:
                    reason = f"{Origin.of_url(question.url)} does not respond ({type(error).__name__})"
                    question = questions.throw(NoResponse(reason, sent=True))
                else:
                    question = questions.send(response)
        except StopIteration as end:
            found: Examination = end.value
            return found
        except UsageError as error:
            raise click.UsageError(str(error)) from None


def _answered(session: Any, question: HTTPRequest) -> HTTPResponse:
    from dpop.tokens import HTTPResponse  # noqa: PLC0415 - help needs no cryptography

    with session.request(
        question.method,
        question.url,
        headers=dict(question.headers),
        data=question.body,
        allow_redirects=False,
        timeout=_SECONDS,
        stream=True,
        auth=_unchanged,  # or requests would send a password of .netrc
    ) as response:
        body = b""
        for chunk in response.iter_content(16_384):
            body += chunk
            if len(body) > _MAX_BYTES:
                break
        headers = tuple((name.lower(), value) for name, value in response.raw.headers.items())
        return HTTPResponse(response.status_code, headers, body)


def _unchanged(request: Any) -> Any:
    return request


# --- the report


def _settings(found: Examination) -> dict[str, str]:
    """How to use the profile, in a program and on the command line."""
    issuer, name = found.issuer or found.url, found.profiles[0]
    return {
        "library": f'TokenEndpoint.discover(key, {json.dumps(issuer)}, client_id=..., profile="{name}")',
        "command": f"dpop token login --key key.pem --profile {name} --issuer {shlex.quote(issuer)} --client-id ID",
        "rehearse": f"dpop serve --mode {name}",
    }


def _facts(found: Examination) -> dict[str, Any]:
    return {
        "url": found.url,
        "issuer": found.issuer,
        "resource": found.resource,
        "clock": found.clock,
        "seen": found.seen,
        "odd": found.odd,
        "profiles": list(found.profiles) if found.issuer else [],
        "fits": [dataclasses.asdict(fit) for fit in found.fits] if found.issuer else [],
        "settings": _settings(found) if found.issuer else {},
    }


def _print(found: Examination) -> None:
    _title("Server")
    _line(f"issuer: {found.issuer or 'not found'}")
    if found.resource is not None:
        _line(f"API: {found.resource}")
    if found.clock is not None:
        _line(f"clock: {'as here' if found.clock == 0 else f'{found.clock:+g} s'}")
    for fact, value in found.seen.items():
        _line(f"{fact}: {_told(fact, value)}")
    if found.odd:
        _title("Odd")
        for remark in dict.fromkeys(found.odd):
            _line(remark, click.style("! ", **BAD))
    if found.issuer is not None:
        _print_profiles(found)


def _print_profiles(found: Examination) -> None:
    _title("Profile")
    names = found.profiles
    if len(names) > _MOST_NAMED:
        _line(f"{len(names)} profiles fit equally; the responses do not tell them apart")
        return
    shown = ", ".join(f"{name} ({Profile.load(name).name})" for name in names)
    _line(f"{shown}{' fit equally' if len(names) > 1 else ' fits best'}", click.style("ok ", **GOOD))
    if found.fits[0].differs:
        differs = ", ".join(found.fits[0].differs)
        _line(f"it differs in: {differs}; write a profile file with like = {json.dumps(names[0])}")
    _title("Settings")
    for text in _settings(found).values():
        click.echo(f"  {_clean(text)}")


def _title(text: str) -> None:
    click.echo(click.style(text, **TITLE), color=None if may_color("stdout") else False)


def _line(text: str, mark: str = "") -> None:
    wrapped = textwrap.wrap(_clean(text), width_of("stdout", _WIDE) - 5, break_on_hyphens=False, break_long_words=False)
    click.echo(f"  {mark}" + "\n    ".join(wrapped or [""]), color=None if may_color("stdout") else False)


def _clean(text: str) -> str:
    """Return the text without control characters, which a server could have sent."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _told(fact: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if fact.startswith("accepts the"):
        return f"{value} s at least" if value else "no"
    if value == "invalid_grant":
        return "accepted"
    return "not said" if value is None else str(value)
