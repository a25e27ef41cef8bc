# SPDX-License-Identifier: Apache-2.0
"""What an authorization server says of itself: its endpoints, its methods (RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from dpop.encoding import json_object
from dpop.errors import EncodingError, InvalidTokenResponseError, UsageError
from dpop.origin import Origin, split_url

__all__ = ["ServerMetadata", "metadata_urls", "read_metadata"]

_MAX_DEPTH: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """An authorization server's endpoints, by hand or from its ``/.well-known`` document.

    :param issuer: its identifier; compared with ``iss`` in answers (RFC 9207).
    :param client_auth_methods: its ``token_endpoint_auth_methods_supported``.
    :param dpop_algs: its ``dpop_signing_alg_values_supported``; empty if it does not say.
    :param iss_in_responses: it puts ``iss`` into authorization answers, so that one without is refused.
    :param requires_par: authorization requests must be pushed.
    """

    token_endpoint: str
    issuer: str | None = None
    authorization_endpoint: str | None = None
    pushed_authorization_request_endpoint: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    client_auth_methods: tuple[str, ...] = ()
    dpop_algs: tuple[str, ...] = ()
    iss_in_responses: bool = False
    requires_par: bool = False

    def __post_init__(self) -> None:
        for each in fields(self):
            url = getattr(self, each.name)
            if each.name.endswith("_endpoint") and url is not None:
                Origin.of_url(url)

    def endpoint(self, name: str) -> str:
        """The URL of an endpoint that must be there.

        :param name: without ``_endpoint``.
        :raises UsageError: the server has none, or it was not given.
        """
        url: str | None = getattr(self, f"{name}_endpoint")
        if url is None:
            raise UsageError(
                f"the server's {name}_endpoint is not known; give it in ServerMetadata({name}_endpoint=...)"
            )
        return url


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where the metadata of an issuer may be, in the order to try (RFC 8414 §3.1, OpenID Connect Discovery §4).

    :raises InvalidTargetError: not an http or https URL.
    """
    _, _, path = split_url(issuer)
    path = path.rstrip("/")
    origin = str(Origin.of_url(issuer))
    urls = [
        f"{origin}/.well-known/oauth-authorization-server{path}",
        f"{origin}{path}/.well-known/openid-configuration",
    ]
    return tuple(urls)


def read_metadata(issuer: str, body: bytes) -> ServerMetadata:
    """The metadata of an issuer.

    :raises InvalidTokenResponseError: not metadata, or another issuer's.
    """
    try:
        members = json_object(body, max_depth=_MAX_DEPTH)
    except EncodingError as error:
        raise InvalidTokenResponseError(f"the metadata of {issuer} cannot be read: {error}") from None
    if members.get("issuer") != issuer:
        raise InvalidTokenResponseError(
            f"the metadata found for {issuer} names another issuer, and so none of it can be trusted;"
            " write the issuer exactly as the server does"
        )
    texts = {each.name: _text(members, each.name) for each in fields(ServerMetadata) if each.name.endswith("_endpoint")}
    token_endpoint = texts.pop("token_endpoint")
    if token_endpoint is None:
        raise InvalidTokenResponseError(f"the metadata of {issuer} has no token_endpoint")
    try:
        return ServerMetadata(
            token_endpoint=token_endpoint,
            issuer=issuer,
            client_auth_methods=_texts(members, "token_endpoint_auth_methods_supported"),
            dpop_algs=_texts(members, "dpop_signing_alg_values_supported"),
            iss_in_responses=members.get("authorization_response_iss_parameter_supported") is True,
            requires_par=members.get("require_pushed_authorization_requests") is True,
            **texts,
        )
    except UsageError as error:
        raise InvalidTokenResponseError(f"the metadata of {issuer} has an endpoint that is no URL: {error}") from None


def _text(members: Mapping[str, Any], name: str) -> str | None:
    value = members.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidTokenResponseError(f"the server's metadata has a {name} that is no string")
    return value


def _texts(members: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = members.get(name, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InvalidTokenResponseError(f"the server's metadata has a {name} that is no list of strings")
    return tuple(values)
