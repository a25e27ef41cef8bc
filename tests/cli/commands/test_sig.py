# SPDX-License-Identifier: Apache-2.0
"""`dpop sig`: both conversions, from and to every form, and what is no signature."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from dpop_cli.commands.sig import convert, to_der, to_raw
from hypothesis import given
from hypothesis import strategies as st
from support.cli_process import AtTerminal, examples, invoke, run, run_script
from support.paths import VECTORS

import dpop
from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import DPoPError
from dpop.keys import PublicKey
from dpop.signature import der_to_raw, raw_to_der

PAIRS: list[dict[str, Any]] = [
    case for case in json.loads((VECTORS / "signatures.json").read_text("ascii"))["cases"] if "refused" not in case
]
SIZES = {32: "ES256", 48: "ES384", 66: "ES512"}
DER = bytes.fromhex(PAIRS[0]["der"])
RAW = bytes.fromhex(PAIRS[0]["raw"])


def wrapped(text: str, end: str) -> str:
    """The text in lines of 64, as openssl base64 prints it."""
    return "".join(text[at : at + 64] + end for at in range(0, len(text), 64))


WRITINGS: dict[str, Callable[[bytes], bytes]] = {
    "binary": lambda content: content,
    "hex": lambda content: content.hex().encode(),
    "HEX": lambda content: content.hex().upper().encode(),
    "hex in lines": lambda content: wrapped(content.hex(), "\r\n").encode(),
    "openssl dgst -hex": lambda content: f"EC-SHA2-256(a file.txt)= {content.hex()}\n".encode(),
    "openssl dgst -hex -c": lambda content: f"EC-SHA2-256(stdin)= {content.hex(':')}\n".encode(),
    "base64url": lambda content: b64url_encode(content).encode(),
    "openssl base64": lambda content: wrapped(
        b64url_encode(content).replace("-", "+").replace("_", "/") + "=" * (-len(content) % 3), "\n"
    ).encode(),
    "base64url in lines": lambda content: wrapped(b64url_encode(content), "\r\n").encode(),
    "PowerShell's >": lambda content: f"{b64url_encode(content)}\r\n".encode("utf-16"),
    "byte order mark": lambda content: f"\ufeff{content.hex()}".encode(),
}

TEXTS = {"base64url", "openssl base64", "base64url in lines", "PowerShell's >"}


@pytest.mark.parametrize("form", WRITINGS)
@pytest.mark.parametrize("pair", PAIRS, ids=[pair["id"] for pair in PAIRS])
def test_every_pair_in_every_form(pair: dict[str, Any], form: str) -> None:
    """Each signature of the vectors, however it is written, becomes the other of its pair."""
    der, raw = bytes.fromhex(pair["der"]), bytes.fromhex(pair["raw"])
    made = invoke("sig", "to-raw", "--alg", SIZES[pair["size"]], stdin=WRITINGS[form](der))
    assert (made.exit_code, made.stdout) == (0, b64url_encode(raw) + "\n"), made.stderr
    # A text of nothing but A and B is taken for hex; see below.
    doubt = ["--form", "base64url"] if form in TEXTS and pair["id"] == "p384-smallest" else []
    back = invoke("sig", "to-der", *doubt, stdin=WRITINGS[form](raw))
    assert (back.exit_code, back.stdout_bytes) == (0, der), back.stderr


@pytest.mark.parametrize("form", WRITINGS)
@given(data=st.data())
def test_any_signature_in_any_form(form: str, data: st.DataObject) -> None:
    """Whatever r and s are, one reading is left, and it is the right one."""
    size = data.draw(st.sampled_from(sorted(SIZES)))
    # Above all orders the first bytes would be ff, or 01ff for P-521.
    number = st.binary(min_size=size - 2, max_size=size - 2).map(lambda content: b"\x00\x61" + content)
    raw = data.draw(number) + data.draw(number)
    der = raw_to_der(raw)
    assert convert(WRITINGS[form](raw), None, raw_to_der) == der
    assert convert(WRITINGS[form](der), None, lambda content: der_to_raw(content, size)) == raw


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_anything_else_is_refused(content: bytes) -> None:
    """Other input is a sentence, never another exception; nothing is guessed."""
    for converter in (raw_to_der, der_to_raw):
        with contextlib.suppress(DPoPError, click.UsageError):
            assert len(convert(content, None, converter)) >= 8


@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512"])
def test_the_curve_is_told_from_the_lengths(alg: str) -> None:
    """A signature by a key of any curve needs no --alg."""
    key = dpop.generate_key(alg)
    for number in range(20):
        raw = key.sign(b"%d" % number)
        made = invoke("sig", "to-raw", stdin=raw_to_der(raw))
        assert made.stdout == b64url_encode(raw) + "\n", made.stderr


def test_numbers_too_short_for_any_curve_are_not_guessed_at() -> None:
    """r and s of one byte are a signature on each curve."""
    made = invoke("sig", "to-raw", "3006020101020101")
    assert made.exit_code == 2
    assert "--alg" in made.stderr
    made = invoke("sig", "to-raw", "3006020101020101", "--alg", "ES384", "--to", "hex")
    assert made.stdout == f"{1:096x}{1:096x}\n"


@pytest.mark.parametrize(("wanted", "written"), [("hex", RAW.hex()), ("base64url", b64url_encode(RAW))])
def test_from_an_argument_a_file_and_standard_input(tmp_path: Path, wanted: str, written: str) -> None:
    """The argument is the signature, a file of it, or - for standard input; without one it is standard input."""
    path = tmp_path / "signature.der"
    path.write_bytes(DER)
    for argument in (DER.hex(), b64url_encode(DER), str(path)):
        assert invoke("sig", "to-raw", argument, "--to", wanted).stdout == written + "\n"
    assert invoke("sig", "to-raw", "-", "--to", wanted, stdin=DER).stdout == written + "\n"
    assert invoke("sig", "to-raw", "--to", wanted, stdin=DER).stdout == written + "\n"


def test_into_a_file(tmp_path: Path) -> None:
    """--out takes what a shell's > could damage."""
    out = tmp_path / "signature.der"
    made = invoke("sig", "to-der", RAW.hex(), "--out", str(out))
    assert (made.exit_code, made.stdout) == (0, "")
    assert out.read_bytes() == DER
    made = invoke("sig", "to-der", RAW.hex(), "--to", "hex", "--out", str(out))
    assert out.read_bytes() == DER.hex().encode() + b"\n"


def test_a_file_that_cannot_be_written_is_status_3(tmp_path: Path) -> None:
    """The message names the file."""
    made = run("sig", "to-der", RAW.hex(), "--out", str(tmp_path / "none" / "x"))
    assert made.returncode == 3
    assert "No such file" in made.stderr


@pytest.mark.parametrize(
    ("args", "stdin", "words"),
    [
        (["to-raw"], b"", "empty"),
        (["to-raw", "signature.der"], b"", "no such file"),
        (["to-raw", "sig"], b"", "no such file"),
        (["to-raw", "." * 5000], b"", "no such file"),
        (["to-raw", "a\x01b"], b"", "no such file"),
        (["to-raw", DER.hex(), "--form", "binary"], b"", "no such file"),
        (["to-raw", DER.hex(), "--form", "base64url"], b"", "not DER"),
        (["to-raw", "--form", "hex"], DER, "not written in hex"),
        (["to-raw", "--form", "base64url"], DER, "not written in base64url"),
        (["to-raw"], RAW, "do not convert it"),
        (["to-raw"], RAW.hex().encode(), "do not convert it"),
        (["to-raw"], DER + b"\0", "after the SEQUENCE"),
        (["to-raw"], b"eyJ0.eyJq.c2ln", "last dot"),
        (["to-raw", "eyJ0.eyJq.c2ln"], b"", "last dot"),
        (["to-raw"], bytes([255]) * 256, "RSA"),
        (["to-raw", "--alg", "ES384"], DER[:-1], "truncated"),
        (["to-der"], DER, "dpop sig to-raw"),
        (["to-der"], RAW[:-1], "63"),
        (["to-der"], bytes(64), "zero"),
        (["to-der"], b"Verified OK\n", "64, 96 or 132"),
        (["to-der", "one", "two"], b"", "1 more argument"),
    ],
)
def test_what_is_no_signature_is_status_2(args: list[str], stdin: bytes, words: str) -> None:
    """The message says what is wrong, and names the other command where that was meant."""
    made = invoke("sig", *args, stdin=stdin)
    assert made.exit_code == 2, made.output
    assert words in made.stderr
    assert made.stdout == ""


def test_a_full_disk_leaves_no_file_behind(tmp_path: Path) -> None:
    """The file there was stays as it was: limited to no byte at all, nothing can be written."""
    out = tmp_path / "signature.der"
    out.write_bytes(b"as it was")
    script = f'dpop() {{ "$PYTHON" -m dpop_cli "$@"; }}\nulimit -f 0\ndpop sig to-der {RAW.hex()} --out {out}\n'
    done = run_script(script, tmp_path)
    assert done.returncode == 3, done.stderr
    assert "too large" in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {out.name: b"as it was"}


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A link, a device or a pipe stays what it is."""
    (tmp_path / "link").symlink_to("target")
    made = run("sig", "to-der", RAW.hex(), "--out", "link", cwd=tmp_path)
    assert (tmp_path / "target").read_bytes() == DER
    assert (tmp_path / "link").is_symlink()
    made = run("sig", "to-der", RAW.hex(), "--to", "hex", "--out", "/dev/stdout", cwd=tmp_path)
    assert made.stdout == DER.hex() + "\n"
    made = run("sig", "to-der", RAW.hex(), "--out", "/dev/full", cwd=tmp_path)
    assert made.returncode == 3
    assert made.stderr.startswith("Error: ")
    assert Path("/dev/full").is_char_device()


def test_two_readings_are_not_chosen_between() -> None:
    """96 bytes that are a P-384 signature as they stand, and a P-256 one as text: the user decides."""
    content = b64url_encode(RAW).encode() + b" " * 10
    both = invoke("sig", "to-der", stdin=content)
    assert both.exit_code == 2
    assert "as binary and as base64url" in both.stderr
    assert invoke("sig", "to-der", "--form", "base64url", stdin=content).stdout_bytes == DER
    assert invoke("sig", "to-der", "--form", "binary", stdin=content).stdout_bytes == raw_to_der(content)


def test_nothing_but_hexadecimal_digits_is_hex() -> None:
    """128 of them could be base64url too, of P-384; that chance is one in 2^256, and --form is there for it."""
    digits = "AB" * 64
    assert invoke("sig", "to-der", digits).stdout_bytes == raw_to_der(bytes.fromhex(digits))
    as_text = invoke("sig", "to-der", digits, "--form", "base64url")
    assert as_text.stdout_bytes == raw_to_der(b64url_decode(digits))


def test_binary_is_not_for_a_terminal(tmp_path: Path) -> None:
    """At a terminal to-der says what to do instead of printing bytes."""
    with AtTerminal("sig", "to-der", RAW.hex(), cwd=tmp_path) as terminal:
        assert terminal.end() == 2
    assert "--to hex" in terminal.shown
    with AtTerminal("sig", "to-der", RAW.hex(), "--to", "hex", cwd=tmp_path) as terminal:
        assert terminal.end() == 0
    assert terminal.shown.strip() == DER.hex()


def test_nothing_piped_in_is_not_waited_for(tmp_path: Path) -> None:
    """At a terminal without an argument it says how it is used, and does not hang."""
    with AtTerminal("sig", "to-raw", cwd=tmp_path) as terminal:
        assert terminal.end() == 2
    assert "openssl dgst" in terminal.shown


def test_the_examples_work(tmp_path: Path) -> None:
    """What the help shows can be typed as it stands, and makes a proof and a signature that openssl accepts."""
    key = dpop.generate_key()
    key.save(tmp_path / "key.pem")
    done = run_script(examples(to_raw), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{1:064x}{1:064x}\n"
    name, proof = (tmp_path / "header.txt").read_text().split()
    signing_input, _, signature = proof.rpartition(".")
    assert name == "DPoP:"
    assert (tmp_path / "input").read_text() == signing_input
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", signing_input.encode(), b64url_decode(signature))
    done = run_script(examples(to_der), tmp_path)
    assert done.stdout == "Verified OK\n", done.stderr
