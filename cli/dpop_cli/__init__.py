# SPDX-License-Identifier: Apache-2.0
"""The ``dpop`` command: one module per command group, and no protocol logic in any of them."""
