# SPDX-License-Identifier: Apache-2.0
"""The device grant's codes: one to type in on another device, one to ask with meanwhile (RFC 8628)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dpop.errors import TokenAnswerError

__all__ = ["DeviceAuthorization", "read_device_authorization"]

_MAX_INTERVAL: Final = 300.0
_MAX_LIFETIME: Final = 86_400.0


@dataclass(frozen=True, slots=True, repr=False)
class DeviceAuthorization:
    """What to show the user, and what to ask with (RFC 8628 §3.2).

    :param user_code: to type in at ``verification_uri``.
    :param verification_uri_complete: the same with the code in it, for a QR code; not every server has it.
    :param expires_at: Unix seconds.
    :param interval: seconds between two questions.
    """

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_at: float
    interval: float

    def __repr__(self) -> str:
        return f"<DeviceAuthorization at {self.verification_uri}>"


def read_device_authorization(members: Mapping[str, Any], asked_at: float) -> DeviceAuthorization:
    """The codes in an answer.

    :raises TokenAnswerError: one is missing, or a number makes no sense.
    """
    texts = {}
    for name in ("device_code", "user_code", "verification_uri"):
        value = members.get(name)
        if not isinstance(value, str) or not value.isprintable() or not value:
            raise TokenAnswerError(f"the answer of the device authorization endpoint has no {name}")
        texts[name] = value
    complete = members.get("verification_uri_complete")
    return DeviceAuthorization(
        **texts,
        verification_uri_complete=complete if isinstance(complete, str) and complete.isprintable() else None,
        expires_at=asked_at + _number(members, "expires_in", None, _MAX_LIFETIME),
        interval=_number(members, "interval", 5.0, _MAX_INTERVAL),
    )


def _number(members: Mapping[str, Any], name: str, default: float | None, limit: float) -> float:
    value = members.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= limit:
        raise TokenAnswerError(f"the answer of the device authorization endpoint has no {name} that makes sense")
    return float(value)
