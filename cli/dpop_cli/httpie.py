# SPDX-License-Identifier: Apache-2.0
"""A plugin of HTTPie: ``https --auth-type=dpop --auth=KEY_OR_STORE URL``.

HTTPie asks for the credentials first and mounts transports then, without a word of the first to the second. So the
transports look whether this run has such credentials; in any other run nothing of HTTPie's is replaced, and nothing of
this package is loaded, because HTTPie loads its plugins at every start.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn

from httpie.adapters import HTTPieHTTPAdapter
from httpie.plugins import AuthPlugin, TransportPlugin

if TYPE_CHECKING:
    from dpop.requests import DPoPAuth
    from dpop_cli.httpie_adapter import Signing

__all__ = ["DPoPAuthPlugin", "DPoPTransport", "DPoPTransportOfThisMachine"]


class _Run:
    """What this run of HTTPie signs with, and whether its transports are mounted already."""

    signing: Signing | None = None
    is_mounted = False


class DPoPAuthPlugin(AuthPlugin):  # type: ignore[misc]
    """``--auth`` names a key, as ``dpop --key`` does, or a token file, as ``--token-store`` does; never a token.

    HTTPie writes it into its session files, which everybody may read. Without ``--auth`` it is that of ``DPOP_KEY``.
    """

    name = "DPoP"
    auth_type = "dpop"
    description = "Proofs of possession (RFC 9449); -a names a key or a token file of the program dpop"
    auth_require = False
    auth_parse = False
    prompt_password = False

    def get_auth(self, username: str | None = None, password: str | None = None) -> DPoPAuth:  # noqa: ARG002 - the interface
        """Load the key, and the tokens if there are any."""
        if _Run.is_mounted:  # nothing was sent yet
            _stop("a session brings the key too late to sign with: name it in each run, -A dpop -a key.pem")
        named = self.raw_auth or os.environ.get("DPOP_KEY")
        if not named:
            _stop("which key? use -a key.pem, -a tokens.json, or DPOP_KEY")
        from click import ClickException  # noqa: PLC0415 - see above

        from dpop.errors import DPoPError  # noqa: PLC0415
        from dpop_cli.httpie_adapter import Signing  # noqa: PLC0415

        try:
            _Run.signing = Signing.of(named)
        except ClickException as error:
            _stop(error.format_message())
        except DPoPError as error:
            _stop(str(error))
        return _Run.signing.auth()


class DPoPTransport(TransportPlugin):  # type: ignore[misc]
    """Sends what was signed. In a run without these credentials it is mounted where no URL is."""

    scheme = "https"

    @property
    def prefix(self) -> str:
        """What URLs begin with that this transport is for."""
        _Run.is_mounted = True
        return f"{self.scheme}://" if _Run.signing is not None else f"{self.scheme}+dpop-not-in-use://"

    def get_adapter(self) -> HTTPieHTTPAdapter:
        """Make the adapter."""
        return HTTPieHTTPAdapter() if _Run.signing is None else _Run.signing.adapter()


class DPoPTransportOfThisMachine(DPoPTransport):
    """The same for http, which is signed on this machine only."""

    scheme = "http"


def _stop(why: str) -> NoReturn:
    """End HTTPie as it ends for other wrong arguments; an exception would be shown with its traceback."""
    print(f"\nhttp: error: {why}\n", file=sys.stderr)
    raise SystemExit(1)
