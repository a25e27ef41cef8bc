# SPDX-License-Identifier: Apache-2.0
"""What a request for a protected resource brings along: a scheme, a token, and what the token is bound to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs

from dpop.encoding import check_access_token
from dpop.errors import CredentialError
from dpop.server._jws import Headers, header_fields
from dpop.server._reasons import Reason, refuse

__all__ = ["Credentials", "bound_thumbprint", "is_bound", "read_credentials"]

_SCHEMES: Mapping[str, Literal["DPoP", "Bearer"]] = {"dpop": "DPoP", "bearer": "Bearer"}


class Credentials(NamedTuple):
    """An access token, not looked at yet, and the scheme it came with."""

    scheme: Literal["DPoP", "Bearer"]
    token: str

    def __repr__(self) -> str:
        return f"<Credentials {self.scheme}>"


def read_scheme(headers: Headers) -> Literal["DPoP", "Bearer", "both"] | None:
    """The scheme a client tried, for the challenge; ``"both"`` if it sent more than one Authorization field.

    Names match in any case (RFC 9110 §11.1). None if there is no field, or one of a scheme without meaning here.
    """
    fields = header_fields(headers, "authorization")
    if len(fields) > 1:
        return "both"
    scheme = _SCHEMES.get(fields[0].strip(" \t").partition(" ")[0].lower()) if fields else None
    # WSGI servers join two fields with a comma, which no token holds.
    return "both" if scheme is not None and "," in fields[0] else scheme


def read_credentials(headers: Headers, query: str) -> Credentials | None:
    """The one access token of a request, None if it has none (RFC 9449 §7.1, RFC 6750 §2).

    :param query: of the URL, as it came. Forms in bodies are not looked at: a token there is simply none.
    :raises InvalidProof: ``invalid_request`` for more than one Authorization field and for a token in the
        query; ``invalid_token`` if not exactly one token follows the scheme.
    """
    scheme = read_scheme(headers)
    if scheme == "both":
        raise refuse(Reason.AUTHORIZATION_REPEATED, error="invalid_request")
    looks_like_it = "access_token" in query or "%" in query
    if looks_like_it and "access_token" in parse_qs(query, keep_blank_values=True, errors="replace"):
        raise refuse(Reason.TOKEN_OUTSIDE_HEADER, error="invalid_request")
    if scheme is None:
        return None
    (field,) = header_fields(headers, "authorization")
    token = field.strip(" \t").partition(" ")[2].strip(" ")
    try:
        return Credentials(scheme, check_access_token(token))
    except CredentialError:
        raise refuse(Reason.TOKEN_MALFORMED, error="invalid_token") from None


def is_bound(claims: Mapping[str, Any]) -> bool:
    """Whether a token is bound to anything, be it something this server does not know (RFC 7800 §3.1)."""
    return claims.get("cnf") is not None


def bound_thumbprint(claims: Mapping[str, Any]) -> str | None:
    """``cnf.jkt`` of a token's claims or introspection response, None if it is bound to no key (RFC 9449 §6).

    Whether it is a thumbprint is for the verifier to say, which refuses everything else.

    :raises InvalidProof: ``invalid_token``; ``cnf`` is no object, or its ``jkt`` no string.
    """
    confirmation = claims.get("cnf")
    if confirmation is None:
        return None
    if not isinstance(confirmation, Mapping):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error="invalid_token")
    if "jkt" not in confirmation:
        return None
    jkt = confirmation["jkt"]
    if not isinstance(jkt, str):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error="invalid_token")
    return jkt
