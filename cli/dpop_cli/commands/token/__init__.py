# SPDX-License-Identifier: Apache-2.0
"""``dpop token``, with ``dpop login``, ``logout`` and ``tokens``: get, keep, refresh and return tokens."""
