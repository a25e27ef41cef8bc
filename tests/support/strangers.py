# SPDX-License-Identifier: Apache-2.0
"""What strangers can send to an API, and an API that is asked directly and behind each integration, without I/O."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

from dpop import asgi, wsgi
from dpop.errors import InvalidProof
from dpop.keys._public import PublicKey
from dpop.server import ProofVerifier
from dpop.server._resource import ProtectedResource, ResourceRequest
from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import A, b64u, make

__all__ = [
    "API_URL",
    "INTEGRATIONS",
    "NOW",
    "SIGNED",
    "THUMBPRINT",
    "UNSIGNED",
    "Fields",
    "Forgetful",
    "Once",
    "by_asgi",
    "directly",
    "honest",
    "large_rsa_key",
    "signed_by_a_stranger",
    "times_in_turn",
    "undisturbed",
]

NOW = 1_700_000_000


class Forgetful:
    """A replay cache that lets one proof be judged again and again."""

    def add(self, key: str, expires_at: float) -> bool:
        """Everything is new."""
        return True


async def _asgi_nothing(_scope: asgi.Scope, _receive: asgi.Receive, send: asgi.Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def _wsgi_nothing(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b""]


async def _no_body() -> asgi.Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _to_nobody(_message: asgi.Message) -> None: ...


API_URL = "https://a.example"
THUMBPRINT = PublicKey.from_jwk(Draft(A, "GET", API_URL, "j", NOW).header()["jwk"]).thumbprint
API = ProtectedResource(
    ProofVerifier(replay=Forgetful(), clock=lambda: NOW),
    url=API_URL,
    token=lambda _: {"cnf": {"jkt": THUMBPRINT}},
)
Fields = list[tuple[str, str]]
Once = Callable[[], object]


def directly(method: str, target: str, fields: Fields, api: ProtectedResource = API) -> Once:
    """A request put to the resource itself."""
    request = ResourceRequest(method, target, unquote(target.partition("?")[0], errors="replace"), fields)

    def call() -> None:
        try:
            if api.needs_token(request):
                api.admit(request)
        except InvalidProof as refused:
            api.refusal(request, refused)

    return call


def by_asgi(method: str, target: str, fields: Fields, api: ProtectedResource = API) -> Once:
    """A request as an ASGI server hands it over."""
    path, _, query = target.partition("?")
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(path, errors="replace"),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in fields],
    }
    app = asgi.DPoPMiddleware(_asgi_nothing, api)

    def call() -> None:
        with suppress(StopIteration):
            app(scope, _no_body, _to_nobody).send(None)

    return call


def by_wsgi(method: str, target: str, fields: Fields, api: ProtectedResource = API) -> Once:
    """A request as a WSGI server hands it over."""
    path, _, query = target.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "REQUEST_URI": target,
    } | {"HTTP_" + name.upper().replace("-", "_"): value for name, value in fields}
    app = wsgi.DPoPMiddleware(_wsgi_nothing, api)
    return lambda: app(environ, lambda *_: lambda _bytes: None)


INTEGRATIONS = {"directly": directly, "asgi": by_asgi, "wsgi": by_wsgi}


def times_in_turn(call: Once, other: Once, times: int) -> tuple[list[int], list[int]]:
    """Nanoseconds of this thread for single calls of both, in turn, so that neither finds its code in the caches."""
    taken: tuple[list[int], list[int]] = ([], [])
    for _ in range(times):
        for run, spent in zip((call, other), taken, strict=True):
            began = time.thread_time_ns()
            run()
            spent.append(time.thread_time_ns() - began)
    return taken


def undisturbed(times: list[int]) -> int:
    """The time that a tenth undercut. Not the least: the clock of a busy virtual machine can stand still for a call."""
    return sorted(times)[len(times) // 10]


def honest(*, token: str = "t", nonce: str | None = None) -> Fields:
    """The fields of a request for ``/x`` that is admitted."""
    proof = Draft(A, "GET", API_URL + "/x", "j", NOW, access_token=token, nonce=nonce).proof()
    return [("Authorization", f"DPoP {token}"), ("DPoP", proof)]


def of_header(header: bytes) -> str:
    """A proof with this header, whose signature is rubbish."""
    return make(header, b"{}", lambda _: b"s" * 64)


UNSIGNED: dict[str, tuple[str, Fields]] = {
    f"a query of {size} {what}": (f"/x?{(text * (size // len(text) + 1))[:size]}", [])
    for size in (4_000, 60_000)
    for what, text in {
        "escapes": "%61",
        "escaped names": "a%61=b&",
        "fields": "a&",
        "one escape": "%61" + "a" * 60_000,
        "almost tokens": "access_tokens&",
        "almost escaped tokens": "%61ccess_toke&",
        "tokens in values": "a=%26access_token%3D&",
        "signs": "=",
    }.items()
} | {
    "a path of escapes": ("/" + "%41" * 1_350, []),
    "a path of lower escapes": ("/" + "%e4%b8%ad" * 450, []),
    "a path of 60,000 escapes": ("/" + "%41" * 20_000, []),
    "a path of dot segments": ("/.." * 1_300, []),
    "a path of slashes": ("/" * 4_000, []),
    "a whole URL": ("http://" + "a" * 60_000, []),
    "escapes and a proof that is none": ("/" + "%41" * 1_350, [("Authorization", "DPoP t"), ("DPoP", "x")]),
    "a long field": ("/x", [("Authorization", "DPoP " + "a," * 30_000)]),
    "a long DPoP field": ("/x", [("Authorization", "DPoP t"), ("DPoP", "a." * 30_000)]),
    "many fields": ("/x", [(f"X-{number}", "x") for number in range(100)]),
    "a scheme of 60,000 characters": ("/x", [("Authorization", "x" * 60_000)]),
    "a header of nested arrays": ("/x", [("Authorization", "DPoP t"), ("DPoP", of_header(b'{"typ":' + b"[" * 2_000))]),
    "a header of nested objects": (
        "/x",
        [("Authorization", "DPoP t"), ("DPoP", of_header(b'{"typ":' + b'{"a":' * 300 + b"1" + b"}" * 301))],
    ),
    "a header of members": (
        "/x",
        [
            ("Authorization", "DPoP t"),
            ("DPoP", of_header(b'{"typ":1' + b"".join(b',"%03d":1' % i for i in range(360)) + b"}")),
        ],
    ),
    "a header of numbers": (
        "/x",
        [("Authorization", "DPoP t"), ("DPoP", of_header(b'{"typ":[1' + b",1" * 1_500 + b"]}"))],
    ),
    "a header that is too long": ("/x", [("Authorization", "DPoP t"), ("DPoP", of_header(b'{"typ":' + b"[" * 5_000))]),
    "a preflight for many fields": (
        "/x",
        [("Origin", "https://p.example"), ("Access-Control-Request-Headers", "a," * 30_000)],
    ),
    "cookies": ("/x", [("Cookie", "a=b;" * 15_000)]),
}


SIGNED: dict[str, tuple[str, str]] = {
    "a label of 250 characters": ("/x", "https://" + "\u00fc" * 250 + "/x"),
    "labels of CJK": ("/x", "https://" + ".".join(["\u4e2d" * 14] * 16) + "/x"),
    "four-byte characters": ("/x", API_URL + "/" + "\U0001f511" * 1_380),
    "two-byte characters": ("/x", API_URL + "/" + "\u00fc" * 2_700),
    "escapes": ("/x", API_URL + "/" + "%41" * 1_350),
    "lower escapes": ("/x", API_URL + "/" + "%e4" * 1_350),
    "escaped control characters": ("/x", API_URL + "/" + "%0a" * 1_350),
    "a few escaped control characters": ("/x", API_URL + "/" + "%0a" * 30 + "a" * 3_900),
    "dot segments": ("/x", API_URL + "/.." * 1_300),
    "dots and slashes": ("/x", API_URL + "/./" + "/" * 4_000),
    "escapes in both": ("/" + "%41" * 1_350, API_URL + "/" + "A" * 1_350),
    "escapes that differ": ("/" + "%e4" * 1_350, API_URL + "/" + "%E4" * 1_350),
}


def signed_by_a_stranger(what: str) -> tuple[str, Fields]:
    """Target and fields of a request of ``SIGNED``: a good signature, and a claim that fits no request."""
    target, claimed = SIGNED[what]
    honest_one = Draft(A, "GET", API_URL + "/x", "j", NOW, access_token="t")
    proof = make(honest_one.header(), honest_one.claims() | {"htu": claimed}, A.sign)
    return target, [("Authorization", "DPoP t"), ("DPoP", proof)]


def large_rsa_key(size: int, exponent: int) -> Fields:
    """The fields of a request whose proof has an RSA key of so many bits, and a signature that is rubbish."""
    n, e = b64u((2 ** (size - 1) + 1).to_bytes(size // 8)), b64u(exponent.to_bytes(4).lstrip(b"\0"))
    header = {"typ": "dpop+jwt", "alg": "RS256", "jwk": {"kty": "RSA", "n": n, "e": e}}
    return [("Authorization", "DPoP t"), ("DPoP", make(header, b"{}", lambda _: b"x" * (size // 8)))]
