# SPDX-License-Identifier: Apache-2.0
"""The OAuth client of the playground, on ``http.client``: its requests are recorded, and go to known servers only."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from ipaddress import IPv6Address, ip_address
from socket import create_connection, socket
from typing import Any, Final, TypeVar

from dpop.client import OutgoingRequest, Policy, Prover
from dpop.errors import UsageError
from dpop.origin import Origin
from dpop.profiles import Profile
from dpop.tokens import Grants, HTTPRequest, HTTPResponse, NoResponse, ServerMetadata, Steps, run_steps
from dpop_cli.wire.small_client import Exchange, exchanged, send_signed

__all__ = ["Client", "Wire"]

_T = TypeVar("_T")
_TIMEOUT: Final = 10


class Wire:
    """Sends requests, each exactly once and without following redirects, and records them.

    A connection to a link-local address is refused before anything is sent; so is one to this machine, unless a server
    that the user named is on this machine. Thus the metadata of a server cannot make the playground send requests to
    services that only this machine reaches.

    :param servers: the origins of the servers that the user named: https, or of this machine.
    :param see: called with each exchange.
    :raises UsageError: an origin is http and not of this machine.
    """

    def __init__(self, servers: Iterable[Origin], see: Callable[[Exchange], None]) -> None:
        self._origins = set(servers)
        self._local = any(origin.is_loopback for origin in self._origins)
        self._see = see
        for origin in self._origins:
            if origin.scheme != "https" and not origin.is_loopback:
                raise UsageError(f"{origin} is neither https nor on this machine, so nothing is sent to it")

    def allow(self, metadata: ServerMetadata) -> None:
        """Let requests go to the endpoints that a server's metadata names.

        :raises UsageError: an endpoint is neither https nor at a server that the user named or, if such a server is on
            this machine, on this machine.
        """
        for each in fields(metadata):
            url = getattr(metadata, each.name) if each.name.endswith("_endpoint") else None
            if url is None:
                continue
            origin = Origin.of_url(url)
            if origin not in self._origins and (
                not self._local if origin.is_loopback else origin.scheme != "https" or _is_link_local(origin.host)
            ):
                raise UsageError(
                    f"the server's metadata has its {each.name} at {origin}, where nothing is sent: an endpoint must be"
                    " https and not at a link-local address, and on this machine only if your server is there, too"
                )
            self._origins.add(origin)

    def send(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None = None) -> Exchange:
        """Send one request exactly as given.

        :raises UsageError: the URL is not at one of the servers, or there is no response.
        """
        origin = Origin.of_url(url)
        if origin not in self._origins:
            raise UsageError(f"{origin} is not a server of this playground, so nothing is sent to it")
        try:
            exchange = exchanged(self._connected(origin), method, url, headers, content)
        except (OSError, HTTPException) as error:
            raise UsageError(f"{origin} does not respond ({getattr(error, 'strerror', None) or error})") from None
        self._see(exchange)
        return exchange

    def _connected(self, origin: Origin) -> HTTPConnection:
        connection: HTTPConnection
        plain = create_connection((origin.host, origin.port), _TIMEOUT)
        try:
            self._check_peer(plain, origin)
            if origin.scheme == "https":
                context = ssl.create_default_context()
                connection = HTTPSConnection(origin.host, origin.port, timeout=_TIMEOUT, context=context)
                connection.sock = context.wrap_socket(plain, server_hostname=origin.host)
            else:
                connection = HTTPConnection(origin.host, origin.port, timeout=_TIMEOUT)
                connection.sock = plain
        except BaseException:
            plain.close()
            raise
        return connection

    def _check_peer(self, plain: socket, origin: Origin) -> None:
        """Check the address of the connection, because a name in a server's metadata may lead to any address."""
        address = plain.getpeername()[0]
        if _is_link_local(address) or (_is_loopback(address) and not self._local):
            raise UsageError(f"{origin} leads to {address}, an address of this machine or link; nothing is sent there")


class Client:
    """An OAuth client with one key at one server.

    :raises DPoPError: the settings contradict each other.
    """

    def __init__(
        self,
        prover: Prover,
        metadata: ServerMetadata,
        wire: Wire,
        *,
        client_id: str,
        client_secret: str | None,
        profile: Profile,
    ) -> None:
        wire.allow(metadata)
        in_form = client_secret is not None and "client_secret_post" in (
            metadata.client_auth_methods or ("client_secret_post",)
        )
        self.grants = Grants(
            prover,
            metadata,
            client_id=client_id,
            client_secret=client_secret,
            client_auth="client_secret_post" if in_form else None,
            profile=profile,
        )
        signed = self.grants.signed_endpoints
        self._policy = Policy(
            self.grants.prover,
            origins=sorted({str(Origin.of_url(url)) for url in signed}),
            as_endpoints=signed,
            profile=profile,
        )
        self._wire = wire

    def run(self, steps: Steps[_T]) -> _T:
        """Run steps of :attr:`grants`."""
        return run_steps(steps, self._exchange)

    def _exchange(self, request: HTTPRequest) -> HTTPResponse:
        headers = {name: value for name, value in request.headers if name.lower() != "content-type"}
        try:
            if request.signed:
                outgoing = OutgoingRequest(
                    request.method,
                    request.url,
                    authorization=headers.get("Authorization"),
                    content=request.body,
                    content_type=dict(request.headers).get("Content-Type"),
                )
                last = send_signed(self._policy, outgoing, self._wire.send, headers)[-1]
            else:
                last = self._wire.send(request.method, request.url, headers, request.body)
        except UsageError as error:
            raise NoResponse(str(error), sent=True) from error
        return HTTPResponse(last.status, tuple((name.lower(), value) for name, value in last.received), last.body)


def _is_link_local(host: str) -> bool:
    address = _address(host)
    return address is not None and (address.is_link_local or address.is_unspecified)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address is not None and address.is_loopback


def _address(host: str) -> Any:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
