# SPDX-License-Identifier: Apache-2.0
"""What a stranger sends costs time in proportion to its length, up to every cap and past it, and no memory for ever.

Time is this thread's own, the least of several runs, and only ratios of one run count: eight times the input may
take up to twenty times as long. What is quadratic takes sixty-four.
"""

from __future__ import annotations

import gc
import logging
import random
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from typing import cast

import pytest
from dpop_cli.wire.header_dump import last_nonce
from fuzz.targets import TARGETS
from support.jwt_issuer import JWTIssuer, forged
from support.strangers import (
    API_URL,
    INTEGRATIONS,
    NOW,
    SIGNED,
    UNSIGNED,
    Forgetful,
    Once,
    directly,
    honest,
    large_rsa_key,
    signed_by_a_stranger,
    times_in_turn,
    undisturbed,
)

from dpop import htu
from dpop.client._challenge import dpop_challenge, error_of_json, nonce_field
from dpop.client._clock import skew
from dpop.client._forgiving import error_in_pieces
from dpop.encoding import b64url_decode, json_object
from dpop.errors import DPoPError, InvalidProof
from dpop.keys._public import PublicKey
from dpop.keys.pkcs11._uri import Pkcs11Uri
from dpop.redaction import redact
from dpop.server import JWTAccessTokens, MemoryReplayCache, ProofVerifier, resource_challenge
from dpop.server._reasons import Reason, refuse
from dpop.server._resource import ProtectedResource, ResourceRequest
from dpop.signature import der_to_raw, raw_to_der
from dpop.testing.defects._draft import Draft
from dpop.testing.defects._forge import A, make
from dpop.tokens._authorization import AuthorizationRequest
from dpop.tokens._pieces import pieces_of

URL = "https://a.example/x"
ALLOWED = 20
# As if there were no caps: what is behind them must be no trap either.
UNCAPPED = ProofVerifier(
    replay=MemoryReplayCache(clock=lambda: NOW),
    clock=lambda: NOW,
    max_length=2**24,
    max_jti=2**24,
    max_htu=2**24,
    max_depth=500,
)
CAPPED = ProofVerifier(replay=MemoryReplayCache(clock=lambda: NOW), clock=lambda: NOW)

Make = Callable[[int], object]


def least_time(call: Callable[[object], object], argument: object) -> float:
    """Seconds of this thread for one call, the least of several."""
    times = 1
    while True:
        began = time.thread_time()
        for _ in range(times):
            with suppress(DPoPError):
                call(argument)
        spent = time.thread_time() - began
        if spent > 0.002:
            break
        times *= 4
    best = spent / times
    for _ in range(4 if spent < 0.5 else 0):
        began = time.thread_time()
        for _ in range(times):
            with suppress(DPoPError):
                call(argument)
        best = min(best, (time.thread_time() - began) / times)
    return best


def assert_linear(call: Callable[[object], object], of_size: Make, size: int) -> None:
    """From an eighth of the size to the size."""
    small, large = of_size(size // 8), of_size(size)
    ratio = 0.0
    for _ in range(3):  # a disturbance happens once
        ratio = least_time(call, large) / max(least_time(call, small), 1e-9)  # a clock can stand still
        if ratio <= ALLOWED:
            return
    pytest.fail(f"8 times the input takes {ratio:.0f} times as long")


def judge(verifier: ProofVerifier) -> Callable[[object], object]:
    def call(proof: object) -> object:
        return verifier.verify_token_request([("DPoP", str(proof))], "POST", URL)

    return call


def of_claims(text: Callable[[int], bytes]) -> Make:
    """A well signed proof with these claims."""
    honest = Draft(A, "POST", URL, "j", NOW)
    return lambda size: make(honest.header(), text(size), A.sign)


PAYLOADS: dict[str, Callable[[int], bytes]] = {
    "deep arrays": lambda n: b'{"x":' + b"[" * n,
    "deep objects": lambda n: b'{"x":' * (n // 5),
    "an open string": lambda n: b'{"x":"' + b"a" * n,
    "open strings": lambda n: b'{"x":[[[[[[[[[[[[' + b'"' * n,
    "backslashes": lambda n: b'{"x":[[[[[[[[[[[["' + b"\\" * n,
    "escapes": lambda n: b'{"x":"' + b"\\u0061" * (n // 6) + b'"}',
    "half surrogates": lambda n: b'{"x":"' + b"\\ud800" * (n // 6) + b'"}',
    "digits": lambda n: b'{"x":' + b"9" * n + b"}",
    "a fraction": lambda n: b'{"x":0.' + b"9" * n + b"}",
    "an exponent": lambda n: b'{"x":1e' + b"9" * n + b"}",
    "one name": lambda n: b'{"a":1' + b',"a":1' * (n // 6) + b"}",
    "many names": lambda n: b'{"a":1' + b"".join(b',"%06x":1' % i for i in range(n // 11)) + b"}",
    "many numbers": lambda n: b'{"a":[1' + b",1" * (n // 2) + b"]}",
    "blanks": lambda n: b'{"a"' + b" " * n + b":1}",
    "commas": lambda n: b'{"a":1' + b"," * n,
    "a long jti": lambda n: b'{"htm":"POST","htu":"%s","iat":%d,"jti":"%s"}' % (URL.encode(), NOW, b"j" * n),
    "a long htm": lambda n: b'{"jti":"j","htu":"%s","iat":%d,"htm":"%s"}' % (URL.encode(), NOW, b"P" * n),
    "a long htu": lambda n: (
        b'{"jti":"j","htm":"POST","iat":%d,"htu":"https://a.example/%s"}' % (NOW, b"/.." * (n // 3))
    ),
}


@pytest.mark.parametrize("what", PAYLOADS)
def test_a_proof_by_its_claims(what: str) -> None:
    """Claims of a hundred thousand bytes, if they were read."""
    assert_linear(judge(UNCAPPED), of_claims(PAYLOADS[what]), 100_000)
    assert_linear(json_object, PAYLOADS[what], 200_000)  # type: ignore[arg-type]


FIELDS: dict[str, Make] = {
    "no dot": lambda n: "A" * n,
    "dots": lambda n: "." * n,
    "almost three parts": lambda n: "A" * (n // 3) + "." + "A" * (n // 3) + "." + "A" * (n // 3) + "=",
    "commas": lambda n: "," * n,
    "blanks": lambda n: " " * n + "x",
    "blanks inside": lambda n: "x" + " \t" * (n // 2) + "x",
    "not ASCII": lambda n: "\u00e9" * n,
    "a long signature": lambda n: Draft(A, "POST", URL, "j", NOW).proof() + "AAAA" * (n // 4),
    "a long header": lambda n: Draft(A, "POST", URL, "j", NOW).proof(header={"x": "y" * n}),
    "a long jwk": lambda n: Draft(A, "POST", URL, "j", NOW).proof(
        header={"typ": "dpop+jwt", "alg": "ES256", "jwk": {"kty": "EC", "crv": "P-256", "x": "A" * n, "y": "A" * n}}
    ),
    "a long modulus": lambda n: Draft(A, "POST", URL, "j", NOW).proof(
        header={"typ": "dpop+jwt", "alg": "RS256", "jwk": {"kty": "RSA", "n": "_" * n, "e": "_" * n}}
    ),
    "a long alg": lambda n: Draft(A, "POST", URL, "j", NOW).proof(header={"typ": "dpop+jwt", "alg": "\u00e9" * n}),
}


@pytest.mark.parametrize("what", FIELDS)
@pytest.mark.parametrize("verifier", [CAPPED, UNCAPPED], ids=["capped", "uncapped"])
def test_a_proof_by_its_field(what: str, verifier: ProofVerifier) -> None:
    """A field of two hundred thousand characters."""
    assert_linear(judge(verifier), FIELDS[what], 200_000)


@pytest.mark.parametrize("name", ["DPoP", "X-Some"])
def test_a_proof_by_the_number_of_fields(name: str) -> None:
    """Fields by the ten thousand."""
    assert_linear(
        lambda fields: CAPPED.verify_token_request(fields, "POST", URL),  # type: ignore[arg-type]
        lambda n: [(name, "x")] * n,
        20_000,
    )


URLS: dict[str, Callable[[int], str]] = {
    "escapes": lambda n: "https://a.example/" + "%41" * (n // 3),
    "lower escapes": lambda n: "https://a.example/" + "%e2" * (n // 3),
    "up": lambda n: "https://a.example/" + "/.." * (n // 3),
    "here": lambda n: "https://a.example/" + "/." * (n // 2),
    "down and up": lambda n: "https://a.example" + "/a" * (n // 4) + "/.." * (n // 6),
    "encoded dots": lambda n: "https://a.example" + "/%2e%2E" * (n // 7),
    "slashes": lambda n: "https://a.example" + "/" * n,
    "percent": lambda n: "https://a.example/" + "%" * n,
    "labels": lambda n: "https://" + "a." * (n // 2) + "a/",
    "one label": lambda n: "https://" + "a" * n + "/",
    "international label": lambda n: "https://" + "\u00fc" * n + "/",
    "combining": lambda n: "https://" + "a" + "\u0323\u0307" * (n // 2) + "/",
    "international path": lambda n: "https://a.example/" + "\u00fc" * n,
    "colons": lambda n: "https://" + ":" * n,
    "at signs": lambda n: "https://" + "@" * n,
    "an IPv6 address": lambda n: "https://[" + "0:" * (n // 2) + "]/",
    "a port": lambda n: "https://a.example:" + "0" * n + "443/",
    "blanks": lambda n: "https://a.example/" + " " * n,
    "a scheme": lambda n: "h" * n + "://a",
    "a query": lambda n: "https://a.example/?" + "/../%" * (n // 5),
}


@pytest.mark.parametrize("what", URLS)
def test_a_url(what: str) -> None:
    """Up to the cap, and far past it."""
    for size in (4_000, 40_000):
        for call in (htu._canonical, htu._url_htu.__wrapped__):
            assert_linear(call, URLS[what], size)  # type: ignore[arg-type]
        assert_linear(
            lambda parts: htu._wire_htu.__wrapped__("https", *parts),
            lambda n: (URLS[what](n) + "/").removeprefix("https://").split("/", 1),
            size,
        )


CHALLENGES: dict[str, Callable[[int], str]] = {
    "parameters": lambda n: "DPoP " + "a=b," * (n // 4),
    "schemes": lambda n: "a," * (n // 2),
    "schemes with token68": lambda n: "a b==," * (n // 6),
    "commas": lambda n: "DPoP" + "," * n,
    "blanks": lambda n: "DPoP" + " " * n + "x",
    "blanks before a sign": lambda n: "DPoP a" + " " * n + "?",
    "blanks behind a sign": lambda n: "DPoP a=" + " " * n + "?",
    "an open quote": lambda n: 'DPoP a="' + "x" * n,
    "backslashes": lambda n: 'DPoP a="' + "\\" * n,
    "escaped quotes": lambda n: 'DPoP a="' + '\\"' * (n // 2),
    "quotes": lambda n: "DPoP a=" + '"' * n,
    "equal signs": lambda n: "DPoP " + "=" * n,
    "one token": lambda n: "D" * n,
    "a token68": lambda n: "DPoP " + "A" * n + "=?",
    "names that differ": lambda n: "DPoP " + ",".join(f"a{i}=b" for i in range(n // 8)),
    "one name again": lambda n: "DPoP " + ",".join(f"a={i}" for i in range(n // 8)),
}


@pytest.mark.parametrize("what", CHALLENGES)
def test_a_challenge(what: str) -> None:
    """Up to the cap and past it."""
    for size in (16_000, 160_000):
        assert_linear(lambda text: dpop_challenge([str(text)]), CHALLENGES[what], size)


def test_other_answers_of_a_server() -> None:
    """JSON bodies, nonces, saved headers."""
    for text in PAYLOADS.values():
        assert_linear(error_of_json, text, 40_000)  # type: ignore[arg-type]
    assert_linear(dpop_challenge, lambda n: ["DPoP"] * n, 20_000)  # type: ignore[arg-type]
    assert_linear(lambda nonce: nonce_field([str(nonce)]), lambda n: "n" * n + " ", 200_000)
    for line in (
        "HTTP/1.1 200\n",
        "DPoP-Nonce: a\n",
        "\n",
        " ",
        "\r",
        "a",
        ":",
        "HTTP/",
        "DPoP-Nonce:" + " " * 50 + "\n",
    ):
        assert_linear(last_nonce, lambda n, line=line: line * (n // len(line)), 100_000)  # type: ignore[arg-type,misc]


def test_signatures_and_keys() -> None:
    """DER and JWK."""
    for start in (b"\x30", b"\x30\x84", b"\x30\x46\x02", b"\x30\x80", b"\xff"):
        assert_linear(der_to_raw, lambda n, start=start: start + b"\x02" * n, 200_000)  # type: ignore[arg-type,misc]
    assert_linear(raw_to_der, bytes, 200_000)  # type: ignore[arg-type]
    assert_linear(b64url_decode, lambda n: "A" * n, 200_000)  # type: ignore[arg-type]
    for member in ("n", "e", "x", "kty", "use", "key_ops", "alg"):
        jwk = {"kty": "RSA", "n": "AQAB", "e": "AQAB"}
        assert_linear(PublicKey.from_jwk, lambda n, m=member, k=jwk: {**k, m: "_" * n}, 200_000)  # type: ignore[arg-type,misc]


LOGGED = {
    "almost JWTs": "eyJ",
    "JWT headers": "eyJ.",
    "JWT halves": "eyJa.b",
    "field names": "dpop",
    "field names and colons": "dpop:",
    "blanks behind a field name": ("dpop:", " "),
    "blanks before a colon": ("dpop", " "),
    "blanks and a quote": ("authorization:", " "),
    "blanks behind a scheme": ("Authorization: DPoP", " "),
    "schemes": "DPoP ",
    "short tokens": "Bearer aaaaaaa ",
    "one token": ("Bearer ", "a"),
    "quotes": ("dpop", "'"),
    "brackets": ("authorization')", " "),
}


@pytest.mark.parametrize("what", LOGGED)
@pytest.mark.parametrize("end", ["", '"', "?"])
def test_a_line_to_redact(what: str, end: str) -> None:
    """Another library's log line with what a hostile server sent in it."""
    head, text = pair if isinstance(pair := LOGGED[what], tuple) else ("", pair)
    assert_linear(lambda line: redact(str(line)), lambda n: head + text * (n // len(text)) + end, 16_000)


RESOURCE = ProtectedResource(CAPPED, url="https://a.example", token=lambda _: None, bearer=True)
REQUESTS: dict[str, Callable[[int], tuple[str, list[tuple[str, str]]]]] = {
    "a long token": lambda n: ("/", [("Authorization", "Bearer " + "a" * n)]),
    "blanks before the token": lambda n: ("/", [("Authorization", "DPoP" + " " * n + "a")]),
    "blanks only": lambda n: ("/", [("Authorization", " " * n)]),
    "commas": lambda n: ("/", [("Authorization", "DPoP " + "a," * (n // 2))]),
    "many fields": lambda n: ("/", [("Authorization", "DPoP a")] * (n // 20)),
    "a long query": lambda n: ("/?access_token&" + "a=b&" * (n // 4), []),
    "a query of escapes": lambda n: ("/?access_token%" + "%41" * (n // 3), []),
    "a long path": lambda n: ("/" + "../" * (n // 3), [("Authorization", "DPoP a"), ("DPoP", "x")]),
    "an absolute target": lambda n: ("http://" + "a" * n, [("Authorization", "DPoP a"), ("DPoP", "x")]),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_at_an_api(what: str) -> None:
    """Its credentials and its target, and the answer to it."""

    def call(request: object) -> None:
        target, fields = cast("tuple[str, list[tuple[str, str]]]", request)
        asked = ResourceRequest("GET", target, target, fields)
        try:
            RESOURCE.admit(asked)
        except InvalidProof as refused:
            RESOURCE.refusal(asked, refused)

    assert_linear(call, REQUESTS[what], 200_000)


DATES = ["0 ", "Mon, ", "1:", "-", "Mon, 1 Jan 2000 00:00:00 ", "+0000 ", "(", "\\", '"', "9", "Jan "]


@pytest.mark.parametrize("piece", DATES)
def test_a_date(piece: str) -> None:
    """Of any length, if a library lets it through."""
    assert_linear(lambda date: skew(str(date), 0.0, 1.0), lambda n: piece * (n // len(piece)), 60_000)


def test_names_of_keys_and_callbacks() -> None:
    """URIs of keys, and what a browser brings back."""
    for text in ("pkcs11:object=", "pkcs11:id=", "pkcs11:object=a?pin-value=", "pkcs11:", "pkcs11:a=b;"):
        for piece in ("%41", ";", "&", "?"):
            assert_linear(Pkcs11Uri.parse, lambda n, t=text, p=piece: t + p * (n // len(p)), 4_000)  # type: ignore[arg-type,misc]
    asked = AuthorizationRequest("https://as.example/a", "https://c.example/", "s", "v")
    for text in ("https://c.example/?", "code=a&state=s&", "https://["):
        for piece in ("%41", "a=b&", "]"):
            assert_linear(asked.code_of, lambda n, t=text, p=piece: t + p * (n // len(p)), 20_000)  # type: ignore[arg-type,misc]


RESPONSES: dict[str, Callable[[int], bytes]] = {
    "blanks in an element": lambda n: b"<access_token>a" + b" " * n,
    "elements": lambda n: b"<access_token>" * (n // 14),
    "queries": lambda n: b"?access_token=a" * (n // 15) + b'"',
    "forms": lambda n: b"&access_token=a" * (n // 15) + b'"',
    "a long value of a form": lambda n: b"&access_token=" + b"a" * n + b'"',
    "open strings": lambda n: b"'access_token':\"a" * (n // 17),
    "blanks after names": lambda n: (b'"access_token"' + b" " * 50) * (n // 64),
    "escapes": lambda n: b'"access_token":"' + b"\\" * n,
    "blanks after an error": lambda n: b"<error>" + b" " * n,
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_token_response_that_no_parser_can_read(name: str) -> None:
    """A token endpoint that means harm holds its client no longer than one that sends as much JSON."""
    assert_linear(lambda body: (pieces_of(body), error_in_pieces(body)), RESPONSES[name], 16_000)  # type: ignore[arg-type]


def test_a_description_to_send() -> None:
    """What a refusal tells of the request."""
    assert_linear(
        lambda got: resource_challenge(refuse(Reason.HTU_INVALID, because=str(got), got=got), algs="ES256"),
        lambda n: '"\\\x00\u00e9' * (n // 4),
        1_000_000,
    )


@pytest.mark.parametrize("name", TARGETS)
def test_no_memory_is_kept(name: str) -> None:
    """After as many different inputs as fill every cache, as many more keep nothing."""
    run, rng = TARGETS[name].run, random.Random(4711)
    seeds = list(TARGETS[name].seeds())

    def strange() -> bytes:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(4)):
            at = rng.randrange(len(data) + 1)
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(5))
        return bytes(data)

    def through(times: int) -> int:
        for _ in range(times):
            run(strange())
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    logging.disable()  # pytest keeps what is logged, and a slow machine logs more
    tracemalloc.start()
    try:
        through(1_100)
        before = through(100)
        after = through(700)
    finally:
        tracemalloc.stop()
        logging.disable(logging.NOTSET)
    # The caches hold 1,024 entries of some kilobytes each at most: here they go on being replaced.
    assert after - before < 600_000


def test_past_the_cap_a_proof_costs_next_to_nothing() -> None:
    """A megabyte is refused in less time than an honest proof is accepted in."""
    honest = Draft(A, "POST", URL, "j", NOW).proof()
    verifier = ProofVerifier(replay=Forgetful(), clock=lambda: NOW)
    accepted = least_time(judge(verifier), honest)
    for name, field in FIELDS.items():
        # Blanks are taken off first, and a server's own HTTP does it before.
        assert name == "blanks" or least_time(judge(verifier), field(1_000_000)) < accepted


# --- against the cost of an accepted proof: bounds that hold at any length


def assert_cheap(call: Once, accepted: Once, bound: float) -> None:
    """Not ten times as dear as it may be, by the undisturbed of many runs of both, in turn.

    ``bound`` is the aim, in times an accepted request; the benchmarks have the exact figures. The mistake this looks
    for costs ten times the bound and more, and a machine may be busy. So four times the bound is allowed, single runs
    are timed, short enough to be undisturbed once in ten, and there are more of them while they are dear.
    """
    ratio = float("inf")
    runs: tuple[list[int], list[int]] = ([], [])
    for _ in range(40):
        for kept, taken in zip(runs, times_in_turn(call, accepted, 25), strict=True):
            kept.extend(taken)
        ratio = undisturbed(runs[0]) / max(undisturbed(runs[1]), 1)
        if ratio <= 2 * bound:
            return
    if ratio > 4 * bound:
        pytest.fail(f"it costs {ratio:.2f} times an accepted request; at most {bound} is the aim")


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
@pytest.mark.parametrize("integration", INTEGRATIONS)
@pytest.mark.parametrize("what", UNSIGNED)
def test_a_request_without_a_signature_is_cheap(what: str, integration: str, method: str) -> None:
    """A quarter of an accepted one: anybody can send these by the thousand, and an event loop serves everybody."""
    ask = INTEGRATIONS[integration]
    target, fields = UNSIGNED[what]
    assert_cheap(ask(method, target, fields), ask("GET", "/x", honest()), 0.25)


@pytest.mark.parametrize("integration", INTEGRATIONS)
@pytest.mark.parametrize("what", SIGNED)
def test_a_stranger_with_a_key_costs_little_more_than_a_client(what: str, integration: str) -> None:
    """Anybody can make a key and sign any claims with it: at most 1.6 times an accepted request."""
    target, fields = signed_by_a_stranger(what)
    ask = INTEGRATIONS[integration]
    call = ask("GET", target, fields)
    htu._compared_request.cache_clear()
    assert_cheap(call, ask("GET", "/x", honest()), 1.6)


@pytest.mark.parametrize(("size", "exponent"), [(8192, 65537), (4096, 2**32 - 1), (8192, 2**32 - 1)])
def test_a_large_rsa_key_is_refused_before_it_is_loaded(size: int, exponent: int) -> None:
    """Its check would take as long as many others."""
    call = directly("GET", "/x", large_rsa_key(size, exponent))
    assert_cheap(call, directly("GET", "/x", honest()), 0.25)


def test_a_forged_access_token_costs_little_more() -> None:
    """A stranger with a key of its own and a token that no issuer signed: two checks of signatures, and little else."""
    with JWTIssuer() as issuer:
        api = ProtectedResource(
            ProofVerifier(replay=Forgetful(), clock=lambda: NOW),
            url=API_URL,
            token=JWTAccessTokens(issuer=issuer.url, audience=API_URL),
        )
        requests = []
        for number in range(500):  # a token that was refused may be remembered
            header = {"typ": "at+jwt", "alg": "ES256", "kid": "k1"}
            token = forged(header, issuer.claims(aud=API_URL, jti=str(number)))
            proof = Draft(A, "GET", API_URL + "/x", "j", NOW, access_token=token).proof()
            fields = [("Authorization", f"DPoP {token}"), ("DPoP", proof)]
            requests.append(ResourceRequest("GET", "/x", "/x", fields))
        asked = cycle(requests)
        reasons: set[str] = set()

        def call() -> None:
            try:
                api.admit(next(asked))
            except InvalidProof as refused:
                reasons.add(refused.detail)

        assert_cheap(call, directly("GET", "/x", honest()), 3.0)
    assert len(reasons) == 1
    assert "signature" in reasons.pop()
