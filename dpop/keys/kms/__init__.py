# SPDX-License-Identifier: Apache-2.0
"""Keys in a cloud's key service: the private key never leaves it, and each proof is signed there.

========================  =================================================  ==========
service                   URI for :func:`dpop.load_key` and ``--key``        extra
========================  =================================================  ==========
AWS KMS                   ``awskms:alias/NAME?region=REGION``                ``aws``
Google Cloud KMS          ``gcpkms:projects/.../cryptoKeyVersions/1``        ``gcp``
Azure Key Vault           ``azurekms:https://VAULT.vault.azure.net/keys/K``  ``azure``
========================  =================================================  ==========

:mod:`dpop.keys.kms._aws`, :mod:`dpop.keys.kms._gcp` and :mod:`dpop.keys.kms._azure` say what their URIs
hold, and take a client of your own where a URI does not say enough. A cloud's library is imported when
one of its keys is first opened.
"""

from dpop.keys.kms._service import KeyService, KmsKey

__all__ = ["KeyService", "KmsKey"]
