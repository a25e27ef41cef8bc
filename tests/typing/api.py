# SPDX-License-Identifier: Apache-2.0
"""Uses of the public interface that type checkers must accept; checked, never executed."""

from __future__ import annotations

from collections.abc import Mapping
from wsgiref import simple_server

import httpx
import httpx2
import redis
import requests

import dpop
import dpop.agent
import dpop.asgi
import dpop.google
import dpop.httpx
import dpop.httpx2
import dpop.redis
import dpop.requests
import dpop.starlette
import dpop.wsgi
from dpop.keys import ExternalKey, SoftwareKey, as_cryptography_key
from dpop.keys.kms import KmsKey
from dpop.keys.kms._aws import AwsKms
from dpop.keys.pkcs11 import DeviceReport, Pkcs11Key, Pkcs11Uri, generate_key, list_devices, open_key
from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource
from dpop.tokens import FileTokenStore, MemoryTokenStore, PrivateKeyJWT, ServerMetadata, TokenSet, TokenStore

key = dpop.generate_key()
loaded: dpop.Key = dpop.load_key("key.pem", password="secret")
proof: str = dpop.create_proof(key, "GET", "https://api.example", access_token="token", claims={"a": 1})
prover = dpop.Prover(loaded, algs=["ES256"])


class OwnKey:
    """A signer of one's own."""

    alg = "ES256"
    public_jwk: Mapping[str, str] = {}
    thumbprint = ""
    blocking = True

    def sign(self, signing_input: bytes, /) -> bytes:
        """Sign."""
        return signing_input


class Source:
    """A token source of one's own."""

    def __call__(self) -> str:
        """A token."""
        return "token"

    def refused(self, token: str, /) -> None:
        """Refresh."""


async def token() -> str:
    """An asynchronous source."""
    return "token"


own: dpop.Key = OwnKey()
in_a_token: Pkcs11Key = open_key(Pkcs11Uri(token="t", object="k"), password=lambda: "1234", sessions=2)
as_any_other: dpop.Key = generate_key("pkcs11:token=t;object=k", password=b"1234")
there: list[DeviceReport] = list_devices()
external: dpop.Key = ExternalKey(own.public_jwk, own.sign, signature_format="raw", reference="own:key")
in_cloud: dpop.Key = KmsKey.open(AwsKms("alias/dpop", client=lambda: None), alg="ES256")
private = as_cryptography_key(in_cloud)
lent: dpop.Key = SoftwareKey.from_private_key(private)
session = requests.Session()
session.mount(
    "https://", dpop.requests.DPoPAdapter(own, origins="https://api.example", access_token=Source(), max_retries=3)
)
session.get("https://api.example", auth=dpop.requests.DPoPAuth(prover, "token"))
httpx.Client(
    transport=dpop.httpx.DPoPTransport(key, origins=["https://api.example"], http2=True), auth=dpop.httpx.DPoPAuth(key)
)
httpx2.Client(
    transport=dpop.httpx2.DPoPTransport(key, origins="https://api.example", retries=1, access_token=lambda: "t")
)
httpx2.AsyncClient(transport=dpop.httpx2.AsyncDPoPTransport(key, origins="https://api.example", access_token=token))
verifier = ProofVerifier(replay=MemoryReplayCache())
seen = verifier.verify_resource([("DPoP", proof)], "GET", "https://api.example", access_token="token", bound_jkt="jkt")
jkt: str = seen.jkt
shared = dpop.redis.RedisReplayCache(redis.Redis(), when_down="refuse")
fallback = dpop.redis.RedisReplayCache(redis.Redis(), when_down=MemoryReplayCache())
everywhere = ProofVerifier(replay=shared, nonces=NonceIssuer(b"0" * 32, single_use=fallback))


async def introspect(token: str) -> dict[str, object] | None:
    """A look-up of one's own."""
    return {"active": True} if token else None


async def asgi_app(_scope: dpop.asgi.Scope, _receive: dpop.asgi.Receive, _send: dpop.asgi.Send) -> None:
    """An application."""


api = ProtectedResource(everywhere, url="https://api.example", token=introspect)
wrapped: dpop.asgi.Application = dpop.asgi.DPoPMiddleware(asgi_app, api)
dependency = dpop.starlette.require_access("read")
wsgi_app = dpop.wsgi.DPoPMiddleware(simple_server.demo_app, api)

store: TokenStore = MemoryTokenStore()
store = FileTokenStore("tokens.json", password="secret")
endpoint = dpop.requests.TokenEndpoint(
    key, "https://as.example/token", client_id="c", client_secret="s", profile=dpop.profiles.GOOGLE, http=session
)
tokens: TokenSet = endpoint.redeem_code("code", redirect_uri="https://app.example", code_verifier="v")
tokens = endpoint.refresh(tokens, resource=["https://a.example", "https://b.example"])
refreshing = endpoint.source(store, account="alice", ahead=60)
fresh: str = refreshing()
session.mount(
    "https://api.example/", dpop.requests.DPoPAdapter(key, origins="https://api.example", access_token=refreshing)
)


async def asynchronous() -> str:
    """The same for tasks."""
    server = ServerMetadata(token_endpoint="https://as.example/token")
    async with dpop.httpx2.AsyncTokenEndpoint(prover, server, client_auth=PrivateKeyJWT("c", key)) as endpoint:
        source = endpoint.source(store, grant="client_credentials", scope="read")
        transport = dpop.httpx2.AsyncDPoPTransport(key, origins="https://api.example", access_token=source)
        httpx2.AsyncClient(transport=transport)
        return await source() + await source.atoken() + (await endpoint.grant("urn:x", scope="a")).access_token


google_credentials = dpop.google.Credentials("token", refresh_token="refresh", key=key, key_reference="key.pem")
google_variant: dpop.google.Credentials = google_credentials.with_key(loaded)
google_jkt: str | None = google_variant.jkt
google_flow: dpop.google.InstalledAppFlow = dpop.google.InstalledAppFlow.from_client_config({}, ["openid"], key=key)
google_made: dpop.google.Credentials = google_flow.bind(prover).credentials
google_shared = dpop.google.SharedCredentials(
    dpop.requests.TokenEndpoint(key, "https://as.example/token", client_id="id").source(MemoryTokenStore())
)

# A token source in the signing agent, with a store or another source for the time without it.
from_agent: dpop.TokenSource = dpop.agent.AgentTokens("work", fallback=store)
dpop.agent.AgentTokens("work", fallback=refreshing)
dpop.agent.AgentLogins("/srv/logins", dpop.requests.TokenEndpoint)
requests.Session().mount(
    "https://api.example/", dpop.requests.DPoPAdapter(key, origins="https://api.example", access_token=from_agent)
)
