# SPDX-License-Identifier: Apache-2.0
"""The retry policy for requests to an Azure key vault. Only this module imports Azure's library at its top."""

from __future__ import annotations

from typing import Any, Final

from azure.core.pipeline.policies import RetryPolicy

__all__ = ["Patience"]

_MAX_WAIT_SECONDS: Final = 5.0


class Patience(RetryPolicy[Any, Any]):
    """The library's own retry policy, with limits for signatures that a user waits for.

    The library waits as long as a busy vault asks, even a minute; this policy then gives up instead. The library does
    not repeat a POST whose connection broke; this policy does, because signing twice does no harm.
    """

    def configure_retries(self, options: dict[str, Any]) -> dict[str, Any]:
        """Read the settings of one request."""
        settings: dict[str, Any] = super().configure_retries(options)
        settings["methods"] = {*settings["methods"], "POST"}
        return settings

    def increment(self, settings: dict[str, Any], response: Any = None, error: Any = None) -> bool:
        """Count an attempt; return whether to try once more."""
        if error is None and (self.get_retry_after(response) or 0) > _MAX_WAIT_SECONDS:
            return False
        return super().increment(settings, response, error)
