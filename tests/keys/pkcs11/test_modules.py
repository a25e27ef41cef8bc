# SPDX-License-Identifier: Apache-2.0
"""Modules of a process: which one is meant, what is no module, and that what is at its end stays so."""

from __future__ import annotations

import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.forking import in_child
from support.pkcs11_devices import PIN, SoftHsm, in_another_process, module_named
from support.pkcs11_faults import Faults

from dpop.errors import DeviceError, DPoPKeyError
from dpop.keys.pkcs11 import open_key
from dpop.keys.pkcs11._cryptoki import CKR, CryptokiError
from dpop.keys.pkcs11._key import _open
from dpop.keys.pkcs11._modules import close_modules, find_module, open_module
from dpop.keys.pkcs11._pin import Pin
from dpop.keys.pkcs11._uri import Pkcs11Uri


def test_which_module_is_meant() -> None:
    """The URI's path, its name, the environment's, and p11-kit's for all, in this order."""
    environment = {"PKCS11_MODULE": "/of/environment.so"}
    assert find_module(Pkcs11Uri(module_path="/of/uri.so"), environment) == "/of/uri.so"
    assert "softhsm2" in find_module(Pkcs11Uri(module_name="softhsm2"), environment)
    assert find_module(Pkcs11Uri(), environment) == "/of/environment.so"
    for empty in ({}, {"PKCS11_MODULE": ""}):
        assert "p11-kit-proxy" in find_module(Pkcs11Uri(), empty)
    assert module_named("tpm2_pkcs11").endswith(("libtpm2_pkcs11.so", "libtpm2_pkcs11.so.1"))


def test_a_name_that_no_module_has() -> None:
    """It is not looked for elsewhere, and the message asks for a path."""
    with pytest.raises(DeviceError, match="give its module-path"):
        find_module(Pkcs11Uri(module_name="no-such-module"), {})


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot open shared object file"), (b"", "file too short"), (b"text\n" * 40, "invalid ELF")],
)
def test_a_file_that_is_no_library(tmp_path: Path, content: bytes | None, told: str) -> None:
    """Missing, empty or something else: the path and what the system says of it."""
    path = tmp_path / "module.so"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeviceError, match=told) as refusal:
        open_key(f"pkcs11:token=t?module-path={path}")
    assert str(path) in str(refusal.value)


def test_a_library_that_is_no_module() -> None:
    """libc has no C_GetFunctionList."""
    with pytest.raises(DeviceError, match="so not a PKCS#11 module"):
        open_key("pkcs11:token=t?module-path=/lib/x86_64-linux-gnu/libc.so.6".replace("x86_64-linux-gnu", _libc()))


def _libc() -> str:
    return next(path.parent.name for path in Path("/lib").glob("*/libc.so.6"))


def test_a_module_without_functions(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """C_GetFunctionList may fail."""
    monkeypatch.setenv("FAULT_MODULE", "/nonexistent.so")
    with pytest.raises(DeviceError, match="gives no functions"):
        open_key(faults.uri())


def test_a_module_is_one_whatever_its_path(softhsm: SoftHsm, tmp_path: Path) -> None:
    """A link leads to the same: it is initialised once."""
    link = tmp_path / "link.so"
    link.symlink_to(softhsm.module)
    assert open_module(str(link)) is open_module(softhsm.module)
    open_key(softhsm.uri(module=str(link))).sign(b"x")


def test_a_module_is_one_by_what_it_is(faults: Faults, tmp_path: Path) -> None:
    """The system loads one library for two names of one file, so it is started once for both."""
    other = tmp_path / "other-name.so"
    other.hardlink_to(faults.library)
    assert open_module(str(other)) is open_module(faults.library)
    assert len(faults.calls("C_Initialize")) == 1
    open_key(faults.devices.uri(module=str(other))).sign(b"x")


_TWO_WAYS = """
import sys, threading, time
from dpop.errors import DPoPError
from dpop.keys.pkcs11 import close_modules, open_key
from dpop.keys.pkcs11._cryptoki import CKR
from dpop.keys.pkcs11._modules import open_module
direct, proxy = (open_key(uri) for uri in sys.argv[1:3])
signed, stop = [], threading.Event()

def work(key):
    while not stop.is_set():
        signed.append(len(key.sign(b"x")))

threads = [threading.Thread(target=work, args=(key,)) for key in (direct, proxy) * 2]
for thread in threads:
    thread.start()
for key in (direct, proxy) * 10:
    loaded = key._device.loaded
    loaded._restarted_at = -10.0
    loaded.restart(loaded.generation, CKR.DEVICE_ERROR)
    time.sleep(0.01)
stop.set()
for thread in threads:
    thread.join()
print(set(signed), open_key(sys.argv[1]).device)
"""


def test_one_library_in_two_ways(softhsm: SoftHsm) -> None:
    """By its path, and through p11-kit's proxy: neither way ends the module under signatures of the other."""
    uris = softhsm.uri(), softhsm.uri(module=module_named("p11-kit-proxy"))
    done = in_another_process(_TWO_WAYS, softhsm, *uris)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["{64} dpop"]), done


_TWO_WAYS_AT_THE_END = """
import sys, threading, time
from dpop.errors import DPoPError
from dpop.keys.pkcs11 import open_key
keys = [open_key(uri) for uri in sys.argv[1:3]]

def work(key):
    while True:
        try:
            key.sign(b"x")
        except DPoPError:
            time.sleep(0.001)

for key in keys * 2:
    threading.Thread(target=work, args=(key,), daemon=True).start()
time.sleep(0.05)
"""


def test_one_library_in_two_ways_at_the_end_of_a_program(softhsm: SoftHsm) -> None:
    """Both are at rest before the first of them is ended, and no signature is being checked, which would abort."""
    uris = softhsm.uri(), softhsm.uri(module=module_named("p11-kit-proxy"))
    for _ in range(10):
        done = in_another_process(_TWO_WAYS_AT_THE_END, softhsm, *uris)
        assert done.returncode == 0, done


def test_keys_of_modules_that_were_ended(softhsm: SoftHsm) -> None:
    """They say so, and do not start the module again; a new key does."""
    key = open_key(softhsm.uri())
    close_modules()
    with pytest.raises(DPoPKeyError, match="closed; load it again"):
        key.sign(b"x")
    assert len(open_key(softhsm.uri()).sign(b"x")) == 64


def test_keys_of_modules_that_were_ended_close_no_other_keys_sessions(faults: Faults) -> None:
    """A module that starts again gives the same numbers anew, and some crash where a session that signs is closed."""
    closed, collected = open_key(faults.uri()), open_key(faults.uri())
    close_modules()
    key = open_key(faults.uri())
    faults.calls()
    closed.close()
    del collected
    gc.collect()
    assert len(key.sign(b"x")) == 64
    assert [line.partition("(")[0].split()[0] for line in faults.calls()] == ["C_SignInit", "C_Sign"]


def test_a_number_that_another_session_has_by_now(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that was away gives numbers anew: who held one neither signs in the new session nor closes it."""
    key = open_key(softhsm.uri())
    loaded = open_module(softhsm.module)
    (session,) = key._pool._idle
    closed: list[int] = []
    monkeypatch.setattr(loaded.module, "close_session", closed.append)
    monkeypatch.setattr(loaded.module, "open_session", lambda *_slot, **_kind: int(session.handle))
    with loaded.lock:
        newer = loaded.open_session(0, writable=False)
    with pytest.raises(CryptokiError, match="SESSION_HANDLE_INVALID"):
        session.sign(bytes(32))
    session.close()
    assert closed == []
    loaded.close_session(newer)
    assert closed == [newer]
    assert len(key.sign(b"x")) == 64


def test_a_module_is_not_ended_under_a_call(faults: Faults) -> None:
    """Who holds the lock is in the module, waiting for a PIN perhaps: at exit it is left as it is, after a while."""
    loaded = open_module(faults.library)
    faults.calls()
    with ThreadPoolExecutor(1) as another:
        another.submit(loaded.lock.acquire).result()
        close_modules(timeout=0.01)
        another.submit(loaded.lock.release).result()
    assert faults.calls("C_Finalize") == []
    loaded.module.finalize()


def test_a_key_that_is_opened_while_its_module_is_ended(faults: Faults) -> None:
    """It is ended with the others, is no reason to start the module again, and never meets C_Finalize in a call."""
    open_key(faults.uri())
    faults.set("C_FindObjectsInit sleep=300 times=1")
    faults.calls()
    with ThreadPoolExecutor(1) as another:
        opening = another.submit(open_key, faults.uri())
        while not faults.has_called("C_Login") and not faults.has_called("C_OpenSession"):
            time.sleep(0.001)
        close_modules()
        key = opening.result()
    with pytest.raises(DPoPKeyError, match="closed; load it again"):
        key.sign(b"x")
    calls = [line.split()[0] for line in faults.calls()]
    assert calls[-1] == "C_Finalize", calls
    assert calls.count("C_Finalize") == 1


def test_work_that_waits_while_its_module_is_ended(faults: Faults) -> None:
    """Who has the module in hand, and is not in it yet, does not begin any more."""
    loaded = open_module(faults.library)
    close_modules()
    faults.calls()
    with pytest.raises(DeviceError, match="was ended"), loaded.lock:
        loaded.open_session(0, writable=False)
    with pytest.raises(DeviceError, match="was ended"):
        loaded.recovering(lambda: _open(loaded, Pkcs11Uri.parse(faults.uri()), Pin(PIN, Pkcs11Uri()), None, None))
    assert not loaded.refresh()
    assert not loaded.restart(loaded.generation, CKR.CRYPTOKI_NOT_INITIALIZED)
    assert faults.calls() == []


_OPENS_KEYS_AT_THE_END = """
import sys, threading, time
from dpop.errors import DPoPError
from dpop.keys.pkcs11 import open_key
uri = sys.argv[1]
open_key(uri)

def work():
    while True:
        try:
            open_key(uri).sign(b"x")
        except DPoPError:
            time.sleep(0.001)

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
time.sleep(float(sys.argv[2]))
"""


def test_programs_that_end_while_threads_open_keys(faults: Faults) -> None:
    """None crashes, none leaves a file of the device cut, and C_Finalize is the last that the module hears."""
    for number in range(10):
        done = in_another_process(_OPENS_KEYS_AT_THE_END, faults.devices, faults.uri(), str(number / 50))
        assert (done.returncode, done.stderr) == (0, "")
        calls = [line.split()[0] for line in faults.calls()]
        assert calls[-1] == "C_Finalize"
        assert calls.count("C_Initialize") == 1
    assert all(path.stat().st_size for path in faults.devices.directory.rglob("*.object"))


def test_a_fork_waits_for_a_signature(faults: Faults) -> None:
    """The child inherits the locks of the module's own code, and nobody there would release them."""
    key = open_key(faults.uri())
    faults.set("C_Sign sleep=300")
    faults.calls()
    with ThreadPoolExecutor(1) as another:
        signing = another.submit(key.sign, b"x")
        while not faults.has_called("C_SignInit"):
            time.sleep(0.001)
        at_rest = in_child(lambda: b"yes" if faults.has_called("C_Sign ") else b"no")
        assert len(signing.result()) == 64
    assert at_rest == b"yes"
    assert len(key.sign(b"x")) == 64


def test_a_fork_waits_for_a_key_that_is_opened(faults: Faults) -> None:
    """Opening one is many calls; the child begins after the last."""
    open_key(faults.uri())
    faults.set("C_FindObjectsInit sleep=300 times=1")
    faults.calls()
    with ThreadPoolExecutor(1) as another:
        opening = another.submit(open_key, faults.uri())
        while not faults.has_called("C_OpenSession"):
            time.sleep(0.001)
        at_rest = in_child(lambda: b"yes" if faults.has_called("C_FindObjectsInit") else b"no")
        assert len(opening.result().sign(b"x")) == 64
    assert at_rest == b"yes"


def test_a_fork_does_not_wait_for_a_person(faults: Faults) -> None:
    """A prompt for a PIN holds it up for two seconds, not for as long as somebody looks for the PIN."""
    asked, answer = threading.Event(), threading.Event()

    def prompt() -> str:
        asked.set()
        answer.wait(30)
        return PIN

    with ThreadPoolExecutor(1) as another:
        opening = another.submit(open_key, faults.uri(pin=False), password=prompt)
        assert asked.wait(30)
        assert in_child(lambda: b"forked") == b"forked"
        answer.set()
        assert len(opening.result().sign(b"x")) == 64


_FORKS_WHILE_KEYS_SIGN = """
import os, signal, sys, threading, time, warnings
from dpop.keys.pkcs11 import open_key
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 on: a fork with threads may deadlock
key = open_key(sys.argv[1])

def work():
    while True:
        key.sign(b"x")

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
for _ in range(40):
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        sys.exit(0)
    ended = os.waitpid(child, 0)[1]
    if ended:
        sys.exit(f"a child ended with {ended}")
"""


def test_children_forked_while_a_key_signs_come_to_their_end(softhsm: SoftHsm) -> None:
    """None waits for ever in a lock of the module that a thread of its parent held."""
    done = in_another_process(_FORKS_WHILE_KEYS_SIGN, softhsm, softhsm.uri())
    assert (done.returncode, done.stderr) == (0, "")


def test_a_module_that_is_not_configured(softhsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    """SoftHSM without its configuration does not start, and the reason is what it said."""
    close_modules()
    monkeypatch.setenv("SOFTHSM2_CONF", "/nonexistent")
    with pytest.raises(DeviceError) as refusal:
        open_key(softhsm.uri())
    assert refusal.value.reason == "CKR_GENERAL_ERROR"
    monkeypatch.setenv("SOFTHSM2_CONF", softhsm.environment["SOFTHSM2_CONF"])
    assert os.environ["SOFTHSM2_CONF"]
    assert len(open_key(softhsm.uri()).sign(b"x")) == 64
