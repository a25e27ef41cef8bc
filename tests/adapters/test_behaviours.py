# SPDX-License-Identifier: Apache-2.0
"""What every adapter must do, on every client, judged by what a server recorded."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.clients import CLIENTS, WITH_AGENT, Client, make
from support.recorder import Handler, Received, Recorder, Response, challenge, script

import dpop
from dpop.client._prover import Prover
from dpop.errors import InsecureOriginError, InvalidTargetError, UsageError
from dpop.profiles import RFC9449

TOKEN = "access-token-1"
BODY = b"0123456789" * 1000


# One of them a second time with its key in the signing agent; in test_keys_elsewhere.py each of them has its turn.
@pytest.fixture(params=[*sorted(CLIENTS), f"aiohttp{WITH_AGENT}"])
def name(request: pytest.FixtureRequest) -> str:
    """Each client in turn."""
    return str(request.param)


@pytest.fixture
def client(name: str) -> Iterator[Callable[..., Any]]:
    """Makes clients, and closes them."""
    made: list[Client] = []

    def build(prover: Any = None, **options: Any) -> Any:
        made.append(make(name, prover, **options))
        return made[-1]

    yield build
    for one in made:
        one.close()


def demanding(first: str = "n1") -> Handler:
    """A resource server that takes only this nonce."""

    def handler(request: Received) -> Response:
        return Response(200, body=b"done") if request.nonce == first else challenge(first)

    return handler


def assert_fresh(requests: list[Received]) -> None:
    """One proof on each, no identifier twice, each for its own method and target."""
    identifiers = [request.claims["jti"] for request in requests]
    assert len(set(identifiers)) == len(identifiers)
    for request in requests:
        scheme = "http"
        assert request.claims["htm"] == request.method
        path = request.target.partition("?")[0]
        host = "" if "://" in path else f"{scheme}://{request.one('Host')}"
        assert request.claims["htu"] == host + path


# -- servers and roles keep their own nonces ---------------------------------------------------


def test_three_servers_three_nonces(client: Callable[..., Any]) -> None:
    """Two APIs and an AS: each nonce goes back to where it came from, and to no other."""

    def api(nonce: str) -> Handler:
        return lambda request: Response(200, [("DPoP-Nonce", nonce)])

    with Recorder(api("one")) as first, Recorder(api("two")) as second, Recorder(api("as")) as third:
        prover = Prover(dpop.generate_key())
        resources = client(prover, origins=[first.origin, second.origin], access_token=TOKEN)
        tokens = client(prover, origins=third.origin)
        for _ in range(2):
            for server in (first, second):
                resources.send("GET", server.url("/r"))
            tokens.send("POST", third.url("/token"), body=tokens.form_body({"a": "b"}))
        for server, nonce in ((first, "one"), (second, "two"), (third, "as")):
            assert [request.nonce for request in server.requests] == [None, nonce]


def test_one_origin_two_roles(client: Callable[..., Any]) -> None:
    """An AS and an API on one origin do not share nonces."""

    def handler(request: Received) -> Response:
        return Response(200, [("DPoP-Nonce", "as" if request.target == "/token" else "rs")])

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN, as_endpoints=[server.url("/token")])
        for _ in range(2):
            one.send("GET", server.url("/r"))
            one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        by_path = {path: [r.nonce for r in server.requests if r.target == path] for path in ("/r", "/token")}
        assert by_path == {"/r": [None, "rs"], "/token": [None, "as"]}


# -- redirects ---------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_hostile_redirect_gets_nothing(client: Callable[..., Any], status: int) -> None:
    """Another origin gets no token and no proof, its nonce is not kept, and the user sees its 401."""
    with Recorder(lambda request: challenge("evil")) as evil:
        home = Recorder(lambda request: Response(status, [("Location", evil.url("/steal"))]))
        with home:
            one = client(origins=home.origin, access_token=TOKEN)
            reply = one.send("GET", home.url("/r"))
            again = one.send("GET", home.url("/r"))
        assert (reply.status, again.status) == (401, 401)
        assert len(evil.requests) == 2
        for request in evil.requests:
            assert request.all("DPoP") == []
            assert request.all("Authorization") == []
        assert [request.nonce for request in home.requests] == [None, None]


def test_a_host_that_looks_alike_gets_nothing(client: Callable[..., Any]) -> None:
    """The same port under another host name is another origin."""
    with Recorder(lambda request: Response(200)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        one.send("GET", server.other_origin + "/r")
        assert server.requests[0].all("DPoP") == []
        assert server.requests[0].all("Authorization") == []


def test_what_goes_unsigned_is_told_once(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """localhost is not 127.0.0.1: one line at INFO says which origin got no proof, and which are listed."""
    caplog.set_level("INFO", "dpop.client")
    with Recorder(lambda request: Response(401)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        for _ in range(3):
            assert one.send("GET", server.other_origin + "/r?secret=1").status == 401
    (record,) = [record for record in caplog.records if record.name == "dpop.client"]
    assert record.levelname == "INFO"
    assert record.getMessage() == (
        f"requests to {server.other_origin} are sent unsigned: it is not among origins= ({server.origin})"
    )


def test_origins_may_be_added_later(client: Callable[..., Any]) -> None:
    """What discovery finds out joins by add_origins(), and only so; http elsewhere is refused as at the start."""
    with Recorder(script(Response(200))) as first, Recorder(script(Response(200))) as second:
        one = client(origins=first.origin, later_origins=[second.origin], access_token=TOKEN)
        one.send("GET", second.url("/before"))
        one.transport.add_origins(second.origin)
        one.send("GET", second.url("/after"))
        one.send("GET", first.url("/still"))
        with pytest.raises(InsecureOriginError):
            one.transport.add_origins("http://api.example")
        one.transport.add_origins(["http://api.example"], insecure_origins=["http://api.example"])
        before, after = second.requests
        assert before.all("DPoP") + before.all("Authorization") == []
        assert_fresh([after, *first.requests])


def test_a_callers_bound_token_does_not_reach_a_foreign_origin(client: Callable[..., Any]) -> None:
    """Authorization: DPoP and a stray DPoP header are withheld from origins that are not ours."""
    with Recorder(lambda request: Response(200)) as server:
        one = client(origins="https://api.example", access_token=TOKEN)
        one.send("GET", server.url("/r"), headers={"Authorization": "DPoP mine", "DPoP": "stray", "X-Kept": "yes"})
        (request,) = server.requests
        assert request.all("DPoP") + request.all("Authorization") == []
        assert request.one("X-Kept") == "yes"


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [(307, "POST", "POST"), (308, "PUT", "PUT"), (302, "POST", "GET"), (303, "POST", "GET")],
)
def test_each_hop_has_its_own_proof(client: Callable[..., Any], status: int, method: str, then: str) -> None:
    """Redirects within the origin: new identifier, the hop's own method and target."""

    def handler(request: Received) -> Response:
        return Response(200) if request.target.startswith("/there") else Response(status, [("Location", "/there?q=1")])

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        reply = one.send(method, server.url("/here"), body=one.bytes_body(BODY))
        assert reply.status == 200
        assert [request.method for request in server.requests] == [method, then]
        assert_fresh(server.requests)
        assert [request.one("Authorization") for request in server.requests] == [f"DPoP {TOKEN}"] * 2
        assert server.requests[1].body == (BODY if then == method else b"")


def test_a_redirect_and_a_challenge_together(client: Callable[..., Any]) -> None:
    """Each hop may be challenged once."""
    nonces = {"/here": "h", "/there": "t"}

    def handler(request: Received) -> Response:
        if request.nonce != nonces[request.target]:
            return challenge(nonces[request.target])
        return Response(200) if request.target == "/there" else Response(307, [("Location", "/there")])

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert one.send("POST", server.url("/here"), body=one.bytes_body(BODY)).status == 200
        assert [r.target for r in server.requests] == ["/here", "/here", "/there", "/there"]
        assert_fresh(server.requests)


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


# -- nonces under load -------------------------------------------------------------------------


def test_a_nonce_that_rotates_on_each_answer_costs_one_request(client: Callable[..., Any]) -> None:
    """N sequential calls on a server with a new nonce per answer cost N + 1 requests."""
    counter = itertools.count(1)
    valid = {"n0"}

    def handler(request: Received) -> Response:
        fresh = f"n{next(counter)}"
        good = request.nonce in valid
        valid.clear()
        valid.add(fresh)
        return Response(200, [("DPoP-Nonce", fresh)]) if good else challenge(fresh)

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert [one.send("GET", server.url("/r")).status for _ in range(10)] == [200] * 10
        assert len(server.requests) == 11
        assert_fresh(server.requests)


# -- refused tokens ----------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [[], [("DPoP-Nonce", "n1")]])
def test_an_invalid_token_is_handed_on(client: Callable[..., Any], nonce: list[tuple[str, str]]) -> None:
    """401 invalid_token: one request, the answer untouched, its nonce kept."""
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"'), *nonce], b"why not")
    with Recorder(script(refusal)) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        reply = one.send("GET", server.url("/r"))
        assert (reply.status, reply.body, len(server.requests)) == (401, b"why not", 1)
        one.send("GET", server.url("/r"))
        assert server.requests[1].nonce == ("n1" if nonce else None)


def test_an_invalid_grant_is_handed_on(client: Callable[..., Any]) -> None:
    """400 invalid_grant with a nonce: one request, the body untouched, the nonce kept."""
    refusal = Response(400, [("DPoP-Nonce", "n1")], b'{"error":"invalid_grant"}')
    with Recorder(script(refusal)) as server:
        one = client(origins=server.origin)
        reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert (reply.status, json.loads(reply.body), len(server.requests)) == (400, {"error": "invalid_grant"}, 1)
        one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert server.requests[1].nonce == "n1"


class Source:
    """A token source that makes a new token when one is refused."""

    def __init__(self) -> None:
        self.token = 1
        self.told: list[str] = []

    def __call__(self) -> str:
        return f"token-{self.token}"

    def refused(self, token: str, /) -> None:
        self.told.append(token)
        self.token += 1


def test_a_source_refreshes_once(client: Callable[..., Any]) -> None:
    """invalid_token with a token source: told once, sent once more, then handed on."""
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')])
    with Recorder(script(refusal)) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        assert one.send("POST", server.url("/r"), body=one.bytes_body(BODY)).status == 401
        assert source.told == ["token-1"]
        first, second = server.requests
        assert [r.one("Authorization") for r in (first, second)] == ["DPoP token-1", "DPoP token-2"]
        assert second.claims["ath"] == dpop.access_token_hash("token-2")
        assert second.body == BODY


# -- a dead token in each form -----------------------------------------------------------------

DEAD = {
    "DPoP invalid_token": ['DPoP error="invalid_token"'],
    "Bearer invalid_token": ['Bearer realm="x", error="invalid_token"'],
    "both": ['DPoP algs="ES256", Bearer error="invalid_token"'],
    "both, two fields": ['DPoP algs="ES256"', 'Bearer error="invalid_token"'],
    "DPoP without an error": ['DPoP algs="ES256"'],
    "Bearer without an error": ["Bearer"],
    "no challenge": [],
}
NOT_DEAD = {
    "Basic": ['Basic realm="login"'],
    "Basic beside DPoP": ['DPoP algs="ES256", Basic realm="login"'],
    "another scheme": ["Negotiate"],
    "another error": ['DPoP error="invalid_request"'],
    "another error of DPoP beside Bearer": ['DPoP error="insufficient_scope", Bearer error="invalid_token"'],
    "outside the grammar": ['DPoP error="invalid_token'],
}


def refusing(fields: list[str], good: str = "token-2") -> Handler:
    """A resource server that takes only this token."""

    def handler(request: Received) -> Response:
        if request.one("Authorization") == f"DPoP {good}":
            return Response(200)
        return Response(401, [("WWW-Authenticate", field) for field in fields])

    return handler


@pytest.mark.parametrize("form", DEAD)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
def test_a_dead_token_is_renewed(
    client: Callable[..., Any], form: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """However the server says so: the source is told once, the request sent again, and a warning says what happened."""
    with Recorder(refusing(DEAD[form])) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        body = one.bytes_body(BODY) if method == "PUT" else None
        assert one.send(method, server.url("/r"), body=body).status == 200
        assert source.told == ["token-1"]
        assert [r.one("Authorization") for r in server.requests] == ["DPoP token-1", "DPoP token-2"]
        assert [r.body for r in server.requests] == [BODY if method == "PUT" else b""] * 2
        assert_fresh(server.requests)
    assert "refused the access token" in caplog.text
    assert "token-1" not in caplog.text


@pytest.mark.parametrize("form", [form for form in DEAD if form != "DPoP invalid_token"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_a_dead_token_is_renewed_for_the_next_request(client: Callable[..., Any], form: str, method: str) -> None:
    """A POST is not sent again where the server does not say that it refused the token in this scheme."""
    with Recorder(refusing(DEAD[form])) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        assert one.send(method, server.url("/r"), body=one.bytes_body(BODY)).status == 401
        assert (source.told, len(server.requests)) == (["token-1"], 1)
        assert one.send(method, server.url("/r"), body=one.bytes_body(BODY)).status == 200


@pytest.mark.parametrize("form", NOT_DEAD)
def test_a_401_that_is_not_about_the_token(client: Callable[..., Any], form: str) -> None:
    """A login wall, a firewall, another error: one request, and the source is not told."""
    with Recorder(refusing(NOT_DEAD[form])) as server:
        source = Source()
        assert client(origins=server.origin, access_token=source).send("GET", server.url("/r")).status == 401
        assert (source.told, len(server.requests)) == ([], 1)


def test_renewing_can_be_turned_off(client: Callable[..., Any]) -> None:
    """renew_refused=False: one request, whatever the server says."""
    with Recorder(refusing(DEAD["DPoP invalid_token"])) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source, renew_refused=False)
        assert one.send("GET", server.url("/r")).status == 401
        assert (source.told, len(server.requests)) == ([], 1)


class Stubborn(Source):
    """A token source that has no other token."""

    def refused(self, token: str, /) -> None:
        self.told.append(token)


def test_a_source_is_told_of_a_token_once(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """It goes on giving the token: one request for each call after the first, and one line."""
    with Recorder(refusing(DEAD["no challenge"])) as server:
        source = Stubborn()
        one = client(origins=server.origin, access_token=source)
        assert [one.send("GET", server.url("/r")).status for _ in range(5)] == [401] * 5
        assert source.told == ["token-1"]
        assert len(server.requests) == 6
    assert caplog.text.count("goes on refusing") == 1


def test_a_storm_of_refusals_is_damped(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """An API that refuses every fresh token: after five a minute, one request for each call, and one line."""
    with Recorder(refusing(DEAD["Bearer invalid_token"], good="none")) as server:
        source = Source()
        one = client(origins=server.origin, access_token=source)
        assert [one.send("GET", server.url("/r")).status for _ in range(12)] == [401] * 12
        assert source.told == [f"token-{number}" for number in range(1, 6)]
        assert len(server.requests) == 12 + 5
    assert caplog.text.count("goes on refusing") == 1


def test_one_origin_does_not_spend_the_budget_of_another(client: Callable[..., Any]) -> None:
    """After a bad origin has used up its five, a token that another origin refuses is renewed all the same."""
    with (
        Recorder(refusing(DEAD["no challenge"], good="none")) as bad,
        Recorder(refusing(DEAD["both"], good="token-7")) as other,
    ):
        source = Source()
        one = client(origins=[bad.origin, other.origin], access_token=source)
        for _ in range(8):
            one.send("GET", bad.url("/r"))
        assert source.token == 6
        assert one.send("GET", other.url("/r")).status == 200


# -- challenges --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ['Bearer realm="x"', 'DPoP error="use_dpop_nonce"'],
        ['Basic realm="a, b", dpop ERROR=use_dpop_nonce, algs="ES256"'],
        ['Negotiate YIIBhg==, DPoP algs="ES256",error="use_dpop_nonce"'],
    ],
)
def test_challenges_in_all_their_forms(client: Callable[..., Any], fields: list[str]) -> None:
    """Several in one field, several fields, any case, unquoted: one retry."""
    refusal = Response(401, [*(("WWW-Authenticate", value) for value in fields), ("DPoP-Nonce", "n1")])
    with Recorder(script(refusal, Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert [request.nonce for request in server.requests] == [None, "n1"]


@pytest.mark.parametrize(
    "field",
    [
        'Basic realm="DPoP error=use_dpop_nonce"',
        'Bearer error="use_dpop_nonce"',
        'Bearer error_description="DPoP error=\\"use_dpop_nonce\\""',
        'DPoPX error="use_dpop_nonce"',
        'DPoP error="use_dpop_nonce',
    ],
)
def test_look_alikes_cause_no_retry(client: Callable[..., Any], field: str) -> None:
    """What only looks like a challenge is handed on."""
    refusal = Response(401, [("WWW-Authenticate", field), ("DPoP-Nonce", "n1")])
    with Recorder(script(refusal)) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 1


def test_a_resource_challenge_with_a_json_body(client: Callable[..., Any]) -> None:
    """401 with the challenge in the header and JSON in the body: recognised."""
    with Recorder(script(challenge("n1", b'{"error":"use_dpop_nonce"}'), Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200


def test_a_json_challenge_of_an_api_is_handed_on(client: Callable[..., Any]) -> None:
    """use_dpop_nonce in the body of an API, which says nothing in WWW-Authenticate: not what RFC 9449 §9 asks for."""
    with Recorder(script(Response(400, [("DPoP-Nonce", "n1")], b'{"error":"use_dpop_nonce"}'))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        reply = one.send("POST", server.url("/r"), body=one.form_body({"a": "b"}))
        assert (reply.status, len(server.requests)) == (400, 1)


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("error", ["use_dpop_nonce", "Invalid_DPoP_Nonce", "invalid_dpop_proof"])
@pytest.mark.parametrize("where", ["API", "token endpoint, challenge", "token endpoint, body"])
def test_a_nonce_refusal_in_every_spelling(client: Callable[..., Any], status: int, error: str, where: str) -> None:
    """400, 401 or 403, three codes in any case, in a challenge or a body: sent again with the new nonce."""
    body = json.dumps({"error": error}).encode() if where == "token endpoint, body" else b""
    fields = [] if body else [("WWW-Authenticate", f'DPoP error="{error}"')]
    refusal = Response(status, [*fields, ("DPoP-Nonce", "n1")], body)
    with Recorder(script(refusal, Response(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN if where == "API" else None)
        assert one.send("POST", server.url("/r"), body=one.form_body({"a": "b"})).status == 200
        first, second = server.requests
        assert (first.nonce, second.nonce) == (None, "n1")
        assert first.body == second.body
        assert_fresh(server.requests)


@pytest.mark.parametrize("error", ["use_dpop_nonce", "invalid_dpop_nonce", "invalid_dpop_proof"])
def test_a_nonce_refusal_without_a_new_nonce_is_handed_on(client: Callable[..., Any], error: str) -> None:
    """One request, and the caller gets the response untouched."""
    refusal = Response(401, [("WWW-Authenticate", f'DPoP error="{error}"')], b"why not")
    with Recorder(script(refusal)) as server:
        reply = client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r"))
        assert (reply.status, reply.body, len(server.requests)) == (401, b"why not", 1)


def test_an_endless_challenger_gets_three_requests(client: Callable[..., Any]) -> None:
    """A server that always wants another nonce: three requests, then its response."""
    counter = itertools.count()
    with Recorder(lambda request: challenge(f"n{next(counter)}")) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 3
        assert_fresh(server.requests)


def test_an_endless_challenger_gets_two_requests_where_the_profile_says_so(client: Callable[..., Any]) -> None:
    """A profile that allows one nonce retry."""
    counter = itertools.count()
    with Recorder(lambda request: challenge(f"n{next(counter)}")) as server:
        one = client(origins=server.origin, access_token=TOKEN, profile=RFC9449._replace(nonce_retries=1))
        assert one.send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 2


def test_challenges_and_a_dead_token_cost_four_requests(client: Callable[..., Any]) -> None:
    """Two nonce retries and one request with a new token, in whatever order they come."""
    counter = itertools.count()

    def handler(request: Received) -> Response:
        if len(server.requests) == 2:
            return Response(401, [("WWW-Authenticate", 'DPoP error="invalid_token"')])
        return challenge(f"n{next(counter)}")

    with Recorder(handler) as server:
        one = client(origins=server.origin, access_token=Source())
        assert one.send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 4


def test_a_challenge_outside_the_grammar_is_told(client: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """One request, and a warning that says where the challenge breaks RFC 9110."""
    refusal = Response(401, [("WWW-Authenticate", 'DPoP error="use_dpop_nonce'), ("DPoP-Nonce", "n1")])
    with Recorder(script(refusal)) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 401
        assert len(server.requests) == 1
    assert "breaks RFC 9110" in caplog.text


def test_a_challenger_that_repeats_itself_gets_two_requests(client: Callable[..., Any]) -> None:
    """A server that refuses the very nonce it gave: two requests, and one for each call after."""
    with Recorder(script(challenge("same"))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        assert [one.send("GET", server.url("/r")).status for _ in range(2)] == [401, 401]
        assert len(server.requests) == 3


# -- answers that do not end -------------------------------------------------------------------


def forever() -> Iterator[bytes]:
    """A body without an end."""
    while True:
        yield b"x" * 65536


def test_a_challenge_whose_body_never_ends(client: Callable[..., Any]) -> None:
    """The first answer is dropped after 64 KiB, and the retry goes out on another connection."""
    sent = itertools.count()

    def handler(request: Received) -> Response:
        response = challenge("n1")
        response.body = (chunk for chunk in forever() if next(sent) >= 0)
        return Response(200) if request.nonce == "n1" else response

    with Recorder(handler) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert len({request.connection for request in server.requests}) == 2
    assert next(sent) < 1000  # what fits into the buffers of two sockets, not what can be read in a second


def test_a_challenge_whose_body_stalls(client: Callable[..., Any]) -> None:
    """The first answer is dropped after a second of silence, whatever the caller's timeout."""
    retried = threading.Event()
    in_time: list[bool] = []

    def silence() -> Iterator[bytes]:
        yield b"x"
        in_time.append(retried.wait(60))

    def handler(request: Received) -> Response:
        if request.nonce == "n1":
            retried.set()
            return Response(200)
        return Response(401, challenge("n1").headers, silence())

    with Recorder(handler) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert len(server.requests) == 2
    assert in_time == [True]


def test_a_short_challenge_keeps_its_connection(client: Callable[..., Any]) -> None:
    """A small body is read, so that the retry uses the same connection."""
    with Recorder(script(challenge("n1", b"x" * 2000), Response(200))) as server:
        assert client(origins=server.origin, access_token=TOKEN).send("GET", server.url("/r")).status == 200
        assert [request.connection for request in server.requests] == [1, 1]


def test_a_huge_400_stays_readable(client: Callable[..., Any]) -> None:
    """A 400 with a new nonce is looked into and stays whole."""
    body = b'{"error":"use_dpop_nonce","padding":"' + b"x" * 300_000 + b'"}'
    with Recorder(script(Response(400, [("DPoP-Nonce", "n1")], body))) as server:
        one = client(origins=server.origin)
        reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert (reply.status, reply.body == body, len(server.requests)) == (400, True, 1)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_compressed_400_is_understood_and_stays_whole(client: Callable[..., Any], chunked: bool) -> None:
    """A gzipped challenge is recognised; a gzipped refusal reaches the caller decoded."""
    import gzip

    def packed(text: bytes) -> Any:
        data = gzip.compress(text)
        return iter([data[:7], data[7:]]) if chunked else data

    headers = [("DPoP-Nonce", "n1"), ("Content-Encoding", "gzip")]
    wants = Response(400, headers, packed(b'{"error":"use_dpop_nonce"}'))
    refuses = Response(400, [("DPoP-Nonce", "n2"), ("Content-Encoding", "gzip")], packed(b'{"error":"invalid_grant"}'))
    with Recorder(script(wants, refuses)) as server:
        one = client(origins=server.origin)
        reply = one.send("POST", server.url("/token"), body=one.form_body({"a": "b"}))
        assert json.loads(reply.body) == {"error": "invalid_grant"}
        assert [request.nonce for request in server.requests] == [None, "n1"]


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


# -- bad nonces --------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [["a", "b"], [""], ["a b"], ['quo"te'], ["caf\xe9"]])
def test_bad_nonces_are_ignored(
    client: Callable[..., Any], fields: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two, empty, or outside NQCHAR: not kept, no retry, a warning."""
    headers = [("WWW-Authenticate", 'DPoP error="use_dpop_nonce"'), *(("DPoP-Nonce", value) for value in fields)]
    with Recorder(script(Response(401, headers))) as server:
        one = client(origins=server.origin, access_token=TOKEN)
        for _ in range(2):
            assert one.send("GET", server.url("/r")).status == 401
        assert [request.nonce for request in server.requests] == [None, None]
        assert "is ignored" in caplog.text


# -- transport failures ------------------------------------------------------------------------


def test_a_dropped_connection_raises_and_the_next_call_works(client: Callable[..., Any], name: str) -> None:
    """No answer: the library's own error, and the adapter goes on working."""
    with Recorder(script(Response(drop=True), Response(200))) as server:
        one = client(origins=server.origin, access_token=TOKEN, nonces="required")
        with pytest.raises(Exception, match=r"(?i)disconnect|abort|closed|reset|remote"):
            one.send("POST", server.url("/r"), body=one.bytes_body(BODY))
        assert one.send("GET", server.url("/r")).status == 200
        assert_fresh(server.requests)
