# SPDX-License-Identifier: Apache-2.0
"""The responses of a server that refuses a request (RFC 9449 §5, §7.1, §8, §9).

An ``error_description`` is the verifier's own sentence. The values that were received and expected stay in the
exception, for the server's log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Literal

from dpop._tracebacks import hide_frames
from dpop.encoding import check_nonce
from dpop.errors import InvalidProof, UsageError

__all__ = ["nonce_field", "resource_challenge", "token_error", "with_nonce"]

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
# RFC 6749 §5.2, RFC 6750 §3: %x20-21 / %x23-5B / %x5D-7E. Without " and \ there is nothing to escape.
_NOT_DESCRIPTION = re.compile(r"[^\x20-\x21\x23-\x5b\x5d-\x7e]+")
_STATUS = {"invalid_request": 400, "insufficient_scope": 403}
_EXPOSED = ("Access-Control-Expose-Headers", "WWW-Authenticate, DPoP-Nonce")
_OURS = frozenset({"www-authenticate", "dpop-nonce"})
_NO_STORE = ("Cache-Control", "no-store")


@hide_frames
def resource_challenge(
    error: InvalidProof | None,
    *,
    algs: Iterable[str] | str,
    realm: str | None = None,
    bearer: bool = False,
    tried: Literal["DPoP", "Bearer", "both"] = "DPoP",
    parameters: Mapping[str, str] | None = None,
    nonce: str | None = None,
) -> tuple[int, list[tuple[str, str]]]:
    """The refusal by a resource server: status and header fields (RFC 9449 §7.1, §7.2).

    :param error: the reason; None if the request had no credentials: the challenge then names no error.
    :param algs: algorithms the server accepts in proofs, in its order of preference, as a list or as
        one text with spaces.
    :param realm: the protection space, if it has a name.
    :param bearer: whether the server accepts bearer tokens too; a Bearer challenge then comes first, in a field
        of its own.
    :param tried: the scheme the client used. Only that challenge has the error (RFC 9449 §7.2).
    :param parameters: more parameters for the challenge with the error, such as ``scope``, ``acr_values``
        (RFC 9470) or ``resource_metadata`` (RFC 9728). They come after those of the error.
    :param nonce: the nonce to hand out if the error has none. Any response may carry one (RFC 9449 §8, §9).
    :returns: status 401, or 400 for ``invalid_request``, or 403 for ``insufficient_scope``; and the header
        fields, with ``DPoP-Nonce`` if there is a nonce to hand out.
    :raises UsageError: a parameter name that is not a token, or a value that no header field can hold.
    """
    listed = algs if isinstance(algs, str) else " ".join(algs)
    about: dict[str, str] = {}
    if error is not None:
        about = {"error": error.error, "error_description": _description(error), **error.parameters}
    about |= parameters or {}
    place = {} if realm is None else {"realm": realm}
    fields: list[tuple[str, str]] = []
    if bearer or tried != "DPoP":
        told = about if tried != "DPoP" else {}
        fields.append(("WWW-Authenticate", _challenge("Bearer", place | told)))
    told = about if tried != "Bearer" else {}
    fields.append(("WWW-Authenticate", _challenge("DPoP", place | told | {"algs": listed})))
    status = 401 if error is None else _STATUS.get(error.error, 401)
    handed_out = nonce if error is None or error.nonce is None else error.nonce
    return status, [*fields, *nonce_field(handed_out), _NO_STORE, _EXPOSED]


@hide_frames
def with_nonce(headers: Iterable[tuple[str, str]], nonce: str | None) -> list[tuple[str, str]]:
    """The header fields of a successful response, with the client's next nonce (RFC 9449 §8.2).

    There is one DPoP-Nonce then, whatever was there before, and no cache may keep the response. Without a nonce, a
    refusal among the fields, such as one of an error handler, stays readable for a browser whose page is told by a list
    of the application's what it may read.
    """
    fields = list(headers)
    exposing = _EXPOSED[0].lower()
    # A browser reads names from all these fields; "*" among them does not count for requests with credentials.
    exposed = [value for name, value in fields if name.lower() == exposing and value != _EXPOSED[1]]
    ours = (_EXPOSED[0], ", ".join([_EXPOSED[1], *exposed]))
    if nonce is None:
        if not exposed or not any(name.lower() in _OURS for name, _ in fields):
            return fields
        return [*(field for field in fields if field[0].lower() != exposing), ours]
    replaced = {"dpop-nonce", "cache-control", exposing}
    kept = [field for field in fields if field[0].lower() not in replaced]
    return [*kept, ("DPoP-Nonce", check_nonce(nonce)), _NO_STORE, ours]


def token_error(error: InvalidProof) -> tuple[int, list[tuple[str, str]], bytes]:
    """The refusal by an authorization server (RFC 6749 §5.2, RFC 9449 §5, §8).

    :returns: status 400, header fields, and the JSON body.
    """
    body = json.dumps({"error": error.error, "error_description": _description(error)}).encode("ascii")
    fields = [("Content-Type", "application/json"), *nonce_field(error.nonce), _NO_STORE, _EXPOSED]
    return 400, fields, body


def _description(error: InvalidProof) -> str:
    return _NOT_DESCRIPTION.sub("'", error.detail)


def nonce_field(nonce: str | None) -> list[tuple[str, str]]:
    """The field that hands out a nonce, or nothing."""
    return [] if nonce is None else [("DPoP-Nonce", check_nonce(nonce))]


def _challenge(scheme: str, parameters: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{_name(name)}={_quoted(name, value)}" for name, value in parameters.items())
    return f"{scheme} {pairs}" if pairs else scheme


def _name(name: str) -> str:
    if not _TOKEN.match(name):
        raise UsageError(f"{name!a} cannot be the name of a challenge parameter (RFC 9110 §11.2)")
    return name


def _quoted(name: str, value: str) -> str:
    """A quoted-string (RFC 9110 §5.6.4), in ASCII only: clients disagree on other bytes."""
    if not value.isascii() or not value.isprintable():
        raise UsageError(f"the challenge parameter {name} may hold printable ASCII only")
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
