# SPDX-License-Identifier: Apache-2.0
"""Tests of a client of one's own, on a server that verifies each proof for real and does what goes wrong in the field.

    pip install 'dpop-toolkit[requests]' pytest
    pytest test_my_client.py

The fixture dpop_server is there as soon as dpop-toolkit is installed. Put your own code in the place of MyClient.
"""

from __future__ import annotations

from typing import Any

import pytest
import requests

import dpop
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import MemoryTokenStore


class MyClient:
    """What is tested: it has a refresh token, and calls an API."""

    def __init__(self, server: DPoPTestServer) -> None:
        key = dpop.generate_key()
        endpoint = TokenEndpoint(key, server.token_endpoint, client_id=server.public_client_id)
        refresh_token = server.issue_refresh_token(jkt=key.thumbprint, client_id=server.public_client_id)
        store = MemoryTokenStore()
        store.save(endpoint.refresh(refresh_token))
        self._url = server.resource
        self._session = requests.Session()
        adapter = DPoPAdapter(key, origins=server.origin, access_token=endpoint.source(store))
        self._session.mount(server.origin, adapter)

    def who_am_i(self) -> Any:
        """Call the API."""
        response = self._session.get(self._url, timeout=10)
        response.raise_for_status()
        return response.json()["sub"]


@pytest.mark.dpop_server(nonces="none")
def test_it_works(dpop_server: DPoPTestServer) -> None:
    """And the server refused nothing."""
    assert MyClient(dpop_server).who_am_i() == "alice"
    assert dpop_server.refusals == []


@pytest.mark.dpop_server(nonces="single-use")
def test_a_server_that_wants_a_new_nonce_each_time(dpop_server: DPoPTestServer) -> None:
    """The client is challenged and goes on; its user notices nothing."""
    client = MyClient(dpop_server)
    assert [client.who_am_i() for _ in range(5)] == ["alice"] * 5


def test_a_clock_that_is_wrong(dpop_server: DPoPTestServer) -> None:
    """The server is ten minutes ahead, so it refuses each proof; the client must not go on for ever."""
    client = MyClient(dpop_server)
    dpop_server.levers.clock_offset = 600
    with pytest.raises(requests.HTTPError):
        client.who_am_i()
    assert dpop_server.refusals[-1].reason == "iat_too_old"


def test_an_api_that_is_down_for_a_moment(dpop_server: DPoPTestServer) -> None:
    """The error reaches the caller, and the next call works."""
    client = MyClient(dpop_server)
    dpop_server.levers.fail_next(1)
    with pytest.raises(requests.HTTPError):
        client.who_am_i()
    assert client.who_am_i() == "alice"
