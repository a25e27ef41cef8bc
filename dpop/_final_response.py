# SPDX-License-Identifier: Apache-2.0
"""The response of ``http.client`` that reads past informational responses."""

from __future__ import annotations

import http.client
from typing import cast

__all__ = ["FinalResponse"]


class FinalResponse(http.client.HTTPResponse):
    """Reads the final response after informational ones, such as 103 Early Hints (RFC 9110 §15.2).

    ``http.client`` skips only 100. It takes any other for the final response; the real one stays in the connection, and
    is lost or given to the next request.
    """

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = cast("tuple[str, int, str]", super()._read_status())  # type: ignore[misc]
        if 101 < status < 200:
            status = 100  # begin() skips it and its fields
        return version, status, reason
