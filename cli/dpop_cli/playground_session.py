# SPDX-License-Identifier: Apache-2.0
"""The actions of the playground: a client and a thief, on a test server; each request with the verdict on its proof."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import shlex
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import dpop
from dpop.client import Policy
from dpop.errors import UsageError
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.testing import DPoPTestServer, Refusal
from dpop_cli.demo_client import Exchange, on_the_wire, send
from dpop_cli.proof import parts

__all__ = ["Session"]

_REDIRECT_URI = "https://app.example/callback"
_SHOWN = 8
_LONGEST_SHOWN = 24
_PLAIN: Final = {"grant_type", "redirect_uri", "client_id", "code_challenge_method", "response_type", "scope"}
_SENTENCES: Final = {"error_description", "detail", "sub", "url", "htu"}
# The check that a refusal of the server is about, where its name is not the check's.
_CHECK_OF: Final = {
    "proof_missing": "header",
    "key_mismatch": "binding",
    "replayed": "replay",
}


class Session:
    """One visitor's client with its key and tokens, and the test server. A context manager."""

    def __init__(self) -> None:
        self._server = _new_server()
        self._actions: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "login": self._log_in,
            "redeem": self._redeem,
            "call": self._call,
            "refresh": self._refresh,
            "revoke": self._revoke,
            "lapse": self._lapse,
            "steal-token": self._steal_token,
            "steal-with-key": self._steal_with_key,
            "replay": self._replay,
            "change-url": self._change_url,
            "drift": self._drift,
            "state": list,
            "restart": self._restart,
        }

    def __enter__(self) -> Self:
        self._server.start()
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop()

    def act(self, name: str, arguments: Mapping[str, object]) -> dict[str, Any]:
        """Do one action, and return its requests and the new state; without secrets.

        :raises UsageError: there is no such action, or an earlier one is missing.
        """
        if name not in self._actions or arguments:
            raise UsageError("the playground has no such action")
        requests = self._actions[name]()
        return {"requests": requests, "state": self._state()}

    # --- the client

    def _begin(self) -> None:
        self._key = dpop.generate_key()
        self._policy = Policy(self._key, origins=self._server.issuer)
        self._code = self._verifier = self._access = self._refresh_token = ""
        self._called: Exchange | None = None

    def _restart(self) -> list[dict[str, Any]]:
        self._server.reset()
        self._begin()
        return []

    def _state(self) -> dict[str, Any]:
        return {
            "issuer": self._server.issuer,
            "jkt": _short(self._key.thumbprint),
            "code": bool(self._code),
            "access": bool(self._access),
            "refresh": bool(self._refresh_token),
            "called": self._called is not None,
        }

    def _log_in(self) -> list[dict[str, Any]]:
        self._verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(self._verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._server.client_id,
            "redirect_uri": _REDIRECT_URI,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "dpop_jkt": self._key.thumbprint,
        }
        exchange = on_the_wire("GET", f"{self._server.authorization_endpoint}?{urlencode(query)}", {})
        found = dict(parse_qsl(urlsplit(exchange.response_header("Location") or "").query))
        self._code = found.get("code", "")
        return [self._shown(exchange, "You log in; the test server's user agrees at once.")]

    def _redeem(self) -> list[dict[str, Any]]:
        code, self._code = _needed(self._code, "log in first: there is no code to redeem"), ""
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": _REDIRECT_URI}
        return self._tokens({**form, "code_verifier": self._verifier}, "You redeem the code, with a proof.")

    def _refresh(self) -> list[dict[str, Any]]:
        token = _needed(self._refresh_token, "redeem a code first: there is no refresh token")
        return self._tokens({"grant_type": "refresh_token", "refresh_token": token}, "You refresh, with a proof.")

    def _tokens(self, form: Mapping[str, str], caption: str) -> list[dict[str, Any]]:
        exchanges = self._sent(self._policy, "POST", self._server.token_endpoint, {**form, **self._client()}, caption)
        tokens = self._last.json
        if self._last.status == 200:
            self._access = str(tokens.get("access_token", ""))
            self._refresh_token = str(tokens.get("refresh_token", self._refresh_token))
            self._called = None
        return exchanges

    def _call(self) -> list[dict[str, Any]]:
        policy = Policy(self._policy.prover, origins=self._server.issuer, access_token=self._token())
        shown = self._sent(policy, "GET", self._server.resource, None, "You call the API: token and proof.")
        self._called = self._last
        return shown

    def _revoke(self) -> list[dict[str, Any]]:
        token = _needed(self._refresh_token, "redeem a code first: there is nothing to revoke")
        form = urlencode({"token": token, **self._client()}).encode()
        exchange = on_the_wire("POST", self._server.revocation_endpoint, {}, form)
        # The access token stays, so that a call shows that the server refuses it now.
        self._refresh_token = ""
        return [self._shown(exchange, "You revoke the refresh token, and with it all tokens of the grant.", form=form)]

    def _lapse(self) -> list[dict[str, Any]]:
        self._server.levers.lapse()
        return []

    # --- the thief

    def _steal_token(self) -> list[dict[str, Any]]:
        return [self._stolen("A thief sends your token, without a proof.", {})]

    def _steal_with_key(self) -> list[dict[str, Any]]:
        return [
            self._stolen("A thief sends your token, with a proof by another key.", self._proof(dpop.generate_key()))
        ]

    def _replay(self) -> list[dict[str, Any]]:
        if self._called is None:
            raise UsageError("call the API first: there is no request to repeat")
        exchange = on_the_wire("GET", self._called.url, self._called.sent)
        return [self._shown(exchange, "A thief repeats your last call, word for word.", last=self._refusal())]

    def _change_url(self) -> list[dict[str, Any]]:
        headers = self._proof(self._key)
        return [self._stolen("A thief caught a fresh proof, and uses it at another URL.", headers, "/admin")]

    def _drift(self) -> list[dict[str, Any]]:
        headers = self._proof(self._key, iat=int(time.time()) - 900)
        return [self._stolen("Your clock is 15 minutes slow.", headers)]

    def _proof(self, key: dpop.Key, iat: int | None = None) -> dict[str, str]:
        token = self._token()
        return {"DPoP": dpop.create_proof(key, "GET", self._server.resource, access_token=token, iat=iat)}

    def _stolen(self, caption: str, headers: Mapping[str, str], path: str = "") -> dict[str, Any]:
        sent = {"Authorization": f"DPoP {self._token()}", **headers}
        return self._shown(on_the_wire("GET", self._server.resource + path, sent), caption, last=self._refusal())

    # --- requests, shown

    def _client(self) -> dict[str, str]:
        return {"client_id": self._server.client_id, "client_secret": self._server.client_secret}

    def _token(self) -> str:
        return _needed(self._access, "redeem a code first: there is no access token")

    def _refusal(self) -> Refusal | None:
        return self._server.refusals[-1] if self._server.refusals else None

    def _sent(
        self, policy: Policy, method: str, url: str, form: Mapping[str, str] | None, caption: str
    ) -> list[dict[str, Any]]:
        before = len(self._server.refusals)
        exchanges = send(policy, method, url, form)
        refusals = self._server.refusals[before:]
        self._last = exchanges[-1]
        body = None if form is None else urlencode(form).encode()
        shown = []
        for number, exchange in enumerate(exchanges):
            refusal = refusals[number] if exchange.status >= 400 and number < len(refusals) else None
            again = "The client sends it again, with a new proof that has the server's nonce."
            shown.append(self._shown(exchange, again if number else caption, form=body, last=refusal))
        return shown

    def _shown(
        self, exchange: Exchange, caption: str, *, form: bytes | None = None, last: Refusal | None = None
    ) -> dict[str, Any]:
        """Return a request as JSON for the page: as on the wire, with all secrets shortened."""
        refusal = last if exchange.status >= 400 else None
        proof = exchange.sent.get("DPoP")
        header, claims = parts(proof) if proof else ({}, {})
        fields = dict(parse_qsl((form or b"").decode()))
        return {
            "caption": caption,
            "method": exchange.method,
            "url": _short_query(exchange.url),
            "sent": [[name, _short_field(name, value)] for name, value in exchange.sent.items()],
            "form": [[name, value if name in _PLAIN else _short(value)] for name, value in fields.items()],
            "status": exchange.status,
            "received": [
                [name, _short_field(name, value)]
                for name, value in exchange.received
                if name.lower() in {"dpop-nonce", "www-authenticate", "content-type", "location"}
            ],
            "body": json.dumps(_short_json(exchange.json), indent=2) if exchange.json else "",
            "proof": _short_json({"header": header, "claims": claims}) if proof else None,
            "checks": self._checks(exchange, refusal),
            "refusal": None if refusal is None else {"reason": refusal.reason, "detail": refusal.detail},
            "nonce": {
                "sent": _short(str(claims["nonce"])) if "nonce" in claims else None,
                "received": _short(exchange.response_header("DPoP-Nonce") or "") or None,
            },
            "code": _as_code(exchange.method, exchange.url, fields),
        }

    def _checks(self, exchange: Exchange, refusal: Refusal | None) -> list[dict[str, str]]:
        """Return the verdict of each check. The nonce, binding and replay are the server's own, from its log."""
        proof = exchange.sent.get("DPoP")
        token = exchange.sent.get("Authorization", "").partition(" ")[2] or None
        if proof is None and token is None:
            return []
        # Its own cache: the real one knows this proof already.
        verifier = ProofVerifier(replay=MemoryReplayCache(), clock=self._server.clock)
        report = verifier.report(
            [("DPoP", proof)] if proof else [],
            exchange.method,
            exchange.url,
            access_token=token,
            bound_jkt=self._key.thumbprint if token else None,
        )
        wrong = "" if refusal is None else _CHECK_OF.get(refusal.reason, "nonce" if "nonce" in refusal.reason else "")
        accepted, has_nonce = exchange.status < 400, bool(proof and "nonce" in parts(proof)[1])
        found = []
        for check in report.checks:
            verdict = check.verdict
            if check.name == wrong:
                verdict = "failed"
            elif accepted and proof and (check.name == "replay" or (check.name == "nonce" and has_nonce)):
                verdict = "passed"
            found.append({"name": check.name, "rule": check.rule, "verdict": verdict})
        return found


def _new_server() -> DPoPTestServer:
    # The API wants no nonces: so each attack on it meets the check that it is about.
    return DPoPTestServer(as_nonces="rotating", rs_nonces="none")


def _needed(value: str, otherwise: str) -> str:
    if not value:
        raise UsageError(otherwise)
    return value


def _as_code(method: str, url: str, form: Mapping[str, str]) -> dict[str, str]:
    """Return the request for people to copy; secrets are placeholders in capitals."""
    plain = {name: value if name in _PLAIN else name.upper() for name, value in form.items()}
    url = _short_query(url)
    data = "".join(f" \\\n  -d {shlex.quote(f'{name}={value}')}" for name, value in plain.items())
    token = "" if form or "?" in url else " --token-file token.json"
    call = f"session.{method.lower()}({url!r}" + (f", data={plain!r})" if form else ")")
    init = {"method": method, "headers": {"DPoP": "PROOF", **({} if form else {"Authorization": "DPoP ACCESS_TOKEN"})}}
    script = json.dumps(init, indent=2)
    if form:
        script = script[:-2] + f',\n  "body": new URLSearchParams({json.dumps(plain)})\n}}'
    return {
        "curl": f"dpop curl --key key.pem{token}{data} \\\n  {shlex.quote(url)}",
        "python": "import dpop\nimport requests\nfrom dpop.requests import DPoPAdapter\n\n"
        f"session = requests.Session()\norigin = {'://'.join(urlsplit(url)[:2])!r}\n"
        'session.mount(origin, DPoPAdapter(dpop.load_key("key.pem"), origins=origin'
        f"{'' if form else ', access_token=ACCESS_TOKEN'}))\nprint({call}.text)",
        "javascript": f"const response = await fetch({json.dumps(url)}, {script})",
    }


def _short(value: str) -> str:
    return value if len(value) <= _SHOWN else value[:_SHOWN] + "…"


def _short_field(name: str, value: str) -> str:
    match name.lower():
        case "authorization":
            scheme, _, token = value.partition(" ")
            return f"{scheme} {_short(token)}"
        case "dpop" | "dpop-nonce":
            return _short(value)
        case "location":
            return _short_query(value)
    return value


def _short_query(url: str) -> str:
    path, mark, query = url.partition("?")
    return path + mark + "&".join(f"{n}={v if n in _PLAIN else _short(v)}" for n, v in parse_qsl(query))


def _short_json(value: object, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _short_json(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_short_json(each, name) for each in value]
    if isinstance(value, str) and name not in _SENTENCES and (len(value) > _LONGEST_SHOWN or name == "nonce"):
        return _short(value)
    return value
