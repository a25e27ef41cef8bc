# SPDX-License-Identifier: Apache-2.0
"""Keys in AWS KMS: ``awskms:KEY?region=REGION&profile=PROFILE&endpoint=URL``.

KEY is a key id, ``alias/NAME``, or the ARN of a key or alias. ``region`` is needed if neither an ARN nor the
environment contains it; ``profile`` is a profile in the AWS configuration files; ``endpoint`` is for VPC endpoints and
emulators. boto3 finds the credentials.

The caller needs ``kms:GetPublicKey`` and ``kms:Sign``. An alias is looked up once, when the key is
opened; the key it then names is used from then on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar, Final

from dpop._tracebacks import hide_frames
from dpop.errors import (
    AlgorithmError,
    DPoPKeyError,
    InvalidKeyError,
    KeyAccessDeniedError,
    KeyDisabledError,
    KeyNotFoundError,
    KeyThrottledError,
    KeyUnavailableError,
)
from dpop.keys._external import SignatureFormat, read_public_key
from dpop.keys._pem import Password
from dpop.keys._uris import read_uri
from dpop.keys.kms._service import (
    CONNECTIONS,
    Facts,
    KeyService,
    KmsKey,
    checked_endpoint,
    digest,
    need,
    printable,
    refuse_password,
)

__all__ = ["AwsKms", "load"]

_FORM: Final = "awskms:alias/NAME?region=REGION, a key id or an ARN; profile= and endpoint= may follow"

_KEY: Final = re.compile(
    r"(?:arn:aws[a-z-]*:kms:(?P<region>[a-z0-9-]+):[0-9]{12}:(?:key/(?!alias/)|(?=alias/)))?"
    r"(?:alias/[A-Za-z0-9/_-]{1,250}|mrk-[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
_OPTIONS: Final = {
    "region": r"[a-z]{2}[a-z0-9-]{3,30}",
    "profile": r"[^\x00-\x1f\x7f]{1,100}",
    "endpoint": r".+",
}

_ALGORITHMS: Final = {
    "ES256": "ECDSA_SHA_256",
    "ES384": "ECDSA_SHA_384",
    "ES512": "ECDSA_SHA_512",
    "Ed25519": "ED25519_SHA_512",
    "EdDSA": "ED25519_SHA_512",
    "PS256": "RSASSA_PSS_SHA_256",
    "RS256": "RSASSA_PKCS1_V1_5_SHA_256",
    "PS384": "RSASSA_PSS_SHA_384",
    "PS512": "RSASSA_PSS_SHA_512",
    "RS384": "RSASSA_PKCS1_V1_5_SHA_384",
    "RS512": "RSASSA_PKCS1_V1_5_SHA_512",
}

# The longest message that the service accepts; for a longer one, the hash is sent.
_MAX_MESSAGE: Final = 4096

# A signature is part of a request that a user waits for; with boto3's own limits it could take five minutes.
_CONNECT_SECONDS: Final = 3
_READ_SECONDS: Final = 5
_ATTEMPTS: Final = 3

_KINDS: Final[dict[str, type[DPoPKeyError]]] = {
    "NotFoundException": KeyNotFoundError,
    "AccessDeniedException": KeyAccessDeniedError,
    "ExpiredTokenException": KeyAccessDeniedError,
    "IncompleteSignature": KeyAccessDeniedError,
    "InvalidClientTokenId": KeyAccessDeniedError,
    "InvalidGrantTokenException": KeyAccessDeniedError,
    "InvalidSignatureException": KeyAccessDeniedError,
    "MissingAuthenticationToken": KeyAccessDeniedError,
    "MissingAuthenticationTokenException": KeyAccessDeniedError,
    "NotAuthorized": KeyAccessDeniedError,
    "OptInRequired": KeyAccessDeniedError,
    "UnrecognizedClientException": KeyAccessDeniedError,
    "DisabledException": KeyDisabledError,
    "KMSInvalidStateException": KeyDisabledError,
    "InvalidArnException": InvalidKeyError,
    "InvalidKeyUsageException": InvalidKeyError,
    "UnsupportedOperationException": InvalidKeyError,
    "LimitExceededException": KeyThrottledError,
    "RequestLimitExceeded": KeyThrottledError,
    "ThrottlingException": KeyThrottledError,
    "TooManyRequestsException": KeyThrottledError,
    "DependencyTimeoutException": KeyUnavailableError,
    "InternalFailure": KeyUnavailableError,
    "KeyUnavailableException": KeyUnavailableError,
    "KMSInternalException": KeyUnavailableError,
    "ServiceUnavailable": KeyUnavailableError,
    "ServiceUnavailableException": KeyUnavailableError,
}
"""The error codes of KMS, and the codes that all AWS services share."""


class AwsKms(KeyService):
    """A key in AWS KMS, used with a client of your own: ``KmsKey.open(AwsKms("alias/dpop", client=make))``.

    :param key: key id, alias or ARN.
    :param client: a function that makes a boto3 ``kms`` client. It is called in each process that uses the key:
        a client does not work after a fork.
    """

    title: ClassVar[str] = "AWS KMS"
    signature_format: ClassVar[SignatureFormat] = "der"

    def __init__(self, key: str, *, client: Callable[[], Any]) -> None:
        super().__init__(key, client)
        self._key = key

    def describe(self) -> Facts:
        """Fetch the public key, its usage and its algorithms (GetPublicKey)."""
        response: dict[str, Any] = self.ask(lambda kms: kms.get_public_key(KeyId=self.name))
        if response.get("KeyUsage", "SIGN_VERIFY") != "SIGN_VERIFY":
            raise self.trouble(
                InvalidKeyError, f"its usage is {printable(response['KeyUsage'])}; SIGN_VERIFY is needed"
            )
        public = self.checked_public(lambda: read_public_key(response["PublicKey"]))
        # The key's own name, not the alias: if the alias is moved, the proofs of this process keep their key.
        self._key = str(response.get("KeyId") or self.name)
        offered = response.get("SigningAlgorithms") or list(_ALGORITHMS.values())
        return self.usable(public, lambda alg: _ALGORITHMS[alg] in offered)

    @hide_frames
    def sign(self, signing_input: bytes, alg: str) -> bytes:
        """Have the service sign the bytes (Sign), or their hash if they are too long for a request."""
        message, kind = signing_input, "RAW"
        if len(message) > _MAX_MESSAGE:
            if alg in {"Ed25519", "EdDSA"}:
                raise self.trouble(
                    AlgorithmError, f"with {alg} it signs at most {_MAX_MESSAGE} bytes, not {len(message)}"
                )
            message, kind = digest(signing_input, alg), "DIGEST"
        response: dict[str, Any] = self.ask(
            lambda kms: kms.sign(KeyId=self._key, Message=message, MessageType=kind, SigningAlgorithm=_ALGORITHMS[alg])
        )
        signature: bytes = response["Signature"]
        return signature

    def explain(self, error: Exception) -> DPoPKeyError:
        """Convert errors: those of KMS by their code, those of botocore by their class."""
        exceptions = need("botocore.exceptions", "aws")
        if isinstance(error, exceptions.ClientError):
            return self._explain_response(error)
        name = type(error).__name__
        if isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError)):
            return self.trouble(KeyUnavailableError, f"it cannot be reached ({name}); check region and network")
        if isinstance(error, exceptions.NoRegionError):
            return self.trouble(InvalidKeyError, "its region is not known; add ?region=REGION or set AWS_REGION")
        if isinstance(error, exceptions.ProfileNotFound):
            return self.trouble(KeyAccessDeniedError, "there is no such profile in the AWS configuration files")
        if isinstance(error, exceptions.NoCredentialsError):
            return self.trouble(
                KeyAccessDeniedError,
                "no AWS credentials were found; set AWS_PROFILE, log in, or give the machine a role",
            )
        if isinstance(error, (exceptions.ParamValidationError, exceptions.InvalidRegionError)):
            return self.trouble(InvalidKeyError, f"this names no key; expected {_FORM}")
        if isinstance(error, exceptions.BotoCoreError):
            return self.trouble(
                KeyAccessDeniedError,
                f"the AWS credentials could not be used ({name}); log in again, or check the profile",
            )
        return self.trouble(DPoPKeyError, f"boto3 failed ({name})")

    def _explain_response(self, error: Any) -> DPoPKeyError:
        response: dict[str, Any] = error.response
        code = printable(response.get("Error", {}).get("Code", "an error without a code"))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        kind = _KINDS.get(code, KeyUnavailableError if status >= 500 else DPoPKeyError)
        hint = {
            KeyNotFoundError: "there is none in this account and region",
            KeyDisabledError: "it is disabled, pending deletion, or not ready; enable it",
            KeyThrottledError: "too many requests; wait, or have the quota raised",
            KeyUnavailableError: "the service failed; try again later",
            InvalidKeyError: "it cannot sign; expected an asymmetric key with the usage SIGN_VERIFY",
        }.get(kind, "the request was refused")
        if code == "AccessDeniedException":
            # Only this text of the service is shown: it names the caller, the action and the policy, and no secret.
            reason = printable(response["Error"].get("Message"))
            hint = f"kms:GetPublicKey and kms:Sign are needed; AWS says: {reason}"
        elif kind is KeyAccessDeniedError:
            hint = "the AWS credentials were refused; they may be wrong or expired, or this machine's clock is wrong"
        return self.trouble(kind, f"{hint} ({code})")


def load(uri: str, *, password: Password | None = None, alg: str | None = None) -> KmsKey:
    """Open the key of an ``awskms:`` URI; the module's docstring describes the URI.

    :raises InvalidKeyError: not such a URI, or not a key DPoP can use.
    :raises KeyPasswordError: a password was given.
    :raises DPoPKeyError: as for :meth:`KmsKey.open`.
    """
    refuse_password(password, AwsKms.title)
    name, options = read_uri(uri, _OPTIONS, _FORM)
    match = _KEY.fullmatch(name)
    if match is None:
        raise InvalidKeyError(f"the awskms: URI names no key; expected {_FORM}")
    region = options.get("region", match["region"])
    if match["region"] is not None and region != match["region"]:
        raise InvalidKeyError("the awskms: URI has one region in its ARN and another in region=; leave region= out")
    endpoint = str(checked_endpoint(options["endpoint"])) if "endpoint" in options else None
    need("boto3", "aws")
    return KmsKey.open(
        AwsKms(name, client=lambda: _client(region, options.get("profile"), endpoint)), alg=alg, reference=uri
    )


def _client(region: str | None, profile: str | None, endpoint: str | None) -> Any:
    boto3, config = need("boto3", "aws"), need("botocore.config", "aws")
    # A new session: making clients from boto3's shared session is not thread-safe.
    return boto3.Session(profile_name=profile, region_name=region).client(
        "kms",
        endpoint_url=endpoint,
        config=config.Config(
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
        ),
    )
