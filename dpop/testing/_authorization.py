# SPDX-License-Identifier: Apache-2.0
"""The authorization endpoint: pushed requests, and a user who always agrees.

RFC 6749 §4.1, RFC 7636 (PKCE), RFC 9126 (PAR), RFC 9207 (``iss``), RFC 9449 §10 (``dpop_jkt``).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from urllib.parse import urlencode

from dpop.errors import InvalidProof
from dpop.testing._deployment import Deployment, granted, is_thumbprint
from dpop.testing._gate import Gate
from dpop.testing._messages import Request, Response, empty, json_response, parameters
from dpop.testing._store import Code, new_grant

__all__ = ["AuthorizationEndpoint", "PushedRequestEndpoint", "new_code"]

_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}\Z")
_REDIRECT_URI = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]*:[\x21-\x7e]+\Z")
_DEFAULT_SCOPE = "read"
_USER = "alice"


class PushedRequestEndpoint:
    """``POST /par``: authorization requests that the client pushes (RFC 9126, RFC 9449 §10.1)."""

    def __init__(self, url: str, deployment: Deployment, gate: Gate) -> None:
        self._url = url
        self._deployment = deployment
        self._gate = gate

    def respond(self, request: Request) -> Response:
        """Respond 201 with a ``request_uri``.

        :raises InvalidProof: the request, the client or the proof is refused.
        """
        form = request.form()
        client = self._deployment.clients.authenticate(request, form)
        # Before the proof is verified, no request may be stored.
        seen = None
        behaviour = self._deployment.behaviour
        if request.fields("DPoP") and behaviour.par_takes_proofs:
            optional = not self._deployment.asks_for_nonces(client)
            seen = self._gate.verify_token_request(request, self._url, nonce_optional=optional)
            if form.get("dpop_jkt", seen.jkt) != seen.jkt:
                raise InvalidProof(
                    "invalid_dpop_proof",
                    "dpop_jkt_mismatch",
                    "dpop_jkt names another key than that of the proof",
                    expected=seen.jkt,
                )
        pushed = {name: value for name, value in form.items() if name not in {"client_id", "client_secret"}}
        if seen is not None:
            pushed["dpop_jkt"] = seen.jkt
        if "request_uri" in pushed:
            raise InvalidProof("invalid_request", "request_uri_pushed", "a pushed request cannot contain a request_uri")
        _redirect_uri(pushed)
        _check(pushed, require_pkce=self._deployment.levers.require_pkce, require_jkt=behaviour.require_jkt)
        uri, seconds = self._deployment.store.push(client.client_id, pushed)
        return json_response(201, {"request_uri": uri, "expires_in": seconds}, self._gate.nonce_after(seen))


class AuthorizationEndpoint:
    """``/authorize``: redirects the browser back with a code at once, because the user always agrees."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    def respond(self, request: Request) -> Response:
        """Respond 302 to the client, with ``code`` or ``error``, ``state`` and ``iss``.

        :raises InvalidProof: there is no such client, or no valid redirect_uri.
        """
        asked = request.form() if request.method == "POST" else parameters(request.query)
        client = self._deployment.clients.find(asked.get("client_id"))
        behaviour = self._deployment.behaviour
        if "request_uri" in asked:
            pushed = self._deployment.store.take_pushed(asked["request_uri"])
            if pushed is None or pushed.client_id != client.client_id:
                raise InvalidProof(
                    "invalid_request", "request_uri_unknown", "the request_uri is unknown, used or expired"
                )
            asked = dict(pushed.parameters)
        elif behaviour.require_par:
            raise InvalidProof("invalid_request", "par_missing", "this server takes pushed authorization requests only")
        redirect_uri = _redirect_uri(asked)
        response = {"iss": self._deployment.origin}
        if "state" in asked:
            response["state"] = asked["state"]
        try:
            _check(asked, require_pkce=self._deployment.levers.require_pkce, require_jkt=behaviour.require_jkt)
        except InvalidProof as error:
            self._deployment.journal.refused("authorize", request, error)
            return _back(redirect_uri, {"error": error.error, "error_description": error.detail} | response)
        code = Code(
            new_code(),
            client.client_id,
            _USER,
            granted(asked.get("scope", _DEFAULT_SCOPE), self._deployment.levers.granted_scope),
            new_grant(),
            redirect_uri=redirect_uri,
            code_challenge=asked.get("code_challenge"),
            jkt=asked.get("dpop_jkt"),
            nonce=asked.get("nonce"),
        )
        self._deployment.store.add_code(code)
        return _back(redirect_uri, {"code": code.value} | response)


def new_code() -> str:
    """Make a fresh code. Like Google's, it has a slash, so that a client that hashes its encoded form fails."""
    return "4/" + secrets.token_urlsafe(32)


def _check(asked: Mapping[str, str], *, require_pkce: bool, require_jkt: bool) -> None:
    """Check the request; these errors reach the client by a redirect (RFC 6749 §4.1.2.1)."""
    if asked.get("response_type") != "code":
        raise InvalidProof("unsupported_response_type", "response_type", "response_type must be code")
    challenge = asked.get("code_challenge")
    if challenge is None:
        if require_pkce:
            raise InvalidProof("invalid_request", "pkce_missing", "code_challenge is missing; PKCE is required")
    elif asked.get("code_challenge_method") != "S256" or not _CHALLENGE.match(challenge):
        raise InvalidProof("invalid_request", "pkce_malformed", "code_challenge must be a SHA-256 and its method S256")
    if require_jkt and "dpop_jkt" not in asked:
        raise InvalidProof("invalid_request", "dpop_jkt_missing", "the request has to name the key, by dpop_jkt")
    if not is_thumbprint(asked.get("dpop_jkt", "x" * 43)):
        raise InvalidProof("invalid_request", "dpop_jkt_malformed", "dpop_jkt is not a SHA-256 thumbprint")


def _redirect_uri(asked: Mapping[str, str]) -> str:
    """Accept any absolute URI without fragment, because this server has no registrations to compare with."""
    uri = asked.get("redirect_uri", "")
    if not _REDIRECT_URI.match(uri) or uri.partition("#")[2]:
        raise InvalidProof("invalid_request", "redirect_uri", "redirect_uri must be an absolute URI without a fragment")
    return uri


def _back(redirect_uri: str, response: Mapping[str, str]) -> Response:
    joint = "&" if "?" in redirect_uri else "?"
    return empty(302, [("Location", redirect_uri + joint + urlencode(response))])
