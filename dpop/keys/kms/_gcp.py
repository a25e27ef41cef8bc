# SPDX-License-Identifier: Apache-2.0
"""Keys in Google Cloud KMS.

``gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/V?endpoint=URL``

The version is required, because each version is a key of its own. ``endpoint`` is for private endpoints and, with
http, for an emulator on this machine, which gets no credentials. The credentials are the application default
credentials.

The caller needs ``cloudkms.cryptoKeyVersions.viewPublicKey`` and ``.useToSign``: the role
``roles/cloudkms.signerVerifier`` has both. Requests use REST, because gRPC does not work in a
process forked after its first use.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

from dpop._tracebacks import hide_frames
from dpop.errors import (
    DPoPKeyError,
    InvalidKeyError,
    KeyAccessDeniedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyThrottledError,
    KeyUnavailableError,
)
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._external import SignatureFormat, read_public_key
from dpop.keys._pem import Password
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
from dpop.origin import Origin

__all__ = ["GcpKms", "load"]

_FORM: Final = (
    "gcpkms:projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY/cryptoKeyVersions/VERSION;"
    " ?endpoint= may follow"
)
_KEY: Final = re.compile(
    r"projects/[a-z0-9.:-]{1,100}/locations/[a-z0-9-]{1,63}"
    r"/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}/cryptoKeyVersions/[1-9][0-9]{0,9}"
)
_OPTIONS: Final = {"endpoint": r".+"}

# A version signs with one algorithm, which these names tell.
_ALGORITHMS: Final = (
    (re.compile(r"EC_SIGN_P256_SHA256"), "ES256"),
    (re.compile(r"EC_SIGN_P384_SHA384"), "ES384"),
    (re.compile(r"EC_SIGN_ED25519"), "Ed25519"),
    (re.compile(r"RSA_SIGN_PSS_[0-9]+_SHA256"), "PS256"),
    (re.compile(r"RSA_SIGN_PKCS1_[0-9]+_SHA256"), "RS256"),
    (re.compile(r"RSA_SIGN_PSS_[0-9]+_SHA512"), "PS512"),
    (re.compile(r"RSA_SIGN_PKCS1_[0-9]+_SHA512"), "RS512"),
)

# A signature is part of a request that a user waits for; the library's own limit is a minute.
_ATTEMPT_SECONDS: Final = 5.0
_ALL_SECONDS: Final = 15.0

_KINDS: Final[dict[str, type[DPoPKeyError]]] = {
    "NOT_FOUND": KeyNotFoundError,
    "PERMISSION_DENIED": KeyAccessDeniedError,
    "UNAUTHENTICATED": KeyAccessDeniedError,
    "FAILED_PRECONDITION": KeyDisabledError,
    "INVALID_ARGUMENT": InvalidKeyError,
    "RESOURCE_EXHAUSTED": KeyThrottledError,
    "ABORTED": KeyUnavailableError,
    "CANCELLED": KeyUnavailableError,
    "DEADLINE_EXCEEDED": KeyUnavailableError,
    "INTERNAL": KeyUnavailableError,
    "UNAVAILABLE": KeyUnavailableError,
    "UNKNOWN": KeyUnavailableError,
    # Responses of a proxy or a gateway, not of the service.
    "HTTP 401": KeyAccessDeniedError,
    "HTTP 403": KeyAccessDeniedError,
    "HTTP 404": KeyNotFoundError,
    "HTTP 429": KeyThrottledError,
}
"""Google's status codes (google.rpc.Code), which gRPC and REST share."""

# The class names of temporary errors. The last three are of requests: the REST transport does not convert them.
_TEMPORARY: Final = frozenset(
    {
        "BadGateway",
        "GatewayTimeout",
        "InternalServerError",
        "ServiceUnavailable",
        "TooManyRequests",
        "ResourceExhausted",
        "ConnectionError",
        "ConnectTimeout",
        "ReadTimeout",
    }
)


class GcpKms(KeyService):
    """A key in Google Cloud KMS, used with a client of your own: ``KmsKey.open(GcpKms(name, client=make))``.

    :param key: the resource name of a key version.
    :param client: a function that makes a ``google.cloud.kms.KeyManagementServiceClient``. It is called in each process
        that uses the key. With gRPC as its transport, do not use the key both before and after a fork.
    """

    title: ClassVar[str] = "Google Cloud KMS"
    signature_format: ClassVar[SignatureFormat] = "der"

    def __init__(self, key: str, *, client: Callable[[], Any]) -> None:
        super().__init__(key, client)

    def describe(self) -> Facts:
        """Fetch the public key and its algorithm (GetPublicKey)."""
        response = self.ask(lambda kms: kms.get_public_key(request={"name": self.name}, **self._patience()))
        algorithm = str(
            getattr(response.algorithm, "name", response.algorithm)
        )  # a number if it is newer than the library
        alg = next((alg for pattern, alg in _ALGORITHMS if pattern.fullmatch(algorithm)), None)
        if alg is None:
            raise self.trouble(InvalidKeyError, f"its algorithm is {algorithm}; EC_SIGN_P256_SHA256 suits DPoP best")
        public = self.checked_public(lambda: read_public_key(response.pem.encode("ascii")))
        return self.usable(public, lambda name: name in {alg, "EdDSA" if alg == "Ed25519" else alg})

    @hide_frames
    def sign(self, signing_input: bytes, alg: str) -> bytes:
        """Have the service sign the hash of the bytes, or, for Ed25519, the bytes themselves (AsymmetricSign)."""
        request: dict[str, Any] = {"name": self.name}
        hash_name = ALGORITHMS[alg].hash_name
        if hash_name is None:
            request["data"] = signing_input
        else:
            request["digest"] = {hash_name.replace("-", "").lower(): digest(signing_input, alg)}
        # The service offers checksums. They are not needed, because the signature is verified.
        response = self.ask(lambda kms: kms.asymmetric_sign(request=request, **self._patience()))
        return bytes(response.signature)

    def explain(self, error: Exception) -> DPoPKeyError:
        """Convert errors: those of the service by their status, those of the libraries by their class."""
        calls, auth = need("google.api_core.exceptions", "gcp"), need("google.auth.exceptions", "gcp")
        if isinstance(error, calls.RetryError):
            error = error.cause if isinstance(error.cause, Exception) else TimeoutError()
        name = type(error).__name__
        if isinstance(error, calls.GoogleAPICallError):
            return self._explain_response(error)
        if isinstance(error, auth.DefaultCredentialsError):
            return self.trouble(
                KeyAccessDeniedError,
                "no Google credentials were found; run gcloud auth application-default login, set"
                " GOOGLE_APPLICATION_CREDENTIALS, or give the machine a service account",
            )
        # The REST transport does not convert the errors of requests, which are OSErrors.
        if isinstance(error, (auth.TransportError, OSError)) or getattr(error, "retryable", False) is True:
            return self.trouble(KeyUnavailableError, f"it cannot be reached ({name}); check the network")
        if isinstance(error, auth.GoogleAuthError):
            return self.trouble(KeyAccessDeniedError, f"the Google credentials were refused ({name}); log in again")
        return self.trouble(DPoPKeyError, f"google-cloud-kms failed ({name})")

    def _explain_response(self, error: Any) -> DPoPKeyError:
        status = _status(error)
        kind = _KINDS.get(status, KeyUnavailableError if status.startswith("HTTP 5") else DPoPKeyError)
        hint = {
            KeyNotFoundError: "there is no such key version",
            KeyDisabledError: "it is disabled, scheduled for destruction, or not ready; enable it",
            KeyThrottledError: "too many requests; wait, or have the quota raised",
            KeyUnavailableError: "the service failed or took too long; try again later",
            InvalidKeyError: "it cannot sign; expected a key with the purpose ASYMMETRIC_SIGN",
            KeyAccessDeniedError: "the Google credentials were refused; log in again",
        }.get(kind, "the request was refused")
        if status == "PERMISSION_DENIED":
            # Only this text of the service is shown: it names the permission and the key, and no secret.
            hint = f"roles/cloudkms.signerVerifier is needed on it; Google says: {printable(error.message)}"
        return self.trouble(kind, f"{hint} ({status})")

    @staticmethod
    def _patience() -> dict[str, Any]:
        """Return options: the timeout of one attempt, which errors are retried, and for how long."""
        retry = need("google.api_core.retry", "gcp")
        is_temporary: Callable[[Exception], bool] = lambda error: type(error).__name__ in _TEMPORARY  # noqa: E731
        return {
            "timeout": _ATTEMPT_SECONDS,
            "retry": retry.Retry(predicate=is_temporary, initial=0.2, maximum=2.0, timeout=_ALL_SECONDS),
        }


def _status(error: Any) -> str:
    """Return the status of an error: from the body of a REST response, or from gRPC."""
    try:
        return printable(error.response.json()["error"]["status"])
    except Exception:  # noqa: BLE001 - not a REST response, or not one of the API
        if error.grpc_status_code is not None and not hasattr(error.response, "json"):
            return str(error.grpc_status_code.name)
        return f"HTTP {int(error.code or 0)}"


def load(uri: str, *, password: Password | None = None, alg: str | None = None) -> KmsKey:
    """Open the key of a ``gcpkms:`` URI; the module's docstring describes the URI.

    :raises InvalidKeyError: not such a URI, or not a key DPoP can use.
    :raises KeyPasswordError: a password was given.
    :raises DPoPKeyError: as for :meth:`KmsKey.open`.
    """
    refuse_password(password, GcpKms.title)
    name, options = read_uri(uri, _OPTIONS, _FORM)
    if not _KEY.fullmatch(name):
        raise InvalidKeyError(f"the gcpkms: URI names no key version; expected {_FORM}")
    endpoint = checked_endpoint(options["endpoint"]) if "endpoint" in options else None
    need("google.cloud.kms_v1", "gcp")
    return KmsKey.open(GcpKms(name, client=lambda: _client(endpoint)), alg=alg, reference=uri)


def _client(endpoint: Origin | None) -> Any:
    client = _rest_client(endpoint)
    keep_connections(client.transport._session)  # noqa: SLF001 - no public attribute leads to its pool
    return client


def _rest_client(endpoint: Origin | None) -> Any:
    kms = need("google.cloud.kms_v1", "gcp")
    if endpoint is None:
        return kms.KeyManagementServiceClient(transport="rest")
    if endpoint.scheme == "https":
        return kms.KeyManagementServiceClient(transport="rest", client_options={"api_endpoint": endpoint.authority})
    transport = need("google.cloud.kms_v1.services.key_management_service.transports", "gcp")
    anonymous = need("google.auth.credentials", "gcp").AnonymousCredentials()
    return kms.KeyManagementServiceClient(
        transport=transport.KeyManagementServiceRestTransport(
            host=endpoint.authority, url_scheme="http", credentials=anonymous
        )
    )
