# SPDX-License-Identifier: Apache-2.0
"""Keys in Azure Key Vault and Managed HSM: ``azurekms:https://VAULT.vault.azure.net/keys/NAME/VERSION``.

The scheme is followed by the key's identifier, as the portal and ``az keyvault key show`` show it. Without a version,
the newest version at the time of opening is used, and stays in use. azure-identity's DefaultAzureCredential finds the
credentials.

The caller needs the permissions ``keys/get`` and ``keys/sign``: the role *Key Vault Crypto User* has both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from dpop._tracebacks import hide_frames
from dpop.encoding import b64url_encode
from dpop.errors import (
    DPoPKeyError,
    InvalidKeyError,
    KeyAccessDeniedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyThrottledError,
    KeyUnavailableError,
)
from dpop.keys._algorithms import RSA_ALGS
from dpop.keys._external import SignatureFormat
from dpop.keys._pem import Password
from dpop.keys._public import PublicKey
from dpop.keys._uris import read_uri
from dpop.keys.kms._service import (
    Facts,
    KeyService,
    KmsKey,
    checked_endpoint,
    digest,
    keep_connections,
    need,
    printable,
    refuse_password,
)

__all__ = ["AzureKeyVault", "load"]

_FORM: Final = "azurekms:https://VAULT.vault.azure.net/keys/NAME/VERSION"
_KEY: Final = re.compile(
    r"(?P<vault>https://[A-Za-z0-9.:-]+)/keys/(?P<key>[A-Za-z0-9-]{1,127})(?:/(?P<version>[0-9a-f]{32}))?"
)

_ALGORITHMS: Final = ("ES256", "ES384", "ES512", *RSA_ALGS)
_COORDINATES: Final = {"P-256": 32, "P-384": 48, "P-521": 66}

# A signature is part of a request that a user waits for; the library's own limits are minutes.
_LIMITS: Final[Mapping[str, Any]] = {
    "connection_timeout": 3,
    "read_timeout": 5,
    "retry_total": 2,
    "retry_backoff_max": 2,
    "timeout": 20,
}

# Inner errors of responses that refuse an existing key.
_DISABLED: Final = frozenset({"KeyDisabled", "KeyExpired", "KeyNotYetValid"})


class _Identifier(NamedTuple):
    vault: str
    key: str
    version: str | None


class AzureKeyVault(KeyService):
    """A key in Azure, used with a credential of your own: ``KmsKey.open(AzureKeyVault(id, credential=make))``.

    :param key: the key's identifier, a URL.
    :param credential: a function that makes an azure-identity credential. It is called in each process that uses the
        key, because the credential's connections do not work after a fork.
    :param options: further options for the clients of azure-keyvault-keys, such as ``connection_verify``.
    :raises InvalidKeyError: ``key`` is not the identifier of a key.
    """

    title: ClassVar[str] = "Azure Key Vault"
    signature_format: ClassVar[SignatureFormat] = "raw"

    def __init__(self, key: str, *, credential: Callable[[], Any], options: Mapping[str, Any] | None = None) -> None:
        super().__init__(key, self._signer)
        match = _KEY.fullmatch(key)
        if match is None:
            raise InvalidKeyError(f"this is not the identifier of a key; expected {_FORM}")
        checked_endpoint(match["vault"])
        self._id = _Identifier(match["vault"], match["key"], match["version"])
        self._credential = credential
        self._options: dict[str, Any] = {**_LIMITS, **(options or {})}
        self._found: Any = None

    def describe(self) -> Facts:
        """Fetch the public key, and whether it may sign (get)."""
        found = self.guarded(self._find)
        if found.properties.enabled is False:
            raise self.trouble(KeyDisabledError, "it is disabled; enable it")
        operations = [getattr(operation, "value", operation) for operation in found.key_operations or ()]
        if "sign" not in operations:
            raise self.trouble(
                InvalidKeyError, f"it may {' and '.join(map(printable, operations)) or 'nothing'}, not sign"
            )
        public = self.checked_public(lambda: PublicKey.from_jwk(_jwk(found.key)))
        self._found = found  # it contains the key's version
        return self.usable(public, _ALGORITHMS.__contains__)

    @hide_frames
    def sign(self, signing_input: bytes, alg: str) -> bytes:
        """Have the service sign the hash of the bytes (sign)."""
        algorithms = need("azure.keyvault.keys.crypto", "azure").SignatureAlgorithm
        response = self.ask(lambda client: client.sign(algorithms(alg), digest(signing_input, alg)))
        signature: bytes = response.signature
        return signature

    def _find(self) -> Any:
        keys = need("azure.keyvault.keys", "azure")
        with keys.KeyClient(self._id.vault, self._credential(), **self._limited()) as client:
            return client.get_key(self._id.key, self._id.version)

    def _signer(self) -> Any:
        crypto = need("azure.keyvault.keys.crypto", "azure")
        transport = need("azure.core.pipeline.transport", "azure").RequestsTransport(**self._options)
        transport.open()
        keep_connections(transport.session)
        options = {"transport": transport, **self._limited()}
        return crypto.CryptographyClient(self._found, self._credential(), **options)

    def _limited(self) -> dict[str, Any]:
        patience = need("dpop.keys.kms._azure_retry", "azure").Patience
        return {"retry_policy": patience(**self._options), **self._options}

    def explain(self, error: Exception) -> DPoPKeyError:
        """Convert errors: those of the service by status and inner code, those of the libraries by their class."""
        core = need("azure.core.exceptions", "azure")
        name = type(error).__name__
        if isinstance(error, core.HttpResponseError) and error.status_code is not None:
            return self._explain_response(error)
        if isinstance(error, core.ClientAuthenticationError):
            return self.trouble(
                KeyAccessDeniedError,
                f"no Azure credential could be used ({name}); run az login, set AZURE_CLIENT_ID and its companions,"
                " or give the machine a managed identity",
            )
        if isinstance(error, (core.ServiceRequestError, core.ServiceResponseError)):
            return self.trouble(
                KeyUnavailableError,
                f"{self._id.vault} cannot be reached ({name}); check the vault's name and the network",
            )
        if isinstance(error, ValueError):
            return self.trouble(
                KeyAccessDeniedError,
                f"{self._id.vault} asks for a token for another service: it is not an Azure key vault",
            )
        return self.trouble(DPoPKeyError, f"azure-keyvault-keys failed ({name})")

    def _explain_response(self, error: Any) -> DPoPKeyError:
        status = int(error.status_code)
        inner = _inner_code(error)
        if inner in _DISABLED:
            return self.trouble(KeyDisabledError, f"it is disabled, or not valid at this time ({inner})")
        if inner == "KeyOperationForbidden":
            return self.trouble(InvalidKeyError, f"it may not sign ({inner})")
        if status == 403:
            # Only this text of the service is shown: it names the caller and the action, and no secret.
            reason = printable(getattr(error.error, "message", None) or "nothing")
            return self.trouble(
                KeyAccessDeniedError, f"keys/get and keys/sign are needed (Key Vault Crypto User); Azure says: {reason}"
            )
        kind, hint = {
            401: (KeyAccessDeniedError, "the Azure credential was refused"),
            404: (KeyNotFoundError, "there is no such key, or no such version of it, in this vault"),
            429: (KeyThrottledError, "too many requests; wait, or spread them over more vaults"),
        }.get(status, (DPoPKeyError, "the request was refused"))
        if status < 400:
            hint = "the response does not come from a vault; is there a proxy or a login page in between?"
        if status >= 500 or status == 408:
            kind, hint = KeyUnavailableError, "the service failed; try again later"
        return self.trouble(kind, f"{hint} (HTTP {status})")


def _inner_code(error: Any) -> str:
    """Return the inner error code: ``{"error": {"code": "Forbidden", "innererror": {"code": "KeyDisabled"}}}``."""
    inner = getattr(error.error, "innererror", None)
    if isinstance(inner, Mapping):
        return printable(inner.get("code"))
    return ""


def _jwk(key: Any) -> dict[str, str]:
    """Return the public JWK of a vault's key, its coordinates padded to their fixed length."""
    kty = str(getattr(key.kty, "value", key.kty)).removesuffix("-HSM")
    if kty == "RSA":
        n, e = (b64url_encode(bytes(number).lstrip(b"\0")) for number in (key.n, key.e))
        return {"kty": "RSA", "n": n, "e": e}
    crv = str(getattr(key.crv, "value", key.crv))
    size = _COORDINATES.get(crv)
    if kty != "EC" or size is None:
        raise InvalidKeyError(f"a {kty} key ({crv}) does not sign proofs; expected EC with P-256, or RSA")
    x, y = (b64url_encode(bytes(coordinate).rjust(size, b"\0")) for coordinate in (key.x, key.y))
    return {"kty": "EC", "crv": crv, "x": x, "y": y}


def load(uri: str, *, password: Password | None = None, alg: str | None = None) -> KmsKey:
    """Open the key of an ``azurekms:`` URI; the module's docstring describes the URI.

    :raises InvalidKeyError: not such a URI, or not a key DPoP can use.
    :raises KeyPasswordError: a password was given.
    :raises DPoPKeyError: as for :meth:`KmsKey.open`.
    """
    refuse_password(password, AzureKeyVault.title)
    name, _ = read_uri(uri, {}, _FORM)
    if not _KEY.fullmatch(name):
        raise InvalidKeyError(f"the azurekms: URI names no key; expected {_FORM}")
    need("azure.keyvault.keys", "azure")
    identity = need("azure.identity", "azure")
    return KmsKey.open(AzureKeyVault(name, credential=identity.DefaultAzureCredential), alg=alg, reference=uri)
