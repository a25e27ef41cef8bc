# SPDX-License-Identifier: Apache-2.0
"""The vectors of whole requests, put to both integrations: each responds as the test server of this package does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from support.in_process import Response, ask_asgi, ask_wsgi
from support.paths import VECTORS
from support.resource import asgi_application, resource, wsgi_application

from dpop import asgi, wsgi
from dpop.client._challenge import _challenges
from dpop.errors import ReplayCacheError
from dpop.server import MemoryReplayCache, ProtectedResource

DOCUMENT: dict[str, Any] = json.loads((VECTORS / "responses.json").read_text(encoding="ascii"))
NOW, ORIGIN = DOCUMENT["now"], DOCUMENT["origin"]
# A token in a form is for the application to refuse: integrations do not read bodies, and take no token from there.
CASES = {case["id"]: case for case in DOCUMENT["cases"] if case["role"] == "RS" and case["id"] != "rs-token-in-body"}
Integration = Callable[[ProtectedResource, Mapping[str, Any]], Response]


def by_asgi(decides: ProtectedResource, request: Mapping[str, Any]) -> Response:
    """Put a request to the ASGI integration."""
    app = asgi.DPoPMiddleware(asgi_application, decides)
    return ask_asgi(app, request["method"], request["url"].removeprefix(ORIGIN), request["headers"])


def by_wsgi(decides: ProtectedResource, request: Mapping[str, Any]) -> Response:
    """Put a request to the WSGI integration, which never sees two fields of one name."""
    app = wsgi.DPoPMiddleware(wsgi_application, decides)
    return ask_wsgi(app, request["method"], request["url"].removeprefix(ORIGIN), request["headers"])


class Unreachable:
    """A replay cache that is down."""

    def add(self, key: str, expires_at: float) -> bool:
        """Fail closed."""
        raise ReplayCacheError("the replay cache cannot be reached")


def known(value: str) -> Mapping[str, Any] | None:
    """The claims of a token of the vectors, None for one that is not good at this API."""
    token = DOCUMENT["tokens"].get(value)
    if token is None or token.get("revoked") or token.get("expires_at", NOW) < NOW:
        return None
    if token.get("audience", ORIGIN) != ORIGIN:
        return None
    return {"scope": "read", "cnf": token["cnf"]} if "cnf" in token else {"scope": "read"}


@pytest.mark.parametrize("integration", [by_asgi, by_wsgi])
@pytest.mark.parametrize("name", CASES)
def test_each_integration_responds(name: str, integration: Integration) -> None:
    """Status, challenges and their parameters, and what no cache may keep."""
    case = CASES[name]
    special = case.get("server", {})
    replay = Unreachable() if special.get("replay_cache") == "down" else MemoryReplayCache(clock=lambda: NOW)
    decides = resource(
        url=ORIGIN, token=known, replay=replay, clock=lambda: NOW, nonces="nonces" in special, bearer=True
    )
    (step,) = case["steps"]
    asked = [
        *([["X-Scope", special["scope"]]] if "scope" in special else []),
        *([["X-ACR", special["acr_values"]]] if "acr_values" in special else []),
    ]
    request = step["request"] | {"headers": [*step["request"]["headers"], *asked]}
    status, headers, body = integration(decides, request)
    expected = step["response"]
    assert status == expected["status"]
    if "challenges" not in expected:
        return
    lines = [value for field, value in headers if field == "www-authenticate"]
    challenges = {scheme.lower(): dict(parameters) for scheme, parameters in _challenges(", ".join(lines))}
    assert len(lines) == len(challenges) == len(expected["challenges"])
    for entry in expected["challenges"]:
        parameters = challenges[entry["scheme"].lower()]
        assert all(parameters.get(field) == value for field, value in entry.items() if field != "scheme")
    assert "ES256" in challenges["dpop"]["algs"].split()
    assert ("cache-control", "no-store") in headers
    assert ("access-control-expose-headers", "WWW-Authenticate, DPoP-Nonce") in headers
    # Without credentials no error is named (RFC 6750 §3.1); otherwise the body says what the challenge says.
    assert body == b"" or json.loads(body)["error"] in {each.get("error") for each in challenges.values()}
