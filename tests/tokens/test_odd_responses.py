# SPDX-License-Identifier: Apache-2.0
"""Odd responses of a token endpoint: the tokens in them are taken or carried by the error, however they were asked for.

A refresh token or code is used up once the server has answered 2xx. So nothing beside the tokens may cost them.
"""

from __future__ import annotations

import base64
import copy
import datetime as dt
import gzip
import hashlib
import json
import logging
import pickle
import re
import time
import traceback
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import requests
from google.auth.exceptions import RefreshError
from google.auth.transport.requests import Request
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Received, Recorder, Response, script

import dpop
from dpop.errors import (
    CredentialError,
    InvalidTokenResponseError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    TokenRequestError,
    TokensNotSavedError,
    UnboundTokenError,
)
from dpop.google import Credentials
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.tokens import FileTokenStore, HTTPResponse, MemoryTokenStore, ServerMetadata, TokenSet
from dpop.tokens._responses import raise_refusal

KEY = dpop.generate_key()
NOW = 1_800_000_000.0
OLD = "0ld-refresh-t0ken"
ACCESS = "n3w.access-t0ken"
NEW = "n3w-refresh-t0ken"
GROUPS = "e30." + "Z3JvdXA" * 60_000 + ".c2ln"


class Odd(NamedTuple):
    """A 2xx response, and what must come of it.

    :param refused: the fault in the error that carries the tokens; ``None`` if they are taken.
    :param warns: whether one WARNING says what was odd.
    """

    body: bytes
    status: int = 200
    access: str = ACCESS
    refresh: str = OLD
    lifetime: float | None = 3600
    scope: str | None = None
    id_token: str | None = None
    warns: bool = False
    refused: str | None = None


def said(**changes: Any) -> bytes:
    """A response with these members; those that are ``...`` are left out."""
    members = {"access_token": ACCESS, "token_type": "DPoP", "expires_in": 3600, **changes}
    return json.dumps({name: value for name, value in members.items() if value is not ...}).encode()


def nested(depth: int) -> Any:
    """An object in an object, and so on."""
    return {"in": nested(depth - 1)} if depth else "deep"


def cut(end: bytes) -> bytes:
    """A response with a new refresh token and this end in place of its brace."""
    return said(refresh_token=NEW)[:-1] + end


PLAIN = said()
ODD: dict[str, Odd] = {
    # the lifetime
    "expires_in is a string of digits": Odd(said(expires_in="3600")),
    "expires_in has blanks": Odd(said(expires_in=" 3600 ")),
    "expires_in is a float": Odd(said(expires_in=299.5), lifetime=299.5),
    "expires_in is a float in a string": Odd(said(expires_in="299.5"), lifetime=299.5),
    "expires_in has an exponent": Odd(PLAIN.replace(b"3600", b"36e2")),
    "expires_in is missing": Odd(said(expires_in=...), lifetime=None),
    "expires_in is null": Odd(said(expires_in=None), lifetime=None, warns=True),
    "expires_in is empty": Odd(said(expires_in=""), lifetime=None, warns=True),
    "expires_in is 0": Odd(said(expires_in=0), lifetime=0, warns=True),
    "expires_in is 0 in a string": Odd(said(expires_in="0"), lifetime=0, warns=True),
    "expires_in is negative": Odd(said(expires_in=-1), lifetime=0, warns=True),
    "expires_in is negative in a string": Odd(said(expires_in="-300"), lifetime=0, warns=True),
    "expires_in is 2^63-1": Odd(said(expires_in=2**63 - 1), lifetime=None, warns=True),
    "expires_in is 31 years": Odd(said(expires_in=31 * 31_557_600), lifetime=None, warns=True),
    "expires_in is 1e300": Odd(said(expires_in=1e300), lifetime=None, warns=True),
    "expires_in is 1e999": Odd(PLAIN.replace(b"3600", b"1e999"), lifetime=None, warns=True),
    "expires_in has 100 digits": Odd(PLAIN.replace(b"3600", b"9" * 100), lifetime=None, warns=True),
    "expires_in has 5,000 digits": Odd(PLAIN.replace(b"3600", b"9" * 5000), lifetime=None, warns=True),
    "expires_in is NaN": Odd(PLAIN.replace(b"3600", b"NaN"), lifetime=None, warns=True),
    "expires_in is Infinity": Odd(PLAIN.replace(b"3600", b"-Infinity"), lifetime=None, warns=True),
    "expires_in is a boolean": Odd(said(expires_in=True), lifetime=None, warns=True),
    "expires_in is words": Odd(said(expires_in="3600; soon"), lifetime=None, warns=True),
    "expires_in is a date": Odd(said(expires_in="2031-01-01T00:00:00Z"), lifetime=None, warns=True),
    "expires_in is an array": Odd(said(expires_in=[3600]), lifetime=None, warns=True),
    "expires_in is an object": Odd(said(expires_in={}), lifetime=None, warns=True),
    "the refresh token's lifetime is a string": Odd(said(refresh_token_expires_in="86400")),
    "the refresh token's lifetime is odd": Odd(said(refresh_token_expires_in={}), warns=True),
    "the refresh token's lifetime is 0 for ever": Odd(said(refresh_expires_in=0)),
    "the refresh token's lifetime is an array": Odd(said(refresh_expires_in=[0]), warns=True),
    # scope and ID token
    "scope is an array": Odd(said(scope=["read", "write"]), scope="read write"),
    "scope is an array of odd things": Odd(said(scope=["read", 7, None]), scope="read"),
    "scope is an empty array": Odd(said(scope=[]), warns=True),
    "scope is empty": Odd(said(scope=""), warns=True),
    "scope is null": Odd(said(scope=None)),
    "scope is a number": Odd(said(scope=7), warns=True),
    "scope is not ASCII": Odd(said(scope="lesen schreiben-ä"), scope="lesen schreiben-ä"),
    "id_token is an object": Odd(said(id_token={"sub": "alice"}), warns=True),
    "id_token is empty": Odd(said(id_token=""), warns=True),
    "id_token is null": Odd(said(id_token=None)),
    "id_token has 420 kB of groups": Odd(said(id_token=GROUPS), id_token=GROUPS),
    # the refresh token
    "refresh_token is new": Odd(said(refresh_token=NEW), refresh=NEW),
    "refresh_token is empty": Odd(said(refresh_token="")),
    "refresh_token is null": Odd(said(refresh_token=None)),
    "refresh_token is a number": Odd(said(refresh_token=7), refresh="7"),
    "refresh_token is a boolean": Odd(said(refresh_token=True), warns=True),
    "refresh_token in an object of its name": Odd(said(refresh_token={"refresh_token": NEW}), refresh=NEW),
    "refresh_token alone in camel case": Odd(said(refreshToken=NEW), refresh=NEW, warns=True),
    "refresh_token in two spellings": Odd(said(refresh_token=NEW, refreshToken="an0ther"), refresh=NEW),
    "names with white space": Odd(PLAIN.replace(b'"access_token"', b'" access_token"'), warns=True),
    "a byte order mark in a name": Odd(PLAIN.replace(b'"access_token"', b'"\xef\xbb\xbfaccess_token"'), warns=True),
    "the access token is a number": Odd(said(access_token=10**16), access="1" + "0" * 16),
    "the access token in an object of its name": Odd(said(access_token={"access_token": ACCESS})),
    "the type in an array": Odd(said(token_type=["DPoP"])),
    "refresh_token is an object": Odd(said(refresh_token={}), warns=True),
    "refresh_token is not ASCII": Odd(said(refresh_token="ä" + NEW), refresh="ä" + NEW),
    "refresh_token has 100 kB": Odd(said(refresh_token=NEW * 6000), refresh=NEW * 6000),
    # the access token
    "the access token is a session id": Odd(said(access_token="00D!a|b:c*d"), access="00D!a|b:c*d"),
    "the access token has every VSCHAR": Odd(
        said(access_token="".join(map(chr, range(0x21, 0x7F)))), access="".join(map(chr, range(0x21, 0x7F)))
    ),
    "the access token cannot be sent": Odd(said(access_token="a\r\nX: y"), access="a\r\nX: y"),
    # the response around them
    "status 201": Odd(PLAIN, status=201),
    "status 202": Odd(PLAIN, status=202),
    "status 203": Odd(PLAIN, status=203),
    "the type in lower case": Odd(said(token_type="dpop")),
    "the type with a blank": Odd(said(token_type="DPoP ")),
    "a byte order mark": Odd(b"\xef\xbb\xbf" + PLAIN),
    "UTF-16": Odd(PLAIN.decode().encode("utf-16")),
    "Latin-1": Odd(said(name="J?rg").replace(b"?", b"\xf6")),
    "white space around": Odd(b"\r\n\n \t" + PLAIN + b"\r\n"),
    "a form": Odd(
        f"access_token={ACCESS}&token_type=DPoP&expires_in=3600&scope=read+write".encode(), scope="read write"
    ),
    "an array of one": Odd(b"[" + PLAIN + b"]"),
    "JSON in a string": Odd(json.dumps(PLAIN.decode()).encode()),
    "a guard against scripts": Odd(b")]}',\n" + PLAIN),
    "another guard against scripts": Odd(b"while(1);" + PLAIN),
    "tokens inside a member": Odd(b'{"status":"ok","data":' + PLAIN + b"}", warns=True),
    "tokens in an array inside a member": Odd(b'{"data":[' + PLAIN + b"]}", warns=True),
    "tokens inside a member, their type beside it": Odd(
        json.dumps({"token_type": "DPoP", "expires_in": 3600, "data": {"access_token": ACCESS}}).encode(), warns=True
    ),
    "tokens inside an array inside a member": Odd(b'{"error":null,"data":[' + PLAIN + b"]}", warns=True),
    "tokens inside two members": Odd(b'{"result":{"data":' + PLAIN + b',"code":0}}', warns=True),
    "names in another case": Odd(
        json.dumps({"Access_Token": ACCESS, "TOKEN_TYPE": "DPoP", "ExpiresIn": 3600, "Refresh-Token": NEW}).encode(),
        refresh=NEW,
        warns=True,
    ),
    "the refresh token in an array": Odd(said(refresh_token=[NEW]), refresh=NEW),
    "the refresh token in an object": Odd(said(refresh_token={"token": NEW, "expires_in": 60}), refresh=NEW),
    "the access token in an array": Odd(said(access_token=[ACCESS], refresh_token=NEW), refresh=NEW),
    "the refresh token with white space": Odd(said(refresh_token=f" {NEW}\n"), refresh=NEW, warns=True),
    "names in camel case": Odd(
        json.dumps({"accessToken": ACCESS, "tokenType": "DPoP", "expiresIn": 3600, "refreshToken": NEW}).encode(),
        refresh=NEW,
        warns=True,
    ),
    "a warning of PHP before it": Odd(b"<br />\n<b>Warning</b>: in <b>/a.php</b><br />\n" + PLAIN),
    "a comment in HTML before it": Odd(b"<!-- node 7 -->" + PLAIN),
    "the access token with its scheme": Odd(said(access_token="DPoP " + ACCESS), warns=True),
    "the access token with white space": Odd(said(access_token=f" {ACCESS}\n"), warns=True),
    "an empty refresh token beside the real one": Odd(
        PLAIN[:-1] + f',"refresh_token":"{NEW}","refresh_token":""}}'.encode(), refresh=NEW
    ),
    "an access token of null beside the real one": Odd(b'{"access_token":null,' + PLAIN[1:]),
    "text after the end": Odd(PLAIN + b"\n<!-- 3 ms -->", warns=True),
    "a line break in a string": Odd(said(name="a?b").replace(b"?", b"\n")),
    "NaN in another member": Odd(said(load=0).replace(b'"load": 0', b'"load": NaN')),
    "half a surrogate pair in another member": Odd(said(name="\ud800"), warns=True),
    "nesting of 12": Odd(said(more=nested(12))),
    "nesting of 20": Odd(said(more=nested(20)), warns=True),
    "nesting of 200": Odd(said(more=nested(200)), warns=True),
    "1 MiB": Odd(said(more="x" * ((1 << 20) - len(said(more=""))))),
    "an error of null": Odd(said(error=None)),
    "an empty error": Odd(said(error="", error_description="")),
    "scope twice": Odd(PLAIN[:-1] + b',"scope":"a","scope":"read"}', scope="read", warns=True),
    "expires_in twice": Odd(PLAIN[:-1] + b',"expires_in":60}', lifetime=60, warns=True),
    "access_token twice, the same": Odd(PLAIN[:-1] + b',"access_token":"' + ACCESS.encode() + b'"}'),
    # what no parser can read
    "cut off after the tokens": Odd(cut(b', "sco'), refresh=NEW, warns=True),
    "cut off in a number": Odd(cut(b', "refresh_expires_in": 36'), refresh=NEW, warns=True),
    "cut off in an escape": Odd(cut(b', "id_token": "a\\'), refresh=NEW, warns=True),
    "cut off in the new refresh token": Odd(cut(b"")[:-3], warns=True),
    "a comma too many": Odd(said(refresh_token=NEW)[:-1] + b",}", refresh=NEW, warns=True),
    "a comma too few": Odd(said(refresh_token=NEW).replace(b"3600,", b"3600"), refresh=NEW, warns=True),
    "single quotes": Odd(said(refresh_token=NEW).replace(b'"', b"'"), refresh=NEW, warns=True),
    "an escape that is none": Odd(cut(b', "name": "\\x"}'), refresh=NEW, warns=True),
    "a zero byte": Odd(said(refresh_token=NEW).replace(b" ", b" \0"), refresh=NEW, warns=True),
    "nesting too deep to parse": Odd(b'{"more":' * 100_000 + cut(b""), refresh=NEW, warns=True),
    "more than 1 MiB": Odd(
        cut(b', "more": "' + b"x" * (1 << 20) + b'"}'), refresh=NEW, refused="more than 1048576 bytes"
    ),
    "an array of two": Odd(b"[" + said(refresh_token=NEW) + b',{"took":3}]', refresh=NEW, warns=True),
    "an array in an array": Odd(b"[[" + said(refresh_token=NEW) + b"]]", refresh=NEW, warns=True),
    "a member with an array of two": Odd(
        b'{"data":[{"took":3},' + said(refresh_token=NEW) + b"]}", refresh=NEW, warns=True
    ),
    "a member with JSON in a string": Odd(
        json.dumps({"statusCode": 200, "body": said(refresh_token=NEW).decode()}).encode(), refresh=NEW, warns=True
    ),
    "JSON in a string in a string": Odd(
        json.dumps({"body": json.dumps({"body": said(refresh_token=NEW).decode()})}).encode(), refresh=NEW, warns=True
    ),
    "an object before it": Odd(b'{"warning":"deprecated"}\n' + said(refresh_token=NEW), refresh=NEW, warns=True),
    "a long guard against scripts": Odd(
        b"/* " + b"*" * 80 + b" */(" + said(refresh_token=NEW) + b")", refresh=NEW, warns=True
    ),
    "a page around it": Odd(b"<html><pre>" + cut(b"}</pre>").replace(b'"', b"&quot;"), refresh=NEW, warns=True),
    "XML": Odd(
        b"<OAuth>"
        + b"".join(f"<{name}>{value}</{name}>".encode() for name, value in json.loads(said(refresh_token=NEW)).items())
        + b"</OAuth>",
        refresh=NEW,
        warns=True,
    ),
    "a form with blanks": Odd(
        f"access_token={ACCESS}&refresh_token={NEW}&token_type=DPoP&expires_in=3600&message=all is well".encode(),
        refresh=NEW,
        warns=True,
    ),
    "a form on lines": Odd(
        f"access_token={ACCESS}\nrefresh_token={NEW}\ntoken_type=DPoP\nexpires_in=3600\n".encode(),
        refresh=NEW,
        warns=True,
    ),
    "an array of two, each with tokens": Odd(
        b"[" + said(refresh_token="a") + b"," + said(refresh_token="b") + b"]",
        refresh="b",
        refused="two values for refresh_token",
    ),
    "cut off before the type": Odd(
        f'{{"access_token":"{ACCESS}","expires_in":3600,"refresh_token":"{NEW}","tok'.encode(),
        refresh=NEW,
        refused="no token_type",
    ),
    "cut off, and only a refresh token has come": Odd(
        f'{{"refresh_token":"{NEW}","access_token":"'.encode(),
        access="",
        refresh=NEW,
        lifetime=None,
        refused="no access_token",
    ),
    # what must be refused
    "no token_type": Odd(said(token_type=...), refused="no token_type"),
    "token_type is null": Odd(said(token_type=None), refused="no token_type"),
    "an unknown token_type": Odd(said(token_type="mac", refresh_token=NEW), refresh=NEW, refused="neither"),
    "token_type is an object": Odd(said(token_type={}), refused="neither"),
    "two access tokens": Odd(PLAIN[:-1] + b',"access_token":"b"}', access="b", refused="two values for access_token"),
    "two refresh tokens": Odd(
        PLAIN[:-1] + b',"refresh_token":"a","refresh_token":"b"}', refresh="b", refused="two values for refresh_token"
    ),
    "two types": Odd(PLAIN[:-1] + b',"token_type":"Bearer"}', refused="two values for token_type"),
    "tokens inside each of two members": Odd(
        b'{"refresh_token":"' + NEW.encode() + b'","a":' + PLAIN + b',"b":' + PLAIN + b"}",
        access="",
        refresh=NEW,
        lifetime=None,
        refused="no access_token",
    ),
    "a refresh token alone": Odd(
        said(access_token=..., refresh_token=NEW), access="", refresh=NEW, refused="no access_token"
    ),
    "an access token that is no string": Odd(
        said(access_token=True, refresh_token=NEW), access="", refresh=NEW, refused="no access_token"
    ),
    "an access token that is half a surrogate pair": Odd(
        said(access_token="\ud800", refresh_token=NEW), access="", refresh=NEW, refused="no access_token"
    ),
}


@pytest.fixture(params=sorted(ODD))
def odd(request: pytest.FixtureRequest) -> Odd:
    """Each response in turn."""
    return ODD[str(request.param)]


def check(odd: Odd, tokens: TokenSet, *, refresh: str | None) -> None:
    """Everything that can be understood is there."""
    assert tokens.access_token == odd.access
    assert tokens.refresh_token == (refresh if odd.refresh == OLD else odd.refresh)
    assert tokens.seconds_left(NOW) == odd.lifetime
    assert tokens.scope == odd.scope
    assert tokens.id_token == odd.id_token
    assert (tokens.jkt, tokens.client_id) == (KEY.thumbprint, "c")
    assert TokenSet.from_dict(json.loads(tokens.to_json())) == tokens if tokens.access_token else True


def run(odd: Odd, caplog: pytest.LogCaptureFixture, call: Callable[[], TokenSet], *, refresh: str | None) -> None:
    """The call returns the tokens, or raises an error that carries them."""
    with caplog.at_level(logging.WARNING, "dpop"):
        if odd.refused is None:
            check(odd, call(), refresh=refresh)
        else:
            with pytest.raises(InvalidTokenResponseError, match=odd.refused) as caught:
                call()
            check(odd, caught.value.tokens, refresh=refresh)
            assert caught.value.tokens.token_endpoint
    assert len(caplog.records) == odd.warns
    shown = caplog.text
    assert ACCESS not in shown
    assert NEW not in shown


def test_there_are_enough_of_them() -> None:
    """A table that shrinks holds nothing."""
    assert len(ODD) >= 46


def test_redeem(odd: Odd, caplog: pytest.LogCaptureFixture) -> None:
    """A code is used up as well."""
    with Recorder(script(Response(odd.status, [], odd.body))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c", clock=lambda: NOW) as endpoint:
            run(odd, caplog, lambda: endpoint.redeem_code("code"), refresh=None)
    assert len(recorder.requests) == 1


def test_refresh(odd: Odd, caplog: pytest.LogCaptureFixture) -> None:
    """The refresh token that was sent stays if no other came."""
    with Recorder(script(Response(odd.status, [], odd.body))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c", clock=lambda: NOW) as endpoint:
            run(odd, caplog, lambda: endpoint.refresh(OLD), refresh=OLD)
    assert len(recorder.requests) == 1


def test_device(odd: Odd, caplog: pytest.LogCaptureFixture) -> None:
    """So is a device code."""
    codes = {"device_code": "d", "user_code": "u", "verification_uri": "https://as.example/", "expires_in": 60}

    def response(request: Received) -> Response:
        if request.target == "/device":
            return Response(200, [], json.dumps({**codes, "interval": 0}).encode())
        return Response(odd.status, [], odd.body)

    with Recorder(response) as recorder:
        server = ServerMetadata(
            token_endpoint=recorder.url("/token"), device_authorization_endpoint=recorder.url("/device")
        )
        with TokenEndpoint(KEY, server, client_id="c", clock=lambda: NOW) as endpoint:
            device = endpoint.start_device()
            run(odd, caplog, lambda: endpoint.poll_device(device), refresh=None)
    assert len(recorder.requests) == 2


def test_source(odd: Odd, caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    """A source stores what came, in a form that can be read back."""
    store = FileTokenStore(tmp_path / "tokens.json")
    store.save(TokenSet(access_token="old", refresh_token=OLD, expires_at=1, jkt=KEY.thumbprint, client_id="c"))
    with Recorder(script(Response(odd.status, [], odd.body))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c", clock=lambda: NOW) as endpoint:
            source = endpoint.source(store)
            run(odd, caplog, source.tokens, refresh=OLD)
    stored = store.load()
    assert stored is not None
    if odd.refused is None:
        check(odd, stored, refresh=OLD)
    assert len(recorder.requests) == 1


GOOGLES = {name for name in ODD if (ODD[name].refused or "no token_type") != "no token_type"}


@pytest.mark.parametrize("name", sorted(ODD))
def test_google(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Google's credentials take them, or the cause of google-auth's error carries them."""
    odd = ODD[name]
    body = odd.body if name == "two types" else re.sub(rb"([\"'=;>])DPoP", rb"\1Bearer", odd.body)
    if name == "UTF-16":
        body = odd.body.decode("utf-16").replace("DPoP", "Bearer").encode("utf-16")
    if name == "the type in lower case":
        body = odd.body.replace(b"dpop", b"bearer")
    if name == "1 MiB":
        body = body.replace(b"xx", b"", 1)
    with Recorder(script(Response(odd.status, [], body))) as recorder:
        credentials = Credentials(
            None, refresh_token=OLD, client_id="c", client_secret="s", token_uri=recorder.url("/token"), key=KEY
        )
        before = dt.datetime.now(dt.UTC).replace(tzinfo=None)
        with caplog.at_level(logging.WARNING, "dpop"):
            if name not in GOOGLES:
                credentials.refresh(Request())
                assert credentials.token == odd.access
                assert credentials.refresh_token == odd.refresh
                assert credentials.id_token == odd.id_token
                assert (credentials.expiry is None) == (odd.lifetime is None)
                if odd.lifetime is not None and credentials.expiry is not None:
                    assert abs((credentials.expiry - before).total_seconds() - odd.lifetime) < 30
            else:
                with pytest.raises(RefreshError) as caught:
                    credentials.refresh(Request())
                cause = caught.value.__cause__
                assert isinstance(cause, InvalidTokenResponseError)
                assert cause.tokens.access_token == odd.access
                assert cause.tokens.refresh_token == odd.refresh
                assert not caught.value.retryable
    assert len([record for record in caplog.records if record.name == "dpop.tokens"]) == (
        odd.warns or name == "cut off before the type"
    )
    assert len(recorder.requests) == 1


def refused_with_tokens() -> InvalidTokenResponseError:
    """The error of a downgrade to Bearer."""
    with Recorder(script(Response(200, [], said(token_type="Bearer", refresh_token=NEW)))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c") as endpoint:
            with pytest.raises(UnboundTokenError) as caught:
                endpoint.refresh(OLD)
    return caught.value


def test_a_bearer_token_that_is_refused_is_in_the_error() -> None:
    """The server may have replaced the refresh token: the user decides what to do with the new one."""
    tokens = refused_with_tokens().tokens
    assert (tokens.access_token, tokens.refresh_token, tokens.token_type) == (ACCESS, NEW, "Bearer")


def test_an_error_with_tokens_shows_none() -> None:
    """Neither its text, repr and variables, nor a pickle, nor a traceback with locals has them; a copy does."""
    refused = refused_with_tokens()
    unsaved = TokensNotSavedError("full", tokens=refused.tokens)
    for error in (refused, unsaved):
        try:
            raise error
        except dpop.DPoPError as raised:
            trace = "".join(traceback.TracebackException.from_exception(raised, capture_locals=True).format())
        pickled = pickle.dumps(error)
        shown = f"{error}{error!r}{vars(error)}{trace}{pickled!r}"
        assert ACCESS not in shown.replace("ACCESS", "")
        assert NEW not in shown
        again = pickle.loads(pickled)
        assert (type(again), str(again), again.tokens) == (type(error), str(error), None)
        for made in (copy.copy(error), copy.deepcopy(error)):
            assert (type(made), str(made), made.tokens) == (type(error), str(error), error.tokens)


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_every_endpoint_class_reads_them(name: str) -> None:
    """On one endpoint of each class: all that are taken, one after the other."""
    taken = [odd for odd in ODD.values() if odd.refused is None]
    responses = iter(taken)

    def response(_request: Received) -> Response:
        odd = next(responses)
        return Response(odd.status, [], odd.body)

    with Recorder(response) as recorder:
        with Endpoint(name, KEY, recorder.url("/token"), client_id="c", clock=lambda: NOW) as endpoint:
            for odd in taken:
                check(odd, endpoint.refresh(OLD), refresh=OLD)


def _without_an_end(body: bytes) -> Any:
    yield body
    raise OSError  # the connection is closed


TRANSFERS: dict[str, Callable[[], Response]] = {
    "a Content-Encoding that is a charset": lambda: Response(200, [("Content-Encoding", "utf-8")], PLAIN),
    "a Content-Encoding of none": lambda: Response(200, [("Content-Encoding", "none")], PLAIN),
    "gzip that is none": lambda: Response(200, [("Content-Encoding", "gzip")], PLAIN),
    "gzip without its checksum": lambda: Response(200, [("Content-Encoding", "gzip")], gzip.compress(PLAIN)[:-4]),
    "gzip without a header": lambda: Response(200, [], gzip.compress(PLAIN)),
    "deflate without a header": lambda: Response(200, [], zlib.compress(PLAIN)),
    "deflate called gzip": lambda: Response(200, [("Content-Encoding", "gzip")], zlib.compress(PLAIN)),
    "gzip twice": lambda: Response(200, [("Content-Encoding", "gzip")], gzip.compress(gzip.compress(PLAIN))),
    "gzip with a wrong checksum": lambda: Response(
        200, [("Content-Encoding", "gzip")], gzip.compress(PLAIN)[:-8] + b"checksum"
    ),
    "no last chunk": lambda: Response(200, [], _without_an_end(PLAIN)),
    "a Content-Length that is too long": lambda: Response(200, [("Connection", "close")], PLAIN, content_length=999),
}


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_tokens_that_came_whole_are_taken_however_they_were_sent(name: str, transfer: str) -> None:
    """A wrong label or length, or a missing end: the object is whole, and nothing is asked for twice."""
    with Recorder(lambda _: TRANSFERS[transfer]()) as server:
        with Endpoint(name, KEY, server.url("/token"), client_id="c", timeout=60) as endpoint:
            assert endpoint.refresh(OLD).access_token == ACCESS
        assert len(server.requests) == 1


CUT_OFF: dict[str, Callable[[], Response]] = {
    "JSON, in chunks": lambda: Response(200, [], _without_an_end(cut(b', "sco'))),
    "JSON, with a length": lambda: Response(200, [("Connection", "close")], cut(b', "sco'), content_length=999),
    "JSON, compressed": lambda: Response(
        200, [("Content-Encoding", "gzip"), ("Connection", "close")], gzip.compress(cut(b"")), content_length=999
    ),
    "a form": lambda: Response(
        200, [], _without_an_end(f"token_type=DPoP&refresh_token={NEW}&access_token={ACCESS}&expi".encode())
    ),
}


@pytest.mark.parametrize("transfer", CUT_OFF)
@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_a_new_refresh_token_is_taken_although_the_transfer_broke_off_after_it(name: str, transfer: str) -> None:
    """The server has replaced the old refresh token: to send that one again would look like a theft."""
    with Recorder(lambda _: CUT_OFF[transfer]()) as server:
        with Endpoint(name, KEY, server.url("/token"), client_id="c", timeout=60) as endpoint:
            tokens = endpoint.refresh(OLD)
        assert (tokens.access_token, tokens.refresh_token) == (ACCESS, NEW)
        assert len(server.requests) == 1


@pytest.mark.parametrize("cut_off", [PLAIN[:-1], cut(b"")[:-1], f"access_token={ACCESS}&refresh_token={NEW}".encode()])
def test_a_refresh_whose_new_token_has_not_come_whole_has_no_response(cut_off: bytes) -> None:
    """Half a refresh token is none, and the lost part may have had one: the outcome is unknown."""
    with Recorder(lambda _: Response(200, [], _without_an_end(cut_off))) as server:
        with TokenEndpoint(KEY, server.url("/token"), client_id="c") as endpoint:
            with pytest.raises(OutcomeUnknownError):
                endpoint.refresh(OLD)


@pytest.mark.parametrize(
    "page",
    [
        b"<html><script>var access_token = read('access_token'), refresh_token = null</script>",
        b"<html><form action='?refresh_token=1'><input name='access_token' value='x'><input name=refresh_token></form>",
        b'<html><script>fetch("/t", {access_token: x, refresh_token: y})</script>',
        b'<html><script>fetch("/t", {"access_token": x, "refresh_token": ""})</script>',
        b"<p>Add access_token=&lt;yours&gt; or refresh_token: yours",
    ],
)
def test_a_page_of_a_login_wall_has_no_tokens(page: bytes) -> None:
    """Its scripts and forms speak of tokens; that does not make the stored refresh token a spent one."""
    with Recorder(script(Response(200, [], page), Response(200, [], said()))) as server:
        store, endpoint = stored_for(server.url("/token"))
        with endpoint:
            with pytest.raises(InvalidTokenResponseError, match="HTML") as refused:
                endpoint.source(store)()
            assert refused.value.tokens is None
            assert endpoint.source(store)() == ACCESS


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (PLAIN[:-1] + b',"expires_in":60}', "'expires_in' with two values"),
        (said(**{"a" * 50: "\ud800"}), f"a member '{'a' * 40}' that cannot be stored"),
    ],
    ids=["given twice", "not storable"],
)
def test_the_warning_names_the_odd_member(body: bytes, told: str, caplog: pytest.LogCaptureFixture) -> None:
    """A long name is cut: it may be anything."""
    with Recorder(script(Response(200, [], body))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c", clock=lambda: NOW) as endpoint:
            endpoint.refresh(OLD)
    assert told in caplog.text


def test_a_token_of_any_characters_is_sent_as_it_came() -> None:
    """A session id as access token goes into the header, and its hash into the proof."""
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="00D!a|b:c*d", refresh_token=OLD, expires_at=None))
    with Recorder(script(Response(200))) as recorder, requests.Session() as session:
        endpoint = TokenEndpoint(KEY, recorder.url("/token"), client_id="c")
        adapter = DPoPAdapter(KEY, origins=recorder.origin, access_token=endpoint.source(store))
        session.mount(recorder.origin, adapter)
        session.get(recorder.url("/api"))
        sent = recorder.requests[0]
        digest = base64.urlsafe_b64encode(hashlib.sha256(b"00D!a|b:c*d").digest()).decode().rstrip("=")
        assert sent.one("Authorization") == "DPoP 00D!a|b:c*d"
        assert sent.claims["ath"] == digest
        store.save(TokenSet(access_token="a\r\nX: y"))
        adapter = DPoPAdapter(KEY, origins=recorder.origin, access_token=endpoint.source(store))
        session.mount(recorder.origin, adapter)
        with pytest.raises(CredentialError, match="control character"):
            session.get(recorder.url("/api"))
    assert len(recorder.requests) == 1


def test_a_lifetime_of_nothing_is_refreshed_once_a_second() -> None:
    """The token is handed out; within its first second no second request is sent."""
    now = [NOW]
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token=OLD, expires_at=1))
    with Recorder(script(Response(200, [], said(expires_in=-5)))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c", clock=lambda: now[0]) as endpoint:
            source = endpoint.source(store)
            assert source() == ACCESS
            for _ in range(20):
                now[0] += 0.04
                source()
            assert len(recorder.requests) == 1
            now[0] += 1.0
            assert source() == ACCESS
            assert len(recorder.requests) == 2


def stored_for(url: str) -> tuple[MemoryTokenStore, TokenEndpoint]:
    """A store with an expired token, and an endpoint."""
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token=OLD, expires_at=1))
    return store, TokenEndpoint(KEY, url, client_id="c")


def test_the_next_error_does_not_say_that_no_response_came() -> None:
    """After a response that was refused, a dead refresh token is explained by what happened."""
    responses = script(Response(200, [], said(token_type="Bearer")), Response(400, [], b'{"error":"invalid_grant"}'))
    with Recorder(responses) as recorder:
        store, endpoint = stored_for(recorder.url("/token"))
        with endpoint:
            with pytest.raises(UnboundTokenError):
                endpoint.source(store)()
            with pytest.raises(ReauthorizationError, match="its response never arrived or could not be used"):
                endpoint.source(store)()


@pytest.mark.parametrize("again", ["the same source", "another source"])
def test_a_replaced_refresh_token_is_not_sent_again(again: str) -> None:
    """If tokens that must be refused come with a new refresh token, the old one is spent: a server would see a theft.

    Once the user has saved the tokens of the error, the source goes on with them.
    """
    responses = script(Response(200, [], said(token_type="mac", refresh_token=NEW)), Response(200, [], said()))
    with Recorder(responses) as recorder:
        store, endpoint = stored_for(recorder.url("/token"))
        with endpoint:
            source = endpoint.source(store)
            with pytest.raises(InvalidTokenResponseError, match="neither DPoP nor Bearer") as refused:
                source()
            other = source if again == "the same source" else endpoint.source(store)
            with pytest.raises(ReauthorizationError, match="has replaced the refresh token") as dead:
                other()
            assert dead.value.tokens is (refused.value.tokens if other is source else None)
            assert len(recorder.requests) == 1
            store.save(refused.value.tokens.replace(issued_at=0, expires_at=1))
            assert other() == ACCESS
        assert [
            b"refresh_token=" + token.encode() in recorder.requests[number].body
            for number, token in enumerate([OLD, NEW])
        ] == [True, True]


def test_tokens_refused_ahead_of_time_are_in_the_error_that_says_so() -> None:
    """A renewal ahead of time raises nothing, for the token is still good: the first error afterwards carries them."""
    store = MemoryTokenStore()
    store.save(TokenSet(access_token="old", refresh_token=OLD, expires_at=NOW + 100, issued_at=NOW - 3500))
    with Recorder(script(Response(200, [], said(token_type="Bearer", refresh_token=NEW)))) as recorder:
        with TokenEndpoint(KEY, recorder.url("/token"), client_id="c", clock=lambda: NOW) as endpoint:
            source = endpoint.source(store)
            assert source() == "old"
            while not recorder.requests:  # from then on the renewal ahead of time holds the lock
                time.sleep(0.001)
            with pytest.raises(ReauthorizationError, match="has replaced the refresh token") as dead:
                source.ensure(lambda tokens: tokens.access_token != "old")
    assert dead.value.tokens.refresh_token == NEW
    assert NEW not in f"{dead.value!r}{pickle.dumps(dead.value)!r}"
    assert len(recorder.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, TokenEndpointUnavailableError),
        (425, TokenEndpointUnavailableError),
        (429, TokenEndpointUnavailableError),
        (500, TokenEndpointUnavailableError),
        (503, TokenEndpointUnavailableError),
        (428, InvalidTokenResponseError),
        (430, InvalidTokenResponseError),
        (499, InvalidTokenResponseError),
    ],
)
def test_a_page_in_place_of_an_error_means_wait_only_where_the_status_says_so(
    status: int, kind: type[Exception]
) -> None:
    """A proxy that is overloaded answers 429 or 5xx with a page of its own; any other page is no token response."""
    with pytest.raises(kind):
        raise_refusal(HTTPResponse(status, (), b"<html>busy</html>"), "the token endpoint", ())


@pytest.mark.parametrize(("secret", "shown"), [("abcd", False), ("abc", True)])
def test_a_short_secret_that_a_server_repeats_is_hidden(secret: str, shown: bool) -> None:
    """From four characters on; less would be found in every other word."""
    body = json.dumps({"error": "invalid_request", "error_description": f"you sent {secret}"}).encode()
    with pytest.raises(TokenRequestError) as caught:
        raise_refusal(HTTPResponse(400, (), body), "the token endpoint", [secret])
    assert (secret in str(caught.value)) is shown
