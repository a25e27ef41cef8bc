# SPDX-License-Identifier: Apache-2.0
"""The OAuth client identity of ``dpop token``, and its server: from a file, or from options."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dpop import tokens as dpop_tokens
from dpop._files import path_from_home
from dpop.client import NonceKey, Prover, Role
from dpop.encoding import json_object
from dpop.errors import DPoPError, EncodingError
from dpop.origin import Origin
from dpop.profiles import ATPROTO, GOOGLE, NAMES, RFC9449, Profile
from dpop_cli.console.command import is_verbose
from dpop_cli.console.output import ended_by_signals
from dpop_cli.console.secret_input import Secret, read_text
from dpop_cli.signing.nonce_state import NonceState, StateError
from dpop_cli.signing.options import check_transport, keep_nonce, load_key
from dpop_cli.tokens.client_auth import CERTIFICATE_METHODS, ClientProof

if TYPE_CHECKING:
    from dpop.requests import TokenEndpoint
    from dpop.tokens import TokenSet

__all__ = ["ENDPOINTS", "OAuthClient", "kept_nonces", "prover_of"]

_GOOGLE = {
    "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
    "token_endpoint": "https://oauth2.googleapis.com/token",
    "device_authorization_endpoint": "https://oauth2.googleapis.com/device/code",
    "revocation_endpoint": "https://oauth2.googleapis.com/revoke",
    "issuer": "https://accounts.google.com",
    "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
}
_GOOGLES_NAMES = {"auth_uri": "authorization_endpoint", "token_uri": "token_endpoint"}
_SHOWN = "dpop_cli.requests shown"
_SURVIVES = "dpop_cli.signals survived"
ENDPOINTS = frozenset(
    f"{name}_endpoint"
    for name in (
        "authorization",
        "token",
        "device_authorization",
        "pushed_authorization_request",
        "revocation",
        "introspection",
    )
)
_SERVER = frozenset({"issuer", "jwks_uri"}) | ENDPOINTS
_FACTS = frozenset({"client_id", "client_secret", "token_endpoint_auth_method", "mode"}) | _SERVER


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """The client that requests tokens, and its server."""

    facts: Mapping[str, str] = field(repr=False)
    secret: str | None = field(repr=False)
    profile: Profile | None
    allow_http: bool
    proof: ClientProof = field(default_factory=ClientProof, repr=False)

    @classmethod
    def of(cls, options: dict[str, Any]) -> OAuthClient:
        """Take the options of ``client_options`` or ``server_options`` out of a command's options.

        :raises click.UsageError: the file cannot be read, or is no description of a client.
        """
        named = options.pop("client_file")
        facts, proof = ({}, ClientProof()) if named is None else _read(named)
        for name in ("issuer", "token_endpoint", "client_id"):
            given = options.pop(name, None)
            if given is not None:
                if name != "client_id":  # another server than the file's
                    facts = {kept: value for kept, value in facts.items() if kept not in _SERVER}
                facts[name] = given
        secret = Secret.of("client-secret", options).read("Secret of the client") or facts.pop("client_secret", None)
        profile = options.pop("profile", None)
        if profile is None and facts.get("mode") in NAMES[1:]:
            profile = facts["mode"]  # of dpop serve
        proof = proof.or_options(options)
        allow_http = options.pop("allow_http", False)
        return cls(facts, secret, None if profile is None else Profile.load(profile), allow_http, proof)

    def or_of(self, facts: Mapping[str, str]) -> OAuthClient:
        """Return a copy that has facts from elsewhere where the options gave none."""
        secret = self.secret or facts.get("client_secret")
        return replace(self, facts={**facts, **self.facts}, secret=secret)

    def endpoint(self, prover: Prover, tokens: TokenSet | None = None) -> TokenEndpoint:
        """Make the token endpoint.

        :param tokens: stored tokens: they name their server and client, and say whether they are bound.
        :raises click.UsageError: nothing says which server or client, or no HTTP library is there.
        """
        try:
            from dpop_cli.tokens.endpoint import Endpoint  # noqa: PLC0415 - help needs no HTTP library
        except ModuleNotFoundError as error:
            raise click.UsageError(
                f"asking for tokens needs the Python package {error.name}; run: pip install 'dpop-toolkit[requests]'"
            ) from None
        _survive_signals()
        if is_verbose():
            _show_requests()
        facts, profile = self._server(tokens)
        urls: dict[str, Any] = {name: facts[name] for name in sorted(_SERVER) if name in facts}
        settings = self._settings(facts, profile, urls.values())
        if tokens is not None and not tokens.is_bound:
            settings["allow_bearer"] = True  # as when they were issued
        if "token_endpoint" in urls:
            return Endpoint(prover, dpop_tokens.ServerMetadata(**urls), **settings)
        if "issuer" in urls:
            return Endpoint.discover(prover, urls["issuer"], **settings)
        raise click.UsageError(
            "which server? use --client client.json, --issuer URL, --token-endpoint URL or --profile google"
        )

    def found(self, prover: Prover, tokens: TokenSet) -> TokenEndpoint:
        """Find the revocation endpoint of stored tokens in the metadata of their server.

        The issuer is not known. So the metadata is requested at the origin of the token endpoint, and must name the
        same token endpoint.

        :raises click.UsageError: there is no metadata, or it names no revocation endpoint.
        """
        known = tokens.token_endpoint or self.facts.get("token_endpoint")
        if known is not None:
            facts = {name: value for name, value in self.facts.items() if name not in _SERVER}
            there = replace(self, facts={**facts, "issuer": str(Origin.of_url(known))})
            with contextlib.suppress(DPoPError):
                endpoint = there.endpoint(prover, tokens)
                if endpoint.server.token_endpoint == known and endpoint.server.revocation_endpoint is not None:
                    return endpoint
                endpoint.close()
        raise click.UsageError(
            "the server's revocation endpoint is not known: use --issuer, a --client file with"
            " revocation_endpoint, or --forget to only remove them here"
        )

    def _server(self, tokens: TokenSet | None) -> tuple[dict[str, str], Profile]:
        """All facts about server and client, and the profile of the server."""
        facts = dict(self.facts)
        if tokens is not None:
            if tokens.token_endpoint and "issuer" not in facts:
                facts.setdefault("token_endpoint", tokens.token_endpoint)
            if tokens.client_id:
                facts.setdefault("client_id", tokens.client_id)
        googles = facts.get("token_endpoint") == _GOOGLE["token_endpoint"]
        # Each token of the AT Protocol has that scope.
        bluesky = tokens is not None and "atproto" in tokens.scopes
        profile = self.profile or (GOOGLE if googles else ATPROTO if bluesky else RFC9449)
        if googles or (profile == GOOGLE and not {"issuer", "token_endpoint"} & facts.keys()):
            facts = {**_GOOGLE, **facts}
        return facts, profile

    def _settings(self, facts: Mapping[str, str], profile: Profile, urls: Iterable[str]) -> dict[str, Any]:
        if "client_id" not in facts:
            raise click.UsageError("which client? use --client client.json, or --client-id")
        for url in urls:
            check_transport(url, allow_http=self.allow_http)
        how = facts.get("token_endpoint_auth_method")
        settings: dict[str, Any] = {
            "client_id": facts["client_id"],
            "client_secret": self.secret,
            "client_auth": "client_secret_post" if how is None and profile == GOOGLE else how,
            "profile": profile,
        }
        settings |= self._own_proof(facts["client_id"], how)
        if self.allow_http:
            origins = {Origin.of_url(url) for url in urls}
            settings["insecure_origins"] = sorted(str(origin) for origin in origins if origin.scheme == "http")
        return settings

    def _own_proof(self, client_id: str, how: str | None) -> dict[str, Any]:
        """The settings for a client that authenticates with a key or a certificate of its own."""
        settings: dict[str, Any] = {}
        if self.proof.key is not None or how == "private_key_jwt":
            if self.secret is not None:
                raise click.UsageError("the client has a secret and a key of its own (client_key); use one of them")
            settings = {"client_id": None, "client_auth": self.proof.assertions(client_id)}
        certificate = self.proof.files
        if certificate is not None:
            from dpop_cli.tokens.endpoint import session_with  # noqa: PLC0415 - as above

            settings["http"] = session_with(certificate)
            if how is None and self.secret is None and not settings.get("client_auth"):
                settings["client_auth"] = CERTIFICATE_METHODS[0]
        elif how in CERTIFICATE_METHODS:
            raise click.UsageError(
                f"{how} needs the client's certificate: --client-certificate, or client_certificate in the file"
            )
        return settings


def prover_of(options: dict[str, Any], tokens: TokenSet | None = None) -> Prover:
    """Make the prover: of the key that ``--key`` names, else the stored tokens' key, else ``DPOP_KEY``.

    :raises click.UsageError: neither names one.
    :raises KeyMismatchError: the tokens are bound to another.
    """
    if tokens is not None and tokens.key_reference:
        # DPOP_KEY is for commands in general; the stored tokens name their own key.
        named = click.get_current_context().get_parameter_source("key_source")
        if named is not ParameterSource.COMMANDLINE:
            options["key_source"] = tokens.key_reference
    key = load_key(options)
    if tokens is not None:
        tokens.check_key(key.thumbprint)
    return Prover(key)


def _survive_signals() -> None:
    """From now on a signal that ends this command lets a refresh finish; further calls change nothing."""
    context = click.get_current_context()
    if not context.meta.setdefault(_SURVIVES, False):
        context.meta[_SURVIVES] = True
        context.with_resource(ended_by_signals())


def _show_requests() -> None:
    """Show each request of this command from now on; further calls change nothing."""
    context = click.get_current_context()
    if not context.meta.setdefault(_SHOWN, False):
        from dpop_cli.wire.exchange import show, watching  # noqa: PLC0415 - only where a person asks for it

        context.meta[_SHOWN] = True
        context.with_resource(watching(show))


@contextlib.contextmanager
def kept_nonces(prover: Prover, url: str) -> Iterator[None]:
    """Start with the nonce an earlier command learnt from an authorization server; keep the newest at the end."""
    key = NonceKey(prover.thumbprint, Origin.of_url(url), Role.AS)
    try:
        before = NonceState.of_user().newest(key)
    except StateError:
        before = None
    if before is not None:
        prover.nonces.learn(key, before)
    try:
        yield
    finally:
        newest = prover.nonces.newest(key)
        if newest is not None and newest != before:
            keep_nonce(key, newest)


def _read(named: str) -> tuple[dict[str, str], ClientProof]:
    """Read a client file, whose members have the names of RFC 8414 and RFC 7591."""
    try:
        members = json_object(read_text(named, "--client").encode("utf-8"))
    except EncodingError as error:
        raise click.UsageError(
            f"--client expects a JSON object that describes a client; what came is {error}"
        ) from None
    folder = Path() if named == "-" else path_from_home(named).parent
    proof = ClientProof.of_file(members, folder)
    nested = members.get("installed", members.get("web"))
    if members.get("type") == "authorized_user" or "token_uri" in members:  # google-auth's tokens name their client
        nested = members
    if isinstance(nested, dict):
        members = {_GOOGLES_NAMES.get(str(name), str(name)): value for name, value in nested.items()}
        if members.get("token_endpoint") == _GOOGLE["token_endpoint"]:
            members = {**members, **_GOOGLE}
    facts = {name: value for name, value in members.items() if name in _FACTS and isinstance(value, str) and value}
    if "client_id" not in facts:
        raise click.UsageError(
            "--client expects JSON with client_id, client_secret, and issuer or token_endpoint; there is no client_id"
        )
    return facts, proof
