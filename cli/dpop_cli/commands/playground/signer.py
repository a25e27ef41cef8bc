# SPDX-License-Identifier: Apache-2.0
"""Signatures by a key that is in the page: an action waits for them while the page signs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from dpop.encoding import b64url_decode, b64url_encode
from dpop.errors import EncodingError, SigningError, UsageError

__all__ = ["PageSigner"]

_SECONDS: Final = 30


class PageSigner:
    """Runs one action at a time in a thread, from which it may ask the page for signatures.

    What :meth:`begin` and :meth:`go_on` return goes to the page: the action's result, or ``{"sign": DATA}``. The page
    then sends the signature, which :meth:`go_on` gives to the action.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._to_page: queue.Queue[Mapping[str, Any] | Exception] = queue.Queue()
        self._signatures: queue.Queue[bytes] = queue.Queue()

    def sign(self, data: bytes) -> bytes:
        """Ask the page for a signature; the action calls this.

        :raises SigningError: the page did not sign.
        """
        self._to_page.put({"sign": b64url_encode(data)})
        try:
            signature = self._signatures.get(timeout=_SECONDS)
        except queue.Empty:
            signature = b""
        if not signature:
            raise SigningError("the page did not sign; its key is gone after a reload, so start over")
        return signature

    def begin(self, action: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Run an action until it ends or needs a signature. An earlier one that still waits for a signature fails.

        :raises DPoPError: the action raised it.
        """
        self.stop()
        self._thread = threading.Thread(target=self._run, args=(action,), daemon=True)
        self._thread.start()
        return self._next()

    def go_on(self, signature: object) -> Mapping[str, Any]:
        """Give the page's signature to the action, and let it run until it ends or needs another one.

        :param signature: in base64url; empty if the page cannot sign.
        :raises DPoPError: the action raised it, or there is no action that waits.
        """
        if self._thread is None:
            raise UsageError("no action waits for a signature")
        try:
            self._signatures.put(b64url_decode(signature) if isinstance(signature, str) else b"")
        except EncodingError:
            self._signatures.put(b"")
        return self._next()

    def stop(self) -> None:
        """End an action that waits for a signature."""
        if self._thread is not None:
            self._signatures.put(b"")
            self._thread.join()
        self._thread = None
        self._to_page, self._signatures = queue.Queue(), queue.Queue()

    def _next(self) -> Mapping[str, Any]:
        found = self._to_page.get()
        if isinstance(found, Exception) or "sign" not in found:
            assert self._thread is not None  # noqa: S101 - it sent this
            self._thread.join()
            self._thread = None
        if isinstance(found, Exception):
            raise found
        return found

    def _run(self, action: Callable[[], Mapping[str, Any]]) -> None:
        try:
            self._to_page.put(action())
        except Exception as error:  # noqa: BLE001 - raised again where the page waits
            self._to_page.put(error)
