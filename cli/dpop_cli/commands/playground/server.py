# SPDX-License-Identifier: Apache-2.0
"""The servers that the playground can talk to: its own test server in any mode, or one that the user names."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import dpop
from dpop.client import Prover
from dpop.errors import UsageError
from dpop.keys import ALGORITHMS
from dpop.origin import Origin
from dpop.profiles import NAMES, Profile
from dpop.testing import DPoPTestServer
from dpop.tokens import ServerMetadata
from dpop_cli.commands.playground.client import Client, Wire

__all__ = ["Server", "embedded", "own_server"]


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Server:
    """An authorization server and an API, and the client that is registered there.

    :param api: the URL to call; empty if none is known.
    :param origins: the origins that the user named; Wire decides about the others.
    :param test_server: the embedded server, if it is that one.
    """

    metadata: ServerMetadata
    profile: Profile
    client_id: str
    client_secret: str | None
    api: str
    scope: str | None
    origins: frozenset[Origin]
    clock: Callable[[], float] = time.time
    test_server: DPoPTestServer | None = None

    @classmethod
    def of_test_server(cls, server: DPoPTestServer) -> Self:
        """Describe a running test server."""
        metadata = ServerMetadata(
            issuer=server.issuer,
            authorization_endpoint=server.authorization_endpoint,
            token_endpoint=server.token_endpoint,
            pushed_authorization_request_endpoint=server.par_endpoint,
            revocation_endpoint=server.revocation_endpoint,
            iss_in_responses=True,
            requires_par=server.profile.server.require_par,
        )
        return cls(
            metadata=metadata,
            profile=server.profile,
            client_id=server.client_id,
            client_secret=server.client_secret,
            api=server.resource,
            scope=None,
            origins=frozenset({Origin.parse(server.issuer)}),
            clock=server.clock,
            test_server=server,
        )

    def client(self, prover: Prover, wire: Wire) -> Client:
        """Return a client of this server."""
        return Client(
            prover,
            self.metadata,
            wire,
            client_id=self.client_id,
            client_secret=self.client_secret,
            profile=self.profile,
        )


def embedded(mode: str) -> DPoPTestServer:
    """Return a test server of a mode that does not run yet."""
    algs = None if Profile.of(mode).algs else ALGORITHMS
    if mode == "rfc9449":
        # The API wants no nonces: so each attack on it meets the check that it is about.
        return DPoPTestServer(mode=mode, algs=algs, rs_nonces="none")
    return DPoPTestServer(mode=mode, algs=algs)


def own_server(
    *,
    issuer: str,
    client_id: str,
    client_secret: str = "",
    api: str = "",
    scope: str = "",
    profile: str = "rfc9449",
) -> Server:
    """Read the metadata of a server that the user names.

    :param issuer: its URL, https or of this machine.
    :param api: the URL of an API that takes its tokens; empty if there is none to try.
    :param profile: one of :data:`dpop.profiles.NAMES`.
    :raises DPoPError: there is no such server, or a URL is neither https nor of this machine.
    """
    try:
        from dpop.requests import TokenEndpoint  # noqa: PLC0415 - an extra, and needed only here
    except ModuleNotFoundError as error:
        raise UsageError(
            f"your own server needs the package {error.name}; install it with: pip install 'dpop-toolkit[requests]'"
        ) from None
    if profile not in NAMES:
        raise UsageError("there is no such kind of server")
    if not client_id:
        raise UsageError("the client_id is missing; it is the name under which the server knows your client")
    origins = frozenset(Origin.of_url(url) for url in (issuer, api) if url)
    Wire(origins, lambda _exchange: None)  # refuses what is neither https nor of this machine, before the first request
    with TokenEndpoint.discover(dpop.generate_key(), issuer, client_id=client_id) as endpoint:
        metadata = endpoint.server
    return Server(
        metadata=metadata,
        profile=Profile.of(profile),
        client_id=client_id,
        client_secret=client_secret or None,
        api=api,
        scope=scope or None,
        origins=origins,
    )
