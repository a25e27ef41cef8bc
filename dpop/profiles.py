# SPDX-License-Identifier: Apache-2.0
"""Profiles: named sets of the facts that differ between servers, for ``profile=``.

A profile describes a server, not a user. It holds the facts that the server's documentation states and that the
protocol leaves open. ``RFC9449`` is the default and assumes nothing.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["ATPROTO", "FAPI2", "GOOGLE", "RFC9449", "Profile"]


class Profile(NamedTuple):
    """The expectations of one kind of server; ``_replace`` makes a variant.

    :param name: for people and logs.
    :param nonces: ``"required"`` if the server refuses every proof without a nonce: the first request
        then goes alone and the others wait for the nonce it brings. ``"auto"``: learn it when it comes;
        requests without one then wait for the first response, at most a second.
    :param algs: the algorithms the server accepts, ``None`` if it does not say.
    :param code_jti: a code exchange carries ``jti = BASE64URL(SHA256(code))``, also on its nonce retry.
    :param share_nonces: one nonce serves the token endpoint and the API of one origin.
    :param allow_bearer: the token endpoint may respond to a proof with a Bearer access token and bind only
        the refresh token (RFC 9449 §5). Elsewhere such a token is refused and is in the error.
    :param nonce_retries: how often one request is sent again because of its nonce, at most.
    :param serial: whether requests go one at a time, because the server takes only the newest nonce it gave; ``None``
        if it does not say.
    :param api_json_errors: an API of this server says ``use_dpop_nonce`` in a JSON body, not in ``WWW-Authenticate``.
    :param dpop_jkt: authorization requests name the key (RFC 9449 §10), unless the server's documentation does
        not mention that.
    :param signed_endpoints: the endpoints whose requests carry a proof, beside the token and the pushed authorization
        request endpoint: ``"revocation"``, ``"introspection"`` or ``"device_authorization"``.
    """

    name: str
    nonces: Literal["auto", "required"] = "auto"
    algs: tuple[str, ...] | None = None
    code_jti: bool = False
    share_nonces: bool = False
    allow_bearer: bool = False
    dpop_jkt: bool = True
    nonce_retries: int = 2
    api_json_errors: bool = False
    serial: bool | None = None
    signed_endpoints: tuple[str, ...] = ()


RFC9449 = Profile("RFC 9449")
"""The protocol as written."""

GOOGLE = Profile("Google", code_jti=True, algs=("ES256", "RS256"), allow_bearer=True, dpop_jkt=False, nonce_retries=1)
"""Google's token endpoint: the code names the first proof's ``jti``; refresh needs a nonce; access tokens
are Bearer, the refresh token is bound."""

ATPROTO = Profile("atproto", nonces="required", algs=("ES256",), signed_endpoints=("revocation",))
"""AT Protocol (Bluesky): nonces mandatory from the pushed authorization request on, ES256. Its server takes a token
back only with a proof, and reports success without one."""

FAPI2 = Profile("FAPI 2.0", algs=("PS256", "ES256", "Ed25519", "EdDSA"))
"""FAPI 2.0 Security Profile §5.4.1."""
