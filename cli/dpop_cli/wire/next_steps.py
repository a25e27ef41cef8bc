# SPDX-License-Identifier: Apache-2.0
"""The next step of a client, by the error code of a response."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["NEXT_STEPS"]

NEXT_STEPS: Mapping[str, str] = {
    "use_dpop_nonce": (
        "Make a new proof with this nonce, and send the request again. dpop curl does so by itself; otherwise store the"
        " nonce with: dpop nonce learn URL FILE."
    ),
    "invalid_dpop_proof": (
        "The proof was refused, and will be refused again. Check it with dpop inspect --against URL --method M:"
        " the usual causes are a wrong clock, htu behind a proxy, and a second use."
    ),
    "invalid_token": (
        "The access token has expired, was revoked, or is bound to another key: get a new one, with the same key, and"
        " send the request again."
    ),
    "insufficient_scope": "Ask the authorization server for a token with more scopes; a new proof does not help.",
    "invalid_grant": (
        "The code or refresh token is invalid, or is bound to another key: use the key it was issued for, or let the"
        " user log in again."
    ),
    "invalid_client": "The client did not authenticate; that has nothing to do with the proof.",
    "invalid_request": "The request itself is wrong; see its description.",
}
