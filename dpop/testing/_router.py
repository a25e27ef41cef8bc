# SPDX-License-Identifier: Apache-2.0
"""The router of the test server: it applies planned incidents, and then passes requests to the endpoints."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping

from dpop.encoding import json_object
from dpop.errors import UsageError
from dpop.testing._authorization_server import OTHER_DEVICE_PATH, PATHS, AuthorizationServer
from dpop.testing._deployment import Deployment
from dpop.testing._incidents import Drop
from dpop.testing._messages import Headers, Request, Response, empty, json_response
from dpop.testing._resource_server import ResourceServer
from dpop.testing._stats import KEPT_FORM, RecordedRequest

__all__ = ["Front"]

_LOGGER = logging.getLogger("dpop.testing")

_ENDPOINTS: Mapping[str, str] = {path: endpoint for endpoint, path in PATHS.items()} | {
    OTHER_DEVICE_PATH: "device_authorization",
    "/.well-known/oauth-authorization-server": "metadata",
    "/.well-known/openid-configuration": "metadata",
    "/.well-known/oauth-protected-resource": "resource_metadata",
    "/.well-known/oauth-protected-resource/resource": "resource_metadata",
    "/resource": "resource",
    "/levers": "levers",
    "/stats": "stats",
}
_PREFLIGHT = [
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, PATCH, DELETE"),
    ("Access-Control-Allow-Headers", "Authorization, Content-Type, DPoP"),
    ("Access-Control-Max-Age", "600"),
]
_EXPOSED = ("Access-Control-Expose-Headers", "WWW-Authenticate, DPoP-Nonce")


class Front:
    """Maps a request to its response; None means that the connection is closed without a response.

    :param local: the ``host:port`` values that requests to ``/levers`` and ``/stats`` may have, on this machine.
    """

    def __init__(
        self,
        deployment: Deployment,
        authorization_server: AuthorizationServer,
        resource_server: ResourceServer,
        local: Collection[str],
    ) -> None:
        self._deployment = deployment
        self._authorization_server = authorization_server
        self._resource_server = resource_server
        self._local = {*local, deployment.origin.partition("://")[2]}

    def respond(self, request: Request, connection: int) -> Response | None:
        """Respond to a request that came over the connection with this number."""
        endpoint = _ENDPOINTS.get(request.path, "other")
        if request.path.startswith("/resource/"):
            endpoint = "resource"
        if endpoint in {"levers", "stats"}:
            # These requests are not counted or recorded: reading the figures must not change them.
            return self._steering(endpoint, request)
        journal = self._deployment.journal
        journal.stats.count_request(endpoint, next(iter(request.fields("DPoP")), None))
        latency = self._deployment.levers.latency
        if latency:
            self._deployment.stopped.wait(latency / 2)
        response = self._with_incidents(endpoint, request)
        if latency:
            self._deployment.stopped.wait(latency / 2)
        if response is not None and request.fields("Origin"):
            response = Response(response.status, _cors(response.headers), response.body)
        journal.recorded(
            RecordedRequest(
                endpoint,
                request.method,
                request.target,
                request.headers,
                request.body[:KEPT_FORM],
                request.body_length,
                connection,
                0 if response is None else response.status,
            )
        )
        return response

    def _with_incidents(self, endpoint: str, request: Request) -> Response | None:
        incident = self._deployment.levers.incidents.take(request.path)
        if incident is None:
            return self._response(endpoint, request)
        if not isinstance(incident, Drop):
            _LOGGER.info("%s %s got %s because of a lever", request.method, request.path, incident.status)
            return incident.response()
        _LOGGER.info("%s %s dropped because of a lever", request.method, request.path)
        if incident.after:
            self._response(endpoint, request)
        return None

    def _response(self, endpoint: str, request: Request) -> Response:
        if request.method == "OPTIONS" and request.fields("Access-Control-Request-Method"):
            return empty(204, _PREFLIGHT)
        match endpoint:
            case "resource":
                return self._resource_server.respond(request)
            case "resource_metadata":
                return self._resource_server.metadata()
            case "other":
                return json_response(404, {"error": "not_found", "endpoints": sorted(_ENDPOINTS)})
            case _:
                return self._authorization_server.respond(endpoint, request)

    # --- steering

    def _steering(self, endpoint: str, request: Request) -> Response:
        """Serve ``/stats`` and ``/levers``: for curl on this machine, not for web pages."""
        # A request with another host name (DNS rebinding) or from a web page does not come from the user.
        hosts, origins = request.fields("Host"), request.fields("Origin")
        sites = request.fields("Sec-Fetch-Site")  # a page's GET has no Origin
        if (
            not self._local.issuperset(hosts)
            or any(origin != self._deployment.origin for origin in origins)
            or not {"same-origin", "none"}.issuperset(sites)
        ):
            detail = f"to set levers, name this server as {' or '.join(sorted(self._local))}, and not from a web page"
            return json_response(403, {"error": "forbidden", "error_description": detail})
        if request.method in {"GET", "HEAD"}:
            return json_response(200, self._stats() if endpoint == "stats" else self._levers())
        if request.method != "POST" or endpoint == "stats":
            return empty(405, [("Allow", "GET, HEAD" if endpoint == "stats" else "GET, HEAD, POST")])
        try:
            self._steer(json_object(request.body))
        except UsageError as error:
            return json_response(400, {"error": "invalid_request", "error_description": str(error)})
        return json_response(200, self._levers())

    def _steer(self, changes: dict[str, object]) -> None:
        """Apply changes to the levers, and the two actions that only the server can do."""
        revoke = changes.pop("revoke", None)
        reset = changes.pop("reset_stats", False)
        if revoke is not None and revoke is not True and not isinstance(revoke, str):
            raise UsageError("revoke takes a token, or true for all access tokens")
        if not isinstance(reset, bool):
            raise UsageError("reset_stats takes true")
        self._deployment.levers.apply(changes)
        if isinstance(revoke, str):
            self._deployment.store.revoke(revoke)
        elif revoke:
            self._deployment.store.revoke_access_tokens()
        if reset:
            self._deployment.journal.clear()

    def _levers(self) -> dict[str, object]:
        return self._deployment.levers.as_dict()

    def _stats(self) -> dict[str, object]:
        reasons: dict[str, int] = {}
        for refusal in self._deployment.journal.refusals:
            reasons[refusal.reason] = reasons.get(refusal.reason, 0) + 1
        return self._deployment.journal.stats.as_dict() | {"refusal_reasons": reasons}


def _cors(headers: Headers) -> Headers:
    """Allow a web page to read the response, with its challenge and nonce (RFC 9449 §7.1, §8)."""
    present = {name for name, _ in headers}
    added = [("Access-Control-Allow-Origin", "*"), _EXPOSED]
    return [*headers, *(field for field in added if field[0] not in present)]
