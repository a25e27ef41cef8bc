# SPDX-License-Identifier: Apache-2.0
"""The whole client on a key in SoftHSM and on one in a TPM: every HTTP client against oidc-provider, and curl."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from interop.application import Application, json_of
from interop.peers import JoseVerifier, OidcProvider
from joserfc.jwk import ECKey
from support.cli_process import run, run_script
from support.clients import CLIENTS
from support.pkcs11_devices import Devices, SoftHsm, Tpm

import dpop
from dpop.client._prover import Prover
from dpop.keys.pkcs11 import Pkcs11Key, open_key
from dpop.keys.pkcs11._modules import close_modules
from dpop.testing import DPoPTestServer


@pytest.fixture(params=["softhsm", "tpm"])
def devices(request: pytest.FixtureRequest) -> Iterator[Devices]:
    """Each kind of device in turn."""
    made: SoftHsm | Tpm = request.getfixturevalue(request.param)
    close_modules()
    yield made
    close_modules()
    if isinstance(made, Tpm):
        made.flush()


@pytest.fixture
def key(devices: Devices) -> Pkcs11Key:
    """The device's key, opened."""
    return open_key(devices.uri())


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_a_whole_life(key: Pkcs11Key, name: str, oidc_provider: OidcProvider, assertion_key: ECKey) -> None:
    """PAR, code, userinfo and refresh with a key in hardware: the token is bound to it, each proof accepted."""
    oidc_provider.seen()
    with Application(name, "basic", oidc_provider, assertion_key, prover=Prover(key)) as one:
        tokens = one.redeem()
        assert tokens["token_type"] == "DPoP"
        about = json_of(one.post("introspection", {"token": tokens["access_token"]}))
        assert about["cnf"] == {"jkt": key.thumbprint}
        api = one.client(access_token=tokens["access_token"])
        reply = api.send("GET", oidc_provider["userinfo_endpoint"])
        assert (reply.status, json_of(reply)) == (200, {"sub": "alice"})
        assert one.refresh(tokens).status == 200
    refused = [entry.error for entry in oidc_provider.seen() if entry.status >= 400]
    assert set(refused) == {"use_dpop_nonce"}


def test_npm_jose_verifies(key: Pkcs11Key, jose_verify: JoseVerifier) -> None:
    """A proof is a proof, wherever its key is."""
    proof = dpop.create_proof(key, "POST", "https://as.example/token", nonce="n")
    assert jose_verify(proof, "POST", "https://as.example/token", nonce="n")["jkt"] == key.thumbprint


def test_the_command_line(devices: Devices, tmp_path: Path) -> None:
    """Key material is all that differs: --key gets a URI, and the PIN comes from a file."""
    uri, pin = devices.uri(pin=False), ("--password-file", str(devices.pin_file))
    shown = run("key", "show", "--key", uri, *pin, "--json", env=devices.environment)
    assert shown.returncode == 0, shown.stderr
    thumbprint = json.loads(shown.stdout)["thumbprint"]
    assert run("key", "thumbprint", "--key", devices.uri(), env=devices.environment).stdout.strip() == thumbprint
    with DPoPTestServer(nonces="rotating") as server:
        (tmp_path / "token").write_text(server.issue_access_token(jkt=thumbprint))
        script = f"""
export DPOP_KEY='{uri}'
dpop headers GET {server.resource} --token-file token --password-file '{devices.pin_file}' > headers
curl -s -D answer -H @headers {server.resource} > /dev/null
dpop headers GET {server.resource} --token-file token --nonce-from answer --password-file '{devices.pin_file}' > headers
curl -s -f -H @headers {server.resource}
dpop curl --token-file token --password-file '{devices.pin_file}' -s -f {server.resource} > whole
"""
        done = run_script(script, tmp_path, **devices.environment)
    assert done.returncode == 0, done.stderr
    assert thumbprint in done.stdout
    assert thumbprint in (tmp_path / "whole").read_text()
    assert "1234" not in os.environ.values()
