# SPDX-License-Identifier: Apache-2.0
"""Keys in Azure Key Vault: a vault of the tests over TLS, which signs with the local crypto of Azure's own library."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.keyvault.keys import JsonWebKey
from azure.keyvault.keys.crypto import CryptographyClient
from support.azure_vault import ACCESS_TOKEN, VERSION, Vault, azure_error, managed_identity
from support.cli_process import run
from support.cloud import Told, in_the_end, self_signed
from support.forking import in_child

import dpop
from dpop import errors
from dpop.encoding import b64url_decode, b64url_encode
from dpop.keys import SoftwareKey
from dpop.keys._public import PublicKey
from dpop.keys.kms import KmsKey
from dpop.keys.kms._azure import _LIMITS, AzureKeyVault
from dpop.requests import DPoPAdapter
from dpop.testing import DPoPTestServer

KEYS = {alg: SoftwareKey.generate(alg) for alg in ("ES256", "ES384", "ES512", "PS256")}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of this machine."""
    return self_signed(tmp_path_factory.mktemp("azure"))


@pytest.fixture
def vault(certificate: Path) -> Iterator[Vault]:
    """A vault that works until told otherwise."""
    with Vault(certificate, KEYS["ES256"]) as server:
        yield server


def verifies(key: dpop.Key, data: bytes = b"bytes") -> bool:
    """Whether it signs well."""
    return PublicKey.from_jwk(key.public_jwk).verify(key.alg, data, key.sign(data))


@pytest.mark.parametrize("alg", [*KEYS, "RS256", "PS384", "PS512", "RS384", "RS512"])
def test_each_kind_of_key(vault: Vault, alg: str) -> None:
    """What Azure's code signs verifies; the public key is fetched once."""
    vault.keep(KEYS.get(alg, KEYS["PS256"]))
    key = vault.open()
    assert key.blocking is True
    assert key.algs == vault.key.algs
    for data in (b"", b"bytes", b"x" * 10_000):
        assert verifies(key.with_alg(alg), data)
    gets = [asked for asked in vault.asked if asked.method == "GET" and "authorization" in asked.headers]
    assert len(gets) == 1


def test_an_hsms_key(vault: Vault) -> None:
    """Its type has another name, and its coordinates may lack their leading zeros."""
    vault.change = lambda jwk: {**jwk, "kty": "EC-HSM"}
    assert verifies(vault.open())
    zero = next(key for _ in range(10_000) if b64url_decode((key := SoftwareKey.generate()).public_jwk["x"])[0] == 0)
    vault.keep(zero)
    vault.change = lambda jwk: {**jwk, "x": b64url_encode(b64url_decode(jwk["x"]).lstrip(b"\0"))}
    assert verifies(vault.open())
    vault.keep(KEYS["PS256"])
    vault.change = lambda jwk: {**jwk, "kty": "RSA-HSM", "n": b64url_encode(b"\0" + b64url_decode(jwk["n"]))}
    assert verifies(vault.open())


def test_the_version_that_was_found_is_kept(vault: Vault) -> None:
    """Without a version the newest is taken once; after a rotation the running process keeps its key."""
    key = vault.open()
    assert verifies(key)
    assert all(f"/dpop/{VERSION}/sign" in asked.path for asked in vault.asked if asked.path.count("sign"))
    assert verifies(vault.open(f"dpop/{VERSION}"))


def test_the_whole_client(vault: Vault) -> None:
    """The adapter signs each request in the vault, with threads and rotating nonces."""
    key = vault.open()
    with DPoPTestServer(nonces="rotating") as server:
        token = server.issue_access_token(jkt=key.thumbprint)
        with requests.Session() as session:
            session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token=token))
            with ThreadPoolExecutor(8) as pool:
                responses = list(pool.map(lambda n: session.get(f"{server.resource}/{n}"), range(24)))
        assert {response.status_code for response in responses} == {200}


def test_sixty_four_threads_sign(vault: Vault) -> None:
    """With one key and one client; every signature is of its thread's bytes, and no connection is thrown away."""
    key = vault.open()
    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(lambda n: verifies(key, b"%d" % n), range(256)))
    assert len(vault.connections) <= 1 + 64


def test_a_forked_process_signs(vault: Vault) -> None:
    """Parent and children sign, before and after, in threads of each."""
    key = vault.open()
    assert verifies(key)

    def work() -> bytes:
        with ThreadPoolExecutor(4) as pool:
            return b"%d" % sum(pool.map(lambda n: verifies(key, b"%d" % n), range(12)))

    for _ in range(3):
        assert in_child(work) == b"12"
        assert work() == b"12"


def test_a_private_key_object_of_azures_library() -> None:
    """It follows cryptography's interface without having a key to give: wrapped, it signs, and exports nothing."""
    members = KEYS["PS256"].to_jwk(private=True)
    del members["alg"]
    numbers = {name: b64url_decode(value) if name != "kty" else value for name, value in members.items()}
    client = CryptographyClient.from_jwk(JsonWebKey(key_ops=["sign"], **numbers))
    for alg in ("PS256", "RS256", "PS384", "PS512", "RS384", "RS512"):
        key = SoftwareKey.from_private_key(client.create_rsa_private_key(), alg=alg)
        assert (key.blocking, key.thumbprint) == (True, KEYS["PS256"].thumbprint)
        assert verifies(key)


# --- keys of no use


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"crv": "P-256K"}, "a EC key"),
        ({"kty": "oct", "k": "AAAA"}, "oct key"),
        ({"key_ops": ["encrypt", "decrypt"]}, "it may encrypt and decrypt, not sign"),
        ({"key_ops": []}, "it may nothing, not sign"),
        ({"y": "AAAA"}, "not a point of its curve"),
    ],
)
def test_keys_of_no_use(vault: Vault, change: dict[str, Any], says: str) -> None:
    """Another kind, another purpose, a damaged one: found out when the key is opened."""
    vault.change = lambda jwk: {**jwk, **change}
    with pytest.raises(errors.InvalidKeyError, match=f"Azure Key Vault, key .*{says}"):
        vault.open()


def test_a_disabled_key(vault: Vault) -> None:
    """A vault shows a disabled key, and does not sign with it."""
    vault.attributes = {"enabled": False}
    with pytest.raises(errors.KeyDisabledError, match="it is disabled; enable it"):
        vault.open()


# --- a vault that fails


@pytest.mark.parametrize(
    ("told", "kind", "says"),
    [
        (azure_error(404, "KeyNotFound"), errors.KeyNotFoundError, "no such key"),
        (
            azure_error(403, "ForbiddenByRbac", "Caller: appid=1;\nAction: sign"),
            errors.KeyAccessDeniedError,
            "Action: sign",
        ),
        (azure_error(403, "KeyDisabled"), errors.KeyDisabledError, "KeyDisabled"),
        (azure_error(403, "KeyExpired"), errors.KeyDisabledError, "KeyExpired"),
        (azure_error(403, "KeyNotYetValid"), errors.KeyDisabledError, "KeyNotYetValid"),
        (azure_error(403, "KeyOperationForbidden"), errors.InvalidKeyError, "may not sign"),
        (Told(403, b"<html>a proxy's</html>"), errors.KeyAccessDeniedError, "Azure says: nothing"),
        (Told(429, {}), errors.KeyThrottledError, "spread them over more vaults"),
        (Told(408, {}), errors.KeyUnavailableError, "try again later"),
        (Told(500, {}), errors.KeyUnavailableError, "try again later"),
        (Told(503, b"<html></html>"), errors.KeyUnavailableError, "try again later"),
        (Told(418, {}), errors.DPoPKeyError, "refused"),
        (Told(200, b"<html></html>"), errors.DPoPKeyError, "a login page in between"),
        (Told(0), errors.KeyUnavailableError, "cannot be reached"),
    ],
)
def test_what_the_vault_refuses(vault: Vault, told: Told, kind: type[errors.DPoPKeyError], says: str) -> None:
    """Each error has its class, when the key is opened and when it signs, and says which key."""
    key = vault.open()
    assert verifies(key)
    for use in (vault.open, lambda: key.sign(b"bytes")):
        vault.faults.append(told)
        with pytest.raises(errors.DPoPKeyError, match=says) as caught:
            use()
        assert type(caught.value) is kind, caught.value
        assert f"Azure Key Vault, key {vault.url}/keys/dpop: " in str(caught.value)
        assert str(caught.value).isprintable()
        assert ACCESS_TOKEN not in "".join(traceback.format_exception(caught.value))
        assert caught.value.__context__ is None  # which the library's requests would hang on
    assert verifies(key)


@pytest.mark.parametrize(
    "faults",
    [
        [Told(429, {}, {"Retry-After": "0"}), Told(503, {}, {"Retry-After": "0"})],
        [Told(429, {}, {"Retry-After": "1"})],
        [Told(0)],
        [Told(500, {}), Told(0)],
    ],
    ids=["throttled", "told to wait", "broken off", "both"],
)
def test_what_passes_is_ridden_out(vault: Vault, faults: list[Told]) -> None:
    """The library's own retry: refusals and a connection that breaks off cost time, nothing else."""
    key = vault.open(retry_total=2)
    assert verifies(key)
    vault.asked.clear()
    vault.faults += faults
    assert verifies(key)
    assert len(vault.asked) == len(faults) + 1


def test_a_vault_that_wants_a_long_wait(vault: Vault) -> None:
    """Nobody waits a minute for a signature: the request is refused at once, and the vault is left alone."""
    key = vault.open(retry_total=2)
    assert verifies(key)
    vault.asked.clear()
    vault.faults += [Told(429, {}, {"Retry-After": "60"})] * 3
    with pytest.raises(errors.KeyThrottledError):
        key.sign(b"bytes")
    assert len(vault.asked) == 1


def test_a_vault_that_hangs(vault: Vault) -> None:
    """It is given up, and the next request goes through."""
    key = in_the_end(lambda: vault.open(read_timeout=0.3))
    vault.hold.clear()
    with pytest.raises(errors.KeyUnavailableError, match="cannot be reached"):
        key.sign(b"bytes")
    vault.hold.set()
    assert in_the_end(lambda: verifies(key))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"", "64 bytes, not 0"),
        (bytes(64), "r is zero"),
        (bytes(70), "64 bytes, not 70"),
        (b"\1" * 64, "does not verify"),
    ],
    ids=["empty", "zero", "long", "another"],
)
def test_a_signature_of_no_use(vault: Vault, value: bytes, says: str) -> None:
    """Only one that verifies goes on; DER would be 70 bytes, and is no R||S."""
    key = vault.open()
    assert verifies(key)
    vault.faults.append(Told(200, {"kid": "k", "value": b64url_encode(value)}))
    with pytest.raises(errors.SigningError, match=says):
        key.sign(b"bytes")


# --- who gets the token


def test_another_service_gets_no_token(vault: Vault) -> None:
    """A host that asks for a token of Key Vault and is none gets nothing; so the library's check stays on."""
    vault.resource = "https://vault.azure.net"
    with pytest.raises(errors.KeyAccessDeniedError, match="it is not an Azure key vault"):
        vault.open(verify_challenge_resource=True)
    assert not any("authorization" in asked.headers for asked in vault.asked)


def test_a_certificate_that_is_not_trusted(vault: Vault) -> None:
    """Nothing is asked of a vault that cannot show who it is."""
    vault.certificate = Path("/etc/ssl/certs")
    with pytest.raises(errors.KeyUnavailableError, match="cannot be reached"):
        vault.open()
    assert vault.asked == []


def test_no_credentials(vault: Vault) -> None:
    """What the credential says at length stays out, and the next step is said."""

    class Nothing:
        def get_token(self, *scopes: str, **_options: Any) -> AccessToken:
            raise ClientAuthenticationError(ACCESS_TOKEN)

    options = {"verify_challenge_resource": False, "connection_verify": str(vault.certificate)}
    with pytest.raises(errors.KeyAccessDeniedError, match="run az login") as caught:
        KmsKey.open(AzureKeyVault(f"{vault.url}/keys/dpop", credential=Nothing, options=options))
    assert ACCESS_TOKEN not in "".join(traceback.format_exception(caught.value))


# --- by its URI, with azure-identity's credentials


@pytest.fixture
def settings(vault: Vault) -> Iterator[dict[str, str]]:
    """The environment of an application with a managed identity, which trusts the vault's certificate."""
    with managed_identity() as identity:
        yield {**identity, "REQUESTS_CA_BUNDLE": str(vault.certificate)}


def test_a_key_by_its_uri(vault: Vault, settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """load_key finds the credentials of the environment, and the key knows its URI."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    uri = f"azurekms:{vault.url}/keys/dpop/{VERSION}"
    key = dpop.load_key(uri, alg="ES256", password=lambda: pytest.fail("was asked"))
    assert verifies(key)
    assert getattr(key, "reference", None) == uri
    with pytest.raises(errors.AlgorithmError, match="it signs with ES256, not with 'RS256'"):
        dpop.load_key(uri, alg="RS256")


def test_the_command_line(vault: Vault, settings: dict[str, str]) -> None:
    """``--key azurekms:...`` in place of a file."""
    uri = f"azurekms:{vault.url}/keys/dpop"
    shown = run("key", "show", "--key", uri, "--json", env=settings)
    assert json.loads(shown.stdout)["thumbprint"] == vault.key.thumbprint, shown.stderr
    assert run("proof", "GET", "https://api.example/", "--key", uri, env=settings).stdout.count(".") == 2
    settings["IDENTITY_HEADER"] = "elsewhere"
    refused = run("proof", "GET", "https://api.example/", "--key", uri, env=settings)
    assert (refused.returncode, refused.stdout) == (3, "")
    assert "run az login" in refused.stderr


def test_patience_has_an_end() -> None:
    """A key waits for seconds where the library would wait for minutes."""
    assert _LIMITS["timeout"] <= 25
    assert (_LIMITS["connection_timeout"] + _LIMITS["read_timeout"]) * (_LIMITS["retry_total"] + 1) <= 25


# --- URIs


@pytest.mark.parametrize(
    "name",
    [
        "",
        "vault/keys/k",
        "//vault.vault.azure.net/keys/k",
        "http://vault.vault.azure.net/keys/k",
        "http://127.0.0.1/keys/k",
        "https://vault.vault.azure.net/keys/",
        "https://vault.vault.azure.net/secrets/k",
        "https://vault.vault.azure.net/keys/k/1",
        "https://vault.vault.azure.net/keys/k/" + "0" * 33,
        "https://vault.vault.azure.net/keys/k/../x",
        "https://user:1234@vault.vault.azure.net/keys/k",
        "https://vault.vault.azure.net:99999/keys/k",
        "https://vault..azure.net/keys/k",
        "https://vault.vault.azure.net/keys/k?endpoint=https://x.example",
        "https://vault.vault.azure.net/keys/k#1234",
        "https://vault.vault.azure.net/keys/k%2f..",
    ],
)
def test_a_uri_is_read_strictly(name: str) -> None:
    """Anything but a key's identifier is refused before a credential is looked for."""
    with pytest.raises(errors.InvalidKeyError, match=r"azurekms|endpoint") as caught:
        dpop.load_key(f"azurekms:{name}")
    assert "1234" not in str(caught.value)


def test_a_password_is_refused() -> None:
    """It is for something else."""
    with pytest.raises(errors.KeyPasswordError, match="keys in Azure Key Vault have none"):
        dpop.load_key("azurekms:https://v.vault.azure.net/keys/k", password="1234")
