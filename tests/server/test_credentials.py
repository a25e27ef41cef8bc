# SPDX-License-Identifier: Apache-2.0
"""The Authorization field and ``cnf``: one reading, or a refusal."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import InvalidProof
from dpop.server._credentials import Credentials, bound_thumbprint, is_bound, read_credentials, read_scheme

JKT = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


def read(*values: str, query: str = "") -> Credentials | None:
    """What is in these Authorization fields."""
    return read_credentials([("authorization", value) for value in values], query)


def refused(*values: str, query: str = "") -> tuple[str, str]:
    """Error and reason of the refusal."""
    with pytest.raises(InvalidProof) as caught:
        read(*values, query=query)
    return caught.value.error, caught.value.reason


@pytest.mark.parametrize("value", ["DPoP a.b~c", "dpop a.b~c", "DPOP   a.b~c", "  DPoP a.b~c \t"])
def test_the_scheme_in_any_case_and_the_token_as_it_is(value: str) -> None:
    """One space or more between them (RFC 9449 §7.1, RFC 9110 §11.1)."""
    assert read(value) == Credentials("DPoP", "a.b~c")


def test_a_bearer_token() -> None:
    """The other scheme."""
    assert read("bearer x") == Credentials("Bearer", "x")


@pytest.mark.parametrize("values", [[], ["Basic YTpi"], ["DPoPx y"], ["DPoP-Bearer x"], [""], ["Digest a=b, c=d"]])
def test_nothing_this_api_knows(values: list[str]) -> None:
    """No field, or a scheme without a meaning here."""
    assert read(*values) is None


@pytest.mark.parametrize("value", ["DPoP", "DPoP ", "dpop a b", "Bearer caf\u00e9", "DPoP a\tb", 'DPoP "a"', "DPoP\ta"])
def test_not_one_token(value: str) -> None:
    """None, two, or characters no token has."""
    if value == "DPoP\ta":
        assert read(value) is None
    else:
        assert refused(value) == ("invalid_token", "token_malformed")


@pytest.mark.parametrize("values", [["DPoP a", "Bearer b"], ["DPoP a", "DPoP a"], ["DPoP a, Bearer b"], ["DPoP a,b"]])
def test_more_than_one_field(values: list[str]) -> None:
    """Also as a server joins them."""
    assert refused(*values) == ("invalid_request", "authorization_repeated")
    assert read_scheme([("Authorization", value) for value in values]) == "both"


@pytest.mark.parametrize(
    "query", ["access_token=x", "a=b&access_token=", "access%5Ftoken=x", "%61ccess_token", "a=%61&%61ccess_token"]
)
def test_a_token_in_the_query(query: str) -> None:
    """Refused, with or without one in the header."""
    assert refused("DPoP a", query=query) == ("invalid_request", "token_outside_header")
    assert refused(query=query) == ("invalid_request", "token_outside_header")


@pytest.mark.parametrize(
    "query",
    [
        "q=access_token",
        "my_access_token=1",
        "access_token_hint=1",
        "q=%26access_token%3D1",
        "q=%3D%61ccess_token%26",
        "a%26access_token=1",
        "%%61ccess_token=1",
    ],
)
def test_a_query_that_only_looks_like_it(query: str) -> None:
    """The name of the parameter counts."""
    assert read("DPoP a", query=query) == Credentials("DPoP", "a")


@given(st.text(), st.text())
def test_anything_at_all_is_read_or_refused(value: str, query: str) -> None:
    """Whatever a client sends, no other exception."""
    for field in (value, "DPoP " + value):
        with contextlib.suppress(InvalidProof):
            read(field, query=query)


def test_a_repr_without_the_token() -> None:
    """It can be logged."""
    assert repr(Credentials("DPoP", "secret")) == "<Credentials DPoP>"


@pytest.mark.parametrize(
    ("claims", "bound", "jkt"),
    [
        ({}, False, None),
        ({"cnf": None}, False, None),
        ({"cnf": {"jkt": JKT}}, True, JKT),
        ({"cnf": {"jkt": JKT, "x5t#S256": "x"}}, True, JKT),
        ({"cnf": {"x5t#S256": "x"}}, True, None),
        ({"cnf": {}}, True, None),
        ({"cnf": {"jkt": "no thumbprint"}}, True, "no thumbprint"),
    ],
)
def test_what_a_token_is_bound_to(claims: dict[str, Any], bound: bool, jkt: str | None) -> None:
    """Of a JWT or an introspection response; a binding that is not understood is a binding (RFC 7800 §3.1)."""
    assert is_bound(claims) is bound
    assert bound_thumbprint(claims) == jkt


@pytest.mark.parametrize("cnf", ["text", 7, [], ["jkt"], True, {"jkt": None}, {"jkt": 7}, {"jkt": [JKT]}])
def test_a_binding_that_is_none(cnf: object) -> None:
    """Malformed is neither unbound nor bound: it is refused."""
    assert is_bound({"cnf": cnf})
    with pytest.raises(InvalidProof) as caught:
        bound_thumbprint({"cnf": cnf})
    assert (caught.value.error, caught.value.reason) == ("invalid_token", "token_binding_malformed")
