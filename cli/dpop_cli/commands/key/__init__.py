# SPDX-License-Identifier: Apache-2.0
"""``dpop key``: make keys, list and show them, and rotate them."""
