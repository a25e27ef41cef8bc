# SPDX-License-Identifier: Apache-2.0
"""The methods of token endpoints for threads; an integration adds how a request is sent.

They run the steps of :class:`dpop.tokens.Grants`. The module for tasks is :mod:`dpop.tokens._async_endpoint`.
"""

from __future__ import annotations

import time
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from dpop._tracebacks import hide_frames
from dpop.errors import UsageError
from dpop.profiles import RFC9449, Profile
from dpop.tokens._discovery import discovery, resource_discovery
from dpop.tokens._endpoint_base import DEFAULT_TIMEOUT, SyncEndpointBase, token_and_hint
from dpop.tokens._grants import Parameter
from dpop.tokens._source import RefreshingSource
from dpop.tokens._stores import DEFAULT_ACCOUNT, LOCK_SECONDS, TokenStore
from dpop.tokens._token_set import TokenSet

if TYPE_CHECKING:
    from dpop._client_auth import ClientAuth
    from dpop.client._prover import Prover
    from dpop.keys import Key
    from dpop.tokens._authorization import AuthorizationRequest, DeviceAuthorization
    from dpop.tokens._metadata import ResourceMetadata

__all__ = ["SyncEndpoint"]


class SyncEndpoint(SyncEndpointBase, ABC):
    """A token endpoint for threads; the base of every integration's ``TokenEndpoint``."""

    @classmethod
    @hide_frames
    def discover(
        cls,
        prover: Key | Prover,
        issuer: str,
        *,
        http: Any = None,
        client_id: str | None = None,
        client_secret: str | None = None,
        client_auth: str | ClientAuth | None = None,
        profile: Profile | str = RFC9449,
        allow_bearer: bool | None = None,
        signed_endpoints: Iterable[str] | None = None,
        key_reference: str | None = None,
        insecure_origins: str | Iterable[str] = (),
        learn_clock: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        clock: Callable[[], float] = time.time,
    ) -> Self:
        """Make an endpoint whose URLs come from the issuer's ``/.well-known`` metadata (RFC 8414).

        :param issuer: the URL of the authorization server. The other settings are those of the constructor.
        :raises TokenRequestError: there is no metadata, or it belongs to another issuer.
        """
        make = partial(
            cls,
            prover,
            http=http,
            client_id=client_id,
            client_secret=client_secret,
            client_auth=client_auth,
            profile=profile,
            allow_bearer=allow_bearer,
            signed_endpoints=signed_endpoints,
            key_reference=key_reference,
            insecure_origins=insecure_origins,
            learn_clock=learn_clock,
            timeout=timeout,
            clock=clock,
        )
        with make(issuer) as asking:
            metadata = asking.run(discovery(issuer, insecure_origins))
        return make(metadata)

    @classmethod
    @hide_frames
    def discover_resource(
        cls,
        resource: str,
        *,
        url: str | None = None,
        http: Any = None,
        insecure_origins: str | Iterable[str] = (),
        timeout: float = DEFAULT_TIMEOUT,
    ) -> ResourceMetadata:
        """Fetch an API's metadata, which names its authorization servers and scopes (RFC 9728 §3).

        ::

            api = TokenEndpoint.discover_resource("https://api.example")
            endpoint = TokenEndpoint.discover(key, api.authorization_servers[0], client_id="app")

        The request carries no proof and no token, and follows no redirect. The API chooses the authorization servers:
        before a login compare them with those that you trust.

        :param resource: the API's identifier, mostly its URL; the document must name the same.
        :param url: where the document is, such as ``Demand.resource_metadata``; by default the well-known place. It
            must be at the API itself.
        :param http: as for the constructor.
        :raises UsageError: ``url`` is at another server.
        :raises InsecureOriginError: the API is http:// and not on this machine.
        :raises TokenRequestError: there is no metadata, or it belongs to another API.
        """
        from dpop.keys import generate_key  # noqa: PLC0415 - importing an endpoint stays light

        # An endpoint has a key and a client; this one makes no use of either.
        make = partial(cls, generate_key(), client_id="none", http=http, timeout=timeout)
        with make(resource, insecure_origins=insecure_origins) as asking:
            return asking.run(resource_discovery(resource, url, insecure_origins))

    # -- tokens

    def grant(self, grant_type: str, **parameters: Parameter) -> TokenSet:
        """Request tokens with any grant: ``grant("client_credentials", scope="read")``.

        :param parameters: the parameters of the request; client authentication and proof are added.
        :raises TokenRequestError: there are no tokens; :mod:`dpop.errors` describes the subclasses.
        """
        return self.run(self._grants.grant(grant_type, parameters))

    def redeem_code(
        self,
        code: str,
        *,
        redirect_uri: str | None = None,
        code_verifier: str | None = None,
        nonce: str | None = None,
        id_token_key: Mapping[str, Any] | bytes | str | None = None,
        **parameters: Parameter,
    ) -> TokenSet:
        """Exchange an authorization code for tokens (RFC 6749 §4.1.3).

        :param code_verifier: the code verifier of PKCE (RFC 7636).
        :param nonce: the nonce of the authorization request, if it had one. The ID token is then verified as in
            :meth:`finish_authorization`.
        :param id_token_key: the private key for encrypted ID tokens, as in :meth:`finish_authorization`.
        :param parameters: further parameters of the request, such as ``resource``.
        :raises ReauthorizationError: the code is used up or expired, or was requested with another key.
        :raises OutcomeUnknownError: no response came; the code may be used up.
        :raises InvalidTokenResponseError: tokens came that must not be used; they are in its ``tokens``.
        """
        return self.run(
            self._grants.redeem_code(
                code, redirect_uri, code_verifier, parameters, nonce=nonce, id_token_key=id_token_key
            )
        )

    def exchange_token(
        self,
        subject: TokenSet | str,
        *,
        subject_type: str = "access_token",
        actor: TokenSet | str | None = None,
        actor_type: str = "access_token",
        wanted_type: str | None = None,
        **parameters: Parameter,
    ) -> TokenSet:
        """Exchange a token for one that is bound to this key (RFC 8693).

        ``issued_token_type`` is in the ``extra`` of what comes.

        :param subject: the token, or a token set that holds it, of the user in whose name is acted.
        :param subject_type: its type: ``"access_token"``, ``"refresh_token"``, ``"id_token"``, ``"jwt"``, or a URI.
        :param actor: a token of the one who acts.
        :param actor_type: its type.
        :param wanted_type: the type of the token that is wanted; by default the server chooses.
        :param parameters: further ones of the request, such as ``audience``, ``resource`` or ``scope``.
        :raises UsageError: the token set has no token of that type.
        :raises TokenRefusedError: the server does not exchange this token.
        """
        return self.run(
            self._grants.exchange(
                subject,
                parameters,
                subject_type=subject_type,
                actor=actor,
                actor_type=actor_type,
                wanted_type=wanted_type,
            )
        )

    def redeem_assertion(self, assertion: str, **parameters: Parameter) -> TokenSet:
        """Exchange a JWT of another issuer for tokens (RFC 7523 §2.1).

        :param parameters: further ones of the request, such as ``scope``.
        :raises ReauthorizationError: the server does not take the assertion.
        """
        return self.run(self._grants.redeem_assertion(assertion, parameters))

    def refresh(self, tokens: TokenSet | str, *, rebind: bool = False, **parameters: Parameter) -> TokenSet:
        """Get a new access token for a refresh token (RFC 6749 §6).

        If several threads, processes or hosts share the tokens, use :meth:`source` instead.

        :param tokens: a token set, or only a refresh token. The set is not changed: use the returned one.
        :param rebind: for a confidential client: use this key from now on, instead of the one that the tokens
            name (RFC 9449 §5).
        :param parameters: further parameters of the request, such as ``scope`` or ``resource``.
        :raises KeyMismatchError: the tokens are bound to another key; nothing was sent.
        :raises ReauthorizationError: the refresh token is dead.
        :raises TokenEndpointUnavailableError: a temporary failure; the refresh token is still valid.
        :raises OutcomeUnknownError: no response came; the refresh token may be used up.
        :raises InvalidTokenResponseError: tokens came that must not be used; they are in its ``tokens``.
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
        """Make an authorization request with PKCE and ``state``: send the user to its ``url``.

        :param push: push it first (RFC 9126); by default if the server has an endpoint for that.
        :param dpop_jkt: bind the code to the key (RFC 9449 §10); by default as the server's profile says.
        """
        return self.run(self._grants.start_authorization(redirect_uri, scope, parameters, push=push, dpop_jkt=dpop_jkt))

    def finish_authorization(
        self,
        request: AuthorizationRequest,
        callback: str,
        *,
        id_token_key: Mapping[str, Any] | bytes | str | None = None,
        **parameters: Parameter,
    ) -> TokenSet:
        """Exchange the code of a callback for tokens, and verify the ID token (OpenID Connect Core §3.1.3.7).

        Where the server's keys cannot be had, a WARNING says so, and the ID token is kept with
        ``id_token_verified=False``.

        :param callback: the URL to which the browser was sent back, or its query.
        :param id_token_key: the private key for encrypted ID tokens: PEM, or a JWK.
        :raises InvalidTokenResponseError: the callback does not belong to the request, and nothing was sent; or tokens
            came that must not be used, which are in its ``tokens``.
        :raises InvalidIDTokenError: the ID token must not be believed; the tokens are in its ``tokens``.
        """
        return self.run(self._grants.finish_authorization(request, callback, parameters, id_token_key=id_token_key))

    def start_device(
        self, *, scope: str | None = None, dpop_jkt: bool = False, **parameters: Parameter
    ) -> DeviceAuthorization:
        """Ask for codes that the user types in on another device (RFC 8628).

        A proof goes with it where ``signed_endpoints`` or the profile names ``"device_authorization"``.

        :param dpop_jkt: name the key, for servers that bind the code to it as they do in RFC 9449 §10.
        """
        return self.run(self._grants.start_device(scope, parameters, dpop_jkt=dpop_jkt))

    def poll_device(
        self, device: DeviceAuthorization, *, id_token_key: Mapping[str, Any] | bytes | str | None = None
    ) -> TokenSet:
        """Wait for the user's decision, poll as often as the server allows, and verify the ID token.

        :param id_token_key: as for :meth:`finish_authorization`.
        :raises InvalidIDTokenError: the ID token must not be believed; the tokens are in its ``tokens``.
        :raises ReauthorizationError: the codes expired.
        :raises TokenRefusedError: the user refused.
        """
        return self.run(self._grants.poll_device(device, id_token_key=id_token_key))

    def verify_id_token(
        self,
        tokens: TokenSet,
        *,
        nonce: str | None = None,
        id_token_key: Mapping[str, Any] | bytes | str | None = None,
    ) -> Mapping[str, Any]:
        """Verify an ID token with the server's keys as they are now, such as that of a refresh; returns its claims.

        :param nonce: of the authorization request; ``None`` for the ID token of a refresh, which needs none.
        :param id_token_key: as for :meth:`finish_authorization`.
        :raises UsageError: there is no ID token, or these settings do not suffice.
        :raises TokenEndpointUnavailableError: the keys cannot be had now.
        :raises InvalidIDTokenError: it must not be believed.
        """
        return self.run(self._grants.verify_id_token(tokens, nonce, id_token_key))

    # -- about tokens

    def revoke(self, tokens: TokenSet | str, *, token_type_hint: str | None = None) -> None:
        """Revoke a token (RFC 7009). For a token set this is the refresh token, and with it the whole grant."""
        self.run(self._grants.revoke(*token_and_hint(tokens, token_type_hint)))

    def source(
        self,
        store: TokenStore,
        *,
        account: str = DEFAULT_ACCOUNT,
        ahead: float | None = None,
        lock_seconds: float = LOCK_SECONDS,
        scope: str | None = None,
        resource: Parameter = None,
        grant: str | None = None,
        rebind: bool = False,
        **parameters: Parameter,
    ) -> RefreshingSource:
        """Make a token source: call it for a fresh access token, from any thread and in many processes.

        Give it to an adapter as ``access_token=``. Tokens that are bound to no key are sent as Bearer.

        :param store: the store of the tokens, such as a :class:`dpop.tokens.FileTokenStore`.
        :param account: the account whose tokens to use; each account has its own source.
        :param ahead: how many seconds before its end an access token is renewed; by default a fifth
            of its lifetime, at most five minutes.
        :param lock_seconds: how long to wait while another process or host renews the tokens.
        :param scope: sent with each refresh, for an access token with fewer scopes than were granted.
        :param resource: sent with each refresh, for an access token for these resources (RFC 8707); by default those
            that the tokens were first asked for.
        :param grant: the grant to use if there is no refresh token, such as ``"client_credentials"``.
        :param rebind: for a confidential client that changes its key: a refresh goes out with this key, whichever one
            the stored tokens are bound to, and binds them to it (RFC 9449 §5). ``renew()`` does it at once.
        :param parameters: of that grant, beside ``scope`` and ``resource``.
        :raises UsageError: parameters without ``grant``, no store, or ``rebind`` with a public client.
        """
        if parameters and grant is None:
            raise UsageError(f"{', '.join(sorted(parameters))}: only scope, resource, or with grant= its parameters")
        each_time: dict[str, Parameter] = {"scope": scope, "resource": resource}
        grants = self._grants.rebinding() if rebind else self._grants
        return RefreshingSource(
            self.detached,
            grants.refreshing_with(each_time),
            store,
            account,
            ahead=ahead,
            lock_seconds=lock_seconds,
            grant=None if grant is None else (grant, {**each_time, **parameters}),
        )

    def introspect(self, token: str, *, token_type_hint: str | None = None) -> Mapping[str, Any]:
        """Ask the server about a token (RFC 7662). ``cnf.jkt`` names the key the token is bound to."""
        return self.run(self._grants.introspect(token, token_type_hint))
