# SPDX-License-Identifier: Apache-2.0
"""What every API of the comparison knows: its issuer, the issuer's keys, its own URL, and where Redis is."""

from __future__ import annotations

import json
import os
from typing import Any

ISSUER = "https://tenant.example/"
JWKS_URI = f"{ISSUER}.well-known/jwks.json"
METADATA = {"issuer": ISSUER, "jwks_uri": JWKS_URI}
URL = "http://localhost:8000"
KEYS: dict[str, Any] = json.loads(os.environ["KEYS"])
REDIS_URL = os.environ.get("REDIS_URL")
