# SPDX-License-Identifier: Apache-2.0
"""htu: what a client signs for a request, and what a server takes as the same resource."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from hypothesis import assume, given
from hypothesis import strategies as st

from dpop.errors import ArgumentTypeError, TargetError, UsageError
from dpop.htu import MAX_HTU, canonical, check_method, same_target, url_htu, wire_htu

VECTORS = Path(__file__).parent.parent / "vectors"
INPUTS: list[dict[str, Any]] = json.loads((VECTORS / "htu_inputs.json").read_text("ascii"))["cases"]
PAIRS: list[dict[str, Any]] = json.loads((VECTORS / "htu_pairs.json").read_text("ascii"))["cases"]

SECRET = "hunter2"

# What the message says for each reason of the vectors.
SENTENCES = {
    "backslash": "backslash",
    "character": "which no URL may",
    "dot-segment": "dot segment",
    "escape": "% without two hex digits",
    "host": "character no host name has",
    "ipv6-form": r"RFC 5952; write it as \[[0-9a-f:]+\]",
    "not-absolute": "not an absolute URL",
    "scheme": "neither an https nor an http URL",
    "space": "space",
    "userinfo": "user or password",
}

inputs = pytest.mark.parametrize("case", INPUTS, ids=lambda c: f"input-{c['id']}")
pairs = pytest.mark.parametrize("case", PAIRS, ids=lambda c: f"pair-{c['id']}")

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


# --- client


@inputs
@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_wire_inputs(case: dict[str, Any], library: str) -> None:
    """The htu of the request each library sends is exactly what was sent, or the request is refused."""
    sent = case[library]
    scheme = case["url"].partition(":")[0]
    if "refused" in sent:
        with pytest.raises(TargetError, match=SENTENCES[sent["refused"]]):
            wire_htu(scheme, sent["host"], sent["target"])
    else:
        assert wire_htu(scheme, sent["host"], sent["target"]) == sent["htu"]


@inputs
def test_url_inputs(case: dict[str, Any]) -> None:
    """The htu of a caller's string is that of the request a careful client makes for it."""
    if "refused" in case["client"]:
        with pytest.raises(TargetError, match=SENTENCES[case["client"]["refused"]]):
            url_htu(case["url"])
    else:
        assert url_htu(case["url"]) == case["client"]["htu"]


@inputs
def test_httpx_sends_what_the_vectors_say(case: dict[str, Any]) -> None:
    """The httpx of today sends the Host and target that the table has for it."""
    assert wire_of_httpx(case["url"])[1:] == (case["httpx"]["host"], case["httpx"]["target"])


@pytest.mark.parametrize(
    ("authority", "target", "expected"),
    [
        ("api.example", "", "https://api.example/"),
        ("api.example", "?q=1", "https://api.example/"),
        ("API.EXAMPLE:443", "/A%2fb?x=%zz#\\", "https://api.example/A%2fb"),
        ("api.example", "/a/..;/b", "https://api.example/a/..;/b"),
        ("api.example", "/...", "https://api.example/..."),
        ("api.example", "/.well-known/x.y", "https://api.example/.well-known/x.y"),
        ("api.example", "/%2Ewell-known", "https://api.example/%2Ewell-known"),
        ("api.example", "//evil.test/x", "https://api.example//evil.test/x"),
        ("api.example", "/https://evil.test/x", "https://api.example/https://evil.test/x"),
        ("api.example", "https://api.example/x?q", "https://api.example/x"),
        ("api.example", "https://API.example:443", "https://api.example/"),
        ("api.example:8443", "https://api.example:8443?q", "https://api.example:8443/"),
        ("b\u00fccher.example", "/", "https://xn--bcher-kva.example/"),
    ],
)
def test_wire_targets(authority: str, target: str, expected: str) -> None:
    """Origin form, absolute form through a forward proxy, and an empty path."""
    assert wire_htu("HTTPS", authority, target) == expected


@pytest.mark.parametrize(
    ("authority", "target", "why"),
    [
        ("api.example", "*", "OPTIONS"),
        ("api.example", "api.example:443", "CONNECT"),
        ("api.example", "x/y", "neither a path nor"),
        ("api.example", "http://api.example/x", "another server than the Host"),
        ("api.example", "https://evil.test/x", "another server than the Host"),
        ("api.example", "https://api.example:8443/x", "another server than the Host"),
        ("api.example", "https://user:pw@api.example/x", "user or password"),
        ("api.example", "wss://api.example/x", "neither an https nor an http"),
        ("api.example", "https://api.example/x#f", "fragment"),
        ("api.example", "/x#f", "fragment"),
        ("api.example", "/..", "dot segment"),
        ("api.example", "/a/.", "dot segment"),
        ("api.example", "/a/./b", "dot segment"),
        ("api.example", "/a/%2E/b", "dot segment"),
        ("api.example", "/a/.%2e", "dot segment"),
        ("api.example", "/%2E%2e?x", "dot segment"),
        ("api.example", "/a b", "a space, .* %20"),
        ("api.example", "/a\tb", "control character, .* %09"),
        ("api.example", "/a\x7f", "control character, .* %7F"),
        ("api.example", "/a\\b", "backslash, .* %5C"),
        ("api.example", "/a|b", r"holds \|, .* %7C"),
        ("api.example", "/a[0]", r"holds \[, .* %5B"),
        ("api.example", '/a"b', 'holds ", .* %22'),
        ("api.example", "/caf\u00e9", "outside ASCII"),
        ("api.example", "/100%", "literal percent sign as %25"),
        ("api.example", "/%4", "literal percent sign as %25"),
        ("api.example", "/%\u0664\u0661", "literal percent sign as %25"),
        ("", "/", "no host"),
        ("user:pw@api.example", "/", "user or password"),
        ("api.example/x", "/", "character no host name has"),
        ("api.example, evil.test", "/", "character no host name has"),
        ("[fe80::1%25eth0]", "/", "zone"),
        ("api.example:99999", "/", "1 to 65535"),
    ],
)
def test_wire_refusals(authority: str, target: str, why: str) -> None:
    """What two readers could understand differently is not signed, and the message says what to do."""
    with pytest.raises(TargetError, match=why):
        wire_htu("https", authority, target)


@pytest.mark.parametrize("scheme", ["", "ftp", "wss", "https:", "http\u017f"])
def test_wire_scheme(scheme: str) -> None:
    """A proof names http and https only."""
    with pytest.raises(TargetError, match="neither an https nor an http"):
        wire_htu(scheme, "api.example", "/")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example/a/../../b/./c/", "https://api.example/b/c/"),
        ("https://api.example/..//b", "https://api.example//b"),
        ("https://api.example/a//../b", "https://api.example/a/b"),
        ("https://api.example/\U0001f511", "https://api.example/%F0%9F%94%91"),
        ("https://api.example/?a=b c|[d]\\%zz#\x00", "https://api.example/"),
        ("https://api.example/" + "?" + "q" * 100_000, "https://api.example/"),
    ],
)
def test_url_forms(url: str, expected: str) -> None:
    """Dot segments go, non-ASCII is encoded, and nobody looks at the query."""
    assert url_htu(url) == expected


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://api.example/a/..", "ends in a dot segment"),
        ("https://api.example/a/.", "ends in a dot segment"),
        ("https://api.example/a/./%2E/b", "perhaps as %2E"),
        ("https://api.example/a\ud800", "surrogate"),
        ("https://api.example/a#b\\c d", None),
        ("https://api.example/x\n", "control character"),
        ("api.example/x", "not an absolute URL; write it whole"),
        ("/x", "not an absolute URL"),
        ("https://[fe80::1%25eth0]/x", "zone"),
    ],
)
def test_url_refusals(url: str, why: str | None) -> None:
    """The caller's string is refused where clients would send different things for it."""
    if why is None:
        assert url_htu(url) == "https://api.example/a"
        return
    with pytest.raises(TargetError, match=why):
        url_htu(url)


@given(urls)
def test_url_htu_is_what_httpx_sends(url: str) -> None:
    """Where a URL is accepted and httpx sends it, the proof names exactly what httpx sends."""
    try:
        htu = url_htu(url)
    except TargetError:
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
    except (TargetError, requests.exceptions.InvalidURL):
        return
    # urllib3 reads /..//b as /b, where RFC 3986 says //b: the one disagreement, and the reason for wire_htu.
    assume("/../" not in url)
    assert same_target(htu, sent) or "//x." in htu


# --- server


@inputs
def test_canonical_inputs(case: dict[str, Any]) -> None:
    """The form in which a server compares a URL, or why it has none."""
    if "refused" in case["server"]:
        with pytest.raises(TargetError, match=SENTENCES[case["server"]["refused"]]):
            canonical(case["url"])
    else:
        assert canonical(case["url"]) == case["server"]["canonical"]


@inputs
@pytest.mark.parametrize("library", ["requests", "httpx", "client"])
def test_servers_accept_what_clients_sign(case: dict[str, Any], library: str) -> None:
    """Each htu of the table names the caller's URL to a server that has one for it."""
    htu = case[library].get("htu")
    refused = case["server"].get("refused")
    if htu is None or refused in {"userinfo", "space", "backslash", "escape"} or case["id"] in {35, 47}:
        # 35 and 47: requests encodes reserved characters and drops a trailing dot, which are other resources.
        return
    assert same_target(htu, case["url"])


@pairs
def test_pairs(case: dict[str, Any]) -> None:
    """Claims and request URLs that are, and are not, the same."""
    assert same_target(case["claim"], case["url"]) is case["equal"]


@pairs
def test_pairs_refused_claims(case: dict[str, Any]) -> None:
    """A refused claim is refused for the reason given, every other one has a canonical form."""
    if "refused" in case:
        with pytest.raises(TargetError, match=SENTENCES[case["refused"]]):
            canonical(case["claim"])
    else:
        assert (canonical(case["claim"]) == canonical(case["url"])) is case["equal"]


def test_the_tables_are_whole() -> None:
    """All inputs and pairs are there, and every sentence has a case."""
    assert [c["id"] for c in INPUTS] == list(range(1, 55))
    assert [c["id"] for c in PAIRS] == list(range(1, 57))
    used = {v["refused"] for c in INPUTS for v in c.values() if isinstance(v, dict) and "refused" in v}
    assert used | {c["refused"] for c in PAIRS if "refused" in c} == set(SENTENCES)


def test_a_request_url_that_is_refused_is_the_servers_fault() -> None:
    """A bad claim is False; a bad URL of the request is an error, for the server's own setting is wrong."""
    assert not same_target("nonsense", "https://api.example/")
    with pytest.raises(TargetError):
        same_target("https://api.example/", "nonsense")


@pytest.mark.parametrize("raw", ["\x00", "\x1f", " ", "\x7f", "\\", "\n"])
def test_a_claim_equal_to_a_refused_url_is_not_accepted(raw: str) -> None:
    """Equal text is no reason to accept what has no canonical form."""
    url = f"https://api.example/a{raw}b"
    with pytest.raises(TargetError):
        same_target(url, url)
    assert not same_target(url, "https://api.example/ab")


# --- limits


def test_clients_count_the_htu_and_not_the_query() -> None:
    """An htu of MAX_HTU characters is the longest, however long the query is."""
    front = "https://api.example"
    path = "/" + "a" * (MAX_HTU - len(front) - 1)
    assert url_htu(front + path + "?" + "q" * MAX_HTU) == front + path
    assert wire_htu("https", "api.example", path + "?" + "q" * MAX_HTU) == front + path
    assert same_target(front + path, front + path + "?" + "q" * MAX_HTU)
    too_long: list[Callable[[], str]] = [
        lambda: url_htu(front + path + "a"),
        lambda: wire_htu("https", "api.example", path + "a"),
        lambda: url_htu(front + "/" + "\u00e9" * 1000),
        lambda: url_htu(front + "/" + "a" * 10**7),
        lambda: wire_htu("https", "a" * 10**7, "/"),
    ]
    for refused in too_long:
        with pytest.raises(TargetError, match="more than 4096 characters"):
            refused()


def test_servers_count_the_whole_claim() -> None:
    """A claim of more than MAX_HTU characters is refused before it is read, its query included."""
    url = "https://api.example/x"
    assert same_target(url + "?" + "q" * (MAX_HTU - len(url) - 1), url)
    assert not same_target(url + "?" + "q" * (MAX_HTU - len(url)), url)
    with pytest.raises(TargetError, match="4096 characters"):
        canonical(url + "?" + "q" * MAX_HTU)
    with pytest.raises(TargetError, match="4096 characters"):
        canonical("https://api.example/" + "\u00e9" * 1000)


# --- methods


@pytest.mark.parametrize("method", ["GET", "POST", "get", "M-SEARCH", "PROPPATCH", "!#$%&'*+-.^_`|~09azAZ"])
def test_methods_keep_their_case(method: str) -> None:
    """Any RFC 9110 token is a method, and case matters."""
    assert check_method(method) == method


@pytest.mark.parametrize(
    "method", ["", " ", "GET ", "GET\r\n", "GE T", "G\u00c9T", "GET/", "GET:", '"GET"', "\x00"]
)
def test_what_is_no_method(method: str) -> None:
    """Spaces, separators, controls and non-ASCII are refused with an example of what is meant."""
    with pytest.raises(TargetError, match="expected one such as GET"):
        check_method(method)


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
        assert same_target(text, form)
        assert not set(form) & {"?", "#", "\\", " "}
        assert "@" not in form.split("/")[2]
        assert form.isascii()
        assert form.isprintable()


@given(any_text, any_text)
def test_same_target_agrees_with_canonical(claim: str, url: str) -> None:
    """The quick way and the long way give the same verdict."""
    expected = accepted(canonical, url)
    if expected is not None:
        assert same_target(claim, url) is (accepted(canonical, claim) == expected)


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


@given(paths)
def test_dot_segments_go_as_rfc_3986_says(path: str) -> None:
    """The path is what the algorithm of RFC 3986 §5.2.4, taken literally, leaves."""
    assume(not set(path) & set("% \t\\") and path.isascii())
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


# --- secrets and types


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@api.example/x",
        f"https://user:{SECRET}@api.example/a b",
        f"https://{SECRET}@api.example\\",
        f"https://user:{SECRET}/w@api.example/x y",
        f"https://api.example/a b?token={SECRET}",
        f"https://api.example/%zz?{SECRET}#{SECRET}",
        f"https://api.example:x?{SECRET}",
        f"https://api.example/{'a' * MAX_HTU}?{SECRET}",
    ],
)
def test_refusals_hold_no_password_and_no_query(url: str) -> None:
    """A message never repeats what may be secret."""
    calls: list[Callable[[], object]] = [
        lambda: url_htu(url),
        lambda: canonical(url),
        lambda: same_target("https://api.example/", url),
        lambda: wire_htu("https", "api.example", url),
        lambda: wire_htu("https", url[8:], "/"),
    ]
    for call in calls:
        with pytest.raises(TargetError) as caught:
            call()
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [None, 1, b"https://api.example/", ["https://api.example/"], {}])
def test_only_text(value: Any) -> None:
    """A wrong type is a wrong type, also where a cache would choke on it first."""
    url = "https://api.example/"
    calls: list[Callable[[], object]] = [
        lambda: url_htu(value),
        lambda: canonical(value),
        lambda: check_method(value),
        lambda: same_target(value, url),
        lambda: same_target(url, value),
        lambda: wire_htu(value, "api.example", "/"),
        lambda: wire_htu("https", value, "/"),
        lambda: wire_htu("https", "api.example", value),
    ]
    for call in calls:
        with pytest.raises(ArgumentTypeError, match="must be str, not"):
            call()
