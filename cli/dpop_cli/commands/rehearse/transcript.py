# SPDX-License-Identifier: Apache-2.0
"""The record of a rehearsal: each exchange is judged by the rules for servers, and written without secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from dpop._files import write_private_file
from dpop.client import nonce_field
from dpop.encoding import b64url_decode, json_object
from dpop.errors import EncodingError
from dpop.keys import thumbprint
from dpop.profiles import Profile
from dpop.redaction import redact
from dpop_cli.wire.exchange import SHOWN_FIELDS, SHOWN_MEMBERS, Exchange

__all__ = ["FORMAT", "Step", "Transcript", "Verdict"]

FORMAT = "dpop-rehearsal/1"
_SHORTEST_SECRET = 8  # a shorter value may be part of any word


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule for a server, and whether the server followed it."""

    what: str
    rule: str
    good: bool
    seen: str = ""


@dataclass(slots=True)
class Step:
    """One step of a rehearsal.

    :param name: ``metadata``, ``login``, ``refresh``, ``nonce``, ``wrong key``, ``revoke`` or ``revoked``.
    """

    name: str
    exchanges: list[Exchange] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def must(self, what: str, rule: str, good: object, seen: str = "") -> None:
        """Record whether the server followed a rule."""
        self.verdicts.append(Verdict(what, rule, bool(good), "" if good else seen))

    @property
    def last(self) -> Exchange:
        """The last exchange, with the final response."""
        return self.exchanges[-1]

    # --- rules for all steps

    def judge_nonces(self, profile: Profile) -> None:
        """Judge each nonce, and each refusal that asks for one."""
        for exchange in self.exchanges:
            given = [value for name, value in exchange.received if name.lower() == "dpop-nonce"]
            _, problem = nonce_field(given)
            if given:
                self.must("its nonce is valid", "RFC 9449 §8.1", problem is None, problem or "")
            if exchange.members.get("error") == "use_dpop_nonce":
                self.must("use_dpop_nonce comes with a nonce", "RFC 9449 §8", given, "no DPoP-Nonce")
                self.must("use_dpop_nonce has status 400", "RFC 9449 §8", exchange.status == 400, str(exchange.status))
        asked = sum(exchange.members.get("error") == "use_dpop_nonce" for exchange in self.exchanges)
        self.must(
            "it asks for a nonce no more often than allowed",
            f"profile {profile.name}",
            asked <= profile.nonce_retries,
            f"it asked {asked} times",
        )
        if asked:
            self.notes.append("it asked for a nonce, and the request was sent again with it")

    def judge_tokens(self, profile: Profile) -> None:
        """Judge a response with tokens."""
        seen = self.last
        self.must("tokens come with status 200", "RFC 6749 §5.1", seen.status == 200, str(seen.status))
        if seen.status != 200:
            return
        kind = seen.members.get("token_type")
        bound = isinstance(kind, str) and kind.lower() == "dpop"
        right = bound or (profile.allow_bearer and isinstance(kind, str) and kind.lower() == "bearer")
        expected = "DPoP, or Bearer with a bound refresh token" if profile.allow_bearer else "DPoP"
        self.must(f"token_type is {expected}", "RFC 9449 §5", right, f"{kind!r:.40}")
        self.must("there is an access token", "RFC 6749 §5.1", isinstance(seen.members.get("access_token"), str))
        stored = (seen.header("cache-control") or "").lower()
        self.must("no cache may store it", "RFC 6749 §5.1", "no-store" in stored, stored or "no Cache-Control")

    def judge_refusal(self, what: str, rule: str, errors: tuple[str, ...]) -> None:
        """Judge a response that must be a refusal."""
        seen = self.last
        error = seen.members.get("error")
        refused = seen.status in {400, 401} and error in errors
        self.must(what, rule, refused, f"{seen.status} {error or 'without an error code'}")


class _Names:
    """Gives each secret a name, always the same one for the same secret."""

    def __init__(self) -> None:
        self.given: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, kind: str, value: str) -> str:
        if value not in self.given:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            self.given[value] = f"{kind}-{self._counts[kind]}"
        return self.given[value]


class Transcript:
    """All steps of a rehearsal; it can be shared, because it contains no secret.

    Each token, nonce, code and identifier is replaced with a name such as ``refresh_token-1``, always the same name for
    the same value, so that a test can play the server with the transcript.
    """

    def __init__(self, facts: Mapping[str, Any], steps: list[Step]) -> None:
        self._facts = facts
        self.server: Mapping[str, str] = facts["server"]
        self.steps = steps

    def write(self, path: Path) -> None:
        """Write the transcript with mode 0600."""
        write_private_file(path, self.to_json().encode("utf-8"))

    def to_json(self) -> str:
        """Return the transcript as JSON."""
        names = _Names()
        document = {
            "format": FORMAT,
            **self._facts,
            "steps": [
                {
                    "name": step.name,
                    "exchanges": [_redacted(exchange, names) for exchange in step.exchanges],
                    "verdicts": [
                        {"what": each.what, "rule": each.rule, "good": each.good, "seen": each.seen}
                        for each in step.verdicts
                    ],
                    "notes": step.notes,
                }
                for step in self.steps
            ],
        }
        text = json.dumps(document, indent=2) + "\n"
        # A server may repeat a secret in the wrong place, for example in error_description.
        for value in sorted(names.given, key=len, reverse=True):
            if len(value) >= _SHORTEST_SECRET:
                text = text.replace(json.dumps(value)[1:-1], names.given[value])
        return text


def _redacted(exchange: Exchange, names: _Names) -> dict[str, Any]:
    request: dict[str, Any] = {
        "method": exchange.method,
        "url": exchange.url.partition("?")[0],
        "headers": list(_fields(exchange.sent, names)),
    }
    if exchange.proof is not None:
        request["proof"] = _proof(exchange.proof, names)
    if exchange.body:
        pairs = parse_qsl(exchange.body.decode("latin-1"), keep_blank_values=True)
        request["form"] = [[name, _value(name, value, names)] for name, value in pairs]
    response: dict[str, Any] = {"status": exchange.status, "headers": list(_fields(exchange.received, names))}
    if exchange.members:
        response["json"] = {name: _value(name, value, names) for name, value in exchange.members.items()}
    else:
        response["length"] = len(exchange.content)
    return {"request": request, "response": response}


def _fields(fields: list[tuple[str, str]], names: _Names) -> Iterator[list[str]]:
    for name, value in fields:
        lower = name.lower()
        if lower == "dpop-nonce":
            yield [name, names("nonce", value)]
        elif lower == "www-authenticate":
            yield [name, redact(value)]
        elif lower == "authorization":
            yield [name, f"{value.partition(' ')[0]} [redacted]"]
        elif lower in SHOWN_FIELDS - {"date", "user-agent", "server"}:
            yield [name, value]


def _proof(proof: str, names: _Names) -> dict[str, Any]:
    try:
        header, claims = (json_object(b64url_decode(part)) for part in proof.split(".")[:2])
    except (EncodingError, ValueError):
        return {}
    jwk = header.get("jwk")
    shown = {**header, "jwk": names("key", thumbprint(jwk)) if isinstance(jwk, dict) else None}
    hidden = {
        name: names(name, value) for name in ("jti", "ath", "nonce") if isinstance(value := claims.get(name), str)
    }
    return {"header": shown, "claims": {"htm": claims.get("htm"), "htu": claims.get("htu"), **hidden}}


def _value(name: str, value: object, names: _Names) -> object:
    if name in SHOWN_MEMBERS - {"client_id", "jkt"} or isinstance(value, bool) or value is None:
        return value
    if name.endswith(("_endpoint", "_supported", "_methods", "_uri")) and name != "request_uri":
        return value
    return names(name, value if isinstance(value, str) else json.dumps(value))
