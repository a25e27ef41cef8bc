# SPDX-License-Identifier: Apache-2.0
"""What the integrations of httpx and httpx2 share."""
