# SPDX-License-Identifier: Apache-2.0
"""``dpop key``: makes a key, lists keys in devices, shows a public key or its thumbprint, but never a private key."""

from __future__ import annotations

import json
import os
import shlex
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

import dpop
from dpop._files import path_from_home
from dpop_cli.commands.key.device import generate_in_device, list_keys
from dpop_cli.commands.key.rotate import rotate
from dpop_cli.console.command import Group
from dpop_cli.console.output import file_names, hint, printable
from dpop_cli.console.secret_input import Secret, secret_options
from dpop_cli.signing.options import AlgChoice, check_key_source, key_options, load_key

if TYPE_CHECKING:
    from dpop.keys.pkcs11 import Pkcs11Key

__all__ = ["key"]

_ALGS = ("ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512")


@click.group(cls=Group)
def key() -> None:
    """Make a key; list keys in devices; show a key or its thumbprint."""


@key.command()
@click.option(
    "--alg",
    type=AlgChoice(_ALGS),
    default="ES256",
    show_default=True,
    metavar="ALG",
    help=f"The signature algorithm: {', '.join(_ALGS)}. Every DPoP server accepts ES256.",
)
@click.option(
    "-o",
    "--out",
    default="key.pem",
    show_default=True,
    metavar="FILE",
    shell_complete=file_names,
    help="The file to write; only you can read it.",
)
@click.option(
    "--pkcs11",
    "device_uri",
    metavar="URI",
    help="Make the key in a TPM, smart card or HSM: 'pkcs11:token=...;object=NAME' (RFC 7512).",
)
@secret_options("password", "a password to encrypt the key with, or the device's PIN", detail=True)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Report as JSON.")
@click.pass_context
def generate(
    ctx: click.Context, /, *, alg: str, out: str, device_uri: str | None, force: bool, as_json: bool, **options: Any
) -> None:
    """Make a private key and write it to a file (PKCS#8 PEM, mode 0600), or make it in a device, where it stays.

    Use one key per authorization server. Tokens are bound to the key: if you lose it, they are lost, too.

    \b
    Examples:
      dpop key generate
      dpop key generate --alg ES384 --out api-key.pem --json
      export KEY_PASSWORD
      dpop key generate --out locked.pem --password-env KEY_PASSWORD

    \b
    In a device (TPM, smart card, HSM) that "dpop key list" shows; its PIN is
    asked for if no option gives it:
      dpop key generate --pkcs11 'pkcs11:token=office;object=api' \\
        --password-file pin
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if device_uri is not None:
        for option in ("alg", "out", "force"):
            if ctx.get_parameter_source(option) is ParameterSource.COMMANDLINE and (option, alg) != ("alg", "ES256"):
                raise click.UsageError(
                    f"--{option} is for a key in a file; a key in a device (--pkcs11) signs with ES256"
                )
        _report_device_key(*generate_in_device(device_uri, Secret.of("password", options)), as_json=as_json)
        return
    check_key_source(out)
    if not out:
        raise click.UsageError("--out expects the name of a file, but it is empty; leave it out for key.pem")
    if out == "-":
        raise click.UsageError(
            "--out expects a file, because a private key is not printed; dpop key show prints the public key"
        )
    if os.path.lexists(path_from_home(out)) and not force:
        raise click.UsageError(
            f"{click.format_filename(out)} exists; expected a new name for --out. --force replaces the file: the key in"
            " it would be lost, and with the key all tokens that are bound to it"
        )
    password = Secret.of("password", options).read("Password for the new key", confirm=True)
    made = dpop.generate_key(alg)
    made.save(out, password=password, overwrite=force)
    if as_json:
        report = {"path": out, "encrypted": password is not None, **_facts(made)}
        click.echo(json.dumps(report, indent=2))
        return
    name = printable(click.format_filename(out))
    click.echo(f"{name}: a new {made.alg} key, {'encrypted' if password is not None else 'not encrypted'}")
    click.echo(f"thumbprint (jkt): {made.thumbprint}")
    if made.alg != made.algs[0]:
        hint(f"the file does not contain the algorithm, so add --alg {made.alg} whenever you use the key")
    if os.environ.get("DPOP_KEY") != out:
        quoted = shlex.quote(out)
        hint(f"use it with --key {quoted}, or in all commands with: export DPOP_KEY={quoted}")


def _public_key(named: str | None, options: dict[str, Any]) -> dpop.Key:
    """Load the public key that the argument or ``--key`` names.

    :raises click.UsageError: both name a key.
    """
    if named is not None:
        if click.get_current_context().get_parameter_source("key_source") is ParameterSource.COMMANDLINE:
            raise click.UsageError("name the key once: with --key or as the argument")
        options["key_source"] = named
    return load_key(options, signs=False)


@key.command()
@click.argument("named", metavar="[KEY]", required=False, shell_complete=file_names)
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def show(*, named: str | None, as_json: bool, **options: Any) -> None:
    """Show a key's algorithm, thumbprint and public JWK. A public key is enough.

    KEY is a path or URI, as for --key.

    \b
    Examples:
      dpop key show key.pem
      dpop key show --key key.pem --json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    facts = _facts(_public_key(named, options))
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo(f"algorithm         {facts['alg']}")
    click.echo(f"thumbprint (jkt)  {facts['thumbprint']}")
    click.echo(f"public JWK        {json.dumps(facts['public_jwk'])}")


@key.command()
@click.argument("named", metavar="[KEY]", required=False, shell_complete=file_names)
@key_options
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def thumbprint(*, named: str | None, as_json: bool, **options: Any) -> None:
    """Print a key's thumbprint, the jkt of its tokens (RFC 7638, SHA-256). A public key is enough.

    \b
    Examples:
      dpop key thumbprint key.pem
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    jkt = _public_key(named, options).thumbprint
    click.echo(json.dumps({"thumbprint": jkt}) if as_json else jkt)


def _report_device_key(made: Pkcs11Key, uri: str, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"uri": uri, "device": made.device, **_facts(made)}, indent=2))
        return
    click.echo(f"a new ES256 key in the device {made.device!r}, which it cannot leave")
    click.echo(f"thumbprint (jkt): {made.thumbprint}")
    click.echo(f"URI: {uri}")
    hint("use it with --key 'URI', in quotes, or in all commands with: export DPOP_KEY='URI'")


key.add_command(list_keys)
key.add_command(rotate)


def _facts(loaded: dpop.Key) -> dict[str, Any]:
    """Return the public facts of a key."""
    return {"alg": loaded.alg, "thumbprint": loaded.thumbprint, "public_jwk": dict(loaded.public_jwk)}
