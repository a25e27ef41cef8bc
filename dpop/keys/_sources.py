# SPDX-License-Identifier: Apache-2.0
"""Get keys: generate one, or load one from a file, bytes, a JWK, or a URI that names a device or service."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from dpop._files import without_mark
from dpop._tracebacks import hide_frames
from dpop.encoding import json_object
from dpop.errors import (
    ArgumentTypeError,
    DPoPKeyError,
    EncodingError,
    InvalidKeyError,
    KeyPasswordError,
    UsageError,
)
from dpop.keys._algorithms import ALGORITHMS, DEFAULT_ALGS, Key, choose_alg
from dpop.keys._files import MAX_KEY_BYTES, key_path, read_key_file, shown

if TYPE_CHECKING:
    from dpop.keys._pem import Password
    from dpop.keys._software import SoftwareKey

__all__ = ["SchemeLoader", "generate_key", "load_key", "register_scheme"]


class SchemeLoader(Protocol):
    """The protocol of loaders: functions that open the key of a URI."""

    def __call__(self, uri: str, *, password: Password | None, alg: str | None) -> Key:
        """Open the key.

        :param uri: the URI, with its scheme.
        :param password: PIN or password, or a function to call when one is needed.
        :param alg: the algorithm to use; None for the key's own.
        :raises DPoPKeyError: the key cannot be opened.
        """
        ...


# The module whose load() opens the URIs of a scheme. It is imported at the first use of the scheme, because it may
# import the whole library of a service.
_BACKENDS: Final[Mapping[str, str]] = {
    "agent": "dpop.agent._key",
    "awskms": "dpop.keys.kms._aws",
    "azurekms": "dpop.keys.kms._azure",
    "gcpkms": "dpop.keys.kms._gcp",
    "pkcs11": "dpop.keys.pkcs11._key",
}

_loaders: Final[dict[str, SchemeLoader]] = {}

# At least two characters, because C:\x is a path.
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


# The services' own names for keys, which are accepted without a scheme; no file has such a name.
_WITHOUT_SCHEME: Final = (
    (re.compile(r"arn:aws[a-z-]*:kms:"), "awskms"),
    (re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/"), "gcpkms"),
    (re.compile(r"https://[A-Za-z0-9-]+\.(?:vault|managedhsm)\.[a-z.]+/keys/"), "azurekms"),
)


def generate_key(alg: str = "ES256", *, algs: Iterable[str] | str | None = None) -> SoftwareKey:
    """Generate a new key in memory.

    :param alg: ES256, ES384, ES512, Ed25519, EdDSA, or PS or RS with 256, 384 or 512. RSA keys have 3072 bits, and
        take a moment to generate.
    :param algs: the algorithms the server accepts: ``dpop_signing_alg_values_supported`` of its metadata or the
        ``algs`` of its challenge. If ``alg`` is not among them, the best of them is used.
    :raises AlgorithmError: the algorithm is unknown, or the two sides have none in common.
    """
    # A misspelt name is not replaced by one from algs: generate() refuses it.
    if algs is not None and isinstance(alg, str) and alg in ALGORITHMS:
        alg = choose_alg(algs, (alg, *(other for other in DEFAULT_ALGS if other != alg)))
    from dpop.keys._software import SoftwareKey  # noqa: PLC0415 - it loads OpenSSL, which a key elsewhere does not need

    return SoftwareKey.generate(alg)


@hide_frames
def load_key(
    source: str | os.PathLike[str] | bytes | Mapping[str, object],
    *,
    password: Password | None = None,
    alg: str | None = None,
) -> Key:
    """Load a private key.

    :param source: a str or path object is the path of a file, in which ``~`` is replaced. A str with a known scheme
        (``agent:``, ``pkcs11:``, ``awskms:``, ``gcpkms:``, ``azurekms:``, or one of :func:`register_scheme`) names a
        key in an agent, device or service. Bytes are the content of a key file: PEM, DER or JWK. A dict is a JWK.
    :param password: the password of an encrypted key, or a function that asks for it and is called only if needed.
    :param alg: the algorithm name to sign with, if the key has several, such as ``EdDSA`` or ``RS256``.
    :raises InvalidKeyError: not a private key that DPoP can use, or a URI that no loader can open.
    :raises KeyFileError: the file cannot be read.
    :raises KeyPasswordError: the password is missing, wrong, or given for a key that is not encrypted.
    :raises AlgorithmError: the key cannot sign with ``alg``.
    :raises DPoPKeyError: a key in a device or service cannot be opened; a subclass says why.
    """
    if isinstance(source, Mapping):
        return _with_alg(_from_jwk(source, password), alg)
    if isinstance(source, bytes):
        return _with_alg(_from_bytes(source, password), alg)
    if isinstance(source, str):
        scheme = _scheme_of(source)
        if scheme is not None:
            return _loader(scheme)(source, password=password, alg=alg)
    if not isinstance(source, (str, os.PathLike)):
        raise ArgumentTypeError("source", "a path, a URI, bytes or a dict", source)
    path = key_path(source)
    data = read_key_file(path)
    try:
        key = _with_alg(_from_bytes(data, password), alg)
    except DPoPKeyError as error:
        raise type(error)(f"key file {shown(path)}: {error}") from None
    # A pipe, such as <(command) in a shell, can be read once, so it is no reference.
    return key.referred_to_by(str(path.absolute())) if path.is_file() else key


def register_scheme(scheme: str, loader: SchemeLoader) -> None:
    """Let :func:`load_key` open URIs of a scheme. The newest loader of a scheme counts.

    :param scheme: two or more characters, without the colon; case does not matter.
    :raises UsageError: ``scheme`` is not a valid name (RFC 3986 §3.1).
    """
    if not isinstance(scheme, str) or not _SCHEME.fullmatch(f"{scheme}:"):
        raise UsageError("a scheme is a letter and at least one more letter, digit, plus, minus or dot, with no colon")
    _loaders[scheme.lower()] = loader


def _loader(scheme: str) -> SchemeLoader:
    registered = _loaders.get(scheme)
    if registered is not None:
        return registered
    load: SchemeLoader = importlib.import_module(_BACKENDS[scheme]).load
    return load


def _scheme_of(source: str) -> str | None:
    """Return the scheme of a URI; None for a path. Messages show only the scheme, because a URI may contain a PIN."""
    if "-----BEGIN" in source or "\n" in source or source.lstrip().startswith("{"):
        raise InvalidKeyError("a str must be a path or a URI; pass the key itself as bytes, or a JWK as a dict")
    for form, scheme in _WITHOUT_SCHEME:
        if form.match(source):
            raise InvalidKeyError(f"this names a key in a key service; write {scheme}: in front of it")
    match = _SCHEME.match(source)
    if match is None:
        return None
    scheme = match[1].lower()
    if scheme in _loaders or scheme in _BACKENDS:
        return scheme
    if scheme == "file" and source[match.end() : match.end() + 1] == "/":
        raise InvalidKeyError("file: URLs are not supported; give the path alone")
    if source[match.end() : match.end() + 2] == "//":
        names = ", ".join(sorted(_BACKENDS.keys() | _loaders.keys()))
        raise InvalidKeyError(
            f"keys are not loaded from {scheme}: URLs; expected the path of a file, or one of {names}"
        )
    return None


def _from_bytes(data: bytes, password: Password | None) -> SoftwareKey:
    if len(data) > MAX_KEY_BYTES:
        raise InvalidKeyError(f"{len(data)} bytes are no key; at most {MAX_KEY_BYTES} are read")
    data = without_mark(data)
    if data.lstrip()[:1] not in {b"{", b"["}:
        from dpop.keys._software import SoftwareKey  # noqa: PLC0415 - as above

        return SoftwareKey.from_pem(data, password)
    try:
        jwk = json_object(data)
    except EncodingError as error:
        if data.lstrip()[:1] == b"[":
            raise InvalidKeyError("this is a JSON array; a single JWK is needed, without brackets around it") from None
        raise InvalidKeyError(f"this looks like a JWK, but is {error}") from None
    if "kty" not in jwk:
        _look_inside(jwk)
    return _from_jwk(jwk, password)


def _look_inside(members: Mapping[str, object]) -> None:
    """Say where the key is in a JSON object that is no JWK, such as the file of a Google service account."""
    for name, value in members.items():
        if isinstance(value, str) and "-----BEGIN " in value:
            raise InvalidKeyError(
                f"the key is a PEM in the member {ascii(name)[:40]} of this JSON; give that PEM alone"
            )
        if isinstance(value, dict) and "kty" in value:
            raise InvalidKeyError(f"the JWK is in the member {ascii(name)[:40]} of this JSON; give that JWK alone")


def _from_jwk(jwk: Mapping[str, object], password: Password | None) -> SoftwareKey:
    from dpop.keys._software import SoftwareKey  # noqa: PLC0415 - as above

    key = SoftwareKey.from_jwk(jwk)
    if password is not None and not callable(password):
        raise KeyPasswordError("a password was given, but a JWK is not encrypted; leave the password out")
    return key


def _with_alg(key: SoftwareKey, alg: str | None) -> SoftwareKey:
    return key if alg is None else key.with_alg(alg)
