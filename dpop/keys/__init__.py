# SPDX-License-Identifier: Apache-2.0
"""Keys: made, loaded, and asked for one thing, ``key.sign(octets)``.

- :func:`generate_key`, :func:`load_key` - a key.
- :class:`Key` - the protocol: write your own signer in ten lines.
- :class:`ExternalKey` - the same in three, from a public key and a function that signs.
- :class:`SoftwareKey` - a key in memory: save, export, wrap a private key object you have.
- :func:`as_cryptography_key` - any key, as PyJWT, joserfc and others want it.
- :mod:`dpop.keys.pkcs11` - keys in TPMs, smart cards and HSMs.
- :mod:`dpop.keys.kms` - keys in AWS KMS, Google Cloud KMS and Azure Key Vault.
- :mod:`dpop.keys._public` - public keys, for whoever verifies.
- :func:`register_scheme` - let load_key open URIs of a device or service.
"""

from dpop.keys._algorithms import ALGORITHMS, Key
from dpop.keys._as_cryptography import as_cryptography_key
from dpop.keys._external import ExternalKey
from dpop.keys._pem import Password
from dpop.keys._public import PublicKey, thumbprint
from dpop.keys._software import SoftwareKey
from dpop.keys._sources import SchemeLoader, generate_key, load_key, register_scheme

__all__ = [
    "ALGORITHMS",
    "ExternalKey",
    "Key",
    "Password",
    "PublicKey",
    "SchemeLoader",
    "SoftwareKey",
    "as_cryptography_key",
    "generate_key",
    "load_key",
    "register_scheme",
    "thumbprint",
]
