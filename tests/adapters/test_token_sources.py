# SPDX-License-Identifier: Apache-2.0
"""Token sources of an adapter: those that fail, and those that need a connection themselves."""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests
from support.clients import ASYNCHRONOUS, BODY, assert_fresh, make, pool_of_one
from support.recorder import Received, Recorder, challenge, script
from support.recorder import Response as Reply
from urllib3.util.retry import Retry


def test_ath_is_the_hash_of_the_token_that_is_sent(client: Callable[..., Any]) -> None:
    """A function's token is asked for with each attempt; header and hash always agree."""
    tokens = (f"token-{number}" for number in itertools.count())
    with Recorder(script(challenge("n1"), Reply(307, [("Location", "/there")]), Reply(200))) as server:
        one = client(origins=server.origin, access_token=lambda: next(tokens))
        assert one.send("GET", server.url("/r")).status == 200
        for number, request in enumerate(server.requests):
            assert request.one("Authorization") == f"DPoP token-{number}"
            digest = hashlib.sha256(f"token-{number}".encode()).digest()
            assert request.claims["ath"] == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "error", [OSError("disk"), requests.ConnectionError("refresh"), ValueError("bad"), TimeoutError()]
)
def test_what_a_token_source_raises_is_raised(client: Callable[..., Any], name: str, error: Exception) -> None:
    """A failing source is no failing connection: its own error comes out, nothing is sent, nothing retried."""
    asked: list[int] = []

    def source() -> str:
        asked.append(1)
        raise error

    options = {"max_retries": 3} if name == "requests" else {}
    with Recorder(script(Reply(200))) as server:
        one = client(origins=server.origin, access_token=source, **options)
        with pytest.raises((ValueError, OSError)) as raised:
            one.send("GET", server.url("/r"))
        # aiohttp makes an error of its own of every OSError.
        wrapped = name == "aiohttp" and isinstance(error, OSError) and not isinstance(error, TimeoutError)
        assert (raised.value.__cause__ if wrapped else raised.value) is error
        assert (len(asked), len(server.requests)) == (1, 0)


def test_a_source_that_fails_on_a_retry_says_so() -> None:
    """On urllib3's own retries too, an OSError of the source is not taken for one of the connection."""
    tokens = iter(["first"])

    def source() -> str:
        try:
            return next(tokens)
        except StopIteration:
            raise OSError("no second token") from None

    retry = Retry(total=5, status_forcelist=[503], backoff_factor=0)
    with Recorder(script(Reply(503), Reply(200))) as server:
        with make("requests", origins=server.origin, access_token=source, max_retries=retry) as one:
            with pytest.raises(OSError, match="no second token"):
                one.send("GET", server.url("/r"))
        assert len(server.requests) == 1


def test_a_source_may_use_the_adapter_itself() -> None:
    """A source that refreshes through the same session, on a pool of one: no deadlock, each with its own proof."""
    with Recorder(script(Reply(200, [("DPoP-Nonce", "n1")], b"fresh-token"))) as server:
        clients: list[Any] = []

        def source() -> str:
            answer = clients[0].session.post(server.url("/token"), data={"a": "b"}, timeout=60)
            return str(answer.text)

        options = {"as_endpoints": [server.url("/token")], "pool_maxsize": 1, "pool_block": True}
        with make("requests", origins=server.origin, access_token=source, **options) as one:
            clients.append(one)
            assert one.send("GET", server.url("/r")).status == 200
        token, resource = server.requests
        assert token.all("Authorization") == []
        assert resource.one("Authorization") == "DPoP fresh-token"
        assert_fresh(server.requests)


INVALID_TOKEN = Reply(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')], b"expired")


@pytest.mark.parametrize("name", ["requests", "httpx", "httpx2"], indirect=True)
def test_a_source_may_refresh_through_the_adapter_itself(name: str, client: Callable[..., Any]) -> None:
    """A source that hears invalid_token and asks on the same pool of one: the refused answer is out of its way."""

    class Source:
        token = "first"

        def __call__(self) -> str:
            return self.token

        def refused(self, _token: str, /) -> None:
            reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}), timeout=60)
            self.token = reply.body.decode()

    def handler(request: Received) -> Reply:
        if request.target == "/token":
            return Reply(200, body=b"second")
        return Reply(200) if request.one("Authorization") == "DPoP second" else INVALID_TOKEN

    with Recorder(handler) as server:
        options = {"as_endpoints": [server.url("/token")], **pool_of_one(name)}
        one = client(origins=server.origin, access_token=Source(), **options)
        replies: list[int] = []
        # In a thread, because requests waits for a connection for ever.
        thread = threading.Thread(target=lambda: replies.append(one.send("GET", server.url("/r")).status), daemon=True)
        thread.start()
        thread.join(60)
        assert replies == [200]
        assert [request.target for request in server.requests] == ["/r", "/token", "/r"]


@pytest.mark.parametrize("kind", ["bytes", "stream"])
def test_a_source_that_cannot_refresh_gives_the_connection_back(
    name: str, client: Callable[..., Any], kind: str
) -> None:
    """What refused() raises comes out, and the answer nobody gets does not keep its connection."""

    class Source:
        def __call__(self) -> str:
            return "token"

        def refused(self, _token: str, /) -> None:
            raise OSError("no refresh")

    with Recorder(script(INVALID_TOKEN, Reply(200))) as server:
        one = client(origins=server.origin, access_token=Source(), **pool_of_one(name))
        with pytest.raises(OSError, match="no refresh") as kept:
            one.send("POST", server.url("/r"), body=getattr(one, f"{kind}_body")(BODY))
        replies: list[int] = []

        def again() -> None:
            replies.append(one.send("GET", server.url("/r"), timeout=60).status)

        if name in ASYNCHRONOUS:
            again()
        else:
            thread = threading.Thread(target=again, daemon=True)
            thread.start()
            thread.join(60)
        assert replies == [200]
        assert kept.value is not None
