# SPDX-License-Identifier: Apache-2.0
"""Input that is almost right: nothing but typed errors, and what the grammar says it means."""

from __future__ import annotations

import json

from fuzz.strategies import HONEST, challenge_fields, der_like, edited, json_values, proof_parts, url_texts
from fuzz.targets import TARGETS, fuzz_signed_proof
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpop.client._challenge import dpop_challenge
from dpop.testing.defects import DEFECTS
from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import A


@settings(max_examples=300)
@given(proof_parts())
def test_proofs_with_members_of_any_kind(parts: tuple[bytes, bytes]) -> None:
    """Well signed, with members that are changed, missing, repeated or of another type."""
    fuzz_signed_proof(b"\0".join(parts))


@settings(max_examples=200)
@given(st.data())
def test_defects_with_damage(data: st.DataObject) -> None:
    """A proof with one defect, and then damaged on its way."""
    defect = data.draw(st.sampled_from([each for each in DEFECTS.values() if each.where.find("URL") < 0]))
    draft = Draft(A, "GET", HONEST.htu, "jti", HONEST.iat, HONEST.access_token, "n-A")
    for _, value in defect.write(draft):
        if len(value) < 20_000:
            TARGETS["proof"].run(data.draw(edited(value.encode("latin-1"))))


@settings(max_examples=500)
@given(challenge_fields())
@example((["DPoP error=use_dpop_nonce,DPoP"], {"error": "use_dpop_nonce"}))
def test_challenges_mean_what_their_grammar_says(case: tuple[list[str], dict[str, str | None] | None]) -> None:
    """Any challenge the RFC allows, among others, in any number of lines."""
    lines, meaning = case
    assert dpop_challenge(lines) == meaning


@settings(max_examples=300)
@given(challenge_fields().map(lambda case: "\n".join(case[0]).encode("latin-1")).flatmap(edited))
def test_damaged_challenges(content: bytes) -> None:
    """What is no challenge any more is none."""
    TARGETS["challenge"].run(content)


@settings(max_examples=500)
@given(url_texts, url_texts, url_texts)
def test_urls(one: str, two: str, three: str) -> None:
    """Alone, and as scheme, Host and target."""
    for text in (one, f"{one}\0{two}\0{three}", f"https://{one}{two}/{three}", f"https\0{one}\0/{two}"):
        TARGETS["url"].run(text.encode("utf-8", "surrogatepass"))


@settings(max_examples=500)
@given(der_like())
def test_der(content: bytes) -> None:
    """Lengths that lie, padding, numbers of the wrong size."""
    TARGETS["der"].run(content)


@settings(max_examples=300)
@given(json_values)
def test_json(value: object) -> None:
    """Any JSON, as claims and as a key."""
    content = json.dumps({"jti": value, "kty": value, "x": value}).encode("utf-8", "surrogatepass")
    TARGETS["encoding"].run(content)
    TARGETS["jwk"].run(content)
