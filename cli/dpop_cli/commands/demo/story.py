# SPDX-License-Identifier: Apache-2.0
"""The five steps of the demo, with servers of its own; each step checks its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import dpop
from dpop.client import Policy, dpop_challenge
from dpop.testing import DPoPTestServer, Refusal
from dpop_cli.wire.exchange import parts
from dpop_cli.wire.small_client import Exchange, on_the_wire, send

__all__ = ["STEPS", "Scene", "Step", "story"]

STEPS = 5

_REDIRECT_URI = "https://app.example/callback"


@dataclass(slots=True)
class Scene:
    """One request with its response, and the remarks on them.

    :param caption: the line above the request.
    :param form: the form fields to show, in order.
    :param brief: a line that replaces the decoded proof.
    :param notes: remarks on header members and claims that replace the usual ones.
    :param response: remarks on parts of the response, by name.
    :param refusal: the refusal in the server's own log.
    """

    exchange: Exchange
    caption: str = ""
    form: tuple[tuple[str, str], ...] = ()
    brief: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    response: dict[str, str] = field(default_factory=dict)
    refusal: Refusal | None = None

    @property
    def proof(self) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Header and claims of the proof that was sent."""
        proof = self.exchange.sent.get("DPoP")
        return None if proof is None else parts(proof)

    @property
    def claims(self) -> dict[str, Any]:
        """The claims of the proof that was sent; empty without one."""
        return self.proof[1] if self.proof else {}

    @property
    def error(self) -> str:
        """The error code in the body or the challenge of the response."""
        challenge = dpop_challenge(v for name, v in self.exchange.received if name.lower() == "www-authenticate")
        return str(self.exchange.json.get("error") or (challenge or {}).get("error") or "")


@dataclass(slots=True)
class Step:
    """A step of the story. Any ``problems`` mean that its outcome was not the expected one."""

    title: str
    text: str
    scenes: list[Scene] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    moral: str = ""
    problems: list[str] = field(default_factory=list)

    def must(self, holds: object, what: str) -> None:
        """Record a problem unless the condition holds."""
        if not holds:
            self.problems.append(what)


def story(*, google: DPoPTestServer | None = None, api: DPoPTestServer | None = None) -> Iterator[Step]:
    """Run the steps one after the other; each step is complete when it is yielded.

    It needs no network: the servers are threads of this process, on free ports of 127.0.0.1.

    :param google: a test server in Google's mode, not yet started; None for one with the defaults.
    :param api: a server that binds access tokens, not yet started; None for one with the defaults.
    """
    key = dpop.generate_key()
    yield _a_key(key)
    with google or DPoPTestServer(mode="google") as server:
        client = _Google(server, key)
        yield client.redeems_a_code()
        yield client.asks_for_a_nonce()
        yield client.refreshes_for_one_key_only()
    # Without nonces, this step is about tokens only.
    with api or DPoPTestServer(nonces="none") as server:
        yield _an_api_call(server, key)


def _a_key(key: dpop.Key) -> Step:
    step = Step(
        "A key",
        "It is made once and never leaves this program. Every proof contains the public key; its hash, the"
        " thumbprint, binds tokens to the key.",
        facts={
            "algorithm": f"{key.alg}, with the curve {key.public_jwk['crv']}",
            "thumbprint": key.thumbprint,
        },
    )
    step.must(key.thumbprint == dpop.thumbprint(key.public_jwk), "the thumbprint is that of the public key")
    return step


class _Google:
    """A client of a token endpoint that behaves like Google's."""

    def __init__(self, server: DPoPTestServer, key: dpop.Key) -> None:
        self._server = server
        self._key = key
        self._policy = self._policy_of(key)
        self._refresh_token = ""
        self._nonce: str | None = None

    def _policy_of(self, key: dpop.Key) -> Policy:
        return Policy(key, origins=self._server.issuer, profile=dpop.profiles.GOOGLE)

    def _post(self, step: Step, policy: Policy, **form: str) -> list[Scene]:
        """Send a token request; check that the server saw exactly the requests that we sent."""
        seen = len(self._server.requests)
        client = {"client_id": self._server.client_id, "client_secret": self._server.client_secret}
        exchanges = send(policy, "POST", self._server.token_endpoint, {**form, **client})
        on_record = [request.proof for request in self._server.requests[seen:]]
        step.must(on_record == [e.sent["DPoP"] for e in exchanges], "the server saw just these requests")
        return [Scene(exchange) for exchange in exchanges]

    def redeems_a_code(self) -> Step:
        """Exchange an authorization code for tokens, with Google's rule for the first proof."""
        step = Step(
            "A code becomes tokens",
            "The user has agreed, and the server has issued a code. The request that redeems it carries a proof. Google"
            " requires the code's hash as its jti, so that a proof made for one code cannot be used with another.",
        )
        code = self._server.issue_code(redirect_uri=_REDIRECT_URI)
        scenes = self._post(step, self._policy, grant_type="authorization_code", code=code, redirect_uri=_REDIRECT_URI)
        scene = scenes[-1]
        scene.form = (("grant_type", "authorization_code"), ("code", code))
        scene.notes = {"jti": "the code's SHA-256, for Google"}
        scene.response = {
            "access_token": "a bearer token, not bound",
            "refresh_token": "bound to the key: it needs a proof",
            "DPoP-Nonce": "for the next proof",
        }
        step.scenes = scenes
        tokens = scene.exchange.json
        self._refresh_token = str(tokens.get("refresh_token", ""))
        self._nonce = scene.exchange.response_header("DPoP-Nonce")
        step.must(len(scenes) == 1 and scene.exchange.status == 200, "one request, answered with 200")
        step.must(scene.claims.get("jti") == dpop.code_jti(code), "the jti is the hash of the code")
        step.must(tokens.get("token_type") == "Bearer", "the access token is a bearer token")
        step.must(self._refresh_token and self._nonce, "a refresh token and a nonce came")
        return step

    def asks_for_a_nonce(self) -> Step:
        """Let all nonces lapse; the client sends the refresh again with the nonce from the refusal."""
        step = Step(
            "The server wants a nonce of its own",
            "Time passes, and all earlier nonces lapse. So the next request is refused, and the refusal"
            " brings a new nonce. The client makes a second proof with it. The caller notices nothing; these two"
            " requests were on the wire:",
        )
        self._server.levers.lapse()
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        step.scenes = self._post(step, self._policy, **form)
        step.must([s.exchange.status for s in step.scenes] == [400, 200], "two requests, answered with 400 and 200")
        if step.problems:
            return step
        first, second = step.scenes
        first.form = second.form = tuple(form.items())
        first.notes = {"nonce": "the one from before, lapsed"}
        first.response = {"DPoP-Nonce": "a new one, for the second try"}
        second.notes = {"jti": "another: no proof is sent twice", "nonce": "the one that just came"}
        second.response = {"access_token": "fresh", "DPoP-Nonce": "for the next proof"}
        step.must(first.claims.get("nonce") == self._nonce, "the first proof carries the nonce of the last response")
        step.must(first.error == "use_dpop_nonce", "the refusal asks for a nonce")
        step.must(
            second.claims.get("nonce") == first.exchange.response_header("DPoP-Nonce"),
            "the second carries the new nonce",
        )
        step.must(first.claims["jti"] != second.claims["jti"], "the two proofs have different identifiers")
        self._nonce = second.exchange.response_header("DPoP-Nonce")
        return step

    def refreshes_for_one_key_only(self) -> Step:
        """Refresh with the bound key, which works at once, and with another key, which is refused."""
        step = Step(
            "The refresh token works with its key only",
            "The client uses the nonce it learnt, and needs one request. Then somebody else has stolen the refresh"
            " token, and even the client's secret, but has another key.",
        )
        form = {"grant_type": "refresh_token", "refresh_token": self._refresh_token}
        own = self._post(step, self._policy, **form)
        step.must([s.exchange.status for s in own] == [200], "one request, answered with 200")
        step.must(own[0].claims.get("nonce") == self._nonce, "it carries the nonce of the last response")
        own[0].caption = "The client:"
        own[0].form = tuple(form.items())
        own[0].notes = {"nonce": "from the last response"}
        own[0].response = {"access_token": "fresh", "DPoP-Nonce": "for the next proof"}
        thief = self._post(step, self._policy_of(dpop.generate_key()), **form)[-1]
        thief.caption = "Somebody else:"
        thief.form = own[0].form
        thief.notes = {"jwk": "another key", "nonce": "fetched with a request before"}
        thief.refusal = _last_refusal(self._server)
        step.must((thief.exchange.status, thief.error) == (400, "invalid_grant"), "another key gets 400 invalid_grant")
        step.must(thief.refusal and thief.refusal.reason == "key_mismatch", "the reason is the key")
        step.scenes = [own[0], thief]
        return step


def _an_api_call(server: DPoPTestServer, key: dpop.Key) -> Step:
    """Call an API with a bound access token: by its owner, and by a thief in three ways."""
    step = Step(
        "An API call, and a stolen token",
        "Other servers bind access tokens, too. The API then requires a proof with each call, and the proof has the"
        " token's hash. Without the key, the token is useless:",
        moral="A stolen bearer token would have worked. This one did not.",
    )
    form = {"client_id": server.client_id, "client_secret": server.client_secret, "grant_type": "client_credentials"}
    tokens = send(Policy(key, origins=server.issuer), "POST", server.token_endpoint, form)[-1].json
    step.must(tokens.get("token_type") == "DPoP", "the access token is of the type DPoP")
    if step.problems:
        return step
    token = str(tokens["access_token"])
    scene = Scene(send(Policy(key, origins=server.issuer, access_token=token), "GET", server.resource)[-1])
    scene.caption = "The owner:"
    scene.response = {"sub": "who is asking", "jkt": "the key's thumbprint, seen by the API"}
    step.must(scene.exchange.status == 200, "the owner gets 200")
    step.must(scene.exchange.json.get("jkt") == key.thumbprint, "the API saw the owner's key")
    step.must(scene.claims.get("ath") == dpop.access_token_hash(token), "the proof holds the token's hash")
    step.scenes.append(scene)

    stolen = {"Authorization": f"DPoP {token}"}
    with_own_key = dpop.create_proof(dpop.generate_key(), "GET", server.resource, access_token=token)
    attempts = [
        ("A thief tries the token alone:", "no proof", stolen, "proof_missing"),
        (
            "... then with a key of their own:",
            "a proof by another key",
            {**stolen, "DPoP": with_own_key},
            "key_mismatch",
        ),
        ("... then repeats the owner's request:", "the owner's proof, word for word", scene.exchange.sent, "replayed"),
    ]
    for caption, brief, headers, reason in attempts:
        exchange = on_the_wire("GET", server.resource, headers)
        refusal = _last_refusal(server)
        step.scenes.append(Scene(exchange, caption, brief=brief, refusal=refusal))
        step.must(exchange.status == 401, "a thief gets 401")
        step.must(refusal and refusal.reason == reason, f"the thief is refused because of {reason}")
    return step


def _last_refusal(server: DPoPTestServer) -> Refusal | None:
    return server.refusals[-1] if server.refusals else None
