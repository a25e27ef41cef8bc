# SPDX-License-Identifier: Apache-2.0
"""Keys in devices at the command line: made, listed and used, with a PIN that is never an argument."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli_process import AtTerminal, invoke, run
from support.pkcs11_devices import PIN, SoftHsm, Tpm
from support.pkcs11_faults import Faults

import dpop
from dpop.keys.pkcs11 import _pin as pin
from dpop.keys.pkcs11 import generate_key, list_devices, open_key
from dpop.keys.pkcs11._modules import close_modules


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Each command is a process of its own for its user: none here meets another's logins or refused PINs."""
    close_modules()
    pin._refused.clear()
    yield
    close_modules()
    pin._refused.clear()


def pin_file(device: SoftHsm | Tpm) -> tuple[str, str]:
    """The option that names the PIN's file."""
    return "--password-file", str(device.pin_file)


# --- generate


def test_generate_makes_a_key_that_can_be_used_at_once(softhsm: SoftHsm) -> None:
    """The URI it prints is all that --key needs, besides the PIN."""
    made = invoke("key", "generate", "--pkcs11", softhsm.uri("cli one", pin=False), *pin_file(softhsm), "--json")
    assert made.exit_code == 0, made.stderr
    report = json.loads(made.stdout)
    assert report["device"] == "dpop"
    key = open_key(report["uri"], password=PIN)
    assert (key.thumbprint, key.stays_in_device) == (report["thumbprint"], True)
    close_modules()
    proof = invoke("proof", "GET", "https://api.example/", "--key", report["uri"], *pin_file(softhsm))
    assert proof.stdout.count(".") == 2, proof.stderr


def test_generate_reports_for_people(softhsm: SoftHsm) -> None:
    """Token, thumbprint and URI, and what to do with it."""
    made = invoke("key", "generate", "--pkcs11", softhsm.uri("cli two"))
    assert "a new ES256 key in the device 'dpop'" in made.stdout
    assert "object=cli%20two" in made.stdout
    assert "DPOP_KEY=" in made.stderr


def test_generate_keeps_what_is_there(softhsm: SoftHsm) -> None:
    """A name that is taken is status 3, and --force is for files."""
    uri = softhsm.uri()
    before = open_key(uri).thumbprint
    taken = invoke("key", "generate", "--pkcs11", uri)
    assert (taken.exit_code, "already has" in taken.stderr) == (3, True)
    for option in (("--force",), ("--out", "x"), ("--alg", "RS256")):
        refused = invoke("key", "generate", "--pkcs11", uri, *option)
        assert (refused.exit_code, f"{option[0]} is for a key in a file" in refused.stderr) == (2, True)
    assert open_key(uri).thumbprint == before


# --- the PIN


def test_a_pin_is_never_an_argument(softhsm: SoftHsm) -> None:
    """One in the URI is refused, and not repeated, in every place where a URI goes."""
    uri = softhsm.uri(pin=False) + "&pin-value=9876"
    for command in (
        ("key", "generate", "--pkcs11", uri),
        ("key", "list", "--pkcs11", uri),
        ("key", "show", "--key", uri),
        ("proof", "GET", "https://a.example", "--key", uri),
    ):
        refused = invoke(*command)
        assert (refused.exit_code, "without pin-value" in refused.stderr) == (2, True)
        assert "9876" not in refused.output


def test_a_pin_from_each_source(softhsm: SoftHsm) -> None:
    """A file, standard input, the environment, and pin-source in the URI."""
    bare = softhsm.uri(pin=False)
    expected = open_key(softhsm.uri()).thumbprint
    close_modules()
    for options, stdin, env in (
        (pin_file(softhsm), None, {}),
        (("--password-file", "-"), f"{PIN}\n", {}),
        (("--password-env", "MY_PIN"), None, {"MY_PIN": PIN}),
    ):
        shown = invoke("key", "thumbprint", "--key", bare, *options, stdin=stdin, env=env)
        assert shown.stdout.strip() == expected, shown.stderr
        close_modules()
    assert invoke("key", "thumbprint", "--key", softhsm.uri()).stdout.strip() == expected
    close_modules()
    twice = invoke("key", "thumbprint", "--key", softhsm.uri(), *pin_file(softhsm))
    assert (twice.exit_code, "given twice" in twice.stderr) == (3, True)


def test_without_a_terminal(softhsm: SoftHsm, tmp_path: Path) -> None:
    """Nobody can be asked: the options that name the PIN are."""
    refused = run("key", "show", "--key", softhsm.uri(pin=False), cwd=tmp_path, env=softhsm.environment)
    assert refused.returncode == 2
    assert "no terminal to ask for the PIN at; use --password-file or --password-env" in refused.stderr


def test_at_a_terminal(softhsm: SoftHsm, tmp_path: Path) -> None:
    """The device is named, the PIN does not show, and a wrong one is not asked for again."""
    expected = open_key(softhsm.uri()).thumbprint
    close_modules()
    command = ("key", "thumbprint", "--key", softhsm.uri(pin=False))
    with AtTerminal(*command, cwd=tmp_path, env=softhsm.environment) as terminal:
        terminal.see("PIN of the device 'dpop':")
        terminal.type(f"{PIN}\n")
        assert terminal.end() == 0
        assert expected in terminal.shown
        assert PIN not in terminal.shown
    with AtTerminal(*command, cwd=tmp_path, env=softhsm.environment) as terminal:
        terminal.see("PIN of the device 'dpop':")
        terminal.type("wrong\n")
        assert terminal.end() == 3
        assert "refused the PIN, which is not tried again" in terminal.shown.replace("\r\n", " ")
        assert terminal.shown.count("PIN of the device") == 1


def test_a_token_that_is_about_to_lock(faults: Faults) -> None:
    """A stored PIN is not tried; the message says where it would be."""
    faults.set("C_GetTokenInfo set=0x30000")
    refused = invoke("key", "show", "--key", faults.uri())
    assert (refused.exit_code, "enter it at a prompt" in refused.stderr) == (3, True)
    listed = invoke("key", "list", "--pkcs11", f"pkcs11:token=dpop?module-path={faults.library}")
    assert "one more wrong PIN locks it" in listed.stdout
    assert faults.calls("C_Login") == []


# --- list


def test_list_asks_for_no_pin(faults: Faults) -> None:
    """It shows public halves, and says what is missing; no PIN is given."""
    expected = open_key(faults.uri()).thumbprint
    close_modules()
    faults.calls()
    query = f"?module-path={faults.library}"
    listed = invoke("key", "list", "--pkcs11", f"pkcs11:token=dpop;object=dpop-es256{query}")
    assert listed.exit_code == 0, listed.stderr
    assert "'dpop' (SoftHSM project, SoftHSM v2, serial " in listed.stdout
    assert f"dpop-es256: ES256, jkt {expected}, its private key is visible after the PIN" in listed.stdout
    assert faults.calls("C_Login") == []
    everything = json.loads(invoke("key", "list", "--pkcs11", f"pkcs11:{query}", "--json").stdout)
    assert "dpop" in [device["label"] for device in everything]
    assert faults.calls("C_Login") == []


def test_list_with_a_pin_shows_private_halves(softhsm: SoftHsm) -> None:
    """What each key can do, those of no use to DPoP included, and URIs that open them."""
    softhsm.init_device("shelf")
    uri = softhsm.uri(None, device="shelf")
    generate_key(softhsm.uri("good", device="shelf"))
    softhsm.make_key("loose", "41", "--extractable", device="shelf")
    softhsm.make_key("careful", "42", "--always-auth", device="shelf")
    softhsm.make_key("big", "43", device="shelf", kind="EC:secp384r1")
    softhsm.make_key("old", "44", device="shelf", kind="RSA:2048")
    close_modules()
    lines = invoke("key", "list", "--pkcs11", uri.partition("&pin-source")[0], *pin_file(softhsm)).stdout.splitlines()
    told = {line.strip().partition(":")[0]: line for line in lines if line.startswith("  ") and "pkcs11:" not in line}
    assert set(told) == {"big", "careful", "good", "loose", "old"}
    assert "stays in the device" in told["good"]
    assert "CAN BE EXPORTED" in told["loose"]
    assert "PIN for each signature" in told["careful"]
    assert "EC P-384, not for proofs" in told["big"]
    assert "RSA, not for proofs" in told["old"]
    (report,) = list_devices(uri)
    for key in report.keys:
        if key.usable:
            opened = open_key(f"{key.uri}?module-path={softhsm.module}", password=PIN)
            assert opened.thumbprint == key.thumbprint


def test_a_pin_is_for_one_token(softhsm: SoftHsm, faults: Faults) -> None:
    """With a PIN the URI must name one: it is not given to each in turn."""
    softhsm.init_device("one more")
    query = f"?module-path={faults.library}"
    refused = invoke("key", "list", "--pkcs11", f"pkcs11:{query}", *pin_file(softhsm))
    assert (refused.exit_code, "devices match" in refused.stderr) == (3, True)
    assert faults.calls("C_Login") == []


def test_nothing_to_list(softhsm: SoftHsm, faults: Faults) -> None:
    """No device, and a device without keys, are no errors; a module that is missing is one."""
    query = f"?module-path={faults.library}"
    none = invoke("key", "list", "--pkcs11", f"pkcs11:token=nobody{query}")
    assert (none.exit_code, none.stdout, "No device matches" in none.stderr) == (0, "", True)
    softhsm.init_device("bare")
    bare = invoke("key", "list", "--pkcs11", f"pkcs11:token=bare{query}")
    assert "no keys are visible without its PIN" in bare.stdout
    assert json.loads(invoke("key", "list", "--pkcs11", f"pkcs11:token=bare{query}", "--json").stdout)[0]["keys"] == []
    missing = invoke("key", "list", "--pkcs11", "pkcs11:?module-path=/nonexistent.so")
    assert (missing.exit_code, "/nonexistent.so" in missing.stderr) == (3, True)


def test_labels_move_no_cursor(softhsm: SoftHsm) -> None:
    """What somebody called a key is printed, and not obeyed."""
    softhsm.init_device("escapes")
    softhsm.make_key("red \x1b[31m", "51", device="escapes")
    close_modules()
    listed = invoke("key", "list", "--pkcs11", softhsm.uri(None, device="escapes"))
    assert "red ?[31m: ES256" in listed.stdout
    assert "\x1b" not in listed.stdout


def test_a_tpm_is_listed(tpm: Tpm) -> None:
    """Without a PIN its public objects show, as a smart card's do."""
    listed = invoke("key", "list", "--pkcs11", f"pkcs11:token=tpm;object=dpop-es256?module-path={tpm.module}")
    assert listed.exit_code == 0, listed.stderr
    close_modules()
    assert f"jkt {dpop.load_key(tpm.uri()).thumbprint}" in listed.stdout
    close_modules()
    tpm.flush()


def test_what_drivers_print_is_not_shown() -> None:
    """p11-kit's drivers write on stderr about devices that are not there; what this program prints still comes."""
    code = (
        "import os, sys\nfrom dpop_cli.commands.key.device import _drivers_silenced\n"
        "with _drivers_silenced():\n    os.write(2, b'noise of a driver'); print('a warning', file=sys.stderr)\n"
        "print('after', file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stderr.split("\n") == ["a warning", "after", ""]
