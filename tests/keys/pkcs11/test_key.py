# SPDX-License-Identifier: Apache-2.0
"""Keys in a PKCS#11 device, on SoftHSM: opened, made, used by many threads, and checked by other programs."""

from __future__ import annotations

import copy
import datetime as dt
import gc
import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import ECKey
from support.pkcs11_devices import KEY, PIN, SoftHsm, in_another_process

import dpop
from dpop.encoding import b64url_decode
from dpop.errors import (
    AlgorithmError,
    AmbiguousKeyError,
    ArgumentTypeError,
    DPoPKeyError,
    InvalidKeyError,
    KeyNotFoundError,
    KeyPasswordError,
    PinError,
    UsageError,
)
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11 import Pkcs11Key, generate_key, list_devices, open_key
from dpop.keys.pkcs11._cryptoki import CKA, CKM, CKO, CryptokiError, Template
from dpop.keys.pkcs11._modules import close_modules, open_module
from dpop.keys.pkcs11._objects import P256_PARAMS
from dpop.keys.pkcs11._uri import Pkcs11Uri


@pytest.fixture
def key(softhsm: SoftHsm) -> Pkcs11Key:
    """The first key, opened."""
    return open_key(softhsm.uri())


def name_of(key: Pkcs11Key) -> str:
    """Its URI, without how to reach it."""
    return (key.reference or "").partition("?")[0]


# --- opening and signing


def test_load_key_opens_a_uri(softhsm: SoftHsm) -> None:
    """A key in a device takes the place of a file, with one string changed."""
    key = dpop.load_key(softhsm.uri())
    assert isinstance(key, Pkcs11Key)
    assert (key.alg, key.blocking, key.stays_in_device) == ("ES256", True, True)
    assert key.thumbprint == dpop.thumbprint(key.public_jwk)
    assert set(key.public_jwk) == {"kty", "crv", "x", "y"}
    proof = dpop.create_proof(key, "GET", "https://api.example/")
    assert proof.count(".") == 2


def test_signatures_verify(key: Pkcs11Key) -> None:
    """Raw R||S of 64 bytes, hashed by the key, of any bytes; joserfc agrees on the public key."""
    public = PublicKey.from_jwk(key.public_jwk)
    for data in (b"", b"x", bytes(32), bytes(1000)):
        signature = key.sign(data)
        assert len(signature) == 64
        assert public.verify("ES256", data, signature)
    assert ECKey.import_key({**key.public_jwk}).thumbprint() == key.thumbprint


def test_what_is_signed_are_bytes(key: Pkcs11Key) -> None:
    """A str is refused as it is by other keys."""
    with pytest.raises(ArgumentTypeError):
        key.sign("text")  # type: ignore[arg-type]


def test_the_pin_may_come_in_any_way(softhsm: SoftHsm, caplog: pytest.LogCaptureFixture) -> None:
    """A string, bytes, a function, a file: with and without file:, and the URI itself, with a warning."""
    bare = softhsm.uri(pin=False)
    file = softhsm.pin_file
    thumbprints = {
        open_key(bare, password=PIN).thumbprint,
        open_key(bare, password=PIN.encode()).thumbprint,
        open_key(bare, password=lambda: PIN).thumbprint,
        open_key(f"{bare}&pin-source={file}").thumbprint,
        open_key(f"{bare}&pin-source=file:{file}").thumbprint,
        open_key(f"{bare}&pin-source=file://{file}").thumbprint,
    }
    assert not caplog.records
    thumbprints.add(open_key(f"{bare}&pin-value={PIN}").thumbprint)
    assert len(thumbprints) == 1
    assert "pin-source" in caplog.text


def test_a_pin_is_given_once(softhsm: SoftHsm) -> None:
    """A password beside a PIN in the URI is one too many; a function is not asked then."""
    with pytest.raises(KeyPasswordError, match="twice"):
        open_key(softhsm.uri(), password=PIN)
    open_key(softhsm.uri(), password=lambda: pytest.fail("asked"))


def test_only_es256(softhsm: SoftHsm) -> None:
    """Another algorithm is refused; ES256 may be named."""
    assert dpop.load_key(softhsm.uri(), alg="ES256").alg == "ES256"
    with pytest.raises(AlgorithmError, match="ES256"):
        dpop.load_key(softhsm.uri(), alg="ES384")


def test_the_key_names_itself(softhsm: SoftHsm, key: Pkcs11Key) -> None:
    """Its URI names the device by all that it tells, and the key by label and id; it opens the key again."""
    named = Pkcs11Uri.parse(name_of(key))
    assert (named.token, named.object, named.id, named.model) == ("dpop", KEY, b"\x01", "SoftHSM v2")
    assert named.serial
    again = open_key(f"{name_of(key)}?module-path={softhsm.module}&pin-source={softhsm.pin_file}")
    assert again.thumbprint == key.thumbprint
    assert key.device == "dpop"
    assert dpop.load_key(key.reference or "").thumbprint == key.thumbprint
    by_value = open_key(f"{name_of(key)}?module-path={softhsm.module}&pin-value={PIN}")
    assert by_value.reference == f"{name_of(key)}?module-path={softhsm.module}"


def test_no_secret_shows(softhsm: SoftHsm, caplog: pytest.LogCaptureFixture) -> None:
    """The PIN is in no repr, no log and nothing that vars() or dir() lead to at once."""
    pin = "9753-secret-pin"
    softhsm.init_device("other pin")
    softhsm.tool("--change-pin", "--new-pin", pin, device="other pin")
    softhsm.run(
        *("pkcs11-tool", "--module", softhsm.module, "--token-label", "other pin", "--login", "--pin", pin),
        *("--keypairgen", "--key-type", "EC:prime256v1", "--label", "k", "--id", "01"),
    )
    key = open_key(softhsm.uri("k", device="other pin", pin=False) + f"&pin-value={pin}")
    key.sign(b"x")
    for shown in (
        repr(key),
        name_of(key),
        repr(key._device),
        repr(key._device._pin),
        repr(key._pool),
        caplog.text,
    ):
        assert pin not in shown


def test_it_does_not_travel(key: Pkcs11Key) -> None:
    """It cannot be pickled, and a copy is the key itself."""
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(key)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key


def test_a_closed_key(softhsm: SoftHsm) -> None:
    """After close() it says so; another key of the same device goes on."""
    one, other = open_key(softhsm.uri()), open_key(softhsm.uri())
    one.close()
    one.close()
    with pytest.raises(DPoPKeyError, match="closed"):
        one.sign(b"x")
    other.sign(b"x")


def test_a_forgotten_key_gives_its_sessions_back(softhsm: SoftHsm) -> None:
    """A key that is no longer referred to leaves no session behind."""
    key = open_key(softhsm.uri())
    module, session = key._device.loaded.module, key._pool._idle[0].handle
    assert module.is_logged_in(session)
    del key
    gc.collect()
    with pytest.raises(CryptokiError, match="CKR_SESSION_HANDLE_INVALID"):
        module.is_logged_in(session)


# --- finding


def test_a_token_that_is_not_there(softhsm: SoftHsm) -> None:
    """The message names the devices that are."""
    with pytest.raises(KeyNotFoundError, match=r"no device matches pkcs11:token=nobody.*'.+' \(serial [0-9a-f]{16}\)"):
        open_key(softhsm.uri(device="nobody"))


def test_two_tokens_of_one_name(softhsm: SoftHsm) -> None:
    """They are told apart by their serial numbers."""
    softhsm.init_device("twin")
    softhsm.init_device("twin")
    with pytest.raises(AmbiguousKeyError, match="2 devices match") as refusal:
        generate_key(softhsm.uri("k", device="twin"))
    serial = str(refusal.value).split("serial ")[1].split(")")[0]
    uri = softhsm.uri("k", device="twin").replace(";object", f";serial={serial};object")
    assert serial in (generate_key(uri).reference or "")


def test_every_part_of_a_uri_counts(softhsm: SoftHsm, key: Pkcs11Key) -> None:
    """Token, slot and library attributes that do not fit are no match, and those that do are one."""
    slot = key._device.slot
    query = f"?module-path={softhsm.module}&pin-source={softhsm.pin_file}"
    info = open_module(softhsm.module).module.info()
    slot_info = open_module(softhsm.module).module.slot_info(slot)
    right = {
        "token": "dpop",
        "manufacturer": "SoftHSM%20project",
        "model": "SoftHSM%20v2",
        "slot-id": str(slot),
        "slot-description": slot_info.description.replace(" ", "%20"),
        "slot-manufacturer": slot_info.manufacturer.replace(" ", "%20"),
        "library-manufacturer": info.manufacturer,
        "library-description": info.description.replace(" ", "%20"),
        "library-version": "{}.{}".format(*info.version),
    }
    whole = ";".join(f"{name}={value}" for name, value in right.items())
    assert open_key(f"pkcs11:{whole};object={KEY}{query}").thumbprint == key.thumbprint
    for name in right:
        wrong = "9" if name in {"slot-id", "library-version"} else "x"
        changed = ";".join(f"{each}={wrong if each == name else value}" for each, value in right.items())
        with pytest.raises(KeyNotFoundError):
            open_key(f"pkcs11:{changed};object={KEY}{query}")


def test_a_key_that_is_not_there(softhsm: SoftHsm) -> None:
    """The message lists the keys that are."""
    with pytest.raises(KeyNotFoundError, match=f"no private key for .*;object=nothing; it has .*object={KEY}"):
        open_key(softhsm.uri("nothing"))


def test_several_keys_of_one_name(softhsm: SoftHsm) -> None:
    """A label that two keys have is ambiguous, and so is none; the id decides."""
    softhsm.init_device("several")
    for number in ("21", "22"):
        softhsm.make_key("same", number, device="several")
    for name in ("same", None):
        with pytest.raises(AmbiguousKeyError, match=r"2 keys .*id=%21.*id=%22"):
            open_key(softhsm.uri(name, device="several"))
    uri = softhsm.uri("same", device="several")
    keys = [open_key(uri.replace("?", f";id=%{number}?", 1)) for number in ("21", "22")]
    assert keys[0].thumbprint != keys[1].thumbprint


def test_keys_of_other_kinds(softhsm: SoftHsm) -> None:
    """P-384 and RSA keys are named as what they are; beside them the one P-256 key is found."""
    softhsm.init_device("kinds")
    softhsm.make_key("big", "31", device="kinds", kind="EC:secp384r1")
    softhsm.make_key("old", "32", device="kinds", kind="RSA:2048")
    for name, kind in (("big", "EC P-384"), ("old", "RSA"), (None, "EC P-384")):
        with pytest.raises(InvalidKeyError, match=rf"{kind}.*P-256 key that may sign is needed"):
            open_key(softhsm.uri(name, device="kinds"))
    generate_key(softhsm.uri("right", device="kinds"))
    assert "object=right" in (open_key(softhsm.uri(None, device="kinds")).reference or "")


def test_a_key_that_may_not_sign(softhsm: SoftHsm) -> None:
    """CKA_SIGN=false is said before anything is signed."""
    softhsm.init_device("derive")
    device = generate_key(softhsm.uri("k", device="derive"))._device
    session = device.open_session(writable=True)
    names: Template = {CKA.TOKEN: True, CKA.LABEL: b"d", CKA.ID: b"d"}
    public: Template = {**names, CKA.EC_PARAMS: P256_PARAMS}
    private: Template = {**names, CKA.PRIVATE: True, CKA.SIGN: False, CKA.DERIVE: True}
    device.loaded.module.generate_key_pair(session, CKM.EC_KEY_PAIR_GEN, public, private)
    with pytest.raises(InvalidKeyError, match="EC P-256, not for signing"):
        open_key(softhsm.uri("d", device="derive"))


def test_a_key_that_can_be_taken_out(softhsm: SoftHsm, caplog: pytest.LogCaptureFixture) -> None:
    """It works, with a warning, and says so of itself."""
    softhsm.init_device("loose")
    softhsm.make_key("k", "01", "--extractable", device="loose")
    key = open_key(softhsm.uri("k", device="loose"))
    assert key.stays_in_device is False
    assert "can be exported from its device 'loose'" in caplog.text


# --- the public key


def without_public_object(softhsm: SoftHsm, device: str) -> Pkcs11Key:
    """A device whose key has lost its public half; the key as it was."""
    softhsm.init_device(device)
    key = generate_key(softhsm.uri("k", device=device))
    softhsm.tool("--delete-object", "--type", "pubkey", "--label", "k", device=device)
    return key


def test_a_public_key_that_the_caller_gives(softhsm: SoftHsm) -> None:
    """Without one on the device the caller's is tried by a signature."""
    key = without_public_object(softhsm, "private only")
    uri = softhsm.uri("k", device="private only")
    with pytest.raises(KeyNotFoundError, match="shows no public key"):
        open_key(uri)
    assert open_key(uri, public_key=key.public_jwk).thumbprint == key.thumbprint
    with pytest.raises(InvalidKeyError, match="none of 1 public keys"):
        open_key(uri, public_key=dpop.generate_key().public_jwk)


def test_a_public_key_that_is_given_for_nothing(softhsm: SoftHsm, key: Pkcs11Key) -> None:
    """Beside the device's own it must be the same."""
    assert open_key(softhsm.uri(), public_key=key.public_jwk).thumbprint == key.thumbprint
    with pytest.raises(InvalidKeyError, match="does not belong to"):
        open_key(softhsm.uri(), public_key=dpop.generate_key().public_jwk)


def certificate_for(jwk: dict[str, str]) -> bytes:
    """A certificate, in DER, of a public key."""
    x, y = (int.from_bytes(b64url_decode(jwk[name]), "big") for name in "xy")
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "x")])
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, public, 7, start, start.replace(year=2036))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_certificate_tells_the_public_key(softhsm: SoftHsm, tmp_path: Path) -> None:
    """One with the key's id does, as on smart cards; another's is found out."""
    key = without_public_object(softhsm, "card")
    identifier = Pkcs11Uri.parse(name_of(key)).id
    assert identifier
    for jwk, label in ((dpop.generate_key().public_jwk, "other"), (key.public_jwk, "own")):
        file = tmp_path / f"{label}.der"
        file.write_bytes(certificate_for(jwk))
        write = ("--write-object", str(file), "--type", "cert", "--label", label, "--id", identifier.hex())
        softhsm.tool(*write, device="card")
        if label == "other":
            with pytest.raises(InvalidKeyError, match="none of 1 public keys or certificates"):
                open_key(softhsm.uri("k", device="card"))
    assert open_key(softhsm.uri("k", device="card")).thumbprint == key.thumbprint


def test_a_certificate_of_the_keys_label(softhsm: SoftHsm, tmp_path: Path) -> None:
    """It may have an id of its own, where a tool wrote it later; a signature tells whether it is the key's."""
    key = without_public_object(softhsm, "labels")
    (tmp_path / "own.der").write_bytes(certificate_for(key.public_jwk))
    write = ("--write-object", str(tmp_path / "own.der"), "--type", "cert", "--label", "k", "--id", "7777")
    softhsm.tool(*write, device="labels")
    assert open_key(softhsm.uri("k", device="labels")).thumbprint == key.thumbprint
    (device,) = list_devices(softhsm.uri(None, device="labels"))
    assert [each.thumbprint for each in device.keys] == [key.thumbprint]


def test_a_public_object_of_another_key_is_not_listed_as_this_ones(softhsm: SoftHsm, tmp_path: Path) -> None:
    """Its id and label are what somebody wrote; no jkt is better than a wrong one."""
    key = without_public_object(softhsm, "mixed")
    identifier = Pkcs11Uri.parse(name_of(key)).id
    assert identifier
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "public.der").write_bytes(stranger.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    write = ("--write-object", str(tmp_path / "public.der"), "--type", "pubkey", "--label", "k")
    softhsm.tool(*write, "--id", identifier.hex(), device="mixed")
    (device,) = list_devices(softhsm.uri(None, device="mixed"))
    assert [(each.private_seen, each.thumbprint) for each in device.keys] == [(True, None)]


def test_public_objects_of_one_id(softhsm: SoftHsm, tmp_path: Path) -> None:
    """Where two public keys have the private key's id, the label decides, and else a signature."""
    softhsm.init_device("crowd")
    key = generate_key(softhsm.uri("k", device="crowd"))
    identifier = Pkcs11Uri.parse(name_of(key)).id
    assert identifier
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    file = tmp_path / "stranger.der"
    file.write_bytes(stranger.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    for label in ("z", "k"):
        write = ("--write-object", str(file), "--type", "pubkey", "--label", label, "--id", identifier.hex())
        softhsm.tool(*write, device="crowd")
        assert open_key(softhsm.uri("k", device="crowd")).thumbprint == key.thumbprint


# --- the PIN


def test_without_a_pin(softhsm: SoftHsm) -> None:
    """The error says where a PIN may come from. A process of its own: a login holds for all sessions of one."""
    code = "import dpop, sys\ntry:\n    dpop.load_key(sys.argv[1])\nexcept dpop.DPoPError as e:\n    print(e.code, e)"
    done = in_another_process(code, softhsm, softhsm.uri(pin=False))
    assert "pin the device 'dpop' needs its PIN" in done.stdout
    assert "pin-source" in done.stdout


def test_a_wrong_pin_is_not_tried_twice(softhsm: SoftHsm) -> None:
    """Neither by the same key nor by another of the process; the right one still works."""
    code = """
import dpop, sys
from dpop.errors import PinError
uri, pin = sys.argv[1:]
for password in ("wrong", "wrong", lambda: "wrong", pin):
    try:
        print(dpop.load_key(uri, password=password).alg)
    except PinError as error:
        assert "wrong" not in str(error).replace("wrong PINs", "")
        print(error)
"""
    softhsm.init_device("guess")
    generate_key(softhsm.uri("k", device="guess"))
    done = in_another_process(code, softhsm, softhsm.uri("k", device="guess", pin=False), PIN)
    lines = done.stdout.splitlines()
    assert "refused the PIN, which is not tried again; the device counts wrong PINs" in lines[0], done
    assert ["has already refused this PIN" in line for line in lines] == [False, True, True, False]
    assert lines[3] == "ES256"


def test_a_token_without_a_user_pin(softhsm: SoftHsm) -> None:
    """It says how to set one."""
    softhsm.run(
        *("pkcs11-tool", "--module", softhsm.module, "--init-token", "--slot-index"),
        *(str(len(open_module(softhsm.module).module.slots()) - 1), "--label", "fresh", "--so-pin", "12345678"),
    )
    close_modules()
    with pytest.raises(PinError, match="has no PIN yet; set one with: pkcs11-tool"):
        generate_key(softhsm.uri("k", device="fresh"))


def test_a_key_that_wants_the_pin_each_time(softhsm: SoftHsm) -> None:
    """CKA_ALWAYS_AUTHENTICATE, as in slot 9c of a YubiKey: the PIN goes between C_SignInit and C_Sign."""
    softhsm.init_device("careful")
    softhsm.make_key("k", "01", "--always-auth", device="careful")
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        return PIN

    key = open_key(softhsm.uri("k", device="careful", pin=False), password=ask)
    for _ in range(3):
        key.sign(b"x")
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(key.sign, [b"x"] * 40))
    assert asked == [1]


# --- making keys


def test_a_key_that_is_made(softhsm: SoftHsm) -> None:
    """It signs and nothing else, stays in the device, and OpenSC sees the same."""
    softhsm.init_device("factory")
    key = generate_key(softhsm.uri("new key", device="factory"))
    assert key.stays_in_device is True
    session = key._device.open_session()
    module = key._device.loaded.module
    (handle,) = module.find_objects(session, {CKA.CLASS: CKO.PRIVATE_KEY, CKA.LABEL: b"new key"})
    flags = {
        kind.name: module.attribute(session, handle, kind)
        for kind in (CKA.TOKEN, CKA.PRIVATE, CKA.SENSITIVE, CKA.SIGN, CKA.LOCAL, CKA.NEVER_EXTRACTABLE)
    }
    assert set(flags.values()) == {b"\1"}, flags
    for kind in (CKA.EXTRACTABLE, CKA.DERIVE):
        assert module.attribute(session, handle, kind) == b"\0"
    assert module.attribute(session, handle, CKA.VALUE) is None
    key._device.close_session(session)
    listed = softhsm.tool("--list-objects", device="factory")
    assert "Private Key Object; EC" in listed
    assert "sensitive, always sensitive, never extractable, local" in listed
    assert open_key(softhsm.uri("new key", device="factory")).thumbprint == key.thumbprint


def test_a_key_of_that_name_is_kept(softhsm: SoftHsm) -> None:
    """Neither label nor id of a key that is there is given to another."""
    before = open_key(softhsm.uri()).thumbprint
    with pytest.raises(AmbiguousKeyError, match=f"has object={KEY};id=%01"):
        generate_key(softhsm.uri())
    with pytest.raises(AmbiguousKeyError, match="already"):
        generate_key(softhsm.uri("new").replace("?", ";id=%01?", 1))
    assert open_key(softhsm.uri()).thumbprint == before


def test_a_new_key_has_a_name(softhsm: SoftHsm) -> None:
    """Without object= nothing is made."""
    with pytest.raises(InvalidKeyError, match="add object="):
        generate_key(softhsm.uri(None))


# --- many at once, and in other processes


def test_eight_threads(softhsm: SoftHsm) -> None:
    """All signatures of eight threads verify, in no more than eight sessions."""
    key = open_key(softhsm.uri())
    public = PublicKey.from_jwk(key.public_jwk)

    def work(number: int) -> bool:
        return all(public.verify("ES256", data, key.sign(data)) for data in [b"%d" % number] * 250)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert 1 <= len(key._pool._idle) <= key.sessions == 8


def test_sixty_four_threads_on_two_sessions(softhsm: SoftHsm) -> None:
    """Threads wait for a session; nobody is forgotten."""
    key = open_key(softhsm.uri(), sessions=2)
    with ThreadPoolExecutor(64) as pool:
        assert len(set(pool.map(key.sign, [b"x"] * 640))) == 640
    assert len(key._pool._idle) <= 2
    for wrong in (0, -1, "2"):
        with pytest.raises(UsageError):
            open_key(softhsm.uri(), sessions=wrong)  # type: ignore[arg-type]


def test_keys_opened_by_threads_at_once(softhsm: SoftHsm) -> None:
    """Eight threads open, sign and close; none sees another's login or logout."""

    def work(_number: int) -> int:
        key = open_key(softhsm.uri())
        signed = len(key.sign(b"x"))
        key.close()
        return signed

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(80))) == {64}


def test_a_forked_process(softhsm: SoftHsm) -> None:
    """The child is told to open the key itself, even while threads of the parent sign; the parent goes on."""
    code = """
import os, sys, threading
from dpop.errors import ForkedKeyError
from dpop.keys.pkcs11 import open_key
key = open_key(sys.argv[1])
stop = threading.Event()
def work():
    while not stop.is_set():
        key.sign(b"x")
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]
children = []
for _ in range(5):
    child = os.fork()
    if not child:
        told = 0
        for action in (lambda: key.sign(b"x"), lambda: open_key(sys.argv[1])):
            try:
                action()
            except ForkedKeyError as error:
                told += "fork" in str(error)
        key.close()
        os._exit(told)
    children.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
stop.set()
[t.join() for t in threads]
key.sign(b"x")
print(children)
"""
    done = in_another_process(code, softhsm, softhsm.uri())
    assert done.stdout.strip() == "[2, 2, 2, 2, 2]", done


def test_a_spawned_process_and_one_forked_before(softhsm: SoftHsm) -> None:
    """A child that opens the key first is as good as any process."""
    code = """
import os, sys
import dpop.keys.pkcs11
child = os.fork()
key = dpop.load_key(sys.argv[1])
os.write(1, b"%d " % len(key.sign(b"x")))
if child:
    os.waitpid(child, 0)
"""
    done = in_another_process(code, softhsm, softhsm.uri())
    assert done.stdout.split() == ["64", "64"], done


def test_a_process_that_is_killed(softhsm: SoftHsm) -> None:
    """Whatever it was doing, the next one works."""
    code = "import dpop, sys\nkey = dpop.load_key(sys.argv[1])\nprint(flush=True)\nwhile True: key.sign(b'x')"
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, softhsm.uri()],
            env={**os.environ, **softhsm.environment},
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
    assert len(open_key(softhsm.uri()).sign(b"x")) == 64


# --- judged by others


def test_openssl_verifies(key: Pkcs11Key, tmp_path: Path) -> None:
    """A signature as DER, and the public key as PEM, are accepted by openssl."""
    x, y = (int.from_bytes(b64url_decode(key.public_jwk[name]), "big") for name in "xy")
    public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    (tmp_path / "p").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    (tmp_path / "s").write_bytes(dpop.raw_to_der(key.sign(b"message")))
    (tmp_path / "m").write_bytes(b"message")
    command = ["openssl", "dgst", "-sha256", "-verify", "p", "-signature", "s", "m"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "Verified OK\n"


def test_the_openssl_engine_signs_with_the_same_key(softhsm: SoftHsm, key: Pkcs11Key, tmp_path: Path) -> None:
    """OpenSSL's pkcs11 engine, given our URI, makes a signature that our public key verifies."""
    (tmp_path / "d").write_bytes(hashlib.sha256(b"message").digest())
    softhsm.environment["PKCS11_MODULE_PATH"] = softhsm.module
    softhsm.run(
        *("openssl", "pkeyutl", "-engine", "pkcs11", "-keyform", "engine", "-sign", "-in", str(tmp_path / "d")),
        *("-inkey", f"{name_of(key)}?pin-value={PIN}", "-out", str(tmp_path / "s")),
    )
    raw = dpop.der_to_raw((tmp_path / "s").read_bytes())
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"message", raw)


def test_p11tool_knows_the_key_by_our_uri(softhsm: SoftHsm, key: Pkcs11Key) -> None:
    """GnuTLS reads our URI as we do, and its own names a key that we open."""
    softhsm.environment["GNUTLS_PIN"] = PIN
    listed = softhsm.run("p11tool", "--provider", softhsm.module, "--login", "--list-privkeys", name_of(key))
    urls = [line.split("URL: ")[1] for line in listed.splitlines() if "URL: " in line]
    assert len(urls) == 1, listed
    query = f"?module-path={softhsm.module}&pin-source={softhsm.pin_file}"
    assert open_key(urls[0].split("?")[0] + query).thumbprint == key.thumbprint


def test_the_system_wide_proxy(softhsm: SoftHsm, key: Pkcs11Key) -> None:
    """Without a module in the URI, p11-kit's proxy gives all registered ones."""
    code = "import dpop, sys\nkey = dpop.load_key(sys.argv[1])\nkey.sign(b'x')\nprint(key.thumbprint)"
    done = in_another_process(code, softhsm, f"pkcs11:token=dpop;object={KEY}?pin-source={softhsm.pin_file}")
    assert done.stdout.strip() == key.thumbprint, done
