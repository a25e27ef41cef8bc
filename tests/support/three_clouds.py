# SPDX-License-Identifier: Apache-2.0
"""The three clouds on this machine, with one key each (AWS has none yet), under the names in the guide."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from support.azure_vault import Vault, managed_identity
from support.cloud import AWS_CREDENTIALS, moto, self_signed
from support.google_kms import GoogleKms, RestServer

GOOGLE_KEY = "projects/acme/locations/europe-west1/keyRings/dpop/cryptoKeys/client/cryptoKeyVersions/1"


@contextlib.contextmanager
def three_clouds(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Start the clouds; yield an environment, and the replacements for the placeholders of a guide."""
    certificate = self_signed(folder)
    with moto() as aws, RestServer(GoogleKms()) as google, Vault(certificate) as vault, managed_identity() as identity:
        environment = {
            **AWS_CREDENTIALS,
            **identity,
            "AWS_ENDPOINT_URL_KMS": aws,
            "REQUESTS_CA_BUNDLE": str(certificate),
        }
        yield (
            environment,
            {
                GOOGLE_KEY: f"{GOOGLE_KEY}?endpoint={google.url}",
                "https://acme.vault.azure.net": vault.url,
            },
        )
