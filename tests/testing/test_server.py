# SPDX-License-Identifier: Apache-2.0
"""The test server as a whole: its life, its addresses, what it remembers, and what its API answers."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
import tracemalloc
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from support.testing_client import KEY, OTHER_KEY, Response, call, post, reasons, send

import dpop
from dpop.client import Role, dpop_challenge
from dpop.encoding import b64url_encode
from dpop.errors import AlgorithmError, UsageError
from dpop.server import MemoryReplayCache
from dpop.testing import Discipline, DPoPTestServer
from dpop.testing._authorization_server import AuthorizationServer
from dpop.testing._clients import Client, Clients
from dpop.testing._deployment import Deployment
from dpop.testing._gate import Gate
from dpop.testing._levers import ServerLevers
from dpop.testing._messages import Request
from dpop.testing._resource_server import ResourceServer
from dpop.testing._signer import TokenSigner
from dpop.testing._stats import Journal, RecordedRequest
from dpop.testing._store import AccessToken, Store
from dpop.testing._token_endpoint import TokenEndpoint


def refused(response: Response) -> tuple[int, str | None]:
    """Status and the error of the DPoP challenge."""
    challenge = dpop_challenge(response.fields("WWW-Authenticate"))
    return response.status, None if challenge is None else challenge.get("error")


# --- life


def test_serves_between_start_and_stop() -> None:
    """Within the with statement requests are answered; after it the port is closed and no thread is left."""
    before = set(threading.enumerate())
    with DPoPTestServer() as server:
        assert send("GET", server.resource).status == 401
        port = urlsplit(server.issuer).port
    left = set(threading.enumerate()) - before
    assert [thread.name for thread in left if thread.name.startswith("dpop-testing")] == []
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    assert server.stats.requests == 1


def test_start_and_stop_may_be_repeated() -> None:
    """A second start or stop does nothing; a server that was stopped can be started again."""
    server = DPoPTestServer()
    assert server.start() is server.start()
    server.stop()
    server.stop()
    with server:
        assert send("GET", server.resource).status == 401


def test_stop_closes_connections_that_are_kept_alive() -> None:
    """A client that holds its connection open does not hold up the server's end."""
    with DPoPTestServer() as server:
        parts = urlsplit(server.issuer)
        connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
        connection.sendall(b"GET /stats HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(12) == b"HTTP/1.1 403"
    with connection:
        while connection.recv(4096):
            pass


def test_no_address_before_the_start() -> None:
    """To ask for an address too early is a mistake that explains itself."""
    with pytest.raises(UsageError, match=r"with statement or call start"):
        _ = DPoPTestServer().issuer


def test_a_port_in_use_is_told() -> None:
    """Two servers cannot have one port, and the second says so."""
    with DPoPTestServer() as server:
        port = urlsplit(server.issuer).port or 0
        with pytest.raises(UsageError, match=rf"port {port} of 127\.0\.0\.1.*choose another port, or 0"):
            DPoPTestServer(port=port).start()


def test_a_host_that_is_none_is_told() -> None:
    """A host this machine does not have is refused."""
    with pytest.raises(UsageError, match=r"cannot listen|no address"):
        DPoPTestServer(host="192.0.2.1").start()


def test_a_wrong_mode_is_told() -> None:
    """A name that is close to a profile's is answered with that one."""
    with pytest.raises(UsageError, match=r"mode must be a profile: .*did you mean okta\?"):
        DPoPTestServer(mode="oktta")
    with pytest.raises(UsageError, match="mode must be"):
        DPoPTestServer(mode=[])  # type: ignore[arg-type]


def test_an_algorithm_that_is_none_is_told() -> None:
    """Before any port is opened."""
    with pytest.raises(AlgorithmError, match="HS256"):
        DPoPTestServer(algs=["HS256"])


def test_an_unknown_setting_is_told() -> None:
    """A typo in a keyword argument is answered with the names there are."""
    with pytest.raises(UsageError, match=r"no lever 'rs_nonce'; the settings are nonces, as_nonces"):
        DPoPTestServer(rs_nonce="none")  # type: ignore[call-arg]


def test_ipv6_has_brackets() -> None:
    """An IPv6 host is in brackets in all URLs, and answers."""
    with DPoPTestServer(host="::1") as server:
        assert server.issuer.startswith("http://[::1]:")
        assert call(server, server.issue_access_token(jkt=KEY.thumbprint), url=server.resource).status == 401


def test_public_origin_is_what_proofs_must_name() -> None:
    """Behind a TLS proxy, proofs name the proxy's origin and not this server's port."""
    with DPoPTestServer(public_origin="https://as.example/", nonces="none") as server:
        assert server.origin == "https://as.example"
        assert server.token_endpoint == "https://as.example/token"
        port = server._http.port if server._http else 0
        token = server.issue_access_token(jkt=KEY.thumbprint)
        proof = dpop.create_proof(KEY, "GET", "https://as.example/resource", access_token=token)
        headers = [("Authorization", f"DPoP {token}"), ("DPoP", proof)]
        assert send("GET", f"http://127.0.0.1:{port}/resource", headers).status == 200
        assert send("GET", f"http://127.0.0.1:{port}/stats").status == 200
    with pytest.raises(UsageError, match=r"an origin has no path"):
        DPoPTestServer(public_origin="https://as.example/path")


def test_metadata_lists_the_endpoints() -> None:
    """RFC 8414 metadata is where it must be and lists what the server has (RFC 9449 §5.1)."""
    with DPoPTestServer(algs=["ES256", "PS256"]) as server:
        metadata = send("GET", server.issuer + "/.well-known/oauth-authorization-server").json
        assert metadata["issuer"] == server.issuer
        assert metadata["authorization_endpoint"] == server.authorization_endpoint
        assert metadata["token_endpoint"] == server.token_endpoint
        assert metadata["pushed_authorization_request_endpoint"] == server.par_endpoint
        assert metadata["revocation_endpoint"] == server.revocation_endpoint
        assert metadata["introspection_endpoint"] == server.introspection_endpoint
        assert metadata["dpop_signing_alg_values_supported"] == ["ES256", "PS256"]


def test_resource_metadata_names_the_issuer() -> None:
    """The challenge leads to RFC 9728 metadata, and that to the authorization server."""
    with DPoPTestServer() as server:
        challenge = dpop_challenge(send("GET", server.resource).fields("WWW-Authenticate"))
        metadata = send("GET", (challenge or {})["resource_metadata"] or "").json
        assert metadata["authorization_servers"] == [server.issuer]
        assert metadata["resource"] == server.resource
        assert metadata["dpop_bound_access_tokens_required"] is True


def test_an_unknown_path_is_404_and_names_the_known_ones() -> None:
    """A lost user is shown the way."""
    with DPoPTestServer() as server:
        response = send("GET", server.issuer + "/nowhere")
        assert response.status == 404
        assert "/resource" in response.json["endpoints"]


def test_a_method_an_endpoint_does_not_have_is_405() -> None:
    """GET at the token endpoint is told what is allowed."""
    with DPoPTestServer() as server:
        response = send("GET", server.token_endpoint)
        assert (response.status, response.field("Allow")) == (405, "POST")


# --- what it remembers


def test_requests_are_recorded_as_they_came() -> None:
    """Method, target, header fields, body and status of each request can be read afterwards, in order."""
    with DPoPTestServer() as server:
        send("POST", server.resource + "/a?b=c", [("X-Mine", "1"), ("X-Mine", "2")], b"body")
        send("GET", server.resource)
        first, second = server.requests
        assert (first.method, first.target, first.path, first.body) == (
            "POST",
            "/resource/a?b=c",
            "/resource/a",
            b"body",
        )
        assert first.fields("x-mine") == ["1", "2"]
        assert (first.endpoint, first.status, first.proof) == ("resource", 401, None)
        assert second.connection == first.connection + 1
        server.reset()
        assert server.requests == []


def test_so_many_are_kept_and_no_more() -> None:
    """What is kept is bounded."""
    with DPoPTestServer(kept=2) as server:
        for _ in range(3):
            send("GET", server.resource)
        assert (len(server.requests), len(server.refusals), server.stats.requests) == (2, 2, 3)


def test_stats_count_what_a_benchmark_needs() -> None:
    """Requests by endpoint, challenges, wasted round trips, proofs and distinct jti add up."""
    with DPoPTestServer(nonces="rotating") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        nonce = call(server, token).nonce
        for _ in range(4):
            assert call(server, token, nonce=nonce).status == 200
        assert call(server, token, nonce=nonce, jti="same").status == 200
        assert call(server, token, nonce=nonce, jti="same").status == 401
        send("GET", server.token_endpoint)
        stats = server.stats
        assert stats.requests_by_endpoint == {"resource": 7, "token": 1}
        assert stats.statuses == {401: 2, 200: 5, 405: 1}
        assert stats.challenges_by_endpoint == {"resource": 1}
        assert (stats.requests, stats.challenges, stats.refusals) == (8, 1, 2)
        assert stats.wasted_per_1000 == pytest.approx(1000 / 7)
        assert (stats.proofs, stats.distinct_jti, stats.repeated_jti) == (7, 6, 1)
        assert stats.connections == 8
        served = send("GET", server.issuer + "/stats").json
        assert served["refusal_reasons"] == {"nonce_missing": 1, "replayed": 1}
        assert (served["requests"], served["requests_by_endpoint"]) == (8, {"resource": 7, "token": 1})
        stats.reset()
        assert (stats.requests, stats.proofs, stats.wasted_per_1000) == (0, 0, 0)


def test_a_proof_that_cannot_be_read_counts_as_proof_only() -> None:
    """Garbage in the DPoP header breaks no counter."""
    with DPoPTestServer() as server:
        for garbage in ("x", "a.b.c", "a.W10.c", "a.eyJqdGkiOjF9.c"):
            send("GET", server.resource, [("DPoP", garbage), ("Authorization", "DPoP x")])
        assert (server.stats.proofs, server.stats.distinct_jti) == (4, 0)


def test_no_secret_in_refusals_reprs_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Neither token nor proof nor nonce nor client secret is in what people will paste into an issue."""
    caplog.set_level("DEBUG", logger="dpop.testing")
    with DPoPTestServer(nonces="rotating") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        nonce = call(server, token).nonce or ""
        call(server, token, nonce="wrong-nonce")
        call(server, token, nonce=nonce, key=OTHER_KEY)
        call(server, token, nonce=nonce)
        text = f"{server.refusals} {server!r} {server.requests} {server.levers} {caplog.text}"
        proofs = [request.proof or "" for request in server.requests]
        assert "key_mismatch" in text
        assert "refused" in caplog.text
        for secret in (token, nonce, "wrong-nonce", server.client_secret, *proofs):
            assert secret
            assert secret not in text


# --- the resource server: R1 to R13


def test_no_credentials_get_a_challenge_without_error() -> None:
    """Who brings nothing is told what is wanted, not what is wrong, and is given a nonce for it."""
    with DPoPTestServer() as server:
        response = send("GET", server.resource)
        assert refused(response) == (401, None)
        assert "algs=" in response.challenge
        assert response.nonce is not None
        assert [(refusal.reason, refusal.error) for refusal in server.refusals] == [("no_credentials", "")]


def test_a_proof_alone_is_nothing() -> None:
    """A proof without a token gets the same challenge; it is how a nonce is fetched beforehand."""
    with DPoPTestServer(nonces="single-use") as server:
        response = call(server, None, method="HEAD")
        assert refused(response) == (401, None)
        assert reasons(server) == ["proof_without_token"]
        assert call(server, server.issue_access_token(jkt=KEY.thumbprint), nonce=response.nonce).status == 200


def test_a_token_without_proof_is_refused() -> None:
    """The DPoP scheme needs a proof."""
    with DPoPTestServer() as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        response = send("GET", server.resource, [("Authorization", f"DPoP {token}")])
        assert refused(response) == (401, "invalid_dpop_proof")
        assert reasons(server) == ["proof_missing"]


@pytest.mark.parametrize("value", ["DPoP", "DPoP ", "DPoP a b", "dpop a b"])
def test_no_token_or_two_are_refused(value: str) -> None:
    """Exactly one token follows the scheme."""
    with DPoPTestServer() as server:
        assert refused(send("GET", server.resource, [("Authorization", value)])) == (401, "invalid_token")
        assert reasons(server) == ["token_malformed"]


@pytest.mark.parametrize("value", ["DPoPtok", "Basic YTpi", "Digest x=y"])
def test_another_scheme_is_no_credential_here(value: str) -> None:
    """What is neither DPoP nor Bearer gets the bare challenge."""
    with DPoPTestServer() as server:
        assert refused(send("GET", server.resource, [("Authorization", value)])) == (401, None)


def test_a_bound_token_as_bearer_is_refused() -> None:
    """The error is in the Bearer challenge, for Bearer was tried; the DPoP one has none."""
    with DPoPTestServer() as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        response = send("GET", server.resource, [("Authorization", f"Bearer {token}")])
        assert refused(response) == (401, None)
        assert response.fields("WWW-Authenticate")[0].startswith('Bearer error="invalid_token"')
        assert reasons(server) == ["bound_token_as_bearer"]


def test_two_authorization_headers_are_refused() -> None:
    """Both challenges have the error, for nobody knows which was meant."""
    with DPoPTestServer() as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        response = send(
            "GET", server.resource, [("Authorization", f"Bearer {token}"), ("Authorization", f"DPoP {token}")]
        )
        assert refused(response) == (400, "invalid_request")
        assert 'Bearer error="invalid_request"' in response.challenge


def test_an_unbound_token_under_dpop_is_refused() -> None:
    """A token that is bound to nothing proves nothing."""
    with DPoPTestServer(nonces="none") as server:
        assert refused(call(server, server.issue_access_token())) == (401, "invalid_token")
        assert reasons(server) == ["token_unbound"]


def test_an_unbound_bearer_token_is_served() -> None:
    """A bearer token alone is fine; next to a stray proof it is refused."""
    with DPoPTestServer() as server:
        headers = [("Authorization", f"Bearer {server.issue_access_token()}")]
        response = send("GET", server.resource, headers)
        assert (response.status, response.json["scheme"]) == (200, "Bearer")
        proof = dpop.create_proof(KEY, "GET", server.resource)
        assert send("GET", server.resource, [*headers, ("DPoP", proof)]).status == 400
        assert reasons(server) == ["proof_with_bearer"]


def test_a_token_outside_the_header_is_refused() -> None:
    """A token in the query or in a form is never taken."""
    with DPoPTestServer() as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        form = [("Content-Type", "application/x-www-form-urlencoded")]
        in_query = send("GET", f"{server.resource}?access_token={token}")
        in_body = send("POST", server.resource, form, f"access_token={token}".encode())
        assert refused(in_query) == refused(in_body) == (400, "invalid_request")
        assert reasons(server) == ["token_outside_header"] * 2


def test_tokens_that_are_not_active_are_refused() -> None:
    """Unknown, expired and revoked tokens look the same."""
    with DPoPTestServer(nonces="none") as server:
        expired = server.issue_access_token(jkt=KEY.thumbprint, lifetime=0)
        revoked = server.issue_access_token(jkt=KEY.thumbprint)
        server.revoke(revoked)
        for token in ("unknown", expired, revoked):
            assert refused(call(server, token)) == (401, "invalid_token")
        assert reasons(server) == ["token_inactive"] * 3


def test_a_missing_scope_is_forbidden() -> None:
    """403 names the scope that is needed, and the nonce the proof used up is replaced."""
    with DPoPTestServer(nonces="single-use", required_scope="write") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        response = call(server, token, nonce=call(server, token).nonce)
        assert refused(response) == (403, "insufficient_scope")
        assert 'scope="write"' in response.challenge
        assert response.nonce is not None
        wide = server.issue_access_token(jkt=KEY.thumbprint, scope="read write")
        assert call(server, wide, nonce=response.nonce).status == 200


@pytest.mark.parametrize("cnf", [{"x5t#S256": "A" * 43}, {"jkt": "short"}, {"jkt": 5}, {}])
def test_a_cnf_that_is_no_thumbprint_is_refused(cnf: dict[str, object]) -> None:
    """An odd cnf fails closed under both schemes."""
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(cnf=cnf)
        assert refused(call(server, token)) == (401, "invalid_token")
        assert send("GET", server.resource, [("Authorization", f"Bearer {token}")]).status == 401


# --- proofs at the resource


def test_a_good_request_is_echoed() -> None:
    """Any method and any path below the resource is served, and the answer says what came."""
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint, sub="bob")
        for method, path in (("GET", ""), ("PUT", "/a/b"), ("DELETE", "/c"), ("PROPFIND", "/d%20e")):
            response = call(server, token, method=method, url=server.resource + path, body=b"12345")
            assert response.status == 200
            seen = response.json
            assert (seen["method"], seen["path"], seen["body_length"]) == (method, "/resource" + path, 5)
            assert (seen["sub"], seen["jkt"]) == ("bob", KEY.thumbprint)
        head = call(server, token, method="HEAD")
        assert (head.status, head.body) == (200, b"")


def test_the_query_is_no_part_of_the_target() -> None:
    """RFC 9449 §4.3 (9): htu is compared without the query."""
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        assert call(server, token, url=server.resource + "?x=1").status == 200


@pytest.mark.parametrize("alg", ["ES256", "Ed25519", "PS256"])
def test_every_kind_of_key_is_served(alg: str) -> None:
    """The verifier is the real one: each algorithm it accepts is accepted here."""
    key = dpop.generate_key(alg)
    with DPoPTestServer(nonces="none") as server:
        assert call(server, server.issue_access_token(jkt=key.thumbprint), key=key).status == 200


def test_bad_proofs_are_refused_for_real() -> None:
    """Another key, URL, method or token, or a used proof: each is refused for its reason."""
    with DPoPTestServer(nonces="none") as server:
        token = server.issue_access_token(jkt=KEY.thumbprint)

        def attempt(method: str = "GET", url: str = server.resource, key: object = KEY, ath: str = token) -> Response:
            proof = dpop.create_proof(key, method, url, access_token=ath)  # type: ignore[arg-type]
            return send("GET", server.resource, [("Authorization", f"DPoP {token}"), ("DPoP", proof)])

        assert refused(attempt(key=OTHER_KEY)) == (401, "invalid_token")
        assert refused(attempt(method="POST")) == (401, "invalid_dpop_proof")
        assert refused(attempt(url=server.token_endpoint)) == (401, "invalid_dpop_proof")
        assert refused(attempt(ath="other")) == (401, "invalid_dpop_proof")
        assert call(server, token, jti="once").status == 200
        assert refused(call(server, token, jti="once")) == (401, "invalid_dpop_proof")
        assert reasons(server) == ["key_mismatch", "htm_mismatch", "htu_mismatch", "ath_mismatch", "replayed"]


@pytest.mark.parametrize("discipline", ["rotating", "per-answer", "single-use"])
def test_nonces_of_one_role_are_unknown_to_the_other(discipline: Discipline) -> None:
    """RFC 9449 §9: a nonce of the API helps neither at the token endpoint nor at another server."""
    with DPoPTestServer(nonces=discipline) as server, DPoPTestServer(nonces=discipline) as other:
        token = server.issue_access_token(jkt=KEY.thumbprint)
        grant = {"grant_type": "client_credentials"}
        gained = call(server, token).nonce
        assert post(server, server.token_endpoint, grant, nonce=gained).json["error"] == "use_dpop_nonce"
        assert refused(call(other, other.issue_access_token(jkt=KEY.thumbprint), nonce=gained))[1] == "use_dpop_nonce"
        assert reasons(server) == ["nonce_missing", "nonce_unknown"]
        assert call(server, token, nonce=gained).status == 200


def test_a_web_page_may_ask_and_read() -> None:
    """Rule 55: preflight allows the DPoP header, and the nonce and challenge are exposed."""
    with DPoPTestServer() as server:
        asking = [("Origin", "https://app.example"), ("Access-Control-Request-Method", "GET")]
        preflight = send("OPTIONS", server.resource, asking)
        assert preflight.status == 204
        assert "DPoP" in (preflight.field("Access-Control-Allow-Headers") or "")
        response = send("GET", server.resource, asking[:1])
        assert response.field("Access-Control-Allow-Origin") == "*"
        assert response.field("Access-Control-Expose-Headers") == "WWW-Authenticate, DPoP-Nonce"


# --- without sockets


def test_a_full_replay_cache_is_503() -> None:
    """A proof that cannot be told from a replay is not accepted."""
    levers, clock = ServerLevers(as_nonces="none"), time.time
    store, origin = Store(clock), "https://as.example"
    store.add_access_token(AccessToken("t", "c", "alice", "read", "g", 0, math.inf, {"jkt": KEY.thumbprint}))
    deployment = Deployment(
        origin,
        store,
        Clients(Client("c", "s")),
        levers,
        Journal(kept=1),
        TokenSigner(levers),
        clock,
        threading.Event(),
        dpop.profiles.RFC9449,
    )
    gate = Gate(Role.AS, levers=levers, algs=["ES256"], clock=clock, replay=MemoryReplayCache(max_entries=1))
    endpoint = TokenEndpoint(origin + "/token", deployment, gate, gate)
    authorization_server = AuthorizationServer(deployment, gate, endpoint)
    resource_server = ResourceServer(deployment, gate)

    def token_request() -> Request:
        form = b"grant_type=client_credentials&client_id=c&client_secret=s"
        proof = ("DPoP", dpop.create_proof(KEY, "POST", origin + "/token"))
        return Request(
            "POST", "/token", [("Content-Type", "application/x-www-form-urlencoded"), proof], form, len(form)
        )

    assert authorization_server.respond("token", token_request()).status == 200
    assert authorization_server.respond("token", token_request()).status == 503
    proof = dpop.create_proof(KEY, "GET", origin + "/resource", access_token="t")
    request = Request("GET", "/resource", [("Authorization", "DPoP t"), ("DPoP", proof)])
    assert resource_server.respond(request).status == 503
    for holder in (request, resource_server.respond(request), deployment, store, gate):
        assert proof not in repr(holder)


def test_what_is_kept_of_requests_is_bounded_in_size() -> None:
    """A thousand requests with 60 kB of headers each: the newest are there, in 32 MiB, and no jti is kept whole."""
    journal = Journal(kept=10_000)
    fields = [(f"X-{number}", "v" * 10) for number in range(2_000)]
    claims = b64url_encode(json.dumps({"jti": "j" * 40_000}).encode())
    tracemalloc.start()
    try:
        for number in range(500):
            mine = [(name, f"{value}{number}") for name, value in fields]
            journal.recorded(RecordedRequest("resource", "GET", f"/{number}", mine, b"", 0, 1, 200))
            journal.stats.count_request("resource", f"e30.{claims}.{number}")
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert used < 48 * 1024 * 1024
    assert journal.requests[-1].target == "/499"
    assert journal.stats.repeated_jti == 499


def test_stopping_waits_for_no_latency() -> None:
    """A request that is held back by the lever goes on at once, and its thread ends."""
    with DPoPTestServer(latency=60) as server:
        connection = HTTPConnection("127.0.0.1", int(server.issuer.rpartition(":")[2]), timeout=60)
        connection.request("GET", "/resource")
        while not server.stats.requests:
            time.sleep(0.01)
    connection.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("dpop-testing")] == []
