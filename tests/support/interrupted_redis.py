# SPDX-License-Identifier: Apache-2.0
"""A connection to Redis on which a signal comes between a command and its answer."""

from __future__ import annotations

from typing import Any

import redis

__all__ = ["InterruptedOnce", "Stop"]


class Stop(BaseException):
    """What a signal handler raises."""


class InterruptedOnce(redis.UnixDomainSocketConnection):
    """A connection on which a signal comes once, between a command and its answer, which takes a moment."""

    raising: type[BaseException] | None = None

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        """Do not wait for the answer."""
        raising, InterruptedOnce.raising = InterruptedOnce.raising, None
        if raising is not None:
            raise raising
        return super().read_response(*arguments, **options)

    def can_read(self, *_arguments: Any, **_options: Any) -> bool:
        """The answer is still on its way."""
        return False
