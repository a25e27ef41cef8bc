# SPDX-License-Identifier: Apache-2.0
"""``dpop curl``: run curl, with a fresh proof in every request."""
