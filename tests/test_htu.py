# SPDX-License-Identifier: Apache-2.0
"""htu: what a client signs for a request, and what a server takes as the same resource."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.paths import VECTORS

from dpop.errors import ArgumentTypeError, InvalidTargetError
from dpop.htu import MAX_HTU, canonical, check_method, compared_request, same_target, url_htu, wire_htu

INPUTS: list[dict[str, Any]] = json.loads((VECTORS / "htu_inputs.json").read_text("ascii"))["cases"]
PAIRS: list[dict[str, Any]] = json.loads((VECTORS / "htu_pairs.json").read_text("ascii"))["cases"]

SECRET = "hunter2"

# What the message says for each reason of the vectors.
SENTENCES = {
    "backslash": "backslash",
    "character": "which no URL may",
    "dot-segment": "dot segment",
    "escape": "% without two hex digits",
    "host": "character that no host name has",
    "ipv6-form": r"RFC 5952; write it as \[[0-9a-f:]+\]",
    "not-absolute": "not an absolute URL",
    "scheme": "neither an https nor an http URL",
    "space": "space",
    "userinfo": "user or password",
}

inputs = pytest.mark.parametrize("case", INPUTS, ids=lambda c: f"input-{c['id']}")
pairs = pytest.mark.parametrize("case", PAIRS, ids=lambda c: f"pair-{c['id']}")

# --- client


@inputs
@pytest.mark.parametrize("library", ["requests", "httpx"])
def test_wire_inputs(case: dict[str, Any], library: str) -> None:
    """The htu of the request each library sends is exactly what was sent, or the request is refused."""
    sent = case[library]
    scheme = case["url"].partition(":")[0]
    if "refused" in sent:
        with pytest.raises(InvalidTargetError, match=SENTENCES[sent["refused"]]):
            wire_htu(scheme, sent["host"], sent["target"])
    else:
        assert wire_htu(scheme, sent["host"], sent["target"]) == sent["htu"]


@inputs
def test_url_inputs(case: dict[str, Any]) -> None:
    """The htu of a caller's string is that of the request a careful client makes for it."""
    if "refused" in case["client"]:
        with pytest.raises(InvalidTargetError, match=SENTENCES[case["client"]["refused"]]):
            url_htu(case["url"])
    else:
        assert url_htu(case["url"]) == case["client"]["htu"]


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
        ("api.example/x", "/", "character that no host name has"),
        ("api.example, evil.test", "/", "character that no host name has"),
        ("[fe80::1%25eth0]", "/", "zone"),
        ("api.example:99999", "/", "1 to 65535"),
    ],
)
def test_wire_refusals(authority: str, target: str, why: str) -> None:
    """What two readers could understand differently is not signed, and the message says what to do."""
    with pytest.raises(InvalidTargetError, match=why):
        wire_htu("https", authority, target)


@pytest.mark.parametrize("scheme", ["", "ftp", "wss", "https:", "http\u017f"])
def test_wire_scheme(scheme: str) -> None:
    """A proof names http and https only."""
    with pytest.raises(InvalidTargetError, match="neither an https nor an http"):
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
    with pytest.raises(InvalidTargetError, match=why):
        url_htu(url)


# --- server


@inputs
def test_canonical_inputs(case: dict[str, Any]) -> None:
    """The form in which a server compares a URL, or why it has none."""
    if "refused" in case["server"]:
        with pytest.raises(InvalidTargetError, match=SENTENCES[case["server"]["refused"]]):
            canonical(case["url"])
    else:
        assert canonical(case["url"]) == case["server"]["canonical"]


@inputs
@pytest.mark.parametrize("library", ["requests", "httpx", "client"])
def test_servers_accept_what_clients_sign(case: dict[str, Any], library: str) -> None:
    """Each htu of the table names the caller's URL to a server that has one for it."""
    htu = case[library].get("htu")
    refused = case["server"].get("refused")
    # Two are other resources: requests encodes reserved characters and drops a trailing dot.
    others = {"characters-no-url-has", "host-with-trailing-dot"}
    if htu is None or refused in {"userinfo", "space", "backslash", "escape"} or case["id"] in others:
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
        with pytest.raises(InvalidTargetError, match=SENTENCES[case["refused"]]):
            canonical(case["claim"])
    else:
        assert (canonical(case["claim"]) == canonical(case["url"])) is case["equal"]


def test_the_tables_are_whole() -> None:
    """All inputs and pairs are there, and every sentence has a case."""
    assert (len(INPUTS), len(PAIRS)) >= (54, 56)
    used = {v["refused"] for c in INPUTS for v in c.values() if isinstance(v, dict) and "refused" in v}
    assert used | {c["refused"] for c in PAIRS if "refused" in c} == set(SENTENCES)


def test_a_request_url_that_is_refused_is_the_servers_fault() -> None:
    """A bad claim is False; a bad URL of the request is an error, for the server's own setting is wrong."""
    assert not same_target("nonsense", "https://api.example/")
    with pytest.raises(InvalidTargetError):
        same_target("https://api.example/", "nonsense")


@pytest.mark.parametrize("raw", ["\x00", "\x1f", " ", "\x7f", "\\", "\n"])
def test_a_claim_equal_to_a_refused_url_is_not_accepted(raw: str) -> None:
    """Equal text is no reason to accept what has no canonical form."""
    url = f"https://api.example/a{raw}b"
    with pytest.raises(InvalidTargetError):
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
        with pytest.raises(InvalidTargetError, match="more than 4096 characters"):
            refused()


def test_servers_count_the_whole_claim() -> None:
    """A claim of more than MAX_HTU characters is refused before it is read, its query included."""
    url = "https://api.example/x"
    assert same_target(url + "?" + "q" * (MAX_HTU - len(url) - 1), url)
    assert not same_target(url + "?" + "q" * (MAX_HTU - len(url)), url)
    with pytest.raises(InvalidTargetError, match="4096 characters"):
        canonical(url + "?" + "q" * MAX_HTU)
    with pytest.raises(InvalidTargetError, match="4096 characters"):
        canonical("https://api.example/" + "\u00e9" * 1000)


@pytest.mark.parametrize("form", [canonical, lambda url: compared_request(url).decode("latin-1")])
def test_a_server_counts_to_the_edge(form: Callable[[str], str]) -> None:
    """A URL of MAX_HTU characters is read, and so is one that has them when it is percent-encoded."""
    front = "https://api.example/"
    room = MAX_HTU - len(front)
    for path in ("a" * room, "\u00e9" * (room // 6) + "a" * (room % 6)):
        assert form(front + path)
        with pytest.raises(InvalidTargetError, match="4096 characters"):
            form(front + path + "a")


@pytest.mark.parametrize("lead", ["%0", "%1"])
def test_an_escaped_control_character_is_no_other_character(lead: str) -> None:
    """No escape of a control character is equal to any character that may stand in a path."""
    literals = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%\\?#"]
    for digit in "0123456789abcdef":
        claim = f"https://api.example/x{lead}{digit}"
        assert same_target(claim, claim.upper().replace("HTTPS://API.EXAMPLE/X", "https://api.example/x"))
        assert [other for other in literals if same_target(claim, f"https://api.example/x{other}")] == []


def test_dot_segments_are_resolved_up_to_a_depth() -> None:
    """A claim of 128 segments may have dot segments, and one of 129 may not: resolving them takes time."""
    most = "https://api.example" + "/a" * 126 + "/../b"
    assert most.count("/") - 2 == 128
    assert compared_request(most) == compared_request("https://api.example" + "/a" * 125 + "/b")
    with pytest.raises(InvalidTargetError, match="deeper than 128 segments"):
        compared_request(most + "/c")


@pytest.mark.parametrize("claim", ["https://b\u00fccher.example/", "https://xn--bcher-kva.example/"])
def test_an_international_host_in_either_form(claim: str) -> None:
    """A claim may have the host as people write it or as an A-label; the URL of the request too."""
    for url in ("https://b\u00fccher.example/", "https://xn--bcher-kva.example/"):
        assert same_target(claim, url)
    assert not same_target(claim, "https://xn--bcher-kvb.example/")


# --- methods


@pytest.mark.parametrize("method", ["GET", "POST", "get", "M-SEARCH", "PROPPATCH", "!#$%&'*+-.^_`|~09azAZ", "M" * 64])
def test_methods_keep_their_case(method: str) -> None:
    """Any RFC 9110 token is a method, and case matters."""
    assert check_method(method) == method


def test_a_method_has_64_characters_at_most() -> None:
    """One more is refused with a sentence of its own."""
    with pytest.raises(InvalidTargetError, match="longer than 64 characters"):
        check_method("M" * 65)


@pytest.mark.parametrize("method", ["", " ", "GET ", "GET\r\n", "GE T", "G\u00c9T", "GET/", "GET:", '"GET"', "\x00"])
def test_what_is_no_method(method: str) -> None:
    """Spaces, separators, controls and non-ASCII are refused with an example of what is meant."""
    with pytest.raises(InvalidTargetError, match="expected one such as GET"):
        check_method(method)


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
        with pytest.raises(InvalidTargetError) as caught:
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
