# SPDX-License-Identifier: Apache-2.0
"""Keys: generate or load one, then call ``key.sign(data)``.

Private keys:

- :func:`generate_key` makes a key in memory; :func:`load_key` loads one from a file, bytes, a JWK or a URI.
- :class:`Key` is the protocol of every key. Write your own signer in ten lines.
- :class:`ExternalKey` is the short way to do so: a public key and a function that signs.
- :class:`SoftwareKey` is a key in memory. It can be saved and exported, and wraps a private key object you have.
- :func:`as_cryptography_key` turns any key into the object that PyJWT, joserfc and other libraries expect.
- :func:`register_scheme` lets :func:`load_key` open the URIs of another device or service.
- :data:`Password` is a password, or a function that asks for it; :data:`SignatureFormat` is ``"der"`` or ``"raw"``.
- :mod:`dpop.keys.pkcs11` has keys in TPMs, smart cards and HSMs.
- :mod:`dpop.keys.kms` has keys in AWS KMS, Google Cloud KMS and Azure Key Vault.

Public keys:

- :class:`PublicKey` reads a public key with every check, and verifies signatures.
- :func:`thumbprint` is the ``jkt`` of a JWK (RFC 7638).
- :data:`ALGORITHMS` has each signature algorithm of DPoP, as an :class:`Algorithm`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.keys._algorithms import ALGORITHMS, Algorithm, Key
    from dpop.keys._as_cryptography import as_cryptography_key
    from dpop.keys._external import ExternalKey, SignatureFormat
    from dpop.keys._pem import Password
    from dpop.keys._public import PublicKey, thumbprint
    from dpop.keys._software import SoftwareKey
    from dpop.keys._sources import SchemeLoader, generate_key, load_key, register_scheme

__all__ = [
    "ALGORITHMS",
    "Algorithm",
    "ExternalKey",
    "Key",
    "Password",
    "PublicKey",
    "SchemeLoader",
    "SignatureFormat",
    "SoftwareKey",
    "as_cryptography_key",
    "generate_key",
    "load_key",
    "register_scheme",
    "thumbprint",
]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dpop.keys._algorithms": ("ALGORITHMS", "Algorithm", "Key"),
        "dpop.keys._as_cryptography": ("as_cryptography_key",),
        "dpop.keys._external": ("ExternalKey", "SignatureFormat"),
        "dpop.keys._pem": ("Password",),
        "dpop.keys._public": ("PublicKey", "thumbprint"),
        "dpop.keys._software": ("SoftwareKey",),
        "dpop.keys._sources": ("SchemeLoader", "generate_key", "load_key", "register_scheme"),
    },
)
