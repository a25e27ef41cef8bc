# SPDX-License-Identifier: Apache-2.0
"""Keys in memory: what they sign, how they are saved, and that they keep their secret."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import stat
import threading
import traceback
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils, x25519
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import import_key
from support.paths import DATA

import dpop
from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import (
    AlgorithmError,
    ArgumentTypeError,
    DPoPKeyError,
    InvalidKeyError,
    KeyFileError,
    KeyPasswordError,
    SigningError,
    UsageError,
)
from dpop.keys import SoftwareKey, load_key
from dpop.keys._algorithms import ALGORITHMS
from dpop.keys._public import PublicKey
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer

KEYS = {alg: SoftwareKey.generate(alg) for alg in ("ES256", "ES384", "ES512", "Ed25519", "PS256")}
KEYS["EdDSA"] = KEYS["Ed25519"].with_alg("EdDSA")
KEYS |= {alg: KEYS["PS256"].with_alg(alg) for alg in ("RS256", "PS384", "PS512", "RS384", "RS512")}
SIZES = {
    "ES256": 64,
    "ES384": 96,
    "ES512": 132,
    "Ed25519": 64,
    "EdDSA": 64,
    **dict.fromkeys(("PS256", "RS256", "PS384", "PS512", "RS384", "RS512"), 384),
}

HIDDEN = "inside is 0xSECRET"

PUBLISHED: dict[str, Any] = {
    case["id"]: case["facts"]
    for case in json.loads((DATA / "public-vectors.json").read_text(encoding="ascii"))["cases"]
}


def secrets_of(key: SoftwareKey) -> list[str]:
    """Spellings of the private key that must turn up nowhere."""
    d = key.to_jwk(private=True)["d"]
    content = b64url_decode(d)
    return [d[4:40], content.hex()[8:48], str(int.from_bytes(content, "big"))[4:44], repr(content)[2:40]]


class Stubborn(ec.EllipticCurvePrivateKey):
    """A key of another package: it signs and has a public key, and that is all."""

    def __init__(self, response: Any = None, public: Any = None) -> None:
        self.inner = ec.generate_private_key(ec.SECP256R1())
        self.response = response
        self.public = public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        if self.response is None:
            return self.inner.sign(data, signature_algorithm)
        response: bytes = self.response(data)
        return response

    def public_key(self) -> ec.EllipticCurvePublicKey:
        if self.public is not None:
            raise self.public
        return self.inner.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self.inner.curve

    @property
    def key_size(self) -> int:
        return 256

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        raise NotImplementedError(HIDDEN)

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise NotImplementedError(HIDDEN)

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002 - its name
        raise NotImplementedError(HIDDEN)

    def __copy__(self) -> Stubborn:
        raise NotImplementedError

    def __deepcopy__(self, memo: dict[int, Any]) -> Stubborn:
        raise NotImplementedError


# --- generating


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_a_new_key_is_for_its_algorithm(alg: str) -> None:
    """Type, curve and size are those of the algorithm; the public JWK has the required members only."""
    key = SoftwareKey.generate(alg)
    assert key.alg == alg
    assert key.blocking is False
    assert key.public_jwk["kty"] == ALGORITHMS[alg].kty
    assert key.public_jwk.get("crv") == ALGORITHMS[alg].crv
    assert set(key.public_jwk) == set(
        {"EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x"), "RSA": ("kty", "n", "e")}[ALGORITHMS[alg].kty]
    )
    assert key.thumbprint == PublicKey.from_jwk(key.public_jwk).thumbprint
    if alg[:2] in {"PS", "RS"}:
        assert len(b64url_decode(key.public_jwk["n"])) * 8 == 3072
        assert key.public_jwk["e"] == "AQAB"


@pytest.mark.parametrize("alg", ["HS256", "none", "es256", "", None, 256, ["ES256"]], ids=repr)
def test_unknown_algorithms_are_refused(alg: Any) -> None:
    """The error lists what there is."""
    with pytest.raises(AlgorithmError, match="ES256 ES384 ES512 Ed25519 EdDSA PS256 RS256 PS384 PS512 RS384 RS512"):
        SoftwareKey.generate(alg)


def test_keys_are_fresh() -> None:
    """No two are alike."""
    assert len({SoftwareKey.generate().thumbprint for _ in range(50)}) == 50


# --- signing


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("alg", KEYS)
def test_an_independent_library_verifies_what_a_key_signs(alg: str) -> None:
    """joserfc accepts a JWS of each algorithm, given nothing but the public JWK."""
    key = KEYS[alg]
    signing_input = ".".join(b64url_encode(json.dumps(part).encode()) for part in ({"alg": alg}, {"iat": 1})).encode()
    signature = key.sign(signing_input)
    assert type(signature) is bytes
    assert len(signature) == SIZES[alg]
    token = signing_input + b"." + b64url_encode(signature).encode()
    public: Any = import_key(key.public_jwk)  # type: ignore[arg-type]
    assert json.loads(jws.deserialize_compact(token, public, algorithms=[alg]).payload) == {"iat": 1}


@given(st.binary(max_size=500))
def test_every_signature_verifies_and_has_its_length(content: bytes) -> None:
    """Any bytes, by each kind of elliptic-curve key, short r and s included."""
    for alg in ("ES256", "ES384", "ES512", "Ed25519"):
        signature = KEYS[alg].sign(content)
        assert len(signature) == SIZES[alg]
        assert PublicKey.from_jwk(KEYS[alg].public_jwk).verify(alg, content, signature)


def test_short_r_and_s_are_padded() -> None:
    """One signature in 64 has an r or s that begins with a zero byte: it has 64 bytes too (RFC 7518 §3.4)."""
    key = KEYS["ES256"]
    tries = (number.to_bytes(2, "big") for number in range(10_000))
    content, signature = next(
        (content, signature) for content in tries if 0 in ((signature := key.sign(content))[0], signature[32])
    )
    assert len(signature) == 64
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", content, signature)


def test_the_published_ed25519_signature() -> None:
    """Ed25519 is deterministic: the bytes of RFC 8037 A.4 come out."""
    signing_input, _, signature = PUBLISHED["rfc8037-A.4-A.5-jws"]["jws"].rpartition(".")
    key = SoftwareKey.from_jwk(PUBLISHED["rfc8037-A.2-key"]["jwk"])
    assert key.sign(signing_input.encode()) == b64url_decode(signature)


def test_many_threads_sign_at_once() -> None:
    """Eight threads share each key; every signature is good."""
    bad: list[str] = []
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for alg in ("ES256", "Ed25519", "PS256"):
            public = PublicKey.from_jwk(KEYS[alg].public_jwk)
            for turn in range(20 if alg != "PS256" else 2):
                content = f"{number} {turn}".encode()
                if not public.verify(alg, content, KEYS[alg].sign(content)):
                    bad.append(alg)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bad == []


@pytest.mark.parametrize("content", ["bytes", None, 7, ["x"]], ids=["str", "None", "int", "list"])
@pytest.mark.parametrize("alg", KEYS)
def test_only_bytes_are_signed(alg: str, content: Any) -> None:
    """A str is refused with a sentence of ours, for each kind of key."""
    with pytest.raises(ArgumentTypeError, match="signing_input must be bytes"):
        KEYS[alg].sign(content)


# --- the names of one key


@pytest.mark.parametrize(("first", "second"), [("Ed25519", "EdDSA"), ("PS256", "RS256"), ("PS256", "PS512")])
def test_a_key_with_several_names_can_switch(first: str, second: str) -> None:
    """The key is the same, its thumbprint too; the one it came from stays as it was."""
    key = KEYS[first]
    other = key.with_alg(second)
    assert (key.alg, other.alg) == (first, second)
    assert key.algs == other.algs
    assert key.algs[0] == first
    assert second in key.algs
    assert other.thumbprint == key.thumbprint
    assert other.with_alg(second) is other
    assert PublicKey.from_jwk(other.public_jwk).verify(second, b"bytes", other.sign(b"bytes"))


@pytest.mark.parametrize("alg", ["RS256", "ES384", "none", "HS256", ""])
def test_a_key_cannot_switch_to_what_it_is_not(alg: str) -> None:
    """The error says what the key can do."""
    with pytest.raises(AlgorithmError, match="can sign with ES256, not"):
        KEYS["ES256"].with_alg(alg)


# --- key objects of the cryptography package, and of others


@pytest.mark.parametrize(
    ("native", "alg"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (rsa.generate_private_key(65537, 2048), "PS256"),
    ],
    ids=["P-256", "P-521", "Ed25519", "RSA"],
)
def test_a_private_key_object_is_wrapped(native: Any, alg: str) -> None:
    """The best of its algorithms by default, another on demand, and no thread needed to sign."""
    key = SoftwareKey.from_private_key(native)
    assert key.alg == alg
    assert key.blocking is False
    assert SoftwareKey.from_private_key(native, alg=key.algs[-1]).alg == key.algs[-1]
    assert SoftwareKey.from_private_key(native, blocking=True).blocking is True
    with pytest.raises(AlgorithmError):
        SoftwareKey.from_private_key(native, alg="ES384")


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (ec.generate_private_key(ec.SECP256R1()).public_key(), "a public key"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (rsa.generate_private_key(65537, 1024), "1024 bits"),
        (x25519.X25519PrivateKey.generate(), "cannot sign proofs"),
        ("key.pem", "a str cannot sign proofs"),
        (None, "a NoneType cannot sign proofs"),
    ],
    ids=["public", "secp256k1", "RSA 1024", "X25519", "str", "None"],
)
def test_what_is_no_private_key_for_proofs_is_not_wrapped(thing: object, says: str) -> None:
    """The sentence says what came."""
    with pytest.raises(InvalidKeyError, match=says):
        SoftwareKey.from_private_key(thing)


def test_a_key_that_cannot_be_exported_does_everything_else(tmp_path: Path) -> None:
    """It signs and shows its public key; saving it is refused, and its words are not passed on."""
    key = SoftwareKey.from_private_key(Stubborn())
    assert key.blocking is True
    assert key.with_alg("ES256").blocking is True
    assert SoftwareKey.from_private_key(Stubborn(), blocking=False).blocking is False
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"bytes", key.sign(b"bytes"))
    assert key.to_jwk() == key.public_jwk
    assert copy.deepcopy(key) is key
    for export in (lambda: key.to_jwk(private=True), lambda: key.save(tmp_path / "key.pem")):
        with pytest.raises(DPoPKeyError, match="cannot be exported") as caught:
            export()
        assert HIDDEN not in "".join(traceback.format_exception(caught.value))
    assert list(tmp_path.iterdir()) == []


class Talkative(Stubborn):
    """One that would give its private part to whoever asks, and counts who does."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        self.asked += 1
        return self.inner.private_numbers()

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> bytes:  # noqa: A002 - its name
        self.asked += 1
        return self.inner.private_bytes(encoding, format, encryption_algorithm)


def test_nobody_asks_for_the_private_part() -> None:
    """Whatever the client does with it, a key object is asked to sign and for its public key, and nothing else."""
    theirs = Talkative()
    key = SoftwareKey.from_private_key(theirs)
    assert copy.copy(key) is key.with_alg("ES256") is key
    assert (key.to_jwk(), repr(key), key.algs, key.reference) == (key.public_jwk, f"{key}", ("ES256",), None)
    with DPoPTestServer(nonces="rotating") as server, requests.Session() as session:
        token = server.issue_access_token(jkt=key.thumbprint)
        session.mount(server.origin, DPoPAdapter(dpop.Prover(key), origins=server.origin, access_token=token))
        assert session.get(f"{server.resource}/things").status_code == 200
        with TokenEndpoint(
            key, server.token_endpoint, client_id=server.client_id, client_secret=server.client_secret
        ) as endpoint:
            assert endpoint.grant("client_credentials").jkt == key.thumbprint
    assert theirs.asked == 0


def _raise(error: BaseException) -> Any:
    raise error


OTHER = ec.generate_private_key(ec.SECP256R1())
P256 = ec.ECDSA(hashes.SHA256())


@pytest.mark.parametrize(
    ("response", "says"),
    [
        pytest.param(lambda _: _raise(RuntimeError(HIDDEN)), "failed to sign with ES256: RuntimeError", id="raises"),
        pytest.param(lambda data: OTHER.sign(data, P256), "does not verify", id="another key"),
        pytest.param(lambda data: OTHER.sign(data + b"x", P256), "does not verify", id="other bytes"),
        pytest.param(lambda _: bytes(64), "failed to sign with ES256: not DER", id="raw"),
        pytest.param(lambda _: b"", "failed to sign with ES256: not DER", id="nothing"),
        pytest.param(lambda _: "signature", "der must be bytes, not str", id="str"),
        pytest.param(lambda _: utils.encode_dss_signature(0, 1), "r is zero", id="zero"),
        pytest.param(lambda _: _raise(SigningError("touch the token")), "^touch the token$", id="our own"),
    ],
)
def test_a_key_object_that_signs_badly_is_found_out(response: Any, says: str) -> None:
    """Nothing that does not verify leaves, and what the object said stays inside: it may hold bytes."""
    key = SoftwareKey.from_private_key(Stubborn(response))
    with pytest.raises(SigningError, match=says) as caught:
        key.sign(b"bytes")
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


def test_a_key_object_without_a_public_key_is_refused() -> None:
    """A device that is not there says so at once, not at the first request."""
    with pytest.raises(DPoPKeyError, match=r"did not return its public key \(OSError\)") as caught:
        SoftwareKey.from_private_key(Stubborn(public=OSError(HIDDEN)))
    assert HIDDEN not in "".join(traceback.format_exception(caught.value))


def test_interrupts_go_through() -> None:
    """Ctrl-C while a person looks for the token is not turned into an error about the key."""
    with pytest.raises(KeyboardInterrupt):
        SoftwareKey.from_private_key(Stubborn(lambda _: _raise(KeyboardInterrupt()))).sign(b"bytes")


# --- saving and exporting


@pytest.mark.parametrize("password", [None, "pass word é", b"\xff\x00octets"], ids=["plain", "str", "bytes"])
@pytest.mark.parametrize("alg", ["ES256", "ES384", "ES512", "Ed25519", "PS256"])
def test_a_saved_key_comes_back(tmp_path: Path, alg: str, password: str | bytes | None) -> None:
    """PKCS#8 with mode 0600, encrypted if there is a password, and the same key when loaded."""
    path = tmp_path / "key.pem"
    KEYS[alg].save(path, password=password)
    text = path.read_text()
    assert text.startswith(f"-----BEGIN {'' if password is None else 'ENCRYPTED '}PRIVATE KEY-----\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    back = load_key(path, password=password)
    assert isinstance(back, SoftwareKey)
    assert back.to_jwk(private=True) == KEYS[alg].to_jwk(private=True)


def test_saving_does_not_overwrite_unless_told(tmp_path: Path) -> None:
    """A key is easily lost: the file that is there wins."""
    path = str(tmp_path / "key.pem")
    KEYS["ES256"].save(path)
    with pytest.raises(KeyFileError, match="overwrite=True"):
        KEYS["ES384"].save(path)
    assert load_key(path).alg == "ES256"
    KEYS["ES384"].save(path, overwrite=True)
    assert load_key(path).alg == "ES384"


@pytest.mark.parametrize("password", ["", b""], ids=["str", "bytes"])
def test_an_empty_password_does_not_save_a_plain_key(tmp_path: Path, password: str | bytes) -> None:
    """An unset variable must not turn encryption off in silence."""
    with pytest.raises(KeyPasswordError, match="empty"):
        KEYS["ES256"].save(tmp_path / "key.pem", password=password)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [7, None, b"key.pem"], ids=["int", "None", "bytes"])
def test_saving_needs_a_path(path: Any) -> None:
    """Other types are refused by name."""
    with pytest.raises(ArgumentTypeError, match="path"):
        KEYS["ES256"].save(path)


@pytest.mark.parametrize("alg", KEYS)
def test_a_jwk_comes_back_with_its_algorithm(alg: str) -> None:
    """The private JWK says which of its names the key signs by; the public one has no private member."""
    key = KEYS[alg]
    private = key.to_jwk(private=True)
    back = SoftwareKey.from_jwk(json.loads(json.dumps(private)))
    assert back.alg == alg
    assert back.to_jwk(private=True) == private
    assert key.to_jwk() == key.public_jwk
    assert not {"d", "p", "q", "dp", "dq", "qi", "k", "oth", "alg"} & set(key.to_jwk())


def test_the_public_jwk_is_the_callers_own() -> None:
    """Changing it does not change the key."""
    KEYS["ES256"].public_jwk["x"] = "other"
    KEYS["ES256"].to_jwk()["x"] = "other"
    assert len(KEYS["ES256"].public_jwk["x"]) == 43


# --- keeping the secret


@pytest.mark.parametrize("alg", KEYS)
def test_the_secret_shows_nowhere(alg: str, caplog: pytest.LogCaptureFixture) -> None:
    """repr, str, format, dir, vars and the log have the algorithm and the thumbprint, never the key."""
    key = KEYS[alg]
    assert repr(key) == f"<SoftwareKey {alg} {key.thumbprint}>"
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("test").debug("%s %r %s", key, key, [key])
    shown = [repr(key), str(key), f"{key}", repr([key]), repr(dir(key)), caplog.text]
    shown += [repr(getattr(key, name)) for name in dir(key) if not name.startswith("__")]
    assert not any(secret in text for secret in secrets_of(key) for text in shown)
    with pytest.raises(TypeError):
        vars(key)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_key_cannot_be_pickled(protocol: int) -> None:
    """Neither alone nor inside something else; the error says what to do instead."""
    for thing in (KEYS["ES256"], {"key": KEYS["ES256"]}):
        with pytest.raises(UsageError, match="load it by its path"):
            pickle.dumps(thing, protocol)


def test_a_copy_is_the_key_itself() -> None:
    """Configuration that is copied deeply keeps working, and there is no second secret."""
    key = KEYS["ES256"]
    assert copy.copy(key) is key
    assert copy.deepcopy({"key": key})["key"] is key


def test_a_key_is_immutable() -> None:
    """What a proof's header was made from cannot change under it."""
    key: Any = KEYS["ES256"]
    for name in ("alg", "thumbprint", "public_jwk", "blocking", "anything"):
        with pytest.raises(AttributeError):
            setattr(key, name, "other")
