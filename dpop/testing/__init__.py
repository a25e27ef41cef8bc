# SPDX-License-Identifier: Apache-2.0
"""A test server: an authorization server and an API that really verify DPoP proofs.

::

    from dpop.testing import DPoPTestServer

    with DPoPTestServer(nonces="single-use") as server:
        ...  # server.token_endpoint, server.resource, server.issue_access_token(jkt=...)
        server.levers.lapse()                      # all nonces issued so far are refused
        server.levers.fail_next(3, status=503)     # see Levers for all levers
        print(server.refusals, server.stats.wasted_per_1000)

pytest has the fixture ``dpop_server`` as soon as this package is installed; a marker sets its
arguments: ``@pytest.mark.dpop_server(mode="google")``. On the command line: ``dpop serve``.

To test a server of your own, :mod:`dpop.testing.defects` makes proofs with one defect each, and
:func:`check_replay_cache` checks a replay cache of your own.

It is for tests and demonstrations: every user agrees, any redirect_uri is accepted, and it uses plain http.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dpop._faces import lazy

if TYPE_CHECKING:
    from dpop.testing._contracts import check_replay_cache
    from dpop.testing._levers import Levers
    from dpop.testing._messages import Headers
    from dpop.testing._server import DPoPTestServer, Mode
    from dpop.testing._settings import DISCIPLINES, Discipline, LeverSettings
    from dpop.testing._stats import RecordedRequest, Refusal, Stats

__all__ = [
    "DISCIPLINES",
    "DPoPTestServer",
    "Discipline",
    "Headers",
    "LeverSettings",
    "Levers",
    "Mode",
    "RecordedRequest",
    "Refusal",
    "Stats",
    "check_replay_cache",
]

# pytest imports this package in every run to find the fixture, so names are loaded only when they are used.
__getattr__: Callable[[str], Any]
__dir__: Callable[[], list[str]]
__getattr__, __dir__ = lazy(
    __name__,
    {
        "dpop.testing._contracts": ("check_replay_cache",),
        "dpop.testing._levers": ("Levers",),
        "dpop.testing._messages": ("Headers",),
        "dpop.testing._server": ("DPoPTestServer", "Mode"),
        "dpop.testing._settings": ("DISCIPLINES", "Discipline", "LeverSettings"),
        "dpop.testing._stats": ("RecordedRequest", "Refusal", "Stats"),
    },
)
