# SPDX-License-Identifier: Apache-2.0
"""A logging filter that keeps proofs, tokens and nonces out of other libraries' logs.

This package logs none of them. But at DEBUG level ``httpcore``, ``httpcore2``, ``hpack`` and ``h2``
log header fields, and ``http.client`` prints them when its ``debuglevel`` is set (to standard output,
where no filter reaches). Attach the filter to each *handler*: a logger's own filters do not see what
its children log::

    for handler in logging.getLogger().handlers:
        handler.addFilter(dpop.redaction.RedactingFilter())
"""

from __future__ import annotations

import logging
import re

__all__ = ["RedactingFilter", "redact"]

_MASK = "[redacted]"
# A field name, whatever quotes, colons and byte-string marks stand between, and its value.
_FIELD = re.compile(
    r"""((?:dpop-nonce|dpop|authorization)\b["']?\s*(?:[:=,]|\)\s*,)\s*b?["']?\s*(?:dpop\s+|bearer\s+|basic\s+)?)([^\s"',)]+)""",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(DPoP|Bearer)(\s+)([A-Za-z0-9\-._~+/]{8,}=*)")
_JWT = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def redact(text: str) -> str:
    """The text with proofs, tokens and nonces masked."""
    text = _JWT.sub(_MASK, text)
    text = _SCHEME.sub(rf"\1\2{_MASK}", text)
    return _FIELD.sub(rf"\1{_MASK}", text)


class RedactingFilter(logging.Filter):
    """Masks secrets in every record that passes; drops none."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message by its redacted text."""
        message = record.getMessage()
        redacted = redact(message)
        if redacted != message:
            record.msg, record.args = redacted, None
        return True
