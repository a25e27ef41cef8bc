# SPDX-License-Identifier: Apache-2.0
"""The token endpoint of RFC 9449: three grants, each requested with a proof.

The order matters: read the grant without using it up, verify the proof against the key of the grant, and only then use
the grant up. So a client that needs a nonce can send the same code or refresh token again.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from dpop.client import Role
from dpop.encoding import b64url_encode, code_jti
from dpop.errors import CredentialError, InvalidProof
from dpop.server import VerifiedProof
from dpop.testing._clients import Client
from dpop.testing._deployment import Deployment, granted
from dpop.testing._device import DEVICE_CODE, poll
from dpop.testing._gate import Gate
from dpop.testing._messages import Request, Response, json_response
from dpop.testing._store import AccessToken, Code, RefreshToken, new_grant

__all__ = ["GRANTS", "TokenEndpoint"]

_DEFAULT_SCOPE = "read"
_SUBJECT = "urn:ietf:params:oauth:token-type:access_token"
GRANTS = (
    "authorization_code",
    "refresh_token",
    "client_credentials",
    DEVICE_CODE,
    "urn:ietf:params:oauth:grant-type:token-exchange",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
)
"""The grant types that the test server knows."""


class TokenEndpoint:
    """``POST /token`` (RFC 6749 §3.2, RFC 9449 §5).

    :param url: its own, which proofs must name.
    :param exchange_gate: whose nonces the code exchange uses while the lever ``isolate_exchange_nonces`` is on.
    """

    def __init__(self, url: str, deployment: Deployment, gate: Gate, exchange_gate: Gate) -> None:
        self._url = url
        self._deployment = deployment
        self._store = deployment.store
        self._levers = deployment.levers
        self._as_gate = gate
        self._exchange_gate = exchange_gate
        self._behaviour = deployment.behaviour

    def respond(self, request: Request) -> Response:
        """Respond 200 with tokens.

        :raises InvalidProof: the request, the client, the proof or the grant is refused.
        """
        form = request.form()
        client = self._deployment.clients.authenticate(request, form)
        self._deployment.refuse_by_lever(Role.AS, request, self._as_gate)
        match form.get("grant_type"):
            case "authorization_code":
                return self._redeem_code(request, client, form)
            case "refresh_token":
                return self._refresh(request, client, form)
            case "client_credentials":
                return self._client_credentials(request, client, form)
            case "urn:ietf:params:oauth:grant-type:device_code":
                return self._device(request, client, form)
            case "urn:ietf:params:oauth:grant-type:token-exchange":
                return self._exchange(request, client, form)
            case "urn:ietf:params:oauth:grant-type:jwt-bearer":
                return self._assertion(request, client, form)
            case None:
                raise InvalidProof("invalid_request", "grant_type_missing", "grant_type is missing")
            case _:
                raise InvalidProof("unsupported_grant_type", "grant_type", f"grant_type must be {' or '.join(GRANTS)}")

    # --- the grants

    def _redeem_code(self, request: Request, client: Client, form: Mapping[str, str]) -> Response:
        value = form.get("code", "")
        code = self._store.code(value)
        if code is not None and code.client_id != client.client_id:
            code = None
        seen = self._admit(request, client, form, None if code is None else code.jkt)
        with self._nonce_on_refusal(form, seen):
            if code is None:
                raise self._unusable("code", value)
            if form.get("redirect_uri", code.redirect_uri) != code.redirect_uri:
                raise _invalid_grant("redirect_uri_mismatch", "redirect_uri is not that of the authorization request")
            _check_pkce(code, form.get("code_verifier"))
            if not self._store.use_up(value):
                raise self._unusable("code", value)
            refresh = self._new_refresh_token(client, code.sub, code.scope, code.grant, seen)
            return self._tokens(
                form, client, seen, refresh, code.scope, tell_refresh_token=True, login={"nonce": code.nonce}
            )

    def _refresh(self, request: Request, client: Client, form: Mapping[str, str]) -> Response:
        value = form.get("refresh_token", "")
        token = self._store.refresh_token(value)
        if token is not None and token.client_id != client.client_id:
            token = None
        seen = self._admit(request, client, form, None if token is None else token.jkt)
        with self._nonce_on_refusal(form, seen):
            if token is None:
                raise self._unusable("refresh_token", value)
            scope = form.get("scope", token.scope)
            if not set(scope.split()) <= set(token.scope.split()):
                raise InvalidProof("invalid_scope", "scope_exceeded", "more scopes than the user granted")
            rotate = self._levers.rotate_refresh_tokens
            if rotate:
                if not self._store.use_up(value):
                    raise self._unusable("refresh_token", value)
                token = replace(token, value=secrets.token_urlsafe(32))
                self._store.add_refresh_token(token)
            return self._tokens(form, client, seen, token, scope, tell_refresh_token=rotate, login={})

    def _client_credentials(self, request: Request, client: Client, form: Mapping[str, str]) -> Response:
        if not client.confidential:
            raise InvalidProof(
                "unauthorized_client", "client_is_public", "client_credentials needs a client with a secret"
            )
        seen = self._admit(request, client, form, None)
        scope = granted(form.get("scope", _DEFAULT_SCOPE), self._levers.granted_scope)
        owner = RefreshToken("", client.client_id, client.client_id, scope, new_grant())
        return self._tokens(form, client, seen, owner, scope, tell_refresh_token=False)

    def _device(self, request: Request, client: Client, form: Mapping[str, str]) -> Response:
        """Respond to a device whose user has agreed (RFC 8628 §3.4)."""
        seen = self._admit(request, client, form, None)
        with self._nonce_on_refusal(form, seen):
            code = poll(self._deployment, client, form)
            refresh = self._new_refresh_token(client, "alice", code.scope, code.grant, seen)
            return self._tokens(form, client, seen, refresh, code.scope, tell_refresh_token=True, login={})

    def _exchange(self, request: Request, client: Client, form: Mapping[str, str]) -> Response:
        """Exchange an access token of this server for one that is bound to the key of this proof (RFC 8693)."""
        seen = self._admit(request, client, form, None)
        with self._nonce_on_refusal(form, seen):
            if form.get("subject_token_type") not in {_SUBJECT, "urn:ietf:params:oauth:token-type:jwt"}:
                raise InvalidProof("invalid_request", "subject_token_type", f"subject_token_type must be {_SUBJECT}")
            subject = self._store.access_token(form.get("subject_token", ""))
            if subject is None:
                raise InvalidProof("invalid_request", "subject_token", "the subject_token is unknown or expired")
            scope = form.get("scope", subject.scope)
            if not set(scope.split()) <= set(subject.scope.split()):
                raise InvalidProof("invalid_scope", "scope_exceeded", "more scopes than the subject_token has")
            owner = RefreshToken("", client.client_id, subject.sub, scope, subject.grant)
            return self._tokens(form, client, seen, owner, scope, issued_token_type=_SUBJECT)

    def _assertion(self, request: Request, client: Client, form: Mapping[str, str]) -> Response:
        """Take an assertion that :meth:`dpop.testing.DPoPTestServer.issue_assertion` made (RFC 7523 §2.1)."""
        seen = self._admit(request, client, form, None)
        with self._nonce_on_refusal(form, seen):
            claims = self._deployment.signer.verified(form.get("assertion", ""))
            if claims is None:
                raise _invalid_grant("assertion_unknown", "the assertion is not one of server.issue_assertion()")
            audience, expires_at = claims.get("aud"), claims.get("exp")
            if audience not in {self._deployment.origin, self._url}:
                raise _invalid_grant("assertion_audience", "the assertion is for another server")
            if not isinstance(expires_at, int) or expires_at <= self._deployment.clock():
                raise _invalid_grant("assertion_expired", "the assertion has expired")
            scope = granted(form.get("scope", _DEFAULT_SCOPE), self._levers.granted_scope)
            owner = RefreshToken("", client.client_id, str(claims.get("sub")), scope, new_grant())
            return self._tokens(form, client, seen, owner, scope)

    # --- proofs

    def _gate(self, form: Mapping[str, str]) -> Gate:
        """The gate whose nonces this request uses."""
        isolated = self._levers.isolate_exchange_nonces and _is_exchange(form)
        return self._exchange_gate if isolated else self._as_gate

    def _admit(
        self, request: Request, client: Client, form: Mapping[str, str], bound_jkt: str | None
    ) -> VerifiedProof | None:
        """Verify the proof of the request; None if it has none and needs none."""
        if not (request.fields("DPoP") or bound_jkt or self._levers.require_proof):
            return None
        gate = self._gate(form)
        optional = not self._deployment.asks_for_nonces(client)
        if _is_exchange(form) and self._behaviour.exchange_nonce == "optional":
            optional = optional or not self._levers.exchange_needs_nonce
        # The verifier remembers a jti only with a valid nonce, so a retry may repeat the jti of the code.
        seen = gate.verify_token_request(request, self._url, bound_jkt=bound_jkt, nonce_optional=optional)
        if _is_exchange(form) and self._deployment.profile.code_jti:
            with self._nonce_on_refusal(form, seen):
                _check_jti(seen, form.get("code", ""))
        return seen

    def _cnf(self, seen: VerifiedProof | None) -> Mapping[str, object] | None:
        """Return the confirmation claim of the access token (RFC 9449 §6)."""
        return {"jkt": seen.jkt} if seen is not None and self._levers.bound_tokens else None

    def _binds_refresh_token(self, client: Client) -> bool:
        return self._levers.bind_refresh_tokens == "always" or not client.confidential

    # --- the response

    def _tokens(
        self,
        form: Mapping[str, str],
        client: Client,
        seen: VerifiedProof | None,
        source: RefreshToken,
        scope: str,
        *,
        tell_refresh_token: bool = False,
        issued_token_type: str | None = None,
        login: Mapping[str, object] | None = None,
    ) -> Response:
        """Make the response.

        :param login: claims of the ID token, if a user has logged in; one is made where the scope has ``openid``.
        """
        now, lifetime = self._deployment.clock(), self._levers.token_lifetime
        cnf = self._cnf(seen)
        value = self._deployment.signer.value(
            self._deployment.origin,
            client_id=client.client_id,
            sub=source.sub,
            scope=scope,
            issued_at=now,
            expires_at=now + lifetime,
            cnf=cnf,
        )
        access = AccessToken(value, client.client_id, source.sub, scope, source.grant, now, now + lifetime, cnf)
        self._store.add_access_token(access)
        members: dict[str, object] = {
            "access_token": access.value,
            "token_type": "Bearer" if access.cnf is None else "DPoP",
            "expires_in": lifetime,
            "scope": scope,
        }
        if login is not None and "openid" in scope.split():
            members["id_token"] = self._id_token(client, access, login)
        if issued_token_type is not None:
            members["issued_token_type"] = issued_token_type
        if tell_refresh_token and self._may_refresh(client):
            members["refresh_token"] = source.value
            if source.expires_at is not None:
                members["refresh_token_expires_in"] = max(0, int(source.expires_at - now))
        if not self._behaviour.says_scope:
            del members["scope"]
        if self._behaviour.says_sub:
            members["sub"] = source.sub
        nonce = self._gate(form).nonce_after(seen) if self._deployment.asks_for_nonces(client) else []
        return json_response(200, members, nonce)

    def _id_token(self, client: Client, access: AccessToken, login: Mapping[str, object]) -> str:
        """An ID token (OpenID Connect Core §2, §3.1.3.6)."""
        half = hashlib.sha256(access.value.encode("ascii")).digest()[:16]
        claims = {
            "iss": self._deployment.origin,
            "aud": client.client_id,
            "sub": access.sub,
            "iat": int(access.issued_at),
            "exp": int(access.expires_at),
            "at_hash": b64url_encode(half),
            **login,
        }
        return self._deployment.signer.sign("JWT", {name: value for name, value in claims.items() if value is not None})

    def _new_refresh_token(
        self, client: Client, sub: str, scope: str, grant: str, seen: VerifiedProof | None
    ) -> RefreshToken:
        seconds = self._levers.refresh_token_expires_in
        token = RefreshToken(
            secrets.token_urlsafe(32),
            client.client_id,
            sub,
            scope,
            grant,
            seen.jkt if seen is not None and self._binds_refresh_token(client) else None,
            None if seconds is None else self._deployment.clock() + seconds,
        )
        if self._may_refresh(client):
            self._store.add_refresh_token(token)
        return token

    def _may_refresh(self, client: Client) -> bool:
        return client.confidential or self._behaviour.refresh_tokens_for == "all"

    @contextmanager
    def _nonce_on_refusal(self, form: Mapping[str, str], seen: VerifiedProof | None) -> Iterator[None]:
        """Issue the next nonce even with a refusal, because the proof used up its nonce (RFC 9449 §8)."""
        try:
            yield
        except InvalidProof as error:
            if error.nonce is None:
                fields = dict(self._gate(form).nonce_after(seen))
                error.nonce = fields.get("DPoP-Nonce")
            raise

    def _unusable(self, what: str, value: str) -> InvalidProof:
        if self._store.revoke_if_used_before(value):
            return _invalid_grant(
                f"{what}_reused", f"the {what} was used before; all tokens of its grant are revoked now"
            )
        return _invalid_grant(f"{what}_unknown", f"the {what} is unknown, expired, revoked or another client's")


def _is_exchange(form: Mapping[str, str]) -> bool:
    return form.get("grant_type") == "authorization_code"


def _check_jti(seen: VerifiedProof, code: str) -> None:
    """Check that the ``jti`` of a code exchange is made from the code, as Google's is."""
    try:
        expected = code_jti(code)
    except CredentialError:
        raise InvalidProof("invalid_grant", "code_unknown", "the code is missing or malformed") from None
    if not hmac.compare_digest(expected.encode(), seen.jti.encode("utf-8", "surrogatepass")):
        raise InvalidProof(
            "invalid_dpop_proof",
            "code_jti_mismatch",
            "the jti is not BASE64URL(SHA256(code)); hash the decoded code, not its form-encoded spelling",
        )


def _check_pkce(code: Code, verifier: str | None) -> None:
    """Check with PKCE that the client that requested the code redeems it (RFC 7636 §4.6)."""
    if code.code_challenge is None:
        return
    if verifier is None:
        raise _invalid_grant("code_verifier_missing", "code_verifier is missing")
    challenge = b64url_encode(hashlib.sha256(verifier.encode()).digest())
    if not hmac.compare_digest(challenge, code.code_challenge):
        raise _invalid_grant("code_verifier_mismatch", "code_verifier does not match the code_challenge")


def _invalid_grant(reason: str, detail: str) -> InvalidProof:
    return InvalidProof("invalid_grant", reason, detail)
