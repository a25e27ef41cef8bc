# SPDX-License-Identifier: Apache-2.0
"""The binding: what it says is what the module says, and its structures are those of the C header."""

from __future__ import annotations

import ctypes
import subprocess
import threading
from pathlib import Path

import pytest
from support.pkcs11_devices import PIN, SoftHsm, program
from support.pkcs11_faults import Faults

from dpop.keys.pkcs11 import _cryptoki_types as interface
from dpop.keys.pkcs11._cryptoki import CKA, CKF, CKM, CKO, CKR, CKU, CryptokiError, Module
from dpop.keys.pkcs11._modules import open_module


@pytest.fixture
def module(softhsm: SoftHsm) -> Module:
    """SoftHSM, initialised."""
    return open_module(softhsm.module).module


@pytest.fixture
def slot(softhsm: SoftHsm, module: Module) -> int:
    """Where the first device is."""
    return next(slot for slot in module.slots() if module.token_info(slot).label == softhsm.label)


def test_what_a_module_says_of_itself(softhsm: SoftHsm, module: Module, slot: int) -> None:
    """Texts without their padding, versions, flags; a limit that is none is None."""
    assert module.info()[:2] == ("SoftHSM", "Implementation of PKCS11")
    info = module.token_info(slot)
    assert (info.label, info.manufacturer, info.model) == (softhsm.label, "SoftHSM project", "SoftHSM v2")
    assert info.flags & CKF.TOKEN_INITIALIZED
    assert info.max_sessions is None
    assert module.slot_info(slot).manufacturer == "SoftHSM project"
    assert {CKM.ECDSA, CKM.EC_KEY_PAIR_GEN} <= module.mechanisms(slot)


def test_errors_have_their_function_and_name(module: Module) -> None:
    """And no argument: one could be a PIN."""
    with pytest.raises(CryptokiError) as error:
        module.close_session(987654)
    assert (error.value.function, error.value.rv) == ("C_CloseSession", CKR.SESSION_HANDLE_INVALID)
    assert str(error.value) == "C_CloseSession returned CKR_SESSION_HANDLE_INVALID"
    assert str(CryptokiError("C_Sign", 0x80000001)) == "C_Sign returned CKR 0x80000001"


def test_a_wrong_pin_is_in_no_error(module: Module, slot: int) -> None:
    """What C_Login got is not in what it raises."""
    session = module.open_session(slot)
    with pytest.raises(CryptokiError, match="CKR_PIN_INCORRECT") as error:
        module.login(session, CKU.USER, b"wrong-9753")
    assert "9753" not in repr(error.value)
    assert not module.is_logged_in(session)
    module.login(session, CKU.USER, PIN.encode())
    assert module.is_logged_in(session)
    module.close_session(session)


def test_more_objects_than_come_at_once(softhsm: SoftHsm, module: Module, slot: int) -> None:
    """A search is asked on until nothing more comes; another one may follow, in the same session."""
    session = module.open_session(slot, writable=True)
    module.login(session, CKU.USER, PIN.encode())
    for _ in range(70):
        module.generate_key_pair(
            session,
            CKM.EC_KEY_PAIR_GEN,
            {CKA.EC_PARAMS: bytes.fromhex("06082a8648ce3d030107"), CKA.LABEL: b"many"},
            {CKA.SIGN: True, CKA.LABEL: b"many"},
        )
    for _ in range(2):
        assert len(module.find_objects(session, {CKA.CLASS: CKO.PUBLIC_KEY, CKA.LABEL: b"many"})) == 70
    assert module.find_objects(session, {CKA.LABEL: b"no such"}) == []
    module.close_session(session)


def test_attributes(softhsm: SoftHsm, module: Module, slot: int) -> None:
    """Octets as they are; None for one that is secret, or not there."""
    session = module.open_session(slot)
    module.login(session, CKU.USER, PIN.encode())
    (handle,) = module.find_objects(session, {CKA.CLASS: CKO.PRIVATE_KEY, CKA.ID: b"\1"})
    assert module.attribute(session, handle, CKA.ID) == b"\1"
    assert module.attribute(session, handle, CKA.VALUE) is None
    assert module.attribute(session, handle, CKA.EC_POINT) is None
    with pytest.raises(CryptokiError, match="OBJECT_HANDLE_INVALID"):
        module.attribute(session, 123456, CKA.ID)
    module.close_session(session)


def test_one_call_at_a_time(faults: Faults) -> None:
    """A module that cannot lock is never in two functions at once."""
    faults.set("C_Initialize locking=no")
    module = Module(faults.library)
    assert module.initialize()
    inside, most = 0, 0

    def count(*_arguments: object) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        threading.Event().wait(0.002)
        inside -= 1
        return 0

    module._functions = {"C_CloseSession": count}
    module._call_one_at_a_time()
    threads = [threading.Thread(target=module.close_session, args=(1,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    Module(faults.library).finalize()


def test_a_module_that_asks_for_too_much(faults: Faults) -> None:
    """Lengths and counts that no device has are an error, and cost no memory."""
    module = Module(faults.library)

    def lengths(_session: int, _handle: int, attribute: object, _count: int) -> int:
        attribute._obj.length = 1 << 60  # type: ignore[attr-defined]
        return 0

    def counts(_first: int, _numbers: object, count: object) -> int:
        count._obj.value = 1 << 40  # type: ignore[attr-defined]
        return 0

    def endless(_session: int, _batch: object, _most: int, count: object) -> int:
        count._obj.value = 64  # type: ignore[attr-defined]
        return 0

    module._functions |= {"C_GetAttributeValue": lengths, "C_GetSlotList": counts, "C_FindObjects": endless}
    module._functions |= dict.fromkeys(("C_FindObjectsInit", "C_FindObjectsFinal"), lambda *_: 0)
    with pytest.raises(CryptokiError, match="CKR_HOST_MEMORY"):
        module.attribute(1, 2, CKA.LABEL)
    with pytest.raises(CryptokiError, match="CKR_HOST_MEMORY"):
        module.slots()
    assert 10_000 <= len(module.find_objects(1, {})) < 11_000


_SIZES = r"""
#include <stdio.h>
#include <stddef.h>
typedef unsigned long ul; typedef unsigned char oc;
struct version { oc major, minor; };
struct info { struct version v; oc m[32]; ul flags; oc d[32]; struct version l; };
struct slot { oc d[64], m[32]; ul flags; struct version h, f; };
struct token { oc l[32], m[32], mo[16], s[16]; ul flags, n[10]; struct version h, f; oc t[16]; };
struct session { ul slot, state, flags, error; };
struct attribute { ul type; void *value; ul length; };
struct arguments { void *mutexes[4]; ul flags; void *reserved; };
struct list { struct version v; void *f[68]; };
int main(void) {
  printf("%zu %zu %zu %zu %zu %zu %zu %zu %zu\n", sizeof(struct info), sizeof(struct slot), sizeof(struct token),
         sizeof(struct session), sizeof(struct attribute), sizeof(struct arguments), sizeof(struct list),
         offsetof(struct token, t), offsetof(struct list, f));
}
"""


def test_structures_are_as_a_compiler_lays_them_out(tmp_path: Path) -> None:
    """Those of PKCS #11 v2.40, section 3, in C."""
    (tmp_path / "sizes.c").write_text(_SIZES)
    subprocess.run([program("cc"), "-o", tmp_path / "sizes", tmp_path / "sizes.c"], check=True)
    told = subprocess.run([tmp_path / "sizes"], capture_output=True, text=True, check=True).stdout.split()
    structures = (
        *(interface.Info, interface.RawSlotInfo, interface.RawTokenInfo, interface.SessionInfo),
        *(interface.Attribute, interface.InitializeArguments, interface.FunctionList),
    )
    ours = [ctypes.sizeof(structure) for structure in structures]
    offsets = [interface.RawTokenInfo.utc_time.offset, interface.FunctionList.functions.offset]
    assert [int(size) for size in told] == ours + offsets
