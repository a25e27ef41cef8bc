# SPDX-License-Identifier: Apache-2.0
"""What a crash reporter, which sends the variables of every frame, gets to see of keys, tokens and proofs: nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
from support.recorder import Recorder, Response, script
from yarl import URL

import dpop
import dpop.aiohttp
import dpop.httpx
import dpop.httpx2
import dpop.requests
from dpop._tracebacks import hide_frames
from dpop.aiohttp import DPoPClientMiddleware
from dpop.client import Policy
from dpop.errors import DPoPError, KeyAccessDeniedError, KeyFileError, UsageError
from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier, ProtectedResource, ResourceRequest
from dpop.tokens import ClientSecretBasic, ClientSecretPost, FileTokenStore, TokenSet
from dpop.wsgi import DPoPMiddleware

PASSWORD = "correct horse"


def frames(error: BaseException | None) -> Iterator[dict[str, Any]]:
    """The local variables of each frame of an error and of what it was made from, this file's own left out."""
    if error is None:
        return
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            yield trace.tb_frame.f_locals
        trace = trace.tb_next
    yield from frames(error.__cause__)
    yield from frames(error.__context__)


@pytest.fixture
def pem(tmp_path: Path) -> str:
    """A key in a file."""
    dpop.generate_key().save(tmp_path / "key.pem")
    return (tmp_path / "key.pem").read_text("ascii")


def damaged(directory: Path, pem: str) -> Path:
    """A file of a private key that is cut."""
    path = directory / "damaged.pem"
    path.touch(0o600)
    path.write_text(pem[:-30], "ascii")
    return path


def test_a_key_file_that_cannot_be_read(tmp_path: Path, pem: str) -> None:
    """Neither its bytes nor a password that was asked for are in any frame of the error."""
    dpop.generate_key().save(tmp_path / "locked.pem", password=PASSWORD)
    plain, locked = tmp_path / "key.pem", tmp_path / "locked.pem"
    attempts: list[Callable[[], object]] = [
        lambda: dpop.load_key(damaged(tmp_path, pem)),
        lambda: dpop.load_key(plain, password="needless"),
        lambda: dpop.load_key(plain, alg="PS256"),
        lambda: dpop.load_key(locked),
        lambda: dpop.load_key(locked, password=lambda: PASSWORD[::-1]),
    ]
    secrets = (pem.splitlines()[1], PASSWORD[::-1], locked.read_text("ascii").splitlines()[1])
    for attempt in attempts:
        with pytest.raises(DPoPError) as raised:
            attempt()
        shown = repr(list(frames(raised.value)))
        assert not any(secret in shown for secret in secrets)


def test_a_key_that_cannot_be_written(tmp_path: Path) -> None:
    """The bytes that were to be written are in no frame, and the reason is still there."""
    key = dpop.generate_key()
    with pytest.raises(KeyFileError, match="No such file") as raised:
        key.save(tmp_path / "nowhere" / "key.pem")
    assert "PRIVATE KEY" not in repr(list(frames(raised.value)))
    assert isinstance(raised.value.__cause__, FileNotFoundError)


# -- every public entry point ---------------------------------------------------------------------

TOKEN, NONCE, SECRET = "acc3ss-t0ken", "n0nce-0f-a-server", "cl1ent-s3cret"
KEY = dpop.generate_key()
API = "https://api.example"
PROOF = dpop.create_proof(KEY, "GET", f"{API}/r", access_token=TOKEN, nonce=NONCE)


class DeadKey:
    """A device that is locked, or gives rubbish for a signature."""

    alg, public_jwk, thumbprint, blocking = "ES256", KEY.public_jwk, KEY.thumbprint, False

    def __init__(self, signature: bytes | None = None) -> None:
        self.signature = signature

    def sign(self, signing_input: bytes, /) -> bytes:
        if self.signature is None:
            raise KeyAccessDeniedError("the device is locked")
        return self.signature


def at_a_server(integration: Any, kind: str, key: Any, token: Any, target: str = "/r") -> None:
    """One signed request that cannot be made."""
    with Recorder(script(Response())) as server:
        try:
            send(integration, kind, key, token, origin=server.origin, target=target)
        finally:
            assert server.requests == []


def send(integration: Any, kind: str, key: Any, token: Any, *, origin: str, target: str) -> None:
    if integration is dpop.requests:
        with requests.Session() as session:
            adapter = dpop.requests.DPoPAdapter(key, origins=origin, access_token=token)
            session.mount(origin, adapter)
            request = requests.Request("GET", f"{origin}/").prepare()
            request.url = origin + target
            if kind == "prime":
                adapter.prime(origin)
            session.send(request)
        return
    if integration is dpop.aiohttp:

        async def by_aiohttp() -> None:
            middleware = dpop.aiohttp.DPoPClientMiddleware(key, origins=origin, access_token=token)
            async with aiohttp.ClientSession(middlewares=[middleware]) as session:
                if kind == "prime":
                    await middleware.prime(session, origin)
                await session.get(URL(origin + target, encoded=True))

        asyncio.run(by_aiohttp())
        return
    library: Any = httpx if integration is dpop.httpx else httpx2
    if kind == "async":

        async def asend() -> None:
            transport = integration.AsyncDPoPTransport(key, origins=origin, access_token=token)
            async with library.AsyncClient(transport=transport, timeout=60) as client:
                await client.get(origin + target)

        asyncio.run(asend())
        return
    transport = integration.DPoPTransport(key, origins=origin, access_token=token)
    if kind == "prime":
        transport.prime(origin)
    with library.Client(transport=transport, timeout=60) as client:
        client.get(origin + target)


def verifier() -> ProofVerifier:
    return ProofVerifier(replay=MemoryReplayCache(), nonces=NonceIssuer(b"0" * 32))


def resource(lookup: Callable[[str], Any]) -> ProtectedResource:
    return ProtectedResource(verifier(), url=API, token=lookup)


def of_a_request(proof: str = PROOF) -> ResourceRequest:
    fields = [(b"authorization", f"DPoP {TOKEN}".encode()), (b"dpop", proof.encode())]
    return ResourceRequest(method="GET", target="/r", path="/r", headers=fields)


ASYNCHRONOUS = {"aiohttp": dpop.aiohttp, "httpx": dpop.httpx, "httpx2": dpop.httpx2}
INTEGRATIONS = {"requests": dpop.requests, "httpx": dpop.httpx, "httpx2": dpop.httpx2}
HEADERS = [("DPoP", PROOF), ("Authorization", f"DPoP {TOKEN}")]
CALLS: dict[str, Callable[[], object]] = {
    "create_proof, locked key": lambda: dpop.create_proof(DeadKey(), "GET", API, access_token=TOKEN, nonce=NONCE),
    "create_proof, rubbish": lambda: dpop.create_proof(DeadKey(b"x"), "GET", API, access_token=TOKEN, nonce=NONCE),
    "create_proof, token": lambda: dpop.create_proof(KEY, "GET", API, access_token=TOKEN + "\n", nonce=NONCE),
    "create_proof, nonce": lambda: dpop.create_proof(KEY, "GET", API, access_token=TOKEN, nonce=NONCE + " "),
    "create_proof, target": lambda: dpop.create_proof(
        KEY, "GET", "ftp://api.example/", access_token=TOKEN, nonce=NONCE
    ),
    "Prover.ath": lambda: dpop.Prover(KEY).ath(TOKEN + "\n"),
    "with_credentials": lambda: DPoPClientMiddleware(KEY, origins=API).with_credentials(KEY, TOKEN + "\n"),
    "aiohttp, prime": lambda: at_a_server(dpop.aiohttp, "prime", DeadKey(), TOKEN),
    "RequestCredentials": lambda: dpop.RequestCredentials(KEY, TOKEN + "\n"),
    "Policy": lambda: Policy(KEY, origins=API, access_token=TOKEN + "\n"),
    "verify_resource": lambda: verifier().verify_resource(
        HEADERS, "GET", f"{API}/other", access_token=TOKEN, bound_jkt=KEY.thumbprint
    ),
    "averify_resource": lambda: asyncio.run(
        verifier().averify_resource(HEADERS, "GET", f"{API}/other", access_token=TOKEN, bound_jkt=KEY.thumbprint)
    ),
    "verify_token_request": lambda: verifier().verify_token_request(HEADERS, "POST", f"{API}/r"),
    "averify_token_request": lambda: asyncio.run(verifier().averify_token_request(HEADERS, "POST", f"{API}/r")),
    "check_resource": lambda: verifier().check_resource(HEADERS, "GET", f"{API}/x", access_token=TOKEN),
    "check_token_request": lambda: verifier().check_token_request(HEADERS, "POST", f"{API}/x"),
    "accept": lambda: (
        ProofVerifier(replay=MemoryReplayCache())
        .check_resource(HEADERS, "GET", f"{API}/r", access_token=TOKEN)
        .accept(bound_jkt="other")
    ),
    "admit": lambda: resource(lambda _token: {"cnf": {"jkt": KEY.thumbprint}}).admit(of_a_request()),
    "admit, unknown token": lambda: resource(lambda _token: None).admit(of_a_request()),
    "aadmit": lambda: asyncio.run(resource(lambda _token: None).aadmit(of_a_request())),
    "NonceIssuer": lambda: NonceIssuer(SECRET.encode()),
    "TokenSet": lambda: TokenSet(access_token=TOKEN, refresh_token=SECRET, resource="x"),  # type: ignore[arg-type]
    "TokenSet.from_dict": lambda: TokenSet.from_dict({"access_token": TOKEN, "expires_at": "x"}),
    "ClientSecretPost": lambda: ClientSecretPost("", SECRET),
    "ClientSecretBasic": lambda: ClientSecretBasic("", SECRET),
    "FileTokenStore": lambda: FileTokenStore("t.json", password=[SECRET]),  # type: ignore[arg-type]
    **{
        f"{name}, {what}": partial(call, integration)
        for name, integration in INTEGRATIONS.items()
        for what, call in {
            "auth": lambda integration: integration.DPoPAuth(KEY, TOKEN + "\n"),
            "endpoint": lambda integration: integration.TokenEndpoint(
                KEY, "http://as.example/", client_id="c", client_secret=SECRET
            ),
            "locked key": lambda integration: at_a_server(integration, "sync", DeadKey(), TOKEN),
            "rubbish": lambda integration: at_a_server(integration, "sync", DeadKey(b"x"), TOKEN),
            "target": lambda integration: at_a_server(integration, "sync", KEY, TOKEN, "/a/%2e%2e/b"),
            "source": lambda integration: at_a_server(integration, "sync", KEY, lambda: TOKEN + "\n"),
            "prime": lambda integration: at_a_server(integration, "prime", DeadKey(), TOKEN),
        }.items()
    },
    **{
        f"{name}, async {what}": partial(at_a_server, ASYNCHRONOUS[name], "async", *arguments)
        for name in ("aiohttp", "httpx", "httpx2")
        for what, arguments in {
            "locked key": (DeadKey(), TOKEN),
            "rubbish": (DeadKey(b"x"), TOKEN),
            "target": (KEY, TOKEN, "/a/%2e%2e/b"),
            "source": (KEY, lambda: TOKEN + "\n"),
        }.items()
    },
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_no_public_entry_point_shows_a_secret(name: str) -> None:
    """A traceback with the variables of each frame of the library holds no token, secret, proof or nonce."""
    with pytest.raises(DPoPError) as raised:
        CALLS[name]()
    shown = "\n".join(f"{variable} = {value!r}" for frame in frames(raised.value) for variable, value in frame.items())
    shown += str(raised.value) + repr(raised.value)
    assert [secret for secret in (TOKEN, NONCE, SECRET, PROOF, PROOF.split(".")[1]) if secret in shown] == []


class Interrupted(DeadKey):
    """A key during whose signature the process is told to end, as a server does with a worker that takes too long."""

    def sign(self, _signing_input: bytes, /) -> bytes:
        raise SystemExit(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dpop.create_proof(Interrupted(), "GET", API, access_token=TOKEN, nonce=NONCE),
        lambda: at_a_server(dpop.requests, "sync", Interrupted(), TOKEN),
        lambda: at_a_server(dpop.httpx2, "sync", Interrupted(), TOKEN),
        lambda: at_a_server(dpop.httpx2, "async", Interrupted(), TOKEN),
        lambda: at_a_server(dpop.aiohttp, "async", Interrupted(), TOKEN),
        lambda: ProtectedResource(
            ProofVerifier(replay=MemoryReplayCache()), url=API, token=lambda _token: sys.exit(1)
        ).admit(of_a_request(dpop.create_proof(KEY, "GET", f"{API}/r", access_token=TOKEN))),
        lambda: DPoPMiddleware(
            lambda _environ, _start: sys.exit(1),
            ProtectedResource(ProofVerifier(replay=MemoryReplayCache()), url=API, token=dict, public=lambda _: True),
        )(
            {"REQUEST_METHOD": "GET", "PATH_INFO": "/r", "HTTP_AUTHORIZATION": f"DPoP {TOKEN}", "HTTP_DPOP": PROOF},
            print,  # type: ignore[arg-type]
        ),
    ],
    ids=["create_proof", "requests", "httpx2", "httpx2, async", "aiohttp", "admit", "wsgi"],
)
def test_an_interrupt_shows_no_secret(call: Callable[[], object]) -> None:
    """SystemExit of a worker's timeout, and KeyboardInterrupt: crash reporters send the variables of these, too."""
    with pytest.raises(SystemExit) as raised:
        call()
    shown = repr(list(frames(raised.value)))
    assert [secret for secret in (TOKEN, NONCE, PROOF.split(".")[1]) if secret in shown] == []


def test_generators_are_stripped_too() -> None:
    """Steps are generators: what they raise when they are carried on shows no frame of theirs."""

    @hide_frames
    def steps() -> Iterator[int]:
        hidden = SECRET
        yield len(hidden)
        raise UsageError("shown")

    with pytest.raises(UsageError) as raised:
        list(steps())
    assert SECRET not in repr([frame for trace in raised.traceback for frame in [trace.frame.f_locals]][-1:])


def test_a_hidden_context_is_forgotten() -> None:
    """An error raised from None keeps, out of sight, the one it hides: that goes too; any other error is left."""

    @hide_frames
    def fail() -> None:
        try:
            raise ValueError("hidden")
        except ValueError:
            raise UsageError("shown") from None

    with pytest.raises(UsageError, match="shown") as raised:
        fail()
    assert raised.value.__context__ is None

    @hide_frames
    def turn() -> None:
        error = ValueError("it says that it caused itself")
        error.__cause__ = error
        raise UsageError("from a circle") from error

    with pytest.raises(UsageError, match="from a circle"):
        turn()

    @hide_frames
    def crash() -> None:
        raise RuntimeError("whole")

    with pytest.raises(RuntimeError) as crashed:
        crash()
    assert crashed.traceback[-1].name == "crash"
