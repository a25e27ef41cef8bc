# SPDX-License-Identifier: Apache-2.0
"""Keys in a TPM 2.0: swtpm's, through tpm2-pkcs11. Whatever happens, the TPM must not count it as an attack."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.message_bus import message_bus
from support.pkcs11_devices import PIN, Tpm, in_another_process, module_named, program

import dpop
from dpop.errors import DeviceError, PinError, PinLockedError
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11 import _pin as pin
from dpop.keys.pkcs11 import generate_key, open_key
from dpop.keys.pkcs11._cryptoki import CKM
from dpop.keys.pkcs11._modules import close_modules


@pytest.fixture(autouse=True)
def clean(tpm: Tpm) -> Iterator[None]:
    """Each test begins and ends with a TPM in which nothing is open."""
    close_modules()
    pin._refused.clear()
    yield
    close_modules()
    tpm.flush()


def test_it_signs(tpm: Tpm) -> None:
    """The URI of a TPM's key is as good as any; one session, for a TPM does one thing at a time."""
    key = dpop.load_key(tpm.uri())
    public = PublicKey.from_jwk(key.public_jwk)
    for data in (b"", b"x", bytes(1000)):
        assert public.verify("ES256", data, key.sign(data))
    opened = open_key(tpm.uri())
    assert (opened.sessions, opened.stays_in_device, opened.device) == (1, True, "tpm")
    assert opened.thumbprint == key.thumbprint
    assert opened.reference
    assert "manufacturer=" in opened.reference


def test_a_key_is_made(tpm: Tpm) -> None:
    """The TPM takes the same template, and says that the key cannot leave."""
    key = generate_key(tpm.uri("made here"))
    assert key.stays_in_device is True
    assert len(key.sign(b"x")) == 64
    assert "never extractable" in tpm.tool("--list-objects", "--type", "privkey", "--label", "made here")


def test_the_public_key_may_be_on_the_private_one(
    tpm: Tpm, fault_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that has no public object is asked for the private object's EC_POINT."""
    expected = open_key(tpm.uri()).thumbprint
    close_modules()
    rules = tpm.directory / "rules"
    rules.write_text("C_FindObjectsInit hide=2\n")
    monkeypatch.setenv("FAULT_MODULE", tpm.module)
    monkeypatch.setenv("FAULT_RULES", str(rules))
    assert open_key(tpm.uri(module=str(fault_library))).thumbprint == expected


def test_a_token_that_hashes_itself(tpm: Tpm, fault_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where CKM_ECDSA is missing, CKM_ECDSA_SHA256 gets the bytes and makes the same kind of signature."""
    rules = tpm.directory / "rules"
    rules.write_text("C_GetMechanismList only=0x1044\n")
    monkeypatch.setenv("FAULT_MODULE", tpm.module)
    monkeypatch.setenv("FAULT_RULES", str(rules))
    key = open_key(tpm.uri(module=str(fault_library)))
    assert key._signer._mechanism is CKM.ECDSA_SHA256
    assert len(key.sign(b"any bytes")) == 64


def test_many_threads(tpm: Tpm) -> None:
    """Four threads sign at once, in one session and in four; all verify, and nothing counts as an attack."""
    before = tpm.failed_tries()
    for sessions in (None, 4):
        key = open_key(tpm.uri(), sessions=sessions)
        with ThreadPoolExecutor(4) as pool:
            assert len(set(pool.map(key.sign, [b"x"] * 80))) == 80
        key.close()
    close_modules()
    assert tpm.failed_tries() == before


def test_a_wrong_pin_costs_one_try(tpm: Tpm) -> None:
    """However often and by how many it is given; the right one works after it."""
    before = tpm.failed_tries()
    for _ in range(5):
        with pytest.raises(PinError):
            open_key(tpm.uri(pin=False), password="wrong")
    assert tpm.failed_tries() == before + 1
    assert len(open_key(tpm.uri()).sign(b"x")) == 64
    close_modules()
    tpm.clear_lockout()


def test_a_locked_tpm(tpm: Tpm) -> None:
    """After three different wrong PINs it takes the right one neither, and says so; it can be unlocked."""
    try:
        for number in range(3):
            with pytest.raises(PinError):
                open_key(tpm.uri(pin=False), password=f"wrong {number}")
        close_modules()
        with pytest.raises(PinLockedError, match="tpm2_dictionarylockout"):
            open_key(tpm.uri())
    finally:
        close_modules()
        tpm.clear_lockout()
    assert len(open_key(tpm.uri()).sign(b"x")) == 64


@pytest.mark.parametrize("module", [None, "p11-kit-proxy"])
def test_a_fork_costs_nothing(tpm: Tpm, module: str | None) -> None:
    """The child is refused before it touches the TPM, through p11-kit too; the parent signs on."""
    before = tpm.failed_tries()
    code = """
import os, sys
from dpop.errors import ForkedKeyError
from dpop.keys.pkcs11 import open_key
key = open_key(sys.argv[1])
key.sign(b"x")
child = os.fork()
if not child:
    told = 0
    for action in (lambda: key.sign(b"x"), lambda: open_key(sys.argv[1])):
        try:
            action()
        except ForkedKeyError:
            told += 1
    key.close()
    sys.exit(told)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, len(key.sign(b"x")), len(key.sign(b"x")))
"""
    uri = tpm.uri(module=None if module is None else module_named(module))
    done = in_another_process(code, tpm, uri)
    assert done.stdout.split() == ["2", "64", "64"], done
    assert tpm.failed_tries() == before


def test_a_tpm_that_is_restarted(tpm: Tpm) -> None:
    """Its sessions are gone, and the module does not notice: it is started anew, and the key signs on."""
    before = tpm.failed_tries()
    key = open_key(tpm.uri())
    tpm.stop()
    with pytest.raises(DeviceError, match="the device 'tpm'"):
        key.sign(b"x")
    tpm.start()
    key._device.loaded._restarted_at = -10.0  # as if a second had passed
    assert len(key.sign(b"x")) == 64
    tpm.stop()
    tpm.start()
    key._device.loaded._restarted_at = -10.0
    assert len(key.sign(b"x")) == 64
    close_modules()
    assert tpm.failed_tries() == before


def test_a_tpm_that_is_not_there(tpm: Tpm) -> None:
    """The module does not start, or fails: the message names it and says where to look."""
    code = "import dpop, sys\ntry:\n    dpop.load_key(sys.argv[1])\nexcept dpop.DPoPError as e:\n    print(e.code, e)"
    tpm.stop()
    try:
        done = in_another_process(code, tpm, tpm.uri())
    finally:
        tpm.start()
    assert done.stdout.startswith("device "), done
    assert "check" in done.stdout


def test_a_pin_for_each_signature(tpm: Tpm) -> None:
    """An always-authenticate key: the PIN goes with each signature."""
    tpm.make_key("each", "07", "--always-auth")
    tpm.flush()
    before = tpm.failed_tries()
    key = open_key(tpm.uri("each"))
    assert len({key.sign(b"x") for _ in range(5)}) == 5
    close_modules()
    assert tpm.failed_tries() == before


def test_others_sign_with_the_same_key(tpm: Tpm, tmp_path: Path) -> None:
    """pkcs11-tool's signature is one by our public key, and p11tool finds the key by its URI.

    OpenSSL's engine is left to SoftHSM: the TPM's software calls OpenSSL itself, and fails inside an engine.
    """
    key = open_key(tpm.uri())
    close_modules()
    tpm.flush()
    digest, signature = tmp_path / "d", tmp_path / "s"
    digest.write_bytes(hashlib.sha256(b"message").digest())
    tpm.tool(
        *("--sign", "--mechanism", "ECDSA", "--id", "01", "--signature-format", "rs"),
        *("--input-file", str(digest), "--output-file", str(signature)),
    )
    tpm.flush()
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"message", signature.read_bytes())
    name = f"pkcs11:token={tpm.label};object=dpop-es256"
    tpm.environment["GNUTLS_PIN"] = PIN
    listed = tpm.run("p11tool", "--provider", tpm.module, "--login", "--list-privkeys", name)
    assert "object=dpop-es256" in listed


# What systems have between programs and the TPM: the kernel's /dev/tpmrm0, or here tpm2-abrmd, a program that does the
# same. It drops what a dead process had open, which would else fill the TPM.
_UNDER_MANAGER = """
import os, subprocess, sys, time
daemon = [sys.argv[1], "--session", "--allow-root", f"--tcti={os.environ['TPM2_PKCS11_TCTI']}"]
manager = subprocess.Popen(daemon, stderr=subprocess.DEVNULL)
os.environ["TPM2_PKCS11_TCTI"] = os.environ["TPM2TOOLS_TCTI"] = f"{sys.argv[4]}:bus_type=session"
while subprocess.run([sys.argv[2], "properties-fixed"], capture_output=True).returncode:
    assert manager.poll() is None
endless = "import dpop, sys\\nkey = dpop.load_key(sys.argv[1])\\nprint(flush=True)\\nwhile True: key.sign(b'x')"
once = "import dpop, sys\\nprint(len(dpop.load_key(sys.argv[1]).sign(b'x')), flush=True)"
for number in range(6):
    process = subprocess.Popen([sys.executable, "-c", endless, sys.argv[3]], stdout=subprocess.PIPE)
    if number % 2:
        time.sleep(0.05 * number)  # while it starts
    else:
        process.stdout.readline()  # while it signs
    process.kill()
    process.wait()
    process.stdout.close()
    subprocess.run([sys.executable, "-c", once, sys.argv[3]], check=True)
manager.terminate()
manager.wait()
"""


def test_processes_that_are_killed(tpm: Tpm) -> None:
    """Whatever each was doing, the next one works, and nothing counts as an attack."""
    before = tpm.failed_tries()
    # Where scripts/setup unpacked tpm2-abrmd, what speaks to it is no library of the system's.
    unpacked = sorted(Path(sys.prefix, "unpacked").glob("usr/lib/*/libtss2-tcti-tabrmd.so.0"))
    tcti = str(unpacked[0]) if unpacked else "tabrmd"
    with message_bus() as address:
        done = subprocess.run(
            [
                *(sys.executable, "-c", _UNDER_MANAGER),
                *(program("tpm2-abrmd"), program("tpm2_getcap"), tpm.uri(), tcti),
            ],
            env={**os.environ, **tpm.environment, "DBUS_SESSION_BUS_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.stdout.split() == ["64"] * 6, done
    assert tpm.failed_tries() == before
