# SPDX-License-Identifier: Apache-2.0
"""Every lever of the test server, by what it does to requests; from Python and over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from email.utils import parsedate_to_datetime
from typing import Any, get_type_hints
from urllib.parse import urlsplit

import pytest
from support.testing_client import KEY, Response, ask, call, post, reasons, send

from dpop.client._challenge import dpop_challenge
from dpop.errors import UsageError
from dpop.testing import DISCIPLINES, DPoPTestServer, Levers
from dpop.testing._settings import ACTIONS, LeverSettings, Settings

GRANT = {"grant_type": "client_credentials"}


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server whose nonces are good until they lapse."""
    with DPoPTestServer(nonces="rotating") as running:
        yield running


@pytest.fixture
def token(server: DPoPTestServer) -> str:
    """A token bound to our key."""
    return server.issue_access_token(jkt=KEY.thumbprint)


def challenged(answer: Response) -> bool:
    """Whether the resource server asks for a nonce."""
    challenge = dpop_challenge(answer.fields("WWW-Authenticate")) or {}
    return answer.status == 401 and challenge.get("error") == "use_dpop_nonce"


def steer(server: DPoPTestServer, changes: Any, **headers: str) -> Response:
    """POST /levers."""
    host = ("Host", urlsplit(server.issuer).netloc)
    return _raw(server, "POST", "/levers", [host, *headers.items()], json.dumps(changes).encode())


def _raw(server: DPoPTestServer, method: str, path: str, headers: list[tuple[str, str]], body: bytes = b"") -> Response:
    """A request with its own Host."""
    parts = urlsplit(server.issuer)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.putrequest(method, path, skip_host=True)
        for name, value in [*headers, ("Content-Length", str(len(body)))]:
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return Response(response.status, response.getheaders(), response.read())
    finally:
        connection.close()


# --- disciplines


def test_none_asks_for_no_nonce(server: DPoPTestServer, token: str) -> None:
    """Discipline none: a proof without nonce is fine, one with any is fine, and none is handed out."""
    server.levers.nonces = "none"
    for nonce in (None, "anything"):
        answer = call(server, token, nonce=nonce)
        assert (answer.status, answer.nonce) == (200, None)
        assert ask(server, GRANT, nonce=nonce).nonce is None


def test_rotating_takes_one_nonce_many_times(server: DPoPTestServer, token: str) -> None:
    """Discipline rotating: one challenge, then the nonce is good for every request and stays the newest."""
    refused = call(server, token)
    assert challenged(refused)
    for _ in range(3):
        answer = call(server, token, nonce=refused.nonce)
        assert (answer.status, answer.nonce) == (200, None)


def test_per_answer_hands_out_a_new_one_with_each_success(server: DPoPTestServer, token: str) -> None:
    """Discipline per-answer: N requests in a row cost N+1, each with the nonce of the one before."""
    server.levers.rs_nonces = "per-answer"
    nonce = call(server, token).nonce
    seen = {nonce}
    for _ in range(5):
        answer = call(server, token, nonce=nonce)
        assert answer.status == 200
        nonce = answer.nonce
        seen.add(nonce)
    assert len(seen) == 6
    assert None not in seen
    assert server.stats.challenges == 1


@pytest.mark.parametrize("grace", [0, 1, 2])
def test_grace_is_how_many_old_ones_stay_good(server: DPoPTestServer, token: str, grace: int) -> None:
    """With a grace of N the N nonces before the newest are accepted, and the one before those is not."""
    server.levers.nonce_grace = grace
    nonces = [call(server, token).nonce]
    for _ in range(grace + 1):
        server.levers.lapse()
        nonces.append(call(server, token).nonce)
    assert len(set(nonces)) == grace + 2
    assert challenged(call(server, token, nonce=nonces[0]))
    for nonce in nonces[1:]:
        assert call(server, token, nonce=nonce).status == 200


def test_single_use_burns_each_nonce(server: DPoPTestServer, token: str) -> None:
    """Discipline single-use: every nonce is different and good once; each success brings the next."""
    server.levers.nonces = "single-use"
    first = call(server, token).nonce
    answer = call(server, token, nonce=first)
    assert answer.status == 200
    again = call(server, token, nonce=first)
    assert challenged(again)
    assert reasons(server)[-1] == "nonce_used"
    assert call(server, token, nonce=answer.nonce).status == 200
    assert call(server, token, nonce=again.nonce).status == 200


def test_of_many_with_one_single_use_nonce_one_gets_through(server: DPoPTestServer, token: str) -> None:
    """Threads that share a nonce are told so, all but one."""
    server.levers.rs_nonces = "single-use"
    nonce = call(server, token).nonce
    together = threading.Barrier(8)
    statuses: list[int] = []

    def run() -> None:
        together.wait(60)
        statuses.append(call(server, token, nonce=nonce).status)

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200] + [401] * 7


@pytest.mark.parametrize(("discipline", "distinct"), [("endless", 4), ("endless-same", 1)])
def test_endless_challenges_whatever_comes(server: DPoPTestServer, token: str, discipline: Any, distinct: int) -> None:
    """Disciplines endless: no nonce is ever good; the next is a new one each time, or always the same."""
    server.levers.nonces = discipline
    nonces = [call(server, token).nonce]
    for _ in range(3):
        answer = call(server, token, nonce=nonces[-1])
        assert challenged(answer)
        nonces.append(answer.nonce)
    assert len(set(nonces)) == distinct
    assert ask(server, GRANT).json["error"] == "use_dpop_nonce"


def test_the_roles_have_their_own_discipline(server: DPoPTestServer, token: str) -> None:
    """as_nonces and rs_nonces are set apart, nonces sets both and tells whether they are equal."""
    server.levers.as_nonces = "none"
    assert server.levers.nonces is None
    assert ask(server, GRANT).nonce is None
    assert server.stats.challenges == 0
    assert challenged(call(server, token))
    server.levers.nonces = "per-answer"
    assert {server.levers.as_nonces, server.levers.rs_nonces, server.levers.nonces} == {"per-answer"}


def test_at_construction_a_role_beats_both() -> None:
    """nonces= is for both roles, as_nonces= for one of them."""
    levers = DPoPTestServer(nonces="per-answer", as_nonces="none").levers
    assert (levers.as_nonces, levers.rs_nonces) == ("none", "per-answer")


@pytest.mark.parametrize(
    ("when", "discipline", "sent"),
    [
        ("always", "rotating", [True, True]),
        ("changed", "rotating", [False, False]),
        ("changed", "per-answer", [True, True]),
        ("never", "rotating", [False, False]),
    ],
)
def test_when_a_success_carries_a_nonce(
    server: DPoPTestServer, token: str, when: Any, discipline: Any, sent: list[bool]
) -> None:
    """nonce_on_success: with every one, only when the one used is not the newest, or never."""
    server.levers.nonce_on_success = when
    server.levers.rs_nonces = discipline
    nonce = call(server, token).nonce
    for expected in sent:
        answer = call(server, token, nonce=nonce)
        assert answer.status == 200
        assert (answer.nonce is not None) is expected
        nonce = answer.nonce or nonce


def test_a_success_with_an_older_nonce_carries_the_newest(server: DPoPTestServer, token: str) -> None:
    """With ``changed``, who used an old nonce within its grace is given the new one."""
    server.levers.nonce_grace = 1
    old = call(server, token).nonce
    server.levers.lapse()
    answer = call(server, token, nonce=old)
    assert answer.status == 200
    assert answer.nonce not in {None, old}


# --- lapse


def test_lapse_ends_every_nonce(server: DPoPTestServer, token: str) -> None:
    """After a lapse what was handed out is refused; the challenge brings a new one."""
    nonce = call(server, token).nonce
    token_nonce = post(server, server.token_endpoint, GRANT).nonce
    server.levers.lapse()
    refused = call(server, token, nonce=nonce)
    assert challenged(refused)
    assert call(server, token, nonce=refused.nonce).status == 200
    assert post(server, server.token_endpoint, GRANT, nonce=token_nonce).json["error"] == "use_dpop_nonce"


def test_lapse_of_one_role(server: DPoPTestServer, token: str) -> None:
    """The other role's nonces stay good."""
    nonce = call(server, token).nonce
    token_nonce = post(server, server.token_endpoint, GRANT).nonce
    server.levers.lapse("AS")
    assert call(server, token, nonce=nonce).status == 200
    assert post(server, server.token_endpoint, GRANT, nonce=token_nonce).status == 400


def test_lapse_refuses_a_role_that_is_none(server: DPoPTestServer) -> None:
    """There are two roles."""
    with pytest.raises(UsageError, match="AS or RS"):
        server.levers.lapse("as")  # type: ignore[arg-type]


def test_what_a_challenge_refuses_is_not_used_up(server: DPoPTestServer) -> None:
    """Code, rotating refresh token and jti survive use_dpop_nonce."""
    server.levers.rotate_refresh_tokens = True
    form = {"grant_type": "authorization_code", "code": server.issue_code()}
    refused = post(server, server.token_endpoint, form, jti="the same")
    assert refused.json["error"] == "use_dpop_nonce"
    tokens = post(server, server.token_endpoint, form, nonce=refused.nonce, jti="the same")
    assert tokens.status == 200
    server.levers.lapse()
    form = {"grant_type": "refresh_token", "refresh_token": tokens.json["refresh_token"]}
    refused = post(server, server.token_endpoint, form, nonce=refused.nonce)
    assert refused.json["error"] == "use_dpop_nonce"
    assert post(server, server.token_endpoint, form, nonce=refused.nonce).status == 200


def test_a_refusal_after_a_good_proof_brings_the_next_nonce(server: DPoPTestServer) -> None:
    """Rule 69: invalid_grant carries a nonce when the proof used one up."""
    server.levers.as_nonces = "single-use"
    form = {"grant_type": "refresh_token", "refresh_token": "unknown"}
    nonce = post(server, server.token_endpoint, form).nonce
    refused = post(server, server.token_endpoint, form, nonce=nonce)
    assert refused.json["error"] == "invalid_grant"
    assert post(server, server.token_endpoint, GRANT, nonce=refused.nonce).status == 200


# --- incidents


def test_fail_next(server: DPoPTestServer, token: str) -> None:
    """The next requests are answered with a status and Retry-After, and then all is well."""
    nonce = call(server, token).nonce
    server.levers.fail_next(2, status=503, retry_after=7)
    for _ in range(2):
        answer = call(server, token, nonce=nonce)
        assert (answer.status, answer.field("Retry-After")) == (503, "7")
    assert call(server, token, nonce=nonce).status == 200
    assert server.stats.statuses == {401: 1, 503: 2, 200: 1}


def test_fail_next_with_anything(server: DPoPTestServer) -> None:
    """Any status, field and body: two nonces, or an error_subtype."""
    two = [("DPoP-Nonce", "a"), ("DPoP-Nonce", "b")]
    server.levers.fail_next(status=400, headers=two, body={"error": "invalid_grant", "error_subtype": "x"})
    answer = post(server, server.token_endpoint, GRANT)
    assert answer.fields("DPoP-Nonce") == ["a", "b"]
    assert answer.json["error_subtype"] == "x"


def test_an_incident_for_one_path_waits_for_it(server: DPoPTestServer) -> None:
    """Other paths go by; a pattern stands for all below; the order is that of planning."""
    server.levers.fail_next(status=500, path="/resource/a")
    server.levers.fail_next(status=501, path="/resource/*")
    assert send("GET", server.resource).status == 401
    assert send("GET", server.resource + "/a").status == 500
    assert send("GET", server.resource + "/a").status == 501
    assert send("GET", server.resource + "/a").status == 401


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_next(server: DPoPTestServer, token: str, status: int) -> None:
    """The next request is sent elsewhere: here or to any other origin."""
    for location in ("/resource/b", "http://127.0.0.2:1/x"):
        server.levers.redirect_next(location, status=status)
        answer = call(server, token)
        assert (answer.status, answer.field("Location")) == (status, location)
    assert challenged(call(server, token))


def test_drop_next(server: DPoPTestServer, token: str) -> None:
    """The connection is closed without an answer, kept alive or not, and the request had no effect."""
    parts = urlsplit(server.issuer)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    connection.request("GET", "/resource")
    connection.getresponse().read()
    server.levers.drop_next()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        connection.request("GET", "/resource")
        connection.getresponse()
    connection.close()
    assert server.stats.statuses == {401: 1, 0: 1}
    assert len(server.refusals) == 1


def test_drop_next_after(server: DPoPTestServer) -> None:
    """The request has its effect and only the answer is lost: the refresh token has been rotated."""
    server.levers.nonces = "none"
    server.levers.rotate_refresh_tokens = True
    form = {"grant_type": "refresh_token", "refresh_token": server.issue_refresh_token()}
    server.levers.drop_next(after=True)
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(server, form)
    assert ask(server, form).json["error"] == "invalid_grant"


@pytest.mark.parametrize("with_nonce", [True, False])
def test_refuse_next_at_the_resource(server: DPoPTestServer, token: str, with_nonce: bool) -> None:
    """A good token is refused with invalid_token, with or without a nonce; token requests are not."""
    server.levers.refuse_next(1, with_nonce=with_nonce)
    assert ask(server, GRANT).status == 200
    answer = call(server, token)
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.challenge
    assert (answer.nonce is not None) is with_nonce
    assert challenged(call(server, token))


@pytest.mark.parametrize("with_nonce", [True, False])
def test_refuse_next_at_the_token_endpoint(server: DPoPTestServer, token: str, with_nonce: bool) -> None:
    """A good grant is refused with any error, and is not used up."""
    server.levers.refuse_next(1, error="invalid_grant", with_nonce=with_nonce)
    assert challenged(call(server, token))
    form = {"grant_type": "authorization_code", "code": server.issue_code()}
    answer = post(server, server.token_endpoint, form)
    assert answer.json["error"] == "invalid_grant"
    assert (answer.nonce is not None) is with_nonce
    assert ask(server, form).status == 200


def test_clear_forgets_what_was_planned(server: DPoPTestServer) -> None:
    """Nothing planned happens after clear, or after the server's reset."""
    for forget in (server.levers.clear, server.reset):
        server.levers.fail_next(5)
        forget()
        assert send("GET", server.resource).status == 401


@pytest.mark.parametrize(
    ("action", "arguments", "message"),
    [
        ("fail_next", {"count": 0}, "count must be"),
        ("fail_next", {"count": True}, "count must be"),
        ("fail_next", {"status": 99}, "status must be 200 to 599"),
        ("fail_next", {"status": "x"}, "status must be"),
        ("fail_next", {"retry_after": -1}, "retry_after must be"),
        ("fail_next", {"path": "resource"}, "begin with a slash"),
        ("fail_next", {"headers": [("X", "a\r\nY: b")]}, "not a valid header field"),
        ("fail_next", {"headers": [("X Y", "a")]}, "not a valid header field"),
        ("redirect_next", {"location": ""}, "location must be"),
        ("redirect_next", {"location": "/\r\nX: y"}, "location must be"),
        ("redirect_next", {"location": "/", "status": 200}, "status must be 300 to 399"),
        ("refuse_next", {"error": "no such thing"}, "error must be"),
    ],
)
def test_incidents_that_make_no_sense_are_refused(action: str, arguments: dict[str, Any], message: str) -> None:
    """At once, and not when they would happen."""
    with pytest.raises(UsageError, match=message):
        getattr(Levers(), action)(**arguments)


# --- clock, tokens, streams


def test_a_round_trip_may_take_long(server: DPoPTestServer, token: str) -> None:
    """With latency no answer comes sooner than that."""
    server.levers.latency = 0.2
    start = time.monotonic()
    call(server, token)
    assert time.monotonic() - start >= 0.2


@pytest.mark.parametrize("offset", [-90, 90])
def test_the_clock_may_be_wrong(server: DPoPTestServer, token: str, offset: int) -> None:
    """A server 90 s slow or fast refuses our iat, says its time in Date, and takes an iat of that time."""
    server.levers.nonces = "none"
    server.levers.clock_offset = offset
    answer = call(server, token)
    assert answer.status == 401
    assert reasons(server) == ["iat_in_future" if offset < 0 else "iat_too_old"]
    told = parsedate_to_datetime(answer.field("Date") or "").timestamp()
    assert abs(told - time.time() - offset) < 30
    assert call(server, token, iat=int(told)).status == 200
    assert call(server, token, iat=int(told), jti="x").status == 200
    assert call(server, token, iat=int(told), jti="x").status == 401
    server.levers.clock_offset = 0
    assert call(server, token).status == 200


@pytest.mark.parametrize("discipline", ["rotating", "per-answer", "single-use"])
def test_a_wrong_clock_lapses_no_nonce_and_excuses_no_iat(server: DPoPTestServer, token: str, discipline: Any) -> None:
    """Nonces do not hide a wrong clock here, as they may elsewhere."""
    server.levers.nonces = discipline
    nonce = call(server, token).nonce
    server.levers.clock_offset = 200
    assert call(server, token, nonce=nonce).status == 401
    assert reasons(server)[-1] == "iat_too_old"
    assert call(server, token, nonce=nonce, iat=int(server.clock())).status == 200


def test_tokens_live_as_long_as_told(server: DPoPTestServer) -> None:
    """token_lifetime is announced and kept; a clock that jumps ends tokens."""
    server.levers.nonces = "none"
    server.levers.token_lifetime = 100
    tokens = ask(server, GRANT).json
    assert tokens["expires_in"] == 100
    assert call(server, tokens["access_token"]).status == 200
    server.levers.clock_offset = 101
    assert call(server, tokens["access_token"], iat=int(server.clock())).status == 401
    assert reasons(server) == ["token_inactive"]


def test_bearer_in_answer_to_a_proof(server: DPoPTestServer) -> None:
    """bound_tokens off: token_type Bearer, the API takes it as such, and the refresh token is bound."""
    server.levers.nonces = "none"
    server.levers.bound_tokens = False
    tokens = ask(server, {"grant_type": "authorization_code", "code": server.issue_code()}).json
    assert tokens["token_type"] == "Bearer"
    headers = [("Authorization", f"Bearer {tokens['access_token']}")]
    assert send("GET", server.resource, headers).status == 200
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert ask(server, form, key=None).json["error"] == "invalid_grant"
    assert ask(server, form).status == 200


def test_refresh_tokens_rotate(server: DPoPTestServer) -> None:
    """Each refresh brings a new one; an old one used again ends them all."""
    server.levers.nonces = "none"
    server.levers.rotate_refresh_tokens = True
    first = server.issue_refresh_token(jkt=KEY.thumbprint)

    def use(value: str) -> Response:
        return ask(server, {"grant_type": "refresh_token", "refresh_token": value})

    second = use(first).json["refresh_token"]
    third = use(second).json
    assert len({first, second, third["refresh_token"]}) == 3
    assert use(second).json["error"] == "invalid_grant"
    assert use(third["refresh_token"]).json["error"] == "invalid_grant"
    assert call(server, third["access_token"]).status == 401
    assert "refresh_token_reused" in reasons(server)


def test_refresh_tokens_expire_when_told(server: DPoPTestServer) -> None:
    """refresh_token_expires_in is announced with the refresh token, and kept."""
    server.levers.nonces = "none"
    server.levers.refresh_token_expires_in = 50
    tokens = ask(server, {"grant_type": "authorization_code", "code": server.issue_code()}).json
    assert tokens["refresh_token_expires_in"] in {49, 50}
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    assert ask(server, form).status == 200
    server.levers.clock_offset = 51
    assert ask(server, form, iat=int(server.clock())).json["error"] == "invalid_grant"


def test_revocation_of_all(server: DPoPTestServer) -> None:
    """Every access token ends at once; refresh tokens stay."""
    server.levers.nonces = "none"
    refresh = {"grant_type": "refresh_token", "refresh_token": server.issue_refresh_token()}
    token = server.issue_access_token(jkt=KEY.thumbprint)
    server.revoke_access_tokens()
    assert call(server, token).status == 401
    assert call(server, ask(server, refresh).json["access_token"]).status == 200


def test_streams_come_in_chunks_and_can_be_held(server: DPoPTestServer, token: str) -> None:
    """The first chunk of /resource/stream is there while the others are held back."""
    import dpop

    server.levers.nonces = "none"
    server.levers.hold_streams()
    parts = urlsplit(server.issuer)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    proof = dpop.create_proof(KEY, "GET", server.stream, access_token=token)
    connection.request(
        "GET",
        "/resource/stream?chunks=3&size=2000",
        headers={"Authorization": f"DPoP {token}", "DPoP": proof},
    )
    response = connection.getresponse()
    assert (response.status, response.getheader("Transfer-Encoding")) == (200, "chunked")
    assert response.read(2000).startswith(b"000000")
    server.levers.release_streams()
    assert len(response.read()) == 4000
    connection.close()


# --- setting them


def test_settings_are_checked_as_they_are_set() -> None:
    """A typo or a value of no sense is refused at once, in words."""
    levers = Levers()
    for name, value, message in (
        ("rs_nonces", "rotates", "rs_nonces must be one of none, rotating"),
        ("nonces", "x", "nonces must be one of"),
        ("nonce_grace", -1, "0 or more"),
        ("nonce_grace", True, "0 or more"),
        ("nonce_seconds", 0, "above 0"),
        ("clock_offset", float("nan"), "a number of seconds"),
        ("clock_offset", 1e300, "a number of seconds, at most"),
        ("clock_offset", -(10**400), "a number of seconds, at most"),
        ("latency", -1, "from 0 to 60"),
        ("token_lifetime", 1.5, "whole number"),
        ("bound_tokens", 1, "true or false"),
        ("required_scope", "", "scope string"),
        ("clock_ofset", 1, "no lever 'clock_ofset'; the settings are"),
    ):
        with pytest.raises(UsageError, match=message):
            setattr(levers, name, value)
    with pytest.raises(UsageError):
        DPoPTestServer(rs_nonces="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(ACTIONS))
def test_an_action_that_is_set_is_called_one(name: str) -> None:
    """``levers.fail_next = 1`` says that it is to be called, and not that there is no such lever."""
    with pytest.raises(UsageError, match=f"{name} is an action.*call server.levers.{name}"):
        setattr(Levers(), name, 1)
    with pytest.raises(UsageError, match="is an action"):
        DPoPTestServer(**{name: 1})


def test_the_typed_arguments_are_the_settings() -> None:
    """LeverSettings, which types the server's keyword arguments, has the names and types of Settings."""
    typed = get_type_hints(LeverSettings)
    declared = get_type_hints(Settings)
    assert {each.name: declared[each.name] for each in fields(Settings)} == typed


def test_levers_over_http(server: DPoPTestServer, token: str) -> None:
    """POST /levers sets, acts, and answers with the state; GET shows it."""
    nonce = call(server, token).nonce
    answer = steer(server, {"nonce_grace": 3, "nonces": "rotating", "lapse": True, "fail_next": 2})
    assert answer.status == 200
    assert (answer.json["nonce_grace"], answer.json["incidents_planned"]) == (3, 2)
    assert send("GET", server.issuer + "/levers").json == answer.json
    assert [call(server, token, nonce=nonce).status for _ in range(3)] == [503, 503, 401]
    steer(server, {"redirect_next": {"location": "/resource/b", "status": 308, "path": "/resource/a"}})
    assert send("GET", server.resource + "/a").field("Location") == "/resource/b"
    steer(server, {"fail_next": {"status": 400, "headers": [["DPoP-Nonce", "a"], ["DPoP-Nonce", "b"]]}})
    assert send("GET", server.resource).fields("DPoP-Nonce") == ["a", "b"]
    steer(server, {"lapse": "RS", "refuse_next": 1, "hold_streams": True, "release_streams": True})
    steer(server, {"drop_next": 1, "refuse_next": {"error": "invalid_grant"}, "clear": True})
    assert send("GET", server.resource).status == 401


def test_revocation_and_reset_over_http(server: DPoPTestServer) -> None:
    """One token, all of them, and the counters."""
    server.levers.nonces = "none"
    first, second = (server.issue_access_token(jkt=KEY.thumbprint) for _ in range(2))
    steer(server, {"revoke": first})
    assert (call(server, first).status, call(server, second).status) == (401, 200)
    steer(server, {"revoke": True, "reset_stats": True})
    assert server.stats.requests == 0
    assert call(server, second).status == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"no_such_lever": 1},
        {"rs_nonces": "x"},
        {"fail_next": "x"},
        {"fail_next": {"nonsense": 1}},
        {"fail_next": {"headers": [["a"]]}},
        {"fail_next": {"headers": 5}},
        {"hold_streams": 1},
        {"redirect_next": True},
        {"redirect_next": 5},
        {"lapse": "x"},
        {"revoke": 5},
        {"reset_stats": 5},
        {"apply": {}},
        {"_lock": 1},
        [],
        "x",
    ],
)
def test_nonsense_over_http_changes_nothing(server: DPoPTestServer, changes: Any) -> None:
    """400 says what is wrong, and nothing else in the same request is done."""
    before = server.levers.as_dict()
    if isinstance(changes, dict):
        changes = {"nonce_grace": 9, "fail_next": 3, **changes}
    answer = steer(server, changes)
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")
    assert answer.json["error_description"]
    assert server.levers.as_dict() == before


def test_web_pages_may_not_steer(server: DPoPTestServer) -> None:
    """A page of another origin, or one that rebinds a name to this machine, is refused; curl is not."""
    assert steer(server, {"lapse": True}, Origin="https://evil.example").status == 403
    assert _raw(server, "GET", "/stats", [("Host", "evil.example")]).status == 403
    local = f"localhost:{urlsplit(server.issuer).port}"
    assert _raw(server, "GET", "/stats", [("Host", local)]).status == 200
    assert _raw(server, "GET", "/stats", [("Host", local), ("Sec-Fetch-Site", "cross-site")]).status == 403
    assert steer(server, {"lapse": True}, Origin=server.issuer).status == 200
    assert send("DELETE", server.issuer + "/levers").status == 405
    assert send("POST", server.issuer + "/stats").status == 405


def test_steering_is_not_counted(server: DPoPTestServer) -> None:
    """To look must not change what is seen, nor spend an incident."""
    server.levers.fail_next(1)
    send("GET", server.issuer + "/levers")
    assert send("GET", server.issuer + "/stats").json["requests"] == 0
    assert server.requests == []


def test_all_disciplines_are_named() -> None:
    """The tuple for people who parametrize over it."""
    assert DISCIPLINES == ("none", "rotating", "per-answer", "single-use", "endless", "endless-same")
