# SPDX-License-Identifier: Apache-2.0
"""Cases of whole requests: the response of a server, and what a client does with a response."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from case import LIMITS, NOW

from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import A, B, ECKey, Members, b64u, sha256, thumbprint

ORIGIN = "https://server.example.com"
RESOURCE = f"{ORIGIN}/resource"
TOKEN_URL = f"{ORIGIN}/token"
PAR_URL = f"{ORIGIN}/par"
JKT = thumbprint(A.public_jwk)
NONCE = "Nonce-of-AS.1"
CLIENT = "client-public"

TOKENS: dict[str, Members] = {
    "token.bound": {"cnf": {"jkt": JKT}},
    "token.unbound": {},
    "token.expired": {"cnf": {"jkt": JKT}, "expires_at": NOW - 1},
    "token.revoked": {"cnf": {"jkt": JKT}, "revoked": True},
    "token.of-another-api": {"cnf": {"jkt": JKT}, "audience": "https://other.example.com"},
    "token.bound-to-a-certificate": {"cnf": {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"}},
    "token.bound-to-who-knows-what": {"cnf": {"future": "method"}},
    "token.jkt-padded": {"cnf": {"jkt": f"{JKT}="}},
    "token.jkt-number": {"cnf": {"jkt": 1}},
}
GRANTS: dict[str, Members] = {
    "refresh.bound": {"kind": "refresh_token", "jkt": JKT},
    "code.bound-by-par": {"kind": "code", "jkt": JKT},
    "code.unbound": {"kind": "code"},
}

ABOUT = [
    "Whole requests and the responses of a server; and what a client does with a response.",
    "now, limits, origin: of the server, which is resource and authorization server in one.",
    "tokens, grants: what it issued before, by value. All are of the client named, which has no secret.",
    "It serves Bearer tokens too, unless a case says otherwise; proofs need no nonce, unless nonces lists some.",
    "server: what else is special: scope or acr_values it asks for, a replay cache that cannot be reached,",
    "dpop_bound_access_tokens, as of the client's registration.",
    "steps: requests in this order to one server; headers as in proofs.json, body as it is sent.",
    "response: the status. challenges: one for each scheme in WWW-Authenticate, no others, with these parameters",
    "(null: not there; error_description, algs and more may be there besides). error: of the JSON body.",
    "token_type: of the token response. nonce: whether DPoP-Nonce comes along.",
    "also: other responses that are seen, as status and error code.",
    "role client: the request, the response to it, and next: the request to follow, null if there is none;",
    "whether that has a proof (a new one, which names it) and the token.",
]


def _proof(
    method: str, url: str, jti: str, key: ECKey = A, *, token: str | None = None, nonce: str | None = None
) -> str:
    return Draft(key, method, url, jti, NOW, token, nonce).proof()


def _challenges(**schemes: Members) -> list[Members]:
    return [{"scheme": scheme} | parameters for scheme, parameters in schemes.items()]


NO_ERROR: Members = {"error": None}
PLAIN = _challenges(Bearer=NO_ERROR, DPoP=NO_ERROR)


def _refused(error: str, **more: str) -> list[Members]:
    """The error in the DPoP challenge, for that is the scheme that was tried."""
    return _challenges(Bearer=NO_ERROR, DPoP={"error": error, **more})


def _resource(
    case_id: str,
    status: int,
    challenges: list[Members] | None = None,
    note: str = "",
    *,
    authorization: tuple[str, ...] = (),
    proof_of: str | None = None,
    query: str = "",
    form: Members | None = None,
    server: Members | None = None,
    also: tuple[str, ...] = (),
    error: str | None = None,
) -> Members:
    """A request for the resource.

    :param proof_of: the token the proof is for; empty for a proof without ath.
    """
    method = "GET" if form is None else "POST"
    fields = [["Authorization", value] for value in authorization]
    if proof_of is not None:
        fields.append(["DPoP", _proof(method, RESOURCE, case_id, token=proof_of or None)])
    if form is not None:
        fields.append(["Content-Type", "application/x-www-form-urlencoded"])
    response: Members = {"status": status}
    if challenges is not None:
        response["challenges"] = challenges
    if error is not None:
        response["error"] = error
    request = {"method": method, "url": RESOURCE + query, "headers": fields, "body": urlencode(form or {})}
    return _case(case_id, "RS", note, server, also, steps=[{"request": request, "response": response}])


def _case(
    case_id: str, role: str, note: str, server: Members | None = None, also: tuple[str, ...] = (), **rest: Any
) -> Members:
    optional = {"note": note, "server": server, "also": list(also)}
    return {"id": case_id, "role": role} | {name: value for name, value in optional.items() if value} | rest


def resource_server() -> list[Members]:
    """The responses of a resource server (RFC 9449 7, RFC 6750 3, RFC 9470 3)."""
    bound, unbound = "token.bound", "token.unbound"

    def bad_token(case_id: str, token: str, note: str = "", also: tuple[str, ...] = ()) -> Members:
        return _resource(
            case_id, 401, _refused("invalid_token"), note, authorization=(f"DPoP {token}",), proof_of=token, also=also
        )

    as_bearer = _challenges(Bearer={"error": "invalid_token"}, DPoP=NO_ERROR)
    both = _challenges(Bearer={"error": "invalid_request"}, DPoP={"error": "invalid_request"})
    return [
        _resource("rs-no-credentials", 401, PLAIN, "RFC 9449 7.2: no error where nothing was tried"),
        _resource("rs-proof-alone", 401, PLAIN, "a proof alone is nothing", proof_of=""),
        _resource("rs-bound", 200, authorization=(f"DPoP {bound}",), proof_of=bound),
        _resource("rs-scheme-in-lower-case", 200, authorization=(f"dpop {bound}",), proof_of=bound),
        _resource("rs-two-spaces", 200, note="RFC 9449 7.1: 1*SP", authorization=(f"DPoP  {bound}",), proof_of=bound),
        _resource("rs-bearer", 200, authorization=(f"Bearer {unbound}",)),
        _resource("rs-no-proof", 401, _refused("invalid_dpop_proof"), authorization=(f"DPoP {bound}",)),
        _resource(
            "rs-no-token-behind-scheme",
            401,
            _refused("invalid_token"),
            authorization=("DPoP",),
            proof_of="",
            also=("400 invalid_request",),
        ),
        _resource(
            "rs-two-tokens",
            401,
            _refused("invalid_token"),
            authorization=(f"DPoP {bound} {bound}",),
            proof_of=bound,
            also=("400 invalid_request",),
        ),
        _resource("rs-bound-as-bearer", 401, as_bearer, "RFC 9449 7.2", authorization=(f"Bearer {bound}",)),
        _resource("rs-bound-as-bearer-with-proof", 401, as_bearer, authorization=(f"Bearer {bound}",), proof_of=bound),
        _resource(
            "rs-two-schemes",
            400,
            both,
            "RFC 9449 Figure 19",
            authorization=(f"Bearer {unbound}", f"DPoP {bound}"),
            proof_of=bound,
        ),
        bad_token("rs-unbound-as-dpop", unbound),
        _resource(
            "rs-bearer-with-stray-proof",
            400,
            _challenges(Bearer={"error": "invalid_request"}, DPoP=NO_ERROR),
            "a client must never do it",
            authorization=(f"Bearer {unbound}",),
            proof_of=unbound,
            also=("200", "401 invalid_token"),
        ),
        _resource(
            "rs-token-in-query",
            400,
            _refused("invalid_request"),
            authorization=(f"DPoP {bound}",),
            proof_of=bound,
            query=f"?access_token={bound}",
        ),
        _resource(
            "rs-token-in-body",
            400,
            _refused("invalid_request"),
            authorization=(f"DPoP {bound}",),
            proof_of=bound,
            form={"access_token": bound},
        ),
        bad_token("rs-expired", "token.expired"),
        bad_token("rs-revoked", "token.revoked"),
        bad_token("rs-other-audience", "token.of-another-api"),
        bad_token("rs-never-issued", "token.nobody-knows"),
        _resource(
            "rs-scope",
            403,
            _refused("insufficient_scope", scope="write"),
            authorization=(f"DPoP {bound}",),
            proof_of=bound,
            server={"scope": "write"},
        ),
        bad_token("rs-bound-to-a-certificate", "token.bound-to-a-certificate"),
        _resource(
            "rs-bound-to-who-knows-what-as-bearer",
            401,
            as_bearer,
            "what is not understood is not let in",
            authorization=("Bearer token.bound-to-who-knows-what",),
        ),
        bad_token("rs-jkt-padded", "token.jkt-padded", "the issuer's fault: log it"),
        bad_token("rs-jkt-number", "token.jkt-number", "the issuer's fault: log it"),
        _resource(
            "rs-step-up",
            401,
            _refused("insufficient_user_authentication", acr_values="urn:example:strong", max_age="300"),
            "RFC 9470 3",
            authorization=(f"DPoP {bound}",),
            proof_of=bound,
            server={"acr_values": "urn:example:strong", "max_age": "300"},
        ),
        _resource(
            "rs-replay-cache-down",
            503,
            note="never silently open",
            authorization=(f"DPoP {bound}",),
            proof_of=bound,
            server={"replay_cache": "down"},
            also=("401 invalid_dpop_proof",),
        ),
    ]


def _post(url: str, form: Members, proof: str | None) -> Members:
    fields = [["Content-Type", "application/x-www-form-urlencoded"], *([] if proof is None else [["DPoP", proof]])]
    return {"method": "POST", "url": url, "headers": fields, "body": urlencode({"client_id": CLIENT} | form)}


def _token(
    case_id: str,
    form: Members,
    proof: str | None,
    response: Members,
    note: str = "",
    *,
    also: tuple[str, ...] = (),
    server: Members | None = None,
    url: str = TOKEN_URL,
) -> Members:
    steps = [{"request": _post(url, form, proof), "response": response}]
    return _case(case_id, "AS", note, server, also, steps=steps)


def authorization_server() -> list[Members]:
    """The responses of an authorization server (RFC 9449 5, 8, 10, RFC 6749 5.2)."""
    refresh = {"grant_type": "refresh_token", "refresh_token": "refresh.bound"}
    by_par = {"grant_type": "authorization_code", "code": "code.bound-by-par"}
    unbound = {"grant_type": "authorization_code", "code": "code.unbound"}
    pushed = {"response_type": "code", "redirect_uri": "https://client.example.com/cb", "dpop_jkt": JKT} | {
        "code_challenge": b64u(sha256(b"a code verifier of the vectors, 43 characters or more")),
        "code_challenge_method": "S256",
    }
    invalid_grant: Members = {"status": 400, "error": "invalid_grant"}
    invalid_proof: Members = {"status": 400, "error": "invalid_dpop_proof"}
    bound: Members = {"status": 200, "token_type": "DPoP"}

    def by(key: ECKey, jti: str, url: str = TOKEN_URL, nonce: str | None = None) -> str:
        return _proof("POST", url, jti, key, nonce=nonce)

    forged = (honest := Draft(A, "POST", TOKEN_URL, "as-forged", NOW)).proof(claims=honest.claims(), pen=B.sign)
    lost = "as-challenge-spares-the-code"
    return [
        _token("as-refresh", refresh, by(A, "as-refresh"), bound),
        _token(
            "as-refresh-without-proof",
            refresh,
            None,
            invalid_grant,
            also=("400 invalid_dpop_proof",),
        ),
        _token(
            "as-refresh-by-another-key",
            refresh,
            by(B, "as-refresh-by-another-key"),
            invalid_grant,
            also=("400 invalid_dpop_proof",),
        ),
        _token("as-par", pushed, by(A, "as-par", PAR_URL), {"status": 201}, url=PAR_URL),
        _token(
            "as-par-two-keys",
            pushed,
            by(B, "as-par-two-keys", PAR_URL),
            invalid_proof,
            "RFC 9449 10.1: dpop_jkt is another key's",
            also=("400 invalid_request",),
            url=PAR_URL,
        ),
        _token(
            "as-par-proof-for-token-endpoint",
            pushed,
            by(A, "as-par-proof-for-token-endpoint"),
            invalid_proof,
            url=PAR_URL,
        ),
        _token(
            "as-code-bound-by-par", by_par, by(A, "as-code-bound-by-par"), bound, "its request was pushed with a proof"
        ),
        _token("as-code-bound-by-par-without-proof", by_par, None, invalid_grant, also=("400 invalid_dpop_proof",)),
        _token(
            "as-code-bound-by-par-other-key",
            by_par,
            by(B, "as-code-bound-by-par-other-key"),
            invalid_grant,
            also=("400 invalid_dpop_proof", "400 invalid_request"),
        ),
        _token(
            "as-forged-and-no-nonce",
            unbound,
            forged,
            invalid_proof,
            "the signature first: no challenge for a key that is not proved",
            server={"nonces": [NONCE]},
        ),
        _case(
            lost,
            "AS",
            "use_dpop_nonce uses nothing up",
            {"nonces": [NONCE]},
            steps=[
                {
                    "request": _post(TOKEN_URL, unbound, by(A, f"{lost}-1")),
                    "response": {"status": 400, "error": "use_dpop_nonce", "nonce": True},
                },
                {"request": _post(TOKEN_URL, unbound, by(A, f"{lost}-2", nonce=NONCE)), "response": bound},
            ],
        ),
        _token("as-no-proof-asked-for", unbound, None, {"status": 200, "token_type": "Bearer"}),
        _token(
            "as-no-proof-though-registered",
            unbound,
            None,
            invalid_proof,
            "RFC 9449 5.2",
            server={"dpop_bound_access_tokens": True},
            also=("400 invalid_request", "400 invalid_grant"),
        ),
    ]


def client() -> list[Members]:
    """The next request of a client after a response (RFC 9449 7.1, 7.3; RFC 9110 15.4)."""
    request = {"method": "GET", "url": RESOURCE, "access_token": "token.bound"}

    def after(case_id: str, status: int, headers: list[list[str]], then: Members | None, note: str = "") -> Members:
        response = {"status": status, "headers": headers}
        return _case(case_id, "client", note, request=request, response=response, next=then)

    challenge = 'DPoP error="use_dpop_nonce", algs="ES256"'
    return [
        after(
            "client-challenged",
            401,
            [["WWW-Authenticate", challenge], ["DPoP-Nonce", "n-1"]],
            {"method": "GET", "url": RESOURCE, "proof": True, "token": True, "nonce": "n-1"},
        ),
        after(
            "client-challenged-by-a-proxy",
            407,
            [["Proxy-Authenticate", challenge], ["DPoP-Nonce", "n-1"]],
            None,
            "RFC 9449 7.1: never in Proxy-Authorization",
        ),
        *(
            after(
                f"client-redirected-{status}",
                status,
                [["Location", f"{ORIGIN}/resource/2"]],
                {"method": "GET", "url": f"{ORIGIN}/resource/2", "proof": True, "token": True},
            )
            for status in (302, 307, 308)
        ),
        after(
            "client-redirected-elsewhere",
            307,
            [["Location", "https://other.example.com/resource"]],
            {"method": "GET", "url": "https://other.example.com/resource", "proof": False, "token": False},
            "neither the token nor the old proof",
        ),
        after("client-invalid-token", 401, [["WWW-Authenticate", 'DPoP error="invalid_token"']], None),
    ]


def responses() -> dict[str, Any]:
    """The file responses.json."""
    return {
        "about": ABOUT,
        "now": NOW,
        "limits": LIMITS,
        "origin": ORIGIN,
        "client_id": CLIENT,
        "tokens": TOKENS,
        "grants": GRANTS,
        "cases": [*resource_server(), *authorization_server(), *client()],
    }
