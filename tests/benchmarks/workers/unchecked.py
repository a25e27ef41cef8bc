# SPDX-License-Identifier: Apache-2.0
"""A proof by f-strings and the standard library, nothing of it looked at: the least that Python can do."""

from __future__ import annotations

import binascii
import hashlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def _encoded(data: bytes) -> bytes:
    return binascii.b2a_base64(data, newline=False).translate(_URL_SAFE, b"=")


def mint(*, key: str, alg: str, method: str, url: str, nonce: str | None, token: str | None) -> Callable[[], object]:
    """An ES256 proof."""
    private: Any = load_pem_private_key(key.encode(), None)
    numbers = private.public_key().public_numbers()
    x, y = (_encoded(number.to_bytes(32)).decode() for number in (numbers.x, numbers.y))
    jwk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    header = _encoded(json.dumps({"typ": "dpop+jwt", "alg": alg, "jwk": jwk}, separators=(",", ":")).encode()) + b"."
    algorithm = ec.ECDSA(hashes.SHA256())

    def one() -> str:
        tail = ""
        if token is not None:
            tail = f',"ath":"{_encoded(hashlib.sha256(token.encode()).digest()).decode()}","nonce":"{nonce}"'
        payload = f'{{"jti":"{os.urandom(16).hex()}","htm":"{method}","htu":"{url}","iat":{int(time.time())}{tail}}}'
        data = header + _encoded(payload.encode())
        r, s = decode_dss_signature(private.sign(data, algorithm))
        return (data + b"." + _encoded(r.to_bytes(32) + s.to_bytes(32))).decode()

    return one
