# SPDX-License-Identifier: Apache-2.0
"""The URLs at which servers publish their metadata (RFC 8414 §3.1, RFC 9728 §3.1, OpenID Connect Discovery §4)."""

from __future__ import annotations

from dpop.origin import Origin, split_url

__all__ = ["metadata_urls", "resource_metadata_url"]


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Return the URLs where an issuer's metadata may be, in the order to try (RFC 8414 §3.1, OpenID Discovery §4).

    :raises InvalidTargetError: not an http or https URL.
    """
    path = split_url(issuer)[2].rstrip("/")
    origin = str(Origin.of_url(issuer))
    return (
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    )


def resource_metadata_url(resource: str) -> str:
    """Return the URL of a protected resource's metadata (RFC 9728 §3.1).

    :raises InvalidTargetError: not an http or https URL.
    """
    path = split_url(resource)[2].rstrip("/")
    return f"{Origin.of_url(resource)}/.well-known/oauth-protected-resource{path}"
