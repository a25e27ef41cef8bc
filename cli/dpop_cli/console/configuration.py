# SPDX-License-Identifier: Apache-2.0
"""The configuration file: contexts, each with values that commands use if no option gives them.

It is read only from the user's own configuration folder, never from the working directory, whose files may come from a
stranger: a context decides which server is trusted. It contains no secrets, so that it can be kept with other settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from dpop._files import open_regular_file, path_from_home, toml_document
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import close_to

__all__ = ["ConfigurationError", "configuration_path", "context_named", "context_names"]

_MAX_BYTES = 1 << 20
_PARAMETERS: Mapping[str, str] = {
    "issuer": "issuer",
    "server": "issuer",
    "token-endpoint": "token_endpoint",
    "client": "client_file",
    "client-id": "client_id",
    "profile": "profile",
    "key": "key_source",
    "alg": "alg",
    "store": "store_path",
    "token-store": "store_path",
    "account": "account",
    "scope": "scope",
    "scopes": "scope",
}
_PATHS = frozenset({"client_file", "key_source", "store_path"})
_SECRETS: Mapping[str, str] = {
    "client-secret": "put it into the JSON file that client names, readable by you alone, or use --client-secret-file",
    "password": "use --password-file, --password-env or --password-prompt",
    "passphrase": "use --password-file, --password-env or --password-prompt",
    "pin": "use --password-file, --password-env or --password-prompt",
    "store-password": "use --store-password-file, --store-password-env or --store-password-prompt",
    "token": "tokens are kept in the store; dpop token login or dpop token import puts them there",
    "access-token": "tokens are kept in the store; dpop token login or dpop token import puts them there",
    "refresh-token": "tokens are kept in the store; dpop token login or dpop token import puts them there",
}


class ConfigurationError(click.ClickException):
    """The configuration file cannot be used."""

    exit_code = Status.USAGE


def configuration_path() -> Path:
    """Return the path of the configuration file, in the user's configuration folder.

    :raises ConfigurationError: there is no such folder, or a variable names it by a relative path.
    """
    import platformdirs  # noqa: PLC0415 - only where a context is named

    given = os.environ.get("XDG_CONFIG_HOME", "").strip()
    if given and not Path(given).is_absolute():
        raise ConfigurationError(
            "XDG_CONFIG_HOME is not an absolute path, so the configuration file would depend on the working directory;"
            " set it to an absolute path, or unset it"
        )
    try:
        folder = platformdirs.user_config_path("dpop", appauthor=False)
    except RuntimeError:  # pathlib knows no home directory
        folder = Path()
    if not folder.is_absolute():
        raise ConfigurationError("there is no home directory, so there is no configuration file; set XDG_CONFIG_HOME")
    return folder / "config.toml"


def context_names() -> list[str]:
    """Return the names of all contexts; an empty list if the file cannot be used."""
    try:
        return sorted(_contexts(configuration_path()))
    except ConfigurationError:
        return []


def context_named(name: str) -> dict[str, Any]:
    """Return the values of a context by the names of the parameters that take them.

    :raises ConfigurationError: the context does not exist, others can change the file, or a value is wrong or a secret.
    """
    path = configuration_path()
    contexts = _contexts(path)
    if name not in contexts:
        known = f"; it has {', '.join(sorted(contexts))}" if contexts else "; it has none"
        raise ConfigurationError(
            f"there is no [contexts.{name}] in {click.format_filename(path)}{close_to(name, contexts) or known}"
            if name.isprintable() and len(name) <= 40
            else f"--context (or DPOP_CONTEXT) expects the name of a context{known}"
        )
    return _values(name, contexts[name], path)


def _contexts(path: Path) -> dict[str, Any]:
    where = click.format_filename(path)
    try:
        with open_regular_file(path) as file:
            _check_owner(path, os.fstat(file.fileno()))
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            f"a context is named, but there is no configuration file; expected {where} with a table [contexts.NAME]"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"the configuration file {where} cannot be read: {error.strerror}") from None
    try:
        contexts = toml_document(data).get("contexts", {})
    except ValueError as error:
        raise ConfigurationError(f"the configuration file {where} is not TOML: {error}") from None
    if not isinstance(contexts, dict) or not all(isinstance(each, dict) for each in contexts.values()):
        raise ConfigurationError(f'{where} expects each context as a table: [contexts.work], then issuer = "..."')
    return contexts


def _check_owner(path: Path, file: os.stat_result) -> None:
    """Refuse a file that another user could have written, because it decides which server gets the user's login."""
    if not hasattr(os, "getuid"):
        return  # on Windows the folder's access list decides
    where = click.format_filename(path)
    for folder in {path.parent, path.resolve().parent}:
        seen = folder.stat()
        if seen.st_uid not in {os.getuid(), 0} or seen.st_mode & 0o022:
            raise ConfigurationError(
                f"other users can change files in {click.format_filename(folder)}, and the configuration file is there;"
                f" repair: chmod go-w {click.format_filename(folder)}"
            )
    if file.st_uid != os.getuid():
        raise ConfigurationError(f"{where} belongs to another user, so it is not used; make it your own")
    if file.st_mode & 0o022:
        raise ConfigurationError(f"other users can change {where}; repair: chmod go-w {where}")


def _values(context: str, members: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for written, value in members.items():
        name = written.replace("_", "-").lower()
        place = f"{click.format_filename(path)}, [contexts.{context}]"
        if name in _SECRETS:
            raise ConfigurationError(f"{place}: {name} is a secret, which must not be in this file; {_SECRETS[name]}")
        if name not in _PARAMETERS:
            shown = f"{written} " if written.isprintable() and len(written) <= 40 else ""
            known = close_to(name, _PARAMETERS) or f"; expected {', '.join(_PARAMETERS)}"
            raise ConfigurationError(f"{place}: {shown}is not known{known}")
        parameter = _PARAMETERS[name]
        values = value if parameter == "scope" and isinstance(value, list) else [value]
        if not all(isinstance(each, str) and each for each in values):
            raise ConfigurationError(f"{place}: {name} expects text in quotes")
        if any("-----BEGIN" in each or each.lstrip().startswith("{") or "pin-value=" in each for each in values):
            raise ConfigurationError(
                f"{place}: {name} contains a secret, which must not be in this file; name a key by its path, or a URI"
                " without its PIN"
            )
        if parameter == "scope":
            found[parameter] = [scope for each in values for scope in each.split()]
        else:
            found[parameter] = _place(path.parent, value) if parameter in _PATHS else value
    return found


def _place(folder: Path, written: str) -> str:
    """Return a path relative to the file's own folder; a key's URI is returned unchanged."""
    if ":" in written.split("/", 1)[0][2:]:  # pkcs11:..., awskms:...; C: is a drive
        return written
    return str(folder / path_from_home(written))
