# SPDX-License-Identifier: Apache-2.0
"""Token endpoints as users hold them, for threads; a door adds how a request is carried.

They run the steps of :class:`dpop.tokens._grants.Grants`; :mod:`dpop.tokens._async_endpoint` does so for tasks.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

from dpop._tracebacks import drop_frames
from dpop.errors import DPoPError, UsageError
from dpop.origin import Origin
from dpop.tokens._grants import Grants, Parameter, discovery
from dpop.tokens._metadata import ServerMetadata
from dpop.tokens._source import RefreshingSource
from dpop.tokens._steps import Blocking, HTTPRequest, HTTPResponse, Steps
from dpop.tokens._stores import DEFAULT_ACCOUNT, LOCK_SECONDS, TokenStore
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop.client._prover import Prover
    from dpop.keys import Key
    from dpop.tokens._authorization import AuthorizationRequest, DeviceAuthorization

__all__ = ["Endpoint", "SyncEndpoint", "token_and_hint"]

_T = TypeVar("_T")
_TIMEOUT = 20.0


class Endpoint:
    """What both have in common."""

    def _set_up(self, prover: Key | Prover, server: str | ServerMetadata, options: dict[str, Any]) -> dict[str, Any]:
        """Take the settings of :class:`Grants`; returns those for the adapter that signs."""
        timeout = options.pop("timeout", _TIMEOUT)
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0:
            raise UsageError(f"timeout must be seconds above 0, got {timeout!r:.40}")
        self.timeout: float = float(timeout)
        learn_clock = options.pop("learn_clock", False)
        self._grants = Grants(prover, server, **options)
        signed = self._grants.signed_endpoints
        return {
            "origins": sorted({str(Origin.of_url(url)) for url in signed}),
            "as_endpoints": signed,
            "profile": self._grants.profile._replace(algs=None),  # the prover was fitted to them already
            "insecure_origins": options.get("insecure_origins", ()),
            "learn_clock": learn_clock,
            "rebuild": self._grants.rebuild if self._grants.client_auth.makes_assertions else None,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._grants.server.token_endpoint.partition('?')[0]}>"

    def __reduce__(self) -> tuple[object, ...]:
        raise UsageError("a token endpoint cannot be pickled: its key must not travel; make one in each process")

    @property
    def grants(self) -> Grants:
        """The settings, and the requests as messages."""
        return self._grants

    @property
    def server(self) -> ServerMetadata:
        """The server's endpoints."""
        return self._grants.server

    @property
    def prover(self) -> Prover:
        """Whose proofs."""
        return self._grants.prover


class SyncEndpoint(Endpoint, ABC):
    """A token endpoint for threads; ``TokenEndpoint`` in the doors."""

    @abstractmethod
    def __init__(self, prover: Key | Prover, server: str | ServerMetadata, **options: Any) -> None: ...

    @abstractmethod
    def exchange(self, request: HTTPRequest) -> HTTPResponse:
        """Send one request and read its answer.

        :raises NoResponse: none came.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connections made here; a client that was given stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def run(self, steps: Steps[_T]) -> _T:
        """Carry out steps of :attr:`grants`."""
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, HTTPRequest):
                        outcome: Any = self.exchange(step)
                    elif isinstance(step, Blocking):
                        outcome = step.function()
                    else:
                        outcome = time.sleep(step.seconds)  # type: ignore[func-returns-value]
                except Exception as error:  # noqa: BLE001 - the steps decide
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            result: _T = done.value
            return result
        except DPoPError as error:
            # The frames below hold tokens, secrets and codes, and crash reporters send what is in frames.
            drop_frames(error)
            raise error.with_traceback(None)  # noqa: B904 - it is the same error
        finally:
            steps.close()  # an interrupt leaves them where they are

    @classmethod
    def discover(cls, prover: Key | Prover, issuer: str, **options: Any) -> Self:
        """An endpoint whose addresses come from the issuer's ``/.well-known`` metadata (RFC 8414).

        :param options: as for the constructor.
        :raises TokenRequestError: there is no metadata, or it is another issuer's.
        """
        with cls(prover, issuer, **options) as asking:
            metadata = asking.run(discovery(issuer, options.get("insecure_origins", ())))
        return cls(prover, metadata, **options)

    # -- tokens

    def grant(self, grant_type: str, **parameters: Parameter) -> TokenSet:
        """Ask for tokens by any grant: ``grant("client_credentials", scope="read")``.

        :param parameters: of the request; client authentication and proof are added.
        :raises TokenRequestError: the tokens did not come; :mod:`dpop.errors` says which error means what.
        """
        return self.run(self._grants.grant(grant_type, parameters))

    def redeem_code(
        self,
        code: str,
        *,
        redirect_uri: str | None = None,
        code_verifier: str | None = None,
        **parameters: Parameter,
    ) -> TokenSet:
        """Exchange an authorization code for tokens (RFC 6749 §4.1.3).

        :param code_verifier: of PKCE (RFC 7636).
        :raises ReauthorizationError: the code is used up or expired, or asked for with another key.
        :raises OutcomeUnknownError: no answer came; the code may be used up.
        """
        return self.run(self._grants.redeem_code(code, redirect_uri, code_verifier, parameters))

    def refresh(self, tokens: TokenSet | str, *, rebind: bool = False, **parameters: Parameter) -> TokenSet:
        """Get a new access token for a refresh token (RFC 6749 §6).

        Where several threads, processes or hosts share the tokens, let :meth:`source` do it.

        :param tokens: a set, or a refresh token alone. The set is left as it is: use what is returned.
        :param rebind: with a confidential client, from now on use this key instead of the one the tokens
            name (RFC 9449 §5).
        :raises KeyMismatchError: the tokens are bound to another key; nothing was sent.
        :raises ReauthorizationError: the refresh token is dead.
        :raises TokenEndpointUnavailableError: not now; the refresh token is as good as it was.
        :raises OutcomeUnknownError: no answer came; the refresh token may be used up.
        """
        return self.run(self._grants.refresh(tokens, parameters, rebind=rebind))

    # -- the user

    def start_authorization(
        self,
        redirect_uri: str,
        *,
        scope: str | None = None,
        push: bool | None = None,
        dpop_jkt: bool | None = None,
        **parameters: Parameter,
    ) -> AuthorizationRequest:
        """An authorization request with PKCE and ``state``: send the user to its ``url``.

        :param push: push it first (RFC 9126); by default wherever the server has an endpoint for that.
        :param dpop_jkt: have the code bound to the key (RFC 9449 §10); by default as the server's profile says.
        """
        return self.run(self._grants.start_authorization(redirect_uri, scope, parameters, push=push, dpop_jkt=dpop_jkt))

    def finish_authorization(self, request: AuthorizationRequest, callback: str, **parameters: Parameter) -> TokenSet:
        """Tokens for what the user came back with.

        :param callback: the whole URL, or its query.
        :raises InvalidTokenResponseError: it does not belong to the request; nothing was sent.
        """
        return self.run(self._grants.finish_authorization(request, callback, parameters))

    def start_device(self, *, scope: str | None = None, **parameters: Parameter) -> DeviceAuthorization:
        """Codes for a user who has no browser here (RFC 8628)."""
        return self.run(self._grants.start_device(scope, parameters))

    def poll_device(self, device: DeviceAuthorization) -> TokenSet:
        """Wait for the user's decision, asking as often as the server allows.

        :raises ReauthorizationError: the codes expired.
        :raises TokenRefusedError: the user said no.
        """
        return self.run(self._grants.poll_device(device))

    # -- about tokens

    def revoke(self, tokens: TokenSet | str, *, token_type_hint: str | None = None) -> None:
        """Revoke a token (RFC 7009); of a set the refresh token, and with it all of the grant."""
        self.run(self._grants.revoke(*token_and_hint(tokens, token_type_hint)))

    def source(
        self,
        store: TokenStore,
        *,
        account: str = DEFAULT_ACCOUNT,
        ahead: float | None = None,
        lock_seconds: float = LOCK_SECONDS,
        grant: str | None = None,
        **parameters: Parameter,
    ) -> RefreshingSource:
        """A token source: call it for a fresh access token, from any thread, and in any number of processes.

        Give it to an adapter as ``access_token=``. Tokens that are bound to no key go out as Bearer.

        :param store: where the tokens are kept, such as a :class:`dpop.tokens.FileTokenStore`.
        :param account: whose tokens; each account has a source of its own.
        :param ahead: seconds before the end of an access token from which on it is renewed; by default a fifth
            of its life, at most five minutes.
        :param grant: what to ask for where there is no refresh token, such as ``"client_credentials"``.
        :param lock_seconds: how long to wait while another process or host renews the tokens.
        :param parameters: of that grant, such as ``scope``.
        """
        if parameters and grant is None:
            raise UsageError(f"{', '.join(sorted(parameters))}: only a grant= has parameters")
        return RefreshingSource(
            self.run,
            self._grants,
            store,
            account,
            ahead=ahead,
            lock_seconds=lock_seconds,
            grant=None if grant is None else (grant, parameters),
        )

    def introspect(self, token: str, *, token_type_hint: str | None = None) -> Mapping[str, Any]:
        """What the server says about a token (RFC 7662). ``cnf.jkt`` names the key it is bound to."""
        return self.run(self._grants.introspect(token, token_type_hint))


def token_and_hint(tokens: TokenSet | str, hint: str | None) -> tuple[str, str | None]:
    """What to revoke of a set, the refresh token if there is one, and its type (RFC 7009 §2.1)."""
    if isinstance(tokens, str):
        return tokens, hint
    if tokens.refresh_token is not None:
        return tokens.refresh_token, "refresh_token"
    return tokens.access_token, "access_token"
