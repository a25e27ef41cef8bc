# SPDX-License-Identifier: Apache-2.0
"""``python -m dpop_cli``: the same as ``dpop``."""

from dpop_cli.main import main

if __name__ == "__main__":
    main(prog_name="dpop")
