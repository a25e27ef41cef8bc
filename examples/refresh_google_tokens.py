# SPDX-License-Identifier: Apache-2.0
"""Keep Google tokens fresh from cron, so that no program has to wait for a refresh.

Log in once, with the file that Google's console gives you:

    pip install 'dpop-toolkit[requests]'
    dpop key generate
    dpop token login --profile google --client client_secret.json --key key.pem --scope openid

Then run it every ten minutes, in the folder of these files:

    */10 * * * *  cd /srv/job && python refresh_google_tokens.py client_secret.json tokens.json

All accounts of the store are looked at. A token is refreshed when two thirds of its life are over. Programs read the
same file, at any time: FileTokenStore("tokens.json"), or dpop curl --token-store tokens.json. The exit status is 1 if
a user has to log in again, so that cron sends mail.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import dpop
from dpop.requests import TokenEndpoint
from dpop.tokens import AccountStatus, FileTokenStore, Refresher


def main(client_file: str, store_file: str) -> int:
    """Refresh what is due in a store; return the exit status."""
    client = json.loads(Path(client_file).read_text("utf-8"))["installed"]
    store = FileTokenStore(store_file)
    seen: list[AccountStatus] = []
    with contextlib.ExitStack() as endpoints:
        sources = []
        for account in store.accounts():
            tokens = store.load(account)
            if tokens is None:
                continue  # somebody removed it just now
            endpoint = endpoints.enter_context(
                TokenEndpoint(
                    tokens.load_key(),  # the store notes where the key of each account is
                    client["token_uri"],
                    client_id=client["client_id"],
                    client_secret=client["client_secret"],
                    profile=dpop.profiles.GOOGLE,
                )
            )
            sources.append(endpoint.source(store, account=account))
        if not sources:
            sys.exit(f"{store_file} has no tokens: dpop token login gets some")
        Refresher(sources, tell=seen.append).step()
    for status in seen:
        print(f"{status.account}: {status.state}{f' ({status.error})' if status.error else ''}")
    return int(any(status.state == "dead" for status in seen))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
