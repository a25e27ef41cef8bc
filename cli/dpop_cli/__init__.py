# SPDX-License-Identifier: Apache-2.0
"""The ``dpop`` command: one module per command group, without any protocol logic."""
