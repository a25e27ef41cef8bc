# SPDX-License-Identifier: Apache-2.0
"""All functions, classes and methods of the public interface, and arguments that make them fail with secrets in hand.

Arguments go by the name of the parameter. A public function with a parameter whose name is not here has no
arrangement, and the test that walks them all fails: add the name to :func:`arguments` or to :data:`PLAIN`.
"""

from __future__ import annotations

import contextlib
import enum
import inspect
import json
import logging
import re
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import aiohttp
from support.public_api import faces
from support.recorder import Received, Response

import dpop
import dpop.agent
import dpop.redaction
from dpop.client import OutgoingRequest, Policy, ProofFlow
from dpop.errors import KeyAccessDeniedError, UsageError
from dpop.keys import PublicKey
from dpop.profiles import RFC9449
from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource, ResourceRequest
from dpop.tokens import FileTokenStore, HTTPRequest, MemoryTokenStore, ServerMetadata, TokenSet

__all__ = [
    "API",
    "KEY",
    "MARK",
    "NEEDLES",
    "PLAIN",
    "PROOF",
    "Entry",
    "arguments",
    "as_text",
    "entries",
    "logging_all",
    "refusing",
    "secret",
    "secrets_in",
    "shown_by",
]

# What looks secret; each text that is one says so, but for proofs and keys.
MARK = "s3cret"
KEY = dpop.generate_key()
API = "http://127.0.0.1:1"


def secret(what: str) -> str:
    """A secret that is easy to find again."""
    return f"{MARK}-{what}-0123456789-0123456789-0123456789"


PROOF = dpop.create_proof(KEY, "GET", f"{API}/r", access_token=secret("token"), nonce=secret("nonce"))
PRIVATE_JWK = KEY.to_jwk(private=True)
NEEDLES = (MARK, *PROOF.split("."), PRIVATE_JWK["d"])


class BrokenKey:
    """A key that raises, or gives rubbish for a signature."""

    alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, False

    def __init__(self, outcome: Exception | bytes) -> None:
        self.outcome = outcome

    def sign(self, signing_input: bytes, /) -> bytes:
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


class BrokenStore(MemoryTokenStore):
    """A store of somebody else's whose database is down."""

    def load(self, account: str = "default") -> TokenSet | None:
        raise ConnectionError(f"no database for {account}")

    def replace(self, old: TokenSet | None, new: TokenSet, account: str, *, fence: int | None = None) -> bool:
        raise ConnectionError(f"no database for {account}, {len(new.access_token)}, {old is None}, {fence}")


class BrokenCache:
    """A cache of somebody else's that is down."""

    def get(self, name: str) -> str | None:
        raise ConnectionError(f"no cache for {name}")

    def put(self, name: str, entry: str, seconds: float) -> None:
        raise ConnectionError(f"no cache for {name}, {len(entry)}, {seconds}")


def raising(*_: Any, **__: Any) -> Any:
    """A callable of the user's that fails in a way of its own."""
    raise OSError("it is not there")


async def araising(*_: Any, **__: Any) -> Any:
    """The same, awaited."""
    raise OSError("it is not there")


class AiohttpSession:
    """A session of aiohttp for each request, on whichever event loop it is sent."""

    @contextlib.asynccontextmanager
    async def request(self, method: str, url: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        async with aiohttp.ClientSession() as session, session.request(method, url, **options) as response:
            yield response


def refusing(request: Received) -> Response:
    """An authorization server that repeats what it was sent, gives odd tokens, or hangs up."""
    if "drop" in request.target:
        return Response(drop=True)
    if "odd" in request.target:
        body = f'{{"access_token":"{secret("new")}","refresh_token":"{secret("newer")}","token_type":"x"}}'
        return Response(200, [("DPoP-Nonce", secret("nonce"))], body.encode())
    sent = [value for _, value in parse_qsl(request.body.decode("latin-1"))]
    described = " ".join([*sent, *(value for name, value in request.headers if name.lower() == "dpop")])
    return Response(400, [], json.dumps({"error": "invalid_grant", "error_description": described}).encode())


# Parameters that hold nothing secret, and that the walk leaves at their defaults.
PLAIN = frozenset(
    re.findall(
        r"\w+",
        """
    accepted access account accounts acknowledge_within acknowledged_by acr acr_values actor_type after agrees ahead
    alg algs allow_bearer also api_bound_as_bearer api_json_errors api_max_age api_skew api_status api_takes_proofs
    api_wrong_key args arguments as_endpoints as_nonces ask ask_again_after assertion_audience assertion_life
    assertion_longest assertion_nbf assertion_typ audience audit authority authorization_endpoint
    authorization_servers autogenerate_code_verifier backend bad_proof bearer before bind_key bind_refresh_tokens
    blocking body_length bound_tokens call cert certificate changes check_binding checks claim claims client_auth
    client_auth_methods client_config client_id client_key client_type clock clock_offset close cnf code_challenge
    code_jti coding compared configured confirm connection content_type count crv date decision decoded declared_alg
    detached detail device_authorization_endpoint device_path device_pending device_refused device_uri differs digest
    dpop_algs dpop_jkt dpop_required endpoint environ epoch error event events every exchange exchange_needs_nonce
    exchange_nonce expected expires_at extra facts fallback fence fetch field_values fields filename fits folder
    function generation gids give_up good got grace grant grant_type granted_scope grants group handled handler
    hash_name header hint host http http1 http2 iat id id_token_verified insecure insecure_origins interval
    introspection_endpoint is_async isolate_exchange_nonces iss_in_responses iss_required issued_at issuer issuers
    jitter jkt jwks_uri kept key_reference keys kid kind kty label latency learn_clock lease lease_seconds
    library_description library_manufacturer library_version life lifetime limit limits loader local_address location
    lock lock_after lock_directory lock_seconds login_parameters logins make_client makes_keys manufacturer marks
    max_age max_bytes max_clock_step max_depth max_entries max_htu max_jti max_length max_pending max_per_key
    max_proof max_remembered max_retries max_unbound may_try metadata method methods missing_proof mode model
    module_name module_path monotonic more mtls_endpoint_aliases name nbf next_at nonce_error nonce_grace
    nonce_on_success nonce_retries nonce_seconds nonces_for note now oauth2session object odd on_refusal op optional
    options origin origins other overwrite par_takes_proofs password_file pin_each_time pin_source pin_state place
    pool pool_block pool_connections pool_maxsize port prefix priming private private_key private_seen problem
    profile proof_life provider proxies proxy public public_clients public_jwk public_key public_origin published
    push pushed_authorization_request_endpoint quota_project_id random rate read realm reason rebind receive received
    record redirect_uri reference refresh_after refresh_expires_at refresh_owner refresh_sent_at
    refresh_token_expires_in refresh_tokens_for refused refused_times remember_for renew_refused repeatable
    replace_500 replay report require_jkt require_par require_pkce require_proof require_type required required_scope
    required_scopes requires_par resource_metadata retries retry_after revocation_endpoint revocation_uri role
    root_path rotate_refresh_tokens rs_nonces rule rules says_scope says_sub scheme scheme_exact seconds
    security_scopes seen send sent serial served service sessions settings share share_nonces sign signature_format
    signature_size signed signed_endpoints signer signs single_use size skew slot slot_description slot_id
    slot_manufacturer socket_options sources ssl start_response status stays_in_device steps stop strict_audience
    strict_typ strip sub subject_type target tell theirs then thumbprint timeout tls token_endpoint token_lifetime
    token_type token_type_hint tools trust_env turn typ uds uid uids unbound unbound_share url usable user_code
    valid_from values verdict verification_uri verification_uri_complete verifier verify wait wake wanted_type
    wants_pin what when_down where window with_nonce work wrong_key x_init_reserved
    """,
    )
)


def arguments(place: Path, server: str) -> dict[str, list[Any]]:
    """Values for parameters, by name: the first lets a call go on, the others make it fail somewhere.

    A key ``Class.name`` or ``function.name`` is looked up before the bare name.
    """
    token, nonce = secret("token"), secret("nonce")
    tokens = TokenSet(access_token=token, refresh_token=secret("refresh"), expires_at=1, jkt=KEY.thumbprint)
    store = MemoryTokenStore()
    store.save(tokens)
    pem = place / "key.pem"
    if not pem.exists():
        KEY.save(pem, password=secret("password"))
    damaged = place / "tokens.json"
    damaged.write_text(f'{{"refresh_token": "{secret("refresh")}"')
    keys = [KEY, BrokenKey(KeyAccessDeniedError("locked")), BrokenKey(b"x"), BrokenKey(RuntimeError("a bug"))]
    verifier = ProofVerifier(replay=MemoryReplayCache(), nonces=NonceIssuer(b"0" * 32))
    resource = ProtectedResource(verifier, url=API, token=raising)
    fields = [(b"authorization", f"DPoP {token}".encode()), (b"dpop", PROOF.encode())]
    incoming = ResourceRequest(method="GET", target="/r", path="/r", headers=fields)
    policy = Policy(keys[1], origins=API, access_token=token)
    outgoing = OutgoingRequest("GET", f"{API}/r")
    flow = ProofFlow.open(policy, outgoing)
    metadata = ServerMetadata(
        token_endpoint=server + "/token",
        authorization_endpoint=server + "/authorize",
        pushed_authorization_request_endpoint=server + "/par",
        revocation_endpoint=server + "/revoke",
        introspection_endpoint=server + "/introspect",
        device_authorization_endpoint=server + "/device",
    )
    posted = HTTPRequest("POST", server + "/token", (("Content-Type", "x"),), secret("code").encode(), True)
    wrong_pin = f"pkcs11:token=none?module-path=/nowhere.so&pin-value={secret('pin')}"
    now = time.time()
    asked = dpop.tokens.AuthorizationRequest(
        url=f"{server}/authorize?state={secret('state')}",
        redirect_uri="http://127.0.0.1/",
        state=secret("state"),
        code_verifier=secret("verifier"),
    )
    device = dpop.tokens.DeviceAuthorization(
        device_code=secret("device"),
        user_code="ABCD",
        verification_uri=server,
        verification_uri_complete=None,
        expires_at=now - 1,
        interval=0.01,
    )
    return {
        "key": keys,
        "prover": keys,
        "key_or_prover": keys,
        "access_token": [token, token + "\n", raising],
        "token": [token, token + "\n"],
        "nonce": [nonce, nonce + " ", None],
        "nonces": [None],
        "code": [secret("code"), secret("code") + "\n"],
        "code_verifier": [secret("verifier")],
        "client_secret": [secret("client"), secret("client") + "\n"],
        "refresh_token": [secret("refresh"), 1],
        "id_token": [secret("id"), 1],
        "subject": [secret("token"), secret("token") + "\n", 1],
        "actor": [None, secret("token") + "\n", 1],
        "assertion": [secret("assertion"), secret("assertion") + "\n", 1],
        "id_token_key": [None, secret("pem"), secret("pem").encode(), {"kty": "EC", "d": secret("d")}, 1],
        "device_code": [secret("device")],
        "state": [secret("state")],
        "password": [secret("password"), [secret("password")], raising],
        "key_password": [secret("password"), raising],
        "pin_value": [secret("pin")],
        "secret": [secret("secret").encode(), b"s3cret"],
        "cache": [BrokenCache()],
        "cache_secret": [secret("cache").encode(), b"s3cret"],
        "entry": [secret("entry")],
        "other_secrets": [[secret("secret").encode()], [b"s3cret"]],
        "proof": [PROOF],
        "jti": [secret("jti"), "", raising],
        "authorization": [f"DPoP {token}"],
        "headers": [[("DPoP", PROOF), ("Authorization", f"DPoP {token}")], fields],
        "credentials": [dpop.RequestCredentials(KEY, token)],
        "tokens": [tokens, tokens.replace(jkt="another"), secret("refresh") + "\n"],
        "old": [tokens, None],
        "new": [tokens, tokens.replace(access_token=secret("new"))],
        "store": [store, BrokenStore(), FileTokenStore(damaged), FileTokenStore(place / "none" / "t.json")],
        "server": [metadata, server + "/drop", server + "/odd", "http://127.0.0.1:1/token", "http://as.example/"],
        "callback": [f"http://127.0.0.1/?code={secret('code')}&state=another", f"?error=x&state={secret('state')}"],
        "request": [outgoing, incoming, posted, asked],
        "device": [device],
        "policy": [policy],
        "flow": [flow],
        "lookup": [raising, araising],
        "transport": [None],
        "rebuild": [raising],
        "learnt": [nonce],
        "next_nonce": [nonce],
        "data": [secret("code").encode(), f'{{"a":"{token}"'.encode()],
        "body": [f'{{"error":"{token}"}}'.encode(), token.encode() + b"\xff"],
        "content": [token.encode()],
        "text": [token + "é", wrong_pin + "&pin-value=2"],
        "uri": [wrong_pin],
        "source": [wrong_pin, pem, PRIVATE_JWK | {"d": "s3cret"}, {"password": token}, "key.pem"],
        "jwk": [PRIVATE_JWK | {"x": "s3cret"}, PRIVATE_JWK],
        "client": [raising],
        "credential": [raising],
        "resource": [resource],
        "session": [AiohttpSession()],
        "scope": ["read"],
        "scopes": [["read"]],
        "parameters": [{}],
        "steps": [dpop.tokens.Grants(KEY, metadata, client_id="c").refresh(tokens, {})],
        "claims": [{"secret": token}, {token: {1, 2}}],
        "payload": [{"secret": token}],
        "context": [b"context"],
        "sealed": [{"s3cret": token}],
        "ath": [None],
        "htu": [f"{API}/r"],
        "raw": [secret("raw").encode()],
        "der": [secret("der").encode()],
        "signature": [secret("signature").encode()],
        "signing_input": [secret("input").encode()],
        "bound_jkt": [KEY.thumbprint, "another"],
        "tried": [token],
        "refusal": [None],
        "path": [place / "none" / "x.json", f"/{token}"],
        "info": [{"refresh_token": secret("refresh"), "client_secret": secret("client")}],
        # Required ones that are plain.
        "method": ["GET"],
        "url": [f"{API}/r", "ftp://api.example/", f"{API}/a/../b"],
        "origins": [API],
        "issuer": [server],
        "redirect_uri": ["http://127.0.0.1/"],
        "grant_type": ["client_credentials"],
        "account": ["default"],
        "client_id": ["c"],
        "token_endpoint": [server + "/token"],
        "audience": [API],
        "now": [now],
        "timeout": [0.01],
        "scheme": ["https"],
        "authority": ["api.example"],
        "target": ["/r", "/a/../b"],
        "function": [raising],
        "call": [raising],
        "work": [raising],
        "read": [raising],
        "served": [lambda _alg: True],
        "fetch": [raising],
        "clock": [time.time],
        "sign": [raising, lambda _data: b"x"],
        "signature_format": ["raw"],
        "public_key": [KEY.public_jwk],
        "public": [PublicKey.from_jwk(KEY.public_jwk)],
        "private_key": [secret("key"), b"s3cret"],
        "alg": ["ES256"],
        "algs": [["ES256"], ["PS256"]],
        "app": [raising],
        "receive": [araising],
        "send": [araising],
        "environ": [_environ()],
        "start_response": [raising],
        "error": [UsageError("refused")],
        "hint": [None],
        "replay": [MemoryReplayCache()],
        "verifier": [verifier],
        "when_down": ["refuse"],
        "stop": [_stopped()],
        "sources": [[]],
        "loader": [raising],
        "name": ["DPoP"],
        "where": ["here"],
        "limit": [100],
        "seconds": [1.0],
        "record": [logging.LogRecord("dpop", 10, "x", 1, f"DPoP {token}", None, None)],
        "profile": [RFC9449],
        "more": [{}],
        "expires_at": [now + 60],
        "good": [lambda _tokens: False],
        "metadata": [None],
        "key_reference": [None],
        "tools": [None],
        "question": ["PIN?"],
        "listener": [raising],
        # Of the same name, and another thing.
        "Agent.logins": [None, dpop.agent.AgentLogins(place / "none" / "logins", raising)],
        "Agent.rules": [[dpop.agent.KeyRules("work", str(pem), [API])]],
        "Agent.ask": [lambda _rules: secret("password"), lambda _rules: secret("other"), raising],
        "AgentClient.path": [place / "none.sock"],
        "AgentKey.client": [dpop.agent.AgentClient(place / "none.sock")],
        "AgentKey.name": ["work"],
        "AgentKey.facts": [{"alg": "ES256", "jwk": KEY.public_jwk, "wait": 1}, {"jwk": PRIVATE_JWK}],
        "AgentLogins.folder": [place / "logins", "logins"],
        "AgentLogins.endpoint": [raising],
        "AgentRules.keys": [()],
        "AgentRules.accounts": [()],
        "AgentTokens.account": ["work"],
        "AgentTokens.client": [dpop.agent.AgentClient(place / "none.sock")],
        "AgentTokens.fallback": [None, lambda: token, raising],
        "AgentRules.path": [place / "agent.toml"],
        "AuditLog.target": [place / "none" / "audit.jsonl"],
        "KeyRules.name": ["work"],
        "KeyRules.uri": [str(pem)],
        "listen.path": [place / "none" / ("x" * 200)],
        "read_rules.path": [place / "none.toml"],
        "NonceCache.key": [dpop.client.NonceKey(KEY.thumbprint, dpop.htu.Origin.parse(API), dpop.Role.AS)],
        "MemoryReplayCache.key": [secret("jti")],
        "RedisReplayCache.key": [secret("jti")],
        "AsyncRedisReplayCache.key": [secret("jti")],
        "FileTokenStore.key": [secret("key").encode()],
        "RedisTokenStore.key": [secret("key").encode()],
        "Sealer.key": [secret("key").encode(), b"k" * 32],
        "AwsKms.key": ["alias/x"],
        "GcpKms.key": ["x"],
        "AzureKeyVault.key": ["https://x.vault.azure.net/keys/a"],
        "FileLock.path": [place / "none" / "x.lock", place / "x.lock"],
        "FileTokenStore.path": [damaged, place / "none" / "t.json"],
        "ProtectedResource.token": [raising, araising, lambda _token: token],
        "ProtectedResource.url": [API],
        "NonceIssuer.nonces": [None],
        "DPoPMiddleware.scope": [_scope()],
        "access.scope": [_scope()],
        "SharedCredentials.source": [raising],
        "Credentials.request": [raising],
        "SharedCredentials.request": [raising],
        "ProofFlow.received.status": [401],
        "Response.status": [401],
        "HTTPResponse.status": [400],
        "HTTPRequest.body": [secret("code").encode()],
        "Grants.more": [{}],
        "Access.proof": [None],
        "VerifiedProof.claims": [None],
        "Prover.jti": [raising],
        "Pkcs11Uri.token": ["device"],
        "Origin.text": ["not an origin"],
        "parse.text": ["not an origin"],
    }


def _environ() -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/r",
        "HTTP_DPOP": PROOF,
        "HTTP_AUTHORIZATION": f"DPoP {secret('token')}",
        "wsgi.url_scheme": "https",
    }


def _scope() -> dict[str, Any]:
    fields = [(b"authorization", f"DPoP {secret('token')}".encode()), (b"dpop", PROOF.encode())]
    return {"type": "http", "method": "GET", "path": "/r", "raw_path": b"/r", "headers": fields, "scheme": "https"}


def _stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


class Entry(NamedTuple):
    """A public function, class, or method.

    :param owner: the class of a method that needs an instance.
    """

    name: str
    call: Callable[..., Any]
    owner: type | None

    def parameters(self) -> list[inspect.Parameter]:
        """Those that a caller gives."""
        try:
            found = list(inspect.signature(self.call).parameters.values())
        except (TypeError, ValueError):
            return []
        return [each for each in found if each.name != "self" and each.kind is not each.VAR_POSITIONAL]


def entries() -> Iterator[Entry]:
    """Every entry point, once."""
    seen: set[int] = set()
    for face in faces():
        for name in face.__all__:
            value = getattr(face, name)
            if id(value) in seen:
                continue
            seen.add(id(value))
            full = f"{face.__name__}.{name}"
            if inspect.isclass(value):
                if issubclass(value, BaseException | enum.Enum | dict | str) or getattr(value, "_is_protocol", False):
                    continue
                if not inspect.isabstract(value):
                    yield Entry(full, value, None)
                yield from _methods(full, value)
            elif inspect.isroutine(value):
                yield Entry(full, value, None)


def _methods(name: str, owner: type) -> Iterator[Entry]:
    seen: set[str] = set()
    for base in owner.__mro__:
        if base.__module__.partition(".")[0] != "dpop":
            continue
        for member, value in vars(base).items():
            if member in seen or (member.startswith("_") and member not in {"__call__", "__enter__"}):
                continue
            seen.add(member)
            if isinstance(value, classmethod | staticmethod):
                yield Entry(f"{name}.{member}", getattr(owner, member), None)
            elif inspect.isfunction(value):
                yield Entry(f"{name}.{member}", value, owner)


# --- what is looked at

# A JWT of our own making, which no needle knows.
_JWT = re.compile(r"eyJ[\w-]{20,}\.eyJ[\w-]{20,}")


def secrets_in(text: str) -> list[str]:
    """The secrets in a text, each with what stands around it."""
    found = [text.find(needle) for needle in NEEDLES if needle in text]
    found += [match.start() for match in [_JWT.search(text)] if match]
    return [f"…{text[max(0, start - 200) : start + 60]}…" for start in found]


def shown_by(error: BaseException) -> str:
    """All that a crash reporter gets: the frames below this file with their variables, and the error's own things."""
    texts = []
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for each in chain:
        below = [
            frame for frame, _ in traceback.walk_tb(each.__traceback__) if _carries(frame.f_globals.get("__name__", ""))
        ]
        for frame in below:
            texts += [
                f"{frame.f_code.co_qualname}: {name} = {as_text(value)}" for name, value in frame.f_locals.items()
            ]
        texts += [str(each), repr(each)]
        texts += [f"{name} = {as_text(value)}" for name, value in vars(each).items()]
    return "\n".join(texts)


def as_text(value: Any) -> str:
    """As a crash reporter prints it: an object that is half made has no text."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - any
        return "<no text>"


def _carries(module: str) -> bool:
    """Whether it is a module of ours, or of a library that sends for us; the frames of tests hold their own secrets."""
    return module.partition(".")[0] in {
        "dpop",
        "requests",
        "urllib3",
        "http",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "aiohttp",
    }


@contextlib.contextmanager
def logging_all() -> Iterator[list[str]]:
    """The texts of what is logged at DEBUG: by us as it is, by others through the filter that we offer."""
    texts: list[str] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            texts.append(self.format(record))

    own, others = Keeping(0), Keeping(0)
    own.addFilter(lambda record: record.name.partition(".")[0] == "dpop")
    others.addFilter(lambda record: record.name.partition(".")[0] not in {"dpop", "asyncio"})
    others.addFilter(dpop.redaction.RedactingFilter())
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    for handler in (own, others):
        root.addHandler(handler)
    try:
        yield texts
    finally:
        for handler in (own, others):
            root.removeHandler(handler)
        root.setLevel(level)
