# SPDX-License-Identifier: Apache-2.0
"""google-auth's requests to its token endpoint, put on the wire by an endpoint of ours.

google-auth calls a *request* with URL, method, headers and body, and reads status and body of what it returns.
Its own requests send the same octets again when a connection breaks and follow redirects; ours carry one fresh
proof each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl

import requests
from google.auth.exceptions import RefreshError, TransportError

from dpop.errors import DPoPError, InvalidTokenResponseError, TokenEndpointUnavailableError, TokenRequestError
from dpop.requests import TokenEndpoint
from dpop.tokens._responses import is_success, token_response
from dpop.tokens._steps import HTTPResponse, NoResponse
from dpop.tokens._token_set import TokenSet

__all__ = ["Response", "SignedRequest", "check_bearer", "refresh_error", "session_of"]

_OURS: Final = frozenset({"grant_type", "refresh_token", "client_id", "client_secret"})


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """What google-auth reads of an answer (``google.auth.transport.Response``)."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class SignedRequest:
    """A ``google.auth.transport.Request`` that signs what goes to the token endpoint; the rest passes through.

    :param request: google-auth's own, for other URLs.
    """

    def __init__(self, request: Callable[..., Any], endpoint: TokenEndpoint) -> None:
        self._request = request
        self._endpoint = endpoint
        self.tokens: TokenSet | None = None
        self.error: TokenRequestError | None = None

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Any:
        """Send one request; each time google-auth repeats it, with a proof of its own.

        :raises TransportError: no answer came.
        :raises RefreshError: nothing was sent, or what came cannot be used.
        """
        form = dict(parse_qsl((body or b"").decode("latin-1")))
        if url != self._endpoint.server.token_endpoint or form.get("grant_type") != "refresh_token":
            if timeout is not None:
                options["timeout"] = timeout
            return self._request(url=url, method=method, body=body, headers=headers, **options)
        try:
            return self._refresh(form, headers or {})
        except DPoPError as error:
            raise refresh_error(error) from error

    def _refresh(self, form: Mapping[str, str], headers: Mapping[str, str]) -> Response:
        """The steps of a refresh, whose answer google-auth reads as well."""
        more = {name: value for name, value in form.items() if name not in _OURS}
        steps = self._endpoint.grants.refresh(form["refresh_token"], more)
        step: Any = next(steps)
        known = {name.lower() for name, _ in step.headers}
        further = tuple((name, value) for name, value in headers.items() if name.lower() not in known)
        self.error = None
        try:
            response = self._endpoint.exchange(replace(step, headers=step.headers + further))
        except NoResponse as failure:
            try:
                steps.throw(failure)
            except TokenRequestError as error:
                raise TransportError(str(error)) from error
            raise
        try:
            steps.send(response)
        except StopIteration as done:
            self.tokens = done.value
        except TokenRequestError as error:
            if is_success(response):
                raise
            self.error = error
        if self.tokens is None:
            return Response(response.status, dict(response.headers), response.body.decode("utf-8", "replace").encode())
        check_bearer(self.tokens)
        return Response(200, dict(response.headers), _usual_form(response, self.tokens))


def check_bearer(tokens: TokenSet) -> None:
    """Refuse an access token that google-auth cannot send as it must be.

    :raises InvalidTokenResponseError: it is bound to the key.
    """
    if tokens.is_bound:
        raise InvalidTokenResponseError(
            "the access token is bound to the key too, and google-auth sends it without a proof; use a"
            " dpop.requests.DPoPAdapter for this server. The tokens are in the error's tokens",
            tokens=tokens,
        )


def _usual_form(response: HTTPResponse, tokens: TokenSet) -> bytes:
    """The members of a token response that google-auth reads, in the form it reads without errors."""
    said = token_response(response)
    members = {
        "access_token": tokens.access_token,
        "expires_in": said.expires_in,
        "refresh_token": tokens.refresh_token,
        "scope": said.scope,
        "id_token": said.id_token,
    }
    return json.dumps({name: value for name, value in members.items() if value is not None}).encode("ascii")


def refresh_error(error: DPoPError) -> RefreshError:
    """google-auth's error for one of ours: what its callers catch, and look into."""
    retryable = isinstance(error, TokenEndpointUnavailableError)
    if not isinstance(error, TokenRequestError) or error.error is None:
        return RefreshError(str(error), retryable=retryable)
    facts = {"error": error.error, "error_description": error.description, "error_subtype": error.subtype}
    return RefreshError(str(error), {name: fact for name, fact in facts.items() if fact}, retryable=retryable)


def session_of(request: object) -> requests.Session | None:
    """The session of google-auth's request, for its proxies and TLS settings; its other transports have none."""
    session = getattr(request, "session", None)
    return session if isinstance(session, requests.Session) else None
