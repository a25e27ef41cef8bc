# SPDX-License-Identifier: Apache-2.0
"""``dpop curl``: runs curl, with a fresh proof in every request.

The flow makes all decisions: which nonce to use, and whether to send a request again. This module runs curl once for
each request, and follows redirects instead of curl.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from typing import Any

import click

from dpop.client import (
    PEEK_BYTES,
    AccessToken,
    NonceKey,
    OutgoingRequest,
    Policy,
    ProofFlow,
    Prover,
    Role,
    Step,
    ask_token,
    dpop_challenge,
    refresh,
    sign_now,
    wait_for_nonce,
)
from dpop.errors import InvalidTargetError
from dpop.origin import Origin
from dpop_cli.commands.curl.options import CurlWords, read_words, split_words
from dpop_cli.commands.curl.request import CurlRequest
from dpop_cli.commands.curl.token import CurlToken
from dpop_cli.commands.curl.transfer import CurlTransfer, HeaderFile
from dpop_cli.console.command import Command, is_verbose
from dpop_cli.console.output import ended_by_signals, hint, show_late_warnings
from dpop_cli.console.secret_input import secret_options
from dpop_cli.signing.options import (
    NonceChoice,
    allow_http_option,
    check_transport,
    hint_at_case,
    keep_nonce,
    key_options_without_short,
    nonce_options,
)
from dpop_cli.tokens.options import client_options, store_options
from dpop_cli.wire.header_dump import Head

__all__ = ["curl"]

_MAX_REDIRECTS = 50
_REWIND_FAILED = 65
_TOO_MANY_REDIRECTS = 47


class _AroundCurl(Command):
    """A command whose options are mixed with curl's options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse our options with click, and keep curl's words as they are."""
        takes_value = {
            name: not (isinstance(parameter, click.Option) and parameter.is_flag)
            for parameter in self.get_params(ctx)
            for name in parameter.opts
            if name.startswith("--")
        }
        ours, ctx.meta[_WORDS] = split_words(args, takes_value)
        return super().parse_args(ctx, ours)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line, with curl's arguments."""
        formatter.write_usage(ctx.command_path, "[OPTIONS] [curl's options] URL")


_WORDS = "dpop_cli.curl"


@click.command(cls=_AroundCurl)
@key_options_without_short
@secret_options("token", "the access token, alone or in a token response")
@click.option("--agent", "in_agent", is_flag=True, help="Use a token of the signing agent, which refreshes it.")
@store_options()
@client_options
@nonce_options
@allow_http_option
@click.pass_context
def curl(ctx: click.Context, /, *, allow_http: bool, **options: Any) -> None:
    """Run curl with a proof for its request, and with an access token if you name one.

    The command does what a DPoP client has to do: it stores a nonce for the next command, sends the request again
    after a challenge, and with -L signs each redirect and stays within the origin. The output is curl's, and the
    command exits with curl's status, such as 22 for a refusal with -f. Your .curlrc is not read.

    You can use curl's own options: -X -d -F -T -I -G --json -o -H and most others. Before the first of them, --key is
    dpop's option; after it, --key is curl's option, for TLS.

    Options with which a request would not have a proof of its own are refused: several URLs, {a,b} and [1-3], --next,
    -Z, -K, --retry. A body from a pipe can be sent only once, so run the command again after a challenge.

    With --token-store the command uses an access token that dpop token login stored. It refreshes the token when it is
    about to expire, or when the server refuses it. A store that only DPOP_TOKEN_STORE names is used, too, if its tokens
    are bound to a key, and if the request has no -u and does not go to its token endpoint.

    With --agent the signing agent has the login (dpop login --agent); --account names one of several.

    The list of processes shows neither proof nor token. Curl's option -v prints both; "dpop --verbose curl" prints each
    request with its secrets masked. The list of processes does show the text of -u and -d: use a file (-d @FILE) or -n
    instead.

    \b
    Examples:
      export DPOP_KEY=key.pem
      dpop curl -s -d @form.txt https://as.example/token > token.json
      dpop curl --token-file token.json https://api.example/me
      dpop curl --token-store tokens.json https://api.example/me
      dpop curl --token-file token.json -i -X PUT --json '{"a": 1}' \\
        https://api.example/me
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    words = read_words(ctx.meta[_WORDS], (name for parameter in ctx.command.get_params(ctx) for name in parameter.opts))
    _check_short_options(words)
    if words.has("key") and not words.has("cert"):
        raise click.UsageError(
            "--key after curl's options is curl's own, for TLS, and has no effect without --cert; put the key of the"
            " proofs first: dpop curl --key key.pem ..."
        )
    program = _curl_on_path()
    if program is None:
        raise click.UsageError("there is no curl on the PATH; install it, or use dpop headers with another client")
    show_late_warnings()
    nonces = NonceChoice.of(options)
    token = CurlToken.of(options, words, allow_http=allow_http)
    request = CurlRequest.of(words, with_token=token.is_there)
    check_transport(request.url, allow_http=allow_http)
    hint_at_case(request.method)
    with ended_by_signals(), token.in_use() as (prover, access_token):
        session = _Session(
            program, words=words, prover=prover, token=access_token, origin=request.origin, nonces=nonces
        )
        ctx.exit(session.run(request))


def _curl_on_path() -> str | None:
    """Find curl. ``shutil.which`` does the same, but shutil loads the libraries of archives, which takes 2 ms."""
    if os.name == "nt":
        import shutil  # noqa: PLC0415 - see above; on Windows a name has one of several endings

        return shutil.which("curl")
    paths = (Path(folder, "curl") for folder in os.get_exec_path())
    return next((str(path) for path in paths if path.is_file() and os.access(path, os.X_OK)), None)


def _check_short_options(words: CurlWords) -> None:
    """Refuse ``-k FILE``: in other commands -k names the key, but here it is curl's ``--insecure``, without a value.

    :raises click.UsageError: a key file is in the place of the URL.
    """
    if any(option.spelling == "-k" for option in words.options):
        for word in words.urls:
            if "://" not in word and (word.endswith((".pem", ".jwk")) or word.startswith("pkcs11:") or _is_file(word)):
                raise click.UsageError(
                    "-k is curl's here: it turns off the check of the server's certificate, and takes no value. Name"
                    " the key in full: dpop curl --key FILE ..."
                )


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


class _Session:
    """One run of the command: its request, the nonce retry, and the requests after redirects."""

    def __init__(
        self,
        program: str,
        *,
        words: CurlWords,
        prover: Prover,
        token: AccessToken | None,
        origin: Origin,
        nonces: NonceChoice,
    ) -> None:
        self._program = program
        self._words = words
        self._policy = Policy(prover, origins=str(origin), insecure_origins=str(origin), access_token=token)
        self._nonce_key = NonceKey(prover.thumbprint, origin, Role.AS if token is None else Role.RS)
        self._first_nonce = nonces.for_request(self._nonce_key)
        if self._first_nonce is not None:
            prover.nonces.learn(self._nonce_key, self._first_nonce)
        self._with_token = token is not None
        self._header_file = HeaderFile(words.last("dump-header"))
        self._stdin = _position_of_stdin()
        self._verbose = is_verbose()

    def run(self, request: CurlRequest) -> int:
        """Send the request, follow redirects, keep the nonce; return curl's exit status."""
        limit = _redirect_limit(self._words)
        followed = 0
        try:
            while True:
                response = self._send(request, may_follow=self._words.is_on("location"))
                if isinstance(response, int):
                    return response
                if followed == limit:
                    return self._fail(f"curl: ({_TOO_MANY_REDIRECTS}) Maximum ({limit}) redirects followed", 47)
                followed += 1
                request = response.after_another()
        finally:
            newest = self._policy.prover.nonces.newest(self._nonce_key)
            if newest is not None and newest != self._first_nonce:
                keep_nonce(self._nonce_key, newest)

    def _send(self, request: CurlRequest, *, may_follow: bool) -> int | CurlRequest:
        """Send one request, and again if the server wants a nonce; return curl's status, or the redirected request."""
        origin = request.origin
        flow = ProofFlow.open(
            self._policy,
            OutgoingRequest(
                request.method,
                request.url,
                content=request.form,
                content_type=request.content_type,
                repeatable=request.repeatable,
            ),
        )
        assert flow is not None  # noqa: S101 - every request here is to the policy's origin
        try:
            while True:
                access_token = ask_token(flow)
                wait_for_nonce(flow)
                headers = sign_now(flow, origin.scheme, origin.authority, request.target, access_token)
                lines = [*request.headers, *(f"{name}: {value}" for name, value in headers)]
                # Without Expect: no 417, after which curl would send the same proof again (RFC 9110 §10.1.1).
                lines.append("Expect:")
                _rewind_stdin(self._stdin)
                with CurlTransfer(self._program, request, lines, self._header_file) as transfer:
                    head = transfer.head()
                    if head is None:
                        return transfer.release(None)
                    if self._verbose:
                        self._show(request, lines, head)
                    step = flow.received(head.status, head.fields)
                    if step is Step.PEEK:
                        step = flow.judged(transfer.peek(PEEK_BYTES))
                    again = step in {Step.RETRY, Step.REFRESH}
                    if again and not request.writes_itself:
                        transfer.drop()
                    if step in {Step.REFRESH, Step.REPORT}:
                        refresh(flow)
                    if again and not request.writes_itself:
                        request = request.after_another()
                        continue
                    redirected = self._redirected(request, head) if may_follow else None
                    if redirected is not None:
                        transfer.drop(show_head=True)
                        return redirected
                    status = transfer.release(head)
                if again:
                    hint("curl has already written the refusal to the file; run the command again for the response")
                else:
                    self._explain(head)
                return status
        finally:
            flow.failed()

    @staticmethod
    def _show(request: CurlRequest, lines: list[str], head: Head) -> None:
        """Show one request and its response, with what this command adds to it, masked."""
        from dpop_cli.wire.exchange import Exchange, show  # noqa: PLC0415 - only with --verbose

        sent = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines) if value.strip()]
        show(Exchange(request.method, request.url, sent, b"", head.status, head.fields))

    def _explain(self, head: Head) -> None:
        """Explain a refusal by an API and how to go on, because its body is usually empty."""
        if head.status not in {401, 403} or self._silent:
            return
        from dpop_cli.wire.next_steps import NEXT_STEPS  # noqa: PLC0415 - only after a refusal

        challenge = dpop_challenge(head.values("www-authenticate"))
        error = (challenge or {}).get("error")
        if error in {"invalid_token", "insufficient_scope"} and self._with_token:
            hint(f"the server refused the token: {error}. {NEXT_STEPS[error]}")
        elif error in {"use_dpop_nonce", "invalid_dpop_proof"}:
            hint(f"the server refused the proof: {error}. {NEXT_STEPS[error]}")
        elif head.status == 401 and challenge is not None and not self._with_token:
            hint(
                "the server responded 401: it needs an access token. Name a file that holds it with --token-file, or a"
                " store with --token-store, before curl's options; dpop token login gets a token"
            )
        elif head.status == 401 and challenge is None:
            hint(
                "the server responded 401 without a DPoP challenge: it needs other credentials, or knows no DPoP at"
                " this URL"
            )
        elif head.status == 401:
            hint("the server responded 401, but does not say what is wrong with the token or the proof")

    @property
    def _silent(self) -> bool:
        return self._words.is_on("silent") and not self._words.is_on("show-error")

    def _redirected(self, request: CurlRequest, head: Head) -> int | CurlRequest | None:
        """Return the request after a redirect within the origin; otherwise None, with a hint if it leads elsewhere."""
        locations = head.values("location")
        if head.status not in {301, 302, 303, 307, 308} or len(locations) != 1:
            return None
        try:
            further = request.redirected(head.status, locations[0], self._words)
        except InvalidTargetError as error:
            hint(f"the redirect is not followed: {error}")
            return None
        if further.origin != request.origin:
            hint(
                f"the server redirects to {further.origin}, which gets neither the proof nor the token; if this is"
                " right, run dpop curl with that URL"
            )
            return None
        if not further.repeatable:
            return self._fail(
                f"curl: ({_REWIND_FAILED}) the redirect needs the body again, but it can be read only once", 65
            )
        return further

    def _fail(self, message: str, status: int) -> int:
        if not self._silent:
            click.echo(message, err=True)
        return status


def _redirect_limit(words: CurlWords) -> int:
    """Return the number of ``--max-redirs``: -1 means no limit; the default is curl's, 50."""
    text = words.last("max-redirs") or str(_MAX_REDIRECTS)
    if not re.fullmatch(r"-1|[0-9]{1,9}", text, re.ASCII):
        raise click.UsageError("curl's option --max-redirs expects a number, or -1 for no limit")
    return int(text)


def _position_of_stdin() -> int | None:
    """Return the position of standard input, if it is a file; each run of curl starts there."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR)
    return None


def _rewind_stdin(position: int | None) -> None:
    if position is not None:
        os.lseek(sys.stdin.fileno(), position, os.SEEK_SET)
