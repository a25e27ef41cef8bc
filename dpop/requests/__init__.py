# SPDX-License-Identifier: Apache-2.0
"""DPoP for requests: an adapter that signs, ``auth=`` for one request, and a token endpoint.

::

    from dpop.requests import DPoPAdapter

    session.mount("https://api.example/", DPoPAdapter(key, origins="https://api.example", access_token=token))

``origins`` is required although the adapter is mounted: an adapter does not know where it is mounted, and a
mount prefix without a trailing slash matches other hosts too.
"""

from dpop._extras import extra

with extra("requests"):
    from dpop.requests._adapter import DPoPAdapter, DPoPAuth
    from dpop.requests._endpoint import TokenEndpoint

__all__ = ["DPoPAdapter", "DPoPAuth", "TokenEndpoint"]

# Tracebacks, reprs and help show the public module of these classes.
for _name in __all__:
    globals()[_name].__module__ = __name__


def __dir__() -> list[str]:
    return sorted(__all__)
