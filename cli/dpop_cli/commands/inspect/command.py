# SPDX-License-Identifier: Apache-2.0
"""``dpop inspect``: decodes and judges a proof, or says what a client should do after a server's response."""

from __future__ import annotations

import json
import re
import sys
import textwrap
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import click

from dpop.encoding import check_nonce
from dpop.errors import AlgorithmError
from dpop.htu import check_method
from dpop.keys import ALGORITHMS
from dpop.origin import Origin
from dpop.server import MemoryReplayCache, NonceVerdict, ProofReport, ProofVerifier
from dpop_cli.commands.inspect.input import MAX_HAR_BYTES, SeenRequest, bound_jkt, seen_requests
from dpop_cli.commands.inspect.response import is_response, read_response, response_as_json, response_lines
from dpop_cli.commands.inspect.view import WIDEST, ProofView, report_as_json
from dpop_cli.console.command import Command, Detail
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import file_names, hint, may_color, width_of
from dpop_cli.console.secret_input import read_text, secret_options
from dpop_cli.signing.options import alg_name, read_token

__all__ = ["inspect"]

_LONGEST_NAME = 255
_SHORTEST_PROOF = 60


class _OneNonce:
    """A nonce checker that knows only one nonce."""

    used = None

    def __init__(self, nonce: str) -> None:
        self._nonce = check_nonce(nonce)

    def issue(self, jkt: str | None = None) -> str:  # noqa: ARG002 - for any key
        """Return the nonce."""
        return self._nonce

    def check(self, nonce: str, jkt: str) -> NonceVerdict | None:  # noqa: ARG002 - of any key
        """Compare a nonce with the known one. Its age is unknown, so ``iat`` is judged, too."""
        return NonceVerdict(None, float("inf")) if nonce == self._nonce else None

    def next_for(self, nonce: str | None, jkt: str | None) -> str | None:  # noqa: ARG002 - never
        """Return None: no other nonce is known."""
        return None


@click.command(cls=Command)
@click.argument("proof", required=False)
@click.option(
    "--from",
    "source",
    metavar="FILE",
    shell_complete=file_names,
    cls=Detail,
    help="The file, as an option; - is standard input.",
)
@click.option("--against", metavar="URL", help="Judge the proof for a request to this URL.")
@click.option("--method", metavar="METHOD", help="The request's method; with --against, GET by default.")
@secret_options("token", "the access token of the request, alone or in a token response")
@click.option("--jkt", cls=Detail, metavar="JKT", help="Thumbprint that the token or code is bound to.")
@click.option("--nonce", cls=Detail, metavar="NONCE", help="The nonce the server expects.")
@click.option(
    "--algs",
    cls=Detail,
    metavar="ALGS",
    help='Algorithms the server accepts, such as "ES256 PS256"; all by default.',
)
@click.option(
    "--max-age",
    cls=Detail,
    type=click.IntRange(1, 300),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="How long a proof is valid.",
)
@click.option("--at", cls=Detail, type=float, metavar="SECONDS", help="Judge it for this time, in seconds since 1970.")
@click.option(
    "--response",
    metavar="FILE",
    shell_complete=file_names,
    help="Read a server's response (curl -i) instead, and say what to do next.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def inspect(
    ctx: click.Context, /, *, proof: str | None, source: str | None, response: str | None, as_json: bool, **options: Any
) -> None:
    """Decode a proof and judge it: print each check with its verdict and its rule.

    PROOF is a proof, a file, or - for standard input. Files and standard input may also contain saved request headers
    (also of curl -v), a HAR file or a copied curl command. The proof is compared with the request in them, or with
    --against, --method and the token. A check is not judged if it needs more than is known.

    For a server's response, as curl -i saves it, the command says what a client should do next; --response FILE says
    that the file is a response.

    The status is 1 if a server would refuse the proof, or refused it.

    \b
    Examples:
      dpop proof GET https://api.example/me --key key.pem > proof.txt
      dpop inspect proof.txt
      dpop headers GET https://api.example/me --key key.pem |
        dpop inspect - --against https://api.example/me --method GET --json
      curl -si https://api.example/me | dpop inspect - || true
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    if response is not None:
        if proof is not None or source is not None:
            raise click.UsageError("--response reads a response, which has no proof; give one or the other")
        ctx.exit(_print_response(read_text(response, "--response"), as_json=as_json))
    text, requests = _requests(proof, source)
    if text is not None and is_response(text):
        ctx.exit(_print_response(text, as_json=as_json))
    against = _Against.of(options)
    judged = ((request, *against.judge(request)) for request in requests)
    good = _print_json(judged) if as_json else _print_lines(judged)
    ctx.exit(Status.DONE if good else Status.REFUSED)


def _print_response(text: str, *, as_json: bool) -> Status:
    seen = read_response(text, time.time())
    if as_json:
        click.echo(json.dumps(response_as_json(seen), indent=2))
    else:
        click.echo("\n".join(response_lines(seen, width_of("stdout", WIDEST))))
    return Status.REFUSED if seen.refused else Status.DONE


_Judged = Iterator[tuple[SeenRequest, ProofReport, float]]


def _print_json(judged: _Judged) -> bool:
    """Print one JSON object, each report as it comes; return whether all proofs are good."""
    good, before = True, '{\n  "proofs": [\n'
    for request, report, _ in judged:
        good &= report.refusal is None
        shown = json.dumps(report_as_json(request, report), indent=2)
        click.echo(before + textwrap.indent(shown, "    "), nl=False)
        before = ",\n"
    click.echo(f'\n  ],\n  "good": {json.dumps(good)}\n}}')
    return good


def _print_lines(judged: _Judged) -> bool:
    """Print each report as it comes, numbered if there are several; return whether all proofs are good."""
    view = ProofView(color=may_color("stdout"), width=width_of("stdout", WIDEST + 1) - 1)
    good, first = True, list(islice(judged, 2))
    several = len(first) > 1
    for number, (request, report, at) in enumerate(chain(first, judged), start=1):
        good &= report.refusal is None
        click.echo("\n".join(view.lines(request, report, at, number=number if several else None)))
        if "jwk" not in (report.header or {}) and {"iss", "aud", "sub"} & (report.claims or {}).keys():
            hint("this is a token, not a proof: a proof is in the header DPoP, a token in Authorization")
    return good


def _requests(proof: str | None, source: str | None) -> tuple[str | None, Iterator[SeenRequest]]:
    """Return the text with the proofs (None if the proof is the argument itself), and the requests in it."""
    if proof is not None and source is not None:
        raise click.UsageError("give a proof or --from, not both")
    if proof is not None and proof != "-":
        if _is_file(proof):
            text = read_text(proof, "PROOF", limit=MAX_HAR_BYTES)
            return text, seen_requests(text)
        if _looks_like_a_file(proof):
            raise click.UsageError(
                f"there is no file {click.format_filename(proof)}, and it is not a proof, which has three long parts"
                " with dots between them"
            )
        return None, seen_requests(proof)
    if source is None and proof is None and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError(
            "there is nothing to inspect; give a proof, or pipe one in: dpop proof GET URL --key key.pem | dpop inspect"
        )
    option = "--from" if source is not None else "PROOF"
    text = read_text(source or "-", option, limit=MAX_HAR_BYTES)
    return text, seen_requests(text)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def _looks_like_a_file(word: str) -> bool:
    """Whether a word is shorter than any proof, or has the form of a path, so that it means a missing file."""
    if len(word) < _SHORTEST_PROOF and word.count(".") != 2 and word.isprintable() and " " not in word:
        return True
    return len(word) <= _LONGEST_NAME and re.fullmatch(r"[^\s]*[/\\.][A-Za-z]\w{1,4}|[.~]?/.*", word) is not None


class _Against:
    """The request and the server for which a proof is judged, as the options describe them."""

    def __init__(self, options: dict[str, Any], token: str | None) -> None:
        self._url: str | None = options["against"]
        self._method: str | None = options["method"]
        self._token = token
        self._jkt: str | None = options["jkt"]
        self._nonces = None if options["nonce"] is None else _OneNonce(options["nonce"])
        self._algs: str = " ".join(alg_name(each) or "" for each in (options["algs"] or " ".join(ALGORITHMS)).split())
        self._max_age: int = options["max_age"]
        self._at: float | None = options["at"]

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Against:
        """Read the options of the command.

        :raises UsageError: the URL, method, nonce or list of algorithms is invalid.
        """
        against = cls(options, read_token(options))
        if against._url is not None:
            Origin.of_url(against._url)
        if against._method is not None:
            check_method(against._method)
        try:
            against._verifier(0.0)
        except AlgorithmError as error:
            raise click.UsageError(f"--algs: {error}") from None
        return against

    def judge(self, request: SeenRequest) -> tuple[ProofReport, float]:
        """Judge the proof of a request; return the report, and the time for which it was judged."""
        at = self._at if self._at is not None else request.at if request.at is not None else time.time()
        url = self._url or request.url
        method = self._method or (("GET" if self._url else None) if request.method is None else request.method)
        token = self._token or request.token
        jkt = self._jkt or (None if token is None else bound_jkt(token))
        report = self._verifier(at).report(list(request.headers), method, url, access_token=token, bound_jkt=jkt)
        return report, at

    def _verifier(self, at: float) -> ProofVerifier:
        return ProofVerifier(
            replay=MemoryReplayCache(clock=lambda: at),
            nonces=self._nonces,
            algs=self._algs,
            max_age=self._max_age,
            clock=lambda: at,
        )
