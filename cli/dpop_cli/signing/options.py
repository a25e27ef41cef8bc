# SPDX-License-Identifier: Apache-2.0
"""Options of a request that is signed: its key, its access token, its nonce, its method and URL."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

import dpop
from dpop.client import NonceKey, Role
from dpop.encoding import json_object
from dpop.errors import EncodingError, InsecureOriginError, KeyFileError, KeyPasswordError
from dpop.htu import Origin, check_method
from dpop.keys import ALGORITHMS, PublicKey
from dpop_cli.console.command import Detail, DetailSetting, Setting
from dpop_cli.console.output import file_names, hint
from dpop_cli.console.secret_input import Secret, can_ask, read_text, secret_options
from dpop_cli.signing.key_elsewhere import KeyElsewhere, read_public_half
from dpop_cli.signing.nonce_state import NonceState, StateError

if TYPE_CHECKING:
    from dpop.keys import Password

__all__ = [
    "AlgChoice",
    "NonceChoice",
    "ProofRequest",
    "alg_name",
    "allow_http_option",
    "check_key_source",
    "check_transport",
    "hint_at_case",
    "is_device_uri",
    "keep_nonce",
    "key_options",
    "key_options_without_short",
    "load_key",
    "load_named_key",
    "nonce_options",
    "pin_for",
    "proof_options",
    "read_token",
]

_Function = TypeVar("_Function", bound=Callable[..., Any])


# --- the key


def key_options(command: _Function) -> _Function:
    """Add ``--key``, ``-k`` and the options for its password; :func:`load_key` takes them out again."""
    return _key_options(command, "-k", "--key")


def key_options_without_short(command: _Function) -> _Function:
    """Add the options of :func:`key_options` without ``-k``, for ``dpop curl``: there it is an option of curl."""
    return _key_options(command, "--key")


def _key_options(command: _Function, *names: str) -> _Function:
    command = secret_options("password", "the key's password, or the PIN of its device", detail=True)(command)
    command = click.option(
        "--alg",
        cls=DetailSetting,
        metavar="ALG",
        help="The algorithm to sign with, if the key has several: EdDSA, or RS256, PS512 and others of RSA.",
    )(command)
    return click.option(
        *names,
        "key_source",
        cls=Setting,
        envvar="DPOP_KEY",
        show_envvar=True,
        metavar="PATH|URI",
        shell_complete=file_names,
        help="The key: a PEM or JWK file, or a URI such as pkcs11:...",
    )(command)


def load_key(options: dict[str, Any], *, signs: bool = True) -> dpop.Key:
    """Load the key that ``--key`` names; ask for a password if one is needed and not given.

    :param options: the command's options; those of :func:`key_options` are taken out.
    :param signs: False if the public key is enough.
    :raises click.UsageError: no key is named, or the name contains a key or a PIN.
    :raises DPoPKeyError: the key cannot be read or is invalid, or its password is wrong.
    """
    named: str | None = options.pop("key_source")
    password = Secret.of("password", options)
    if not named:
        raise click.UsageError(
            "no key is named; use --key key.pem, or export DPOP_KEY=key.pem (dpop key generate makes one)"
        )
    try:
        return load_named_key(named, password, alg=alg_name(options.pop("alg")), signs=signs)
    except KeyFileError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            import shlex  # noqa: PLC0415 - only after a slip

            hint(f"to make a key there: dpop key generate --out {shlex.quote(named)}")
        raise


def load_named_key(named: str, password: Secret, *, alg: str | None = None, signs: bool = True) -> dpop.Key:
    """Load the key of a path or URI; ask for a password if one is needed and not given.

    The errors are those of :func:`load_key`.
    """
    check_key_source(named)
    if not (_is_private_file(named) or named[:6].lower() == "agent:"):
        # The library logs nothing about these, and importing logging takes 3 of the 60 ms of dpop proof.
        from dpop_cli.console.output import show_warnings  # noqa: PLC0415 - see above

        show_warnings()
    source: str | bytes = named
    if not signs and not password.given:
        found = read_public_half(named)
        if isinstance(found, PublicKey):
            return KeyElsewhere(found, alg)
        source = found or named
    if is_device_uri(named):
        return dpop.load_key(named, password=pin_for(password, named), alg=alg)
    question = f"Password of {click.format_filename(named)}"
    given = password.read(question)
    if given is not None:
        return dpop.load_key(source, password=given, alg=alg)
    if can_ask():
        # The question is asked only if the key is encrypted.
        return dpop.load_key(source, password=lambda: password.ask(question), alg=alg)
    try:
        return dpop.load_key(source, alg=alg)
    except KeyPasswordError as error:
        raise KeyPasswordError(f"{error}: --{password.name}-file or --{password.name}-env") from None


def alg_name(written: str | None) -> str | None:
    """Return the registered name of an algorithm in any case: ES256 for es256; other names are returned unchanged."""
    return next((name for name in ALGORITHMS if written is not None and name.lower() == written.lower()), written)


class AlgChoice(click.Choice[str]):
    """A choice of algorithms, written in upper or lower case."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Convert to the registered name."""
        chosen: str = super().convert(alg_name(value) if isinstance(value, str) else value, param, ctx)
        return chosen


def _is_private_file(source: str) -> bool:
    """Whether the path names a file that other users cannot open."""
    try:
        mode = Path(source).expanduser().stat().st_mode
    except (OSError, ValueError, RuntimeError):
        return False
    return stat.S_ISREG(mode) and not mode & 0o007


def is_device_uri(source: str) -> bool:
    """Whether the URI names a key in a PKCS#11 device."""
    return source[:7].lower() == "pkcs11:"


def pin_for(password: Secret, uri: str) -> Password:
    """Return the PIN of a URI's device, from a file or the environment; or a function that asks for it.

    :raises click.UsageError: the file or variable does not exist.
    """
    stored = None if password.prompt else password.read("")
    if stored is not None:
        return stored
    from urllib.parse import unquote  # noqa: PLC0415 - only for hardware

    label = re.search(r"[:;]token=([^;?]+)", uri)
    question = f"PIN of the device {unquote(label[1])!r}" if label else "PIN of the device"
    return lambda: password.ask(question, what="PIN")


def check_key_source(source: str) -> None:
    """Refuse a key, or a URI with a PIN, in place of a name; the message does not repeat them.

    :raises click.UsageError: ``source`` contains a key or a PIN; the message says what to do now.
    """
    if "-----BEGIN" in source or source.lstrip().startswith("{"):
        raise click.UsageError(
            "--key (or DPOP_KEY) expects the path or URI of a key, but the key itself was given. Other users may have"
            " seen it in the list of processes: make a new key, in a file"
        )
    if re.match(r"[A-Za-z][A-Za-z0-9+.\-]+:", source) and "pin-value=" in source:
        raise click.UsageError(
            "--key (or DPOP_KEY) expects a URI without pin-value: other users may see it in the list of processes."
            " Leave the PIN out, and use --password-file, --password-env or --password-prompt"
        )


# --- the request


class ProofRequest(NamedTuple):
    """A request as the user describes it, with its proof."""

    method: str
    url: str
    dpop_fields: list[tuple[str, str]]
    """The proof in its header field. A defect may need several fields, or none."""
    token: str | None
    defect: str | None = None

    def __repr__(self) -> str:
        return f"<ProofRequest {self.method} {self.url}>"

    @classmethod
    def of(
        cls,
        method: str,
        url: str,
        options: dict[str, Any],
        *,
        signed: bool = True,
        with_key: dpop.Key | None = None,
        with_token: str | None = None,
    ) -> ProofRequest:
        """Read the options, and sign the proof.

        :param options: the command's options; those of :func:`proof_options` are taken out.
        :param signed: False if only :attr:`signing_input` is needed; then a public key is enough.
        :param with_key: a key instead of the one that options name.
        :param with_token: an access token instead of the one that options name.
        :raises click.UsageError: options contradict each other or cannot be read.
        :raises DPoPError: no proof can be made.
        """
        if "://" in method and "://" not in url:
            raise click.UsageError("the URL is in the place of the method; METHOD comes first, as in: GET URL")
        check_method(method)
        check_transport(url, allow_http=options.pop("allow_http"))
        nonces = NonceChoice.of(options)
        token = read_token(options) or with_token
        jti, iat = options.pop("jti"), options.pop("iat")
        key = with_key or load_key(options, signs=signed)
        nonce = nonces.for_request(NonceKey(key.thumbprint, Origin.of_url(url), Role.AS if token is None else Role.RS))
        defect = options.pop("defect", None)
        if defect is not None:
            from dpop.testing.defects import defective_fields  # noqa: PLC0415 - it makes keys, and is seldom wanted

            fields = defective_fields(defect, key, method, url, nonce=nonce, access_token=token, jti=jti, iat=iat)
            return cls(method, url, fields, token, defect)
        proof = dpop.create_proof(key, method, url, nonce=nonce, access_token=token, jti=jti, iat=iat)
        hint_at_case(method)
        return cls(method, url, [("DPoP", proof)], token)

    @property
    def proof(self) -> str:
        """The value of the only DPoP field; for use without ``--defect``."""
        return self.dpop_fields[0][1]

    @property
    def fields(self) -> list[tuple[str, str]]:
        """All header fields that the request needs."""
        return [*self.dpop_fields, *([] if self.token is None else [("Authorization", f"DPoP {self.token}")])]

    @property
    def signing_input(self) -> str:
        """The signed bytes: header and payload."""
        return self.proof.rpartition(".")[0]


def hint_at_case(method: str) -> None:
    """Hint that a method in lower case is legal but probably a mistake (RFC 9110 §9.1)."""
    if method != method.upper():
        hint(f"the method is used as written: for a server, {method} and {method.upper()} are different methods")


class NonceChoice(NamedTuple):
    """The nonce that the user named, or the one that an earlier command learnt."""

    given: str | None
    saved: bool
    left_out: bool

    def __repr__(self) -> str:
        return f"<NonceChoice given={self.given is not None} saved={self.saved} left_out={self.left_out}>"

    @classmethod
    def of(cls, options: dict[str, Any]) -> NonceChoice:
        """Take the options of :func:`nonce_options` out of a command's options.

        :raises click.UsageError: there are several of them, or the file cannot be read.
        :raises CredentialError: the file contains no usable nonce.
        """
        nonce, nonce_from, no_nonce = options.pop("nonce"), options.pop("nonce_from"), options.pop("no_nonce")
        if (nonce is not None) + (nonce_from is not None) + no_nonce > 1:
            raise click.UsageError("give one of --nonce, --nonce-from and --no-nonce, not several")
        if nonce_from is not None:
            from dpop_cli.wire.header_dump import last_nonce  # noqa: PLC0415 - most commands read none

            nonce = last_nonce(read_text(nonce_from, "--nonce-from"))
        return cls(nonce, nonce_from is not None, no_nonce)

    def for_request(self, key: NonceKey) -> str | None:
        """Return the nonce for a proof with this key for this server; one from a file is kept for the next command."""
        if self.left_out:
            return None
        if self.given is None:
            try:
                return NonceState.of_user().newest(key)
            except StateError:
                return None  # no nonce was ever kept; the first proof may be sent without one
        if self.saved:
            keep_nonce(key, self.given)
        return self.given


def keep_nonce(key: NonceKey, nonce: str) -> None:
    """Store a nonce for the next command; if that fails, print a hint and continue."""
    try:
        NonceState.of_user().learn(key, nonce)
    except StateError as error:
        hint(error.message)


def nonce_options(command: _Function) -> _Function:
    """Add the options that say which nonce to use; :meth:`NonceChoice.of` takes the options out again."""
    command = click.option("--no-nonce", cls=Detail, is_flag=True, help="Leave the nonce out, even if one is stored.")(
        command
    )
    command = click.option(
        "--nonce-from",
        metavar="FILE",
        shell_complete=file_names,
        help="Use the last DPoP-Nonce that curl -D FILE saved, and store it; - is standard input.",
    )(command)
    return click.option(
        "--nonce",
        cls=Detail,
        metavar="NONCE",
        help="The server's newest DPoP-Nonce; by default the stored one, see dpop nonce.",
    )(command)


allow_http_option = click.option("--allow-http", cls=Detail, is_flag=True, help="Allow http:// to another machine.")


# --- a proof


def proof_options(command: _Function) -> _Function:
    """Add METHOD, URL and the options that describe a request; :meth:`ProofRequest.of` takes the options out again."""
    options = [
        click.argument("method"),
        click.argument("url"),
        key_options,
        secret_options("token", "the access token, alone or in a token response"),
        nonce_options,
        click.option("--jti", cls=Detail, metavar="JTI", help="The proof's identifier; random by default."),
        click.option(
            "--iat",
            cls=Detail,
            type=int,
            metavar="SECONDS",
            help="The proof's time, in seconds since 1970; now by default.",
        ),
        allow_http_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_token(options: dict[str, Any]) -> str | None:
    """Read the access token that the options of ``secret_options("token", ...)`` name, if any.

    A JSON object is read as a token response, as saved by ``curl .../token > token.json``.

    :raises click.UsageError: the token is empty, cannot be read, or is JSON without an access token.
    """
    text = Secret.of("token", options).read("Access token")
    if text is None:
        return None
    text = text.strip()
    if not text.startswith("{"):
        return text
    try:
        token = json_object(text.encode("utf-8")).get("access_token")
    except EncodingError as error:
        raise click.UsageError(f"expected a token or a token response, but the input is {error}") from None
    if not isinstance(token, str):
        raise click.UsageError("expected a token response, but the JSON has no access_token; was it an error response?")
    return token


def check_transport(url: str, *, allow_http: bool) -> None:
    """Check that a proof and a token would travel encrypted, or within this machine.

    :param allow_http: accept plain http to another machine.
    :raises InsecureOriginError: they would travel unencrypted.
    """
    origin = Origin.of_url(url)
    if origin.scheme != "https" and not origin.is_loopback and not allow_http:
        raise InsecureOriginError(
            f"{origin} would get the proof, and a token, unencrypted; use https, or --allow-http if you know why that"
            " is safe"
        )
