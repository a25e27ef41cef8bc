# SPDX-License-Identifier: Apache-2.0
"""What ``--verbose`` and a rehearsal see is what is on the wire, over every kind of connection, and changes nothing."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests
from dpop_cli.wire.exchange import MASK, Exchange, masked_body, masked_fields, proof_facts, watching
from support.authority import Authority, make_authority
from support.recorder import Received, Recorder, Response
from support.relays import ForwardProxy, SocksProxy
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

import dpop
from dpop.requests import DPoPAdapter


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority."""
    return make_authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(params=["plain", "tls", "tunnel", "socks"])
def way(request: pytest.FixtureRequest, authority: Authority) -> Iterator[tuple[Recorder, dict[str, Any]]]:
    """A server that challenges once, and the settings of requests that lead to it."""
    asked: list[Received] = []

    def respond(received: Received) -> Response:
        asked.append(received)
        if len(asked) == 1:
            return Response(401, [("WWW-Authenticate", 'DPoP error="use_dpop_nonce"'), ("DPoP-Nonce", "n1")])
        return Response(200, [("Content-Encoding", "gzip")], gzip.compress(b"it is here"))

    tls = None if request.param == "plain" else authority.server_context()
    with ExitStack() as stack:
        server = stack.enter_context(Recorder(respond, tls=tls))
        settings: dict[str, Any] = {} if tls is None else {"verify": authority.ca}
        if request.param in {"tunnel", "socks"}:
            proxy = stack.enter_context(ForwardProxy() if request.param == "tunnel" else SocksProxy())
            settings["proxies"] = {"https": proxy.url}
        yield server, settings


def test_each_request_is_seen_as_it_was_sent(way: tuple[Recorder, dict[str, Any]]) -> None:
    """Both requests of a challenge, with the headers and the body that the server got; the caller gets the response."""
    server, settings = way
    key = dpop.generate_key()
    seen: list[Exchange] = []
    with requests.Session() as session, watching(seen.append):
        session.mount(server.origin, DPoPAdapter(key, origins=server.origin, access_token="a-token"))
        response = session.post(server.url("/a?b=c"), data=b"the body", timeout=30, **settings)
    assert (response.status_code, response.text) == (200, "it is here")
    assert [(each.method, each.url) for each in seen] == [("POST", server.url("/a?b=c"))] * 2
    assert [each.status for each in seen] == [401, 200]
    for exchange, received in zip(seen, server.requests, strict=True):
        assert exchange.sent == received.headers
        assert exchange.body == received.body == b"the body"


def test_afterwards_nothing_is_watched() -> None:
    """The classes of urllib3 are as they were, also after an error."""
    before = (HTTPConnectionPool.ConnectionCls, HTTPSConnectionPool.ConnectionCls)
    with pytest.raises(ZeroDivisionError), watching(lambda _: None):
        raise ZeroDivisionError
    assert (HTTPConnectionPool.ConnectionCls, HTTPSConnectionPool.ConnectionCls) == before


def test_only_what_is_known_to_be_harmless_is_shown() -> None:
    """A list of names decides; a header or member that nobody thought of is masked."""
    fields = [("Authorization", "DPoP a-token"), ("Cookie", "a=b"), ("X-Api-Key", "k"), ("Content-Type", "text/plain")]
    assert masked_fields(fields) == [
        ("Authorization", f"DPoP {MASK}"),
        ("Cookie", MASK),
        ("X-Api-Key", MASK),
        ("Content-Type", "text/plain"),
    ]
    form = [("Content-Type", "application/x-www-form-urlencoded")]
    assert masked_body(form, b"grant_type=x&code=secret&new=secret") == f"grant_type=x&code={MASK}&new={MASK}"
    assert masked_body([], b'{"token_type": "DPoP", "access_token": "secret", "a": 1}') == (
        f'{{"token_type": "DPoP", "access_token": "{MASK}", "a": "{MASK}"}}'
    )
    assert masked_body([], b"<html>secret</html>") == "(19 bytes)"


def test_of_a_proof_the_harmless_half_is_shown() -> None:
    """Method, URL and time; of the rest only that it is there. What is no proof shows nothing."""
    proof = dpop.create_proof(dpop.generate_key(), "GET", "https://api.example/a", nonce="n", access_token="t")
    facts = proof_facts(proof)
    assert (facts["htm"], facts["htu"]) == ("GET", "https://api.example/a")
    assert (facts["jti"], facts["nonce"], facts["ath"]) == (MASK, MASK, MASK)
    assert proof_facts("secret") == proof_facts("a.b.c") == {}


def test_a_long_body_is_cut() -> None:
    """A long body is cut where a token endpoint would not take it any more, and the request still ends."""
    big = b"x" * (3 << 20)
    with Recorder(lambda _: Response(200, [], big)) as server, watching(lambda _: None):
        text = requests.get(server.url("/"), timeout=30).content
    assert 1 << 20 < len(text) < len(big)
