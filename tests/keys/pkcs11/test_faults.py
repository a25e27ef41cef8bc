# SPDX-License-Identifier: Apache-2.0
"""What devices and their modules do wrong, each as an error that says what to do, or mended without a word."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.pkcs11_devices import PIN, in_another_process
from support.pkcs11_faults import Faults

import dpop
from dpop.errors import (
    AmbiguousKeyError,
    DeviceError,
    DPoPError,
    DPoPKeyError,
    InvalidKeyError,
    KeyNotFoundError,
    PinError,
    PinLockedError,
    SigningError,
)
from dpop.keys.pkcs11 import generate_key, list_devices, open_key
from dpop.keys.pkcs11._cryptoki import CKR, Module
from dpop.keys.pkcs11._device import Device
from dpop.keys.pkcs11._modules import close_modules, open_module

GENERAL_ERROR, DEVICE_ERROR, NOT_INITIALIZED = 0x5, 0x30, 0x190
REOPENED = [0x32, 0x60, 0x82, 0x90, 0x91, 0xB0, 0xB3, 0xE0, 0x101, 0x3]
RESTARTED = [GENERAL_ERROR, DEVICE_ERROR, NOT_INITIALIZED]


# --- the module


def test_a_module_is_told_that_threads_will_call(faults: Faults) -> None:
    """CKF_OS_LOCKING_OK: without it modules drop their locks."""
    open_key(faults.uri())
    assert faults.calls("C_Initialize") == ["C_Initialize flags=0x2 rv=0x0"]


def test_a_module_that_cannot_lock(faults: Faults) -> None:
    """It is initialised without, and called by one thread at a time; all signatures are good."""
    faults.set("C_Initialize locking=no")
    key = open_key(faults.uri())
    assert faults.calls("C_Initialize") == ["C_Initialize flags=0x2 rv=0xa", "C_Initialize flags=0x0 rv=0x0"]
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(key.sign, [b"x"] * 200))) == 200


def test_a_module_that_takes_no_arguments(faults: Faults) -> None:
    """It is started with NULL, and called by one thread at a time."""
    faults.set("C_Initialize null=only")
    key = open_key(faults.uri())
    assert faults.calls("C_Initialize") == ["C_Initialize flags=0x2 rv=0x7", "C_Initialize flags=0x0 rv=0x0"]
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(key.sign, [b"x"] * 200))) == 200


def test_a_module_that_wants_parameters(faults: Faults) -> None:
    """The message names the attribute of the URI."""
    faults.set("C_Initialize rv=0x7")
    with pytest.raises(
        DeviceError, match=r"does not start \(CKR_ARGUMENTS_BAD\).*x-init-reserved=.*configdir"
    ) as refusal:
        open_key(faults.uri())
    assert refusal.value.reason == "CKR_ARGUMENTS_BAD"


@pytest.mark.parametrize(
    ("rv", "name"), [(0x5, "CKR_GENERAL_ERROR"), (0x30, "CKR_DEVICE_ERROR"), (0x80000001, "CKR 0x80000001")]
)
def test_a_module_that_does_not_start(faults: Faults, rv: int, name: str) -> None:
    """No configuration, no reader, no service: the message says where to look."""
    faults.set(f"C_Initialize rv={rv:#x}")
    with pytest.raises(DeviceError, match=r"does not start .*check its configuration") as refusal:
        open_key(faults.uri())
    assert refusal.value.reason == name


def test_a_module_that_starts_later(faults: Faults) -> None:
    """A failed start is not remembered."""
    faults.set(f"C_Initialize rv={GENERAL_ERROR} times=1")
    with pytest.raises(DeviceError):
        open_key(faults.uri())
    open_key(faults.uri()).sign(b"x")


def test_a_module_that_others_have_started(faults: Faults) -> None:
    """It is used and never ended; an error that only a new start would mend stays an error."""
    module = Module(faults.library)
    assert module.initialize()
    key = open_key(faults.uri())
    key.sign(b"x")
    assert [line.split()[-1] for line in faults.calls("C_Initialize")] == ["rv=0x0", "rv=0x191"]
    faults.set(f"C_Sign rv={GENERAL_ERROR}")
    with pytest.raises(DeviceError, match="CKR_GENERAL_ERROR"):
        key.sign(b"x")
    close_modules()
    assert faults.calls("C_Finalize") == []
    assert module.slots()
    module.finalize()


def test_a_module_that_others_have_ended(faults: Faults) -> None:
    """It is started again, and the key goes on."""
    key = open_key(faults.uri())
    Module(faults.library).finalize()
    assert len(key.sign(b"x")) == 64
    assert len(key.sign(b"x")) == 64
    assert [line.split()[-1] for line in faults.calls("C_Login")] == ["rv=0x0", "rv=0x0"]


def test_a_function_that_is_not_there(faults: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may leave some out."""
    monkeypatch.setenv("FAULT_MISSING", "1")
    with pytest.raises(DeviceError, match="CKR_FUNCTION_NOT_SUPPORTED"):
        generate_key(faults.uri("missing"))


def test_no_token_at_all(faults: Faults) -> None:
    """The message asks for it."""
    faults.set("C_GetSlotList none=1")
    with pytest.raises(KeyNotFoundError, match=r"no device for .*inserted"):
        open_key(faults.uri())


def test_a_token_that_comes_a_moment_later(faults: Faults) -> None:
    """It is looked for again: SoftHSM's device is away while another process logs in."""
    faults.set("C_GetSlotList none=1 times=1")
    open_key(faults.uri()).sign(b"x")
    close_modules()
    faults.set(f"C_GetTokenInfo rv={GENERAL_ERROR} times=1")
    open_key(faults.uri()).sign(b"x")
    close_modules()
    faults.set(f"C_Login rv={GENERAL_ERROR} times=1")
    open_key(faults.uri()).sign(b"x")


# --- the PIN


def logins(faults: Faults) -> int:
    """How often a PIN was given."""
    return len(faults.calls("C_Login"))


def test_a_wrong_pin_is_given_once(faults: Faults) -> None:
    """Eight threads that have the same wrong one cost the device one try."""

    def work(_number: int) -> str:
        with pytest.raises(PinError) as refusal:
            open_key(faults.uri(pin=False), password="wrong-1")
        return str(refusal.value)

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(work, range(16)))
    assert sum("already refused this PIN" in text for text in told) == 15
    assert faults.calls("C_Login") == ["C_Login user=1 pin=1 rv=0xa0"]


@pytest.mark.parametrize("rv", [0xA0, 0xA1, 0xA2])
@pytest.mark.parametrize(
    ("flags", "told"),
    [(0, "does not tell"), (0x10000, "counts wrong PINs"), (0x30000, "one try is left"), (0x70000, "locked now")],
)
def test_the_tries_left_are_told(faults: Faults, rv: int, flags: int, told: str) -> None:
    """As far as the device tells, which it does by flags; in words, not by the number of the error."""
    faults.set("C_GetTokenInfo clear=0x70000", f"C_Login rv={rv} flags={flags}")
    with pytest.raises(PinError, match=told):
        open_key(faults.uri())


def test_a_locked_token_is_left_alone(faults: Faults) -> None:
    """One that says so gets no PIN; one that says so too late is told apart from a wrong PIN."""
    faults.set("C_GetTokenInfo set=0x40000")
    with pytest.raises(PinLockedError, match="SO PIN or PUK"):
        open_key(faults.uri())
    assert logins(faults) == 0
    faults.forget()
    faults.set("C_Login rv=0xa4")
    with pytest.raises(PinLockedError, match="even the right one"):
        open_key(faults.uri())
    assert logins(faults) == 1


def test_the_last_try_is_a_persons(faults: Faults, caplog: pytest.LogCaptureFixture) -> None:
    """A stored PIN is not risked; somebody who is asked is warned."""
    faults.set("C_GetTokenInfo set=0x30000")
    for source in (faults.uri(), faults.uri(pin=False) + f"&pin-value={PIN}"):
        with pytest.raises(PinError, match="would lock itself at the next wrong PIN"):
            open_key(source)
    assert logins(faults) == 0
    open_key(faults.uri(pin=False), password=lambda: PIN).sign(b"x")
    assert "one try is left before the device locks itself" in caplog.text


@pytest.mark.parametrize(
    ("rv", "told"), [(0x102, "has no PIN yet"), (0xA3, "has expired"), (0x104, "security officer")]
)
def test_other_troubles_with_pins(faults: Faults, rv: int, told: str) -> None:
    """Each says what to do."""
    faults.set(f"C_Login rv={rv:#x}")
    with pytest.raises(PinError, match=told):
        open_key(faults.uri())


def test_a_login_that_others_have_made(faults: Faults) -> None:
    """CKR_USER_ALREADY_LOGGED_IN is as good as a login."""
    faults.set("C_Login after=0x100")
    open_key(faults.uri()).sign(b"x")


def test_a_token_without_a_login(faults: Faults) -> None:
    """It gets no PIN, and none is asked for: what it shows is all there is."""
    faults.set("C_GetTokenInfo clear=0x4")
    with pytest.raises(KeyNotFoundError, match="shows no private key at all"):
        open_key(faults.uri(pin=False), password=lambda: pytest.fail("asked"))
    assert logins(faults) == 0


def test_a_token_with_a_pin_pad(faults: Faults) -> None:
    """CKF_PROTECTED_AUTHENTICATION_PATH: without a PIN of ours it asks by itself."""
    faults.set("C_GetTokenInfo set=0x100", "C_Login rv=0x50")
    with pytest.raises(SigningError, match="nobody touched it"):
        open_key(faults.uri(pin=False))
    assert faults.calls("C_Login") == ["C_Login user=1 pin=0 rv=0x50"]


def test_a_pin_for_each_signature(faults: Faults) -> None:
    """C_SignInit, the PIN with CKU_CONTEXT_SPECIFIC, C_Sign, and nothing in between."""
    faults.devices.init_device("each")
    faults.devices.make_key("k", "01", "--always-auth", device="each")
    key = open_key(faults.uri("k", device="each"))
    faults.calls()
    for _ in range(2):
        key.sign(b"x")
    each = ["C_SignInit rv=0x0", "C_Login user=2 pin=1 rv=0x0", "C_Sign length=32 rv=0x0"]
    assert faults.calls() == each * 2
    faults.set("C_Login rv=0xa0")
    for told in ("refused the PIN", "has already refused this PIN"):
        with pytest.raises(PinError, match=told):
            key.sign(b"x")
    assert logins(faults) == 1


def test_a_pin_for_each_signature_is_not_tried_by_each_thread(faults: Faults) -> None:
    """Changed meanwhile, it is refused once, however many threads sign at that moment."""
    faults.devices.init_device("threads")
    faults.devices.make_key("k", "01", "--always-auth", device="threads")
    key = open_key(faults.uri("k", device="threads"))
    faults.set("C_SignInit sleep=30", "C_Login rv=0xa0")
    faults.calls()

    def work(_number: int) -> None:
        with pytest.raises(PinError):
            key.sign(b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    assert [line for line in faults.calls("C_Login") if "user=2" in line] == ["C_Login user=2 pin=1 rv=0xa0"]


def test_a_pin_that_was_changed_meanwhile(faults: Faults) -> None:
    """A device that comes back with another PIN gets the old one once, not once for each signature."""
    key = open_key(faults.uri())
    faults.set("C_Sign rv=0x32 times=1", "C_Login rv=0xa0")
    faults.calls()
    for _ in range(3):
        with pytest.raises(PinError):
            key.sign(b"x")
    assert logins(faults) == 1


def frames(error: BaseException | None) -> Iterator[str]:
    """The local variables of each frame of an error and of what it was made from, this file's own left out."""
    if error is None:
        return
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            yield repr(trace.tb_frame.f_locals)
        trace = trace.tb_next
    yield from frames(error.__cause__)
    yield from frames(error.__context__)


def test_no_frame_of_an_error_holds_a_pin(faults: Faults) -> None:
    """Crash reporters send local variables: of a PIN that was refused, and of one for a single signature."""
    secret = "9753-secret"
    faults.devices.init_device("frames")
    faults.devices.make_key("k", "01", "--always-auth", device="frames")
    bare = faults.uri("k", device="frames", pin=False)
    key = open_key(bare, password=PIN)
    key._device._pin._known = secret.encode()
    attempts: list[Callable[[], object]] = [
        lambda: key.sign(b"x"),
        lambda: open_key(bare, password=secret),
        lambda: dpop.load_key(bare, password=lambda: secret),
        lambda: dpop.load_key(f"{bare}&pin-value={secret}"),
        lambda: generate_key(bare.replace("=k", "=new"), password=secret),
        lambda: list_devices(bare, password=secret),
    ]
    faults.set("C_Login rv=0xa0")
    for attempt in attempts:
        with pytest.raises(PinError) as raised:
            attempt()
        assert not [shown for shown in frames(raised.value) if secret in shown]
        assert secret not in str(raised.value)
        faults.forget()


# --- signing


def test_what_is_signed_is_a_digest(faults: Faults) -> None:
    """SHA-256 of whatever is given: SoftHSM signs any length, and wrongly."""
    key = open_key(faults.uri())
    faults.calls()
    for data in (b"", b"x", bytes(31), bytes(1000)):
        key.sign(data)
    assert faults.calls("C_Sign length") == ["C_Sign length=32 rv=0x0"] * 4


def test_a_token_without_ecdsa(faults: Faults) -> None:
    """It is told before anything is signed; one that hashes itself gets the bytes themselves."""
    faults.set("C_GetMechanismList only=0x1")
    with pytest.raises(DeviceError, match="has no ECDSA"):
        open_key(faults.uri())
    with pytest.raises(DeviceError, match="cannot make EC keys"):
        generate_key(faults.uri("new"))
    faults.set("C_GetMechanismList only=0x1044")
    key = open_key(faults.uri())
    with pytest.raises(DeviceError, match="CKR_MECHANISM_INVALID"):
        key.sign(b"x")  # Debian's SoftHSM has it not; the TPM has


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("length=63", "has 64 bytes, not 63"),
        ("length=65", "has 64 bytes, not 65"),
        ("length=70", "has 64 bytes, not 70"),
        ("length=0", "has 64 bytes, not 0"),
        ("flip=1", "does not verify"),
    ],
)
def test_a_signature_that_is_none(faults: Faults, rule: str, told: str) -> None:
    """It is found out here, and names the device; the next one may be good."""
    key = open_key(faults.uri())
    faults.set(f"C_Sign {rule} times=1")
    with pytest.raises(SigningError, match=rf"the device 'dpop' .*{told}"):
        key.sign(b"x")
    key.sign(b"x")


@pytest.mark.parametrize("function", ["C_SignInit", "C_Sign"])
@pytest.mark.parametrize("rv", REOPENED, ids=hex)
def test_a_lost_session_is_opened_again(faults: Faults, function: str, rv: int) -> None:
    """A device taken out and put back, a logout by others, a stuck operation: one more try, in a new session."""
    key = open_key(faults.uri())
    faults.calls()
    faults.set(f"{function} rv={rv:#x} times=1")
    assert len(key.sign(b"x")) == 64
    calls = [line.split()[0] for line in faults.calls()]
    assert calls.count(function) == 2
    assert calls.count("C_OpenSession") == calls.count("C_CloseSession") == 1
    assert "C_Finalize" not in calls


@pytest.mark.parametrize("function", ["C_SignInit", "C_Sign"])
@pytest.mark.parametrize("rv", RESTARTED, ids=hex)
def test_a_lost_device_is_started_again(faults: Faults, function: str, rv: int) -> None:
    """A TPM that was restarted answers only after C_Finalize and C_Initialize; the PIN is given again."""
    keys = [open_key(faults.uri()) for _ in range(2)]
    faults.calls()
    faults.set(f"{function} rv={rv:#x} times=1")
    for key in keys:
        assert len(key.sign(b"x")) == 64
    calls = [line.split()[0] for line in faults.calls()]
    assert calls.count("C_Finalize") == calls.count("C_Initialize") == 1
    assert calls.count("C_Login") == 1


def test_a_restart_waits_for_signatures_under_way(faults: Faults) -> None:
    """Eight threads sign while the module is started anew again and again; none fails, all verify."""
    key = open_key(faults.uri())
    loaded = open_module(faults.library)
    stop = threading.Event()

    def work(_number: int) -> int:
        done = 0
        while not stop.is_set():
            done += len(key.sign(b"x")) == 64
        return done

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(work, number) for number in range(8)]
        for _ in range(5):
            loaded._restarted_at = -10.0  # as if a second had passed
            assert loaded.restart(loaded.generation, GENERAL_ERROR)
        stop.set()
        assert sum(future.result() for future in running) > 0


def test_keys_are_opened_while_the_module_restarts(faults: Faults) -> None:
    """Who opens a key at that moment, and who signs by one, comes through or is told; nothing crashes or hangs."""
    loaded = open_module(faults.library)
    open_key(faults.uri()).sign(b"x")
    stop = threading.Event()

    def work(_number: int) -> int:
        done = 0
        while not stop.is_set():
            key = open_key(faults.uri())
            done += len(key.sign(b"x")) == 64
            key.close()
        return done

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(work, number) for number in range(4)]
        for _ in range(10):
            loaded._restarted_at = -10.0
            assert loaded.restart(loaded.generation, GENERAL_ERROR)
        stop.set()
        assert sum(future.result() for future in running) > 0


def test_restarting_has_its_measure(faults: Faults) -> None:
    """An error that stays is not answered by a restart for each signature, nor by a PIN for each."""
    key = open_key(faults.uri())
    faults.calls()
    faults.set(f"C_Sign rv={GENERAL_ERROR}")
    for _ in range(20):
        with pytest.raises(DeviceError, match="CKR_GENERAL_ERROR"):
            key.sign(b"x")
    assert len(faults.calls("C_Finalize")) <= 2
    faults.set()
    open_module(faults.library)._restarted_at = -10.0
    assert len(key.sign(b"x")) == 64


def test_a_token_that_is_taken_out(faults: Faults) -> None:
    """The error says to insert it; then the same key signs again."""
    key = open_key(faults.uri())
    for rules in (
        ["C_Sign rv=0x32"],
        ["C_SignInit rv=0x32", "C_OpenSession rv=0xe0"],
        ["C_SignInit rv=0xe0", "C_GetTokenInfo rv=0xe0"],
        ["C_SignInit rv=0xb3", "C_GetSlotList none=1", "C_GetTokenInfo rv=0x3"],
    ):
        faults.set(*rules)
        with pytest.raises(DeviceError, match="the device 'dpop' was removed; insert it") as refusal:
            key.sign(b"x")
        assert refusal.value.reason in {"CKR_DEVICE_REMOVED", "CKR_TOKEN_NOT_PRESENT"}
        faults.set()
        assert len(key.sign(b"x")) == 64


def test_another_token_gets_no_pin(faults: Faults) -> None:
    """What stands in the slot then must be the same device, by its serial number."""
    key = open_key(faults.uri())
    device: Device = key._device
    device.info = device.info._replace(serial="another")
    faults.set("C_Sign rv=0x32 times=1")
    faults.calls()
    with pytest.raises(DeviceError, match="was removed"):
        key.sign(b"x")
    assert logins(faults) == 0


@pytest.mark.parametrize(
    ("rv", "kind", "told"),
    [
        (CKR.FUNCTION_REJECTED, SigningError, "nobody touched it or agreed in time"),
        (CKR.FUNCTION_CANCELED, SigningError, "nobody touched it or agreed in time"),
        (CKR.KEY_FUNCTION_NOT_PERMITTED, SigningError, "must not sign"),
        (CKR.KEY_TYPE_INCONSISTENT, SigningError, "must not sign"),
        (CKR.MECHANISM_INVALID, DeviceError, "cannot do that with EC keys"),
        (CKR.DATA_LEN_RANGE, DeviceError, "CKR_DATA_LEN_RANGE"),
        (CKR.HOST_MEMORY, DeviceError, "CKR_HOST_MEMORY"),
        (CKR.PIN_LOCKED, PinLockedError, "locked"),
        (CKR.USER_NOT_LOGGED_IN, PinError, "load the key again"),
        (0x80001234, DeviceError, "CKR 0x80001234"),
    ],
    ids=lambda value: value.name if isinstance(value, CKR) else "",
)
def test_what_a_token_says_in_words(faults: Faults, rv: int, kind: type[DPoPKeyError], told: str) -> None:
    """Each answer has its class, names the device and keeps the number of the error; the session is given up."""
    key = open_key(faults.uri())
    faults.set(f"C_Sign rv={int(rv):#x}")
    faults.calls()
    with pytest.raises(DPoPError, match=told) as refusal:
        key.sign(b"x")
    assert type(refusal.value) is kind
    assert "'dpop'" in str(refusal.value)
    assert faults.calls("C_CloseSession")
    faults.set()
    key.sign(b"x")


def test_a_touch_does_not_stop_other_threads(faults: Faults) -> None:
    """While a device waits for a person, this process goes on."""
    key = open_key(faults.uri())
    faults.set("C_Sign sleep=300")
    signing = threading.Thread(target=key.sign, args=(b"x",))
    signing.start()
    count = 0
    while signing.is_alive():
        count += 1
    assert count > 1000


# --- sessions


def opened(faults: Faults) -> int:
    """The most sessions that were open at once since the last look."""
    return max((int(line.split("open=")[1]) for line in faults.calls("C_OpenSession")), default=0)


def test_sessions_are_opened_when_they_are_needed(faults: Faults) -> None:
    """One thread has one session; eight slow signatures at once have eight."""
    key = open_key(faults.uri())
    for _ in range(5):
        key.sign(b"x")
    assert opened(faults) == 1
    faults.set("C_Sign sleep=50")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(key.sign, [b"x"] * 32))
    assert opened(faults) == 8


def test_a_token_with_few_sessions(faults: Faults) -> None:
    """What it has is used by all; nobody fails, and nobody is refused twice."""
    faults.set("C_OpenSession most=2", "C_Sign sleep=5")
    key = open_key(faults.uri())
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(key.sign, [b"x"] * 64))) == 64
    assert key.sessions == 2
    assert len([line for line in faults.calls("C_OpenSession") if "rv=0xb1" in line]) <= 7


def test_a_token_without_a_session_left(faults: Faults) -> None:
    """It says that others hold them all."""
    faults.set("C_OpenSession most=0")
    with pytest.raises(DeviceError, match="other programs use all of them"):
        open_key(faults.uri())


def test_a_service_that_only_knows_sessions_to_write(faults: Faults) -> None:
    """Refused one to read, it is asked for one to write."""
    faults.set("C_OpenSession writable=1")
    open_key(faults.uri()).sign(b"x")
    assert [line.split()[1] for line in faults.calls("C_OpenSession")] == ["flags=0x4", "flags=0x6"]


# --- objects


@pytest.mark.parametrize("form", ["raw", "bits"])
def test_public_keys_in_other_forms(faults: Faults, form: str) -> None:
    """A bare point and a BIT STRING are the same key as an OCTET STRING."""
    expected = open_key(faults.uri()).thumbprint
    close_modules()
    faults.set(f"C_GetAttributeValue value181={form}")
    assert open_key(faults.uri()).thumbprint == expected


def test_public_keys_that_are_not_shown(faults: Faults) -> None:
    """Without an EC_POINT anywhere the caller must say; one that is damaged is no key."""
    faults.set("C_GetAttributeValue value181=none")
    with pytest.raises(KeyNotFoundError, match="shows no public key"):
        open_key(faults.uri())
    faults.set("C_GetAttributeValue value181=0441" + "04" * 65)
    with pytest.raises(InvalidKeyError, match="not a point of P-256"):
        open_key(faults.uri())


def test_a_token_that_tells_little(faults: Faults) -> None:
    """Without CKA_EC_PARAMS, CKA_SIGN, CKA_SENSITIVE and CKA_EXTRACTABLE a key signs all the same."""
    rules = [f"C_GetAttributeValue value{kind}=none" for kind in ("180", "108", "103", "162", "202")]
    faults.set(*rules)
    key = open_key(faults.uri())
    assert key.stays_in_device is None
    assert len(key.sign(b"x")) == 64


def test_a_token_that_makes_other_keys_than_it_was_told(faults: Faults) -> None:
    """One that could be taken out is destroyed again."""
    faults.set("C_GetAttributeValue value162=01")
    with pytest.raises(DeviceError, match="it was destroyed"):
        generate_key(faults.uri("loose"))
    faults.set()
    with pytest.raises(KeyNotFoundError):
        open_key(faults.uri("loose"))
    generate_key(faults.uri("loose"))
    with pytest.raises(AmbiguousKeyError):
        generate_key(faults.uri("loose"))


@pytest.mark.parametrize(
    ("rv", "told"),
    [
        (0xD1, "manufacturer's own tool"),
        (0x12, "manufacturer's own tool"),
        (0x31, "is full"),
        (0xE2, "cannot be written to"),
    ],
)
def test_a_token_that_makes_no_key(faults: Faults, rv: int, told: str) -> None:
    """Full, write-protected, or particular about attributes."""
    faults.set(f"C_GenerateKeyPair rv={rv:#x}")
    with pytest.raises(DeviceError, match=told):
        generate_key(faults.uri("none"))


# --- the end


def test_sessions_are_ended_at_exit(faults: Faults) -> None:
    """A process that ends leaves nothing open in the device."""
    code = "import dpop, sys\nkey = dpop.load_key(sys.argv[1])\nkey.sign(b'x')"
    assert in_another_process(code, faults.devices, faults.uri()).returncode == 0
    assert faults.calls()[-1] == "C_Finalize rv=0x0"


def test_a_process_ends_while_a_token_waits(faults: Faults) -> None:
    """A daemon thread in C_Sign holds up the end for two seconds at most, and nothing is ended under it."""
    faults.set("C_Sign sleep=20000")
    code = """
import dpop, sys, threading, time
key = dpop.load_key(sys.argv[1])
threading.Thread(target=key.sign, args=(b"x",), daemon=True).start()
while not key._pool._busy: time.sleep(0.01)
"""
    done = in_another_process(code, faults.devices, faults.uri())
    assert (done.returncode, done.stderr) == (0, "")
    assert not [line for line in faults.calls() if line.startswith("C_Finalize")]


def test_the_environment_holds_no_pin(faults: Faults) -> None:
    """The log of calls, which the tests rely on, has none either."""
    open_key(faults.uri()).sign(b"x")
    assert PIN not in "".join(faults.calls())
    assert PIN not in os.environ.values()
