# SPDX-License-Identifier: Apache-2.0
"""``dpop agent``: run the signing agent, and speak to it."""
