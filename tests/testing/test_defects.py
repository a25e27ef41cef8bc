# SPDX-License-Identifier: Apache-2.0
"""Defective proofs: each is refused for its own reason, whatever key and URL it is made for."""

from __future__ import annotations

import ast
import base64
import re
from functools import cache
from pathlib import Path

import pytest

import dpop
from dpop.errors import InvalidProof, InvalidTargetError, UsageError
from dpop.keys import SoftwareKey
from dpop.server import DEFAULT_ALGS, MemoryReplayCache, NonceVerdict, ProofVerifier
from dpop.testing.defects import DEFECTS, Defect, defective_fields, defective_proof

NOW = 1_700_000_000
URL = "https://api.example.com/a%2Fb%20c/Things"
NONCE = "Nonce-1"
TOKEN = next(f"token-{n}" for n in range(99) if {"-", "_"} & set(dpop.access_token_hash(f"token-{n}")))
# All that needs a part which not every URL has.
OF_SOME_URLS = {
    "htu-path-case": "https://api.example.com/%2F1",
    "htu-prefix": "https://api.example.com/",
    "htu-idn-homograph": "https://127.0.0.1/t",
    "htu-host-suffix": "https://[2001:db8::1]/t",
    "htu-trailing-dot": "https://[2001:db8::1]/t",
    "htu-reserved-decoded": "https://api.example.com/t",
    "htu-plus-vs-space": "https://api.example.com/t",
    "as-issuer-as-htu": "https://api.example.com/",
}


@cache
def key(alg: str) -> SoftwareKey:
    """One key per algorithm."""
    return dpop.generate_key(alg)


class OneNonce:
    """A nonce checker that knows one nonce."""

    used = None

    def issue(self, jkt: str | None = None) -> str:
        """Another nonce."""
        return "Nonce-2"

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:
        """It says nothing about the time."""
        return NonceVerdict(None, NOW + 60) if nonce == NONCE else None

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:
        """No other."""
        return None


def judged(defect: Defect, fields: list[tuple[str, str]], url: str, jkt: str) -> tuple[str, str | None]:
    """The verdict and the reason of a server with nonces."""
    algs = [*DEFAULT_ALGS, "ES384"] if defect.where == "a server that accepts ES384" else DEFAULT_ALGS
    verifier = ProofVerifier(
        replay=MemoryReplayCache(clock=lambda: NOW), nonces=OneNonce(), algs=algs, clock=lambda: NOW
    )
    try:
        verifier.verify_resource(fields, "GET", url, access_token=TOKEN, bound_jkt=jkt)
    except InvalidProof as refused:
        return "missing" if refused.reason == "proof_missing" else refused.error, refused.reason
    return "ok", None


@pytest.mark.parametrize("alg", ["ES256", "EdDSA", "PS256"])
@pytest.mark.parametrize("name", DEFECTS)
def test_each_is_refused_for_its_reason(name: str, alg: str) -> None:
    """With a key of whatever kind: one verdict, one reason."""
    defect = DEFECTS[name]
    if name == "ok-high-s" and alg != "ES256":
        with pytest.raises(UsageError, match="ES256"):
            defective_fields(name, key(alg), "GET", URL, access_token=TOKEN, nonce=NONCE)
        return
    fields = defective_fields(name, key(alg), "GET", URL, access_token=TOKEN, nonce=NONCE, iat=NOW)
    assert judged(defect, fields, URL, key(alg).thumbprint) == (defect.verdict, defect.reason)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8443/resource",
        "http://localhost:4711/other",
        "https://[2001:db8::1]:8443/x",
        "https://a.example/par/",
        "https://other.example:80/",
        "https://127.0.0.1/%20",
    ],
)
def test_each_fits_any_url(url: str) -> None:
    """Wherever the server is, the defect is one, or it says what URL it needs."""
    for name, defect in DEFECTS.items():
        try:
            fields = defective_fields(name, key("ES256"), "GET", url, access_token=TOKEN, nonce=NONCE, iat=NOW)
        except UsageError:
            assert name in OF_SOME_URLS
            continue
        assert judged(defect, fields, url, key("ES256").thumbprint) == (defect.verdict, defect.reason), name


@pytest.mark.parametrize(("name", "url"), OF_SOME_URLS.items())
def test_a_url_without_what_the_defect_needs(name: str, url: str) -> None:
    """It is an error that says what URL to take, and never an honest proof."""
    with pytest.raises(UsageError, match="take a URL"):
        defective_proof(name, key("ES256"), "GET", url)


def test_no_private_key_is_given_away() -> None:
    """A proof with a private member is another key's: one whose private key is published."""
    own, with_private = key("ES256").public_jwk["x"], []
    for name in DEFECTS:
        for _, value in defective_fields(name, key("ES256"), "GET", URL, access_token=TOKEN, nonce=NONCE):
            if re.fullmatch(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", value):
                header = base64.urlsafe_b64decode(value.partition(".")[0] + "===")
                if re.search(b'"d":"[^"]', header):
                    with_private.append(name)
                    assert own.encode() not in header
    assert with_private == ["jwk-private-d"]


def test_token_and_nonce_where_they_are_the_defect() -> None:
    """ath- needs a token, nonce-case a nonce; the error says which."""
    for name in DEFECTS:
        if name.startswith("ath-"):
            with pytest.raises(UsageError, match="access token"):
                defective_proof(name, key("ES256"), "GET", URL)
    with pytest.raises(UsageError, match="newest nonce"):
        defective_proof("nonce-case", key("ES256"), "GET", URL)
    with pytest.raises(UsageError, match="letter"):
        defective_proof("nonce-case", key("ES256"), "GET", URL, nonce="1234")
    unlucky = next(f"t{n}" for n in range(99) if not {"-", "_"} & set(dpop.access_token_hash(f"t{n}")))
    with pytest.raises(UsageError, match="another token"):
        defective_proof("ath-std-base64", key("ES256"), "GET", URL, access_token=unlucky)


def test_names_are_found_or_guessed() -> None:
    """An unknown name is answered with those that are near."""
    with pytest.raises(UsageError, match="did you mean sig-der"):
        defective_proof("sig-derr", key("ES256"), "GET", URL)


def test_fields_that_are_no_single_proof() -> None:
    """Two headers, none, or one of an odd name are no proof to be had alone."""
    for name in ["no-header", "two-headers-same", "ok-header-name-case"]:
        with pytest.raises(UsageError, match="defective_fields"):
            defective_proof(name, key("ES256"), "GET", URL)
    assert len(defective_fields("two-headers-different", key("ES256"), "GET", URL)) == 2


def test_honest_parts_are_checked() -> None:
    """What create_proof refuses is no defect of the list."""
    with pytest.raises(InvalidTargetError):
        defective_proof("sig-der", key("ES256"), "GET", "api.example.com")
    with pytest.raises(UsageError):
        defective_proof("sig-der", key("ES256"), "GET", URL, nonce="two words")


def test_no_secret_in_a_repr() -> None:
    """A defect and the draft it is made from show neither token nor nonce."""
    from dpop.testing.defects._draft import Draft

    shown = repr(Draft(key("ES256"), "GET", URL, "j", NOW, TOKEN, NONCE)) + repr(DEFECTS["sig-der"])
    assert TOKEN not in shown
    assert NONCE not in shown


def test_the_forge_uses_nothing_it_is_to_test() -> None:
    """What signs and encodes the defects has its own base64url, JSON, keys and signatures."""
    source = (Path(dpop.__file__).parent / "testing" / "defects" / "_forge.py").read_text("utf-8")
    imported = [
        ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    assert imported
    assert not any("dpop" in line for line in imported)
