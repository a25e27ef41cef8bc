# SPDX-License-Identifier: Apache-2.0
"""The resource server: an API that echoes each authorised request (RFC 9449 §7)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple
from urllib.parse import parse_qs

from dpop.client import Role
from dpop.errors import InvalidProof, ReplayCacheError
from dpop.server import Reason, VerifiedProof, resource_challenge
from dpop.server._credentials import read_credentials, read_scheme
from dpop.server._reasons import refuse
from dpop.testing._deployment import Deployment, refused_as
from dpop.testing._gate import Gate
from dpop.testing._messages import NO_STORE, Request, Response, json_response
from dpop.testing._store import AccessToken

__all__ = ["ResourceServer"]

_Tried = Literal["DPoP", "Bearer", "both"]

_MAX_CHUNKS = 1_000
_MAX_CHUNK = 65_536
_HELD_SECONDS = 30.0


class _Admission(NamedTuple):
    """The access token of an admitted request, and its verified proof if it has one."""

    token: AccessToken
    seen: VerifiedProof | None


class ResourceServer:
    """Responds to requests for ``/resource`` and all paths below it.

    It acts as the server's profile says; some APIs, like Google's, know bearer tokens only.
    """

    def __init__(self, deployment: Deployment, gate: Gate) -> None:
        self._deployment = deployment
        self._gate = gate
        self._behaviour = deployment.behaviour
        self._takes_proofs = self._behaviour.api_takes_proofs

    def respond(self, request: Request) -> Response:
        """Respond 200 with an echo of the request, or with a challenge."""
        tried: _Tried = read_scheme(request.headers) or ("DPoP" if self._takes_proofs else "Bearer")
        try:
            credentials = read_credentials(request.headers, request.query)
            _refuse_token_in_form(request)
            if credentials is None:
                return self._challenge(request)
            if credentials.scheme == "DPoP":
                self._check_spelling(request)
                admission = self._admit_bound(request, credentials.token)
            else:
                admission = self._admit_bearer(request, credentials.token)
            self._check_scope(admission)
        except InvalidProof as error:
            return self._refusal(request, error, tried)
        except ReplayCacheError:
            return json_response(503, {"error": "temporarily_unavailable"}, [("Retry-After", "1")])
        return self._serve(request, admission)

    # --- admission

    def _admit_bound(self, request: Request, token: str) -> _Admission:
        """Admit ``Authorization: DPoP``: an active token, and a proof by the key it is bound to."""
        if not self._takes_proofs:
            raise InvalidProof("invalid_token", "scheme_refused", "this API takes bearer tokens only")
        record = self._active(request, token)
        url = self._deployment.url(request.path)
        seen = self._gate.verify_resource(request, url, access_token=token, bound_jkt=record.bound_jkt)
        return _Admission(record, seen)

    def _admit_bearer(self, request: Request, token: str) -> _Admission:
        """Admit ``Authorization: Bearer``: an active token that is not bound to a key (RFC 9449 §7.2)."""
        record = self._active(request, token)
        if record.cnf is not None:
            raise refuse(Reason.BOUND_TOKEN_AS_BEARER, error=self._behaviour.api_bound_as_bearer)
        if request.fields("DPoP"):
            raise refuse(Reason.PROOF_WITH_BEARER, error="invalid_request")
        return _Admission(record, None)

    def _active(self, request: Request, token: str) -> AccessToken:
        record = self._deployment.store.access_token(token)
        if record is None:
            raise refuse(Reason.TOKEN_INACTIVE, error="invalid_token")
        self._deployment.refuse_by_lever(Role.RS, request, self._gate)
        return record

    def _check_spelling(self, request: Request) -> None:
        """Some servers compare the scheme with its case (against RFC 9110 §11.1)."""
        if self._behaviour.scheme_exact and not request.fields("Authorization")[0].lstrip().startswith("DPoP "):
            raise InvalidProof("invalid_token", "scheme_case", "this server reads the scheme in the spelling DPoP only")

    def _check_scope(self, admission: _Admission) -> None:
        required = self._deployment.levers.required_scope
        if required is None or set(required.split()) <= set(admission.token.scope.split()):
            return
        nonce = dict(self._gate.nonce_after(admission.seen)).get("DPoP-Nonce")
        raise InvalidProof("insufficient_scope", "scope", "the token lacks a scope", expected=required, nonce=nonce)

    # --- the responses

    def _serve(self, request: Request, admission: _Admission) -> Response:
        nonce = self._gate.nonce_after(admission.seen)
        if request.path == "/resource/stream":
            headers = [("Content-Type", "application/octet-stream"), NO_STORE, *nonce]
            return Response(200, headers, self._stream(request))
        members: dict[str, object] = {
            "method": request.method,
            "path": request.path,
            "body_length": request.body_length,
            "body_sha256": request.body_sha256,
            "sub": admission.token.sub,
            "scope": admission.token.scope,
            "scheme": "Bearer" if admission.seen is None else "DPoP",
        }
        if admission.seen is not None:
            members["jkt"] = admission.seen.jkt
        return json_response(200, members, nonce)

    def _stream(self, request: Request) -> Iterator[bytes]:
        """Stream ``chunks`` chunks of ``size`` bytes (``?chunks=3&size=1000``), the first at once."""
        asked = parse_qs(request.query)
        chunks = _number(asked.get("chunks"), 3, _MAX_CHUNKS)
        size = _number(asked.get("size"), 1000, _MAX_CHUNK)
        for number in range(chunks):
            if number == 1:
                self._deployment.levers.wait_for_streams(_HELD_SECONDS)
            yield b"%06d" % number + b"." * (size - 6)

    def _challenge(self, request: Request) -> Response:
        """Challenge a request without credentials: name the schemes, and no error (RFC 9449 §7.1)."""
        alone = bool(request.fields("DPoP"))
        error = InvalidProof(
            "",
            "proof_without_token" if alone else "no_credentials",
            "there is a proof, but no token" if alone else "the request has no credentials",
        )
        self._deployment.journal.refused("resource", request, error, bare=True)
        status, headers = resource_challenge(
            None, algs=self._gate.algs, bearer=self._takes_bearer, parameters=self._metadata_parameter()
        )
        # A client sends a proof without a token to get a nonce; any response may carry one.
        nonce = self._gate.fresh_nonce()
        if nonce is not None:
            headers.append(("DPoP-Nonce", nonce))
        return Response(status, self._schemes(headers))

    def _refusal(self, request: Request, error: InvalidProof, tried: _Tried) -> Response:
        if error.reason == Reason.KEY_MISMATCH and self._behaviour.api_wrong_key != error.error:
            error = refused_as(error, self._behaviour.api_wrong_key)
        self._deployment.journal.refused("resource", request, error)
        parameters = self._metadata_parameter()
        if error.error == "insufficient_scope":
            parameters["scope"] = error.expected or ""
        status, headers = resource_challenge(
            error, algs=self._gate.algs, bearer=self._takes_bearer, tried=tried, parameters=parameters
        )
        if error.error in {"invalid_dpop_proof", "use_dpop_nonce"} or error.reason == Reason.KEY_MISMATCH:
            status = self._behaviour.api_status
        return Response(status, self._schemes(headers))

    @property
    def _takes_bearer(self) -> bool:
        levers = self._deployment.levers
        return not (self._takes_proofs and levers.bound_tokens and levers.require_proof)

    def _metadata_parameter(self) -> dict[str, str]:
        """Return the ``resource_metadata`` parameter of a challenge (RFC 9728 §5.1)."""
        return {"resource_metadata": self._deployment.url("/.well-known/oauth-protected-resource/resource")}

    def _schemes(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Drop the challenges for schemes that this server does not accept."""
        return [
            (name, value)
            for name, value in headers
            if self._takes_proofs or not (name == "WWW-Authenticate" and value.startswith("DPoP"))
        ]

    def metadata(self) -> Response:
        """Return the protected resource metadata (RFC 9728 §2)."""
        members: dict[str, object] = {
            "resource": self._deployment.url("/resource"),
            "authorization_servers": [self._deployment.origin],
            "bearer_methods_supported": ["header"],
        }
        if self._takes_proofs:
            members["dpop_signing_alg_values_supported"] = list(self._gate.algs)
            members["dpop_bound_access_tokens_required"] = not self._takes_bearer
        return json_response(200, members)


def _refuse_token_in_form(request: Request) -> None:
    """Refuse a token in a form (RFC 9700 §4.3.2)."""
    if "".join(request.fields("Content-Type")).lower().startswith("application/x-www-form-urlencoded"):
        source = request.body.decode("latin-1")
        if "access_token" in source and "access_token" in parse_qs(source):
            raise refuse(Reason.TOKEN_OUTSIDE_HEADER, error="invalid_request")


def _number(values: list[str] | None, default: int, highest: int) -> int:
    text = values[0] if values else ""
    return min(int(text), highest) if text.isascii() and text.isdigit() and len(text) < 10 else default
