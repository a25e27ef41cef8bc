# SPDX-License-Identifier: Apache-2.0
"""The beginning of a coded body: decoded as servers code it, in memory that a bomb does not fill."""

from __future__ import annotations

import gzip
import importlib
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import brotli
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.client._decoding import decoded_start

ZSTD = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "zstandard")
BODY = b'{"error":"use_dpop_nonce"}'


def raw_deflate(data: bytes) -> bytes:
    """Deflate without the zlib header."""
    coder = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return coder.compress(data) + coder.flush()


CODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": ZSTD.compress,
}


@pytest.mark.parametrize("coding", [*CODERS, "GZIP", " gzip ", "identity, gzip"])
def test_each_coding_is_undone(coding: str) -> None:
    """As libraries decode it, where one for it is installed; names have no case."""
    coder = CODERS[coding.rpartition(",")[2].strip().lower()]
    assert decoded_start(coding, coder(BODY), 1000) == BODY


def test_deflate_without_its_header() -> None:
    """Some servers send it so."""
    assert decoded_start("deflate", raw_deflate(BODY), 1000) == BODY


def test_layers_are_undone_from_the_last() -> None:
    """gzip, br: first gzip, then br."""
    assert decoded_start("gzip, br", brotli.compress(gzip.compress(BODY)), 1000) == BODY


@pytest.mark.parametrize("coding", [None, "", "identity", ","])
def test_no_coding(coding: str | None) -> None:
    """The bytes themselves, no more than the limit."""
    assert decoded_start(coding, BODY, 1000) == BODY
    assert decoded_start(coding, BODY, 5) == BODY[:5]


@pytest.mark.parametrize("coding", ["x", "gzip, x", "gzip" + ", gzip" * 4, "compress", "aes128gcm"])
def test_what_cannot_be_undone_is_nothing(coding: str) -> None:
    """Unknown codings, and more than anybody uses."""
    assert decoded_start(coding, gzip.compress(BODY), 1000) == b""


@pytest.mark.parametrize("coding", CODERS)
def test_a_cut_body_gives_what_it_holds(coding: str) -> None:
    """The first bytes of a body that is longer."""
    body = bytes(range(256)) * 400
    coded = CODERS[coding](body)
    start = decoded_start(coding, coded[: len(coded) // 2], 50_000)
    assert body.startswith(start)


@pytest.mark.parametrize("coding", CODERS)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_fills_no_memory(coding: str, layers: int) -> None:
    """A few hundred bytes for twenty megabytes: no more is decoded than is looked at."""
    coded = bytes(20_000_000)
    for _ in range(layers):
        coded = CODERS[coding](coded)
    tracemalloc.start()
    try:
        start = decoded_start(", ".join([coding] * layers), coded, 10_240)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert start == bytes(len(start))
    assert len(start) <= 10_240
    assert peak < 1_000_000


@given(st.sampled_from([*CODERS, "gzip, br", "zstd, deflate"]), st.binary(max_size=200), st.integers(1, 300))
def test_any_bytes_end_well(coding: str, data: bytes, limit: int) -> None:
    """Whatever comes is decoded or nothing."""
    assert len(decoded_start(coding, data, limit)) <= limit


@given(st.sampled_from(list(CODERS)), st.binary(max_size=2_000))
def test_what_was_coded_comes_back(coding: str, data: bytes) -> None:
    """Whole, where it is not longer than the limit."""
    assert decoded_start(coding, CODERS[coding](data), 20_000) == data
