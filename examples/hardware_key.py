# SPDX-License-Identifier: Apache-2.0
"""Call an API with a key that never leaves its device: a TPM, a smart card, an HSM, or SoftHSM to try it.

    pip install 'dpop-toolkit[requests]'
    export PKCS11_MODULE=/usr/lib/softhsm/libsofthsm2.so
    softhsm2-util --init-token --free --label office
    dpop key generate --pkcs11 'pkcs11:token=office;object=api'
    export CLIENT_SECRET=...
    python hardware_key.py 'pkcs11:token=office;object=api' https://as.example app https://api.example/me

The PIN is asked for once. Who copies this machine's disk has neither the key nor a token that works without it.
"""

from __future__ import annotations

import getpass
import os
import sys

import requests

import dpop
from dpop.origin import Origin
from dpop.requests import DPoPAdapter, TokenEndpoint
from dpop.tokens import MemoryTokenStore


def main(key_uri: str, issuer: str, client_id: str, url: str) -> int:
    """Get a token that is bound to the key, call the API, and print its response."""
    key = dpop.load_key(key_uri, password=lambda: os.environ.get("PIN") or getpass.getpass("PIN: "))
    with TokenEndpoint.discover(
        key, issuer, client_id=client_id, client_secret=os.environ["CLIENT_SECRET"]
    ) as endpoint:
        source = endpoint.source(MemoryTokenStore(), grant="client_credentials")
        session = requests.Session()
        origin = str(Origin.of_url(url))
        session.mount(origin, DPoPAdapter(endpoint.prover, origins=origin, access_token=source))
        response = session.get(url, timeout=30)
    print(f"{response.status_code}, signed by {key.thumbprint} in {key_uri.partition('?')[0]}")
    print(response.text)
    return 0 if response.ok else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
