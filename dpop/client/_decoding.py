# SPDX-License-Identifier: Apache-2.0
"""Decode the beginning of a body (content codings of RFC 9110 §8.4) in bounded memory.

HTTP libraries decode without a limit: a kilobyte that was compressed twice can become a gigabyte. This module reads a
body before the caller has asked for it, so its cost must not exceed the length of the body.
"""

from __future__ import annotations

import importlib
import io
import zlib
from collections.abc import Callable
from typing import Any, Final

__all__ = ["decoded_start"]

_MAX_LAYERS: Final = 4
_ZSTD_WINDOW: Final = 8 * 2**20  # RFC 9659 §3


def decoded_start(coding: str | None, data: bytes, limit: int) -> bytes:
    """Decode the first bytes of a body, to at most ``limit`` bytes; return no bytes if they cannot be decoded.

    :param coding: the ``Content-Encoding`` header, or None. gzip and deflate can be decoded; br and zstd only if a
        library for them is installed.
    :param data: the first bytes of the body as sent; at most ``limit`` of them are read.
    """
    names = [name for part in (coding or "").lower().split(",") if (name := part.strip()) and name != "identity"]
    if len(names) > _MAX_LAYERS:
        return b""
    data = data[:limit]
    for name in reversed(names):  # the server applied the last one last
        decode = _DECODERS.get(name)
        try:
            data = b"" if decode is None else decode(data, limit)[:limit]
        except Exception:  # noqa: BLE001 - whatever a decoder raises, the bytes are hostile or incomplete
            return b""
    return data


def _gzip(data: bytes, limit: int) -> bytes:
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, limit)
    except zlib.error:
        # A wrong checksum at the end: without the last eight bytes it is not compared (RFC 1952 §2.3.1).
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data[:-8], limit)


def _deflate(data: bytes, limit: int) -> bytes:
    """Decode ``deflate``: with the zlib header, or without it, as some servers send it."""
    try:
        return zlib.decompressobj().decompress(data, limit)
    except zlib.error:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)


def _brotli(data: bytes, limit: int) -> bytes:
    # Releases before 1.2 do not know the limit: they raise TypeError, and the body counts as unreadable.
    return bytes(_first_of("brotli", "brotlicffi").Decompressor().process(data, output_buffer_limit=limit))


def _zstd(data: bytes, limit: int) -> bytes:
    library = _first_of("compression.zstd", "backports.zstd", "zstandard")
    if library.__name__ == "zstandard":
        reader = library.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).stream_reader(io.BytesIO(data))
        return bytes(reader.read(limit))
    options = {library.DecompressionParameter.window_log_max: _ZSTD_WINDOW.bit_length() - 1}
    return bytes(library.ZstdDecompressor(options=options).decompress(data, limit))


def _first_of(*names: str) -> Any:
    """Import the first of these modules that is installed."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise ImportError(name)


_DECODERS: Final[dict[str, Callable[[bytes, int], bytes]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
