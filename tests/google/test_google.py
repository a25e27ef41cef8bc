# SPDX-License-Identifier: Apache-2.0
"""Credentials and flows for Google's libraries, used by those libraries against a server of Google's kind."""

from __future__ import annotations

import copy
import datetime as dt
import http.server
import json
import pickle
import threading
import time
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import google.auth.transport.requests
import google.auth.transport.urllib3
import google.oauth2.credentials
import google_auth_httplib2
import google_auth_oauthlib.flow
import googleapiclient.discovery
import httplib2
import pytest
import requests
import urllib3
from google.auth.exceptions import RefreshError, TransportError
from support.agents import agent_running, rules_of, socket_folder
from support.forking import in_child

import dpop
from dpop.agent import AgentLogins, AgentTokens
from dpop.encoding import b64url_decode, json_object
from dpop.errors import (
    InvalidTokenResponseError,
    KeyMismatchError,
    KeyPasswordError,
    OutcomeUnknownError,
    ReauthorizationError,
    TokenEndpointUnavailableError,
    UsageError,
)
from dpop.google import Credentials, Flow, InstalledAppFlow, SharedCredentials
from dpop.requests import TokenEndpoint
from dpop.testing import DPoPTestServer
from dpop.tokens import FileTokenStore, TokenSet

SCOPES = ["https://www.googleapis.com/auth/drive.readonly", "openid"]
Request = google.auth.transport.requests.Request


@pytest.fixture
def server() -> Iterator[DPoPTestServer]:
    """A server of Google's kind."""
    with DPoPTestServer(mode="google") as running:
        yield running


@pytest.fixture
def key(tmp_path: Path) -> dpop.Key:
    """A key in a file."""
    dpop.generate_key().save(tmp_path / "key.pem")
    return dpop.load_key(str(tmp_path / "key.pem"))


def credentials_of(server: DPoPTestServer, key: dpop.Key | None, **options: Any) -> Credentials:
    """Credentials without an access token."""
    scopes: list[str] | None = options.pop("scopes", None)
    scope = " ".join(scopes or ["read"])
    jkt = options.pop("jkt", None) or (key.thumbprint if key else "")
    return Credentials(
        None,
        refresh_token=server.issue_refresh_token(jkt=jkt, client_id=server.client_id, scope=scope),
        token_uri=server.token_endpoint,
        client_id=server.client_id,
        client_secret=server.client_secret,
        scopes=scopes,
        key=key,
        **options,
    )


def token_requests(server: DPoPTestServer) -> list[dict[str, Any]]:
    """The claims of the proof of each request that reached the token endpoint, and its form."""
    found = []
    for request in server.requests:
        if request.endpoint == "token":
            assert request.proof is not None
            claims = json_object(b64url_decode(request.proof.split(".")[1]))
            form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
            found.append({"status": request.status, "form": form, **claims})
    return found


def expire(credentials: google.oauth2.credentials.Credentials, seconds: float = -1) -> None:
    """Let the access token expire."""
    now = dt.datetime.now(dt.UTC).replace(tzinfo=None)
    credentials.expiry = now + dt.timedelta(seconds=seconds)


# --- refresh


TRANSPORTS: dict[str, Callable[[], Any]] = {
    "requests": Request,
    "urllib3": lambda: google.auth.transport.urllib3.Request(urllib3.PoolManager()),
    "httplib2": lambda: google_auth_httplib2.Request(httplib2.Http()),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_refresh_carries_a_proof(transport: str, server: DPoPTestServer, key: dpop.Key) -> None:
    """Whichever transport a library brings; the nonce of each answer is used next, so only the first is refused."""
    credentials = credentials_of(server, key)
    for _ in range(3):
        credentials.refresh(TRANSPORTS[transport]())
        assert credentials.valid
    seen = token_requests(server)
    assert [each["status"] for each in seen] == [400, 200, 200, 200]
    assert len({each["jti"] for each in seen}) == len({each.get("nonce") for each in seen}) == 4
    assert {(each["htm"], each["htu"]) for each in seen} == {("POST", server.token_endpoint)}


def test_api_calls_are_as_ever(server: DPoPTestServer, key: dpop.Key) -> None:
    """AuthorizedSession makes a request of its own for the refresh; the API gets a Bearer token and no proof."""
    session = google.auth.transport.requests.AuthorizedSession(credentials_of(server, key))
    assert session.get(server.resource).json()["scheme"] == "Bearer"
    assert server.requests[-1].proof is None
    server.levers.refuse_next(path="/resource")
    assert session.get(server.resource).status_code == 200
    assert [each["status"] for each in token_requests(server)] == [400, 200, 200]


def test_google_api_python_client(server: DPoPTestServer, key: dpop.Key) -> None:
    """A client built from a discovery document, on httplib2: it refreshes, and calls the API."""
    document = {
        "kind": "discovery#restDescription",
        "name": "things",
        "version": "v1",
        "rootUrl": f"{server.origin}/",
        "servicePath": "",
        "baseUrl": f"{server.origin}/",
        "schemas": {"Thing": {"id": "Thing", "type": "object"}},
        "resources": {
            "things": {
                "methods": {
                    "get": {
                        "id": "things.get",
                        "path": "resource",
                        "httpMethod": "GET",
                        "response": {"$ref": "Thing"},
                    }
                }
            }
        },
    }
    credentials = credentials_of(server, key, quota_project_id="project")
    with googleapiclient.discovery.build_from_document(document, credentials=credentials) as service:
        assert service.things().get().execute()["sub"] == "alice"
        expire(credentials)
        assert service.things().get().execute()["sub"] == "alice"
    assert [each["status"] for each in token_requests(server)] == [400, 200, 200]


def test_a_session_brings_its_settings(server: DPoPTestServer, key: dpop.Key) -> None:
    """Headers and proxies of the session of google-auth's request are used; google-auth's own header goes along."""
    session = requests.Session()
    session.headers["X-Office"] = "Berne"
    credentials_of(server, key).refresh(Request(session))
    sent = server.requests[-1]
    assert sent.fields("X-Office") == ["Berne"]
    assert len(sent.fields("x-goog-api-client")) == len(sent.fields("Content-Type")) == 1


# --- copies, pickles, JSON


VARIANTS: dict[str, Callable[[Credentials], Any]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda credentials: pickle.loads(pickle.dumps(credentials)),
    "with_quota_project": lambda credentials: credentials.with_quota_project("project"),
    "with_token_uri": lambda credentials: credentials.with_token_uri(credentials.token_uri),
    "with_account": lambda credentials: credentials.with_account("alice"),
    "with_universe_domain": lambda credentials: credentials.with_universe_domain("googleapis.com"),
    "with_scopes_if_required": lambda credentials: google.auth.credentials.with_scopes_if_required(credentials, ["a"]),
    "with_key": lambda credentials: credentials.with_key(),
    "json": lambda credentials: Credentials.from_authorized_user_info(json.loads(credentials.to_json())).with_token_uri(
        credentials.token_uri
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_keeps_the_key(variant: str, server: DPoPTestServer, key: dpop.Key) -> None:
    """Each refreshes by itself, in the foreground and in the background, and leaves the original alone."""
    original = credentials_of(server, key, refresh_expires_at=5e9)
    original.refresh(Request())
    token = original.token
    made = VARIANTS[variant](original)
    assert (made.jkt, made.refresh_expires_at) == (key.thumbprint, 5e9)
    assert abs(made.expiry - original.expiry) < dt.timedelta(seconds=1)  # JSON has whole seconds
    made.refresh(Request())
    assert made.valid
    made.with_non_blocking_refresh()
    expire(made, 60)
    made.before_request(Request(), "GET", server.resource, {})
    made._refresh_worker._worker.join(30)
    assert made.valid
    assert original.token == token or variant == "with_scopes_if_required"
    assert {each["status"] for each in token_requests(server)[1:]} <= {200, 400}
    assert server.stats.refusals == server.stats.challenges <= 2


def test_pickles_and_json_hold_no_key(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """Reference and thumbprint are there; none of the private key's bytes are, in whatever form."""
    credentials = credentials_of(server, key)
    private = key.private_jwk()["d"] if hasattr(key, "private_jwk") else ""
    pem = (tmp_path / "key.pem").read_text("ascii").splitlines()[1]
    for text in (repr(pickle.dumps(credentials)), credentials.to_json()):
        assert str(tmp_path / "key.pem") in text
        assert key.thumbprint in text
        assert pem not in text
        assert not private or private not in text


def test_without_a_reference_there_is_no_pickle(server: DPoPTestServer) -> None:
    """A key made in memory has no place to be loaded from: that is said at pickling, and not after unpickling."""
    key = dpop.generate_key()
    credentials = credentials_of(server, key)
    with pytest.raises(UsageError, match="its path or URI"):
        pickle.dumps(credentials)
    info = json.loads(credentials.to_json())
    assert info["dpop"] == {"jkt": key.thumbprint}
    with pytest.raises(UsageError, match="neither a key nor a reference"):
        Credentials.from_authorized_user_info(info)
    made = Credentials.from_authorized_user_info(info, key=key).with_token_uri(server.token_endpoint)
    made.refresh(Request())
    copy.deepcopy(credentials).refresh(Request())


def test_another_key_is_noticed_before_anything_is_sent(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """When the key's file has another key after unpickling, and when another key is given."""
    credentials = credentials_of(server, key)
    pickled = pickle.dumps(credentials)
    dpop.generate_key().save(tmp_path / "key.pem", overwrite=True)
    with pytest.raises(RefreshError, match=key.thumbprint) as raised:
        pickle.loads(pickled).refresh(Request())
    assert isinstance(raised.value.__cause__, KeyMismatchError)
    with pytest.raises(KeyMismatchError):
        credentials.with_key(dpop.generate_key())
    with pytest.raises(KeyMismatchError):
        Credentials.from_authorized_user_info(json.loads(credentials.to_json()), key=dpop.generate_key())
    assert server.requests == []


def test_a_key_with_a_password(server: DPoPTestServer, tmp_path: Path) -> None:
    """The password is in no pickle: who unpickles gives it again."""
    dpop.generate_key().save(tmp_path / "key.pem", password="correct horse")
    key = dpop.load_key(str(tmp_path / "key.pem"), password="correct horse")
    made = pickle.loads(pickle.dumps(credentials_of(server, key)))
    with pytest.raises(RefreshError) as raised:
        made.refresh(Request())
    assert isinstance(raised.value.__cause__, KeyPasswordError)
    made.with_key(key_password="correct horse").refresh(Request())
    assert b"correct horse" not in pickle.dumps(made.with_key(key_password="correct horse"))


def test_authorized_user_files(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """google-auth reads what we write and the other way round; its own needs a key to be given."""
    credentials = credentials_of(server, key, scopes=["read"], refresh_expires_at=5e9)
    path = tmp_path / "user.json"
    path.write_text(credentials.to_json(strip=["token"]), "utf-8")
    ours = Credentials.from_authorized_user_file(path)
    assert (ours.refresh_token, ours.refresh_expires_at) == (credentials.refresh_token, 5e9)
    marked = tmp_path / "marked.json"
    marked.write_bytes(path.read_text("utf-8").encode("utf-8-sig"))
    assert Credentials.from_authorized_user_file(marked).refresh_token == credentials.refresh_token
    theirs = google.oauth2.credentials.Credentials.from_authorized_user_file(str(path))
    assert theirs.refresh_token == credentials.refresh_token
    path.write_text(theirs.to_json(), "utf-8")
    bound = Credentials.from_authorized_user_file(path, key=key).with_token_uri(server.token_endpoint)
    bound.refresh(Request())
    assert bound.valid
    assert "dpop" not in json.loads(credentials.to_json(strip=["dpop"]))


@pytest.mark.parametrize("own", [[], {"jkt": 1}, {"key_reference": "{"}, {"refresh_expires_at": "soon"}])
def test_authorized_user_info_that_nobody_wrote(own: Any, server: DPoPTestServer, key: dpop.Key) -> None:
    """The member dpop is checked; a key in place of its reference is not taken."""
    info = {**json.loads(credentials_of(server, key).to_json()), "dpop": own}
    with pytest.raises(UsageError):
        Credentials.from_authorized_user_info(info, key=key)


def test_a_key_is_needed(server: DPoPTestServer) -> None:
    """Credentials without one would fail at their first refresh, hours later."""
    with pytest.raises(UsageError, match="neither a key nor a reference"):
        Credentials("token")
    with pytest.raises(UsageError, match="neither a key nor a reference"):
        Credentials.from_credentials(google.oauth2.credentials.Credentials("token"))


def test_a_key_by_reference_alone(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """It is loaded when it is first needed; one that is missing is a RefreshError then."""
    made = credentials_of(server, None, key_reference=str(tmp_path / "key.pem"), jkt=key.thumbprint)
    assert made.jkt is None
    made.refresh(Request())
    assert made.jkt == key.thumbprint
    missing = credentials_of(server, None, key_reference=str(tmp_path / "none.pem"), jkt=key.thumbprint)
    with pytest.raises(RefreshError, match=r"none\.pem"):
        missing.refresh(Request())


def test_nothing_secret_is_shown(server: DPoPTestServer, key: dpop.Key) -> None:
    """Neither token nor secret in the repr."""
    credentials = credentials_of(server, key)
    assert str(credentials.refresh_token) not in repr(credentials)
    assert server.client_secret not in repr(credentials)


# --- many at once


def test_threads_share_one_refresh(server: DPoPTestServer, key: dpop.Key) -> None:
    """16 threads with an expired token, then 16 whose token an API refused: one refresh each time."""
    credentials = credentials_of(server, key)
    together = threading.Barrier(16)

    def call(_: int) -> str:
        headers: dict[str, str] = {}
        together.wait(30)
        credentials.before_request(Request(), "GET", server.resource, headers)
        return headers["authorization"]

    def again(token: str) -> None:
        assert credentials.token == token
        together.wait(30)
        credentials.refresh(Request())

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(call, range(16)))) == 1
        assert [each["status"] for each in token_requests(server)] == [400, 200]
        list(pool.map(again, [str(credentials.token)] * 16))
    assert 3 <= len(token_requests(server)) <= 4


def test_a_fork_while_a_refresh_is_under_way(server: DPoPTestServer, key: dpop.Key) -> None:
    """The child does not wait for a thread that only its parent has."""
    credentials = credentials_of(server, key)
    credentials.refresh(Request())
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with credentials._refresh_lock():
            held.set()
            done.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:

        def work() -> bytes:
            credentials.refresh(Request())
            return b"refreshed"

        assert in_child(work) == b"refreshed"
    finally:
        done.set()
        thread.join()


# --- tokens that are shared


def shared_with(server: DPoPTestServer, key: dpop.Key, store: FileTokenStore, **options: Any) -> SharedCredentials:
    """Credentials as another process has them: only the file is shared."""
    endpoint = TokenEndpoint(
        dpop.Prover(key),
        server.token_endpoint,
        client_id=server.client_id,
        client_secret=server.client_secret,
        profile=dpop.profiles.GOOGLE,
    )
    return SharedCredentials(endpoint.source(store), **options)


def test_a_store_that_others_use(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """One refresh for two who share a file, when the token is old and when an API refused it; copies go on sharing."""
    store = FileTokenStore(tmp_path / "tokens.json")
    refresh_token = server.issue_refresh_token(jkt=key.thumbprint, client_id=server.client_id)
    store.save(TokenSet(access_token="old", token_type="Bearer", refresh_token=refresh_token, expires_at=1.0))
    one = shared_with(server, key, store, scopes=["read"])
    two = copy.deepcopy(shared_with(server, key, store).with_quota_project("project"))
    sessions = [google.auth.transport.requests.AuthorizedSession(each) for each in (one, two)]
    assert [session.get(server.resource).status_code for session in sessions] == [200, 200]
    assert one.token == two.token
    assert two.quota_project_id == "project"
    assert [each["status"] for each in token_requests(server)] == [400, 200]
    server.levers.refuse_next(path="/resource")
    assert sessions[0].get(server.resource).status_code == 200
    assert len(token_requests(server)) == 3
    two.refresh(Request())
    assert one.token == two.token
    assert len(token_requests(server)) == 3
    copy.copy(one).refresh(Request())
    for each in (one, two):
        with pytest.raises(UsageError, match="pickled"):
            pickle.dumps(each)


def test_tokens_of_the_signing_agent(server: DPoPTestServer) -> None:
    """Google's libraries with neither key nor refresh token: the agent refreshes, also a token that was refused."""
    with socket_folder() as folder:
        logins = AgentLogins(folder / "logins", TokenEndpoint)
        with agent_running(folder, rules_of(folder, origins=[server.origin]), logins=logins) as agent:
            agent.client().request(
                "login",
                account="work",
                key="work",
                token_endpoint=server.token_endpoint,
                client_id=server.client_id,
                client_secret=server.client_secret,
                profile="google",
                access_token="old",
                token_type="Bearer",
                expires_at=1,
                refresh_token=server.issue_refresh_token(jkt=agent.key().thumbprint, client_id=server.client_id),
            )
            credentials = SharedCredentials(AgentTokens("work", client=agent.client()))
            session = google.auth.transport.requests.AuthorizedSession(credentials)
            assert session.get(server.resource).status_code == 200
            before = credentials.token
            server.levers.refuse_next(path="/resource")
            assert session.get(server.resource).status_code == 200
            assert credentials.token not in {None, before}
            with pytest.raises(UsageError, match="pickled"):
                pickle.dumps(copy.copy(credentials))
        assert "agent" in repr(credentials).lower()


def test_credentials_go_into_a_store(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """With all that the next one needs to know: it refreshes them, where Google's credentials got the first."""
    credentials = credentials_of(server, key, scopes=["read"], refresh_expires_at=5e9)
    with pytest.raises(UsageError, match="refresh"):
        credentials.to_token_set()
    credentials.refresh(Request())
    tokens = credentials.to_token_set()
    assert tokens.expires_at is not None
    assert abs(tokens.expires_at - time.time() - 3600) < 60
    assert (tokens.jkt, tokens.refresh_expires_at, tokens.scope) == (key.thumbprint, 5e9, "read")
    store = FileTokenStore(tmp_path / "tokens.json")
    store.save(tokens)
    shared = shared_with(server, tokens.load_key(), store)
    shared.refresh(Request())
    assert shared.token == credentials.token
    shared.refresh(Request())
    assert shared.token != credentials.token


def test_a_store_without_tokens(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """google-auth's error, and ours as the cause; a bound access token is none that google-auth can send."""
    store = FileTokenStore(tmp_path / "tokens.json")
    with pytest.raises(RefreshError) as raised:
        shared_with(server, key, store).refresh(Request())
    assert isinstance(raised.value.__cause__, ReauthorizationError)
    store.save(TokenSet(access_token="bound", token_type="DPoP", jkt=key.thumbprint))
    with pytest.raises(RefreshError, match="sends no proof with it"):
        shared_with(server, key, store).refresh(Request())
    with pytest.raises(UsageError, match="source"):
        SharedCredentials(lambda: "token")  # type: ignore[arg-type]


# --- what goes wrong


def test_each_try_has_a_proof_of_its_own(server: DPoPTestServer, key: dpop.Key) -> None:
    """google-auth tries again after a 503, with a new proof; other transports would send the same one."""
    credentials = credentials_of(server, key)
    credentials.refresh(Request())
    server.levers.fail_next(2, status=503, path="/token")
    credentials.refresh(Request())
    assert [each["status"] for each in token_requests(server)][2:] == [503, 503, 200]
    assert server.stats.repeated_jti == 0


def test_no_answer(server: DPoPTestServer, key: dpop.Key) -> None:
    """The connection breaks: google-auth's TransportError, after one request; the cause says what to do."""
    credentials = credentials_of(server, key)
    server.levers.drop_next(path="/token", after=True)
    with pytest.raises(TransportError) as raised:
        credentials.refresh(Request())
    assert isinstance(raised.value.__cause__, OutcomeUnknownError)
    assert len(token_requests(server)) == 1


def test_a_dead_refresh_token(server: DPoPTestServer, key: dpop.Key) -> None:
    """google-auth's RefreshError, with the facts its users look for, and ours as the cause; no second try."""
    credentials = credentials_of(server, key)
    credentials.refresh(Request())
    dead = copy.copy(credentials)
    credentials.revoke(revocation_uri=server.revocation_endpoint)
    assert (credentials.token, credentials.refresh_token) == (None, None)
    before = len(token_requests(server))
    with pytest.raises(RefreshError, match="invalid_grant") as raised:
        dead.refresh(Request())
    assert raised.value.args[1]["error"] == "invalid_grant"
    assert not raised.value.retryable
    assert isinstance(raised.value.__cause__, ReauthorizationError)
    assert str(dead.refresh_token) not in str(raised.value)
    assert len(token_requests(server)) == before + 1


def test_a_server_that_never_has_enough(server: DPoPTestServer, key: dpop.Key) -> None:
    """Challenges without end: two requests, an error that may pass, and the token there was."""
    credentials = credentials_of(server, key)
    credentials.refresh(Request())
    token = credentials.token
    server.levers.as_nonces = "endless"
    with pytest.raises(RefreshError) as raised:
        credentials.refresh(Request())
    assert raised.value.retryable
    assert isinstance(raised.value.__cause__, TokenEndpointUnavailableError)
    assert credentials.token == token
    assert [each["status"] for each in token_requests(server)][2:] == [400, 400]


def test_revocation_needs_an_endpoint(server: DPoPTestServer, key: dpop.Key) -> None:
    """That of another server than Google's is not guessed; without a token there is nothing to revoke."""
    with pytest.raises(UsageError, match="revocation_uri"):
        credentials_of(server, key).revoke()
    with pytest.raises(UsageError, match="no token"):
        Credentials(None, key=key).revoke()
    assert server.requests == []


def test_the_handler_of_a_broker(key: dpop.Key) -> None:
    """Without a refresh token google-auth asks its refresh_handler, and otherwise says what is missing."""
    later = dt.datetime.now(dt.UTC).replace(tzinfo=None) + dt.timedelta(hours=1)
    credentials = Credentials(None, refresh_handler=lambda request, scopes: ("brokered", later), key=key)
    credentials.refresh(Request())
    assert credentials.token == "brokered"
    with pytest.raises(RefreshError, match="refresh_token, token_uri"):
        Credentials(None, key=key).refresh(Request())


@contextmanager
def answering(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A token endpoint that gives one answer; its URL, and the paths it was asked for."""
    paths: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as endpoint:
        thread = threading.Thread(target=endpoint.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{endpoint.server_port}/token", paths
        finally:
            endpoint.shutdown()
            thread.join()


GOOD = {"access_token": "new", "token_type": "Bearer", "expires_in": 3600}
BAD = {
    "html": (200, b"<html>sign in to the hotel</html>"),
    "two tokens": (200, b'{"access_token":"a","access_token":"b","token_type":"Bearer"}'),
    "an error": (200, b'{"error":"invalid_grant"}'),
    "bound": (200, json.dumps({**GOOD, "token_type": "DPoP"}).encode()),
    "long": (200, b" " * 1_100_000),
    "redirect": (307, b""),
}


@pytest.mark.parametrize("what", BAD)
def test_an_answer_that_is_none(what: str, key: dpop.Key) -> None:
    """It is refused whole, the old token stays, a redirect is not followed."""
    credentials = Credentials(
        "old", refresh_token="refresh-token", client_id="id", client_secret="secret", token_uri="", key=key
    )
    with answering(*BAD[what], headers={"Location": "/elsewhere"}) as (url, paths):
        credentials._token_uri = url
        with pytest.raises(RefreshError) as raised:
            credentials.refresh(Request())
    assert paths == ["/token"]
    assert credentials.token == "old"
    assert "refresh-token" not in str(raised.value)
    if what in {"html", "redirect"}:
        assert isinstance(raised.value.__cause__, InvalidTokenResponseError)


# --- flows


def config(server: DPoPTestServer, kind: str = "installed") -> dict[str, Any]:
    """A client secrets file, parsed."""
    return {
        kind: {
            "client_id": server.client_id,
            "client_secret": server.client_secret,
            "auth_uri": server.authorization_endpoint,
            "token_uri": server.token_endpoint,
        }
    }


@pytest.fixture
def _plain_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """What oauthlib wants to be told before it talks to a server on this machine."""
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


class Browser(webbrowser.BaseBrowser):
    """Whose user agrees at once."""

    def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
        """Follow the redirect back to the flow, in another thread as a browser is another program."""
        threading.Thread(target=lambda: urllib.request.urlopen(url, timeout=30).close()).start()
        return True


@pytest.mark.usefixtures("_plain_http")
def test_an_installed_app(server: DPoPTestServer, key: dpop.Key, tmp_path: Path) -> None:
    """From the client secrets file to an API call: proof with Google's jti, PKCE, and then refreshes."""
    server.levers.exchange_needs_nonce = True
    server.levers.isolate_exchange_nonces = True
    server.levers.refresh_token_expires_in = 604_800
    webbrowser.register("test-browser", None, Browser("test-browser"))
    (tmp_path / "client_secret.json").write_text(json.dumps(config(server)), "utf-8")
    flow = InstalledAppFlow.from_client_secrets_file(str(tmp_path / "client_secret.json"), SCOPES, key=key)
    credentials = flow.run_local_server(
        host="127.0.0.1", port=0, browser="test-browser", authorization_prompt_message=None, timeout_seconds=30
    )
    assert isinstance(credentials, Credentials)
    first, second = token_requests(server)
    assert (first["status"], second["status"]) == (400, 200)
    assert first["jti"] == second["jti"] == dpop.code_jti(first["form"]["code"])
    assert "code_verifier" in first["form"]
    assert credentials.refresh_expires_at == pytest.approx(credentials.expiry.timestamp(), abs=1e6)
    assert flow.credentials.refresh_expires_at == credentials.refresh_expires_at
    assert credentials.missing_scopes(*SCOPES) == frozenset()
    credentials.refresh(Request())  # whose first nonce is that of the exchange, and refused
    credentials.refresh(Request())
    assert [each["status"] for each in token_requests(server)[2:]] == [400, 200, 200]
    assert flow.authorized_session().get(server.resource).json()["scheme"] == "Bearer"


@pytest.mark.usefixtures("_plain_http")
@pytest.mark.parametrize("bound_later", [False, True])
def test_a_web_flow(server: DPoPTestServer, key: dpop.Key, *, bound_later: bool) -> None:
    """Two flow objects, one for each request of a web application; the nonce of the exchange serves the refresh."""
    redirect_uri = "http://127.0.0.1/callback"
    first = Flow.from_client_config(config(server, "web"), SCOPES, redirect_uri=redirect_uri)
    url, state = first.authorization_url()
    callback = requests.get(url, allow_redirects=False, timeout=30).headers["Location"]
    options: dict[str, Any] = {"state": state, "redirect_uri": redirect_uri, "code_verifier": first.code_verifier}
    if bound_later:
        second = Flow.from_client_config(config(server, "web"), SCOPES, **options)
        with pytest.raises(UsageError, match=r"flow\.bind"):
            second.fetch_token(authorization_response=callback)
        assert token_requests(server) == []
        second.bind(key)
    else:
        second = Flow.from_client_config(config(server, "web"), SCOPES, key=key, **options)
    second.fetch_token(authorization_response=callback)
    pickle.loads(pickle.dumps(second.credentials))
    second.credentials.refresh(Request())
    assert [each["status"] for each in token_requests(server)] == [200, 200]


@pytest.mark.usefixtures("_plain_http")
@pytest.mark.parametrize("scopes", [SCOPES, " ".join(SCOPES)], ids=["a list", "one text"])
def test_a_user_who_grants_less(
    server: DPoPTestServer, key: dpop.Key, caplog: pytest.LogCaptureFixture, scopes: Any
) -> None:
    """The tokens are kept, what is missing is said, and a refresh asks for no more than was granted."""
    server.levers.granted_scope = "openid"
    flow = Flow.from_client_config(config(server), scopes, redirect_uri="http://127.0.0.1/", key=key)
    callback = requests.get(flow.authorization_url()[0], allow_redirects=False, timeout=30).headers["Location"]
    flow.fetch_token(authorization_response=callback)
    credentials = flow.credentials
    assert credentials.missing_scopes(*SCOPES) == {SCOPES[0]}
    assert caplog.messages == [f"the user did not grant all requested scopes; missing: {SCOPES[0]}"]
    credentials.refresh(Request())
    assert credentials.granted_scopes == ["openid"]


@pytest.mark.usefixtures("_plain_http")
def test_a_flow_of_googles_own(server: DPoPTestServer, key: dpop.Key) -> None:
    """Without a proof such a server refuses it: what ours add is needed."""
    flow = google_auth_oauthlib.flow.Flow.from_client_config(config(server), SCOPES, redirect_uri="http://127.0.0.1/")
    callback = requests.get(flow.authorization_url()[0], allow_redirects=False, timeout=30).headers["Location"]
    assert urlsplit(callback).query
    with pytest.raises(Exception, match="invalid_dpop_proof"):
        flow.fetch_token(authorization_response=callback)
