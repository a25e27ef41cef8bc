# SPDX-License-Identifier: Apache-2.0
"""DPoP for google-auth: credentials whose refresh token is bound to a key, and the flows that get them.

::

    from dpop.google import InstalledAppFlow

    flow = InstalledAppFlow.from_client_secrets_file("client_secret.json", scopes, key=dpop.load_key("key.pem"))
    credentials = flow.run_local_server()

Give them to Google's libraries as ``credentials=``. Google's access tokens are Bearer tokens, so calls to its APIs do
not change. :class:`SharedCredentials` are for several processes that share a token store.
"""

from dpop._extras import extra

with extra("google"):
    from dpop.google._credentials import Credentials
    from dpop.google._flows import Flow, InstalledAppFlow
    from dpop.google._shared import SharedCredentials

__all__ = ["Credentials", "Flow", "InstalledAppFlow", "SharedCredentials"]

# Tracebacks and pickles show the public module of these classes.
for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
