# SPDX-License-Identifier: Apache-2.0
"""``dpop headers``: print the header lines that a request needs."""

from __future__ import annotations

import json
from typing import Any

import click

from dpop_cli.defects import DefectCommand, defect_option, expected
from dpop_cli.options import ProofRequest, proof_options

__all__ = ["headers"]


@click.command(cls=DefectCommand)
@proof_options
@defect_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, name to value.")
def headers(*, method: str, url: str, as_json: bool, **options: Any) -> None:
    """Print header lines for one request, ready for curl -H @-.

    It always prints DPoP, and Authorization: DPoP if a token is given. Piped like this, neither the proof nor
    the token is seen in the list of processes:

    \b
      dpop headers GET URL | curl -H @- URL

    METHOD and URL are those of the request; the method's case is kept, the URL's query is left out.

    A proof is for one request. Curl's own -L sends the DPoP header to another host, and --retry replays
    the proof, so use neither: print new lines for each request, or let "dpop curl" do all of it.

    \b
    Examples:
      export DPOP_KEY=key.pem
      dpop headers GET https://api.example/me --token-file token.txt
      dpop headers GET https://api.example/me --token-file token.txt |
        curl -s -D headers.txt -H @- https://api.example/me

    \b
    If the response says use_dpop_nonce, its nonce is in headers.txt now:
      dpop headers GET https://api.example/me --token-file token.txt \\
        --nonce-from headers.txt | curl -s -H @- https://api.example/me
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    made = ProofRequest.of(method, url, options)
    if made.defect is not None:
        expectation = expected(made.defect)
        if as_json:
            # A list, because the defect may be two fields of one name.
            click.echo(json.dumps({"defect": expectation, "fields": made.fields}, indent=2))
            return
    if as_json:
        click.echo(json.dumps(dict(made.fields), indent=2))
        return
    for name, value in made.fields:
        # One byte per character: a defect may be a byte that no correct header contains.
        click.echo(f"{name}: {value}".encode("latin-1"))
