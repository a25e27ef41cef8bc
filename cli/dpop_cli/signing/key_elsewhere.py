# SPDX-License-Identifier: Apache-2.0
"""A key whose public half only is available; another program signs with the private half."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dpop.errors import AlgorithmError, InvalidKeyError
from dpop.keys import ALGORITHMS, PublicKey

__all__ = ["KeyElsewhere", "read_public_half"]

_MAX_KEY_BYTES = 64 * 1024


class KeyElsewhere:
    """A public key that takes the place of a complete key. Its signatures are zeros of the right length."""

    blocking = False

    def __init__(self, public: PublicKey, alg: str | None = None) -> None:
        self.alg: str = alg or public.algs[0]
        if self.alg not in public.algs:
            raise AlgorithmError(f"this key is for {' and '.join(public.algs)}, not {self.alg!r:.40}")
        self.public_jwk: Mapping[str, str] = public.jwk
        self.thumbprint: str = public.thumbprint

    def sign(self, _signing_input: bytes, /) -> bytes:
        """Return a placeholder for the signature that another program will make."""
        return bytes(ALGORITHMS[self.alg].signature_size or 1)


def read_public_half(source: str) -> PublicKey | bytes | None:
    """Read the public key in a file; None if the file has none.

    A pipe can be read only once, so its bytes are returned instead of None, for :func:`dpop.load_key`.

    :raises InvalidKeyError: the file has a public key that is not for DPoP.
    """
    try:
        path = Path(source).expanduser()
        if not path.exists() or path.is_dir():
            return None
        is_file = path.is_file()
        with path.open("rb") as file:
            data = file.read(_MAX_KEY_BYTES + 1)
    except (OSError, ValueError, RuntimeError):  # RuntimeError: expanduser finds no home directory
        return None
    try:
        return PublicKey.from_bytes(data)
    except InvalidKeyError:
        if b"PUBLIC KEY-----" in data and b"PRIVATE KEY-----" not in data:
            raise
        return None if is_file else data
