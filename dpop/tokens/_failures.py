# SPDX-License-Identifier: Apache-2.0
"""Describe for people why a request got no response: the host, and the innermost reason.

HTTP libraries wrap the reason in several errors of their own, whose texts contain URLs.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import Final

from dpop.origin import Origin

__all__ = ["address_of", "reason_of"]

_MAX_TEXT: Final = 200
_USERINFO: Final = re.compile(r"//[^/@\s]*@")
_QUERY: Final = re.compile(r"\?\S*")
_CONNECT_REFUSED: Final = re.compile(r"(?:^|: )([345]\d\d [\w -]+)$")


def address_of(url: str) -> str:
    """Return host and port of a URL, even if it is the default port."""
    origin = Origin.of_url(url)
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}"


def reason_of(error: BaseException, server: str, proxy: str | None = None, *, socks: str = "pysocks") -> str:
    """Describe a failure without URLs and secrets: ``as.example:443: certificate verify failed: …``.

    :param server: the server's host and port.
    :param proxy: host and port of the proxy that was used, if there was one.
    :param socks: the package that the HTTP library needs for SOCKS.
    """
    peer = server if proxy is None else f"proxy {proxy}"
    chain = list(_chain(error))
    for each in reversed(chain):
        if isinstance(each, ssl.SSLError):
            return f"{server}: {_of_tls(each)}"
        if isinstance(each, ConnectionRefusedError):
            return f"{peer} refused the connection"
        if isinstance(each, socket.gaierror):
            return f"{peer}: the host name is unknown ({each.strerror})"
        if isinstance(each, FileNotFoundError):
            return f"there is no file {each.filename or 'of certificates that verify= or SSL_CERT_FILE names'}"
        if isinstance(each, ImportError | ValueError) and "SOCKS" in str(each):
            return f"SOCKS proxies need: pip install {socks}"
    for each in chain:
        status = _CONNECT_REFUSED.search(str(each))
        if proxy is not None and status is not None:
            problem = "wants authentication" if status[1].startswith("407") else f"responded {status[1]}"
            return f"proxy {proxy} {problem}"
        if isinstance(each, TimeoutError) or "Timeout" in type(each).__name__:
            return f"{peer} did not respond in time ({type(error).__name__})"
    inner = next((each for each in reversed(chain) if isinstance(each, OSError | ValueError) and str(each)), error)
    text = _QUERY.sub("", _USERINFO.sub("//", str(inner)))[:_MAX_TEXT]
    where = server if proxy is None else f"{server} through proxy {proxy}"
    return f"{where}: {type(inner).__name__}{f': {text}' if text else ''}"


def _of_tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    return f"no TLS connection: {(error.reason or 'unknown').replace('_', ' ').lower()}"


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and its causes, the innermost last."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        inner = [getattr(error, "reason", None), *error.args, *getattr(error, "exceptions", ())[:1], error.__cause__]
        if not error.__suppress_context__:
            inner.append(error.__context__)
        error = next((each for each in inner if isinstance(each, BaseException) and each not in chain), None)
    return chain
