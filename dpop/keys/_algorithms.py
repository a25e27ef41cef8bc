# SPDX-License-Identifier: Apache-2.0
"""The signature algorithms of DPoP proofs, and the choice of one (RFC 9449 §4.2, §5.1; RFC 8725 §3.1).

The table lists the allowed algorithms. ``none``, MACs and unknown names are not in it, so they are never selected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

from dpop.errors import AlgorithmError, ArgumentTypeError

__all__ = ["ALGORITHMS", "DEFAULT_ALGS", "RSA_ALGS", "Algorithm", "Key", "choose_alg", "parameters"]


class Algorithm(NamedTuple):
    """The key type, curve, hash and signature size of a JWS algorithm (RFC 7518 §3, RFC 8037 §3.1, RFC 9864 §2.2).

    :param kty: the key type of the JWK: ``EC``, ``OKP`` or ``RSA``.
    :param crv: the curve of the JWK, None for RSA.
    :param hash_name: the hash of the signing input, None for Ed25519, which hashes inside the algorithm.
    :param signature_size: the number of bytes of a signature; None for RSA, where the modulus decides it.
    """

    kty: str
    crv: str | None
    hash_name: str | None
    signature_size: int | None


ALGORITHMS: Final[Mapping[str, Algorithm]] = MappingProxyType(
    {
        "ES256": Algorithm("EC", "P-256", "SHA-256", 64),
        "ES384": Algorithm("EC", "P-384", "SHA-384", 96),
        "ES512": Algorithm("EC", "P-521", "SHA-512", 132),
        "Ed25519": Algorithm("OKP", "Ed25519", None, 64),
        # The name before RFC 9864; older servers know only this one. It also names Ed448, which no proof uses.
        "EdDSA": Algorithm("OKP", "Ed25519", None, 64),
        "PS256": Algorithm("RSA", None, "SHA-256", None),
        "RS256": Algorithm("RSA", None, "SHA-256", None),
        "PS384": Algorithm("RSA", None, "SHA-384", None),
        "PS512": Algorithm("RSA", None, "SHA-512", None),
        "RS384": Algorithm("RSA", None, "SHA-384", None),
        "RS512": Algorithm("RSA", None, "SHA-512", None),
    }
)

RSA_ALGS: Final = tuple(alg for alg, algorithm in ALGORITHMS.items() if algorithm.kty == "RSA")
"""The algorithms that every RSA key can sign with, best first: a longer hash makes no RSA signature stronger."""

# Every server accepts ES256. Elliptic curves go before RSA, whose proofs are three times as long.
DEFAULT_ALGS: Final = ("ES256", "Ed25519", "EdDSA", "ES384", "ES512", *RSA_ALGS)


@cache
def parameters(alg: str) -> tuple[Any, ...]:
    """Return the arguments that follow the data in cryptography's ``sign()`` and ``verify()``.

    They are made at the first call, because that loads OpenSSL, and are cached, because they have no state.

    :raises AlgorithmError: not one of :data:`ALGORITHMS`.
    """
    algorithm = ALGORITHMS.get(alg)
    if algorithm is None:
        raise AlgorithmError(f"no such algorithm: {alg!r:.40}; expected one of {' '.join(ALGORITHMS)}")
    if algorithm.hash_name is None:
        return ()
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 - a key in the agent needs none of it
    from cryptography.hazmat.primitives.asymmetric import ec, padding  # noqa: PLC0415 - as above

    hashing = {"SHA-256": hashes.SHA256(), "SHA-384": hashes.SHA384(), "SHA-512": hashes.SHA512()}[algorithm.hash_name]
    if algorithm.kty == "EC":
        return (ec.ECDSA(hashing),)
    if alg.startswith("PS"):
        # The salt is as long as the hash: RFC 7518 §3.5.
        return (padding.PSS(padding.MGF1(hashing), hashing.digest_size), hashing)
    return (padding.PKCS1v15(), hashing)


_MAX_SHOWN = 8


def choose_alg(server_algs: Iterable[str] | str | None, supported: Sequence[str] = DEFAULT_ALGS) -> str:
    """Choose the first of our algorithms that the server lists (RFC 9449 §5.1, §7.1).

    Our order of preference counts: a server lists the algorithms that it accepts, in no particular order.

    :param server_algs: ``dpop_signing_alg_values_supported`` of its metadata, or the space-separated
        ``algs`` of its challenge; None if it lists none, then our first algorithm is chosen. Names that this
        package does not know, and entries that are not str, are ignored.
    :param supported: the algorithms that can be used here, best first.
    :raises AlgorithmError: the two sides have no algorithm in common.
    :raises ArgumentTypeError: ``server_algs`` is not a list of names.
    """
    ours = [alg for alg in supported if alg in ALGORITHMS]
    if server_algs is None:
        if ours:
            return ours[0]
        raise AlgorithmError(f"none of the supported= algorithms is for DPoP; known: {' '.join(ALGORITHMS)}")
    if isinstance(server_algs, str):
        server_algs = server_algs.split()
    elif isinstance(server_algs, bytes) or not isinstance(server_algs, Iterable):
        raise ArgumentTypeError("server_algs", "a list of algorithm names", server_algs)
    listed = [alg for alg in server_algs if isinstance(alg, str)]
    for alg in ours:
        if alg in listed:
            return alg
    raise AlgorithmError(
        f"no common algorithm: the server accepts {_shown(listed)}, this side has {', '.join(ours) or 'none'}"
    )


def _shown(algs: Sequence[str]) -> str:
    """Shorten a server's list of algorithms for a message: it may have any length and content."""
    names = [f"{alg:.20}" if alg.isascii() and alg.isprintable() else "?" for alg in algs[:_MAX_SHOWN]]
    if len(algs) > _MAX_SHOWN:
        names.append(f"and {len(algs) - _MAX_SHOWN} more")
    return ", ".join(names) or "none"


class Key(Protocol):
    """The protocol of all keys: objects that sign.

    Write your own class for a device or service that this package does not know::

        class RemoteKey:
            alg = "ES256"
            blocking = True                     # sign() waits for a network: async code uses a thread

            def __init__(self, service, public_jwk):
                self.service = service
                self.public_jwk = public_jwk    # {"kty": "EC", "crv": "P-256", "x": "...", "y": "..."}
                self.thumbprint = dpop.thumbprint(public_jwk)

            def sign(self, signing_input):
                return dpop.der_to_raw(self.service.sign_sha256(signing_input))    # the service returns DER

    The class needs no base class. Several threads may use a key at once. This package never asks a key for its
    private part. Raise :class:`dpop.errors.SigningError`, or another DPoPKeyError, if signing fails, and verify
    the signature of a device before you return it.

    A key may also have a ``reference``: the path or URI, without any PIN, by which :func:`dpop.load_key` opens it.
    It is stored with the tokens that are bound to the key.
    """

    @property
    def alg(self) -> str:
        """The JWS algorithm name of the key's signatures: one of :data:`dpop.keys.ALGORITHMS`."""
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
        """Hash and sign the bytes; return the JWS signature (RFC 7518 §3.4: R||S for ES256).

        Raise a DPoPKeyError, such as KeyUnavailableError, where the key cannot sign. Of any other error a user of the
        integrations sees the class only, in a SigningError.
        """
        ...
