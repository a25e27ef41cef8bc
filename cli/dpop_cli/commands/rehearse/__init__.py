# SPDX-License-Identifier: Apache-2.0
"""``dpop rehearse``: try all that a client needs at a real server, and write a transcript."""
