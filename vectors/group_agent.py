# SPDX-License-Identifier: Apache-2.0
"""Requests to a signing agent, and whether it signs (docs/agent-protocol.md)."""

from __future__ import annotations

import json
from typing import Any

from case import NOW

from dpop import thumbprint
from dpop.testing.defects._forge import A, B, b64u, to_json

__all__ = ["agent"]

Case = dict[str, Any]

_ORIGIN = "https://server.example.com"
_HEADER = {"typ": "dpop+jwt", "alg": "ES256", "jwk": A.public_jwk}
_PAYLOAD = {"jti": "0123456789abcdef", "htm": "GET", "htu": f"{_ORIGIN}/items", "iat": NOW}
_LEAVE_OUT = object()


def _input(header: dict[str, Any] | None = None, /, **claims: Any) -> str:
    payload = {name: value for name, value in (_PAYLOAD | claims).items() if value is not _LEAVE_OUT}
    return f"{b64u(to_json(_HEADER | (header or {})))}.{b64u(to_json(payload))}"


def _request(**members: Any) -> str:
    return json.dumps({"v": 1, **members}, separators=(",", ":"))


def _sign(name: str, text: str, reason: str = "", note: str = "") -> Case:
    case: Case = {"id": name} | ({"note": note} if note else {})
    case |= {"request": _request(op="sign", key="work", input=text), "answer": "refused" if reason else "signed"}
    return case | ({"reason": reason} if reason else {})


def _other(name: str, text: str, response: str) -> Case:
    return {"id": name, "request": text, "answer": response}


_CLIENT = "s6BhdRkqt"
_TOKENS = {"access_token": "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU", "token_type": "DPoP"}
_REFRESH_TOKEN = "Q..Zkm29lexi8VnWg2zPW1x-tgGad0Ibc3s3EwM_Ni4-g"


def _login(**changes: Any) -> str:
    members = {
        "op": "login",
        "account": "work",
        "key": "work",
        "token_endpoint": f"{_ORIGIN}/token",
        "client_id": _CLIENT,
        **_TOKENS,
        "refresh_token": _REFRESH_TOKEN,
        "scope": "read write",
        "issued_at": NOW,
        "expires_at": NOW + 3600,
    } | changes
    return _request(**{name: value for name, value in members.items() if value is not _LEAVE_OUT})


def _tokens() -> list[Case]:
    given = {**_TOKENS, "expires_at": NOW + 3600, "scope": "read write", "key": "work", "jkt": thumbprint(A.public_jwk)}
    hashed = b64u(bytes(32))
    return [
        _other("token", _request(op="token", account="work"), "ok") | {"response": given},
        _other("token-other-refused", _request(op="token", account="work", refused=hashed), "ok") | {"response": given},
        _other("token-refused-no-hash", _request(op="token", account="work", refused="t"), "bad_request"),
        _other("token-unknown-account", _request(op="token", account="other"), "unknown_account"),
        _other("token-of-key", _request(op="token", key="work"), "bad_request"),
        _other("account-name", _request(op="token", account="../work"), "bad_request"),
        _other("login", _login(), "ok"),
        {
            **_other("login-elsewhere", _login(token_endpoint="https://evil.example/token"), "refused"),
            "reason": "origin",
        },
        _other("login-nothing-to-renew", _login(refresh_token=_LEAVE_OUT), "bad_request"),
        _other("login-token-with-space", _login(access_token="a b"), "bad_request"),
        _other("login-secret-missing", _login(client_auth="client_secret_post"), "bad_request"),
        _other("login-unknown-key", _login(key="other"), "unknown_key"),
        _other("logout-unknown", _request(op="logout", account="other"), "bad_request"),
    ]


_ASSERTION = {"iss": _CLIENT, "sub": _CLIENT, "aud": _ORIGIN, "jti": "0123456789abcdef", "iat": NOW, "exp": NOW + 60}


def _assertion(name: str, reason: str = "", header: dict[str, Any] | None = None, /, **claims: Any) -> Case:
    parts = {"typ": "client-authentication+jwt", "alg": "ES256"} | (header or {}), _ASSERTION | claims
    text = ".".join(b64u(to_json(part)) for part in parts)
    case: Case = {"id": name, "request": _request(op="sign", key="app", input=text)}
    return case | ({"answer": "refused", "reason": reason} if reason else {"answer": "signed"})


def _assertions() -> list[Case]:
    by_key = {"client_auth": "private_key_jwt", "client_key": "app", "client_assertion": {"kid": "1", "exp": 30}}
    proof = _request(op="sign", key="app", input=_input({"jwk": B.public_jwk}))
    return [
        _assertion("assertion"),
        _assertion("assertion-kid-nbf", "", {"typ": "JWT", "kid": "1"}, nbf=NOW - 5, aud=[_ORIGIN, f"{_ORIGIN}/token"]),
        _assertion("assertion-other-client", "client", iss="other", sub="other"),
        _assertion("assertion-other-server", "origin", aud=[_ORIGIN, "https://evil.example"]),
        _assertion("assertion-iat", "iat", iat=NOW + 60, exp=NOW + 120),
        _assertion("assertion-301-seconds", "no_assertion", exp=NOW + 301),
        _assertion("assertion-more-claims", "no_assertion", scope="admin"),
        _assertion("assertion-typ", "no_assertion", {"typ": "at+jwt"}),
        _assertion("assertion-jwk", "no_assertion", {"jwk": B.public_jwk}),
        {**_other("proof-of-client-key", proof, "refused"), "reason": "no_assertion"},
        _other("login-assertions", _login(account="client", **by_key), "ok"),
        _other("login-client-key-missing", _login(client_auth="private_key_jwt"), "bad_request"),
        {**_other("login-other-client", _login(client_id="other", **by_key), "refused"), "reason": "client"},
    ]


def _signed() -> list[Case]:
    first = _sign("sign", _input())
    body = first["request"].encode("ascii")
    first["frame"] = (len(body).to_bytes(4, "big") + body).hex()
    return [
        first,
        _sign("sign-nonce-ath", _input(nonce="eyJ7S_zG.eyJH0-Z.HX4w-7v", ath=b64u(bytes(32)))),
        _sign("sign-post", _input(htm="POST", htu=f"{_ORIGIN}/")),
        _sign("sign-iat-15-ago", _input(iat=NOW - 15)),
        _sign("sign-iat-5-ahead", _input(iat=NOW + 5)),
    ]


def _refused() -> list[Case]:
    twice = to_json(_PAYLOAD)[:-1] + b',"htm":"POST"}'
    return [
        _sign("origin-other-host", _input(htu="https://evil.example/items"), "origin"),
        _sign("origin-other-port", _input(htu=f"{_ORIGIN}:8443/items"), "origin"),
        _sign("origin-other-scheme", _input(htu="http://server.example.com/items"), "origin"),
        _sign("origin-with-user", _input(htu="https://server.example.com@evil.example/"), "no_proof"),
        _sign("method", _input(htm="DELETE"), "method", "methods are GET and POST"),
        _sign("iat-16-ago", _input(iat=NOW - 16), "iat"),
        _sign("iat-6-ahead", _input(iat=NOW + 6), "iat"),
        _sign("iat-fraction", _input(iat=NOW + 0.5), "no_proof"),
        _sign("htu-query", _input(htu=f"{_ORIGIN}/items?a=b"), "no_proof"),
        _sign("htu-upper-case", _input(htu="https://SERVER.example.com/items"), "no_proof"),
        _sign("htu-default-port", _input(htu=f"{_ORIGIN}:443/items"), "no_proof"),
        _sign("htu-dot-segment", _input(htu=f"{_ORIGIN}/a/../items"), "no_proof"),
        _sign("htu-empty-path", _input(htu=_ORIGIN), "no_proof"),
        _sign("no-jti", _input(jti=_LEAVE_OUT), "no_proof"),
        _sign("more-claims", _input(sub="me", aud="https://as.example/token"), "no_proof", "a client assertion"),
        _sign("nonce-null", _input(nonce=None), "no_proof"),
        _sign("ath-short", _input(ath="fUHyO2r2Z3DZ53EsNrWBb0"), "no_proof"),
        _sign("claim-twice", f"{b64u(to_json(_HEADER))}.{b64u(twice)}", "no_proof"),
        _sign("typ", _input({"typ": "JWT"}), "no_proof"),
        _sign("more-header", _input({"kid": "1"}), "no_proof"),
        _sign("other-key", _input({"jwk": B.public_jwk}), "key_mismatch"),
        _sign("more-in-jwk", _input({"jwk": A.public_jwk | {"kid": "1"}}), "key_mismatch"),
        _sign("alg-none", _input({"alg": "none"}), "key_mismatch"),
        _sign("three-parts", f"{_input()}.AA", "no_proof"),
        _sign("padding", f"{_input()}=", "no_proof"),
    ]


def _no_requests() -> list[Case]:
    return [
        _other("key", _request(op="key", key="work"), "ok"),
        _other("list", _request(op="list"), "ok"),
        _other("unknown-key", _request(op="key", key="other"), "unknown_key"),
        _other("sign-unknown-key", _request(op="sign", key="other", input=_input()), "unknown_key"),
        _other("version-2", '{"v":2,"op":"list"}', "unsupported_version"),
        _other("no-version", '{"op":"list"}', "unsupported_version"),
        _other("version-true", '{"v":true,"op":"list"}', "unsupported_version"),
        _other("unknown-op", '{"v":1,"op":"decrypt"}', "bad_request"),
        _other("member-missing", '{"v":1,"op":"key"}', "bad_request"),
        _other("member-unknown", '{"v":1,"op":"list","more":1}', "bad_request"),
        _other("member-twice", '{"v":1,"op":"list","op":"list"}', "bad_request"),
        _other("key-name", '{"v":1,"op":"key","key":"../work"}', "bad_request"),
        _other("not-an-object", '["v",1]', "bad_request"),
        _other("more-after", '{"v":1,"op":"list"} {}', "bad_request"),
        _other("byte-order-mark", '\ufeff{"v":1,"op":"list"}', "bad_request"),
    ]


def agent() -> dict[str, Any]:
    """The file agent.json."""
    return {
        "about": [
            "Requests to a signing agent, by version 1 of the protocol in docs/agent-protocol.md.",
            "The agent has one key by the name work, with the public half jwk; its clock says now; its rules allow",
            "origins and methods.",
            "request: the text of a frame. frame: its bytes with their length before them, in hexadecimal.",
            "It has a second key, client: key is its name, jwk its public half, and client_id the client that it",
            "authenticates at the same origins.",
            "It has one account by the name work, which it got by the request login.",
            "answer: signed; ok, a response without error; or the error. reason: of a refusal.",
            "response: its members, without v.",
        ],
        "now": NOW,
        "jwk": A.public_jwk,
        "origins": [_ORIGIN],
        "methods": ["GET", "POST"],
        "client": {"key": "app", "client_id": _CLIENT, "jwk": B.public_jwk},
        "login": _login(),
        "cases": [*_signed(), *_refused(), *_assertions(), *_no_requests(), *_tokens()],
    }
