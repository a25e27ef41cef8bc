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
# A field name; any quotes, colons and byte-string marks; and its value, which is the text between
# quotes, or up to a blank or a backslash. A nonce may contain commas, brackets and single quotes.
_NAME = r"""((?:dpop-nonce|dpop|authorization)\b\\?["']?\s*(?:[:=,]|\)\s*,)\s*"""
_AUTH = r"(?:(?:dpop|bearer|basic)\s+)?)"
_QUOTED_FIELD = re.compile(_NAME + r"""b?\\?(["'])""" + _AUTH + r"""(?:\\.|(?!\2)[^\\])+""", re.IGNORECASE)
_BARE_FIELD = re.compile(_NAME + _AUTH + r"""(?!b?\\?["'])[^\s\\"]+""", re.IGNORECASE)
_SCHEME = re.compile(r"\b(DPoP|Bearer)(\s+)([A-Za-z0-9\-._~+/]{8,}=*)")
# Matches a whole word, in which a JWT is then searched: a match from each eyJ would take quadratic time.
_MAYBE_JWT = re.compile(r"[A-Za-z0-9_\-.]{9,}+")


def redact(text: str) -> str:
    """Return the text with proofs, tokens and nonces masked."""
    text = _MAYBE_JWT.sub(_without_jwt, text)
    text = _SCHEME.sub(rf"\1\2{_MASK}", text)
    text = _QUOTED_FIELD.sub(rf"\1{_MASK}", text)
    return _BARE_FIELD.sub(rf"\1{_MASK}", text)


def _without_jwt(run: re.Match[str]) -> str:
    text = run[0]
    start = text.find("eyJ")
    return text[:start] + _MASK if start >= 0 and text.count(".", start) >= 2 else text


class RedactingFilter(logging.Filter):
    """A logging filter that masks secrets in every record, tracebacks included, and drops no record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Replace the record's message, traceback and stack with redacted text, if redaction changes them."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - the log call is wrong; handlers only report that
            record.msg, record.args = f"{redact(str(record.msg))} (its arguments do not match and are left out)", None
        else:
            redacted = redact(message)
            if redacted != message:
                record.msg, record.args = redacted, None
        if record.exc_info:
            trace = record.exc_text or _formatter.formatException(record.exc_info)
            if redact(trace) != trace:
                record.exc_info, record.exc_text = None, redact(trace)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


_formatter = logging.Formatter()
