# SPDX-License-Identifier: Apache-2.0
"""``dpop inspect``: decode and judge a proof, or explain the response of a server."""
