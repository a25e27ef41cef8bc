# SPDX-License-Identifier: Apache-2.0
"""All errors of this package, in one tree.

::

    DPoPError
    ├── UsageError (ValueError)              an argument cannot be used
    │   ├── ArgumentTypeError (TypeError)        it has the wrong Python type
    │   ├── EncodingError                        not base64url, or not the JSON it should be
    │   ├── SignatureFormatError                 not strict DER, or not a raw R||S
    │   ├── InvalidTargetError                   a URL or method that a proof cannot name exactly
    │   ├── InsecureOriginError                  http:// to a host that is not this machine
    │   └── CredentialError                      an access token or nonce that cannot be sent
    ├── DPoPKeyError                         the key, its file or its device
    │   ├── InvalidKeyError (ValueError)         not a key that DPoP can use
    │   ├── KeyFileError                         a key file cannot be read or written
    │   ├── KeyPasswordError                     the password is missing or wrong
    │   │   └── PinError                             the PIN of a device is missing or wrong
    │   │       └── PinLockedError                       the device accepts no PIN any more
    │   ├── KeyNotFoundError                     the file, device or service has no such key
    │   ├── AmbiguousKeyError                    several keys or devices fit one name
    │   ├── KeyAccessDeniedError                 the key backend does not let this caller use the key
    │   │   └── AgentRefusedError                    a rule of the signing agent does not allow this signature
    │   ├── KeyDisabledError                     the key is switched off, expired or about to be deleted
    │   ├── KeyUnavailableError                  the key backend cannot be reached now
    │   │   ├── KeyThrottledError                    the key backend wants fewer requests
    │   │   ├── AgentUnavailableError                no signing agent listens, or it does not respond
    │   │   ├── AgentLockedError                     the signing agent is locked
    │   │   └── DeviceError                          a device is missing, removed or out of order
    │   ├── ForkedKeyError                       a device's key was opened before this process was forked
    │   ├── MissingExtraError (ImportError)      the optional dependency for a key backend is missing
    │   ├── AlgorithmError (ValueError)          both sides have no algorithm in common
    │   ├── SigningError                         the key did not produce a good signature
    │   └── KeyMismatchError                     the tokens are bound to another key; nothing was sent
    ├── TokenError                      requesting or storing tokens
    │   ├── TokenRequestError           a request to an authorization server failed
    │   │   ├── TokenRefusedError       the server refused, and will refuse the same request again
    │   │   │   └── ReauthorizationError    the grant has ended: the user has to authorise again
    │   │   ├── TokenEndpointUnavailableError     a temporary failure: try again later with the same tokens
    │   │   ├── OutcomeUnknownError     no response came: the server may have acted or not
    │   │   └── InvalidTokenResponseError        the response is not a valid token response
    │   │       ├── UnboundTokenError   the server responded to a proof with a bearer token
    │   │       └── InvalidIDTokenError the ID token of a login is another's, expired or forged
    │   └── TokenStoreError             the token store cannot be read or written
    │       ├── TokensNotSavedError     new tokens could not be stored: they are in the error
    │       ├── TokenFormatError        the stored tokens are damaged, sealed, or of another version
    │       └── TokenLockError          another process or thread holds the lock of the tokens
    ├── UnrewindableBodyError           a request must be sent again, but its body can be read only once
    ├── InvalidProof                    a verifier refuses a proof or an access token
    ├── ReplayCacheError                the replay cache is full or cannot be reached
    └── LookupUnavailableError          a server cannot tell now whether an access token is valid

``UsageError`` and ``DPoPKeyError`` are faults on this side; ``InvalidProof`` and ``TokenRequestError``
come from the peer. Each class has a stable ``code`` for programs; the text is for people and may change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

__all__ = [
    "AgentLockedError",
    "AgentRefusedError",
    "AgentUnavailableError",
    "AlgorithmError",
    "AmbiguousKeyError",
    "ArgumentTypeError",
    "CredentialError",
    "DPoPError",
    "DPoPKeyError",
    "DeviceError",
    "EncodingError",
    "ForkedKeyError",
    "InsecureOriginError",
    "InvalidIDTokenError",
    "InvalidKeyError",
    "InvalidProof",
    "InvalidTargetError",
    "InvalidTokenResponseError",
    "KeyAccessDeniedError",
    "KeyDisabledError",
    "KeyFileError",
    "KeyMismatchError",
    "KeyNotFoundError",
    "KeyPasswordError",
    "KeyThrottledError",
    "KeyUnavailableError",
    "LookupUnavailableError",
    "MissingExtraError",
    "OutcomeUnknownError",
    "PinError",
    "PinLockedError",
    "ReauthorizationError",
    "ReplayCacheError",
    "SignatureFormatError",
    "SigningError",
    "TokenEndpointUnavailableError",
    "TokenError",
    "TokenFormatError",
    "TokenLockError",
    "TokenRefusedError",
    "TokenRequestError",
    "TokenStoreError",
    "TokensNotSavedError",
    "UnboundTokenError",
    "UnrewindableBodyError",
    "UsageError",
]


class DPoPError(Exception):
    """Root of all errors of this package.

    ``code`` is a stable string, one per class, that programs may compare.
    """

    code: ClassVar[str] = "dpop_error"


class UsageError(DPoPError, ValueError):
    """An argument cannot be used; nothing was sent and nothing was changed."""

    code = "usage"


class ArgumentTypeError(UsageError, TypeError):
    """An argument has the wrong Python type.

    :param name: the argument's name.
    :param expected: a description of the expected value.
    :param value: the value given. Only its type is kept, because the value may be secret.
    """

    code = "argument_type"

    def __init__(self, name: str, expected: str, value: object) -> None:
        self.name = name
        self.expected = expected
        kind = type(value)
        self.got: str = kind.__name__
        if self.got in expected and kind.__module__ != "builtins":
            self.got = f"{kind.__module__}.{self.got}"  # a class of the same name as one that is expected
        super().__init__(f"{name} must be {expected}, not {self.got}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild_argument_type, (self.name, self.expected, self.got))


def _rebuild_argument_type(name: str, expected: str, got: str) -> ArgumentTypeError:
    """Unpickle an ArgumentTypeError, which keeps the type's name and never the value."""
    error = ArgumentTypeError(name, expected, None)
    error.got = got
    error.args = (f"{name} must be {expected}, not {got}",)
    return error


class EncodingError(UsageError):
    """Bytes or text are not valid base64url or JSON (RFC 7515 §2, RFC 8259)."""

    code = "encoding"


class SignatureFormatError(UsageError):
    """An ECDSA signature is not strict DER, or not a raw R||S of the right length (RFC 7518 §3.4)."""

    code = "signature_format"


class InvalidTargetError(UsageError):
    """A URL or method has no exact form as ``htu`` or ``htm`` (RFC 9449 §4.2)."""

    code = "invalid_target"


class InsecureOriginError(UsageError):
    """A proof or token would travel over plain http (RFC 9449 §2)."""

    code = "insecure_origin"


class CredentialError(UsageError):
    """An access token or nonce contains characters that its syntax does not allow (RFC 9449 §7.1, §8.1)."""

    code = "credential"


class DPoPKeyError(DPoPError):
    """Base of all errors about keys: their kind, file, password or device."""

    code = "key"


class InvalidKeyError(DPoPKeyError, ValueError):
    """Not a key that DPoP can use: symmetric, public only, wrong curve, weak or inconsistent."""

    code = "invalid_key"


class KeyFileError(DPoPKeyError):
    """A key file cannot be read or written; the cause is chained."""

    code = "key_file"


class KeyPasswordError(DPoPKeyError):
    """The key is encrypted and its password is missing or wrong, or a password was given for an unencrypted key."""

    code = "key_password"


class PinError(KeyPasswordError):
    """A device needs a PIN, or refused the one it got. A PIN is never tried twice, because devices count failures."""

    code = "pin"


class PinLockedError(PinError):
    """The device accepts no PIN any more, not even the right one, until somebody unlocks it."""

    code = "pin_locked"


class AmbiguousKeyError(DPoPKeyError):
    """Several keys or devices match the name; the message lists them."""

    code = "ambiguous_key"


class KeyNotFoundError(DPoPKeyError):
    """The device or service has no key of that name."""

    code = "key_not_found"


class KeyAccessDeniedError(DPoPKeyError):
    """The key backend does not let this caller use the key: no credentials, refused ones, or no permission."""

    code = "key_access_denied"


class AgentRefusedError(KeyAccessDeniedError):
    """The signing agent did not sign: its rules for the key do not allow this proof, or it is no proof.

    :param reason: which rule: ``"origin"``, ``"method"``, ``"iat"``, ``"no_proof"``, ``"key_mismatch"``, ``"peer"``,
        ``"not_confirmed"``; None if the agent did not say.
    """

    code = "agent_refused"

    def __init__(self, message: str, reason: str | None = None) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (AgentRefusedError, (self.args[0], self.reason))


class KeyDisabledError(DPoPKeyError):
    """The key exists and may not sign: it is disabled, not valid yet, expired, or about to be deleted."""

    code = "key_disabled"


class KeyUnavailableError(DPoPKeyError):
    """The key backend cannot be reached, or cannot respond now; try again later."""

    code = "key_unavailable"


class KeyThrottledError(KeyUnavailableError):
    """The key backend wants fewer requests; wait before the next one."""

    code = "key_throttled"


class AgentUnavailableError(KeyUnavailableError):
    """No signing agent listens at the socket, or it does not respond in time."""

    code = "agent_unavailable"


class AgentLockedError(KeyUnavailableError):
    """The signing agent is locked: it has forgotten its keys until somebody unlocks it."""

    code = "agent_locked"


class DeviceError(KeyUnavailableError):
    """A device with keys, or its driver, cannot be used: it is missing, removed, busy or out of order.

    :param reason: what the driver itself said, such as ``"CKR_DEVICE_REMOVED"``; None if it said nothing.
    """

    code = "device"

    def __init__(self, message: str, reason: str | None = None) -> None:
        self.reason = reason
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        return (DeviceError, (self.args[0], self.reason))


class ForkedKeyError(DPoPKeyError):
    """The key was opened before this process was forked, and its device works only for the process that opened it."""

    code = "forked_key"


class MissingExtraError(DPoPKeyError, ImportError):
    """The optional dependency for a key backend is not installed; the message names the extra."""

    code = "missing_extra"


class AlgorithmError(DPoPKeyError, ValueError):
    """The key and the server have no signature algorithm in common (RFC 9449 §5.1)."""

    code = "algorithm"


class SigningError(DPoPKeyError):
    """The key failed to sign, or its signature does not verify; nothing was sent."""

    code = "signing"


class KeyMismatchError(DPoPKeyError):
    """The tokens are bound to another key than the one at hand (RFC 9449 §5); nothing was sent.

    :param expected: the ``jkt`` the tokens are bound to.
    :param got: the thumbprint of the key at hand.
    """

    code = "key_mismatch"

    def __init__(self, message: str, *, expected: str | None = None, got: str | None = None) -> None:
        self.expected = expected
        self.got = got
        super().__init__(message)


class UnrewindableBodyError(DPoPError):
    """The request has to be sent a second time, but its body can be read only once.

    Raised instead of sending an empty or cut body.
    """

    code = "unrewindable_body"


class InvalidProof(DPoPError):  # noqa: N818 - the contract's name, after the RFC's invalid_dpop_proof
    """A verifier's refusal (RFC 9449 §4.3, §5, §7.1).

    :param error: the OAuth error code to respond with: ``invalid_dpop_proof``, ``use_dpop_nonce``,
        ``invalid_token`` at a resource, ``invalid_grant`` at a token endpoint.
    :param reason: a stable name of the check that failed, such as ``"htu_mismatch"``.
    :param detail: one sentence for people, safe to log: it contains no proof, token or nonce.
    :param expected: the value the verifier expected, unless it is secret.
    :param got: the received value, unless it is secret.
    :param nonce: for ``use_dpop_nonce``, the nonce to hand out. It never appears in ``str()``.
    :param parameters: further parameters of a resource server's challenge, such as ``scope`` or ``acr_values``.
    """

    code = "invalid_proof"

    def __init__(
        self,
        error: str,
        reason: str,
        detail: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        nonce: str | None = None,
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.error = error
        self.reason = reason
        self.detail = detail
        self.expected = expected
        self.got = got
        self.nonce = nonce
        self.parameters: Mapping[str, str] = {} if parameters is None else dict(parameters)
        text = f"{error} ({reason}): {detail}"
        if expected is not None or got is not None:
            text += f"; expected {expected or 'nothing'}, got {got or 'nothing'}"
        super().__init__(text)

    def __reduce__(self) -> tuple[Any, ...]:
        facts = {name: getattr(self, name) for name in ("expected", "got", "nonce", "parameters")}
        return (_rebuild_invalid_proof, (self.error, self.reason, self.detail, facts))


def _rebuild_invalid_proof(error: str, reason: str, detail: str, facts: dict[str, Any]) -> InvalidProof:
    """Unpickle an InvalidProof, whose evidence is keyword-only."""
    return InvalidProof(error, reason, detail, **facts)


class ReplayCacheError(DPoPError):
    """The replay cache is full or cannot be reached: the proof must not be accepted (RFC 9449 §11.1).

    :param retry_after: seconds after which there may be room again; None if that is not known.
    """

    code = "replay_cache"

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class LookupUnavailableError(DPoPError):
    """The server cannot decide now whether an access token is valid, because a service that it asks does not respond.

    Raise it in a token look-up. The client gets a 503 and keeps its token; a 401 would tell it to discard the token.

    :param retry_after: seconds after which the client may try again; None if that is not known.
    """

    code = "lookup_unavailable"

    def __init__(
        self, message: str = "the access token cannot be checked now", *, retry_after: float | None = None
    ) -> None:
        self.retry_after = retry_after
        super().__init__(message)


class TokenError(DPoPError):
    """Base of errors about tokens: requesting them, or storing them."""

    code = "token"


class _CarriesTokens:
    """A mixin for errors with tokens that the user can save: copies of the error keep the tokens, pickles do not."""

    args: tuple[Any, ...]
    tokens: Any

    def __copy__(self) -> Self:
        copy = type(self)(*self.args)
        vars(copy).update(vars(self))
        return copy

    def __deepcopy__(self, _memo: object) -> Self:
        return self.__copy__()

    def __reduce__(self) -> tuple[Any, ...]:
        # Task queues and process pools pickle errors, and store them where tokens must not be.
        return (type(self), self.args, {**vars(self), "tokens": None})


class TokenRequestError(TokenError):
    """A request to an authorization server failed.

    :param error: the OAuth error code, if the server sent one (RFC 6749 §5.2).
    :param description: its ``error_description``, safe to log: secrets that the request carried are masked.
    :param subtype: its ``error_subtype``, which Google sends.
    :param uri: its ``error_uri``.
    :param status: the HTTP status, ``None`` without a response.
    :param retry_after: seconds the server asks to wait.
    """

    code = "token_request"

    def __init__(
        self,
        message: str,
        *,
        error: str | None = None,
        description: str | None = None,
        subtype: str | None = None,
        uri: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.error = error
        self.description = description
        self.subtype = subtype
        self.uri = uri
        self.status = status
        self.retry_after = retry_after
        super().__init__(message)


class TokenRefusedError(TokenRequestError):
    """The server refused the request and will refuse it again: something about the client or the request is wrong.

    A refresh token that was sent is still valid, except if this is a :class:`ReauthorizationError`.
    """

    code = "token_refused"


class ReauthorizationError(_CarriesTokens, TokenRefusedError):
    """The user has to authorise again: ``invalid_grant``, or no refresh token is left (RFC 6749 §5.2).

    Trying again with the same tokens does not help; ``subtype`` and ``description`` may say why.

    :param tokens: the :class:`dpop.tokens.TokenSet` that this process got earlier in a response that must not be used,
        if the server has replaced the refresh token by it; ``None`` otherwise. A pickle leaves ``tokens`` out.
    """

    code = "reauthorization"

    def __init__(self, message: str, *, tokens: Any = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.tokens = tokens


class TokenEndpointUnavailableError(TokenRequestError):
    """A temporary failure: the server is down or unreachable, or it refused the proof and not the grant.

    The tokens are still valid. Try again later.
    """

    code = "token_endpoint_unavailable"


class OutcomeUnknownError(TokenRequestError):
    """The request was sent, or may have been sent, and no response came.

    The server may have used up the code or refresh token. The message names the only safe next step.
    """

    code = "token_outcome_unknown"


class InvalidTokenResponseError(_CarriesTokens, TokenRequestError):
    """The response is not a valid token response (RFC 6749 §5.1), or its tokens must not be used.

    :param tokens: the :class:`dpop.tokens.TokenSet` that came and was not stored, or ``None``. The old refresh token
        may be used up, so these may be the only valid tokens. Unusable ones among them are empty. A pickle leaves
        ``tokens`` out.
    """

    code = "invalid_token_response"

    def __init__(self, message: str, *, tokens: Any = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.tokens = tokens


class UnboundTokenError(InvalidTokenResponseError):
    """The server responded to a proof with a bearer token (RFC 9449 §5). It was not stored; it is in ``tokens``.

    A client of :mod:`dpop.mcp` raises it also before a login, for a server that asks for bearer tokens only; then
    ``tokens`` is ``None``.
    """

    code = "token_unbound"


class InvalidIDTokenError(InvalidTokenResponseError):
    """The ID token of a login must not be believed (OpenID Connect Core §3.1.3.7).

    The other tokens came with it and were not stored; they are in ``tokens``.
    """

    code = "id_token"


class TokenStoreError(TokenError):
    """The token store cannot be read or written; the cause is chained."""

    code = "token_store"


class TokensNotSavedError(_CarriesTokens, TokenStoreError):
    """New tokens could not be stored. The old refresh token may be used up: save ``tokens`` yourself.

    :param tokens: the new :class:`dpop.tokens.TokenSet`, to be saved elsewhere. A pickle leaves ``tokens`` out.
    """

    code = "tokens_not_saved"

    def __init__(self, message: str, *, tokens: Any = None) -> None:
        super().__init__(message)
        self.tokens = tokens


class TokenFormatError(TokenStoreError):
    """The stored tokens are damaged, cut off, of another version, or sealed with another key."""

    code = "token_format"


class TokenLockError(TokenStoreError):
    """Another thread, process or host holds the lock of these tokens and did not release it in time."""

    code = "token_lock"
