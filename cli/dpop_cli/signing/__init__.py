# SPDX-License-Identifier: Apache-2.0
"""Options that sign a request: its key, access token and nonce; nonces are stored on disk between commands."""
