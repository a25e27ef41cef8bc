# SPDX-License-Identifier: Apache-2.0
"""``python -m dpop``: runs the program ``dpop`` even if its script is not on PATH."""

from __future__ import annotations

from dpop_cli.__main__ import run

if __name__ == "__main__":
    run()
