# SPDX-License-Identifier: Apache-2.0
"""``dpop headers``: print the header lines that a request needs."""

from __future__ import annotations

import json
from typing import Any

import click

from dpop_cli.console.command import Detail
from dpop_cli.signing.defects import DefectCommand, defect_option, expected
from dpop_cli.signing.options import ProofRequest, proof_options

__all__ = ["headers"]


@click.command(cls=DefectCommand)
@proof_options
@defect_option
@click.option("--agent", "in_agent", is_flag=True, help="With a token of the signing agent, which refreshes it.")
@click.option("--account", cls=Detail, metavar="NAME", help="The account of the agent, if it has several.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, name to value.")
def headers(*, method: str, url: str, in_agent: bool, account: str | None, as_json: bool, **options: Any) -> None:
    """Print header lines for one request, ready for curl -H @-.

    It always prints DPoP, and Authorization: DPoP if a token is given. Piped like this, neither the proof nor
    the token is seen in the list of processes:

    \b
      dpop headers GET URL | curl -H @- URL

    With --agent it prints a fresh access token of the signing agent, which dpop login --agent has logged in.

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
    if in_agent:
        made = _with_token_of_agent(method, url, account, options)
    elif account is None:
        made = ProofRequest.of(method, url, options)
    else:
        raise click.UsageError("--account is one of the agent; it belongs to --agent")
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


def _with_token_of_agent(method: str, url: str, account: str | None, options: dict[str, Any]) -> ProofRequest:
    from dpop import BearerToken  # noqa: PLC0415 - as the next line
    from dpop_cli.tokens.agent_account import tokens_of_agent  # noqa: PLC0415 - only where it is asked for

    if any(options[name] for name in ("token_file", "token_env", "token_prompt")):
        raise click.UsageError("give a token (--token-file and the like) or --agent, not both")
    prover, tokens = tokens_of_agent(account, options)
    token = tokens()
    if isinstance(token, BearerToken):
        raise click.UsageError("the account's access tokens are bound to no key; use: dpop curl --agent")
    return ProofRequest.of(method, url, options, with_key=prover.key, with_token=token)
