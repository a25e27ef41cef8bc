# SPDX-License-Identifier: Apache-2.0
"""Reading WWW-Authenticate, error JSON and DPoP-Nonce."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import VECTORS

from dpop.client._challenge import dpop_challenge, error_of_json, nonce_field

VECTORS = json.loads((VECTORS / "challenges.json").read_text("utf-8"))["cases"]

TOKENS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ0123456789!#$%&'*+-.^_`|~", min_size=1, max_size=20)
QUOTABLE = st.text([chr(c) for c in (9, *range(0x20, 0x7F), *range(0x80, 0x100), 0x4E2D, 0xDCFF)], max_size=40)


@pytest.mark.parametrize("case", VECTORS, ids=lambda case: case["id"])
def test_vector(case: dict[str, Any]) -> None:
    """Each published form, and each look-alike, is read as RFC 9110 says."""
    parameters = dpop_challenge(case["fields"])
    assert (None if parameters is None else dict(parameters)) == case["parameters"]
    assert (parameters is not None and parameters.get("error") == "use_dpop_nonce") is case["retry"]


@given(st.lists(st.text(max_size=200), max_size=4))
def test_any_text_is_read_or_ignored(fields: list[str]) -> None:
    """No field value whatever makes the parser raise."""
    dpop_challenge(fields)


@given(st.dictionaries(TOKENS.map(str.lower), QUOTABLE, max_size=6))
def test_what_is_quoted_comes_back(parameters: dict[str, str]) -> None:
    """Parameters quoted as RFC 9110 says are read back as they were."""
    field = "DPoP " + ", ".join(
        name + '="' + value.replace("\\", "\\\\").replace('"', '\\"') + '"' for name, value in parameters.items()
    )
    assert dpop_challenge([field.rstrip() if not parameters else field]) == parameters


@given(QUOTABLE)
def test_a_quoted_string_never_starts_a_challenge(text: str) -> None:
    """Whatever another scheme quotes, it is no DPoP challenge."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    assert dpop_challenge([f'Basic realm="{quoted} DPoP error=use_dpop_nonce"']) is None


def test_a_huge_field_is_ignored() -> None:
    """A field far beyond any real challenge is not parsed."""
    assert (
        dpop_challenge(["DPoP " + ", ".join(f'a{i}="x"' for i in range(10_000)) + ', error="use_dpop_nonce"']) is None
    )


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"error":"use_dpop_nonce","error_description":"x"}', "use_dpop_nonce"),
        (b' {"error" : "use_dpop_nonce"} ', "use_dpop_nonce"),
        (b'{"error":["use_dpop_nonce"]}', None),
        (b'{"error":null}', None),
        (b'["use_dpop_nonce"]', None),
        (b'{"error":"use_dpop_nonce"', None),
        (b'{"error":"invalid_grant","error":"use_dpop_nonce"}', None),
        (b"<html>use_dpop_nonce</html>", None),
        (b'\xef\xbb\xbf{"error":"use_dpop_nonce"}', None),
        (b"", None),
        (b"\xff\xfe", None),
        (b"[" * 10_000, None),
    ],
)
def test_error_of_json(body: bytes, error: str | None) -> None:
    """Only a whole, unambiguous JSON object says what the error is."""
    assert error_of_json(body) == error


@given(st.binary(max_size=300))
def test_any_body_is_read_or_ignored(body: bytes) -> None:
    """No body whatever makes the reader raise."""
    error_of_json(body)


@pytest.mark.parametrize("nonce", ["eyJ7S_zG.eyJH0-Z.HX4w-7v", "a,b", "x=y", "!", "~" * 2048])
def test_usable_nonce(nonce: str) -> None:
    """A nonce is opaque: commas, dots, equals signs and 2 kB pass unchanged."""
    assert nonce_field([nonce]) == (nonce, None)


@pytest.mark.parametrize(
    "values", [["a", "b"], [""], ["a b"], ["a, b"], ['"a"'], ["a\\b"], ["café"], ["a\r\nX: y"], ["a\n"]]
)
def test_unusable_nonce(values: list[str]) -> None:
    """Two different fields, an empty one or foreign characters are no nonce, and the reason does not repeat it."""
    nonce, problem = nonce_field(values)
    assert nonce is None
    assert problem
    assert not any(value in problem for value in values if len(value) > 3)


def test_a_nonce_that_came_twice() -> None:
    """A gateway that sends a field twice has not made it unclear."""
    assert nonce_field(["a", "a"]) == ("a", None)


def test_no_nonce_is_no_problem() -> None:
    """An answer without the header changes nothing and is not worth a word."""
    assert nonce_field([]) == (None, None)


def test_a_field_of_any_length_up_to_the_limit_is_read() -> None:
    """16384 characters are read, one more is not."""
    start = 'DPoP error="use_dpop_nonce", more="'
    field = start + "a" * (16384 - len(start) - 1) + '"'
    assert (dpop_challenge([field]) or {}).get("error") == "use_dpop_nonce"
    assert dpop_challenge([field[:-1] + 'a"']) is None
