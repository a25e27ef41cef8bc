# SPDX-License-Identifier: Apache-2.0
"""htu of arbitrary URLs: against what requests and httpx send, RFC 3986's algorithm, and itself."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import requests
from hypothesis import assume, given
from hypothesis import strategies as st
from support.paths import VECTORS

from dpop.errors import InvalidTargetError, UsageError
from dpop.htu import MAX_HTU, canonical, check_method, compared_request, same_target, unescape, url_htu, wire_htu

INPUTS: list[dict[str, Any]] = json.loads((VECTORS / "htu_inputs.json").read_text("ascii"))["cases"]

# URLs made of what makes URLs difficult.
PATH_PIECES = [
    "/",
    "//",
    ".",
    "..",
    "/./",
    "/../",
    "%2e",
    "%2E",
    "%2f",
    "%7E",
    "%C3%A9",
    "%",
    "%zz",
    "a",
    "B",
    "~",
]
PATH_PIECES += [
    "\u00e9",
    "e\u0301",
    "\U0001f511",
    ";v=1",
    "@",
    ":",
    "+",
    "&'()*!$,",
    "[",
    "|",
    "^",
    " ",
    "\t",
    "\\",
]
HOSTS = [
    "api.example",
    "API.Example",
    "my_host",
    "b\u00fccher.example",
    "127.0.0.1",
    "[::1]",
    "[2001:DB8::1]",
    "x.",
]
paths = st.lists(st.sampled_from(PATH_PIECES), max_size=6).map("".join)
urls = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["https", "http", "HTTPS"]),
    st.sampled_from(HOSTS),
    st.sampled_from(["", ":", ":443", ":80", ":08443"]),
    paths.map(lambda p: p if not p or p[0] == "/" else "/" + p),
    st.sampled_from(["", "?", "?a=1&b=%zz", "?a=/../b#c", "#f", "#f?g"]),
)
any_text = st.text() | urls | st.text(":/?#[]@%.\\-_018abx\u00fc\u3002 ").map("https://".__add__)


def wire_of_requests(url: str) -> tuple[str, str, str]:
    """Scheme, Host and request-target that requests sends."""
    prepared = requests.Request("GET", url).prepare()
    host = re.match(r"[^:]+://([^/?#]*)", prepared.url or "")
    assert host is not None
    return (prepared.url or "").partition(":")[0], host[1].rpartition("@")[2], prepared.path_url


def wire_of_httpx(url: str) -> tuple[str, str, str]:
    """Scheme, Host and request-target that httpx sends."""
    request = httpx.Request("GET", url)
    return request.url.scheme, request.headers["host"], request.url.raw_path.decode("ascii")


# --- what two libraries send


@pytest.mark.parametrize("case", INPUTS, ids=lambda c: f"input-{c['id']}")
def test_httpx_sends_what_the_vectors_say(case: dict[str, Any]) -> None:
    """The httpx of today sends the Host and target that the table has for it."""
    assert wire_of_httpx(case["url"])[1:] == (case["httpx"]["host"], case["httpx"]["target"])


@given(urls)
def test_url_htu_is_what_httpx_sends(url: str) -> None:
    """Where a URL is accepted and httpx sends it, the proof names exactly what httpx sends."""
    try:
        htu = url_htu(url)
    except InvalidTargetError:
        return
    scheme, host, target = wire_of_httpx(url)
    # httpx leaves an IPv6 address as it was written, which wire_htu refuses and url_htu rewrites.
    assume("[2001:DB8::1]" not in host)
    assert wire_htu(scheme, host, target) == htu


@given(urls)
def test_requests_sends_the_same_resource(url: str) -> None:
    """requests re-spells paths, and drops a trailing dot; what it sends is still the same to a server."""
    try:
        htu = url_htu(url)
        sent = wire_htu(*wire_of_requests(url))
    except (InvalidTargetError, requests.exceptions.InvalidURL):
        return
    # urllib3 reads /..//b as /b, where RFC 3986 says //b: the one disagreement, and the reason for wire_htu.
    assume("/../" not in url)
    assert same_target(htu, sent) or "//x." in htu


# --- properties


def accepted(call: Any, *arguments: str) -> str | None:
    """The result, or None for a usage error; any other exception fails the test."""
    try:
        result = call(*arguments)
    except UsageError:
        return None
    assert isinstance(result, str)
    return result


def assert_is_htu(htu: str) -> None:
    """Absolute, printable ASCII, no query, fragment or userinfo, no backslash or space."""
    assert re.fullmatch(r"https?://[a-z0-9._\-\[\]:]+/[\x21-\x7e]*", htu), htu
    assert not set(htu) & set('?#\\"<>^`{}|')
    assert "@" not in htu.split("/")[2]
    assert len(htu) <= MAX_HTU


@given(any_text)
def test_url_htu_of_arbitrary_text(text: str) -> None:
    """Every accepted URL has a clean htu, which is its own htu and names the URL to a server."""
    htu = accepted(url_htu, text)
    if htu is not None:
        assert_is_htu(htu)
        assert url_htu(htu) == htu
        assert same_target(htu, text)


@given(st.sampled_from(["https", "http"]) | st.text(), st.sampled_from(HOSTS) | st.text(), paths | any_text)
def test_wire_htu_of_arbitrary_text(scheme: str, authority: str, target: str) -> None:
    """Every accepted request has a clean htu whose path is the target as sent."""
    htu = accepted(wire_htu, scheme, authority, target)
    if htu is not None:
        assert_is_htu(htu)
        path = htu.split("/", 3)[3]
        assert target.partition("?")[0].endswith(path)
        assert same_target(htu, htu)


@given(any_text)
def test_canonical_is_idempotent(text: str) -> None:
    """A canonical form is its own, and has neither query nor fragment."""
    form = accepted(canonical, text)
    if form is not None:
        assert canonical(form) == form
        assert same_target(form, text)
        assert same_target(text, form) is may_be_converted(text, form)
        assert not set(form) & {"?", "#", "\\", " "}
        assert "@" not in form.split("/")[2]
        assert form.isascii()
        assert form.isprintable()


def may_be_converted(claim: str, url: str) -> bool:
    """Whether the host of a claim is ASCII, or can be the international one of the URL, so that it is looked at."""
    host, own = claim.partition("://")[2].split("/")[0].partition("?")[0].partition("#")[0], url.split("/")[2]
    return host.isascii() or ("xn--" in own and len(host) <= len(own))


@given(any_text, any_text)
def test_same_target_agrees_with_canonical(claim: str, url: str) -> None:
    """The quick way and the long way give the same verdict."""
    expected = accepted(canonical, url)
    if expected is not None:
        same = accepted(canonical, claim) == expected and may_be_converted(claim, expected)
        assert same_target(claim, url) is (same or claim == url)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/..", "/"),
        ("/a/.", "/a/"),
        ("/a/b/%2E%2e", "/a/"),
        ("/..", "/"),
        ("/a/..;/b", "/a/..;/b"),
        ("/a/...", "/a/..."),
        ("/%7e%2Da%c3%a9%2f%00", "/~-a%C3%A9%2F%00"),
        ("/%252e%252e/x", "/%252e%252e/x"),
    ],
)
def test_canonical_paths(path: str, expected: str) -> None:
    """Dot segments go, wherever they stand; only unreserved characters are decoded, and only once."""
    assert canonical("https://api.example" + path) == "https://api.example" + expected


# Pieces in which only dot segments change.
PLAIN_PIECES = [piece for piece in PATH_PIECES if piece.isascii() and not set(piece) & set("% \t\\")]


@given(st.lists(st.sampled_from(PLAIN_PIECES), max_size=6).map("".join))
def test_dot_segments_go_as_rfc_3986_says(path: str) -> None:
    """The path is what the algorithm of RFC 3986 §5.2.4, taken literally, leaves."""
    assert canonical("https://api.example/" + path) == "https://api.example" + rfc3986_5_2_4("/" + path)


def rfc3986_5_2_4(rest: str) -> str:
    """remove_dot_segments, step by step as the RFC words it."""
    output = ""
    while rest:
        if rest.startswith("/./"):
            rest = rest[2:]
        elif rest == "/.":
            rest = "/"
        elif rest.startswith("/../"):
            rest, output = rest[3:], output.rpartition("/")[0]
        elif rest == "/..":
            rest, output = "/", output.rpartition("/")[0]
        else:
            end = rest.find("/", 1)
            end = len(rest) if end < 0 else end
            output, rest = output + rest[:end], rest[end:]
    return output


@given(st.text())
def test_check_method_of_arbitrary_text(text: str) -> None:
    """A method is returned as it is, or refused with a usage error."""
    assert accepted(check_method, text) in {None, text}


# What canonical URLs turn on: escapes of each kind, the marks of the compared form, dot segments around all of them.
difficult_paths = st.lists(
    st.sampled_from(
        [*PATH_PIECES, "%00", "%0a", "%0A", "%1f", "%41", "%25", "%2541", "%3D", "=", "\ud800", "\xff", "%FF"]
    ),
    max_size=6,
).map("".join)


@given(difficult_paths, difficult_paths)
def test_the_compared_form_is_equal_where_the_canonical_one_is(one: str, other: str) -> None:
    """It stands for it in every comparison and in the replay cache, and refuses the same URLs."""

    def of(form: Callable[[str], str | bytes], path: str) -> str | bytes | None:
        try:
            return form(f"https://api.example/{path}")
        except InvalidTargetError:
            return None

    assert [of(canonical, path) is None for path in (one, other)] == [
        of(compared_request, path) is None for path in (one, other)
    ]
    both = of(canonical, one), of(canonical, other)
    if None not in both:
        assert (both[0] == both[1]) == (of(compared_request, one) == of(compared_request, other))


@given(
    st.lists(st.sampled_from(["/", "a", "%41", "%2F", "%C3%A9", "%ff", "%00", "%3D", "=", "+", "%0A", "%2541"])).map(
        "".join
    )
)
def test_a_path_is_decoded_as_servers_do(path: str) -> None:
    """Each escape once, as UTF-8."""
    assert unescape(path) == unquote(path, errors="replace")


def test_a_path_that_no_server_decodes_alike() -> None:
    """A bad escape is refused, and so is a path that would take long."""
    for path in ("/%", "/%4", "/%zz", "/%%41", "/%=4", "/%\n", "/" + "a" * MAX_HTU):
        with pytest.raises(InvalidTargetError):
            unescape(path)


def test_bounds_of_a_claim() -> None:
    """What takes long to compare is not the URL of any request: hosts of others, and heaps of escapes and dots."""
    url = "https://b\u00fccher.example/x"
    assert same_target(url, "https://xn--bcher-kva.example/x")
    assert not same_target("https://b\u00fccher.example/x", "https://api.example/x")
    assert not same_target("https://" + "\u00fc" * 250 + "/x", "https://xn--bcher-kva.example/x")
    for path in ("%00" * 33, "/." * 130, "\u00fc" * 1_400, "\U0001f511" * 1_000):
        assert not same_target(f"https://api.example/{path}", "https://api.example/x")
    assert same_target("https://api.example/" + "%0a" * 32, "https://api.example/" + "%0A" * 32)
    assert same_target("https://api.example/" + "%41" * 1_300, "https://api.example/" + "A" * 1_300)
