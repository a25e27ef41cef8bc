# SPDX-License-Identifier: Apache-2.0
"""The software device of NSS, which Firefox and many Linux programs use, and which wants parameters to start."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from ctypes import byref, c_char_p, c_ulong
from pathlib import Path
from urllib.parse import quote

import pytest
from support.pkcs11_devices import PIN, module_named

from dpop.errors import DeviceError, KeyNotFoundError
from dpop.keys.pkcs11 import close_modules, generate_key, list_devices, open_key
from dpop.keys.pkcs11._cryptoki import CKF, CKR, Module
from dpop.keys.pkcs11._cryptoki_types import FunctionList

_C_INIT_PIN, _SECURITY_OFFICER = 10, 0


@pytest.fixture
def query(tmp_path: Path) -> Iterator[str]:
    """What stands behind the question mark of URIs for a new database with a PIN."""
    module = Module(module_named("softokn3"))
    parameters = f"configdir='sql:{tmp_path}' certPrefix='' keyPrefix='' secmod='secmod.db'"
    module.initialize(parameters)
    slot = next(slot for slot in module.slots() if module.token_info(slot).label == "NSS Certificate DB")
    session = module.open_session(slot, writable=True)
    functions = ctypes.POINTER(FunctionList)()
    assert module._library.C_GetFunctionList(byref(functions)) == CKR.OK
    init_pin = ctypes.CFUNCTYPE(c_ulong, c_ulong, c_char_p, c_ulong)(functions.contents.functions[_C_INIT_PIN])
    assert module._functions["C_Login"](session, _SECURITY_OFFICER, ctypes.c_char_p(b""), 0) == CKR.OK
    assert init_pin(session, PIN.encode(), len(PIN)) == CKR.OK
    assert module.token_info(slot).flags & CKF.TOKEN_INITIALIZED
    module.finalize()
    yield f"?module-path={quote(module.path)}&x-init-reserved={quote(parameters, safe='')}"
    close_modules()


def test_a_key_in_a_database_of_nss(query: str) -> None:
    """Made, opened again by what it says of itself, and used; it is listed with its device."""
    key = generate_key(f"pkcs11:token=NSS%20Certificate%20DB;object=dpop{query}", password=PIN)
    assert key.reference is not None
    close_modules()
    again = open_key(key.reference, password=PIN)
    assert (again.thumbprint, again.device) == (key.thumbprint, "NSS Certificate DB")
    assert len(again.sign(b"x")) == 64
    listed = list_devices(f"pkcs11:token=NSS%20Certificate%20DB{query}", password=PIN)
    assert [[each.thumbprint for each in device.keys] for device in listed] == [[key.thumbprint]]


def test_nss_without_its_parameters(query: str) -> None:
    """The message says which attribute of the URI takes them; newer modules start, and show no key."""
    with pytest.raises(
        (DeviceError, KeyNotFoundError), match=r"(CKR_ARGUMENTS_BAD|no private key at all).*x-init-reserved="
    ):
        open_key("pkcs11:token=NSS%20Certificate%20DB;object=dpop" + query.partition("&")[0], password=PIN)


def test_a_module_runs_with_one_set_of_parameters(query: str) -> None:
    """Another would have no effect while it runs, so it is refused; a URI without any is content with those."""
    uri = "pkcs11:token=NSS%20Certificate%20DB;object=dpop"
    key = generate_key(uri + query, password=PIN)
    assert open_key(uri + query.partition("&")[0], password=PIN).thumbprint == key.thumbprint
    with pytest.raises(DeviceError, match="another x-init-reserved"):
        open_key(f"{uri}{query}%20more", password=PIN)
