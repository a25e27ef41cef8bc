# SPDX-License-Identifier: Apache-2.0
"""Keys that never leave their hardware (TPM, HSM, smart card), used through PKCS#11.

- ``load_key("pkcs11:token=…;object=…")`` opens a key; :func:`open_key` has more options.
- :func:`generate_key` makes a key pair in the device.
- :func:`list_devices` lists the devices and the keys in them.
- :class:`Pkcs11Key` is a key in a device.
- :class:`Pkcs11Uri` names a key (RFC 7512), and the module that reaches it.
- :func:`close_modules` ends the drivers of this process before the process ends.

PKCS#11 calls a device a token. This package says device, because elsewhere in it a token is an access token.
"""

from dpop.keys.pkcs11._inventory import DeviceReport, KeyReport, list_devices
from dpop.keys.pkcs11._key import Pkcs11Key, generate_key, open_key
from dpop.keys.pkcs11._modules import close_modules
from dpop.keys.pkcs11._uri import Pkcs11Uri

__all__ = [
    "DeviceReport",
    "KeyReport",
    "Pkcs11Key",
    "Pkcs11Uri",
    "close_modules",
    "generate_key",
    "list_devices",
    "open_key",
]
