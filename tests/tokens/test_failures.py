# SPDX-License-Identifier: Apache-2.0
"""What an error says of a failed exchange; tests/adapters/test_sent_or_not.py has those of the HTTP libraries."""

from __future__ import annotations

from dpop.tokens._failures import reason_of


def test_the_innermost_error_of_the_system_is_named() -> None:
    """One that says something, whatever a library says around it or below."""
    error = RuntimeError("the request failed")
    error.__cause__ = OSError("no route to host")
    error.__cause__.__cause__ = OSError()
    error.__cause__.__cause__.__cause__ = RuntimeError("state 7")
    assert reason_of(error, "as.example:443") == "as.example:443: OSError: no route to host"
    assert reason_of(KeyError("state"), "as.example:443") == "as.example:443: KeyError: 'state'"
