# SPDX-License-Identifier: Apache-2.0
"""Origins: what names a server, what is refused, and what a refusal may say."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpop.errors import ArgumentTypeError, InvalidTargetError, UsageError
from dpop.origin import Origin, split_url, wire_origin

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://api.example", "https://api.example"),
        ("https://api.example/", "https://api.example"),
        ("HTTPS://API.Example:443", "https://api.example"),
        ("https://api.example:0443/", "https://api.example"),
        ("https://api.example:", "https://api.example"),
        ("https://api.example:80", "https://api.example:80"),
        ("http://api.example:80", "http://api.example"),
        ("http://localhost:08000", "http://localhost:8000"),
        ("https://api.example.:8443", "https://api.example.:8443"),
        ("https://my_host.example", "https://my_host.example"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("https://b\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://B\u00dcCHER.example:8443", "https://xn--bcher-kva.example:8443"),
        ("https://stra\u00dfe.example", "https://xn--strae-oqa.example"),
        ("https://\uff41\uff50\uff49\u3002example", "https://api.example"),
        ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
        ("https://127.1", "https://127.1"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("https://[2001:0DB8:0:0:0:0:0:1]:443", "https://[2001:db8::1]"),
        ("https://[::ffff:192.0.2.1]", "https://[::ffff:c000:201]"),
    ],
)
def test_one_spelling(text: str, expected: str) -> None:
    """However an origin is written, it is printed in one way, and that is read as the same origin."""
    origin = Origin.parse(text)
    assert str(origin) == expected
    assert Origin.parse(expected) == origin
    assert Origin.of_url(text) == origin
    assert f"{origin.scheme}://{origin.authority}" == expected


def test_the_parts() -> None:
    """An origin has a scheme, a host without brackets and a number for a port, and is a dict key."""
    origin = Origin.parse("https://[::1]:8443")
    assert (origin.scheme, origin.host, origin.port, origin.authority) == ("https", "::1", 8443, "[::1]:8443")
    assert {origin: 1}[Origin("https", "::1", 8443)] == 1
    assert Origin.parse("https://a.example") != Origin.parse("http://a.example:443")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://api.example/v1", "no path"),
        ("https://api.example//", "no path"),
        ("https://api.example?", "no path, query"),
        ("https://api.example/?q", "no path, query"),
        ("https://api.example#", "fragment"),
        ("https://user@api.example", "user or password"),
        ("https://@api.example", "user or password"),
        ("api.example", "not an absolute URL"),
        ("//api.example", "not an absolute URL"),
        ("https:/api.example", "not an absolute URL"),
        ("", "not an absolute URL"),
        (" https://api.example", "not an absolute URL: it has white space"),
        ("https://api.example:8443 ", "white space after it"),
        ("wss://api.example", "neither an https nor an http.*handshake.*https for wss"),
        ("WS://127.0.0.1", "neither an https nor an http.*http for ws"),
        ("file:///etc", "neither an https nor an http"),
        ("https://", "no host"),
        ("https://:443", "no host"),
        ("https://*.example", "character that no host name has"),
        ("https://api example", "character that no host name has"),
        ("https://api.example\n", "character that no host name has"),
        ("https://api.exam\tple", "character that no host name has"),
        ("https://api.example\\", "character that no host name has"),
        ("https://.example", "empty label"),
        ("https://api..example", "empty label"),
        ("https://.", "empty label"),
        ("https://api.example..", "empty label"),
        ("https://api%2eexample", "percent sign"),
        ("https://" + "a." * 126 + "aa", "longer than 253"),
        ("https://" + "\u00fc" * 254, "longer than 253"),
        ("https://\u00fc\ud800.example", "IDNA"),
        ("https://my_h\u00f6st.example", "IDNA"),
        ("https://\uff05\uff05.example", "IDNA|character"),
        ("https://api.example:0", "1 to 65535"),
        ("https://api.example:65536", "1 to 65535"),
        ("https://api.example:" + "0" * 500, "1 to 65535"),
        ("https://api.example:443x", "1 to 65535"),
        ("https://api.example:+443", "1 to 65535"),
        ("https://api.example:\u0664\u0664\u0663", "1 to 65535"),
        ("https://2001:db8::1", "brackets"),
        ("https://[::1", "address.:port"),
        ("https://[::1]443", "address.:port"),
        ("https://[fe80::1%25eth0]", "zone"),
        ("https://[fe80::1%eth0]", "zone"),
        ("https://[]", "not an IPv6 address"),
        ("https://[::1::]", "not an IPv6 address"),
        ("https://[127.0.0.1]", "not an IPv6 address"),
        ("https://[v1.x]", "not an IPv6 address"),
        ("https://[::\u0661]", "not an IPv6 address"),
        ("https://[::ffff:192.0.02.1]", "not an IPv6 address"),
    ],
)
def test_what_is_no_origin(text: str, why: str) -> None:
    """Each fault is refused with a sentence that names it."""
    with pytest.raises(InvalidTargetError, match=why):
        Origin.parse(text)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.example/a b\\c?q=\x00#f", "https://api.example"),
        ("https://user:hunter2@api.example:8443/x", "https://api.example:8443"),
        ("https://user@[::1]/x@y", "https://[::1]"),
        ("https://api.example?x=https://evil.test/", "https://api.example"),
        ("https://api.example#@evil.test/", "https://api.example"),
        ("https://api.example@evil.test/", "https://evil.test"),
        ("https://api.example.evil.test/", "https://api.example.evil.test"),
    ],
)
def test_of_url_reads_the_origin_only(url: str, expected: str) -> None:
    """Path, query, fragment and userinfo are no part of an origin and cannot pose as one."""
    assert str(Origin.of_url(url)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "https://api.example\\@evil.test/",
        "https://a@b@evil.test/",
        "https://a\t@evil.test/",
        "https:///evil.test/",
        "https://api.example\\.evil.test/",
        "https://evil.test\\.api.example",
        "https://api.example\t.evil.test/",
        "https://api.example%2f@evil.test%00/",
    ],
)
def test_of_url_refuses_what_parsers_read_differently(url: str) -> None:
    """Where two URL parsers would see two hosts, there is no origin."""
    with pytest.raises(InvalidTargetError):
        Origin.of_url(url)


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://localhost:8000", True),
        ("http://LOCALHOST", True),
        ("http://api.localhost", True),
        ("http://127.0.0.1", True),
        ("http://127.255.0.3:1", True),
        ("http://[::1]", True),
        ("http://[0:0:0:0:0:0:0:1]", True),
        ("http://\uff11\uff12\uff17.0.0.1", True),
        ("http://127.1", False),
        ("http://127.0.0.1.nip.example", False),
        ("http://0.0.0.0", False),
        ("http://[::]", False),
        ("http://[::ffff:127.0.0.1]", False),
        ("http://localhost.example", False),
        ("http://notlocalhost", False),
        ("http://10.0.0.1", False),
        ("http://api.example", False),
    ],
)
def test_loopback(url: str, loopback: bool) -> None:
    """Only names and addresses that cannot leave this machine are loopback."""
    assert Origin.of_url(url).is_loopback is loopback


@pytest.mark.parametrize(
    ("address", "printed"),
    [
        ("::", "::"),
        ("::1", "::1"),
        ("1::", "1::"),
        ("2001:db8:0:0:1:0:0:1", "2001:db8::1:0:0:1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("2001:0:0:1:0:0:0:1", "2001:0:0:1::1"),
        ("2001:db8:aaaa:bbbb:cccc:dddd:eeee:0001", "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1"),
        ("1:0:0:2:3:4:0:0", "1::2:3:4:0:0"),
        ("0:0:1:0:0:0:0:0", "0:0:1::"),
        ("64:ff9b::192.0.2.33", "64:ff9b::c000:221"),
        ("::ffff:192.0.2.1", "::ffff:c000:201"),
        ("ABCD::EF01", "abcd::ef01"),
    ],
)
def test_ipv6_is_printed_as_rfc_5952_says(address: str, printed: str) -> None:
    """RFC 5952 §4: no leading zeros, the first longest run of two or more zero groups cut, lower case."""
    assert Origin.parse(f"https://[{address}]").host == printed


@given(st.lists(st.sampled_from([0, 0, 1, 0xFFFF, 0xAB]), min_size=8, max_size=8))
def test_ipv6_printing_reads_back(groups: list[int]) -> None:
    """Every spelling of an address gives one text, and that text is the address."""
    long = ":".join(f"{g:04X}" for g in groups)
    host = Origin.parse(f"https://[{long}]").host
    assert IPv6Address(host) == IPv6Address(long)
    assert Origin.parse(f"https://[{host}]").host == host
    if groups[:5] != [0] * 5:  # str() of a mapped address depends on the Python version
        assert host == str(IPv6Address(long))


@pytest.mark.parametrize(
    ("scheme", "authority", "expected"),
    [
        ("https", "api.example", "https://api.example"),
        ("HTTPS", "API.Example:443", "https://api.example"),
        ("http", "api.example:8080", "http://api.example:8080"),
        ("https", "[2001:db8::1]:443", "https://[2001:db8::1]"),
    ],
)
def test_wire_origin(scheme: str, authority: str, expected: str) -> None:
    """The Host header gives the front of the htu."""
    assert wire_origin(scheme, authority) == expected


@pytest.mark.parametrize(
    "authority", ["[2001:DB8::1]", "[2001:0db8::1]", "[0:0:0:0:0:0:0:1]:8443", "[::ffff:192.0.2.1]"]
)
def test_wire_origin_refuses_another_form_of_ipv6(authority: str) -> None:
    """What is sent must be what is signed, so the caller is told what to write."""
    rewritten = Origin.parse(f"https://{authority}")
    with pytest.raises(InvalidTargetError, match="RFC 5952") as caught:
        wire_origin("https", authority)
    assert f"[{rewritten.host}]" in str(caught.value)
    assert wire_origin("https", rewritten.authority) == str(rewritten)


@pytest.mark.parametrize(
    "url",
    [
        f"https://user:{SECRET}@api.example\\",
        f"https://user:{SECRET}@",
        f"https://user:{SECRET}/w@api.example/",
        f"https://user:{SECRET}?@api.example/",
        f"https://{SECRET}:x@y@api.example/",
        f"https://{SECRET} @api.example:1x",
        f"user:{SECRET}@api.example",
        f"{SECRET}://api.example",
    ],
)
def test_refusals_hold_no_password(url: str) -> None:
    """Wherever a mistyped URL has its password, the message does not."""
    for read in (Origin.parse, Origin.of_url):
        with pytest.raises(InvalidTargetError) as caught:
            read(url)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("value", [None, 1, b"https://api.example", ["https://api.example"]])
def test_only_text_is_a_url(value: Any) -> None:
    """A wrong type is named as such."""
    for read in (Origin.parse, Origin.of_url, split_url):
        with pytest.raises(ArgumentTypeError, match="url must be str"):
            read(value)


@given(st.text() | st.text(":/?#[]@%.\\-_0123456789abcxn\u00fc\u3002\u0661 ").map("https://".__add__))
def test_arbitrary_text(text: str) -> None:
    """Text is an origin with one spelling, or a usage error and nothing else."""
    for read in (Origin.parse, Origin.of_url):
        try:
            origin = read(text)
        except UsageError:
            continue
        assert Origin.parse(str(origin)) == origin
        assert str(origin).isascii()
        assert not set(str(origin)) & set("@?#\\ %")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_idna_is_loaded_for_international_names_only() -> None:
    """ASCII hosts, also those that IDNA would refuse, never touch idna."""
    code = (
        "import sys; from dpop.origin import Origin\n"
        "Origin.parse('https://my_host.xn--bcher-kva.example'); print('idna' in sys.modules)\n"
        "Origin.parse('https://b\\u00fccher.example'); print('idna' in sys.modules)"
    )
    assert run(code).split() == ["False", "True"]


def test_without_idna_the_message_says_what_to_do() -> None:
    """idna is optional; without it an international name is refused with advice."""
    code = (
        "import sys; sys.modules['idna'] = None\n"
        "from dpop.origin import Origin\n"
        "try: Origin.parse('https://b\\u00fccher.example')\n"
        "except ValueError as error: print(error)"
    )
    assert "install idna, or write the host in its xn-- form" in run(code)
