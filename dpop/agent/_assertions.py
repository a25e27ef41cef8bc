# SPDX-License-Identifier: Apache-2.0
"""Read the signing input of a client assertion, as strictly as that of a proof (RFC 7523 §3).

Only a key whose rules name the client signs one, and it signs nothing else: a key for proofs never makes a program the
client.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from dpop.agent._protocol import MAX_INPUT, refused
from dpop.errors import InvalidProof, UsageError
from dpop.origin import Origin
from dpop.server._jws import parse_compact

__all__ = ["AssertionToSign", "read_assertion"]

_TYPES: Final = frozenset({"client-authentication+jwt", "JWT"})
_HEADER: Final = frozenset({"typ", "alg"})
_NEEDED: Final = frozenset({"iss", "sub", "aud", "jti", "iat", "exp"})
_MAX_TEXT: Final = 256
_MAX_AUDIENCES: Final = 8
_MAX_LIFE: Final = 300
_LAST_SECOND: Final = 253_402_300_800  # the year 10000
_MAX_DEPTH: Final = 4


class AssertionToSign(NamedTuple):
    """The claims of a client assertion, after it was checked to be one.

    :param origins: the origins of all its audiences.
    """

    origins: tuple[Origin, ...]
    jti: str
    iat: int

    def __repr__(self) -> str:
        return f"<AssertionToSign for {', '.join(map(str, self.origins))}>"


def read_assertion(text: str, alg: str, client_id: str) -> AssertionToSign:
    """Read BASE64URL(header) ``.`` BASE64URL(payload) of an assertion of this client.

    :param alg: the key's algorithm.
    :raises Refusal: it is anything else. No claim is in the message.
    """
    try:
        jws = parse_compact(f"{text}.AA", max_length=MAX_INPUT + 3, max_depth=_MAX_DEPTH)
        header, payload = jws.header.members, jws.payload
    except InvalidProof as error:
        raise refused("no_assertion", f"this is not what a client assertion signs: {error.reason}") from None
    texts = header.get("typ"), header.get("kid", "-")
    if header.keys() - {"kid"} != _HEADER or not all(map(_is_text, texts)) or header["typ"] not in _TYPES:
        raise refused("no_assertion", "this key signs client assertions only: a header of exactly typ, alg and kid")
    if header["alg"] != alg:
        raise refused("key_mismatch", "the assertion names another algorithm than the agent's key has")
    if payload.keys() - {"nbf"} != _NEEDED:
        raise refused("no_assertion", "an agent signs the claims iss, sub, aud, jti, iat, exp and nbf, and no others")
    if payload["iss"] != client_id or payload["sub"] != client_id:
        raise refused("client", "iss and sub must be the client that the rules of the key name")
    iat, exp, nbf = payload["iat"], payload["exp"], payload.get("nbf", payload["iat"])
    if not all(type(time) is int and 0 < time < _LAST_SECOND for time in (iat, exp, nbf)) or not _is_text(
        payload["jti"]
    ):
        raise refused("no_assertion", "iat, exp and nbf must be whole numbers, and jti printable")
    if not 0 < exp - iat <= _MAX_LIFE or not -_MAX_LIFE <= nbf - iat <= _MAX_LIFE:
        raise refused("no_assertion", f"an agent signs assertions for {_MAX_LIFE} seconds at most")
    return AssertionToSign(_origins(payload["aud"]), payload["jti"], iat)


def _origins(audience: Any) -> tuple[Origin, ...]:
    audiences = audience if isinstance(audience, list) else [audience]
    if not 0 < len(audiences) <= _MAX_AUDIENCES:
        raise refused("no_assertion", f"aud must name 1 to {_MAX_AUDIENCES} audiences")
    try:
        return tuple(map(Origin.of_url, audiences))
    except UsageError:
        raise refused("no_assertion", "aud must be a URL, or several") from None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()
