# SPDX-License-Identifier: Apache-2.0
"""The logging filter: what other libraries print of a request, without its secrets."""

from __future__ import annotations

import logging

import pytest

from dpop.redaction import RedactingFilter, redact

PROOF = "eyJ0eXAiOiJkcG9wK2p3dCJ9.eyJqdGkiOiJ4In0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        f"send: b'GET / HTTP/1.1\\r\\nDPoP: {PROOF}\\r\\nAuthorization: DPoP the-token-1\\r\\n'",
        "receive_response_headers.complete return_value=(b'HTTP/1.1', 401, b'', [(b'DPoP-Nonce', b'the-nonce.1')])",
        f"Adding (b'dpop', b'{PROOF}') to the header table, sensitive:False, huffman:True",
        "Decoded (b'dpop-nonce', b'the-nonce.1'), consumed 5 bytes",
        "header: DPoP-Nonce: the-nonce.1",
        "{'Authorization': 'Bearer the-token-1', 'Accept': '*/*'}",
        "{'authorization': 'Basic dGhlLXRva2VuLTE='}",
        "Authorization=DPoP the-token-1",
    ],
)
def test_secrets_are_masked(text: str) -> None:
    """In the forms httpcore, hpack, http.client and reprs print them, nothing secret is left."""
    masked = redact(text)
    for secret in (PROOF, "the-token-1", "the-nonce.1", "dGhlLXRva2VuLTE="):
        assert secret not in masked
    assert "[redacted]" in masked


@pytest.mark.parametrize(
    "text", ["GET /token HTTP/1.1 200", "DPoP is on", 'https://api.example:443 "GET / HTTP/1.1" 401 0']
)
def test_the_rest_is_left_alone(text: str) -> None:
    """A log line without secrets is not changed."""
    assert redact(text) == text


def test_a_handlers_filter_sees_everything(caplog: pytest.LogCaptureFixture) -> None:
    """On a handler, the filter masks records of every logger, arguments included, and drops none."""
    masking = RedactingFilter()
    caplog.handler.addFilter(masking)
    try:
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("httpcore.http11").debug("headers %r", [(b"DPoP", PROOF.encode())])
            logging.getLogger("other").debug("plain %s", "text")
    finally:
        caplog.handler.removeFilter(masking)
    assert [record.getMessage() for record in caplog.records] == ["headers [(b'DPoP', b'[redacted]')]", "plain text"]
