# SPDX-License-Identifier: Apache-2.0
"""What an API wants of a new authorization, read out of its challenge and said to people."""

from __future__ import annotations

import logging

import pytest
import requests
from support.recorder import Recorder, Response

import dpop
from dpop.client import Demand, demand_of
from dpop.requests import DPoPAdapter
from dpop.server import resource_challenge
from dpop.server._reasons import Reason, refuse


@pytest.mark.parametrize(
    ("challenge", "demand"),
    [
        (
            'DPoP error="insufficient_user_authentication", acr_values="gold silver", max_age="300"',
            Demand("insufficient_user_authentication", None, "gold silver", 300),
        ),
        ('Bearer error="insufficient_scope", scope="write"', Demand("insufficient_scope", "write")),
        ('DPoP error="insufficient_scope", scope="a  b"', Demand("insufficient_scope")),
        ('DPoP error="insufficient_scope", scope="é"', Demand("insufficient_scope")),
        ('DPoP error="insufficient_user_authentication", max_age="-1"', Demand("insufficient_user_authentication")),
        (
            'DPoP error="insufficient_user_authentication", max_age="9999999999"',
            Demand("insufficient_user_authentication"),
        ),
        (
            'DPoP error="insufficient_scope", resource_metadata="https://api.example/m"',
            Demand("insufficient_scope", resource_metadata="https://api.example/m"),
        ),
        ('DPoP error="insufficient_scope", resource_metadata="http://api.example/m"', Demand("insufficient_scope")),
        ('DPoP error="insufficient_scope", resource_metadata="javascript:1"', Demand("insufficient_scope")),
        ('DPoP error="invalid_token"', None),
        ('Basic error="insufficient_scope"', None),
        ('DPoP error="insufficient_scope', None),
        ("", None),
    ],
)
def test_a_challenge(challenge: str, demand: Demand | None) -> None:
    """Only values that can stand in an authorization request are believed."""
    assert demand_of([challenge]) == demand


def test_the_challenge_of_this_package() -> None:
    """What a protected resource says is read back."""
    wanted = {"acr_values": "gold", "max_age": "60"}
    error = refuse(Reason.AUTHENTICATION_INSUFFICIENT, error="insufficient_user_authentication", parameters=wanted)
    _, fields = resource_challenge(error, algs=["ES256"])
    demand = demand_of([value for name, value in fields if name == "WWW-Authenticate"])
    assert demand is not None
    assert demand.parameters == wanted
    assert str(demand) == (
        "the API wants a stronger or newer login of the user: "
        "start a new authorization with acr_values=gold, max_age=60"
    )


def test_the_client_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    """The response is returned once, no token is renewed for it, and the log says what helps."""

    class Source:
        """A token source that must not be told."""

        def __call__(self) -> str:
            return "token"

        def refused(self, _token: str | None) -> None:
            raise AssertionError("the token is good, and was called refused")

    field = 'DPoP error="insufficient_user_authentication", acr_values="gold"'
    with Recorder(lambda _: Response(401, [("WWW-Authenticate", field)])) as server:
        session = requests.Session()
        session.mount(server.origin, DPoPAdapter(dpop.generate_key(), origins=server.origin, access_token=Source()))
        with session, caplog.at_level(logging.WARNING):
            assert session.get(server.url()).status_code == 401
        assert len(server.requests) == 1
    assert "start a new authorization with acr_values=gold" in caplog.text
