# SPDX-License-Identifier: Apache-2.0
"""``dpop playground``: DPoP and attacks on it, in the browser."""
