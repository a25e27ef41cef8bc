# SPDX-License-Identifier: Apache-2.0
"""The authorization server: its endpoints and its refusals, from request to response, without sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from dpop.errors import InvalidProof, ReplayCacheError
from dpop.profiles import Behaviour
from dpop.server import Reason, token_error
from dpop.testing._authorization import AuthorizationEndpoint, PushedRequestEndpoint
from dpop.testing._clients import Client
from dpop.testing._deployment import Deployment, refused_as
from dpop.testing._device import DeviceEndpoint
from dpop.testing._gate import Gate
from dpop.testing._messages import Request, Response, empty, json_response
from dpop.testing._token_endpoint import GRANTS, TokenEndpoint

__all__ = ["OTHER_DEVICE_PATH", "PATHS", "AuthorizationServer"]

PATHS: Mapping[str, str] = {
    "authorize": "/authorize",
    "par": "/par",
    "token": "/token",
    "revoke": "/revoke",
    "introspect": "/introspect",
    "device_authorization": "/device_authorization",
    "device": "/device",
    "jwks": "/jwks",
}
"""Where each endpoint is."""
OTHER_DEVICE_PATH = "/device/code"
"""Where Google's device authorization endpoint is, and every test server's too."""

_METHODS: Mapping[str, tuple[str, ...]] = {
    "metadata": ("GET", "HEAD"),
    "jwks": ("GET", "HEAD"),
    "device": ("GET",),
    "authorize": ("GET", "HEAD", "POST"),
}


class AuthorizationServer:
    """Responds to the requests to one authorization server.

    :param token: the token endpoint.
    """

    def __init__(self, deployment: Deployment, gate: Gate, token: TokenEndpoint) -> None:
        self._deployment = deployment
        self._gate = gate
        self._device_url = deployment.url(deployment.behaviour.device_path)
        device = DeviceEndpoint(
            self._device_url,
            deployment.url(PATHS["device"]),
            deployment,
            gate,
            uri_name=deployment.behaviour.device_uri,
        )
        self._endpoints: dict[str, Callable[[Request], Response]] = {
            "metadata": self._metadata,
            "authorize": AuthorizationEndpoint(deployment).respond,
            "par": PushedRequestEndpoint(deployment.url(PATHS["par"]), deployment, gate).respond,
            "token": token.respond,
            "revoke": self._revoke,
            "introspect": self._introspect,
            "device_authorization": device.respond,
            "device": device.visit,
            "jwks": lambda _request: json_response(200, deployment.signer.jwks()),
        }

    def respond(self, endpoint: str, request: Request) -> Response:
        """Respond to a request to an endpoint: ``metadata`` or one of :data:`PATHS`."""
        allowed = _METHODS.get(endpoint, ("POST",))
        if request.method not in allowed:
            return empty(405, [("Allow", ", ".join(allowed))])
        try:
            return self._endpoints[endpoint](request)
        except InvalidProof as refused:
            error = _as_told(self._deployment.behaviour, refused)
            self._deployment.journal.refused(endpoint, request, error)
            return _refusal(request, error, self._deployment.behaviour)
        except ReplayCacheError:
            return json_response(503, {"error": "temporarily_unavailable"}, [("Retry-After", "1")])

    def _metadata(self, _request: Request) -> Response:
        """The server metadata (RFC 8414, RFC 9449 §5.1)."""
        url = self._deployment.url
        return json_response(
            200,
            {
                "issuer": self._deployment.origin,
                "authorization_endpoint": url(PATHS["authorize"]),
                "token_endpoint": url(PATHS["token"]),
                "pushed_authorization_request_endpoint": url(PATHS["par"]),
                "revocation_endpoint": url(PATHS["revoke"]),
                "introspection_endpoint": url(PATHS["introspect"]),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
                "device_authorization_endpoint": self._device_url,
                "jwks_uri": url(PATHS["jwks"]),
                "grant_types_supported": list(GRANTS),
                "code_challenge_methods_supported": ["S256"],
                "token_endpoint_auth_methods_supported": list(self._deployment.clients.methods),
                "dpop_signing_alg_values_supported": list(self._gate.algs),
                "authorization_response_iss_parameter_supported": True,
                "require_pushed_authorization_requests": self._deployment.behaviour.require_par,
            },
        )

    def _revoke(self, request: Request) -> Response:
        """Revoke a token: 200 whether the token was known or not (RFC 7009)."""
        client, form, nonce = self._authenticate(request, "revoke")
        value = form.get("token", "")
        found = self._deployment.store.access_token(value) or self._deployment.store.refresh_token(value)
        if found is not None and found.client_id == client.client_id:
            self._deployment.store.revoke(value)
        return empty(200, nonce)

    def _introspect(self, request: Request) -> Response:
        """Introspect a token (RFC 7662, RFC 9449 §6.2)."""
        client, form, nonce = self._authenticate(request, "introspect")
        if not client.confidential:
            raise InvalidProof("invalid_client", "client_is_public", "introspection needs a client with a secret")
        token = self._deployment.store.access_token(form.get("token", ""))
        if token is None:
            return json_response(200, {"active": False}, nonce)
        members: dict[str, object] = {
            "active": True,
            "iss": self._deployment.origin,
            "client_id": token.client_id,
            "aud": self._deployment.url("/resource"),
            "sub": token.sub,
            "scope": token.scope,
            "iat": int(token.issued_at),
            "exp": int(token.expires_at),
            "token_type": "Bearer" if token.cnf is None else "DPoP",
        }
        if token.cnf is not None:
            members["cnf"] = dict(token.cnf)
        return json_response(200, members, nonce)

    def _authenticate(self, request: Request, endpoint: str) -> tuple[Client, Mapping[str, str], list[tuple[str, str]]]:
        """Read client and form of a request that needs no proof; if it has one, the proof must be valid."""
        form = request.form()
        client = self._deployment.clients.authenticate(request, form)
        seen = None
        if request.fields("DPoP"):
            optional = not self._deployment.asks_for_nonces(client)
            url = self._deployment.url(PATHS[endpoint])
            seen = self._gate.verify_token_request(request, url, nonce_optional=optional)
        return client, form, self._gate.nonce_after(seen)


def _as_told(behaviour: Behaviour, error: InvalidProof) -> InvalidProof:
    """Return a refusal of an authorization server with the error code that this kind of server uses."""
    code: str | None = error.error
    if error.reason == Reason.PROOF_MISSING:
        code = behaviour.missing_proof
    elif error.reason == Reason.KEY_MISMATCH:
        code = behaviour.wrong_key
    elif error.error == "use_dpop_nonce":
        code = behaviour.nonce_error
    elif error.error == "invalid_dpop_proof":
        code = behaviour.bad_proof
    return error if code in {None, error.error} else refused_as(error, code or "")


def _refusal(request: Request, error: InvalidProof, behaviour: Behaviour) -> Response:
    """Refuse: 400, or 401 if client authentication failed (RFC 6749 §5.2), or as this kind of server tells devices."""
    status, headers, body = token_error(error)
    if error.error == "authorization_pending":
        status = behaviour.device_pending
    elif error.error in {"slow_down", "access_denied"}:
        status = behaviour.device_refused
    if error.error == "invalid_client":
        status = 401
        if request.fields("Authorization"):
            headers = [*headers, ("WWW-Authenticate", 'Basic realm="token endpoint"')]
    return Response(status, headers, body)
