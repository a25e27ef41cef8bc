# SPDX-License-Identifier: Apache-2.0
"""``dpop demo``: show DPoP at work, step by step."""
