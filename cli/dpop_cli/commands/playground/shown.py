# SPDX-License-Identifier: Apache-2.0
"""How the playground shows a request: as on the wire, with secrets shortened, and with the verdict of each check."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl

from dpop.client import dpop_challenge
from dpop.server import ProofVerifier
from dpop_cli.wire.exchange import parts
from dpop_cli.wire.small_client import Exchange

__all__ = ["Refused", "checks", "form_of", "refused", "short", "shown"]

_SHOWN: Final = 8
_LONGEST_SHOWN: Final = 24
_PLAIN: Final = {
    "client_id", "code_challenge_method", "grant_type", "iss", "redirect_uri", "response_type", "scope",
    "token_type_hint",
}  # fmt: skip
_SENTENCES: Final = {"detail", "error", "error_description", "htu", "issuer", "scope", "sub", "token_type", "url"}
_SECRETS: Final = {"access_token", "id_token", "nonce", "refresh_token", "request_uri"}
_SHOWN_FIELDS: Final = {"content-type", "dpop-nonce", "location", "retry-after", "www-authenticate"}
# The check that a refusal of the test server is about, where its name is not the check's.
_CHECK_OF: Final = {"proof_missing": "header", "key_mismatch": "binding", "replayed": "replay"}


class Refused(NamedTuple):
    """Why a server refused a request."""

    reason: str
    detail: str


def refused(exchange: Exchange) -> Refused | None:
    """Read the reason from a response; None if the request was accepted."""
    if exchange.status < 400:
        return None
    values = [value for name, value in exchange.received if name.lower() == "www-authenticate"]
    challenge = dpop_challenge(values) or dpop_challenge(values, scheme="bearer") or {}
    found: Mapping[str, Any] = exchange.json if "error" in exchange.json else challenge
    return Refused(str(found.get("error") or "no reason given"), str(found.get("error_description") or ""))


def form_of(exchange: Exchange) -> tuple[dict[str, str], dict[str, str]]:
    """Return the parameters of a request's form that may be shown, and the others."""
    form = dict(parse_qsl((exchange.content or b"").decode(), keep_blank_values=True))
    plain = {name: value for name, value in form.items() if name in _PLAIN}
    return plain, {name: value for name, value in form.items() if name not in _PLAIN}


def shown(exchange: Exchange, why: Refused | None) -> dict[str, Any]:
    """Return a request and its response as JSON for the page."""
    proof = exchange.sent.get("DPoP")
    header, claims = parts(proof) if proof else ({}, {})
    plain, secrets = form_of(exchange)
    received = exchange.response_header("DPoP-Nonce")
    return {
        "method": exchange.method,
        "url": _shown_url(exchange.url),
        "sent": [[name, _short_field(name, value)] for name, value in exchange.sent.items()],
        "form": [*([name, value] for name, value in plain.items()), *([n, short(v)] for n, v in secrets.items())],
        "status": exchange.status,
        "received": [
            [name, _short_field(name, value)] for name, value in exchange.received if name.lower() in _SHOWN_FIELDS
        ],
        "body": json.dumps(_short_json(exchange.json), indent=2, ensure_ascii=False) if exchange.json else "",
        "proof": _short_json({"header": header, "claims": claims}) if proof else None,
        "refusal": None if why is None else {"reason": why.reason, "detail": why.detail},
        "nonce": {
            "sent": short(str(claims["nonce"])) if "nonce" in claims else None,
            "received": short(received) if received else None,
        },
    }


def checks(exchange: Exchange, why: Refused | None, verifier: ProofVerifier, bound_jkt: str) -> list[dict[str, str]]:
    """Return the verdict of each check.

    The nonce, the binding and the replay are judged by the server's response alone: only the server knows them.
    """
    proof = exchange.sent.get("DPoP")
    scheme, _, token = exchange.sent.get("Authorization", "").partition(" ")
    if proof is None and scheme != "DPoP":
        return []
    report = verifier.report(
        [("DPoP", proof)] if proof else [],
        exchange.method,
        exchange.url,
        access_token=token if scheme == "DPoP" else None,
        bound_jkt=bound_jkt if scheme == "DPoP" else None,
    )
    wrong = "" if why is None else _CHECK_OF.get(why.reason, "nonce" if "nonce" in why.reason else "")
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


def _shown_url(url: str) -> str:
    path, mark, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    return path + mark + "&".join(f"{name}={value if name in _PLAIN else short(value)}" for name, value in pairs)


def short(value: str) -> str:
    """Return the beginning of a secret: enough to compare two by eye."""
    return value[: min(_SHOWN, len(value) // 3)] + "…"


def _short_field(name: str, value: str) -> str:
    match name.lower():
        case "authorization":
            scheme, _, token = value.partition(" ")
            return f"{scheme} {short(token) if scheme != 'Basic' else '…'}"
        case "dpop" | "dpop-nonce":
            return short(value)
        case "location":
            return _shown_url(value)
    return value


def _short_json(value: object, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _short_json(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_short_json(each, name) for each in value]
    if isinstance(value, str) and name not in _SENTENCES and (len(value) > _LONGEST_SHOWN or name in _SECRETS):
        return short(value)
    return value
