# SPDX-License-Identifier: Apache-2.0
"""Fetch the metadata of authorization servers (RFC 8414 §3, OpenID Connect Discovery §4) and of APIs (RFC 9728 §3)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dpop._well_known import metadata_urls, resource_metadata_url
from dpop.client._policy import checked_origins
from dpop.errors import InvalidTokenResponseError, TokenEndpointUnavailableError, UsageError
from dpop.origin import Origin
from dpop.tokens._metadata import ResourceMetadata, ServerMetadata, read_metadata, read_resource_metadata
from dpop.tokens._steps import MAX_RESPONSE, HTTPRequest, HTTPResponse, NoResponse, Steps

__all__ = ["discovery", "resource_discovery"]

_JSON: Final = ("Accept", "application/json")


def discovery(issuer: str, insecure_origins: str | Iterable[str] = ()) -> Steps[ServerMetadata]:
    """Fetch a server's metadata from its issuer's ``/.well-known`` (RFC 8414 §3, OpenID Connect Discovery §4).

    It requests both addresses before it gives up.

    :raises InsecureOriginError: the issuer is http:// and not on this machine.
    :raises TokenRequestError: there is no metadata, or it belongs to another issuer.
    """
    checked_origins(str(Origin.of_url(issuer)), insecure_origins)
    found = []
    statuses = []
    for url in metadata_urls(issuer):
        try:
            response = yield HTTPRequest("GET", url, (_JSON,), None, signed=False)
        except NoResponse as failure:
            raise TokenEndpointUnavailableError(
                f"the metadata of {issuer} cannot be fetched ({failure.reason})"
            ) from failure
        if response.status == 200:
            try:
                return read_metadata(issuer, response.body)
            except InvalidTokenResponseError as error:
                found.append(f"{_path(url)}: {error}")
        elif 300 <= response.status < 400:
            found.append(f"{_path(url)} is redirected to {_target(response)}: if that is the issuer, use it")
        else:
            found.append(f"{_path(url)}: {response.status}")
        statuses.append(response.status)
    if max(statuses) >= 500 or 429 in statuses:
        raise TokenEndpointUnavailableError(
            f"{issuer} is out of order: it responded {max(statuses)} to a request for its metadata"
        )
    raise InvalidTokenResponseError(
        f"no metadata of {issuer} was found ({'; '.join(found)}); correct the issuer, or give the server's endpoints"
        " in a ServerMetadata"
    )


def resource_discovery(
    resource: str, url: str | None = None, insecure_origins: str | Iterable[str] = ()
) -> Steps[ResourceMetadata]:
    """Fetch the metadata of an API (RFC 9728 §3).

    :param url: where it is, as a challenge said; by default the well-known place. It must be at the API itself:
        otherwise a challenge could have any server asked.
    :raises UsageError: ``url`` is at another server.
    :raises InsecureOriginError: the API is http:// and not on this machine.
    :raises TokenRequestError: there is no metadata, or it belongs to another API.
    """
    home = Origin.of_url(resource)
    checked_origins(str(home), insecure_origins)
    place = resource_metadata_url(resource) if url is None else url
    if Origin.of_url(place) != home:
        raise UsageError(f"the metadata of {resource} would be fetched from {Origin.of_url(place)}, another server")
    try:
        response = yield HTTPRequest("GET", place, (_JSON,), None, signed=False)
    except NoResponse as failure:
        raise TokenEndpointUnavailableError(
            f"the metadata of {resource} cannot be fetched ({failure.reason})"
        ) from failure
    if response.status >= 500 or response.status == 429:
        raise TokenEndpointUnavailableError(
            f"{resource} is out of order: it responded {response.status} to a request for its metadata"
        )
    if response.status != 200:
        redirected = f", a redirect to {_target(response)}" if 300 <= response.status < 400 else ""
        raise InvalidTokenResponseError(
            f"no metadata of {resource} was found: {_path(place)} responded {response.status}{redirected}"
        )
    if len(response.body) > MAX_RESPONSE:
        raise InvalidTokenResponseError(f"the metadata of {resource} has more than {MAX_RESPONSE} bytes")
    return read_resource_metadata(resource, response.body)


def _target(response: HTTPResponse) -> str:
    return f"{_printable(response.header('location') or 'nowhere')}, which is not followed"


def _path(url: str) -> str:
    """The path of a URL, for messages; a challenge may have chosen the URL, and left out the path."""
    return "/" + _printable(url.partition("://")[2].partition("/")[2])


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:200]
