# SPDX-License-Identifier: Apache-2.0
"""Keys in PKCS#11 devices: ``dpop key generate --pkcs11`` makes them, ``dpop key list`` lists them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from dpop.keys import Password
from dpop_cli.console.command import Command
from dpop_cli.console.output import hint, waiting
from dpop_cli.console.secret_input import Secret, secret_options
from dpop_cli.signing.options import check_key_source, pin_for
from dpop_cli.tokens.options import store_options

if TYPE_CHECKING:
    from dpop.keys.pkcs11 import DeviceReport, KeyReport, Pkcs11Key

__all__ = ["generate_in_device", "list_keys"]


def generate_in_device(uri: str, password: Secret) -> tuple[Pkcs11Key, str]:
    """Make a key in a device; return the key and the URI that names it."""
    from dpop.keys.pkcs11 import generate_key  # noqa: PLC0415 - only users of a device need the binding

    check_key_source(uri)
    key = generate_key(uri, password=pin_for(password, uri))
    return key, key.reference or uri


@click.command("list", cls=Command)
@click.option(
    "--pkcs11",
    "uri",
    default="pkcs11:",
    show_default=True,
    metavar="URI",
    help="The devices to list, as a URI (RFC 7512): pkcs11:token=office; ?module-path= names their driver.",
)
@secret_options("password", "the device's PIN, to list private keys, too")
@store_options()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_keys(*, uri: str, as_json: bool, **options: Any) -> None:
    """List devices (TPM, smart card, HSM) and their keys, and what each can do; and the keys of stored tokens.

    With --token-store it also lists which accounts of the store are bound to which key.

    The command does not ask for a PIN. If a device hides its private keys, only their public keys are listed. With a
    PIN option, the URI must name one device.

    The driver is the URI's module-path, or the one of PKCS11_MODULE, or p11-kit with all drivers of the system.

    \b
    Examples:
      dpop key list
      dpop key list --pkcs11 'pkcs11:token=office' --password-file pin
      dpop key list --token-store tokens.json
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    from dpop.keys.pkcs11 import list_devices  # noqa: PLC0415 - only users of a device need the binding

    check_key_source(uri)
    bound = _keys_of_tokens(options)
    if not as_json:
        for each in bound or ():  # first, as they need no driver
            place = each["key_reference"] or "at a place that was not noted"
            click.echo(f"jkt {each['jkt']}, {place}\n  tokens of {', '.join(each['accounts'])}")
    password = Secret.of("password", options)
    pin: Password | None = pin_for(password, uri) if password.given else None
    if callable(pin):
        pin = pin()  # ask now, because stderr is silenced below
    with waiting("Asking the devices"), _drivers_silenced():
        devices = list_devices(uri, password=pin)
    if as_json:
        facts = [dataclasses.asdict(device) for device in devices]
        click.echo(json.dumps(facts if bound is None else {"devices": facts, "tokens": bound}, indent=2))
        return
    for device in devices:
        click.echo(_device_line(device))
        for key in device.keys:
            click.echo(f"  {_key_line(key)}\n    {key.uri}")
        if not device.keys:
            click.echo(
                "  no keys" if not device.wants_pin or pin is not None else "  no keys are visible without its PIN"
            )
    if not devices:
        click.echo("No device matches; check that it is inserted, and that --pkcs11 names its driver.", err=True)
    elif any(key.usable for device in devices for key in device.keys) and sys.stdout.isatty():
        hint("use a key with --key 'pkcs11:token=...;object=...', in quotes: a shell would end the command at the ;")


def _keys_of_tokens(options: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the keys that the tokens in a store are bound to, with their accounts; ``None`` without a store."""
    from dpop_cli.tokens.store import Stored  # noqa: PLC0415 - devices need no store

    chosen = options["account"]
    stored = Stored.of(options)
    if stored is None:
        return None
    keys: dict[str, dict[str, Any]] = {}
    for account in [stored.account] if chosen is not None else stored.store.accounts():
        tokens = stored.store.load(account)
        if tokens is not None and tokens.jkt is not None:
            empty: dict[str, Any] = {"jkt": tokens.jkt, "key_reference": tokens.key_reference, "accounts": []}
            keys.setdefault(tokens.jkt, empty)["accounts"].append(account)
    return list(keys.values())


@contextlib.contextmanager
def _drivers_silenced() -> Iterator[None]:
    """Silence drivers, which print on stderr about missing devices; Python's own output is kept."""
    python = sys.stderr
    if python is None:
        yield
        return
    python.flush()
    stderr = os.dup(2)
    with open(os.devnull, "wb") as nowhere, os.fdopen(os.dup(stderr), "w", errors="backslashreplace") as ours:  # noqa: PTH123 - a device
        os.dup2(nowhere.fileno(), 2)
        sys.stderr = ours
        try:
            yield
        finally:
            sys.stderr = python
            os.dup2(stderr, 2)
            os.close(stderr)


def _device_line(device: DeviceReport) -> str:
    state = {
        "locked": "LOCKED after too many wrong PINs",
        "final try": "one more wrong PIN locks it",
        "wrong PIN counted": "has counted a wrong PIN",
        None: "needs a PIN" if device.wants_pin else "needs no PIN",
    }[device.pin_state]
    able = "makes and uses EC keys" if device.makes_keys else "uses EC keys" if device.signs else "has no ECDSA"
    maker, model, serial = map(_printable, (device.manufacturer, device.model, device.serial or "none"))
    return f"{device.label!r} ({maker}, {model}, serial {serial}): {state}; {able}"


def _printable(text: str) -> str:
    """Remove control characters from a device's text, which a stranger may have written."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _key_line(key: KeyReport) -> str:
    facts = [f"ES256, jkt {key.thumbprint or 'not shown'}" if key.usable else f"{key.kind}, not for proofs"]
    if not key.private_seen:
        facts.append("its private key is visible after the PIN")
    if key.stays_in_device is not None:
        facts.append("stays in the device" if key.stays_in_device else "CAN BE EXPORTED")
    if key.pin_each_time:
        facts.append("PIN for each signature")
    return f"{_printable(key.label) or '(no label)'}: {', '.join(facts)}"
