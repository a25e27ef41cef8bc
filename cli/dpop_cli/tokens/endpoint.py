# SPDX-License-Identifier: Apache-2.0
"""The token endpoint of the command line: it prints what it waits for."""

from __future__ import annotations

import requests

from dpop.errors import TokenRefusedError
from dpop.origin import Origin
from dpop.requests import TokenEndpoint
from dpop.tokens import HTTPRequest, HTTPResponse
from dpop_cli.console.output import hint, waiting

__all__ = ["Endpoint", "session_with"]


class Endpoint(TokenEndpoint):
    """A token endpoint that tells a person what it waits for."""

    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request, as the base class does."""
        with waiting(f"Waiting for {Origin.of_url(request.url)}"):
            return super().exchange(request)

    def __exit__(self, *exc: object) -> None:
        """Close the endpoint; if the server refused the client, print which options give its secret or key."""
        super().__exit__(*exc)
        if any(isinstance(error, TokenRefusedError) and error.error == "invalid_client" for error in exc):
            hint(
                "name the client with its secret or key: --client client.json, in all commands with"
                " export DPOP_CLIENT=client.json, or --client-id with --client-secret-file or --client-key"
            )


def session_with(certificate: str | tuple[str, str]) -> requests.Session:
    """A session that shows a client's certificate: its file, or those of certificate and key."""
    session = requests.Session()
    session.cert = certificate
    return session
