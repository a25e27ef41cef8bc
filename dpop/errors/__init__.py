# SPDX-License-Identifier: Apache-2.0
"""Every error this package raises, in one tree.

::

    DPoPError
    ├── UsageError (ValueError)         the caller passed something that cannot be used
    │   ├── ArgumentTypeError (TypeError)   ... of the wrong Python type
    │   ├── EncodingError               not base64url, not the JSON it should be
    │   ├── SignatureFormatError        not strict DER, not a raw R||S
    │   ├── TargetError                 a URL or method that no proof can name without doubt
    │   ├── InsecureOriginError         http:// to a host that is not this machine
    │   └── CredentialError             an access token or nonce that cannot be sent
    ├── DPoPKeyError                    the key, its file or its device
    │   ├── InvalidKeyError (ValueError)    not a key DPoP can use
    │   ├── KeyFileError                a key file that cannot be read or written
    │   ├── KeyPasswordError            the password is missing or wrong
    │   │   └── PinError                    ... the PIN of a device
    │   │       └── PinLockedError              ... which takes none any more
    │   ├── KeyNotFoundError            no key of that name where it should be kept
    │   ├── AmbiguousKeyError           several keys or devices fit one name
    │   ├── KeyAccessError              its keeper does not let this caller use it
    │   ├── KeyDisabledError            it is there, and switched off, expired or about to be deleted
    │   ├── KeyUnavailableError         its keeper cannot be reached now
    │   │   ├── KeyThrottledError       ... or wants fewer requests
    │   │   └── DeviceError             ... it is a device, which is missing, gone or out of order
    │   ├── ForkedKeyError              a device's key, in a process forked after it was opened
    │   ├── MissingExtraError (ImportError) the Python package that speaks to its keeper is not installed
    │   ├── AlgorithmError (ValueError) no algorithm both sides accept
    │   ├── SigningError                the key did not produce a good signature
    │   └── KeyMismatchError            the tokens are bound to another key; nothing was sent
    ├── TokenError                      tokens: asking for them, and keeping them
    │   ├── TokenRequestError           an authorization server was asked, and what was wanted did not come
    │   │   ├── TokenRefusedError       it refused, and asking again in the same way will not help
    │   │   │   └── ReauthorizationError    the grant is dead: the user has to authorise again
    │   │   ├── TemporaryTokenError     not now: ask again later, the refresh token is as good as it was
    │   │   ├── OutcomeUnknownError     it was asked and no answer came: it may have acted or not
    │   │   └── TokenAnswerError        what came is not the answer of a token endpoint
    │   │       └── UnboundTokenError   a bearer token came in answer to a proof
    │   └── TokenStoreError             the place where tokens are kept cannot be read or written
    │       ├── TokensNotSavedError     new tokens came and could not be kept: they are in the error
    │       ├── TokenFormatError        what is kept there is damaged, sealed, or of another version
    │       └── TokenLockError          another holds the lock of the tokens, and does not let go
    ├── UnrewindableBodyError           a request would have to be sent again, and its body is gone
    ├── InvalidProof                    a verifier refuses a proof, or what came with it
    └── ReplayCacheError                the replay cache is full or cannot be reached

``UsageError`` and ``DPoPKeyError`` are faults on this side; ``InvalidProof`` and ``TokenRequestError``
come from the peer. Each class has a stable ``code`` for programs; the text is for people and may change.
"""

from dpop.errors.keys import (
    AlgorithmError,
    AmbiguousKeyError,
    DeviceError,
    DPoPKeyError,
    ForkedKeyError,
    InvalidKeyError,
    KeyAccessError,
    KeyDisabledError,
    KeyFileError,
    KeyMismatchError,
    KeyNotFoundError,
    KeyPasswordError,
    KeyThrottledError,
    KeyUnavailableError,
    MissingExtraError,
    PinError,
    PinLockedError,
    SigningError,
)
from dpop.errors.proofs import (
    InvalidProof,
    ReplayCacheError,
    UnrewindableBodyError,
)
from dpop.errors.root import (
    ArgumentTypeError,
    CredentialError,
    DPoPError,
    EncodingError,
    InsecureOriginError,
    SignatureFormatError,
    TargetError,
    UsageError,
)
from dpop.errors.tokens import (
    OutcomeUnknownError,
    ReauthorizationError,
    TemporaryTokenError,
    TokenAnswerError,
    TokenError,
    TokenFormatError,
    TokenLockError,
    TokenRefusedError,
    TokenRequestError,
    TokensNotSavedError,
    TokenStoreError,
    UnboundTokenError,
)

__all__ = [
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
    "InvalidKeyError",
    "InvalidProof",
    "KeyAccessError",
    "KeyDisabledError",
    "KeyFileError",
    "KeyMismatchError",
    "KeyNotFoundError",
    "KeyPasswordError",
    "KeyThrottledError",
    "KeyUnavailableError",
    "MissingExtraError",
    "OutcomeUnknownError",
    "PinError",
    "PinLockedError",
    "ReauthorizationError",
    "ReplayCacheError",
    "SignatureFormatError",
    "SigningError",
    "TargetError",
    "TemporaryTokenError",
    "TokenAnswerError",
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

# Where users find them is what tracebacks say.
for _name in __all__:
    globals()[_name].__module__ = __name__
