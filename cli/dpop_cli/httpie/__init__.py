# SPDX-License-Identifier: Apache-2.0
"""A plugin of HTTPie: ``https --auth-type=dpop --auth=KEY_OR_STORE URL``.

HTTPie first asks a plugin for credentials and then mounts its transports, but passes nothing from one to the other. So
the transports check whether this run has credentials of this plugin. In other runs they replace nothing of HTTPie. This
module imports nothing of the package at its top, because HTTPie imports its plugins at every start.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from httpie.adapters import HTTPieHTTPAdapter
from httpie.plugins import AuthPlugin, TransportPlugin

if TYPE_CHECKING:
    from dpop.requests import DPoPAuth
    from dpop_cli.httpie.adapter import Signing

__all__ = ["DPoPAuthPlugin", "DPoPTransport", "DPoPTransportOfThisMachine"]


class _Run:
    """The state of this run of HTTPie: its key and tokens, and whether its transports are mounted already."""

    signing: Signing | None = None
    is_mounted = False


class DPoPAuthPlugin(AuthPlugin):  # type: ignore[misc]
    """The plugin for ``--auth``, which names a key, like ``dpop --key``, or a token file, but is never a token itself.

    HTTPie writes the value to its session files, which everybody may read. Without ``--auth``, ``DPOP_KEY`` is used.
    """

    name = "DPoP"
    auth_type = "dpop"
    description = "Proofs of possession (RFC 9449); -a names a key or a token file of the program dpop"
    auth_require = False
    auth_parse = False
    prompt_password = False

    def get_auth(self, username: str | None = None, password: str | None = None) -> DPoPAuth:  # noqa: ARG002 - the interface
        """Load the key, and the tokens if there are any."""
        if _Run.is_mounted:  # too late, but nothing was sent yet
            _stop("HTTPie reads the key of a session too late: name the key in each run, -A dpop -a key.pem")
        named = self.raw_auth or os.environ.get("DPOP_KEY")
        if not named:
            _stop("which key? use -a key.pem, -a tokens.json, or DPOP_KEY")
        from click import ClickException  # noqa: PLC0415 - see above

        from dpop.errors import DPoPError  # noqa: PLC0415
        from dpop_cli.httpie.adapter import Signing  # noqa: PLC0415

        try:
            _Run.signing = Signing.of(named)
        except ClickException as error:
            _stop(error.format_message())
        except DPoPError as error:
            _stop(str(error))
        return _Run.signing.auth()


class DPoPTransport(TransportPlugin):  # type: ignore[misc]
    """The transport that signs https requests. In a run without this plugin's credentials it matches no URL."""

    scheme = "https"

    @property
    def prefix(self) -> str:
        """The beginning of the URLs that this transport handles."""
        _Run.is_mounted = True
        return f"{self.scheme}://" if _Run.signing is not None else f"{self.scheme}+dpop-not-in-use://"

    def get_adapter(self) -> HTTPieHTTPAdapter:
        """Make the adapter."""
        return HTTPieHTTPAdapter() if _Run.signing is None else _Run.signing.adapter()


class DPoPTransportOfThisMachine(DPoPTransport):
    """The transport that signs http requests, which are allowed on this machine only."""

    scheme = "http"


def _stop(why: str) -> NoReturn:
    """End HTTPie as for other wrong arguments; an exception would be shown with its traceback."""
    print(f"\nhttp: error: {why}\n", file=sys.stderr)
    raise SystemExit(1)
