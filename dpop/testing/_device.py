# SPDX-License-Identifier: Apache-2.0
"""The device grant: codes for a device, and the page where its user agrees (RFC 8628)."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from dpop.errors import InvalidProof
from dpop.testing._clients import Client
from dpop.testing._deployment import Deployment, granted
from dpop.testing._gate import Gate
from dpop.testing._messages import Request, Response, json_response, parameters
from dpop.testing._store import DeviceCode, new_grant

__all__ = ["DEVICE_CODE", "DeviceEndpoint", "poll"]

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"

_SECONDS = 600
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # RFC 8628 §6.1: no vowels, so no words


class DeviceEndpoint:
    """The device authorization endpoint, and the page for the user.

    :param url: the URL of this endpoint, which a proof must name if there is one.
    :param page: the URL of the user's page.
    :param uri_name: ``verification_uri``, or Google's ``verification_url``.
    """

    def __init__(self, url: str, page: str, deployment: Deployment, gate: Gate, *, uri_name: str) -> None:
        self._url = url
        self._page = page
        self._deployment = deployment
        self._gate = gate
        self._uri_name = uri_name

    def respond(self, request: Request) -> Response:
        """Respond 200 with the codes (RFC 8628 §3.2).

        :raises InvalidProof: the request, the client or the proof is refused.
        """
        form = request.form()
        client = self._deployment.clients.authenticate(request, form)
        seen = self._gate.verify_token_request(request, self._url) if request.fields("DPoP") else None
        levers = self._deployment.levers
        letters = [secrets.choice(_LETTERS) for _ in range(8)]
        code = DeviceCode(
            secrets.token_urlsafe(32),
            "".join(letters[:4]) + "-" + "".join(letters[4:]),
            client.client_id,
            granted(form.get("scope", "read"), levers.granted_scope),
            new_grant(),
            self._deployment.clock() + _SECONDS,
        )
        self._deployment.store.add_device_code(code)
        members: dict[str, object] = {
            "device_code": code.value,
            "user_code": code.user_code,
            self._uri_name: self._page,
            "expires_in": _SECONDS,
            "interval": levers.device_interval,
        }
        if self._uri_name == "verification_uri":
            members["verification_uri_complete"] = f"{self._page}?user_code={code.user_code}"
        return json_response(200, members, self._gate.nonce_after(seen))

    def visit(self, request: Request) -> Response:
        """Serve the page: a user who opens it with a ``user_code`` agrees."""
        user_code = parameters(request.query).get("user_code", "")
        if not self._deployment.store.agree(user_code):
            return json_response(404, {"error": "not_found", "error_description": "open it with ?user_code=CODE"})
        return json_response(200, {"agreed": True})


def poll(deployment: Deployment, client: Client, form: Mapping[str, str]) -> DeviceCode:
    """Use up and return the device code of a token request, once its user has agreed (RFC 8628 §3.5).

    :raises InvalidProof: ``authorization_pending`` or another error: the client must wait, or start again.
    """
    levers, value = deployment.levers, form.get("device_code", "")
    code = deployment.store.device_code(value)
    if code is None or code.client_id != client.client_id:
        raise InvalidProof("invalid_grant", "device_code_unknown", "the device_code is unknown or used up")
    now = deployment.clock()
    if code.expires_at <= now:
        raise InvalidProof("expired_token", "device_code_expired", "the device_code has expired; ask for a new one")
    if levers.device_user == "refuses":
        raise InvalidProof("access_denied", "user_refused", "the user has refused")
    if deployment.store.polled_too_soon(value, now, levers.device_interval):
        raise InvalidProof("slow_down", "polled_too_soon", f"poll at most every {levers.device_interval} seconds")
    if levers.device_user == "visits" and not code.agreed:
        raise InvalidProof("authorization_pending", "user_undecided", "the user has not opened the page yet")
    if not deployment.store.use_up_device_code(value):
        raise InvalidProof("invalid_grant", "device_code_unknown", "the device_code is unknown or used up")
    return code
