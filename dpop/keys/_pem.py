# SPDX-License-Identifier: Apache-2.0
"""Private keys in PEM or DER: PKCS#8, SEC1 and PKCS#1 (RFC 5958, RFC 5915, RFC 8017, RFC 7468).

The cryptography package parses the keys. This module checks that there is exactly one private key, and its errors help
to find the mistake. Errors of cryptography are never chained, because they could contain bytes of a key.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from dpop.errors import ArgumentTypeError, InvalidKeyError, KeyPasswordError
from dpop.keys._public import der_of

__all__ = ["Password", "check_password", "private_block", "read_private_key", "start_of_encrypted"]

Password = str | bytes | Callable[[], str | bytes]
"""A password, or a function that asks for it. It is called only if the key is encrypted."""

_MAX_PASSWORD: Final = 1023  # OpenSSL's limit

_BEGIN: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,60})-----")
_PRIVATE: Final = frozenset({b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY"})

# Other PEM blocks that people give by mistake: a word of the label, and what to do.
_MISTAKES: Final = (
    (
        b"OPENSSH PRIVATE KEY",
        "a key in OpenSSH's own format; convert a copy with: ssh-keygen -p -m PKCS8 -f COPY",
    ),
    (b"PGP", "an OpenPGP key, which cannot sign proofs"),
    (b"DSA", "a DSA key, which cannot sign proofs; use P-256"),
    (b"TSS2", "a key that only its TPM can use; give its pkcs11: URI"),
    (b"REQUEST", "a certificate request; give the private key that belongs to it"),
    (b"CERTIFICATE", "a certificate; give the file of the private key that belongs to it"),
    (b"PUBLIC KEY", "a public key, but a private key is needed"),
    (b"PARAMETERS", "curve parameters without a key; openssl ecparam writes one with -genkey"),
)


def check_password(password: str | bytes) -> bytes:
    """Check a password and return its bytes; a str is encoded as UTF-8.

    :raises KeyPasswordError: empty, or longer than 1023 bytes.
    :raises ArgumentTypeError: neither str nor bytes.
    """
    if isinstance(password, str):
        try:
            password = password.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise KeyPasswordError("the password contains half of a surrogate pair, which is no character") from None
    elif not isinstance(password, bytes):
        raise ArgumentTypeError("password", "str or bytes", password)
    if not password:
        raise KeyPasswordError("the password is empty; leave it out if the key has none")
    if len(password) > _MAX_PASSWORD:
        raise KeyPasswordError(f"the password has {len(password)} bytes; at most {_MAX_PASSWORD} can be used")
    return password


def read_private_key(data: bytes, password: Password | None = None) -> tuple[object, bytes]:
    """Read the only private key in the bytes, as an object of the cryptography package, and the start of its PKCS#8.

    PEM may have text and other objects around the key, such as the ``EC PARAMETERS`` that ``openssl
    ecparam -genkey`` prints. Anything that is not PEM must be DER.

    :returns: the key, and bytes for ``algs_of_der``. These are empty if the key is encrypted
        in another way than OpenSSL and the cryptography package encrypt keys.
    :raises InvalidKeyError: no private key, more than one, or one that cannot be read.
    :raises KeyPasswordError: a password is missing, wrong, or given for a key that is not encrypted.
    """
    if b"-----BEGIN " in data:
        return _decrypt(load_pem_private_key, private_block(data), password)
    if data[:1] == b"\x30":
        return _decrypt(load_der_private_key, data, password)
    raise _not_a_key(data)


def private_block(data: bytes) -> bytes:
    """Extract the PEM block of the private key: cryptography would silently take the first of several. DER is kept.

    :raises InvalidKeyError: there is no private key, or more than one.
    """
    if b"-----BEGIN " not in data:
        return data
    begins = list(_BEGIN.finditer(data))
    private = [begin for begin in begins if begin[1] in _PRIVATE]
    if len(private) > 1:
        raise InvalidKeyError(f"the PEM contains {len(private)} private keys; leave the one that is meant")
    if private:
        end = b"-----END " + private[0][1] + b"-----"
        stop = data.find(end, private[0].end())
        if stop < 0:
            raise InvalidKeyError("the PEM is truncated: the private key has a BEGIN line and no END line")
        block = data[private[0].start() : stop + len(end)]
        if b"\\n" in block:
            raise InvalidKeyError(
                "the PEM has line breaks written as backslash and n, as in JSON or an environment file;"
                " turn them into real line breaks"
            )
        return block + b"\n"
    for begin in begins:
        for word, what in _MISTAKES:
            if word in begin[1]:
                raise InvalidKeyError(f"the PEM is {what}")
    raise InvalidKeyError("the PEM contains no private key; expected -----BEGIN PRIVATE KEY-----")


def _decrypt(
    load: Callable[[bytes, bytes | None], object], data: bytes, password: Password | None
) -> tuple[object, bytes]:
    key: object = None
    try:
        key = load(data, None)
    except TypeError:
        pass  # it is encrypted
    except (ValueError, UnsupportedAlgorithm, InternalError) as error:  # the last for bytes OpenSSL has no words for
        der = der_of(data)
        key = _ed25519_v2(der)
        if key is None:
            raise _unreadable(load, error, der) from None
    if key is not None:
        if password is None or callable(password):
            return key, der_of(data)
        raise KeyPasswordError("a password was given, but the key is not encrypted; leave the password out")
    if password is None:
        raise KeyPasswordError("the key is encrypted; give its password")
    secret = check_password(password() if callable(password) else password)
    try:
        return load(data, secret), start_of_encrypted(der_of(data), secret)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError) as error:
        if _unknown_cipher(error):
            raise _unreadable(load, error) from None
    raise KeyPasswordError("the password is wrong, or the encrypted key is damaged")


def _unknown_cipher(error: Exception) -> bool:
    """Whether cryptography could not try the password, because it does not know the cipher or PRF."""
    return isinstance(error, UnsupportedAlgorithm) or _UNKNOWN.search(str(error)) is not None


_UNKNOWN: Final = re.compile("unknown (?:cipher|key encryption algorithm)", re.IGNORECASE)

# Ed25519 in version 2 of PKCS#8, with its public key (RFC 8410 §7, example 2). Libraries of Go, Rust and OpenSSH
# write it, but OpenSSL does not read it. The private key follows the first part, the public key the second.
_ED25519_V2: Final = (bytes.fromhex("3051020101300506032b657004220420"), bytes.fromhex("812100"))
_PRIME_FIELD: Final = bytes.fromhex("06072a8648ce3d0101")


def _ed25519_v2(der: bytes) -> object:
    """Read an Ed25519 key in version 2 of PKCS#8; None for another format, or if its public key does not match."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - seldom wanted

    before, between = _ED25519_V2
    if len(der) != len(before) + len(between) + 64 or not der.startswith(before) or der[48:51] != between:
        return None
    key = Ed25519PrivateKey.from_private_bytes(der[16:48])
    return key if key.public_key().public_bytes_raw() == der[51:] else None


def _unreadable(load: object, error: Exception, der: bytes = b"") -> InvalidKeyError:
    if _PRIME_FIELD in der:
        reason = (
            "the EC key describes its curve with numbers, which is not supported; write the curve's name instead with:"
            " openssl ec -param_enc named_curve -in KEY -out NEW"
        )
    elif "too short" in str(error):
        reason = (
            "the leading zeros of the EC key's number are missing (RFC 5915 §3); rewrite the file with:"
            " openssl ec -in KEY -out NEW"
        )
    elif _unknown_cipher(error):
        reason = (
            "the kind of key, or the way it is encrypted, is not supported;"
            " encrypt it again with: openssl pkcs8 -topk8 -in KEY -out NEW"
        )
    elif load is load_pem_private_key:
        reason = (
            "the PEM has the lines of a private key, but the text between them cannot be read: it is damaged,"
            " or the key is of a kind that is not supported"
        )
    else:
        reason = (
            "the bytes are DER, but not a private key in PKCS#8, SEC1 or PKCS#1 form; a certificate, a public key"
            " or a .p12 store is not enough"
        )
    return InvalidKeyError(reason)


_LOOKS_LIKE: Final = {
    rb"\A\s*LS0tLS1CRUdJTi": "this is a PEM in base64, as in a Kubernetes Secret; decode it with: base64 -d",
    rb"\A\s*MI[A-Za-z0-9+/\s]{40,}={0,2}\s*\Z": (
        "this is base64 without its PEM lines; write -----BEGIN PRIVATE KEY----- before it and"
        " -----END PRIVATE KEY----- behind it, each on a line of its own"
    ),
    rb"\A(?:\xfe\xed\xfe\xed|\xce\xce\xce\xce)": (
        "this is a Java keystore; export the key with: keytool -importkeystore -srckeystore KEY -destkeystore NEW.p12"
        " -deststoretype PKCS12, and then: openssl pkcs12 -in NEW.p12 -nocerts -nodes -out NEW.pem"
    ),
    rb"PRIVATE KEY": "this is a PEM whose BEGIN line is not right: it needs five hyphens on each side",
}


def _not_a_key(data: bytes) -> InvalidKeyError:
    if not data.strip():
        return InvalidKeyError("there is no key: the input is empty")
    if data.startswith(b"PuTTY-User-Key-File"):
        return InvalidKeyError(
            "this is a key in PuTTY's own format; convert it with: puttygen KEY -O private-openssh -o NEW"
        )
    if data[:3] == b"eyJ":
        return InvalidKeyError("this looks like a JWT or an encrypted JWK, not like a key; expected PEM or a JWK")
    if re.match(rb"ssh-|ecdsa-sha2-", data):
        return InvalidKeyError("this is an OpenSSH public key, but a private key is needed; expected PEM or a JWK")
    for looks, what in _LOOKS_LIKE.items():
        if re.search(looks, data):
            return InvalidKeyError(what)
    return InvalidKeyError('this is not a key: expected PEM (-----BEGIN PRIVATE KEY-----), DER or a JWK ({"kty": ...)')


# --- the type of an encrypted key, which the cryptography package does not report

# PBES2 with PBKDF2 and AES in CBC (RFC 8018 §6.2, A.2, B.2.5). No known program uses a salt of more than 127 bytes.
_PBES2: Final = re.compile(
    rb"\x30.{1,3}\x30.\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d\x30.\x30."
    rb"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c\x30.\x04(?P<size>.)",
    re.DOTALL,
)
_AFTER_SALT: Final = re.compile(
    rb"\x02(?:\x01(?P<one>.)|\x02(?P<two>..)|\x03(?P<three>...)|\x04(?P<four>....))(?:\x02\x01.)?"
    rb"(?:\x30\x0c\x06\x08\x2a\x86\x48\x86\xf7\x0d\x02(?P<hash>[\x07-\x0b])\x05\x00)?"
    rb"\x30\x1d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x01(?P<aes>[\x02\x16\x2a])\x04\x10(?P<iv>.{16})"
    rb"\x04(?:[\x00-\x7f]|\x81.|\x82..)",
    re.DOTALL,
)
_HASHES: Final = {7: "sha1", 8: "sha224", 9: "sha256", 10: "sha384", 11: "sha512"}
_KEY_SIZES: Final = {0x02: 16, 0x16: 24, 0x2A: 32}
_START: Final = 128


def start_of_encrypted(der: bytes, password: bytes) -> bytes:
    """Decrypt the first bytes of PKCS#8, which contain the key's type; empty if it is encrypted in another way.

    :param password: the password, which must be the right one.
    """
    head = _PBES2.match(der)
    if head is None:
        return b""
    end = head.end() + head["size"][0]
    rest = _AFTER_SALT.match(der, end)
    if rest is None:
        return b""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - seldom wanted

    rounds = int.from_bytes(rest["one"] or rest["two"] or rest["three"] or rest["four"], "big")
    hash_name = _HASHES[rest["hash"][0]] if rest["hash"] else "sha1"
    key = hashlib.pbkdf2_hmac(hash_name, password, der[head.end() : end], rounds, _KEY_SIZES[rest["aes"][0]])
    decryptor = Cipher(algorithms.AES(key), modes.CBC(rest["iv"])).decryptor()
    return decryptor.update(der[rest.end() : rest.end() + _START])
