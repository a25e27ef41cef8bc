# SPDX-License-Identifier: Apache-2.0
"""Find the authorization server that issued tokens of an earlier run, before their refresh token is sent anywhere.

The SDK's storage does not say where tokens came from, and the provider sends a refresh token to the MCP server itself
until it has discovered the authorization server. The issuer in the client information, which the SDK records when it
registers the client, is the only proof: what an MCP server says of its authorization server is not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import httpx2
from mcp.client.auth.utils import (
    build_oauth_authorization_server_metadata_discovery_urls,
    build_protected_resource_metadata_discovery_urls,
    create_oauth_metadata_request,
    extract_resource_metadata_from_www_auth,
    handle_auth_metadata_response,
    handle_protected_resource_response,
    issuers_match,
)
from mcp.shared.auth_utils import check_resource_allowed, resource_url_from_server_url

from dpop.origin import Origin

if TYPE_CHECKING:
    from mcp.client.auth.oauth2 import OAuthContext
    from mcp.shared.auth import ProtectedResourceMetadata

__all__ = ["IssuerSearch"]


class IssuerSearch:
    """The provider's discovery, for a refresh. What is found is noted in the provider's context.

    :param context: of the provider, with the client information.
    :param refusal: the response that refused the access token, if one did.
    """

    def __init__(self, context: OAuthContext, refusal: httpx2.Response | None) -> None:
        self._context = context
        self._refusal = refusal
        self.token_endpoint: str | None = None
        """Of the server that registered this client; None if it was not found."""

    async def steps(self) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Yield requests, and get their responses."""
        context = self._context
        registered_at = None if context.client_info is None else context.client_info.issuer
        if registered_at is None:
            return
        named = None if self._refusal is None else extract_resource_metadata_from_www_auth(self._refusal)
        resource: ProtectedResourceMetadata | None = None
        for url in build_protected_resource_metadata_discovery_urls(named, context.server_url):
            resource = await handle_protected_resource_response((yield create_oauth_metadata_request(url)))
            if resource is not None:
                break
        server = None if resource is None else str(resource.authorization_servers[0])
        if not issuers_match(registered_at, server or str(Origin.of_url(context.server_url))):
            return
        if resource is not None and not check_resource_allowed(
            requested_resource=resource_url_from_server_url(context.server_url),
            configured_resource=str(resource.resource),
        ):
            return
        for url in build_oauth_authorization_server_metadata_discovery_urls(server, context.server_url):
            go_on, metadata = await handle_auth_metadata_response((yield create_oauth_metadata_request(url)))
            if metadata is not None and issuers_match(str(metadata.issuer), registered_at):
                context.protected_resource_metadata = resource
                context.auth_server_url = server
                context.oauth_metadata = metadata
                self.token_endpoint = str(httpx2.URL(str(metadata.token_endpoint)))
            if metadata is not None or not go_on:
                return
