# SPDX-License-Identifier: Apache-2.0
"""generate_key, load_key, URI schemes, and the protocol that others implement."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import ROOT

import dpop
from dpop import keys
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    DPoPKeyError,
    InvalidKeyError,
    KeyFileError,
    KeyPasswordError,
    UsageError,
)
from dpop.keys import Key, SoftwareKey, generate_key, load_key, register_scheme
from dpop.keys import _sources as sources
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import PublicKey
from dpop.signature import raw_to_der

KEY = SoftwareKey.generate()
JWK = KEY.to_jwk(private=True)
SECRET = JWK["d"]
PASSWORD = "correct horse"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """KEY in a file."""
    path = tmp_path / "key.pem"
    KEY.save(path)
    return path


@pytest.fixture
def pem(saved: Path) -> bytes:
    """KEY as PEM."""
    return saved.read_bytes()


@pytest.fixture
def scheme() -> Iterator[str]:
    """A scheme of this test's own, unknown again afterwards."""
    name = "test-store"
    yield name
    sources._loaders.pop(name, None)


def is_key(key: Key) -> bool:
    """Whether it is KEY, with its private part."""
    return key.thumbprint == KEY.thumbprint and PublicKey.from_jwk(KEY.public_jwk).verify(
        key.alg, b"bytes", key.sign(b"bytes")
    )


# --- the package


def test_all_is_sorted_and_complete() -> None:
    """The names of the package are those promised, and they are there."""
    assert keys.__all__ == sorted(keys.__all__)
    assert all(hasattr(keys, name) for name in keys.__all__)


def test_importing_the_package_loads_no_other_library() -> None:
    """Keys need the cryptography package and nothing else."""
    code = "import sys, dpop.keys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    root = ROOT
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"joserfc", "click", "idna", "requests", "httpx", "httpx2", "urllib3"} & set(done.stdout.split())


# --- generate_key


def test_the_default_key_is_for_es256() -> None:
    """What every server takes."""
    key = generate_key()
    assert (key.alg, key.public_jwk["crv"], key.blocking) == ("ES256", "P-256", False)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_any_algorithm_can_be_generated(alg: str) -> None:
    """By name."""
    assert generate_key(alg).alg == alg


@pytest.mark.parametrize(
    ("alg", "algs", "chosen"),
    [
        ("ES256", ["RS256", "ES256"], "ES256"),
        ("ES256", ["EdDSA", "ES384"], "EdDSA"),
        ("ES256", "Ed25519 EdDSA", "Ed25519"),
        ("ES384", ["ES256", "ES384"], "ES384"),
        ("ES384", ["ES256"], "ES256"),
    ],
)
def test_the_server_has_a_say(alg: str, algs: Any, chosen: str) -> None:
    """The algorithm asked for if the server lists it, else the best that it lists (RFC 9449 §5.1)."""
    assert generate_key(alg, algs=algs).alg == chosen


def test_no_common_algorithm_makes_no_key() -> None:
    """Better now than at the first request."""
    with pytest.raises(AlgorithmError, match="no common algorithm"):
        generate_key(algs=["none", "HS256", "ES256K"])


# --- load_key: files


def test_a_file_is_loaded_by_str_and_by_path(saved: Path) -> None:
    """Both name the file."""
    assert is_key(load_key(saved))
    assert is_key(load_key(str(saved)))


def test_a_relative_path_and_a_home_directory(saved: Path) -> None:
    """A path is relative to the current directory; ~ is the home directory, wherever that is."""
    code = (
        "from dpop.keys import load_key\n"
        "for path in ('key.pem', './key.pem', '~/key.pem'): print(load_key(path).thumbprint)\n"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=saved.parent,
        env={**os.environ, "HOME": str(saved.parent), "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == [KEY.thumbprint] * 3


@pytest.mark.parametrize("name", ["key.json", "key.jwk", "key.pem", "key"])
def test_content_decides_not_the_name(tmp_path: Path, name: str) -> None:
    """A JWK is a JWK in a file of any name."""
    path = tmp_path / name
    path.touch(0o600)
    path.write_text(json.dumps(JWK, indent=2))
    assert is_key(load_key(path))


def test_an_encrypted_file_needs_its_password(tmp_path: Path) -> None:
    """Missing and wrong passwords are told apart, with the file's name; a function is asked when needed."""
    path = tmp_path / "key.pem"
    KEY.save(path, password=PASSWORD)
    assert is_key(load_key(path, password=PASSWORD))
    assert is_key(load_key(path, password=PASSWORD.encode()))
    assert is_key(load_key(path, password=lambda: PASSWORD))
    with pytest.raises(KeyPasswordError, match=r"key\.pem.*give its password"):
        load_key(path)
    with pytest.raises(KeyPasswordError, match=r"key\.pem.*wrong") as caught:
        load_key(path, password=PASSWORD + "x")
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))


def test_a_password_for_a_plain_key_is_an_error(saved: Path) -> None:
    """For PEM and JWK alike; a function that could be asked is no password yet."""
    for source in (saved, saved.read_bytes(), JWK, json.dumps(JWK).encode()):
        with pytest.raises(KeyPasswordError, match="not encrypted"):
            load_key(source, password=PASSWORD)
        assert is_key(load_key(source, password=lambda: PASSWORD))


@pytest.mark.parametrize(
    ("content", "error", "says"),
    [
        (b"", KeyFileError, "is empty"),
        (b"x" * 70_000, KeyFileError, "more than 64 KiB"),
        (b"garbage", InvalidKeyError, "this is not a key"),
        (b"{}", InvalidKeyError, "kty"),
        (b"[1]", InvalidKeyError, "a JSON array"),
        (
            json.dumps({"type": "service_account", "private_key": "-----BEGIN PRIVATE KEY-----"}).encode(),
            InvalidKeyError,
            "a PEM in the member 'private_key'",
        ),
        (json.dumps({"jwk": JWK}).encode(), InvalidKeyError, "the JWK is in the member 'jwk'"),
        (b'{"kty": "EC", ', InvalidKeyError, "looks like a JWK, but is not JSON"),
        (b'{"kty": "EC", "kty": "EC"}', InvalidKeyError, "duplicate member name"),
        (b'{"kty": "oct", "k": "AAAA"}', InvalidKeyError, "symmetric"),
        (json.dumps({"keys": [JWK]}).encode(), InvalidKeyError, "JWK Set"),
        (json.dumps(KEY.public_jwk).encode(), InvalidKeyError, "public key, but"),
    ],
    ids=[
        "empty",
        "huge",
        "garbage",
        "{}",
        "array",
        "PEM inside",
        "JWK inside",
        "truncated",
        "duplicate",
        "symmetric",
        "set",
        "public",
    ],
)
def test_a_file_that_is_no_key_is_named(tmp_path: Path, content: bytes, error: type[Exception], says: str) -> None:
    """The sentence has the file and the fault."""
    path = tmp_path / "key.jwk"
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(error, match=says) as caught:
        load_key(path)
    assert str(path) in str(caught.value)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The commonest mistake of all."""
    with pytest.raises(KeyFileError, match=r"missing\.pem.*No such file") as caught:
        load_key(tmp_path / "missing.pem")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


# --- load_key: bytes, dicts and others


def test_bytes_are_the_key_itself(pem: bytes) -> None:
    """PEM and JWK, as they would be in a file."""
    assert is_key(load_key(pem))
    assert is_key(load_key(json.dumps(JWK).encode()))
    assert is_key(load_key(b"\n " + json.dumps(JWK).encode()))


def test_a_dict_is_a_jwk() -> None:
    """Or any other mapping."""
    assert is_key(load_key(JWK))
    proxy: Mapping[str, object] = MappingProxyType(JWK)
    assert is_key(load_key(proxy))


def test_too_many_bytes_are_no_key() -> None:
    """Nothing is parsed that cannot be a key."""
    with pytest.raises(InvalidKeyError, match="at most 65536"):
        load_key(b"{" + b" " * 70_000)


def test_alg_chooses_between_two_names() -> None:
    """EdDSA for servers that know no other name; what the key cannot do is refused, in whatever it came."""
    key = generate_key("Ed25519")
    assert load_key(key.to_jwk(private=True), alg="EdDSA").alg == "EdDSA"
    for source in (JWK, json.dumps(JWK).encode()):
        assert load_key(source, alg="ES256").alg == "ES256"
        with pytest.raises(AlgorithmError, match="can sign with ES256"):
            load_key(source, alg="RS256")


def test_key_material_in_a_str_is_refused_unseen(pem: bytes) -> None:
    """A str is a path: a PEM or JWK in one is not opened as a file, and not repeated."""
    for text in (pem.decode(), json.dumps(JWK), " " + json.dumps(JWK), pem.decode().replace("\n", " "), SECRET + "\n"):
        with pytest.raises(InvalidKeyError, match="pass the key itself as bytes") as caught:
            load_key(text)
        assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("source", [None, 7, ["key.pem"], bytearray(b"x")], ids=["None", "int", "list", "bytearray"])
def test_other_types_are_refused(source: Any) -> None:
    """The error says what can be given."""
    with pytest.raises(ArgumentTypeError, match="a path, a URI, bytes or a dict"):
        load_key(source)


# --- load_key: URIs


@pytest.mark.parametrize("url", ["https://example.com/key.pem", "vault://x"])
def test_urls_are_not_fetched(url: str) -> None:
    """A key comes from no network; the error says what can be given."""
    with pytest.raises(
        InvalidKeyError, match="expected the path of a file, or one of agent, awskms, azurekms, gcpkms, pkcs11"
    ):
        load_key(url)


@pytest.mark.parametrize("path", ["C:\\missing\\key.pem", "c:/missing/key.pem", "odd:name.pem", ":x", "1a:x"])
def test_paths_with_a_colon_are_paths(path: str) -> None:
    """A drive letter is no scheme, and an unknown word before a colon may be a file name."""
    with pytest.raises(KeyFileError, match="No such file"):
        load_key(path)


def test_a_path_object_is_never_a_uri(tmp_path: Path) -> None:
    """Whoever passes a Path means a file, whatever its name."""
    with pytest.raises(KeyFileError):
        load_key(Path("pkcs11:token=t"))
    with pytest.raises(KeyFileError):
        load_key(PurePosixPath("awskms:x"))


def test_a_scheme_can_be_registered(scheme: str) -> None:
    """The loader gets the URI, the password and the algorithm as they came; case does not matter."""
    asked: list[tuple[str, Any, str | None]] = []

    def loader(uri: str, *, password: Any, alg: str | None) -> Key:
        asked.append((uri, password, alg))
        return KEY

    register_scheme(scheme.upper(), loader)
    assert load_key("Test-Store:my key", password="pin", alg="ES256") is KEY
    assert load_key(f"{scheme}://x") is KEY
    assert asked == [("Test-Store:my key", "pin", "ES256"), (f"{scheme}://x", None, None)]


@pytest.mark.parametrize("name", ["", "c", "a:", "1a", "a b", "ä1", "pkcs11:", None, 7], ids=repr)
def test_names_that_are_no_scheme(name: Any) -> None:
    """One letter would be a drive, and the colon does not belong to the name (RFC 3986 §3.1)."""
    with pytest.raises(UsageError, match="scheme"):
        register_scheme(name, lambda uri, *, password, alg: KEY)


@given(st.one_of(st.binary(max_size=300), st.from_regex(rb"\{.*\}", fullmatch=True)))
def test_any_bytes_are_a_key_or_a_key_error(data: bytes) -> None:
    """No other exception comes out of whatever is in a file."""
    try:
        load_key(data)
    except DPoPKeyError:
        return
    raise AssertionError("random bytes were a key")


# --- the protocol


class RemoteService:
    """A service of the kind the example in the docstring talks to."""

    def sign_sha256(self, data: bytes) -> bytes:
        return raw_to_der(KEY.sign(data))


def test_the_example_of_the_protocol_works() -> None:
    """The class in the docstring, as printed there, makes proofs."""
    doc = inspect.getdoc(Key) or ""
    _, _, rest = doc.partition("::\n")
    example = textwrap.dedent(rest[: rest.index("\nThe class needs no base")])
    assert example.count("\n") <= 15
    namespace: dict[str, Any] = {"dpop": dpop}
    exec(example, namespace)
    key: Key = namespace["RemoteKey"](RemoteService(), KEY.public_jwk)
    assert is_key(key)
    proof = dpop.create_proof(key, "GET", "https://server.example.com/")
    signing_input, _, signature = proof.rpartition(".")
    assert signing_input.count(".") == 1
    assert len(signature) == 86


def test_every_key_has_the_protocol() -> None:
    """Type checkers see it here; the members are there at run time too."""
    loaded: Key = generate_key()
    for name in ("alg", "public_jwk", "thumbprint", "blocking", "sign"):
        assert hasattr(loaded, name)
        assert getattr(Key, name).__doc__


def test_a_misspelt_algorithm_is_not_replaced() -> None:
    """generate_key(alg, algs=...): a name nobody knows is refused, though the server lists others."""
    for alg in ("ES265", [], None):
        with pytest.raises(AlgorithmError, match="no such algorithm"):
            generate_key(alg, algs=["ES256"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab", "awskms"),
        ("arn:aws-us-gov:kms:us-gov-west-1:111122223333:alias/dpop", "awskms"),
        ("projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1", "gcpkms"),
        ("https://office.vault.azure.net/keys/dpop/0123", "azurekms"),
    ],
)
def test_a_name_as_its_service_writes_it(name: str, scheme: str) -> None:
    """It is no file: the message says what to write in front of it."""
    with pytest.raises(InvalidKeyError, match=f"write {scheme}: in front"):
        load_key(name)


@pytest.mark.parametrize("uri", ["awskms:///alias/dpop", "awskms://alias/dpop", "gcpkms:///projects/p"])
def test_slashes_behind_the_scheme_of_a_service(uri: str) -> None:
    """Other tools write them; the message says to leave them out."""
    with pytest.raises(InvalidKeyError, match="leave them out"):
        load_key(uri)


def test_a_file_url(tmp_path: Path) -> None:
    """The path alone is meant."""
    with pytest.raises(InvalidKeyError, match="give the path alone"):
        load_key((tmp_path / "key.pem").as_uri())
