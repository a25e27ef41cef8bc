# SPDX-License-Identifier: Apache-2.0
"""Keys in AWS KMS: against moto's server where all goes well, and against one that fails where it does not."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import boto3
import botocore.session
import httpx
import httpx2
import pytest
import requests
from botocore.config import Config
from botocore.loaders import create_loader
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.cli_process import run
from support.cloud import AWS_CREDENTIALS, Asked, CloudServer, Told, in_the_end, moto
from support.forking import in_child

import dpop
from dpop import errors
from dpop.httpx import AsyncDPoPTransport as AsyncTransportOfHttpx
from dpop.httpx2 import AsyncDPoPTransport, DPoPTransport
from dpop.keys._public import PublicKey
from dpop.keys.kms import KmsKey
from dpop.keys.kms._aws import AwsKms
from dpop.requests import DPoPAdapter
from dpop.testing import DPoPTestServer

REGION = "eu-west-1"
SECRET = AWS_CREDENTIALS["AWS_SECRET_ACCESS_KEY"]

_one_loader = cache(create_loader)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment, and nothing else of AWS."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in AWS_CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    # Each of boto3's sessions reads a megabyte of JSON about the services; here they all share what the first one read.
    monkeypatch.setattr(botocore.session, "create_loader", _one_loader)


# --- an AWS that works


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    """moto's server."""
    with moto() as url:
        yield url


def client_of(url: str, **config: Any) -> Any:
    """An administrator's client; only what is given is set."""
    session = boto3.Session(aws_access_key_id="AKIAIOSFODNN7EXAMPLE", aws_secret_access_key=SECRET, region_name=REGION)
    return session.client("kms", endpoint_url=url, config=Config(**config))


def new_key(aws: str, spec: str = "ECC_NIST_P256", usage: str = "SIGN_VERIFY") -> dict[str, Any]:
    """A new key in moto."""
    made: dict[str, Any] = client_of(aws).create_key(KeySpec=spec, KeyUsage=usage)["KeyMetadata"]
    return made


def uri_of(name: str, aws: str) -> str:
    """The URI of a key in moto."""
    return f"awskms:{name}?region={REGION}&endpoint={aws}"


@pytest.fixture
def key(aws: str) -> dpop.Key:
    """A key in moto, opened by its URI."""
    return dpop.load_key(uri_of(new_key(aws)["KeyId"], aws))


@pytest.mark.parametrize(
    ("spec", "algs"),
    [
        ("ECC_NIST_P256", ("ES256",)),
        ("ECC_NIST_P384", ("ES384",)),
        ("ECC_NIST_P521", ("ES512",)),
        ("RSA_2048", ("PS256", "RS256", "PS384", "PS512", "RS384", "RS512")),
    ],
)
def test_each_kind_of_key(aws: str, spec: str, algs: tuple[str, ...]) -> None:
    """The public key is the service's, and what it signs verifies."""
    made = new_key(aws, spec)
    for alg in algs[-1:]:  # moto's PS256 has a salt that JOSE does not allow
        key = dpop.load_key(uri_of(made["KeyId"], aws), alg=alg)
        assert isinstance(key, KmsKey)
        assert (key.alg, key.algs, key.blocking) == (alg, algs, True)
        public = PublicKey.from_jwk(key.public_jwk)
        for data in (b"x", b"signing input", b"x" * 4096):
            assert public.verify(alg, data, key.sign(data))
        assert key.with_alg(algs[0]).alg == algs[0]
    with pytest.raises(errors.AlgorithmError, match=r"it signs with .*, not with 'Ed25519'"):
        dpop.load_key(uri_of(made["KeyId"], aws), alg="Ed25519")


def test_every_name_of_a_key(aws: str) -> None:
    """Key id, ARN, alias and the ARN of the alias name the same key; an ARN brings its region."""
    made = new_key(aws)
    client_of(aws).create_alias(AliasName="alias/team/dpop-1", TargetKeyId=made["KeyId"])
    alias_arn = made["Arn"].rpartition(":")[0] + ":alias/team/dpop-1"
    uris = [
        uri_of(made["KeyId"], aws),
        uri_of(made["Arn"], aws),
        uri_of("alias/team/dpop-1", aws),
        f"awskms:{made['Arn']}?endpoint={aws}",
        f"AwsKms:{alias_arn}?endpoint={aws.replace(':', '%3A').replace('/', '%2f')}",
    ]
    assert len({dpop.load_key(uri).thumbprint for uri in uris}) == 1
    assert [getattr(dpop.load_key(uri), "reference", None) for uri in uris] == uris
    for uri in uris:
        dpop.create_proof(dpop.load_key(uri), "GET", "https://api.example/")


def test_a_moved_alias_moves_no_key(aws: str) -> None:
    """The alias is looked up once: tokens are bound to the key that was there then."""
    first, second = new_key(aws), new_key(aws)
    admin = client_of(aws)
    admin.create_alias(AliasName="alias/moved", TargetKeyId=first["KeyId"])
    key = dpop.load_key(uri_of("alias/moved", aws))
    admin.update_alias(AliasName="alias/moved", TargetKeyId=second["KeyId"])
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"bytes", key.sign(b"bytes"))
    assert dpop.load_key(uri_of("alias/moved", aws)).thumbprint != key.thumbprint


def test_profiles_and_regions(aws: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A profile brings its credentials, region and endpoint; what the URI says goes before."""
    made = new_key(aws)
    config = f'[profile "my bank"]\nregion = {REGION}\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n'
    (tmp_path / "config").write_text(config + f"endpoint_url = {aws}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    key = dpop.load_key(f"awskms:{made['KeyId']}?profile=my%20bank")
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"bytes", key.sign(b"bytes"))
    with pytest.raises(errors.KeyNotFoundError):  # moto keeps regions apart
        dpop.load_key(f"awskms:{made['KeyId']}?profile=my%20bank&region=us-east-1")


@pytest.mark.parametrize(
    ("spec", "usage", "kind", "says"),
    [
        ("ECC_SECG_P256K1", "SIGN_VERIFY", errors.InvalidKeyError, "secp256k1"),
        ("RSA_2048", "ENCRYPT_DECRYPT", errors.InvalidKeyError, "its usage is ENCRYPT_DECRYPT; SIGN_VERIFY is needed"),
    ],
)
def test_keys_of_no_use(aws: str, spec: str, usage: str, kind: type[Exception], says: str) -> None:
    """A curve or usage that DPoP has no use for is found out when the key is opened."""
    with pytest.raises(kind, match=f"AWS KMS, key [0-9a-f-]+: .*{says}"):
        dpop.load_key(uri_of(new_key(aws, spec, usage)["KeyId"], aws))


def test_a_key_that_is_not_there(aws: str) -> None:
    """The message names the key and where it was looked for."""
    with pytest.raises(errors.KeyNotFoundError, match=r"key alias/none: there is none in this account and region"):
        dpop.load_key(uri_of("alias/none", aws))


def test_signatures_of_no_use_are_found_out(aws: str, key: dpop.Key) -> None:
    """moto hashes a digest again, and salts PS256 as long as it can: neither signature goes anywhere."""
    with pytest.raises(errors.SigningError, match="does not verify"):
        key.sign(b"x" * 4097)
    with pytest.raises(errors.SigningError, match="does not verify"):
        dpop.load_key(uri_of(new_key(aws, "RSA_2048")["KeyId"], aws), alg="PS256").sign(b"bytes")


# --- the whole client


def test_requests_with_it(key: dpop.Key) -> None:
    """The adapter signs each request in the cloud, nonce challenge and threads included."""
    with DPoPTestServer(nonces="rotating") as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        with requests.Session() as session:
            session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token=token))
            with ThreadPoolExecutor(8) as pool:
                responses = list(pool.map(lambda n: session.get(f"{server.resource}/{n}"), range(24)))
        assert {response.status_code for response in responses} == {200}
        assert {refusal.error for refusal in server.refusals} <= {"use_dpop_nonce"}


def test_httpx2_with_it(key: dpop.Key) -> None:
    """So does the transport."""
    with DPoPTestServer(nonces="rotating") as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        transport = DPoPTransport(key, origins=server.origin, access_token=token)
        with httpx2.Client(transport=transport, timeout=60) as client:
            assert client.get(f"{server.resource}/things").status_code == 200


def test_the_command_line_with_it(aws: str) -> None:
    """``--key awskms:...`` in place of a file: shown, its thumbprint, and header lines that the API accepts."""
    uri = uri_of(new_key(aws)["KeyId"], aws)
    key = dpop.load_key(uri)
    shown = run("key", "show", "--key", uri, "--json", env=AWS_CREDENTIALS)
    assert json.loads(shown.stdout)["public_jwk"] == key.public_jwk, shown.stderr
    assert run("key", "thumbprint", env={**AWS_CREDENTIALS, "DPOP_KEY": uri}).stdout.strip() == key.thumbprint
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        made = run(
            "headers", "GET", f"{server.resource}/things", "--key", uri, "--token-env", "TOKEN",
            env={**AWS_CREDENTIALS, "TOKEN": token},
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        curl = ["curl", "-sS", "-H", "@-", f"{server.resource}/things"]
        response = subprocess.run(curl, input=made.stdout, capture_output=True, text=True, check=True)
        assert json.loads(response.stdout)["scheme"] == "DPoP"
        assert [request.status for request in server.requests] == [200]


def test_the_command_line_says_what_is_wrong(aws: str) -> None:
    """No key, no credentials, a password: exit status 3, one sentence, and no secret in it."""
    missing = run("proof", "GET", "https://api.example/", "--key", uri_of("alias/none", aws), env=AWS_CREDENTIALS)
    assert (missing.returncode, missing.stdout) == (3, "")
    assert "Error: AWS KMS, key alias/none: there is none" in missing.stderr
    without = {**AWS_CREDENTIALS, "AWS_SECRET_ACCESS_KEY": "", "AWS_ACCESS_KEY_ID": ""}
    refused = run("proof", "GET", "https://api.example/", "--key", uri_of("alias/none", aws), env=without)
    assert refused.returncode == 3
    assert "no AWS credentials were found" in refused.stderr
    with_password = run(
        "proof", "GET", "https://api.example/", "--key", uri_of("alias/none", aws), "--password-env", "PIN",
        env={**AWS_CREDENTIALS, "PIN": "1234"},
    )  # fmt: skip
    assert with_password.returncode == 3
    assert "keys in AWS KMS have none" in with_password.stderr
    assert SECRET not in missing.stderr + refused.stderr + with_password.stderr


# --- an AWS that fails


class FaultyKms:
    """An AWS KMS of this test: signs RAW and DIGEST alike, as AWS documents it, and fails on demand."""

    def __init__(self, private: Any = None) -> None:
        self.private = private or ec.generate_private_key(ec.SECP256R1())
        self.description: dict[str, Any] = {}
        self.server = CloudServer(self.response)

    def response(self, asked: Asked) -> Told:
        operation = asked.headers["x-amz-target"].removeprefix("TrentService.")
        arn = f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
        if operation == "GetPublicKey":
            der = self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            return Told(200, {"KeyId": arn, "PublicKey": base64.b64encode(der).decode(), **self.description})
        message = base64.b64decode(asked.body["Message"])
        assert len(message) <= 4096
        raw = asked.body["MessageType"] == "RAW"
        scheme, _, size = asked.body["SigningAlgorithm"].rpartition("_SHA_")
        plain = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[size]
        hashing: Any = plain if raw else utils.Prehashed(plain)
        parameters: dict[str, tuple[Any, ...]] = {
            "ECDSA": (ec.ECDSA(hashing),),
            "ED25519": (),
            "RSASSA_PSS": (padding.PSS(padding.MGF1(plain), plain.digest_size), hashing),
            "RSASSA_PKCS1_V1_5": (padding.PKCS1v15(), hashing),
        }
        signature = self.private.sign(message, *parameters[scheme])
        return Told(200, {"KeyId": arn, "Signature": base64.b64encode(signature).decode()})

    def open(self, **config: Any) -> KmsKey:
        """The key, by a client that does not try again."""
        settings = {"retries": {"total_max_attempts": 1}, "connect_timeout": 60, "read_timeout": 60, **config}
        return KmsKey.open(AwsKms("alias/dpop", client=lambda: client_of(self.server.url, **settings)))


@pytest.fixture
def faulty() -> Iterator[FaultyKms]:
    """One that works until told otherwise."""
    kms = FaultyKms()
    with kms.server:
        yield kms


def fault(code: str, message: str = "", status: int = 400) -> Told:
    """An error as KMS writes it."""
    return Told(status, {"__type": code, "message": message}, {"x-amzn-requestid": "1"})


def test_a_long_signing_input_goes_as_its_hash(faulty: FaultyKms) -> None:
    """AWS takes 4096 bytes; a proof with a long URL or RSA key can have more."""
    key = faulty.open()
    for size, kind in ((4096, "RAW"), (4097, "DIGEST")):
        data = b"x" * size
        assert PublicKey.from_jwk(key.public_jwk).verify("ES256", data, key.sign(data))
        assert faulty.server.asked[-1].body["MessageType"] == kind
        # the key that the alias named when it was opened
        assert faulty.server.asked[-1].body["KeyId"].startswith("arn:aws:kms:")
    assert [asked.headers["x-amz-target"] for asked in faulty.server.asked].count("TrentService.GetPublicKey") == 1


def test_ed25519() -> None:
    """AWS signs the bytes themselves, so they cannot be more than it takes; both names work."""
    kms = FaultyKms(ed25519.Ed25519PrivateKey.generate())
    kms.description = {"SigningAlgorithms": ["ED25519_SHA_512", "ED25519_PH_SHA_512"], "KeyUsage": "SIGN_VERIFY"}
    with kms.server:
        key = kms.open()
        assert key.algs == ("Ed25519", "EdDSA")
        for alg in key.algs:
            assert PublicKey.from_jwk(key.public_jwk).verify(alg, b"bytes", key.with_alg(alg).sign(b"bytes"))
        with pytest.raises(errors.AlgorithmError, match="at most 4096 bytes, not 4097"):
            key.sign(b"x" * 4097)


def test_rsa() -> None:
    """With the salt that AWS documents, by both names, short and long."""
    kms = FaultyKms(rsa.generate_private_key(65537, 2048))
    with kms.server:
        key = kms.open()
        assert key.algs == ("PS256", "RS256", "PS384", "PS512", "RS384", "RS512")
        for alg in key.algs:
            for data in (b"bytes", b"x" * 5000):
                assert PublicKey.from_jwk(key.public_jwk).verify(alg, data, key.with_alg(alg).sign(data))


def test_a_key_whose_algorithms_are_of_no_use(faulty: FaultyKms) -> None:
    """The service says what it signs with; a JWK alone would promise more."""
    faulty.description = {"SigningAlgorithms": ["SM2DSA"]}
    with pytest.raises(errors.InvalidKeyError, match="it does not sign with ES256"):
        faulty.open()


@pytest.mark.parametrize(
    ("code", "status", "kind", "says"),
    [
        ("NotFoundException", 400, errors.KeyNotFoundError, "there is none in this account and region"),
        ("AccessDeniedException", 400, errors.KeyAccessDeniedError, "kms:GetPublicKey and kms:Sign are needed"),
        ("UnrecognizedClientException", 400, errors.KeyAccessDeniedError, "credentials were refused"),
        ("InvalidSignatureException", 400, errors.KeyAccessDeniedError, "or this machine's clock is"),
        ("ExpiredTokenException", 400, errors.KeyAccessDeniedError, "may be wrong or expired"),
        ("DisabledException", 400, errors.KeyDisabledError, "disabled"),
        ("KMSInvalidStateException", 400, errors.KeyDisabledError, "pending deletion"),
        ("InvalidKeyUsageException", 400, errors.InvalidKeyError, "SIGN_VERIFY"),
        ("UnsupportedOperationException", 400, errors.InvalidKeyError, "asymmetric"),
        ("ThrottlingException", 400, errors.KeyThrottledError, "too many requests"),
        ("LimitExceededException", 400, errors.KeyThrottledError, "too many requests"),
        ("KeyUnavailableException", 500, errors.KeyUnavailableError, "try again later"),
        ("KMSInternalException", 500, errors.KeyUnavailableError, "try again later"),
        ("DependencyTimeoutException", 503, errors.KeyUnavailableError, "try again later"),
        ("SomethingNew", 503, errors.KeyUnavailableError, "try again later"),
        ("SomethingNew", 400, errors.DPoPKeyError, "refused"),
    ],
)
def test_what_the_service_refuses(
    faulty: FaultyKms, code: str, status: int, kind: type[errors.DPoPKeyError], says: str
) -> None:
    """Each error has its class, when the key is opened and when it signs; the text is ours, with AWS's code."""
    key = faulty.open()
    canonical = f"The Canonical String should have been 'x-amz-security-token:{SECRET}'"
    for use in (faulty.open, lambda: key.sign(b"bytes")):
        faulty.server.faults.append(fault(code, canonical if code == "InvalidSignatureException" else "No.", status))
        with pytest.raises(errors.DPoPKeyError, match=says) as caught:
            use()
        assert type(caught.value) is kind
        assert f"({code})" in str(caught.value)
        assert "AWS KMS, key alias/dpop: " in str(caught.value)
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None  # which the library's requests would hang on
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"bytes", key.sign(b"bytes"))


def test_a_refusal_for_lack_of_permission_says_whose(faulty: FaultyKms) -> None:
    """AWS names the caller and the action, on one line and not for ever."""
    text = "User: arn:aws:iam::1:user/me is not authorized to perform: kms:Sign\n\x1b[31m" + "x" * 5000
    faulty.server.faults.append(fault("AccessDeniedException", text))
    with pytest.raises(errors.KeyAccessDeniedError, match="AWS says: User: arn:aws:iam::1:user/me is not") as caught:
        faulty.open()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_throttling_is_ridden_out(faulty: FaultyKms) -> None:
    """The library's own retry: two refusals cost time and nothing else; three are an error."""
    key = dpop.load_key(uri_of("alias/dpop", faulty.server.url))
    faulty.server.asked.clear()
    faulty.server.faults += [fault("ThrottlingException"), Told(500, {})]
    assert PublicKey.from_jwk(key.public_jwk).verify("ES256", b"bytes", key.sign(b"bytes"))
    assert len(faulty.server.asked) == 3
    faulty.server.faults += [fault("ThrottlingException")] * 3
    with pytest.raises(errors.KeyThrottledError, match="have the quota raised"):
        key.sign(b"bytes")
    assert len(faulty.server.asked) == 6


def test_patience_has_an_end(faulty: FaultyKms) -> None:
    """A key opened by its URI waits for seconds where boto3 would wait for minutes."""
    key: Any = dpop.load_key(uri_of("alias/dpop", faulty.server.url))
    config = key._service._client().meta.config
    assert config.retries == {"mode": "standard", "total_max_attempts": 3}
    assert (config.connect_timeout + config.read_timeout) * 3 <= 25


def test_a_service_that_hangs(faulty: FaultyKms) -> None:
    """It is given up, and the next request goes through."""
    key = in_the_end(lambda: faulty.open(read_timeout=0.2))
    faulty.server.hold.clear()
    with pytest.raises(errors.KeyUnavailableError, match=r"cannot be reached \(ReadTimeoutError\)"):
        key.sign(b"bytes")
    faulty.server.hold.set()
    assert in_the_end(lambda: key.sign(b"bytes"))


def test_a_service_that_hangs_up(faulty: FaultyKms) -> None:
    """A connection that is closed without an answer, and a port where nobody listens."""
    key = faulty.open()
    faulty.server.faults.append(Told(0))
    with pytest.raises(errors.KeyUnavailableError, match="cannot be reached"):
        key.sign(b"bytes")
    gone = AwsKms("alias/x", client=lambda: client_of("http://127.0.0.1:9", retries={"total_max_attempts": 1}))
    with pytest.raises(errors.KeyUnavailableError, match=r"EndpointConnectionError"):
        KmsKey.open(gone)


@pytest.mark.parametrize("signature", [b"", b"0", bytes(64), bytes(72)], ids=len)
def test_a_service_that_answers_nonsense(faulty: FaultyKms, signature: bytes) -> None:
    """Whatever comes as a signature, only one that verifies goes on."""
    key = faulty.open()
    faulty.server.faults.append(Told(200, {"KeyId": "k", "Signature": base64.b64encode(signature).decode()}))
    with pytest.raises(errors.SigningError, match="AWS KMS, key alias/dpop, did not return a signature"):
        key.sign(b"bytes")
    for use in (faulty.open, lambda: key.sign(b"bytes")):
        faulty.server.faults.append(Told(200, {}))
        with pytest.raises(errors.DPoPKeyError, match="KeyError"):
            use()


def test_another_keys_signature(faulty: FaultyKms) -> None:
    """A signature that is one, of another key."""
    key = faulty.open()
    faulty.private = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(errors.SigningError, match="AWS KMS, key alias/dpop, returned a signature that does not verify"):
        key.sign(b"bytes")


# --- credentials


@pytest.mark.parametrize(
    ("environment", "kind", "says"),
    [
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            errors.KeyAccessDeniedError,
            "no AWS credentials were found",
        ),
        ({"AWS_SECRET_ACCESS_KEY": ""}, errors.KeyAccessDeniedError, "could not be used"),
        ({"AWS_PROFILE": "none"}, errors.KeyAccessDeniedError, "no such profile"),
        ({}, errors.InvalidKeyError, "its region is not known"),
    ],
    ids=["none", "half", "profile", "region"],
)
def test_credentials_and_region(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], kind: type[Exception], says: str
) -> None:
    """What is missing is said before anything is sent; the next step too."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    region = "?region=eu-west-1&endpoint=http://127.0.0.1:9" if environment else ""
    with pytest.raises(kind, match=says) as caught:
        dpop.load_key(f"awskms:alias/x{region}")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# --- forks and threads


def test_a_forked_process_signs(faulty: FaultyKms) -> None:
    """Parent and children sign, before and after, in threads of each: none waits for another's connection."""
    key = faulty.open()
    public = PublicKey.from_jwk(key.public_jwk)
    assert public.verify("ES256", b"bytes", key.sign(b"bytes"))

    def work() -> bytes:
        with ThreadPoolExecutor(4) as pool:
            return b"%d" % sum(pool.map(lambda n: public.verify("ES256", b"%d" % n, key.sign(b"%d" % n)), range(12)))

    for _ in range(3):
        assert in_child(work) == b"12"
        assert work() == b"12"


def test_sixty_four_threads_sign(faulty: FaultyKms) -> None:
    """With one key and one client; every signature is of its thread's bytes, and no connection is thrown away."""
    key = dpop.load_key(uri_of("alias/dpop", faulty.server.url))
    public = PublicKey.from_jwk(key.public_jwk)
    with ThreadPoolExecutor(64) as pool:
        data = [b"%d" % n for n in range(256)]
        signatures = list(pool.map(key.sign, data))
    assert all(map(partial(public.verify, "ES256"), data, signatures))
    assert len(faulty.server.connections) <= 64


# --- event loops


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_a_slow_service_stops_no_event_loop(faulty: FaultyKms, library: str) -> None:
    """While the service holds a signature back, other tasks run: they are what lets it go on."""
    key = faulty.open()

    async def main(server: DPoPTestServer) -> int:
        token = server.issue_access_token(jkt=key.thumbprint)
        arguments: dict[str, Any] = {"origins": server.origin, "access_token": token}
        client: Any = (
            httpx.AsyncClient(transport=AsyncTransportOfHttpx(key, **arguments), timeout=60)
            if library == "httpx"
            else httpx2.AsyncClient(transport=AsyncDPoPTransport(key, **arguments), timeout=60)
        )
        faulty.server.arrived.clear()
        faulty.server.hold.clear()
        async with client:
            request = asyncio.create_task(client.get(f"{server.resource}/things"))
            await asyncio.to_thread(faulty.server.arrived.wait, 30)
            faulty.server.hold.set()  # a stopped loop would never come here
            status: int = (await request).status_code
            return status

    with DPoPTestServer(nonces="none") as server:
        assert asyncio.run(main(server)) == 200


# --- URIs


@pytest.mark.parametrize(
    "name",
    [
        "",
        "//alias/x",
        "key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "1234abcd",
        "alias/",
        "alias/x y",
        "alias/x%20y",
        "alias/x#y",
        "alias/ä",
        "arn:aws:kms:eu-west-1:123:alias/x",
        "arn:aws:s3:eu-west-1:111122223333:alias/x",
        "arn:aws:kms:eu-west-1:111122223333:key/alias/x",
        "arn:aws:kms:eu-west-1:111122223333:1234abcd-12ab-34cd-56ef-1234567890ab",
        "arn:aws:kms:eu-west-1:111122223333:alias/x?region=us-east-1",
        "alias/x?",
        "alias/x?region",
        "alias/x?region=",
        "alias/x?region=eu-west-1&region=eu-west-1",
        "alias/x?region=evil.example%23",
        "alias/x?Region=eu-west-1",
        "alias/x?secret=1234",
        "alias/x?endpoint=http://kms.example",
        "alias/x?endpoint=https://kms.example/path",
        "alias/x?endpoint=https://user:1234@kms.example",
        "alias/x?endpoint=kms.example",
        "alias/x?profile=a%0ab",
        "alias/" + "x" * 3000,
    ],
)
def test_a_uri_is_read_strictly(name: str) -> None:
    """Anything but the documented form is refused before a client is made, and its values are not repeated."""
    with pytest.raises(errors.InvalidKeyError, match=r"awskms|endpoint") as caught:
        dpop.load_key(f"awskms:{name}")
    assert "1234" not in str(caught.value)


def test_a_password_is_refused(key: dpop.Key, aws: str) -> None:
    """It is for something else; a function that would ask for one is never called."""
    with pytest.raises(errors.KeyPasswordError, match="library finds credentials"):
        dpop.load_key("awskms:alias/x", password="1234")
    made = new_key(aws)
    assert dpop.load_key(uri_of(made["KeyId"], aws), password=lambda: pytest.fail("was asked")).alg == "ES256"
