# SPDX-License-Identifier: Apache-2.0
"""Code that the integrations for httpx and httpx2 share."""
