# SPDX-License-Identifier: Apache-2.0
"""How a token set is written down: JSON with a version, sealed if the store has a key for that."""

from __future__ import annotations

import json
from typing import Final

from dpop.encoding import json_object
from dpop.errors import EncodingError, TokenFormatError
from dpop.tokens._sealing import Sealer
from dpop.tokens._token_set import TokenSet

__all__ = ["MAX_RECORD", "read_record", "write_record"]

MAX_RECORD: Final = 4_000_000
_VERSION: Final = 1
_MAX_DEPTH: Final = 24


def write_record(tokens: TokenSet, account: str, sealer: Sealer | None) -> bytes:
    """The octets to keep."""
    record: dict[str, object] = {"dpop_tokens": _VERSION, "account": account}
    if sealer is None:
        record["tokens"] = tokens.to_dict()
    else:
        record["sealed"] = sealer.seal(tokens.to_json(), _context(account))
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"


def read_record(octets: bytes, account: str, sealer: Sealer | None, where: str) -> TokenSet:
    """The tokens in what was kept.

    :param where: names the place in messages.
    :raises TokenFormatError: half-written, damaged, of another version, another account's, sealed with another
        key, or sealed where no key is at hand, or the other way round.
    """
    if not octets.strip(b"\0\n "):
        raise TokenFormatError(f"{where} is empty: it was not written to its end; authorise again")
    try:
        record = json_object(octets, max_depth=_MAX_DEPTH)
    except EncodingError as error:
        raise TokenFormatError(f"{where} is cut off or damaged ({error}); authorise again") from None
    version = record.get("dpop_tokens")
    if version != _VERSION or isinstance(version, bool):
        if isinstance(version, int) and version > _VERSION:
            raise TokenFormatError(f"{where} was written by a newer dpop-toolkit (format {version}); use that")
        raise TokenFormatError(f"{where} holds no tokens of this package; it was left as it is")
    if record.get("account") != account:
        raise TokenFormatError(f"{where} holds the tokens of another account than {account!r}")
    if "sealed" in record:
        if sealer is None:
            raise TokenFormatError(f"{where} is encrypted; give the store the key or password it was encrypted with")
        facts = json_object(sealer.open(record["sealed"], _context(account), where), max_depth=_MAX_DEPTH)
    elif sealer is not None:
        # Whoever can write the file could otherwise slip in tokens of their own.
        raise TokenFormatError(f"{where} is not encrypted, as it should be; authorise again")
    else:
        plain = record.get("tokens")
        facts = plain if isinstance(plain, dict) else {}
    return TokenSet.from_dict(facts)


def _context(account: str) -> bytes:
    """What a sealed record is tied to: one account's cannot be put in place of another's."""
    return f"dpop-toolkit tokens {_VERSION} {account}".encode()
