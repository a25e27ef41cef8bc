# SPDX-License-Identifier: Apache-2.0
"""Requests: their bodies, their targets, and headers that a caller sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from support.clients import BODY, TOKEN, assert_fresh
from support.recorder import Recorder, Response, demanding, script
from support.shy import Shy

import dpop
from dpop.client import BearerToken
from dpop.errors import InvalidTargetError, UsageError

# -- bodies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "file", "multipart", "form"])
def test_a_body_is_sent_again_whole(client: Callable[..., Any], kind: str) -> None:
    """A challenge on a body that can be rewound: the second request has all of it."""
    with Recorder(demanding()) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        body = one.form_body({"a": "x" * 999}) if kind == "form" else getattr(one, f"{kind}_body")(BODY)
        assert one.send("POST", server.url("/r"), body=body).status == 200
        first, second = server.requests
        assert first.body == second.body
        assert len(second.body) >= 999
        assert second.complete


def test_a_body_that_can_be_read_once_is_not_sent_twice(
    client: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A generator: the 401 is returned after one whole request, with a warning; the next has the nonce."""
    with Recorder(demanding()) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert one.send("POST", server.url("/r"), body=one.stream_body(BODY)).status == 401
        assert "only once" in caplog.text
        assert one.send("POST", server.url("/r"), body=one.stream_body(BODY)).status == 200
        assert [request.body for request in server.requests] == [BODY, BODY]


def test_priming_gets_the_nonce_first(client: Callable[..., Any]) -> None:
    """prime() asks once, without a token, and the stream that follows is accepted at once."""
    with Recorder(demanding()) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert one.prime(server.url("/r")) is True
        assert one.send("POST", server.url("/r"), body=one.stream_body(BODY)).status == 200
        head, post = server.requests
        assert head.method == "HEAD"
        assert head.all("Authorization") == []
        assert "ath" not in head.claims
        assert (post.nonce, post.body) == ("n1", BODY)
        with pytest.raises(UsageError):
            one.prime("https://elsewhere.example/")


def test_priming_fetches_the_nonce_of_the_requests_to_come(client: Callable[..., Any]) -> None:
    """As for any request: an as_endpoint, and an adapter without a token, are an authorization server's."""
    with Recorder(lambda request: Response(200, [("DPoP-Nonce", "n1")])) as server:
        token_endpoint = server.url("/token")
        mixed = client(origins=server.origin, access_token=TOKEN, as_endpoints=[token_endpoint])
        for one in (mixed, client(origins=server.origin)):
            assert one.prime(token_endpoint) is True
            one.send("POST", token_endpoint, body=one.form_body({"a": "b"}))
        assert [request.nonce for request in server.requests] == [None, "n1"] * 2


def test_priming_does_not_boast_of_a_nonce_that_is_ignored(client: Callable[..., Any]) -> None:
    """Two DPoP-Nonce fields are none."""
    with Recorder(lambda request: Response(200, [("DPoP-Nonce", "a"), ("DPoP-Nonce", "b")])) as server:
        assert client(origins=server.origin, access_token=TOKEN).prime(server.url("/r")) is False


# -- htu is what was on the wire ---------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/token?a=1&b=2",
        "/a%2Fb",
        "/a%20b",
        "/~user/x",
        "//double",
        "/a;v=1/b",
        "/caf%C3%A9",
        "/users/me@x:1",
        "/a+b",
        "/x?",
        "/a%252Fb",
    ],
)
def test_htu_is_what_was_on_the_wire(client: Callable[..., Any], path: str) -> None:
    """Whatever the library makes of a URL, the proof names the target that was sent."""
    with Recorder(script(Response(200))) as server:
        client(origins=server.origin, access_token=TOKEN).send("GET", server.url(path))
        assert_fresh(server.requests)


URLS = [
    "http://server.example.com/token",
    "HTTP://server.example.com/token",
    "http://Server.Example.COM/token",
    "http://server.example.com:80/token",
    "http://server.example.com:443/token",
    "http://server.example.com:8443/token",
    "http://server.example.com:08443/token",
    "http://server.example.com:/token",
    "http://server.example.com",
    "http://server.example.com/",
    "http://server.example.com?x=1",
    "http://server.example.com/token?",
    "http://server.example.com/token#frag",
    "http://server.example.com/token?a=1#f?g",
    "http://user:pw@server.example.com/token",
    "http://server.example.com/token/",
    "http://server.example.com/a/./b",
    "http://server.example.com/a/x/../b",
    "http://server.example.com/../token",
    "http://server.example.com/a/%2e%2e/b",
    "http://server.example.com/a%2fb",
    "http://server.example.com/%74oken/%7Euser",
    "http://server.example.com/a b",
    "http://server.example.com/a!$&'()*+,;=b",
    'http://server.example.com/a"b<c>[d]{e}|f^g`h',
    "http://server.example.com/a\\b",
    "http://server.example.com/100%/x",
    "http://server.example.com/café",
    "http://server.example.com/café",
    "http://server.example.com/док",
    "http://bücher.example/token",
    "http://BÜCHER.example/token",
    "http://xn--bcher-kva.example/token",
    "http://straße.example/token",
    "http://server.example.com./token",
    "http://127.0.0.1:8443/token",
    "http://[2001:db8::1]/token",
    "http://[2001:0DB8:0:0:0:0:0:1]:80/token",
    "http://[::ffff:192.0.2.1]/token",
    "http://my_host.example.com/token",
    "http://server.example.com/xrpc/com.atproto.repo.listRecords?repo=did:plc:abc",
]
# Dot segments that survived, bad escapes, characters no path has, and IPv6 in another form than RFC 5952.
DOUBTFUL = ["%2e", "\\", "100%", "[d]", "2001:0DB8", "192.0.2.1"]
# aiohttp cuts the dot behind a host from the Host field only, so that the two disagree where a proxy gets a whole URL.
DOUBTFUL_OF = {"aiohttp": ["com./"]}


@pytest.mark.parametrize("url", URLS)
def test_every_url_is_named_as_it_was_sent_or_not_sent(client: Callable[..., Any], name: str, url: str) -> None:
    """Seen by a proxy: htu is Host, but for a default port, and target; in doubt, nothing was sent at all."""
    origins = [
        *("http://server.example.com", "http://server.example.com:443", "http://server.example.com:8443"),
        *("http://xn--bcher-kva.example", "http://xn--strae-oqa.example", "http://server.example.com."),
        *("http://127.0.0.1:8443", "http://[2001:db8::1]", "http://[::ffff:c000:201]", "http://my_host.example.com"),
    ]
    with Recorder(script(Response(200))) as proxy:
        one = client(origins=origins, insecure_origins=origins, access_token=TOKEN, proxy=proxy.origin)
        try:
            one.send("GET", url)
        except InvalidTargetError:
            assert proxy.requests == []
            assert any(part in url for part in [*DOUBTFUL, *DOUBTFUL_OF.get(name.partition(" with ")[0], [])])
            return
        (request,) = proxy.requests
        target = request.target.partition("?")[0]
        path = "/" + target.partition("://")[2].partition("/")[2]
        assert request.claims["htu"] == f"http://{request.one('Host').lower().removesuffix(':80')}{path}"
        assert request.one("Authorization") == f"DPoP {TOKEN}"
        assert not set("@?#") & set(request.claims["htu"])


# -- what users do besides ---------------------------------------------------------------------


def test_a_callers_stray_headers_are_replaced(client: Callable[..., Any]) -> None:
    """Exactly one DPoP and one Authorization header, ours, whatever the caller set."""
    with Recorder(script(Response(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        one.send("GET", server.url("/r"), headers={"dpop": "stale", "authorization": "Bearer other"})
        (request,) = server.requests
        assert request.claims["ath"] == dpop.access_token_hash(TOKEN)
        assert request.one("Authorization") == f"DPoP {TOKEN}"


def test_client_authentication_is_kept_at_a_token_endpoint(client: Callable[..., Any]) -> None:
    """Basic client authentication goes with both the first request and the retry."""
    with Recorder(script(Response(400, [("DPoP-Nonce", "n")], b'{"error":"use_dpop_nonce"}'), Response(200))) as server:
        one = client(origins=server.origin)
        assert (
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}), auth=("id", "secret")).status == 200
        )
        assert [request.one("Authorization") for request in server.requests] == ["Basic aWQ6c2VjcmV0"] * 2


# -- transport failures ------------------------------------------------------------------------


def test_a_dropped_connection_raises_and_the_next_call_works(client: Callable[..., Any], name: str) -> None:
    """No answer: the library's own error, and the adapter goes on working."""
    with Recorder(script(Response(drop=True), Response(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN, nonces="required")
        with pytest.raises(Exception, match=r"(?i)disconnect|abort|closed|reset|remote"):
            one.send("POST", server.url("/r"), body=one.bytes_body(BODY))
        assert one.send("GET", server.url("/r")).status == 200
        assert_fresh(server.requests)


@pytest.mark.parametrize("bearer", [False, True])
def test_a_token_that_does_not_show_itself(client: Callable[..., Any], bearer: bool) -> None:
    """A subclass of str is sent as it is, and not as the stars that it prints."""

    class ShyBearer(BearerToken):
        __str__ = Shy.__str__
        __format__ = Shy.__format__

    with Recorder(script(Response(200))) as server:
        one = client(origins=server.origin, access_token=lambda: ShyBearer("t0ken") if bearer else Shy("t0ken"))
        assert one.send("GET", server.url("/r")).status == 200
        assert server.requests[0].all("Authorization") == [f"{'Bearer' if bearer else 'DPoP'} t0ken"]
