# SPDX-License-Identifier: Apache-2.0
"""Keys in PKCS#11 tokens at the command line: made with ``dpop key generate --pkcs11``, seen with ``dpop key list``."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from dpop.keys import Password
from dpop_cli.console import CarefulCommand, hint
from dpop_cli.options import check_key_source, pin_for
from dpop_cli.secret_input import Secret, secret_options

if TYPE_CHECKING:
    from dpop.keys.pkcs11 import DeviceReport, KeyReport, Pkcs11Key

__all__ = ["generate_in_token", "list_keys"]


def generate_in_token(uri: str, password: Secret) -> tuple[Pkcs11Key, str]:
    """Make a key in a token; the key, and the URI to use it by from now on."""
    from dpop.keys.pkcs11 import generate_key  # noqa: PLC0415 - only who has a token needs the binding

    check_key_source(uri)
    made = generate_key(uri, password=pin_for(password, uri))
    return made, made.reference or uri


@click.command("list", cls=CarefulCommand)
@click.option(
    "--pkcs11",
    "uri",
    default="pkcs11:",
    show_default=True,
    metavar="URI",
    help="Which tokens: a URI (RFC 7512), such as pkcs11:token=office; ?module-path= names their driver.",
)
@secret_options("password", "the token's PIN, to see what it shows to its owner only")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_keys(*, uri: str, as_json: bool, **options: Any) -> None:
    """List tokens (TPM, smart card, HSM) and their keys, and what each can do.

    Nobody is asked for a PIN, so private keys that a token hides show by their public halves only. With a
    PIN the URI must name one token.

    The driver is the URI's module-path, that of PKCS11_MODULE, or p11-kit's for all that the system knows.

    \b
    Examples:
      dpop key list
      dpop key list --pkcs11 'pkcs11:token=office' --password-file pin
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from dpop.keys.pkcs11 import list_devices  # noqa: PLC0415 - only who has a token needs the binding

    check_key_source(uri)
    password = Secret.of("password", options)
    pin: Password | None = pin_for(password, uri) if password.given else None
    tokens = list_devices(uri, password=pin)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(token) for token in tokens], indent=2))
        return
    for token in tokens:
        click.echo(_token_line(token))
        for key in token.keys:
            click.echo(f"  {_key_line(key)}\n    {key.uri}")
        if not token.keys:
            click.echo(
                "  no keys" if not token.wants_pin or pin is not None else "  no keys that it shows without its PIN"
            )
    if not tokens:
        click.echo("No token fits; look whether it is inserted, and whether --pkcs11 names its driver.", err=True)
    elif any(key.usable for token in tokens for key in token.keys) and sys.stdout.isatty():
        hint("name one with --key 'pkcs11:token=...;object=...', in quotes: a shell would end the command at the ;")


def _token_line(token: DeviceReport) -> str:
    state = {
        "locked": "LOCKED after too many wrong PINs",
        "final try": "one more wrong PIN locks it",
        "wrong PIN counted": "has counted a wrong PIN",
        None: "wants a PIN" if token.wants_pin else "wants no PIN",
    }[token.pin_state]
    able = "makes and uses EC keys" if token.makes_keys else "uses EC keys" if token.signs else "has no ECDSA"
    maker, model, serial = map(_printable, (token.manufacturer, token.model, token.serial or "none"))
    return f"{token.label!r} ({maker}, {model}, serial {serial}): {state}; {able}"


def _printable(text: str) -> str:
    """The text of a token, which may be anybody's, without what would move the cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _key_line(key: KeyReport) -> str:
    facts = [f"ES256, jkt {key.thumbprint or 'not shown'}" if key.usable else f"{key.kind}, not for proofs"]
    if not key.private_seen:
        facts.append("its private half shows after the PIN")
    if key.stays_in_device is not None:
        facts.append("stays in the device" if key.stays_in_device else "CAN BE TAKEN OUT")
    if key.pin_each_time:
        facts.append("PIN for each signature")
    return f"{_printable(key.label) or '(no label)'}: {', '.join(facts)}"
