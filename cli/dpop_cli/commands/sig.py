# SPDX-License-Identifier: Apache-2.0
"""``dpop sig``: converts ECDSA signatures between DER (OpenSSL) and R||S (JWS)."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import EncodingError, SignatureFormatError
from dpop.signature import der_to_raw, raw_to_der
from dpop_cli.console.command import Group
from dpop_cli.console.output import file_names, hint
from dpop_cli.console.secret_input import read_bytes
from dpop_cli.signing.options import AlgChoice

__all__ = ["convert", "sig", "to_der", "to_raw"]

Converter = Callable[[bytes], bytes]

FORMS: Final = ("binary", "hex", "base64url")
_SIZES: Final = {"ES256": 32, "ES384": 48, "ES512": 66}
_SHORTEST: Final = 8  # DER with an r and an s of one byte; shorter text must be a mistyped file name
_RSA_SIZES: Final = frozenset({256, 384, 512})

# Only one in 2^128 signatures has an r and an s that are both this many bytes shorter than the curve's order.
_MOST_MISSING: Final = 8

_DGST_LABEL: Final = re.compile(r"(?<![A-Za-z0-9-])[A-Za-z0-9-]++\([^()\r\n]*\)= *")  # of openssl dgst -hex


@click.group(cls=Group)
def sig() -> None:
    """Convert a signature: OpenSSL's DER to a JWS's R||S, and back."""


def _conversion(command: Callable[..., None]) -> Callable[..., None]:
    command = click.option(
        "-o", "--out", metavar="FILE", shell_complete=file_names, help="File to write; standard output by default."
    )(command)
    command = click.option(
        "--form", "given", type=click.Choice(FORMS), help="The form of the input; detected by default."
    )(command)
    return click.argument("signature", required=False, default="-")(command)


def _to(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    return click.option(
        "--to", "wanted", type=click.Choice(FORMS), default=default, show_default=True, help="The form of the output."
    )


@sig.command("to-raw", short_help="openssl's DER to the R||S of a JWS.")
@_conversion
@_to("base64url")
@click.option(
    "--alg",
    type=AlgChoice(list(_SIZES)),
    metavar="ALG",
    help=f"The proof's algorithm, {', '.join(_SIZES)}; by default the lengths tell it.",
)
def to_raw(*, signature: str, given: str | None, wanted: str, out: str | None, alg: str | None) -> None:
    """Convert a DER signature, as openssl makes it, to R||S, as a JWS carries it.

    SIGNATURE is a file, - for standard input (the default), or the signature itself in hex or base64url.
    Only strict DER is accepted, so that a signature has only one spelling.

    \b
    Examples:
      dpop proof POST https://as.example/token --key key.pem --unsigned > input
      openssl dgst -sha256 -sign key.pem input | dpop sig to-raw > signature
      echo "DPoP: $(cat input).$(cat signature)" > header.txt
      dpop sig to-raw 3006020101020101 --alg ES256 --to hex
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    _write(convert(_read(signature, given), given, lambda der: _raw_of(der, alg)), wanted, out)


@sig.command("to-der", short_help="The R||S of a JWS to DER, for openssl.")
@_conversion
@_to("binary")
def to_der(*, signature: str, given: str | None, wanted: str, out: str | None) -> None:
    """Convert R||S, the signature of a JWS, to DER, as openssl reads it.

    SIGNATURE is a file, - for standard input (the default), or the signature itself in hex or base64url.
    The signature of a proof is the part after its last dot.

    \b
    Examples:
      dpop proof POST https://as.example/token --key key.pem > proof
      cut -d. -f3 proof | dpop sig to-der --out signature.der
      cut -d. -f1,2 proof | tr -d '\\n' > input
      openssl dgst -sha256 -prverify key.pem -signature signature.der input
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    _write(convert(_read(signature, given), given, raw_to_der), wanted, out)


# --- reading


def _read(signature: str, given: str | None) -> bytes:
    """Read the bytes from the argument itself, or from the file that it names."""
    if signature == "-":
        if sys.stdin is not None and sys.stdin.isatty():
            raise click.UsageError(
                "no signature was given; pipe one in (openssl dgst -sha256 -sign key.pem FILE | dpop sig to-raw),"
                " or name a file"
            )
        return read_bytes("-", "SIGNATURE")
    try:
        is_file = Path(signature).exists()
    except (OSError, ValueError):  # a name too long for a file, or with a NUL
        is_file = False
    if is_file:
        return read_bytes(signature, "SIGNATURE")
    data = signature.encode("utf-8", "surrogateescape")
    decoded = [_decoded(data, form) or b"" for form in FORMS[1:]]
    if given == "binary" or max(map(len, decoded)) < _SHORTEST:
        raise click.UsageError(
            "SIGNATURE expects the name of a file, or a signature in hex or base64url; there is no such file, and it"
            f" is neither of them{_whole_jws(signature)}"
        )
    return data


def convert(data: bytes, given: str | None, converter: Converter) -> bytes:
    """Convert a signature from the given form, or else from the only form in which it is a valid signature.

    A text of hexadecimal digits only is read as hex, although base64url has these characters, too.

    :param given: binary, hex or base64url; None: find out.
    :raises SignatureFormatError: the data is not a signature in any form.
    :raises click.UsageError: it is a signature in several forms, or not in the given form, or empty.
    """
    if not data:
        raise click.UsageError("the signature is empty; did the command that should have made it fail?")
    if given is not None:
        decoded = _decoded(data, given)
        if decoded is None:
            raise click.UsageError(f"the signature is not written in {given}, as --form says")
        return _converted(decoded, converter)
    found: dict[str, bytes] = {}
    for form in FORMS:
        decoded = _decoded(data, form)
        if decoded is not None and not (form == "base64url" and "hex" in found):
            try:
                found[form] = converter(decoded)
            except SignatureFormatError:
                continue
    if len(found) > 1:
        raise click.UsageError(f"this is a signature as {' and as '.join(found)}; say which it is with --form")
    if found:
        return next(iter(found.values()))
    # The error of the most likely form explains best what is wrong.
    text = _text(data)
    if text is not None and (jws := _whole_jws(text)):
        raise SignatureFormatError(f"not a signature{jws}")
    readings = (_decoded(data, form) for form in ("hex", "base64url", "binary"))
    return _converted(next(reading for reading in readings if reading is not None), converter)


def _converted(data: bytes, converter: Converter) -> bytes:
    """Convert; print a hint if the user probably meant another command."""
    try:
        return converter(data)
    except SignatureFormatError:
        if converter is raw_to_der and data[:1] == b"\x30":
            hint("to convert a DER signature to R||S, use: dpop sig to-raw")
        elif len(data) in _RSA_SIZES:
            hint(f"an RSA signature, which has {len(data)} bytes, needs no conversion but to base64url")
        raise


def _decoded(data: bytes, form: str) -> bytes | None:
    """Decode text in one form; None if it is not in that form."""
    if form == "binary":
        return data
    text = _text(data)
    if text is None:
        return None
    if form == "hex":
        digits = re.sub(r"[\s:]+", "", _DGST_LABEL.sub("", text, count=1))
        return bytes.fromhex(digits) if re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", digits) else None
    digits = re.sub(r"\s+", "", text)
    if len(digits) % 4 == 0:
        digits = re.sub(r"={1,2}\Z", "", digits)  # the padding of openssl base64, which JOSE leaves out
    if not digits or ({"+", "/"} & set(digits) and {"-", "_"} & set(digits)):
        return None
    try:
        return b64url_decode(digits.replace("+", "-").replace("/", "_"))
    except EncodingError:
        return None


def _text(data: bytes) -> str | None:
    """Decode printable ASCII, also in UTF-16, which Windows PowerShell's ``>`` writes."""
    encoding = "utf-16" if data[:2] in {b"\xff\xfe", b"\xfe\xff"} else "utf-8-sig"
    try:
        text = data.decode(encoding).strip()
    except UnicodeDecodeError:
        return None
    return text if re.fullmatch(r"[\x20-\x7e\s]*", text, re.ASCII) else None


def _whole_jws(text: str) -> str:
    return "; it looks like a whole proof, whose signature comes after the last dot" if text.count(".") == 2 else ""


# --- converting and writing


def _raw_of(der: bytes, alg: str | None) -> bytes:
    """Convert to R||S for the given algorithm, or for the one that the lengths of r and s show."""
    if alg is not None:
        return der_to_raw(der, _SIZES[alg])
    if der[:1] != b"\x30" and len(der) in {2 * size for size in _SIZES.values()}:
        return der_to_raw(der, len(der) // 2)  # its error says that the signature is R||S already
    longest = max(_SIZES.values())
    raw = der_to_raw(der, longest)
    needed = max(len(number.lstrip(b"\0")) for number in (raw[:longest], raw[longest:]))
    size = min(size for size in _SIZES.values() if size >= needed)
    if size - needed > _MOST_MISSING:
        raise SignatureFormatError(
            f"r and s have at most {needed} bytes, so they do not tell the curve; give --alg"
            f" {', '.join(list(_SIZES)[:-1])} or {list(_SIZES)[-1]}"
        )
    return der_to_raw(der, size)


def _write(data: bytes, form: str, out: str | None) -> None:
    text = None if form == "binary" else data.hex() if form == "hex" else b64url_encode(data)
    if out == "":
        raise click.UsageError("--out expects the name of a file, but it is empty; without --out the result is printed")
    if out is not None:
        _put(Path(out), data if text is None else f"{text}\n".encode("ascii"))
    elif text is not None:
        click.echo(text)
    elif sys.stdout.isatty():
        raise click.UsageError("a terminal does not show binary; use --to hex, --out FILE, or a pipe")
    else:
        click.echo(data, nl=False)


def _put(path: Path, data: bytes) -> None:
    """Write a regular file atomically; write through a link, a device or a pipe without replacing it."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.write_bytes(data)
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
