# SPDX-License-Identifier: Apache-2.0
"""Reads the access token of a request, and the key that the claims of a token name (RFC 9449 §6, §7.1)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dpop.encoding import check_access_token
from dpop.errors import CredentialError
from dpop.server._jws import Headers, header_fields
from dpop.server._reasons import Reason, refuse

__all__ = ["MAPPINGS", "MAX_QUERY", "Credentials", "bound_thumbprint", "is_bound", "read_credentials", "read_scheme"]

# Claims are almost always a dict, which is recognised ten times as quickly as a mapping of another kind.
MAPPINGS = (dict, Mapping)
_SCHEMES: Mapping[str, Literal["DPoP", "Bearer"]] = {"dpop": "DPoP", "bearer": "Bearer"}


class Credentials(NamedTuple):
    """An access token that is not checked yet, and its authentication scheme."""

    scheme: Literal["DPoP", "Bearer"]
    token: str

    def __repr__(self) -> str:
        return f"<Credentials {self.scheme}>"


def read_scheme(headers: Headers) -> Literal["DPoP", "Bearer", "both"] | None:
    """The scheme that a client used, for the challenge; ``"both"`` if it sent more than one Authorization field.

    Names match in any case (RFC 9110 §11.1). None if there is no field, or if its scheme is another.
    """
    return _scheme_of(header_fields(headers, "authorization"))


def _scheme_of(fields: list[str]) -> Literal["DPoP", "Bearer", "both"] | None:
    if len(fields) > 1:
        return "both"
    # Only as much as the longest name and a blank have: a stranger's may be as long as the server lets it be.
    scheme = _SCHEMES.get(fields[0].strip(" \t")[:7].partition(" ")[0].lower()) if fields else None
    # WSGI servers join two fields with a comma, which no token holds.
    return "both" if scheme is not None and "," in fields[0] else scheme


def read_credentials(headers: Headers, query: str) -> Credentials | None:
    """The one access token of a request, None if it has none (RFC 9449 §7.1, RFC 6750 §2).

    :param query: the query of the URL, as received. Bodies are not read, so a token in a form does not count.
    :raises InvalidProof: ``invalid_request`` for more than one Authorization field and for a token in the
        query; ``invalid_token`` if not exactly one token follows the scheme.
    """
    fields = header_fields(headers, "authorization")
    scheme = _scheme_of(fields)
    if scheme == "both":
        raise refuse(Reason.AUTHORIZATION_REPEATED, error="invalid_request")
    if query and _has_access_token(query):
        raise refuse(Reason.TOKEN_OUTSIDE_HEADER, error="invalid_request")
    if scheme is None:
        return None
    token = fields[0].strip(" \t").partition(" ")[2].strip(" ")
    try:
        return Credentials(scheme, check_access_token(token))
    except CredentialError:
        raise refuse(Reason.TOKEN_MALFORMED, error="invalid_token") from None


MAX_QUERY = 4096
_MAX_ESCAPED_QUERY = 512
# Both begin with one character as it is, for which a regular expression searches quickly.
_TOKEN_FIELD = re.compile(r"&access_token[=&]")
_DECODED_TOKEN_FIELD = re.compile(rb"\0access_token[\0\1]")
# Before decoding, what separates fields becomes what no name has: an escaped & or = separates nothing. A line break
# would have a meaning in quoted-printable.
_SEPARATORS_MARKED = bytes.maketrans(b"&=%\r\n", b"\0\1=\0\0")


def _has_access_token(query: str) -> bool:
    """Whether a query has the field ``access_token``; %61ccess_token is the same name. The query may be very long.

    Only the start is looked at, and less of it is decoded. A token in the query is never accepted, so nothing is lost
    with one that stands further behind.
    """
    start = f"&{query[:MAX_QUERY]}&"
    if _TOKEN_FIELD.search(start):
        return True
    start = start[:_MAX_ESCAPED_QUERY]
    if "%" not in start:
        return False
    # Quoted-printable is %-encoding with another sign, and the standard library decodes it in C.
    decoded = binascii.a2b_qp(f"{start}&".encode("latin-1", "replace").translate(_SEPARATORS_MARKED))
    return _DECODED_TOKEN_FIELD.search(decoded) is not None


def is_bound(claims: Mapping[str, Any]) -> bool:
    """Whether a token is bound to a key, even by a method that this server does not know (RFC 7800 §3.1)."""
    return claims.get("cnf") is not None


def bound_thumbprint(claims: Mapping[str, Any]) -> str | None:
    """``cnf.jkt`` of a token's claims or introspection response; None if it has none (RFC 9449 §6).

    The verifier checks that it is a thumbprint.

    :raises InvalidProof: ``invalid_token``: ``cnf`` is not an object, or its ``jkt`` is not a string.
    """
    confirmation = claims.get("cnf")
    if confirmation is None:
        return None
    if not isinstance(confirmation, MAPPINGS):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error="invalid_token")
    if "jkt" not in confirmation:
        return None
    jkt = confirmation["jkt"]
    if not isinstance(jkt, str):
        raise refuse(Reason.TOKEN_BINDING_MALFORMED, error="invalid_token")
    return jkt
