# SPDX-License-Identifier: Apache-2.0
"""``dpop serve``: runs the test server of :mod:`dpop.testing` until Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import click

from dpop.errors import UsageError
from dpop.htu import Origin
from dpop.keys import ALGORITHMS, PublicKey, load_key
from dpop.profiles import Profile
from dpop.testing import DISCIPLINES, DPoPTestServer
from dpop_cli.console.command import Command
from dpop_cli.console.output import file_names, hint, stopped_by_signals
from dpop_cli.signing.key_elsewhere import read_public_half
from dpop_cli.tokens.options import ProfileName

__all__ = ["first_line", "serve", "welcome"]

_LOGGER = logging.getLogger("dpop.testing")
_LOOK_SECONDS = 1.0


@click.command(cls=Command)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON with all addresses.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="The port; 0, the default, for a free one.")
@click.option(
    "--mode",
    type=ProfileName(),
    default="rfc9449",
    show_default=True,
    help="The kind of server: a name, or a TOML file; see dpop.profiles.",
)
@click.option("--nonces", type=click.Choice(DISCIPLINES), help="How the server treats nonces, in both roles.")
@click.option(
    "--tokens",
    type=click.Choice(["opaque", "jwt"]),
    default="opaque",
    show_default=True,
    help="Access tokens that only this server can read, or JWTs (RFC 9068) with keys at /jwks.",
)
@click.option(
    "--client-key",
    metavar="KEY",
    shell_complete=file_names,
    help="The public key of the client, which then may authenticate by private_key_jwt.",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set any lever; may be repeated.")
@click.option(
    "--public-origin", metavar="ORIGIN", help="The origin that clients use, if there is a proxy or --host 0.0.0.0."
)
def serve(*, as_json: bool, host: str, port: int, settings: tuple[str, ...], **options: Any) -> None:
    """Run an authorization server and an API that verify DPoP proofs.

    It is for tests: every user agrees, it uses plain http, and it listens on this machine only. Refusals are printed as
    they happen, with their reason. Ctrl-C stops it.

    With --json the first line is an object with issuer, token_endpoint, resource, client_id,
    client_secret, public_client_id and the other addresses; nothing follows on standard output.

    Levers make it misbehave. GET /levers shows them, POST /levers sets them, GET /stats shows counters:

    \b
      curl -d '{"lapse": true}' ORIGIN/levers         all nonces so far lapse
      curl -d '{"fail_next": 3}' ORIGIN/levers        503 for the next three
      curl -d '{"clock_offset": -90}' ORIGIN/levers   its clock is 90 s slow
      curl -d '{"rotate_keys": true}' ORIGIN/levers   a new key signs JWTs

    \b
    Examples:
      dpop serve
      dpop serve --json --port 8080 --nonces single-use
      dpop serve --tokens jwt
      dpop serve --mode google --set token_lifetime=5
      dpop serve --mode our-server.toml
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if options["client_key"] is not None:
        options["client_key"] = _public_jwk(options["client_key"])
    algs = None if Profile.of(options["mode"]).algs else ALGORITHMS
    server = DPoPTestServer(host=host, port=port, algs=algs, **_settings(settings), **options)
    with stopped_by_signals() as stop, _refusals_on_stderr(), server:
        if not Origin.parse(f"http://{_bracketed(host)}").is_loopback:
            hint(f"{host} is more than this machine: everyone who reaches it gets tokens and can set the levers")
        click.echo(json.dumps(first_line(server)) if as_json else welcome(server))
        # Several short waits: on Windows, one long wait would not notice Ctrl-C.
        while not stop.wait(_LOOK_SECONDS):
            pass
    seen = server.stats
    click.echo(
        f"Stopped after {seen.requests} requests, {seen.refusals} refused, {seen.challenges} of them for a nonce.",
        err=True,
    )


def _public_jwk(file: str) -> Mapping[str, str]:
    """The public key in a file, which may hold the private one too."""
    public = read_public_half(file)
    return public.jwk if isinstance(public, PublicKey) else load_key(file).public_jwk


def first_line(server: DPoPTestServer) -> dict[str, str]:
    """Return all addresses and the clients, as one JSON object for scripts."""
    facts = {
        "issuer": server.issuer,
        "authorization_endpoint": server.authorization_endpoint,
        "token_endpoint": server.token_endpoint,
        "pushed_authorization_request_endpoint": server.par_endpoint,
        "device_authorization_endpoint": server.device_authorization_endpoint,
        "revocation_endpoint": server.revocation_endpoint,
        "introspection_endpoint": server.introspection_endpoint,
        "jwks_uri": server.jwks_uri,
        "resource": server.resource,
        "stream": server.stream,
        "levers": f"{server.issuer}/levers",
        "stats": f"{server.issuer}/stats",
        "client_id": server.client_id,
        "client_secret": server.client_secret,
        "mode": server.mode,
    }
    return {**facts, "public_client_id": server.public_client_id} if server.profile.server.public_clients else facts


def welcome(server: DPoPTestServer) -> str:
    """Return the addresses and first commands to try, for people."""
    lines = [
        f"A DPoP test server ({server.mode}) is at {server.issuer}; Ctrl-C stops it.",
        "",
        f"  authorize  {server.authorization_endpoint}",
        f"  token      {server.token_endpoint}",
        f"  resource   {server.resource}",
        f"  client     {server.client_id}, secret {server.client_secret}",
    ]
    if server.profile.server.public_clients:
        lines.append(f"             {server.public_client_id}, without a secret")
    lines += ["", "Try in another terminal:", "", *(f"  {line}" for line in _first_steps(server))]
    lines += [
        "",
        "Set a lever, show the counters:",
        "",
        f"  curl -d '{{\"lapse\": true}}' {server.issuer}/levers",
        f"  curl {server.issuer}/stats",
        "",
        "Refusals appear below, with their reason.",
    ]
    return "\n".join(lines)


def _first_steps(server: DPoPTestServer) -> list[str]:
    """Example commands to copy: one that is refused, one with a key, one with a token."""
    if not server.profile.server.api_takes_proofs:
        query = f"response_type=code&client_id={server.client_id}&redirect_uri=http://127.0.0.1/"
        return [f"curl -i {server.resource}", f"curl -i '{server.authorization_endpoint}?{query}'"]
    return [
        f"curl -i {server.resource}",
        "dpop key generate; export DPOP_KEY=key.pem",
        f"dpop curl -sS -u {server.client_id}:{server.client_secret} \\",
        f"  -d grant_type=client_credentials {server.token_endpoint} > token.json",
        f"dpop curl --token-file token.json {server.resource}",
    ]


def _settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """Parse ``name=value`` pairs; a value that is not JSON is taken as a string."""
    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, such as token_lifetime=5; {ascii(text)[:60]} has no =")
        if name in {"nonces", "mode", "host", "port", "tokens"}:
            raise UsageError(f"use --{name}, not --set {name}=")
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _OnStderr(logging.Handler):
    """A log handler that prints on the current ``sys.stderr``."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the record, if that is possible: the client that was refused must get its response in any case."""
        with contextlib.suppress(OSError):
            click.echo(self.format(record), err=True)


@contextlib.contextmanager
def _refusals_on_stderr() -> Iterator[None]:
    handler = _OnStderr(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    level, propagate = _LOGGER.level, _LOGGER.propagate
    _LOGGER.addHandler(handler)
    _LOGGER.setLevel(logging.INFO)
    _LOGGER.propagate = False  # or the command line's own handler would print warnings once more
    try:
        yield
    finally:
        _LOGGER.removeHandler(handler)
        _LOGGER.setLevel(level)
        _LOGGER.propagate = propagate
