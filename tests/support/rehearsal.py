# SPDX-License-Identifier: Apache-2.0
"""Play a server from the transcript of a rehearsal, and go through the same steps with the library."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from dpop_cli.commands.rehearse.transcript import FORMAT
from support.recorder import Received, Recorder, Response

import dpop
from dpop.client import NonceKey, Role
from dpop.encoding import b64url_decode
from dpop.errors import DPoPError
from dpop.origin import Origin
from dpop.requests import TokenEndpoint
from dpop.tokens import ServerMetadata

__all__ = ["PlayedServer", "replayed"]

_PROFILES = {each.name: each for each in map(dpop.profiles.Profile.load, dpop.profiles.NAMES)}


class PlayedServer:
    """Gives the recorded responses one after the other, and compares each request with the one that was recorded.

    :param steps: the names of the steps to play.
    """

    def __init__(self, transcript: dict[str, Any], steps: tuple[str, ...]) -> None:
        assert transcript["format"] == FORMAT
        self.transcript = transcript
        self.left = [
            exchange
            for step in transcript["steps"]
            if step["name"] in steps
            for exchange in step["exchanges"]
            if "proof" in exchange["request"] or step["name"] == "revoke"
        ]
        self.differences: list[str] = []
        self._recorder = Recorder(self._respond)

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._recorder.__exit__(None, None, None)

    @property
    def metadata(self) -> ServerMetadata:
        """The recorded endpoints, at this server."""
        server = self.transcript["server"].items()
        urls = {name: self._recorder.origin + urlsplit(url).path for name, url in server if name.endswith("_endpoint")}
        return ServerMetadata(**urls)

    def _respond(self, request: Received) -> Response:
        if not self.left:
            self.differences.append(f"one request more: {request.line}")
            return Response(500)
        exchange = self.left.pop(0)
        asked, given = exchange["request"], exchange["response"]
        expected, got = _recorded(asked), _sent(request)
        if expected != got:
            self.differences.append(f"expected {expected}, got {got}")
        body = json.dumps(given["json"]).encode() if "json" in given else b""
        headers = [(name, value) for name, value in given["headers"] if name.lower() != "content-length"]
        kept = {"content-type", "dpop-nonce", "www-authenticate", "cache-control"}
        return Response(given["status"], [each for each in headers if each[0].lower() in kept], body)


def _recorded(request: dict[str, Any]) -> tuple[Any, ...]:
    """What of a recorded request a later client must send again."""
    claims = request.get("proof", {}).get("claims", {})
    form = dict(map(tuple, request.get("form", [])))
    return (request["method"], urlsplit(request["url"]).path, form.get("grant_type"), claims.get("nonce"))


def _sent(request: Received) -> tuple[Any, ...]:
    """The same of a request that came in."""
    proof = next(iter(request.all("DPoP")), None)
    claims = json.loads(b64url_decode(proof.split(".")[1])) if proof else {}
    form = parse_qs(request.body.decode())
    return (request.method, request.target, form.get("grant_type", [None])[0], claims.get("nonce"))


def replayed(path: Path) -> list[str]:
    """Go through refresh, nonce, wrong key and revocation against a transcript; return what differs from it."""
    transcript = json.loads(path.read_text("utf-8"))
    key = dpop.generate_key(transcript["alg"])
    secret = None if transcript["public_client"] else "a-secret"
    settings = {"client_id": "app", "client_secret": secret, "profile": _PROFILES[transcript["profile"]]}
    if secret is not None:
        settings["client_auth"] = "client_secret_post"
    differences = []
    calls: dict[str, Callable[[TokenEndpoint], object]] = {
        "nonce": lambda endpoint: endpoint.refresh("a-refresh-token"),
        "wrong key": lambda endpoint: endpoint.refresh("a-refresh-token"),
        "revoke": lambda endpoint: endpoint.revoke("a-refresh-token"),
    }
    played = {step["name"] for step in transcript["steps"]}
    for name, call in calls.items():
        if name not in played:
            continue
        with PlayedServer(transcript, (name,)) as server, TokenEndpoint(key, server.metadata, **settings) as endpoint:
            refused = server.left[-1]["response"]["status"] >= 400
            before = server.left[0]["request"].get("proof", {}).get("claims", {}).get("nonce")
            if before is not None:  # an earlier step had got it
                place = NonceKey(key.thumbprint, Origin.of_url(endpoint.server.token_endpoint), Role.AS)
                endpoint.prover.nonces.learn(place, before)
            with contextlib.suppress(DPoPError) if refused else contextlib.nullcontext():
                call(endpoint)
            differences += [f"{name}: {each}" for each in server.differences]
            differences += [f"{name}: not sent: {_recorded(each['request'])}" for each in server.left]
    return differences
