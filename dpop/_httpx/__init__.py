# SPDX-License-Identifier: Apache-2.0
"""Shared by the integrations of httpx and httpx2."""
