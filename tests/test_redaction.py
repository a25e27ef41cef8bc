# SPDX-License-Identifier: Apache-2.0
"""The logging filter: what other libraries print of a request, without its secrets."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

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
        "header: Authorization: Basic dGhlLXRva2VuLTE=",
        "Proxy-Authorization: Basic dGhlLXRva2VuLTE=",
        '{\\"DPoP-Nonce\\": \\"the-nonce.1\\"}',
    ],
)
def test_secrets_are_masked(text: str) -> None:
    """In the forms httpcore, hpack, http.client and reprs print them, nothing secret is left."""
    masked = redact(text)
    for secret in (PROOF, "the-token-1", "the-nonce.1", "dGhlLXRva2VuLTE="):
        assert secret not in masked
    assert "[redacted]" in masked


@pytest.mark.parametrize("nonce", ["a,the-end", "a)the-end", "a'the-end", "a:b;c=the-end", "a}]the-end"])
def test_a_nonce_is_masked_to_its_end(nonce: str) -> None:
    """RFC 9449 §8.1 lets a nonce hold what looks like the end of a value."""
    name = "DPoP-Nonce"
    forms = [
        repr([(name.lower().encode(), nonce.encode()), (b"date", b"today")]),
        repr({name: nonce, "Date": "today"}),
        f"header: {name}: {nonce} date: today",
        repr(f"HTTP/1.1 200 OK\r\n{name}: {nonce}\r\nDate: today"),
    ]
    for form in forms:
        masked = redact(form)
        assert "the-end" not in masked
        assert "today" in masked


@pytest.mark.parametrize(
    "text", ["GET /token HTTP/1.1 200", "DPoP is on", 'https://api.example:443 "GET / HTTP/1.1" 401 0']
)
def test_the_rest_is_left_alone(text: str) -> None:
    """A log line without secrets is not changed."""
    assert redact(text) == text


def test_a_proof_is_masked_wherever_it_begins() -> None:
    """Also behind the letter of an escape, and with a path's dots before it."""
    assert redact(f"\\n{PROOF} /a.b/x.{PROOF}") == "\\n[redacted] /a.b/x.[redacted]"
    assert redact("eyJ" * 100_000) == "eyJ" * 100_000  # in time that grows with the length only


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


@pytest.fixture
def output() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger whose only handler has the filter, and what that prints."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactingFilter())
    logger = logging.getLogger("tests.redaction")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


def test_tracebacks_are_masked(output: tuple[logging.Logger, io.StringIO]) -> None:
    """Libraries put a header they refuse into their error."""
    logger, stream = output
    try:
        raise ValueError("Invalid header value b'DPoP the-token-1\\n'")
    except ValueError:
        logger.exception("failed", stack_info=True)
    assert "ValueError: Invalid header value b'DPoP [redacted]" in stream.getvalue()
    assert "raise ValueError" in stream.getvalue()
    assert "the-token-1" not in stream.getvalue()


def test_a_slip_in_a_log_call_stays_a_slip(output: tuple[logging.Logger, io.StringIO]) -> None:
    """Arguments that do not fit the message: logged without them, and nothing is raised into the program."""
    logger, stream = output
    message = "%d of %s"
    logger.debug(message, f"DPoP {PROOF}")
    assert stream.getvalue() == "%d of %s (its arguments do not match and are left out)\n"
