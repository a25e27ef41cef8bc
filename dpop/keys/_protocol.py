# SPDX-License-Identifier: Apache-2.0
"""What a key is to the rest of the package: one verb and four facts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["Key"]


class Key(Protocol):
    """Anything that signs.

    Write your own for a device or service this package does not know::

        class RemoteKey:
            alg = "ES256"
            blocking = True                     # sign() waits for a network: async code uses a thread

            def __init__(self, service, public_jwk):
                self.service = service
                self.public_jwk = public_jwk    # {"kty": "EC", "crv": "P-256", "x": "...", "y": "..."}
                self.thumbprint = dpop.thumbprint(public_jwk)

            def sign(self, signing_input):
                return dpop.der_to_raw(self.service.sign_sha256(signing_input))    # it answers in DER

    The class needs no base. A key may be used by several threads at once, and it is never asked for its
    private part. Raise :class:`dpop.errors.SigningError`, or another DPoPKeyError, where signing fails;
    verify what a device returns before you return it.

    A key may also have ``reference``: the path or URI, without any PIN, that :func:`dpop.load_key` opens it
    by. It is noted beside the tokens that are bound to the key.
    """

    @property
    def alg(self) -> str:
        """JWS algorithm name of its signatures: one of :data:`dpop.keys._algorithms.ALGORITHMS`."""
        ...

    @property
    def public_jwk(self) -> Mapping[str, str]:
        """The public key as a JWK with its required members and no others (RFC 7517, RFC 7638 §3.2)."""
        ...

    @property
    def thumbprint(self) -> str:
        """RFC 7638 SHA-256 thumbprint of the public key, 43 characters: the ``jkt``."""
        ...

    @property
    def blocking(self) -> bool:
        """Whether :meth:`sign` may wait for a device, a network or a person."""
        ...

    def sign(self, signing_input: bytes, /) -> bytes:
        """The JWS signature of the octets, which the key hashes itself (RFC 7518 §3.4: R||S for ES256)."""
        ...
