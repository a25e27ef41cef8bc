# SPDX-License-Identifier: Apache-2.0
"""Settings for all tests."""

from __future__ import annotations

from hypothesis import settings

# No deadline, for a slow machine is no fault; no database, for no run should depend on the one before.
settings.register_profile("dpop", deadline=None, database=None)
settings.load_profile("dpop")
