# SPDX-License-Identifier: Apache-2.0
"""``dpop proof``: print one proof."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from dpop_cli.signing.defects import DefectCommand, defect_option, expected
from dpop_cli.signing.options import ProofRequest, proof_options

__all__ = ["proof"]


@click.command(cls=DefectCommand)
@proof_options
@defect_option
@click.option("--unsigned", is_flag=True, help="Print the bytes to sign, header.payload; a public key is enough.")
@click.option("--json", "as_json", is_flag=True, help="Print the proof with its header and claims as JSON.")
def proof(*, method: str, url: str, unsigned: bool, as_json: bool, **options: Any) -> None:
    """Print a DPoP proof for one request: the value of its DPoP header.

    METHOD and URL are those of the request; the method's case is kept, the URL's query is left out.

    With curl, prefer "dpop curl", or "dpop headers", which pipes the header to curl, where

    \b
      curl -H "DPoP: $(dpop proof GET URL)" URL

    shows the proof to every user of the machine, in the list of processes.

    A proof is for one request. Curl's own -L sends it to another host, and --retry sends it again, so use
    neither: make a new proof for each request.

    With --unsigned it prints the bytes to sign, without a line end, for a key that only another
    program can use; dpop sig to-raw converts the signature of openssl to the proof's third part.

    With --defect the proof is wrong in one way, so that you can test a server. Standard error says how the server
    must respond. If your key cannot sign the defect, a published key signs it.

    \b
    Examples:
      dpop proof POST https://as.example/token --key key.pem
      dpop proof GET https://api.example/me --key key.pem --token-file token.txt
      dpop proof GET https://api.example/me --key key.pem \\
        --nonce-from headers.txt --json
      dpop proof GET https://api.example/me --key key.pem \\
        --token-file token.txt --defect sig-der
      dpop proof --defect list
      dpop proof POST https://as.example/token --key key.pem --unsigned |
        openssl dgst -sha256 -sign key.pem | dpop sig to-raw
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if unsigned and options["defect"]:
        raise click.UsageError(
            "give --unsigned or --defect, not both: most defects are in the signed bytes or the signature"
        )
    made = ProofRequest.of(method, url, options, signed=not unsigned)
    if made.defect is not None:
        expectation = expected(made.defect)
        if as_json:
            click.echo(json.dumps({"defect": expectation, "fields": made.dpop_fields}, indent=2))
            return
        for _, value in made.dpop_fields:
            # One byte per character: a defect may be a byte that no correct proof contains.
            click.echo(value.encode("latin-1"))
        return
    name, shown = ("signing_input", made.signing_input) if unsigned else ("proof", made.proof)
    if as_json:
        from dpop_cli.wire.exchange import parts  # noqa: PLC0415 - only here

        header, claims = parts(made.proof)
        click.echo(json.dumps({name: shown, "header": header, "claims": claims}, indent=2))
        return
    # A line end would become part of the signed bytes, so print one only at a terminal.
    click.echo(shown, nl=not unsigned or sys.stdout.isatty())
