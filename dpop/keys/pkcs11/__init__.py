# SPDX-License-Identifier: Apache-2.0
"""Keys that never leave their hardware: TPM, HSM, smart card, through PKCS#11.

- ``load_key("pkcs11:token=…;object=…")`` opens one; :func:`open_key` does too, with more options.
- :func:`generate_key` - a new pair, made in the device.
- :func:`list_devices` - which devices there are, and which keys in them.
- :class:`Pkcs11Uri` - how a key is named (RFC 7512), and how the module that reaches it.
- :mod:`dpop.keys.pkcs11._cryptoki` - the binding, with nothing of DPoP in it.
"""

from dpop.keys.pkcs11._inventory import DeviceReport, KeyReport, list_devices
from dpop.keys.pkcs11._key import Pkcs11Key, generate_key, load, open_key
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = [
    "DeviceReport",
    "KeyReport",
    "Pkcs11Key",
    "Pkcs11Uri",
    "generate_key",
    "list_devices",
    "load",
    "open_key",
]
