# SPDX-License-Identifier: Apache-2.0
"""How the client of the command line authenticates: by a secret, by assertions of its own key, or by a certificate.

The facts come from options, or from members of the client file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import click

from dpop.encoding import json_object
from dpop.errors import EncodingError
from dpop.tokens import PrivateKeyJWT
from dpop_cli.console.secret_input import Secret
from dpop_cli.signing.options import load_named_key

__all__ = ["CERTIFICATE_METHODS", "ClientProof"]

CERTIFICATE_METHODS: Final = ("tls_client_auth", "self_signed_tls_client_auth")
_PATHS: Final = ("client_key", "client_certificate", "client_certificate_key")
_SECONDS: Final = {"exp": "lifetime", "nbf": "valid_from"}
_NO_PASSWORD: Final = Secret("client-key-password", None, None, False)


@dataclass(frozen=True, slots=True)
class ClientProof:
    """A key or a certificate by which the client authenticates; neither is loaded before it is needed.

    :param key: path or URI of the key of assertions.
    :param claims: their claims, and ``kid`` and ``typ``; ``exp`` and ``nbf`` in seconds from now.
    """

    key: str | None = None
    password: Secret = field(default=_NO_PASSWORD, repr=False)
    claims: Mapping[str, Any] = field(default_factory=dict)
    certificate: str | None = None
    certificate_key: str | None = None

    @classmethod
    def of_file(cls, members: Mapping[str, Any], folder: Path) -> ClientProof:
        """Read the members ``client_key``, ``client_assertion``, ``client_certificate`` and ``client_certificate_key``.

        :param folder: the folder of the file; relative paths start there.
        :raises click.UsageError: a member cannot be used.
        """
        paths = {}
        for name in _PATHS:
            value = members.get(name)
            if value is not None and (not isinstance(value, str) or not value):
                raise click.UsageError(f"{name} in the client file must be a path, or the URI of a key")
            paths[name] = value if value is None or ":" in value else str(folder / value)
        claims = members.get("client_assertion", {})
        if not isinstance(claims, dict):
            raise click.UsageError("client_assertion in the client file must be an object of claims")
        return cls(
            paths["client_key"], _NO_PASSWORD, claims, paths["client_certificate"], paths["client_certificate_key"]
        )

    def or_options(self, options: dict[str, Any]) -> ClientProof:
        """Take the options out of a command's options; an option replaces the file's member.

        :raises click.UsageError: they contradict each other.
        """
        if "client_key" not in options:
            return self  # a command without them
        key, password = options.pop("client_key"), Secret.of("client-key-password", options)
        certificate, of_certificate = options.pop("client_certificate"), options.pop("client_certificate_key")
        claims = {**self.claims, **dict(_claim(text) for text in options.pop("client_claims"))}
        if key is not None and certificate is not None:
            raise click.UsageError("--client-key and --client-certificate are two ways to authenticate; use one")
        if of_certificate is not None and certificate is None:
            raise click.UsageError("--client-certificate-key belongs to --client-certificate, which is missing")
        made = replace(self, password=password, claims=claims)
        if key is not None:
            made = replace(made, key=key, certificate=None, certificate_key=None)
        if certificate is not None:
            made = replace(made, key=None, certificate=certificate, certificate_key=of_certificate)
        if made.key is None and (password.given or claims):
            raise click.UsageError(
                "--client-claim and --client-key-password-... belong to --client-key, which is missing"
            )
        return made

    @property
    def files(self) -> str | tuple[str, str] | None:
        """Certificate and key, as :class:`requests.Session` takes them; ``None`` if there is no certificate.

        :raises click.UsageError: a file is not there.
        """
        if self.certificate is None:
            return None
        for name in (self.certificate, self.certificate_key):
            if name is not None and not Path(name).is_file():
                raise click.UsageError(f"there is no file {click.format_filename(name)}, for the client's certificate")
        return self.certificate if self.certificate_key is None else (self.certificate, self.certificate_key)

    def assertions(self, client_id: str) -> PrivateKeyJWT:
        """Load the key, and return the client authentication that signs with it.

        :raises click.UsageError: there is no key, or a claim cannot be used.
        :raises DPoPKeyError: the key cannot be loaded.
        """
        if self.key is None:
            raise click.UsageError("private_key_jwt needs the client's key: --client-key, or client_key in the file")
        claims = dict(self.claims)
        options: dict[str, Any] = {name: claims.pop(name) for name in ("kid", "typ") if name in claims}
        if not all(isinstance(value, str) for value in options.values()):
            raise click.UsageError("kid and typ of the client's assertions must be text")
        for name, option in _SECONDS.items():
            if name in claims:
                options[option] = seconds = claims.pop(name)
                if not isinstance(seconds, int) or isinstance(seconds, bool):
                    raise click.UsageError(f"{name} of the client's assertions is a number of seconds from now")
        return PrivateKeyJWT(client_id, load_named_key(self.key, self.password), claims=claims, **options)


def _claim(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE; the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise click.UsageError("--client-claim expects NAME=VALUE, such as aud=https://as.example")
    try:
        return name, json_object(f'{{"value": {value}}}'.encode())["value"]
    except EncodingError:
        return name, value
