# SPDX-License-Identifier: Apache-2.0
"""Keys in a cloud's key service: the private key never leaves the service, which signs each proof.

========================  ======================  =================================================  ==========
service                   class                   URI for :func:`dpop.load_key` and ``--key``        extra
========================  ======================  =================================================  ==========
AWS KMS                   :class:`AwsKms`         ``awskms:alias/NAME?region=REGION``                ``aws``
Google Cloud KMS          :class:`GcpKms`         ``gcpkms:projects/.../cryptoKeyVersions/1``        ``gcp``
Azure Key Vault           :class:`AzureKeyVault`  ``azurekms:https://VAULT.vault.azure.net/keys/K``  ``azure``
========================  ======================  =================================================  ==========

:func:`dpop.load_key` opens a key by its URI. If you need more settings than a URI has, give your own client to one of
the classes, and open the key with :meth:`KmsKey.open`. For another service, write a subclass of
:class:`KeyService`, or use :class:`dpop.keys.ExternalKey`. Names are imported on first use, and a cloud's own library
when one of its keys is opened.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.keys.kms._aws import AwsKms
    from dpop.keys.kms._azure import AzureKeyVault
    from dpop.keys.kms._gcp import GcpKms
    from dpop.keys.kms._service import Facts, KeyService, KmsKey

__all__ = ["AwsKms", "AzureKeyVault", "Facts", "GcpKms", "KeyService", "KmsKey"]

__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dpop.keys.kms._aws": ("AwsKms",),
        "dpop.keys.kms._azure": ("AzureKeyVault",),
        "dpop.keys.kms._gcp": ("GcpKms",),
        "dpop.keys.kms._service": ("Facts", "KeyService", "KmsKey"),
    },
)
