# SPDX-License-Identifier: Apache-2.0
"""Every proof this package mints, judged by npm jose, another implementation in another language, and by joserfc."""

from __future__ import annotations

import base64
import json
import string
import warnings
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interop.peers import JoseVerifier
from joserfc import jws
from joserfc.jwk import import_key

import dpop
from dpop.keys import SoftwareKey

ALGS = ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"]
TOKEN = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
NONCE = "eyJ7S_zG.eyJH0-Z.HX4w-7v"

NONCE_CHARACTERS = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"\\')
TOKEN_CHARACTERS = string.ascii_letters + string.digits + "-._~+/"
METHOD_CHARACTERS = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"


@cache
def key(alg: str) -> SoftwareKey:
    """One key per algorithm."""
    return dpop.generate_key(alg)


def joserfc_reads(proof: str) -> dict[str, Any]:
    """The claims, after joserfc has verified the proof with the key in its header."""
    header = json.loads(base64.urlsafe_b64decode(proof.partition(".")[0] + "=="))
    assert header["typ"] == "dpop+jwt"
    registry = jws.JWSRegistry(algorithms=ALGS)
    registry.max_header_length = 4096  # an RSA key is longer than the default allows
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="EdDSA is deprecated")
        verified = jws.deserialize_compact(proof, import_key(header["jwk"]), registry=registry)
    claims: dict[str, Any] = json.loads(verified.payload)
    return claims


def both_accept(
    jose_verify: JoseVerifier,
    alg: str,
    method: str,
    url: str,
    *,
    access_token: str | None = None,
    nonce: str | None = None,
) -> dict[str, Any]:
    """Mint a proof, have it verified by both, and return the claims that both read."""
    proof = dpop.create_proof(key(alg), method, url, access_token=access_token, nonce=nonce)
    verdict = jose_verify(proof, method, url, access_token=access_token, nonce=nonce)
    assert verdict["ok"], verdict
    assert verdict["jkt"] == key(alg).thumbprint
    claims: dict[str, Any] = verdict["claims"]
    assert joserfc_reads(proof) == claims
    return claims


@pytest.mark.parametrize("alg", ALGS)
@pytest.mark.parametrize("nonce", [None, NONCE, "a,b=c~!#[]'&<>"])
@pytest.mark.parametrize("access_token", [None, TOKEN])
def test_every_algorithm(jose_verify: JoseVerifier, alg: str, nonce: str | None, access_token: str | None) -> None:
    """In every algorithm, with and without nonce and token, and with no claims beyond those."""
    url = "https://server.example.com/token?x=1#f"
    claims = both_accept(jose_verify, alg, "POST", url, nonce=nonce, access_token=access_token)
    assert type(claims["iat"]) is int
    wanted = {"jti", "htm", "htu", "iat"} | ({"nonce"} if nonce else set()) | ({"ath"} if access_token else set())
    assert set(claims) == wanted


@pytest.mark.parametrize("method", ["GET", "PATCH", "get", "PROPFIND", "M-SEARCH"])
@pytest.mark.parametrize(
    "url",
    [
        "https://server.example.com",
        "HTTPS://Server.Example.COM:443/a",
        "http://127.0.0.1:80/",
        "https://server.example.com:8443/a%2Fb/~c;d=1",
        "https://server.example.com/%e2%82%ac/%7Euser",
        "https://[2001:db8::1]/t",
        "https://[2001:DB8:0:0:0:0:0:1]:443/t",
        "https://bücher.example/café",
        "https://server.example.com//double//slash/",
        "https://server.example.com/a/./b/../c",
        "https://server.example.com?only=query",
        "https://server.example.com/a?b?c#d?e",
        "https://server.example.com/:@!$&'()*+,;=",
    ],
)
def test_odd_methods_and_urls(jose_verify: JoseVerifier, method: str, url: str) -> None:
    """A request with an odd method or URL is the same request to all three."""
    assert both_accept(jose_verify, "ES256", method, url)["htm"] == method


@settings(max_examples=60)
@given(
    alg=st.sampled_from(["ES256", "ES512", "Ed25519"]),
    method=st.text(METHOD_CHARACTERS, min_size=1, max_size=20),
    path=st.text(string.printable + "äß€😀", max_size=20),
    facts=st.fixed_dictionaries(
        {},
        optional={
            "nonce": st.text(NONCE_CHARACTERS, min_size=1, max_size=100),
            "access_token": st.text(TOKEN_CHARACTERS, min_size=1, max_size=100),
        },
    ),
)
def test_whatever_we_mint(jose_verify: JoseVerifier, alg: str, method: str, path: str, facts: dict[str, str]) -> None:
    """Whatever create_proof does not refuse, both accept."""
    url = f"https://server.example.com/{path}"
    try:
        dpop.create_proof(key(alg), method, url)
    except dpop.DPoPError:
        return
    both_accept(jose_verify, alg, method, url, **facts)


def test_a_proof_with_more_claims(jose_verify: JoseVerifier) -> None:
    """Further claims arrive as they were given."""
    more = {"note": 'é "quoted" \\ \u2028', "deep": [1, {"a": None}], "big": 2**40}
    proof = dpop.create_proof(key("ES256"), "GET", "https://a.example/", claims=more)
    verdict = jose_verify(proof, "GET", "https://a.example/")
    assert verdict["ok"], verdict
    assert verdict["claims"] == joserfc_reads(proof)
    assert verdict["claims"].items() >= more.items()


def test_the_judge_can_say_no(jose_verify: JoseVerifier) -> None:
    """npm jose as used here is none that accepts everything, and it says what is wrong."""
    url = "https://a.example/"
    proof = dpop.create_proof(key("ES256"), "GET", url)
    other = dpop.create_proof(key("ES256"), "GET", "https://b.example/")
    forged = ".".join([*proof.split(".")[:2], other.split(".")[2]])
    old = dpop.create_proof(key("ES256"), "GET", url, iat=1_700_000_000)
    assert jose_verify(proof, "GET", url)["ok"]
    assert jose_verify(proof, "POST", url) == {"ok": False, "error": "htm"}
    assert jose_verify(other, "GET", url) == {"ok": False, "error": "htu"}
    assert jose_verify(proof, "GET", url, nonce="n") == {"ok": False, "error": "nonce"}
    assert jose_verify(proof, "GET", url, access_token=TOKEN) == {"ok": False, "error": "ath"}
    assert jose_verify(forged, "GET", url) == {"ok": False, "error": "signature verification failed"}
    assert not jose_verify(old, "GET", url)["ok"]
    assert not jose_verify("no proof", "GET", url)["ok"]
