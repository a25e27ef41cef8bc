# SPDX-License-Identifier: Apache-2.0
"""An authorization server's metadata: its endpoints and methods (RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from dpop._tracebacks import hide_frames
from dpop.client._forgiving import forgiving_object
from dpop.errors import EncodingError, InsecureOriginError, InvalidTokenResponseError, UsageError
from dpop.origin import Origin

__all__ = ["ResourceMetadata", "ServerMetadata", "read_metadata", "read_resource_metadata"]

_log: Final = logging.getLogger("dpop.tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerMetadata:
    """An authorization server's endpoints, set by hand or read from its ``/.well-known`` document.

    :param issuer: its identifier; compared with ``iss`` in callbacks (RFC 9207).
    :param jwks_uri: its keys, with which ID tokens are verified.
    :param client_auth_methods: its ``token_endpoint_auth_methods_supported``.
    :param dpop_algs: its ``dpop_signing_alg_values_supported``; empty if it does not say.
    :param iss_in_responses: it puts ``iss`` into callbacks, so that one without is refused.
    :param requires_par: authorization requests must be pushed.
    :param mtls_endpoint_aliases: other URLs for clients with a certificate, by the name of the endpoint, such as
        ``"token_endpoint"`` (RFC 8705 §5).
    """

    token_endpoint: str
    issuer: str | None = None
    authorization_endpoint: str | None = None
    pushed_authorization_request_endpoint: str | None = None
    revocation_endpoint: str | None = None
    introspection_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    jwks_uri: str | None = None
    client_auth_methods: tuple[str, ...] = ()
    dpop_algs: tuple[str, ...] = ()
    iss_in_responses: bool = False
    requires_par: bool = False
    mtls_endpoint_aliases: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for each in fields(self):
            url = getattr(self, each.name)
            if (each.name.endswith("_endpoint") or each.name == "jwks_uri") and url is not None:
                Origin.of_url(url)
        for url in self.mtls_endpoint_aliases.values():
            Origin.of_url(url)

    def with_aliases(self) -> ServerMetadata:
        """The endpoints for a client that authenticates with a certificate: aliases where there are any."""
        aliases: dict[str, Any] = {
            name: url for name, url in self.mtls_endpoint_aliases.items() if name in _MAY_HAVE_ALIAS
        }
        return replace(self, **aliases)

    def endpoint(self, name: str) -> str:
        """The URL of an endpoint.

        :param name: without ``_endpoint``.
        :raises UsageError: the server has no such endpoint, or it was not given.
        """
        url: str | None = getattr(self, f"{name}_endpoint")
        if url is None:
            raise UsageError(
                f"the server's {name}_endpoint is not known; give it in ServerMetadata({name}_endpoint=...)"
            )
        return url


# Those that the client itself sends requests to.
_MAY_HAVE_ALIAS: Final = frozenset(
    each.name
    for each in fields(ServerMetadata)
    if each.name.endswith("_endpoint") and each.name != "authorization_endpoint"
)


@dataclass(frozen=True, slots=True)
class ResourceMetadata:
    """The metadata that an API publishes about itself (RFC 9728 §2).

    :param resource: its identifier.
    :param authorization_servers: issuers whose tokens it accepts.
    :param scopes: its ``scopes_supported``.
    :param dpop_algs: its ``dpop_signing_alg_values_supported``; empty if it does not say.
    :param dpop_required: it accepts tokens that are bound to a key only.
    """

    resource: str
    authorization_servers: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    dpop_algs: tuple[str, ...] = ()
    dpop_required: bool = False


@hide_frames
def read_resource_metadata(resource: str, body: bytes) -> ResourceMetadata:
    """Read the metadata of an API, found at :func:`dpop.tokens.resource_metadata_url` or named by its challenge.

    :param resource: the identifier of the API that was asked; the document must name the same (RFC 9728 §3.3).
    :raises InvalidTokenResponseError: not metadata, another resource's, or with authorization servers without TLS.
    """
    try:
        members = forgiving_object(body)[0]
    except EncodingError as error:
        raise InvalidTokenResponseError(f"not metadata but {error}") from None
    if members.get("resource") != resource:
        raise InvalidTokenResponseError("the metadata is of another resource, so that none of it can be trusted")
    servers = _texts(members, "authorization_servers")
    for server in servers:
        try:
            origin = Origin.of_url(server)
        except UsageError as error:
            raise InvalidTokenResponseError(f"the metadata names an issuer that is no URL: {error}") from None
        if origin.scheme != "https" and not (origin.is_loopback and Origin.of_url(resource).is_loopback):
            raise InvalidTokenResponseError("the metadata names an authorization server without TLS")
    return ResourceMetadata(
        resource,
        servers,
        _texts(members, "scopes_supported"),
        _texts(members, "dpop_signing_alg_values_supported"),
        _is_true(members, "dpop_bound_access_tokens_required"),
    )


def read_metadata(issuer: str, body: bytes) -> ServerMetadata:
    """Read the metadata document of an issuer (RFC 8414 §3.2). Members that are null or empty count as absent.

    :raises InvalidTokenResponseError: not metadata, or another issuer's.
    :raises InsecureOriginError: an https issuer names an http endpoint.
    """
    try:
        members = forgiving_object(body)[0]
    except EncodingError as error:
        looks = "an HTML page" if body.lstrip()[:1] == b"<" else str(error)
        raise InvalidTokenResponseError(f"not metadata but {looks}") from None
    named = members.get("issuer")
    if named != issuer:
        if not isinstance(named, str) or not named:
            raise InvalidTokenResponseError("a JSON object without issuer, which is not metadata")
        shown = "".join(character for character in named if character.isprintable())[:200]
        slash = ", with a slash less or more" if named.rstrip("/") == issuer.rstrip("/") else ""
        raise InvalidTokenResponseError(
            f"the metadata names another issuer, {shown!r}{slash}, so that none of it can be trusted; if that is the"
            " right one, write it exactly so"
        )
    unusable: list[str] = []
    names = [each.name for each in fields(ServerMetadata) if each.name.endswith("_endpoint")]
    texts = {name: _url(members, name, unusable) for name in names}
    aliases = _aliases(members, unusable)
    for name, url in [*texts.items(), *aliases.items()]:
        if url is not None and issuer[:6].lower() == "https:" and url[:5].lower() == "http:":
            raise InsecureOriginError(f"the metadata of {issuer} has a {name} without TLS: {url[:200]!r:.200}")
    token_endpoint = texts.pop("token_endpoint")
    if token_endpoint is None:
        because = "has a token_endpoint that is no URL" if "token_endpoint" in unusable else "has no token_endpoint"
        raise InvalidTokenResponseError(f"the metadata {because}")
    if unusable:
        _log.warning(
            "the metadata of %s has no URL in %s, which counts as absent", issuer, " and ".join(sorted(unusable))
        )
    return ServerMetadata(
        token_endpoint=token_endpoint,
        issuer=issuer,
        jwks_uri=_jwks_uri(issuer, members.get("jwks_uri")),
        client_auth_methods=_texts(members, "token_endpoint_auth_methods_supported"),
        dpop_algs=_texts(members, "dpop_signing_alg_values_supported"),
        iss_in_responses=_is_true(members, "authorization_response_iss_parameter_supported"),
        requires_par=_is_true(members, "require_pushed_authorization_requests"),
        mtls_endpoint_aliases=aliases,
        **texts,
    )


def _jwks_uri(issuer: str, uri: object) -> str | None:
    """The URL of the keys; ``None`` if it cannot be used, because only ID tokens need it."""
    try:
        origin = Origin.of_url(uri) if isinstance(uri, str) else None
    except UsageError:
        return None
    usable = origin is not None and (origin.scheme == "https" or origin == Origin.of_url(issuer))
    return uri if usable and isinstance(uri, str) else None


def _aliases(members: Mapping[str, Any], unusable: list[str]) -> dict[str, str]:
    named = members.get("mtls_endpoint_aliases")
    if not isinstance(named, dict):
        return {}
    names = sorted(_MAY_HAVE_ALIAS & named.keys())
    return {name: url for name in names if (url := _url(named, name, unusable)) is not None}


def _url(members: Mapping[str, Any], name: str, unusable: list[str]) -> str | None:
    """The URL of an endpoint; ``None`` if it is absent, null, empty, or no URL, which is then noted in ``unusable``.

    A client seldom needs more than one or two of the endpoints, so an odd one must not make the others useless.
    """
    value = members.get(name)
    url = value.strip() if isinstance(value, str) else value
    if url is None or url == "":
        return None
    try:
        Origin.of_url(url)
    except UsageError:
        unusable.append(name)
        return None
    if " " in url or not url.isprintable():  # it may be shown at a terminal, or sent to a browser in a Location
        unusable.append(name)
        return None
    return str(url)


def _is_true(members: Mapping[str, Any], name: str) -> bool:
    """Whether a member is true, also as a string or 1: what a server promises must not be overlooked."""
    value = members.get(name)
    return value == 1 or (isinstance(value, str) and value.strip().lower() in {"true", "1"})


def _texts(members: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The strings in an array, or in a string in its place; other values are left out."""
    values = members.get(name)
    if isinstance(values, str):
        return tuple(values.split())
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()
