# SPDX-License-Identifier: Apache-2.0
"""Authorization requests: PKCE, state, and what comes back (RFC 6749 §4.1, RFC 7636, RFC 9126, RFC 9207).

A request is made here and sent by a browser; no I/O.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from dpop.encoding import b64url_encode
from dpop.errors import ReauthorizationError, TokenAnswerError, TokenRefusedError, UsageError

__all__ = ["AuthorizationRequest", "new_authorization_request", "pushed"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:|[/?]")
_OURS = frozenset({"response_type", "client_id", "redirect_uri", "state", "code_challenge", "code_challenge_method"})


@dataclass(frozen=True, slots=True, repr=False)
class AuthorizationRequest:
    """One authorization request: send the user to :attr:`url`, keep the rest until they come back.

    :param url: for the browser.
    :param state: comes back with the answer, and ties it to this request.
    :param code_verifier: proves at the token endpoint that the code was asked for here. A secret.
    """

    url: str
    redirect_uri: str
    state: str
    code_verifier: str

    def __repr__(self) -> str:
        return f"<AuthorizationRequest to {self.url.partition('?')[0]}>"

    def code_of(self, callback: str, *, issuer: str | None = None, iss_required: bool = False) -> str:
        """The code in the URL, or query, that the user came back with.

        :param issuer: of the server that was asked (RFC 9207 §2.4).
        :param iss_required: the server always sends ``iss``.
        :raises TokenAnswerError: it is not the answer to this request, or another server's.
        :raises ReauthorizationError: the user said no.
        :raises TokenRefusedError: the server did.
        """
        try:
            query = urlsplit(callback).query if _URL.match(callback) else callback
            pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50)
        except ValueError:
            raise TokenAnswerError(
                "what came back is no URL, or has too many parameters; the answer is not used"
            ) from None
        answer = dict(pairs)
        if len(answer) != len(pairs):
            raise TokenAnswerError("a parameter came back twice; the answer is not used")
        if not hmac.compare_digest(answer.get("state", "").encode("utf-8", "replace"), self.state.encode()):
            raise TokenAnswerError("the state that came back is not that of this request; the answer is not used")
        iss = answer.get("iss")
        if issuer is not None and (iss is not None or iss_required) and iss != issuer:
            raise TokenAnswerError("the answer is not that of the server that was asked: its iss differs")
        error = answer.get("error")
        if error is not None:
            shown = "".join(c for c in f"{error}: {answer.get('error_description', '')}" if c.isprintable())[:300]
            kind = ReauthorizationError if error == "access_denied" else TokenRefusedError
            raise kind(f"the authorization server says {shown}", error=error)
        code = answer.get("code")
        if not code:
            raise TokenAnswerError("neither a code nor an error came back")
        return code


def new_authorization_request(
    endpoint: str, client_id: str, redirect_uri: str, more: list[tuple[str, str]]
) -> tuple[AuthorizationRequest, list[tuple[str, str]]]:
    """A request with fresh ``state`` and PKCE verifier, and its parameters without ``client_id``.

    :raises UsageError: ``more`` sets what is set here.
    """
    taken = sorted(_OURS & {name for name, _ in more})
    if taken:
        raise UsageError(f"{', '.join(taken)} cannot be given: the authorization request sets it itself")
    state, verifier = secrets.token_urlsafe(24), secrets.token_urlsafe(48)
    parameters = [
        ("response_type", "code"),
        ("redirect_uri", redirect_uri),
        ("state", state),
        ("code_challenge", b64url_encode(hashlib.sha256(verifier.encode("ascii")).digest())),
        ("code_challenge_method", "S256"),
        *more,
    ]
    url = _with_query(endpoint, [("client_id", client_id), *parameters])
    return AuthorizationRequest(url, redirect_uri, state, verifier), parameters


def pushed(
    request: AuthorizationRequest, endpoint: str, client_id: str, answer: Mapping[str, Any]
) -> AuthorizationRequest:
    """The same request, by the ``request_uri`` it was given when it was pushed (RFC 9126 §4)."""
    uri = answer.get("request_uri")
    if not isinstance(uri, str) or not uri:
        raise TokenAnswerError("the answer to the pushed authorization request has no request_uri")
    return replace(request, url=_with_query(endpoint, [("client_id", client_id), ("request_uri", uri)]))


def _with_query(endpoint: str, pairs: list[tuple[str, str]]) -> str:
    return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(pairs)}"
