# SPDX-License-Identifier: Apache-2.0
"""Login by a code that the user enters on another device (RFC 8628)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dpop.errors import ReauthorizationError
from dpop.tokens import DeviceAuthorization, Parameter, TokenSet
from dpop_cli.console.output import hint, waiting
from dpop_cli.login.qr_code import qr_code
from dpop_cli.tokens.view import moment

if TYPE_CHECKING:
    from dpop.requests import TokenEndpoint

__all__ = ["device_login"]


def device_login(
    endpoint: TokenEndpoint,
    scope: str | None,
    *,
    dpop_jkt: bool = False,
    id_token_key: str | None = None,
    **parameters: Parameter,
) -> TokenSet:
    """Show a code and where to enter it, and wait until the user has decided.

    :param dpop_jkt: send the key's thumbprint with the request for the code.
    :param id_token_key: the private key for encrypted ID tokens, in PEM.
    :raises TokenRefusedError: the user refused.
    :raises ReauthorizationError: the code expired.
    """
    device = endpoint.start_device(scope=scope, dpop_jkt=dpop_jkt, **parameters)
    _show(device)
    try:
        with waiting(f"Waiting for you to agree there; the code is good until {moment(device.expires_at)}"):
            return endpoint.poll_device(device, id_token_key=id_token_key)
    except ReauthorizationError as error:
        if error.error == "expired_token":
            hint("run the command again for a new code")
        raise


def _show(device: DeviceAuthorization) -> None:
    """Show the code and its page on stderr; the user compares the code with the one on the page (RFC 8628 §3.3.1)."""
    code = qr_code(device.verification_uri_complete or device.verification_uri)
    lines = [f"Open this on any device:\n\n  {device.verification_uri}\n\nand enter the code\n\n  {device.user_code}\n"]
    if code:
        lines += ["Or scan this, and agree only if the page shows the same code:\n", *code, ""]
    elif device.verification_uri_complete is not None:
        lines.append(f"Or open this, where the code is entered already:\n\n  {device.verification_uri_complete}\n")
    click.echo("\n".join(lines), err=True)
