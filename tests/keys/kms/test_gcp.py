# SPDX-License-Identifier: Apache-2.0
"""Keys in Google Cloud KMS: a service of the tests that speaks in the client library's own types."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from support.cli_process import run
from support.cloud import Told, self_signed
from support.forking import in_child
from support.google_kms import ALGORITHMS, KINDS, NAME, GoogleKms, RestServer, google_error
from support.paths import ROOT

import dpop
from dpop import errors
from dpop.keys._public import PublicKey
from dpop.keys.kms import KmsKey
from dpop.keys.kms._gcp import GcpKms
from dpop.requests import DPoPAdapter
from dpop.testing import DPoPTestServer

SECRET = "ya29.SECRET-ACCESS-TOKEN"


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials of whoever runs this, and no machine to ask for some."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)


@pytest.fixture
def google() -> Iterator[RestServer]:
    """A service that works until told otherwise."""
    with RestServer(GoogleKms()) as server:
        yield server


def opened(server: RestServer, **arguments: Any) -> dpop.Key:
    """Its key, opened by a URI."""
    return dpop.load_key(f"gcpkms:{NAME}?endpoint={server.url}", **arguments)


def verifies(key: dpop.Key, data: bytes = b"bytes") -> bool:
    """Whether it signs well."""
    return PublicKey.from_jwk(key.public_jwk).verify(key.alg, data, key.sign(data))


def test_grpc() -> None:
    """Every algorithm and every error over gRPC, in a process of its own: nothing may fork after gRPC."""
    ran = subprocess.run(
        [sys.executable, "-m", "support.google_kms"],
        cwd=ROOT / "tests",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [word for name, (alg, _) in ALGORITHMS.items() for word in (name, alg)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_algorithm(google: RestServer, algorithm: str) -> None:
    """The version's own algorithm and no other; the public key is fetched once."""
    alg, private = ALGORITHMS[algorithm]
    google.kms = GoogleKms(algorithm, private)
    key = opened(google)
    assert isinstance(key, KmsKey)
    assert (key.alg, key.blocking, key.reference) == (alg, True, f"gcpkms:{NAME}?endpoint={google.url}")
    assert key.algs == ((alg, "EdDSA") if alg == "Ed25519" else (alg,))
    for data in (b"", b"bytes", b"x" * 10_000):
        assert verifies(key, data)
    if alg == "Ed25519":
        assert verifies(key.with_alg("EdDSA"))
    assert [asked.method for asked in google.asked].count("GET") == 1
    with pytest.raises(errors.AlgorithmError, match=f"it signs with .*{alg}.*, not with 'ES512'"):
        opened(google, alg="ES512")


@pytest.mark.parametrize(
    ("algorithm", "private"),
    [
        ("EC_SIGN_SECP256K1_SHA256", ec.generate_private_key(ec.SECP256K1())),
        ("RSA_SIGN_RAW_PKCS1_2048", rsa.generate_private_key(65537, 2048)),
        ("RSA_DECRYPT_OAEP_2048_SHA256", rsa.generate_private_key(65537, 2048)),
        ("PQ_SIGN_ML_DSA_65", ec.generate_private_key(ec.SECP256R1())),
    ],
)
def test_keys_of_no_use(google: RestServer, algorithm: str, private: Any) -> None:
    """The message says what it is and what would do."""
    google.kms = GoogleKms(algorithm, private)
    with pytest.raises(errors.InvalidKeyError, match=f"its algorithm is {algorithm}; EC_SIGN_P256_SHA256 suits"):
        opened(google)


@pytest.mark.filterwarnings("ignore:Unrecognized CryptoKeyVersionAlgorithm")
def test_an_algorithm_that_is_newer_than_the_library(google: RestServer) -> None:
    """It has a number and no name yet."""
    google.faults.append(Told(200, {"name": NAME, "algorithm": 9999, "pem": ""}))
    with pytest.raises(errors.InvalidKeyError, match="its algorithm is 9999"):
        opened(google)


def test_a_public_key_that_does_not_fit(google: RestServer) -> None:
    """Damaged, or of another kind than the algorithm says."""
    google.kms.private = ec.generate_private_key(ec.SECP384R1())
    with pytest.raises(errors.InvalidKeyError, match="it does not sign with ES384"):
        opened(google)
    google.faults.append(Told(200, {"name": NAME, "algorithm": "EC_SIGN_P256_SHA256", "pem": "PEM"}))
    with pytest.raises(errors.InvalidKeyError, match="not a public key: expected PEM"):
        opened(google)


def test_the_whole_client(google: RestServer) -> None:
    """The adapter signs each request in the cloud, with threads and rotating nonces."""
    key = opened(google)
    with DPoPTestServer(nonces="rotating") as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        with requests.Session() as session:
            session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token=token))
            with ThreadPoolExecutor(8) as pool:
                responses = list(pool.map(lambda n: session.get(f"{server.resource}/{n}"), range(24)))
        assert {response.status_code for response in responses} == {200}


def test_the_command_line(google: RestServer) -> None:
    """``--key gcpkms:...`` in place of a file."""
    uri = f"gcpkms:{NAME}?endpoint={google.url}"
    shown = run("key", "show", "--key", uri, "--json")
    assert json.loads(shown.stdout)["thumbprint"] == opened(google).thumbprint, shown.stderr
    assert run("proof", "GET", "https://api.example/", "--key", uri).stdout.count(".") == 2


# --- a service that fails


HTTP = {
    "NOT_FOUND": 404,
    "PERMISSION_DENIED": 403,
    "FAILED_PRECONDITION": 400,
    "INVALID_ARGUMENT": 400,
    "RESOURCE_EXHAUSTED": 429,
    "ABORTED": 409,
    "DEADLINE_EXCEEDED": 504,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "UNIMPLEMENTED": 501,
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is tried again for long."""
    monkeypatch.setattr("dpop.keys.kms._gcp._ALL_SECONDS", 0.01)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("status", HTTP)
def test_what_the_service_refuses(google: RestServer, status: str) -> None:
    """Each status has its class, when the key is opened and when it signs."""
    key = opened(google)
    kinds = {**KINDS, "RESOURCE_EXHAUSTED": errors.KeyThrottledError}
    kind = kinds.get(status, errors.KeyUnavailableError)
    for use in (lambda: opened(google), lambda: key.sign(b"bytes")):
        google.faults += [google_error(HTTP[status], status, "Permission 'x' denied.")] * 3
        with pytest.raises(errors.DPoPKeyError) as caught:
            use()
        google.faults.clear()
        assert type(caught.value) is kind, caught.value
        assert f"Google Cloud KMS, key {NAME}: " in str(caught.value)
        assert f"({status})" in str(caught.value)
        assert ("Permission 'x' denied." in str(caught.value)) is (status == "PERMISSION_DENIED")
    assert verifies(key)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (Told(403, b"<html>a proxy's</html>"), errors.KeyAccessDeniedError),
        (Told(502, b"<html>a proxy's</html>"), errors.KeyUnavailableError),
        (Told(418, {}), errors.DPoPKeyError),
        (Told(0), errors.KeyUnavailableError),
        (Told(200, {}), errors.SigningError),
        (Told(200, {"signature": "AAAA"}), errors.SigningError),
        (Told(200, {"signature": 7}), errors.DPoPKeyError),
    ],
    ids=["403", "502", "418", "hangs up", "empty", "short", "number"],
)
def test_a_service_that_answers_nonsense(google: RestServer, told: Told, kind: type[Exception]) -> None:
    """A proxy's page, no answer at all, an answer without a signature: each is an error of the key."""
    key = opened(google)
    google.faults += [told] * 3
    with pytest.raises(errors.DPoPKeyError) as caught:
        key.sign(b"bytes")
    assert type(caught.value) is kind, caught.value
    assert "html" not in str(caught.value)


def test_a_busy_service_is_asked_again(google: RestServer) -> None:
    """Refusals and a broken connection cost time, nothing else."""
    key = opened(google)
    google.asked.clear()
    google.faults += [google_error(429, "RESOURCE_EXHAUSTED"), google_error(503, "UNAVAILABLE"), Told(0)]
    assert verifies(key)
    assert len(google.asked) == 4


@pytest.mark.usefixtures("impatient")
def test_a_service_that_hangs(google: RestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up; a wait that is over leaves no trace."""
    key = opened(google)
    monkeypatch.setattr("dpop.keys.kms._gcp._ATTEMPT_SECONDS", 0.2)
    google.hold.clear()
    with pytest.raises(errors.KeyUnavailableError, match=r"cannot be reached|took too long"):
        key.sign(b"bytes")
    google.hold.set()
    monkeypatch.setattr("dpop.keys.kms._gcp._ATTEMPT_SECONDS", 20)
    assert verifies(key)


@pytest.mark.usefixtures("impatient")
def test_nobody_there() -> None:
    """A port where nobody listens."""
    with pytest.raises(errors.KeyUnavailableError, match=r"cannot be reached \(ConnectionError\)"):
        dpop.load_key(f"gcpkms:{NAME}?endpoint=http://127.0.0.1:9")


def test_another_keys_signature(google: RestServer) -> None:
    """A signature that is one, of another key."""
    key = opened(google)
    google.kms.private = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(errors.SigningError, match=r"cryptoKeyVersions/3, returned a signature that does not verify"):
        key.sign(b"bytes")


# --- credentials


def test_no_credentials() -> None:
    """The next step is in the message."""
    with pytest.raises(errors.KeyAccessDeniedError, match="run gcloud auth application-default login"):
        dpop.load_key(f"gcpkms:{NAME}")


def service_account(folder: Path) -> Path:
    """Credentials of the kind that a file holds."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    path = folder / "account.json"
    facts = {"type": "service_account", "client_email": "dpop@p-1.example", "private_key": pem, "private_key_id": "1"}
    path.write_text(json.dumps({**facts, "token_uri": "http://127.0.0.1:9", "project_id": "p-1"}))
    return path


def test_credentials_travel_over_tls_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An https endpoint gets the application default credentials, if its certificate is good; http gets none."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(service_account(tmp_path)))
    certificate = self_signed(tmp_path)
    with RestServer(GoogleKms(), certificate) as server:
        monkeypatch.setattr("dpop.keys.kms._gcp._ALL_SECONDS", 0.01)
        with pytest.raises(errors.KeyUnavailableError, match=r"SSLError"):
            opened(server)
        assert server.asked == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert verifies(opened(server))
        assert all(asked.headers["authorization"].startswith("Bearer ey") for asked in server.asked)
        server.faults += [google_error(401, "UNAUTHENTICATED")] * 5
        with pytest.raises(errors.KeyAccessDeniedError, match="Google credentials were refused"):
            opened(server)
    with RestServer(GoogleKms()) as plain:
        assert verifies(opened(plain))
        assert not any("authorization" in asked.headers for asked in plain.asked)


def test_credentials_that_are_refused(google: RestServer) -> None:
    """What the libraries say of a token or an account stays inside."""
    from google.auth.exceptions import RefreshError, TransportError

    for raised, kind in (
        (RefreshError(SECRET), errors.KeyAccessDeniedError),
        (TransportError(SECRET), errors.KeyUnavailableError),
    ):

        def make(raised: Exception = raised) -> Any:
            raise raised

        with pytest.raises(kind, match=type(raised).__name__) as caught:
            KmsKey.open(GcpKms(NAME, client=make))
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None  # which the library's requests would hang on


# --- forks


def test_sixty_four_threads_sign(google: RestServer) -> None:
    """With one key and one client; every signature is of its thread's bytes, and no connection is thrown away."""
    key = opened(google)
    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(lambda n: verifies(key, b"%d" % n), range(256)))
    assert len(google.connections) <= 64


def test_a_forked_process_signs(google: RestServer) -> None:
    """Parent and children sign, before and after, in threads of each: none waits for another's connection."""
    key = opened(google)
    assert verifies(key)

    def work() -> bytes:
        with ThreadPoolExecutor(4) as pool:
            return b"%d" % sum(pool.map(lambda n: verifies(key, b"%d" % n), range(12)))

    for _ in range(3):
        assert in_child(work) == b"12"
        assert work() == b"12"


# --- URIs


@pytest.mark.parametrize(
    "name",
    [
        "",
        "projects/p/locations/l/keyRings/r/cryptoKeys/k",
        "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/",
        "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/0",
        "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1/x",
        "projects/p/locations/l/keyRings/r/cryptoKeys/../cryptoKeyVersions/1",
        "projects/p/locations/l/keyRings/r%2Fx/cryptoKeys/k/cryptoKeyVersions/1",
        f"//{NAME}",
        f"/{NAME}",
        f"{NAME}#x",
        f"{NAME}?",
        f"{NAME}?region=x",
        f"{NAME}?endpoint=http://kms.example",
        f"{NAME}?endpoint=https://kms.example/v1",
        f"{NAME}?endpoint=https://kms.example&endpoint=https://kms.example",
    ],
)
def test_a_uri_is_read_strictly(name: str) -> None:
    """Anything but the documented form is refused before a client is made."""
    with pytest.raises(errors.InvalidKeyError, match=r"gcpkms|endpoint"):
        dpop.load_key(f"gcpkms:{name}")


def test_a_password_is_refused() -> None:
    """It is for something else."""
    with pytest.raises(errors.KeyPasswordError, match="keys in Google Cloud KMS have none"):
        dpop.load_key(f"gcpkms:{NAME}", password="1234")
    assert os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") is None
