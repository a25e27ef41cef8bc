# SPDX-License-Identifier: Apache-2.0
"""A request and a response, independent of sockets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from dpop.errors import InvalidProof

__all__ = ["KEPT_BODY", "NO_STORE", "Headers", "Request", "Response", "empty", "json_response", "parameters"]

Headers = Sequence[tuple[str, str]]

KEPT_BODY = 65_536
"""How many bytes of a body are kept. Of a longer body only length and hash are known, and no form is read."""

NO_STORE = ("Cache-Control", "no-store")

_MAX_PARAMETERS = 100


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One request as it was received.

    :param target: the request-target, raw: path and query.
    :param headers: all fields in their order, with their names as they were sent.
    :param body: the body, or its first ``KEPT_BODY`` bytes.
    :param body_length: bytes of the whole body.
    :param body_sha256: of the whole body, hexadecimal.
    """

    method: str
    target: str
    headers: Headers
    body: bytes = b""
    body_length: int = 0
    body_sha256: str = ""

    @property
    def path(self) -> str:
        """The target without its query, raw."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """The query after the ``?``, raw; empty if there is none."""
        return self.target.partition("?")[2]

    def fields(self, name: str) -> list[str]:
        """The values of all header fields of that name, in any case (RFC 9110 §5.1)."""
        name = name.lower()
        return [value for field_name, value in self.headers if field_name.lower() == name]

    def form(self) -> dict[str, str]:
        """The parameters in the body (RFC 6749 appendix B).

        :raises InvalidProof: ``invalid_request``: the body has another content type, is too long or repeats a
            parameter.
        """
        kind = "".join(self.fields("Content-Type")).partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise InvalidProof("invalid_request", "not_a_form", "the body must be application/x-www-form-urlencoded")
        if self.body_length > len(self.body):
            raise InvalidProof("invalid_request", "form_too_long", f"the form is longer than {KEPT_BODY} bytes")
        return parameters(self.body.decode("latin-1"))

    def __repr__(self) -> str:
        # Query, headers and body are left out, because they contain codes, tokens and proofs.
        return f"<Request {self.method} {self.path}, body of {self.body_length} bytes>"


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """One response. A body that is an iterable is sent piece by piece, in chunks."""

    status: int
    headers: Headers = field(default_factory=tuple)
    body: bytes | Iterable[bytes] = b""

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


def json_response(status: int, members: Mapping[str, object], headers: Headers = ()) -> Response:
    """Make an uncacheable JSON response (RFC 6749 §5.1)."""
    body = json.dumps(members).encode("ascii") + b"\n"  # so that a shell's prompt is on its own line
    return Response(status, [("Content-Type", "application/json"), NO_STORE, *headers], body)


def empty(status: int, headers: Headers = ()) -> Response:
    """Make a response without a body."""
    return Response(status, [NO_STORE, *headers])


def parameters(text: str) -> dict[str, str]:
    """Read parameters; only ``resource`` may be repeated (RFC 8707 §2), and empty ones are dropped (RFC 6749 §3.2).

    :raises InvalidProof: ``invalid_request``.
    """
    found: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, max_num_fields=_MAX_PARAMETERS, errors="strict")
    except ValueError:
        raise InvalidProof("invalid_request", "not_a_form", "the parameters cannot be read") from None
    for name, value in pairs:
        if name in found and name != "resource":
            raise InvalidProof("invalid_request", "parameter_repeated", "a parameter was sent more than once")
        found[name] = value
    return found
