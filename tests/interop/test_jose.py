# SPDX-License-Identifier: Apache-2.0
"""Every proof this package mints, judged by npm jose: a second implementation in another language."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

import dpop
from dpop.keys import SoftwareKey

ALGS = ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256"]
TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"


@cache
def key(alg: str) -> SoftwareKey:
    """One key per algorithm."""
    return dpop.generate_key(alg)


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"nonce": "eyJ7S_zG.eyJH0-Z.HX4w-7v"},
        {"access_token": TOKEN},
        {"access_token": TOKEN, "nonce": "a,b=c~!#[]"},
    ],
)
def test_jose_accepts_what_we_mint(jose_verify: Any, alg: str, facts: dict[str, str]) -> None:
    """In every algorithm, with and without nonce and token."""
    proof = dpop.create_proof(key(alg), "POST", "https://server.example.com/token?x=1#f", **facts)  # type: ignore[arg-type]
    verdict = jose_verify(proof, "POST", "https://server.example.com/token?x=1#f", **facts)
    assert verdict["ok"], verdict
    assert verdict["jkt"] == key(alg).thumbprint
    assert isinstance(verdict["claims"]["iat"], int)


@pytest.mark.parametrize("method", ["GET", "PATCH", "get", "PROPFIND", "M-SEARCH"])
@pytest.mark.parametrize(
    "url",
    [
        "https://server.example.com",
        "HTTPS://Server.Example.COM:443/a",
        "https://server.example.com:8443/a%2Fb/~c;d=1",
        "https://[2001:db8::1]/t",
        "https://bücher.example/café",
        "https://server.example.com//double//slash/",
    ],
)
def test_jose_reads_our_methods_and_targets(jose_verify: Any, method: str, url: str) -> None:
    """Odd methods and URLs mean the same to both."""
    verdict = jose_verify(dpop.create_proof(key("ES256"), method, url), method, url)
    assert verdict["ok"], verdict


def test_the_judge_can_say_no(jose_verify: Any) -> None:
    """The verifier under test is none that accepts everything."""
    proof = dpop.create_proof(key("ES256"), "GET", "https://a.example/")
    other = dpop.create_proof(key("ES256"), "GET", "https://b.example/")
    forged = ".".join([*proof.split(".")[:2], other.split(".")[2]])
    assert jose_verify(proof, "GET", "https://a.example/")["ok"]
    assert not jose_verify(proof, "POST", "https://a.example/")["ok"]
    assert not jose_verify(proof, "GET", "https://b.example/")["ok"]
    assert not jose_verify(proof, "GET", "https://a.example/", nonce="n")["ok"]
    assert not jose_verify(forged, "GET", "https://a.example/")["ok"]
