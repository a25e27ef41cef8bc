# SPDX-License-Identifier: Apache-2.0
"""The actions of the playground: a client and a thief at a server; each request with the verdict on its proof."""

from __future__ import annotations

import hashlib
import inspect
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import dpop
from dpop.client import OutgoingRequest, Policy, Prover
from dpop.encoding import b64url_encode
from dpop.errors import DPoPError, UsageError
from dpop.keys import ALGORITHMS, ExternalKey, Key, SoftwareKey
from dpop.origin import Origin
from dpop.profiles import NAMES
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.testing import Refusal
from dpop.tokens import AuthorizationRequest, TokenSet
from dpop_cli.commands.playground.client import Wire
from dpop_cli.commands.playground.code import CodeWriter
from dpop_cli.commands.playground.server import Server, embedded, own_server
from dpop_cli.commands.playground.shown import Refused, checks, form_of, refused, short, shown
from dpop_cli.commands.playground.signer import PageSigner
from dpop_cli.login.browser import login_parameters
from dpop_cli.wire.exchange import parts
from dpop_cli.wire.small_client import Exchange, send_signed

__all__ = ["Session"]

_REDIRECT_URI: Final = "https://app.example/callback"
_LEVER_ACTIONS: Final = (
    "clear", "drop_next", "fail_next", "hold_streams", "lapse", "redirect_next", "refuse_next", "release_streams",
    "rotate_keys",
)  # fmt: skip
_AGAIN: Final = "The client sends it again, with a new proof that has the server's nonce."


class Session:
    """The client of the page's user with its key and tokens, a thief, and the test server. A context manager."""

    def __init__(self) -> None:
        self._signer = PageSigner()
        self._actions: dict[str, Callable[..., None]] = {
            "login": self._log_in,
            "redeem": self._redeem,
            "call": self._call,
            "refresh": self._refresh,
            "revoke": self._revoke,
            "steal-token": self._steal_token,
            "steal-with-key": self._steal_with_key,
            "replay": self._replay,
            "change-url": self._change_url,
            "drift": self._drift,
            "state": lambda: None,
            "restart": self._restart,
            "mode": self._use_mode,
            "lapse": lambda: self._set_lever(name="lapse", value=True),
            "lever": self._set_lever,
            "own": self._use_own,
        }
        self._page = ""
        self._shown: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._test_server = embedded("rfc9449").start()
        self._code = CodeWriter()
        self._server = Server.of_test_server(self._test_server)
        self._begin(dpop.generate_key())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signer.stop()
        self._test_server.stop()
        self._code.close()

    def act(self, name: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        """Do one action; return its requests, the new state, and the problem if there was one; without secrets.

        If the key is in the page, it may return ``{"sign": DATA}`` instead; the action ``signed`` then goes on.

        :raises UsageError: there is no such action.
        """
        if name == "signed":
            return self._signer.go_on(arguments.get("signature"))
        return self._signer.begin(lambda: self._act(name, _checked(arguments)))

    def _act(self, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        action = self._actions.get(name)
        if action is None or not _fits(action, arguments):
            raise UsageError("the playground has no such action")
        self._shown, self._caption, self._is_attack = [], "", False
        problem = ""
        try:
            action(**arguments)
        except DPoPError as error:
            problem = str(error)
        return {"requests": self._shown, "state": self._state(), "problem": problem}

    def served_at(self, origin: str) -> None:
        """Take the origin of the page, to which the user's own server sends the browser back."""
        self._page = origin

    def called_back(self, query: str) -> bool:
        """Take the response to a login at the user's own server; whether it belongs to the login that is waiting."""
        request, server = self._login, self._client.grants.server
        if request is None or self._server.test_server is not None:
            return False
        try:
            request.code_of(query, issuer=server.issuer, iss_required=server.iss_in_responses)
        except DPoPError:
            return False
        self._callback = query
        return True

    # --- which server, which key

    def _begin(self, key: Key) -> None:
        self._key = key
        self._prover = Prover(key)
        self._wire = Wire(self._server.origins, self._see)
        self._client = self._server.client(self._prover, self._wire)
        self._login: AuthorizationRequest | None = None
        self._callback = ""
        self._tokens: TokenSet | None = None
        self._called: Exchange | None = None
        self._revoked = False
        self._refusal = self._latest_refusal()
        self._nonce: str | None = None
        if isinstance(key, SoftwareKey):
            self._code.put_key(key)
        # For the page, which shows what each check says. The server has a replay cache of its own.
        behaviour = self._server.profile.server
        self._verifier = ProofVerifier(
            replay=MemoryReplayCache(),
            algs=ALGORITHMS,
            clock=self._server.clock,
            max_age=behaviour.max_age,
            skew=behaviour.skew,
        )

    def _restart(self, *, jwk: Mapping[str, object] | None = None) -> None:
        """Begin anew with a new key.

        :param jwk: the public half of a key that the page made; without it, a new key is made here.
        """
        self._begin(dpop.generate_key() if jwk is None else ExternalKey(jwk, self._signer.sign, signature_format="raw"))

    def _use(self, server: Server) -> None:
        before, self._server = self._server, server
        try:
            self._begin(dpop.generate_key())
        except DPoPError:
            self._server = before
            self._begin(dpop.generate_key())
            raise

    def _use_mode(self, *, mode: str) -> None:
        if mode not in NAMES:  # the path of a profile is for the command line only
            raise UsageError("there is no such mode")
        self._test_server.stop()
        self._test_server = embedded(mode).start()
        self._use(Server.of_test_server(self._test_server))

    def _set_lever(self, *, name: str, value: object) -> None:
        if self._server.test_server is None:
            raise UsageError("only the embedded server has levers")
        self._server.test_server.levers.apply({name: value})

    def _use_own(self, *, issuer: str, client_id: str, client_secret: str, api: str, scope: str, profile: str) -> None:
        self._use(
            own_server(
                issuer=issuer, client_id=client_id, client_secret=client_secret, api=api, scope=scope, profile=profile
            )
        )

    def _state(self) -> dict[str, Any]:
        tokens, server = self._tokens, self._server
        return {
            "issuer": server.metadata.issuer or server.metadata.token_endpoint,
            "api": server.api,
            "mode": "" if server.test_server is None else server.test_server.mode,
            "modes": NAMES,
            "actions": _LEVER_ACTIONS,
            "levers": {} if server.test_server is None else server.test_server.levers.as_dict(),
            "jkt": short(self._key.thumbprint),
            "in_browser": isinstance(self._key, ExternalKey),
            "callback": f"{self._page}/callback",
            "visit": self._login.url if self._login and not self._callback and server.test_server is None else None,
            "code": bool(self._callback),
            "access": tokens is not None and bool(server.api),
            "refresh": tokens is not None and tokens.refresh_token is not None,
            "called": self._called is not None,
        }

    # --- the client

    @property
    def _redirect_uri(self) -> str:
        return f"{self._page}/callback" if self._server.test_server is None else _REDIRECT_URI

    def _log_in(self) -> None:
        self._caption = "You push the authorization request, with a proof (RFC 9126)."
        grants, self._callback = self._client.grants, ""
        self._login = self._client.run(
            grants.start_authorization(
                self._redirect_uri,
                self._server.scope,
                login_parameters(grants.profile),
                push=grants.server.requires_par,
                dpop_jkt=None,
            )
        )
        if self._server.test_server is None:
            return  # the user visits the server, which sends the browser back to us
        self._caption = "You log in; the test server's user agrees at once."
        exchange = self._wire.send("GET", self._login.url, {})
        self._callback = urlsplit(exchange.response_header("Location") or "").query

    def _redeem(self) -> None:
        if self._login is None or not self._callback:
            raise UsageError("log in first: there is no code to redeem")
        self._caption = "You redeem the code, with a proof."
        callback, self._callback = self._callback, ""
        self._receive(self._client.run(self._client.grants.finish_authorization(self._login, callback, {})))

    def _refresh(self) -> None:
        tokens = self._held()
        if tokens.refresh_token is None:
            raise UsageError("there is no refresh token")
        self._caption = "You refresh, with a proof."
        self._receive(self._client.run(self._client.grants.refresh(tokens, {})))

    def _receive(self, tokens: TokenSet) -> None:
        self._tokens = tokens
        self._called = None
        self._revoked = False
        self._code.put_token(tokens.access_token)

    def _call(self) -> None:
        tokens, api = self._held(), self._api()
        if tokens.token_type == "Bearer":  # noqa: S105 - a type
            self._caption = "You call the API: a Bearer token, which needs no proof."
            self._called = self._wire.send("GET", api, {"Authorization": f"Bearer {tokens.access_token}"})
            return
        self._caption = "You call the API: token and proof."
        self._called = self._signed(api)

    def _revoke(self) -> None:
        tokens = self._held()
        if tokens.refresh_token is None:
            raise UsageError("there is nothing to revoke")
        self._caption = "You revoke the refresh token, and with it all tokens of the grant."
        self._client.run(self._client.grants.revoke(tokens.refresh_token, "refresh_token"))
        # The access token stays, so that a call shows that the server refuses it now.
        self._tokens = tokens.replace(refresh_token=None)
        self._revoked = True

    # --- the thief

    def _steal_token(self) -> None:
        self._attack("A thief sends your token, without a proof.", self._api(), {})

    def _steal_with_key(self) -> None:
        caption = "A thief sends your token, with a proof by another key."
        self._attack(caption, self._api(), self._proof(dpop.generate_key()))

    def _replay(self) -> None:
        if self._called is None:
            raise UsageError("call the API first: there is no request to repeat")
        self._caption, self._is_attack = "A thief repeats your last call, word for word.", True
        self._wire.send("GET", self._called.url, self._called.sent)

    def _change_url(self) -> None:
        caption = "A thief caught a fresh proof, and uses it at another URL."
        self._attack(caption, f"{self._api().partition('?')[0]}/admin", self._proof(self._key))

    def _drift(self) -> None:
        self._attack("Your clock is 15 minutes slow.", self._api(), self._proof(self._key, int(time.time()) - 900))

    def _attack(self, caption: str, url: str, headers: Mapping[str, str]) -> None:
        tokens = self._held()
        self._caption, self._is_attack = caption, True
        self._wire.send("GET", url, {"Authorization": f"{tokens.token_type} {tokens.access_token}", **headers})

    def _proof(self, key: Key, iat: int | None = None) -> dict[str, str]:
        token, api = self._held().access_token, self._api()
        return {"DPoP": dpop.create_proof(key, "GET", api, access_token=token, nonce=self._nonce, iat=iat)}

    # --- requests

    def _held(self) -> TokenSet:
        if self._tokens is None:
            raise UsageError("redeem a code first: there is no token")
        return self._tokens

    def _api(self) -> str:
        if not self._server.api:
            raise UsageError("no API is known that could be called; enter its URL with your server")
        return self._server.api

    def _signed(self, url: str) -> Exchange:
        policy = Policy(
            self._prover,
            origins=str(Origin.of_url(url)),
            access_token=self._held().access_token,
            profile=self._server.profile,
        )
        return send_signed(policy, OutgoingRequest("GET", url), self._wire.send)[-1]

    def _see(self, exchange: Exchange) -> None:
        """Add an exchange to what the page shows."""
        why = self._why(exchange)
        at_api = exchange.url.startswith(self._server.api) if self._server.api else False
        if at_api:
            _, claims = parts(exchange.sent["DPoP"]) if "DPoP" in exchange.sent else ({}, {})
            self._nonce = exchange.response_header("DPoP-Nonce") or claims.get("nonce") or self._nonce
        before = self._shown[-1] if self._shown else None
        again = before is not None and before["asked"] and before["url"] == exchange.url
        plain, secrets = form_of(exchange)
        word_for_word = self._is_attack or "DPoP" not in exchange.sent
        if not word_for_word and isinstance(self._key, ExternalKey):
            code = {}
        else:
            code = self._code.code(exchange, plain, self._unused(secrets), again=word_for_word)
        self._shown.append(
            {
                **shown(exchange, why),
                "caption": _AGAIN if again else self._caption,
                "checks": checks(exchange, why, self._verifier, self._key.thumbprint),
                "asked": why is not None and "nonce" in why.reason,
                "outcome": self._outcome(exchange.status, why),
                "code": code,
            }
        )

    def _outcome(self, status: int, why: Refused | None) -> str:
        """Name the outcome; the page shows a refusal that the attack must have differently from others."""
        if why is None:
            return "attack-worked" if self._is_attack else "accepted"
        if "nonce" in why.reason:
            return "asked"
        # Another status, such as 404, is about something else.
        return "as-it-should-be" if (self._is_attack or self._revoked) and status in {400, 401, 403} else "refused"

    def _why(self, exchange: Exchange) -> Refused | None:
        """Return why the server refused a request. The test server tells more than its responses do."""
        why, latest = refused(exchange), self._latest_refusal()
        if latest is self._refusal:
            return why
        self._refusal = latest
        return why if why is None or latest is None else Refused(latest.reason, latest.detail)

    def _latest_refusal(self) -> Refusal | None:
        server = self._server.test_server
        return server.refusals[-1] if server is not None and server.refusals else None

    def _unused(self, secrets: Mapping[str, str]) -> Mapping[str, str]:
        """Return a form's secrets; a code that is used up is replaced, if the test server can issue another."""
        server, login = self._server.test_server, self._login
        if "code" not in secrets or server is None or login is None:
            return secrets
        challenge = b64url_encode(hashlib.sha256(login.code_verifier.encode()).digest())
        code = server.issue_code(
            redirect_uri=login.redirect_uri,
            code_challenge=challenge,
            jkt=self._key.thumbprint,
        )
        return {**secrets, "code": code}


def _checked(arguments: Mapping[str, object]) -> dict[str, Any]:
    """Check what came from the page: texts, and a public key or the value of a lever."""
    if any(not isinstance(value, str) for name, value in arguments.items() if name not in {"jwk", "value"}):
        raise UsageError("a setting of the playground must be text")
    return dict(arguments)


def _fits(action: Callable[..., None], arguments: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(action).bind(**arguments)
    except TypeError:
        return False
    return True
