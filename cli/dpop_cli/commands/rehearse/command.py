# SPDX-License-Identifier: Apache-2.0
"""``dpop rehearse``: tries a login, a refresh and refusals with a real server, and writes a transcript of them."""

from __future__ import annotations

import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

import dpop
from dpop._files import path_from_home
from dpop.client import Prover
from dpop.errors import DPoPError, InvalidTokenResponseError, TokenError
from dpop.profiles import GOOGLE
from dpop.tokens import TokenSet
from dpop_cli.commands.rehearse.transcript import Step, Transcript
from dpop_cli.console.command import Command, Detail, Setting
from dpop_cli.console.exit_status import Status
from dpop_cli.console.output import BAD, GOOD, TITLE, done, file_names, hint, may_color, waiting, width_of
from dpop_cli.login.browser import Loopback, login_parameters, open_login
from dpop_cli.login.device import device_login
from dpop_cli.signing.options import key_options
from dpop_cli.tokens.client import OAuthClient, prover_of
from dpop_cli.tokens.options import server_options
from dpop_cli.wire.exchange import Exchange, watching

if TYPE_CHECKING:
    from dpop.requests import TokenEndpoint

__all__ = ["rehearse"]

_WIDE = 80
_MARGIN = 9


@click.command(cls=Command, variables=["BROWSER"])
@server_options
@click.option("--scope", cls=Setting, multiple=True, metavar="SCOPE", help="A scope to request; may be repeated.")
@click.option(
    "-o",
    "--out",
    default="rehearsal.json",
    show_default=True,
    metavar="FILE",
    shell_complete=file_names,
    help="The file for the transcript; only you can read it.",
)
@click.option(
    "--redirect-uri",
    cls=Detail,
    default="http://127.0.0.1/",
    show_default=True,
    metavar="URL",
    help="The URL on this machine to which the browser returns; without a port, a free one is used.",
)
@click.option("--no-browser", is_flag=True, help="Only print the URL; open it yourself.")
@click.option("--device", is_flag=True, help="Log in with a code that you enter on another device (RFC 8628).")
@click.option(
    "--timeout",
    cls=Detail,
    type=click.IntRange(1, 86_400),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the browser.",
)
@key_options
@click.pass_context
def rehearse(
    ctx: click.Context,
    /,
    *,
    scope: tuple[str, ...],
    out: str,
    redirect_uri: str,
    no_browser: bool,
    device: bool,
    timeout: int,
    **options: Any,
) -> None:
    """Check with your own client that a server does all that a client needs.

    You log in once, in the browser or, with --device, on another device. Then the command refreshes the tokens, also
    without a nonce and with another key, and revokes them in the end. It stores no tokens. It compares each response
    with the rules of RFC 9449 and of the server's profile.

    The transcript contains all requests and responses without secrets: each token, nonce, code and client name is
    replaced with a word such as refresh_token-1. You can attach it to an issue, and it can become a test.

    The status is 1 if the server breaks a rule.

    \b
    Examples:
      dpop rehearse --key key.pem --client client.json --scope read
      dpop rehearse --key key.pem --profile google --client client_secret.json \\
        --scope openid
    """  # noqa: D301 - \b is click's mark for lines to be left as they are
    path = path_from_home(out)
    if not path.parent.is_dir():
        raise click.UsageError(
            f"--out expects a file in an existing folder; that of {click.format_filename(out)} does not exist"
        )
    client, prover = OAuthClient.of(options), prover_of(options)
    rehearsal = _Rehearsal(client, prover)
    try:
        with rehearsal.recording():
            login = device_login if device else _browser_login(redirect_uri, browser=not no_browser, timeout=timeout)
            rehearsal.run(login, " ".join(scope) or None)
    finally:
        if rehearsal.transcript is not None and rehearsal.transcript.steps:
            rehearsal.transcript.write(path)
            done(f"the transcript is in {click.format_filename(path)}; it contains no secrets, so you can share it")
    good = all(verdict.good for step in rehearsal.steps for verdict in step.verdicts)
    click.echo(
        click.style(
            "The server follows all rules." if good else "The server breaks a rule.",
            **(GOOD if good else BAD),
        ),
        color=None if may_color("stdout") else False,
    )
    ctx.exit(Status.DONE if good else Status.REFUSED)


_Login = Callable[["TokenEndpoint", str | None], TokenSet]


def _browser_login(redirect_uri: str, *, browser: bool, timeout: int) -> _Login:
    def login(endpoint: TokenEndpoint, scope: str | None) -> TokenSet:
        more: dict[str, Any] = login_parameters(endpoint.grants.profile)
        with Loopback(redirect_uri) as loopback:
            request = endpoint.start_authorization(loopback.redirect_uri, scope=scope, **more)
            open_login(loopback, request, browser=browser)
            with waiting("Waiting for your browser"):
                return loopback.wait(
                    request,
                    endpoint.server,
                    lambda query: endpoint.finish_authorization(request, query),
                    timeout=timeout,
                )

    return login


class _Rehearsal:
    """Runs the steps in their order; each is printed when it is done."""

    def __init__(self, client: OAuthClient, prover: Prover) -> None:
        self._client = client
        self._prover = prover
        self._now: Step | None = None
        self.steps: list[Step] = []
        self.transcript: Transcript | None = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record each exchange of this process in the current step."""

        def see(exchange: Exchange) -> None:
            if self._now is not None:
                self._now.exchanges.append(exchange)

        with watching(see):
            yield

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[Step]:
        step = self._now = Step(name)
        try:
            yield step
        finally:
            self._now = None
            if step.exchanges:
                self.steps.append(step)
                _print(step)

    def run(self, login: _Login, scope: str | None) -> None:
        """Run all steps.

        :param login: a function that gets the first tokens from an endpoint, for a scope.
        :raises DPoPError: the server refused a request that it must grant, so that the next step is impossible.
        """
        with contextlib.ExitStack() as endpoints:
            with self._step("metadata") as step:
                endpoint = endpoints.enter_context(self._client.endpoint(self._prover))
                self._begin(endpoint)
                if step.exchanges:
                    self._judge_metadata(step)
            tokens = self._granted("login", endpoint, lambda: login(endpoint, scope))
            if tokens.refresh_token is None:
                hint("there is no refresh token, so the other steps are left out; request offline access")
                return
            for name, prover in (("refresh", endpoint.prover), ("nonce", Prover(self._prover.key))):
                tokens = self._refreshed(name, self._endpoint(prover, endpoints, tokens), tokens)
            tokens = self._with_another_key(endpoint, tokens, endpoints)
            self._give_back(endpoint, tokens)

    def _begin(self, endpoint: TokenEndpoint) -> None:
        server = endpoint.server
        self.transcript = Transcript(
            {
                "profile": endpoint.grants.profile.name,
                "alg": self._prover.key.alg,
                "public_client": self._client.secret is None,
                "server": {
                    name: value
                    for name in type(server).__dataclass_fields__
                    if isinstance(value := getattr(server, name), str)
                },
            },
            self.steps,
        )

    def _judge_metadata(self, step: Step) -> None:
        members = step.last.members
        algs = members.get("dpop_signing_alg_values_supported")
        step.must(
            "the metadata list the algorithms of proofs",
            "RFC 9449 §5.1",
            isinstance(algs, list) and algs,
            "none listed",
        )
        if isinstance(algs, list) and algs:
            alg = self._prover.key.alg
            step.must(
                f"{alg}, the key's algorithm, is one of them", "RFC 9449 §5.1", alg in algs, ", ".join(map(str, algs))
            )

    def _endpoint(self, prover: Prover, endpoints: contextlib.ExitStack, tokens: TokenSet) -> TokenEndpoint:
        """Return an endpoint of the same server, without the first one's nonces and without new metadata."""
        assert self.transcript is not None  # noqa: S101 - made in the first step
        return endpoints.enter_context(self._client.or_of(self.transcript.server).endpoint(prover, tokens))

    def _granted(self, name: str, endpoint: TokenEndpoint, ask: Callable[[], TokenSet]) -> TokenSet:
        """Request tokens, and judge the response, even if the library does not accept it."""
        with self._step(name) as step:
            try:
                return ask()
            finally:
                if step.exchanges and step.last.url == endpoint.server.token_endpoint:
                    step.judge_nonces(endpoint.grants.profile)
                    step.judge_tokens(endpoint.grants.profile)

    def _refreshed(self, name: str, endpoint: TokenEndpoint, tokens: TokenSet) -> TokenSet:
        return self._granted(name, endpoint, lambda: endpoint.refresh(tokens))

    def _with_another_key(self, endpoint: TokenEndpoint, tokens: TokenSet, endpoints: contextlib.ExitStack) -> TokenSet:
        """Use the refresh token with a key to which it is not bound; return the tokens for the next steps."""
        stranger = self._endpoint(Prover(dpop.generate_key(self._prover.key.alg)), endpoints, tokens)
        bound = self._client.secret is None or endpoint.grants.profile == GOOGLE
        with self._step("wrong key") as step:
            try:
                given = stranger.refresh(tokens.refresh_token or "")
            except InvalidTokenResponseError as error:
                given = error.tokens or tokens
            except TokenError:
                if not step.exchanges:
                    raise  # no request was made
                profile = endpoint.grants.profile
                own = profile.server.wrong_key
                step.judge_refusal(
                    "another key cannot use the refresh token",
                    f"profile {profile.name}" if own else "RFC 9449 §5",
                    ("invalid_grant", "invalid_dpop_proof", *filter(None, [own])),
                )
                return tokens
            if bound:
                step.must("another key cannot use the refresh token", "RFC 9449 §5", False, "it was accepted")
            else:
                step.notes.append(
                    "another key could use the refresh token: it is bound to the client's secret, not to the key. RFC"
                    " 9449 §5 allows that for clients with a secret"
                )
            return tokens.replace(refresh_token=given.refresh_token or tokens.refresh_token)

    def _give_back(self, endpoint: TokenEndpoint, tokens: TokenSet) -> None:
        if endpoint.server.revocation_endpoint is None:
            hint("the server names no revocation endpoint, so the refresh token stays valid; revoke it there by hand")
            return
        with self._step("revoke") as step:
            endpoint.revoke(tokens.refresh_token or "", token_type_hint="refresh_token")  # noqa: S106 - a kind of token
            status = step.last.status
            step.must("revocation has status 200", "RFC 7009 §2.2", status == 200, str(status))
        with self._step("revoked") as step:
            with contextlib.suppress(DPoPError):
                endpoint.refresh(tokens.refresh_token or "")
            step.judge_nonces(endpoint.grants.profile)
            step.judge_refusal("a revoked refresh token is refused", "RFC 7009 §2.1", ("invalid_grant",))


def _print(step: Step) -> None:
    """Print a step and its verdicts, in the layout of ``dpop inspect``."""
    color = None if may_color("stdout") else False
    width = width_of("stdout", _WIDE) - 1
    count = f"{len(step.exchanges)} request{'s' * (len(step.exchanges) > 1)}"
    click.echo(f"{click.style(step.name, **TITLE)}, {count}", color=color)
    for verdict in step.verdicts:
        mark = click.style("ok    ", **GOOD) if verdict.good else click.style("FAILED", **BAD)
        first, *rest = [f"{verdict.what:<50} {verdict.rule}"]
        if len(first) + _MARGIN > width:
            first, *rest = [*textwrap.wrap(verdict.what, width - _MARGIN), verdict.rule]
        click.echo(f"  {mark} {first}", color=color)
        seen = "".join(character if character.isprintable() else "?" for character in verdict.seen)
        for line in [*rest, *textwrap.wrap(f"but: {seen}" if seen else "", width - _MARGIN)]:
            click.echo(" " * _MARGIN + line)
    for note in step.notes:
        click.echo(textwrap.fill(f"  -      {note}", width, subsequent_indent=" " * _MARGIN))
    sys.stdout.flush()
