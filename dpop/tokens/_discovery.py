# SPDX-License-Identifier: Apache-2.0
"""Fetch the metadata of an authorization server (RFC 8414 §3, OpenID Connect Discovery §4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from dpop._well_known import metadata_urls
from dpop.client._policy import checked_origins
from dpop.errors import InvalidTokenResponseError, TokenEndpointUnavailableError
from dpop.origin import Origin
from dpop.tokens._metadata import ServerMetadata, read_metadata
from dpop.tokens._steps import HTTPRequest, NoResponse, Steps

__all__ = ["discovery"]

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
            target = _printable(response.header("location") or "nowhere")
            found.append(
                f"{_path(url)} is redirected to {target}, which is not followed: if that is the issuer, use it"
            )
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


def _path(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:200]
