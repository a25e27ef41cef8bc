# SPDX-License-Identifier: Apache-2.0
"""``dpop key``: make a key; show its public half and its thumbprint, never the private half."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

import dpop
from dpop_cli.options import CarefulCommand, check_key_source, hint, key_options, load_key
from dpop_cli.secret_input import Secret, secret_options

__all__ = ["key"]

_ALGS = ("ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256")


@click.group()
def key() -> None:
    """Make a key; show it or its thumbprint."""


@key.command(cls=CarefulCommand)
@click.option(
    "--alg",
    type=click.Choice(_ALGS),
    default="ES256",
    show_default=True,
    help="What it signs with. Every DPoP server takes ES256.",
)
@click.option(
    "--out", default="key.pem", show_default=True, metavar="FILE", help="File to write, readable by you alone."
)
@secret_options("password", "a password to encrypt the key with")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
def generate(*, alg: str, out: str, force: bool, as_json: bool, **options: Any) -> None:
    """Make a private key and write it to a file (PKCS#8 PEM, mode 0600).

    Use one key per authorization server. Tokens are bound to it: lose the key, and they are lost too.

    \b
    Examples:
      dpop key generate
      dpop key generate --alg ES384 --out api-key.pem --json
      export KEY_PASSWORD
      dpop key generate --out locked.pem --password-env KEY_PASSWORD
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    check_key_source(out)
    if out == "-":
        raise click.UsageError(
            "--out expects a file: a private key is not printed; see dpop key show for its public half"
        )
    if os.path.lexists(Path(out).expanduser()) and not force:
        raise click.UsageError(
            f"{click.format_filename(out)} exists; expected a new name for --out. Use --force to replace it: the key in"
            " it would be lost, and with it every token bound to it"
        )
    password = Secret.of("password", options).read("Password for the new key", confirm=True)
    made = dpop.generate_key(alg)
    made.save(out, password=password, overwrite=force)
    if as_json:
        report = {"path": out, "encrypted": password is not None, **_facts(made)}
        click.echo(json.dumps(report, indent=2))
        return
    name = click.format_filename(out)
    click.echo(f"{name}: a new {made.alg} key, {'encrypted' if password is not None else 'not encrypted'}")
    click.echo(f"thumbprint (jkt): {made.thumbprint}")
    if made.alg != made.algs[0]:
        hint(f"a file does not say which of two names its key signs by; add --alg {made.alg} wherever you use it")
    if os.environ.get("DPOP_KEY") != out:
        hint(f"name it with --key {name}, or once for all with: export DPOP_KEY={name}")


@key.command(cls=CarefulCommand)
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(*, as_json: bool, **options: Any) -> None:
    """Show a key's algorithm, thumbprint and public JWK. A public key will do.

    \b
    Examples:
      dpop key show --key key.pem
      dpop key show --key key.pem --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    facts = _facts(load_key(options, signs=False))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"algorithm         {facts['alg']}")
    click.echo(f"thumbprint (jkt)  {facts['thumbprint']}")
    click.echo(f"public JWK        {json.dumps(facts['public_jwk'])}")


@key.command(cls=CarefulCommand)
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def thumbprint(*, as_json: bool, **options: Any) -> None:
    """Print a key's thumbprint: the jkt that tokens are bound to (RFC 7638, SHA-256). A public key will do.

    \b
    Examples:
      dpop key thumbprint --key key.pem
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    jkt = load_key(options, signs=False).thumbprint
    click.echo(json.dumps({"thumbprint": jkt}) if as_json else jkt)


def _facts(loaded: dpop.Key) -> dict[str, Any]:
    """What may be known of a key by everyone."""
    return {"alg": loaded.alg, "thumbprint": loaded.thumbprint, "public_jwk": dict(loaded.public_jwk)}
