# SPDX-License-Identifier: Apache-2.0
"""Private keys in PEM and DER: what openssl writes is read, and each mistake has its sentence."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import AlgorithmError, ArgumentTypeError, DPoPKeyError, InvalidKeyError, KeyPasswordError
from dpop.keys import ExternalKey, SoftwareKey, load_key
from dpop.keys._pem import check_password, read_private_key
from dpop.keys._public import PublicKey
from dpop.signature import raw_to_der

CURVES = {"ES256": "prime256v1", "ES384": "secp384r1", "ES512": "secp521r1"}
PASSWORD = "pass word é"


def openssl(*arguments: object, feed: bytes = b"", password: str = PASSWORD) -> bytes:
    """What the openssl command prints; a password reaches it through the environment."""
    done = subprocess.run(
        ["openssl", *map(str, arguments)],
        input=feed,
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "PW": password},
    )
    return done.stdout


def said(error: BaseException) -> str:
    """All that a traceback would print, and the texts of every error it came from."""
    texts = traceback.format_exception(error)
    cause: BaseException | None = error
    while cause is not None:
        texts.append(repr(cause))
        cause = cause.__cause__ or cause.__context__
    return "".join(texts)


NATIVE = ec.derive_private_key(0x1234567890ABCDEF << 128 | 0xFEDCBA, ec.SECP256R1())
PKCS8 = NATIVE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
SEC1 = NATIVE.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
ENCRYPTED = NATIVE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode()))
DER = NATIVE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
SEC1_DER = NATIVE.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
ENCRYPTED_DER = NATIVE.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode()))
PUBLIC = NATIVE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_DER = NATIVE.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PARAMETERS = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
SECRETS = [
    PKCS8.splitlines()[1].decode()[20:60],
    base64.b64encode(SEC1_DER).decode()[20:40],
    NATIVE.private_numbers().private_value.to_bytes(32, "big").hex()[:40],
    PASSWORD,
]


def of_native(content: bytes, password: Any = None) -> bool:
    """Whether the bytes hold the key this file is about."""
    key = read_private_key(content, password)[0]
    return isinstance(key, ec.EllipticCurvePrivateKey) and key.private_numbers() == NATIVE.private_numbers()


# --- openssl's twins


def agrees_with_openssl(key: SoftwareKey, pem: bytes, tmp_path: Path, *options: str) -> None:
    """The public key is what openssl derives, and openssl accepts a signature by the key."""
    public = tmp_path / "public.pem"
    public.write_bytes(openssl("pkey", "-pubout", "-passin", "env:PW", feed=pem))
    signature = key.sign(b"bytes")
    if key.alg.startswith("ES"):
        signature = raw_to_der(signature)
    (tmp_path / "signature").write_bytes(signature)
    (tmp_path / "bytes").write_bytes(b"bytes")
    command = ["-verify", public, "-signature", tmp_path / "signature", tmp_path / "bytes"]
    digest = {"ES384": "-sha384", "ES512": "-sha512"}.get(key.alg, "-sha256")
    assert openssl("dgst", digest, *options, *command) == b"Verified OK\n"


@pytest.mark.parametrize("alg", CURVES)
@pytest.mark.parametrize("noout", [(), ("-noout",)], ids=["with parameters", "without"])
def test_openssl_ecparam_genkey(tmp_path: Path, alg: str, noout: tuple[str, ...]) -> None:
    """What `openssl ecparam -genkey` prints, the EC PARAMETERS block included, is a key as it is."""
    pem = openssl("ecparam", "-genkey", "-name", CURVES[alg], *noout)
    assert (b"EC PARAMETERS" in pem) is not bool(noout)
    assert b"BEGIN EC PRIVATE KEY" in pem
    key = SoftwareKey.from_pem(pem)
    assert key.alg == alg
    agrees_with_openssl(key, pem, tmp_path)


def test_openssl_genpkey_ec(tmp_path: Path) -> None:
    """PKCS#8 from `openssl genpkey`."""
    pem = openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    agrees_with_openssl(SoftwareKey.from_pem(pem), pem, tmp_path)


def test_openssl_genpkey_rsa(tmp_path: Path) -> None:
    """An RSA key signs by either name, and openssl accepts both."""
    pem = openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    key = SoftwareKey.from_pem(pem)
    assert key.alg == "PS256"
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32"]
    agrees_with_openssl(key, pem, tmp_path, *pss)
    agrees_with_openssl(key.with_alg("RS256"), pem, tmp_path)
    pkcs1 = openssl("rsa", "-traditional", feed=pem)
    assert b"BEGIN RSA PRIVATE KEY" in pkcs1
    assert SoftwareKey.from_pem(pkcs1).thumbprint == key.thumbprint


def test_openssl_genpkey_ed25519(tmp_path: Path) -> None:
    """Ed25519 signatures are deterministic: openssl's is ours."""
    pem = openssl("genpkey", "-algorithm", "ED25519")
    key = SoftwareKey.from_pem(pem)
    assert key.alg == "Ed25519"
    (tmp_path / "key.pem").write_bytes(pem)
    (tmp_path / "bytes").write_bytes(b"bytes")
    theirs = openssl("pkeyutl", "-sign", "-rawin", "-inkey", tmp_path / "key.pem", "-in", tmp_path / "bytes")
    assert theirs == key.sign(b"bytes") == key.with_alg("EdDSA").sign(b"bytes")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["pkcs8", "-topk8", "-passout", "env:PW"], id="PKCS#8"),
        pytest.param(["pkcs8", "-topk8", "-passout", "env:PW", "-scrypt"], id="PKCS#8 with scrypt"),
        pytest.param(["pkcs8", "-topk8", "-passout", "env:PW", "-v2", "des3"], id="PKCS#8 with 3DES"),
        pytest.param(["ec", "-aes256", "-passout", "env:PW"], id="SEC1 with AES"),
    ],
)
def test_openssl_encrypted(tmp_path: Path, command: list[str]) -> None:
    """Keys that openssl encrypted open with the password, given as str, as bytes or by a function."""
    pem = openssl(*command, feed=SEC1)
    for password in (PASSWORD, PASSWORD.encode(), lambda: PASSWORD):
        key = SoftwareKey.from_pem(pem, password)
        assert key.thumbprint == PublicKey.from_cryptography(NATIVE.public_key()).thumbprint
    agrees_with_openssl(key, pem, tmp_path)


# --- forms


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PKCS8, id="PKCS#8"),
        pytest.param(SEC1, id="SEC1"),
        pytest.param(PARAMETERS + SEC1, id="parameters first"),
        pytest.param(DER, id="DER"),
        pytest.param(SEC1_DER, id="SEC1 DER"),
        pytest.param(PKCS8.replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + PKCS8, id="byte order mark"),
        pytest.param(b"Bag Attributes\n    localKeyID: 01\n" + PKCS8 + b"\n\n", id="text around"),
        pytest.param(PKCS8.rstrip(), id="no last newline"),
        pytest.param(b"  " + PKCS8.replace(b"\n", b"\n  "), id="indented"),
        pytest.param(CERTIFICATE + PKCS8 + CERTIFICATE, id="among certificates"),
        pytest.param(PUBLIC + PKCS8, id="after its public key"),
    ],
)
def test_forms_that_are_read(content: bytes) -> None:
    """One private key in any of its common forms, whatever else is in the file."""
    assert of_native(content)


@pytest.mark.parametrize("content", [ENCRYPTED, ENCRYPTED_DER], ids=["PEM", "DER"])
def test_encrypted_keys(content: bytes) -> None:
    """With the password they open; without, with a wrong or an empty one the error says which it is."""
    assert of_native(content, PASSWORD)
    assert of_native(content, PASSWORD.encode)
    with pytest.raises(KeyPasswordError, match="give its password"):
        read_private_key(content)
    for wrong in ("wrong", b"wrong", lambda: "wrong"):
        with pytest.raises(KeyPasswordError, match="wrong, or the encrypted key is damaged") as caught:
            read_private_key(content, wrong)
    with pytest.raises(KeyPasswordError, match="empty"):
        read_private_key(content, "")
    with pytest.raises(ArgumentTypeError, match="password"):
        read_private_key(content, 5)  # type: ignore[arg-type]
    assert not any(secret in said(caught.value) for secret in SECRETS)


@pytest.mark.parametrize("content", [PKCS8, SEC1, DER], ids=["PKCS#8", "SEC1", "DER"])
def test_a_password_for_nothing_is_an_error(content: bytes) -> None:
    """Whoever gives a password believes the key is encrypted: that is worth knowing."""
    with pytest.raises(KeyPasswordError, match="not encrypted"):
        read_private_key(content, PASSWORD)


def test_a_function_is_asked_only_if_needed() -> None:
    """Nobody is prompted for the password of a key that has none."""
    asked = []

    def ask() -> str:
        asked.append(True)
        return PASSWORD

    assert of_native(PKCS8, ask)
    assert asked == []
    assert of_native(ENCRYPTED, ask)
    assert asked == [True]


@pytest.mark.parametrize(
    ("password", "says"),
    [("", "empty"), (b"", "empty"), ("x" * 1024, "at most 1023"), ("\ud800", "surrogate")],
    ids=["empty", "empty bytes", "long", "surrogate"],
)
def test_passwords_that_cannot_be(password: str | bytes, says: str) -> None:
    """Bounds of openssl and of UTF-8 are told before anything is tried."""
    with pytest.raises(KeyPasswordError, match=says):
        check_password(password)


def test_a_password_of_the_environment_is_taken_byte_by_byte() -> None:
    """Octets that are no UTF-8 come out of os.environ as surrogates, and go back to what they were."""
    assert check_password(b"\xff\xfe".decode("utf-8", "surrogateescape")) == b"\xff\xfe"
    assert check_password("é") == "é".encode()


# --- as other tools write them


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_key_that_an_editor_has_marked(tmp_path: Path, encoding: str) -> None:
    """A mark at the beginning, or UTF-16 as Windows PowerShell writes it: PEM, JWK and public keys alike."""
    key = SoftwareKey.from_pem(PKCS8)
    for text in (PKCS8.decode(), json.dumps(key.to_jwk(private=True))):
        (tmp_path / "key").write_bytes(text.encode(encoding))
        (tmp_path / "key").chmod(0o600)
        assert load_key(tmp_path / "key").thumbprint == key.thumbprint
    for text in (PUBLIC.decode(), json.dumps(key.public_jwk)):
        PublicKey.from_bytes(text.encode(encoding))


def ed25519_v2(public: bytes = b"") -> tuple[bytes, ed25519.Ed25519PrivateKey]:
    """The DER that OpenSSL does not read (RFC 8410 §7), and the key."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = public or key.public_key().public_bytes_raw()
    private = bytes.fromhex("3051020101300506032b657004220420") + key.private_bytes_raw()
    return private + bytes.fromhex("812100") + public, key


def test_an_ed25519_key_with_its_public_half() -> None:
    """Version 2 of PKCS#8, which libraries of Go and Rust write, in DER and in PEM."""
    der, key = ed25519_v2()
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"
    expected = SoftwareKey.from_private_key(key).thumbprint
    assert [SoftwareKey.from_pem(data).thumbprint for data in (der, pem)] == [expected, expected]


def test_an_ed25519_key_with_anothers_public_half() -> None:
    """A proof would carry a key that did not sign it."""
    with pytest.raises(InvalidKeyError, match="not a private key"):
        SoftwareKey.from_pem(ed25519_v2(bytes(32))[0])


@pytest.mark.parametrize(
    "options",
    [
        ("-v2", "camellia256"),
        ("-v2", "aria256"),
        ("-v2", "sm4-cbc"),
        ("-v2", "aes-256-cfb"),
        ("-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA512-256"),
    ],
    ids=lambda options: options[-1],
)
@pytest.mark.parametrize("password", ["right", "wrong"])
def test_a_cipher_that_is_not_known(tmp_path: Path, options: tuple[str, ...], password: str) -> None:
    """The password is not blamed, and the command that the message names makes a key that can be read."""
    old, new = str(tmp_path / "old.pem"), str(tmp_path / "new.pem")
    (tmp_path / "plain.pem").write_bytes(PKCS8)
    openssl("pkcs8", "-topk8", "-in", str(tmp_path / "plain.pem"), "-out", old, *options, "-passout", "pass:right")
    with pytest.raises(InvalidKeyError, match="openssl pkcs8 -topk8 -in KEY -out NEW"):
        load_key(old, password=password)
    openssl("pkcs8", "-topk8", "-in", old, "-out", new, "-passin", "pass:right", "-passout", "pass:right")
    assert load_key(new, password="right").thumbprint == SoftwareKey.from_pem(PKCS8).thumbprint


def test_a_curve_described_by_numbers(tmp_path: Path) -> None:
    """With a compressed generator it is not read; the command of the message names the curve instead."""
    first, old, new = (str(tmp_path / name) for name in ("first.pem", "old.pem", "new.pem"))
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-param_enc", "explicit", "-out", first)
    openssl("ec", "-in", first, "-param_enc", "explicit", "-conv_form", "compressed", "-out", old)
    with pytest.raises(InvalidKeyError, match="openssl ec -param_enc named_curve -in KEY -out NEW"):
        load_key(old)
    openssl("ec", "-param_enc", "named_curve", "-in", old, "-out", new)
    assert load_key(new).alg == "ES256"


@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_number_without_its_leading_zeros(tmp_path: Path, form: str) -> None:
    """Some libraries cut them; the command of the message writes them."""
    key = ec.derive_private_key(int.from_bytes(range(1, 29), "big"), ec.SECP256R1())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    body = b"\x02\x01\x01\x04\x1c" + bytes(range(1, 29)) + bytes.fromhex("a00a06082a8648ce3d030107a144034200") + point
    der = b"\x30" + bytes([len(body)]) + body
    pem = b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END EC PRIVATE KEY-----\n"
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(pem if form == "PEM" else der)
    with pytest.raises(InvalidKeyError, match="openssl ec -in KEY -out NEW"):
        load_key(old)
    openssl("ec", "-in", str(old), "-inform", form, "-out", str(new))
    assert load_key(new).thumbprint == SoftwareKey.from_private_key(key).thumbprint


# --- keys kept to RSASSA-PSS

PSS_OF_SHA384 = ("rsa_pss_keygen_md:sha384", "rsa_pss_keygen_mgf1_md:sha384", "rsa_pss_keygen_saltlen:48")


@cache
def pss_key(*options: str) -> bytes:
    """An RSA key in PEM whose type is RSASSA-PSS."""
    more = [part for option in options for part in ("-pkeyopt", option)]
    return openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", *more)


@pytest.mark.parametrize(
    ("options", "algs"), [((), ("PS256", "PS384", "PS512")), (PSS_OF_SHA384, ("PS384",))], ids=["any hash", "SHA-384"]
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
def test_a_key_for_pss_signs_with_nothing_else(options: tuple[str, ...], algs: tuple[str, ...], form: str) -> None:
    """Its owner said so (RFC 4055 §1.2), and a signature by RS256 would break that; its public half says it too."""
    pem = pss_key(*options)
    data = pem if form == "PEM" else openssl("pkey", "-outform", "DER", feed=pem)
    key = SoftwareKey.from_pem(data)
    public = openssl("pkey", "-pubout", "-outform", form, feed=pem)
    external = ExternalKey(public, key.sign, signature_format="raw", alg=algs[0])
    assert (key.algs, key.alg, PublicKey.from_bytes(public).algs) == (algs, algs[0], algs)
    assert PublicKey.from_jwk(key.public_jwk).verify(algs[0], b"x", external.sign(b"x"))
    for attempt in (
        lambda: load_key(data, alg="RS256"),
        lambda: ExternalKey(public, key.sign, signature_format="raw", alg="RS256"),
    ):
        with pytest.raises(AlgorithmError, match=f"{algs[-1]}, not with 'RS256'"):
            attempt()


@pytest.mark.parametrize(
    ("options", "algs"), [((), ("PS256", "PS384", "PS512")), (PSS_OF_SHA384, ("PS384",))], ids=["any hash", "SHA-384"]
)
@pytest.mark.parametrize("form", ["PEM", "DER"])
@pytest.mark.parametrize("how", [(), ("-v2prf", "hmacWithSHA1"), ("-v2", "aes-128-cbc", "-iter", "100000")], ids=str)
def test_an_encrypted_key_for_pss_signs_with_nothing_else(
    options: tuple[str, ...], algs: tuple[str, ...], form: str, how: tuple[str, ...]
) -> None:
    """The encryption hides the type from who has no password only."""
    encrypting = ["pkcs8", "-topk8", "-outform", form, "-passout", "pass:geheim", *how]
    data = openssl(*encrypting, feed=pss_key(*options))
    assert b"BEGIN ENCRYPTED" in data or form == "DER"
    assert SoftwareKey.from_pem(data, "geheim").algs == algs
    with pytest.raises(AlgorithmError, match=f"{algs[-1]}, not with 'RS256'"):
        load_key(data, password="geheim", alg="RS256")


def test_an_encrypted_key_for_pss_of_the_cryptography_package() -> None:
    """Other RSA keys that are encrypted sign with all."""
    rsa: Any = SoftwareKey.generate("PS256")._private
    best = BestAvailableEncryption(b"geheim")
    pem = rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, best)
    assert len(SoftwareKey.from_pem(pem, b"geheim").algs) == 6


def test_a_key_for_pss_with_another_hash() -> None:
    """No algorithm of DPoP fits it."""
    with pytest.raises(InvalidKeyError, match="use SHA-256, SHA-384 or SHA-512"):
        SoftwareKey.from_pem(pss_key("rsa_pss_keygen_md:sha224", "rsa_pss_keygen_mgf1_md:sha224"))


def test_other_rsa_keys_sign_with_all() -> None:
    """The type of most RSA keys rules nothing out."""
    assert len(SoftwareKey.from_pem(openssl("genpkey", "-algorithm", "RSA")).algs) == 6


# --- mistakes

LINES = PKCS8.splitlines(keepends=True)
UNSUPPORTED = SEC1.replace(
    b"PRIVATE KEY-----\n",
    b"PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: ROT-13,00112233445566778899AABBCCDDEEFF\n\n",
    1,
)

MISTAKES = [
    pytest.param(b"", "input is empty", id="empty"),
    pytest.param(b" \r\n\t", "input is empty", id="blank"),
    pytest.param(b"\x00\x01\x02" + bytes(range(200)), "this is not a key", id="garbage"),
    pytest.param(b"hello", "this is not a key", id="text"),
    pytest.param(base64.b64encode(DER), "base64 without its PEM lines", id="base64 without lines"),
    pytest.param(b"".join(LINES[1:-1]), "base64 without its PEM lines", id="PEM without its first and last line"),
    pytest.param(base64.b64encode(PKCS8), "base64 -d", id="PEM in base64"),
    pytest.param(PKCS8.decode().replace("-----", "\u2014\u2014-").encode(), "five hyphens", id="dashes"),
    pytest.param(PKCS8.replace(b"-----", b"----"), "five hyphens", id="four hyphens"),
    pytest.param(b"\xfe\xed\xfe\xed\0\0\0\2" + bytes(50), "keytool -importkeystore", id="Java keystore"),
    pytest.param(PKCS8.decode().encode("utf-16")[:-1], "this is not a key", id="UTF-16 cut"),
    pytest.param(b"PuTTY-User-Key-File-3: ssh-ed25519\n", "puttygen KEY -O private-openssh", id="ppk"),
    pytest.param(b"eyJhbGciOiJFUzI1NiJ9.e30.AA", "JWT or an encrypted JWK", id="JWT"),
    pytest.param(b"ssh-ed25519 AAAAC3Nz user@host", "OpenSSH public key", id="ssh public"),
    pytest.param(b"ecdsa-sha2-nistp256 AAAA user@host", "OpenSSH public key", id="ssh public ecdsa"),
    pytest.param(PUBLIC, "a public key, but a private key is needed", id="public"),
    pytest.param(PUBLIC.replace(b"PUBLIC", b"RSA PUBLIC"), "a public key, but a private", id="RSA public"),
    pytest.param(PUBLIC_DER, "a public key", id="public DER"),
    pytest.param(CERTIFICATE, "a certificate; give", id="certificate"),
    pytest.param(CERTIFICATE.replace(b"CERT", b"TRUSTED CERT"), "a certificate; give", id="trusted certificate"),
    pytest.param(CERTIFICATE.replace(b"CATE", b"CATE REQUEST"), "a certificate request", id="request"),
    pytest.param(PARAMETERS, "parameters without a key", id="parameters"),
    pytest.param(SEC1.replace(b"EC PRIVATE", b"OPENSSH PRIVATE"), "ssh-keygen -p -m PKCS8", id="OpenSSH"),
    pytest.param(SEC1.replace(b"EC PRIVATE", b"DSA PRIVATE"), "a DSA key", id="DSA"),
    pytest.param(SEC1.replace(b"EC PRIVATE", b"TSS2 PRIVATE"), "only its TPM can use", id="TPM"),
    pytest.param(SEC1.replace(b"EC PRIVATE KEY", b"PGP PRIVATE KEY BLOCK"), "OpenPGP", id="PGP"),
    pytest.param(SEC1.replace(b"EC PRIVATE", b"ODD"), "contains no private key", id="unknown label"),
    pytest.param(SEC1.replace(b"-----BEGIN EC", b"-----BEGIN ec"), "contains no private key", id="lower case"),
    pytest.param(PKCS8 + SEC1, "2 private keys", id="two keys"),
    pytest.param(PKCS8 * 3, "3 private keys", id="three keys"),
    pytest.param(b"".join(LINES[:2]), "truncated", id="truncated"),
    pytest.param(LINES[0], "truncated", id="first line"),
    pytest.param(PKCS8[:-10], "truncated", id="last line cut"),
    pytest.param(PKCS8.replace(b"END PRIVATE", b"END EC PRIVATE"), "truncated", id="another END"),
    pytest.param(PKCS8.replace(b"\n", b"\\n"), "backslash and n", id="escaped newlines"),
    pytest.param(LINES[0] + LINES[-1], "damaged", id="nothing between"),
    pytest.param(b"".join([*LINES[:2], LINES[-1]]), "damaged", id="a line missing"),
    pytest.param(LINES[0] + LINES[1][::-1].lstrip() + b"\n" + LINES[2] + LINES[-1], "damaged", id="shuffled"),
    pytest.param(PKCS8.replace(b"PRIVATE", b"RSA PRIVATE"), "damaged", id="wrong label"),
    pytest.param(DER[:-5], "DER, but not a private key", id="DER truncated"),
    pytest.param(DER + b"\0", "DER, but not a private key", id="DER with more"),
    pytest.param(b"0", "DER, but not a private key", id="a zero"),
]


@pytest.mark.parametrize(("content", "says"), MISTAKES)
def test_mistakes_have_their_own_sentence(content: bytes, says: str) -> None:
    """What came, what was expected or what to do; no byte of the key in the text or in what led to it."""
    for password in (None, lambda: PASSWORD):
        with pytest.raises(InvalidKeyError) as caught:
            SoftwareKey.from_pem(content, password)
        assert says in str(caught.value)
        assert not any(secret in said(caught.value) for secret in SECRETS)


def test_an_unknown_cipher_is_named_as_the_trouble() -> None:
    """The password may be right, but nothing here can decrypt the key: the error says how to get on."""
    with pytest.raises(InvalidKeyError, match="not supported; encrypt it again") as caught:
        read_private_key(UNSUPPORTED, PASSWORD)
    assert not any(secret in said(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["ecparam", "-genkey", "-noout", "-name", "secp256k1"], "curve secp256k1 is not for DPoP"),
        (["ecparam", "-genkey", "-noout", "-name", "secp224r1"], "curve secp224r1 is not for DPoP"),
        (["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"], "1024 bits"),
        (["genpkey", "-algorithm", "ED448"], "cannot sign proofs"),
        (["genpkey", "-algorithm", "X25519"], "cannot sign proofs"),
    ],
    ids=["secp256k1", "P-224", "RSA 1024", "Ed448", "X25519"],
)
def test_keys_of_another_kind_are_refused(arguments: list[str], says: str) -> None:
    """A private key it is, but not one DPoP can use (RFC 7518 §3.1, §3.3; RFC 8037 §3.1)."""
    with pytest.raises(InvalidKeyError, match=says):
        SoftwareKey.from_pem(openssl(*arguments))


def test_a_private_key_with_another_public_key_is_refused() -> None:
    """Both are in the file, and they must belong together."""
    own, other = (
        key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in (NATIVE, ec.generate_private_key(ec.SECP256R1()))
    )
    assert own in DER
    with pytest.raises(InvalidKeyError):
        SoftwareKey.from_pem(DER.replace(own, other))


@pytest.mark.parametrize("content", ["-----BEGIN PRIVATE KEY-----", None, 5], ids=["str", "None", "int"])
def test_from_pem_takes_bytes(content: Any) -> None:
    """A str is refused by its type, not misread as a path."""
    with pytest.raises(ArgumentTypeError, match="data must be bytes"):
        SoftwareKey.from_pem(content)


@given(st.data())
def test_damage_anywhere_is_a_key_error_or_no_damage(data: st.DataObject) -> None:
    """Octets changed, cut or added anywhere in a key: our errors only, and none with a secret."""
    content = bytearray(data.draw(st.sampled_from([PKCS8, SEC1, PARAMETERS + SEC1, DER, SEC1_DER])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        key = SoftwareKey.from_pem(bytes(content))
    except DPoPKeyError as error:
        everything = said(error)
    else:
        everything = ""
        assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"bytes", key.sign(b"bytes"))
    assert not any(secret in everything for secret in SECRETS)


@pytest.mark.parametrize("curve", [0x6F, 0x71], ids=["X448", "Ed448"])
def test_a_key_too_short_for_its_curve(curve: int) -> None:
    """What cryptography itself has no error for is an unreadable key like any other."""
    content = bytes([0x30, 0x2E, 2, 1, 0, 0x30, 5, 6, 3, 0x2B, 0x65, curve, 4, 0x22, 4, 0x20, *range(32)])
    with pytest.raises(InvalidKeyError, match="not a private key"):
        SoftwareKey.from_pem(content)
