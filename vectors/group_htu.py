# SPDX-License-Identifier: Apache-2.0
"""The htu claim: what a client makes of a URL, and what a server takes as the same target."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["inputs", "pairs"]

HOST = "server.example.com"
S = f"https://{HOST}"


class Row(NamedTuple):
    """One URL.

    :param sent: Host and request-target that requests sends for it; with a third word, why it gets no proof.
    :param httpx: the same for httpx, where it sends something else.
    :param client: where no library is known: ``htu ...`` or ``refuse ...``, by default the htu with httpx.
    :param server: the canonical form, ``refuse ...``, or by default the client's htu.
    """

    id: str
    url: str
    sent: str
    httpx: str | None = None
    client: str | None = None
    server: str | None = None
    note: str = ""


# Percent signs stand for themselves; the targets have no spaces.
ROWS = [
    Row("plain", f"{S}/token", f"{HOST} /token"),
    Row("scheme-case", f"HTTPS://{HOST}/token", f"{HOST} /token"),
    Row("host-case", "https://Server.Example.COM/token", f"{HOST} /token"),
    Row("default-port", f"{S}:443/token", f"{HOST} /token"),
    Row("default-port-of-http", f"http://{HOST}:80/token", f"{HOST} /token"),
    Row("port-of-the-other-scheme", f"{S}:80/token", f"{HOST}:80 /token"),
    Row("port", f"{S}:8443/token", f"{HOST}:8443 /token"),
    Row("port-with-leading-zero", f"{S}:08443/token", f"{HOST}:8443 /token"),
    Row("port-empty", f"{S}:/token", f"{HOST} /token"),
    Row("path-empty", S, f"{HOST} /"),
    Row("path-root", f"{S}/", f"{HOST} /"),
    Row("query-without-path", f"{S}?x=1", f"{HOST} /?x=1"),
    Row("query", f"{S}/token?a=1&b=2", f"{HOST} /token?a=1&b=2"),
    Row("query-empty", f"{S}/token?", f"{HOST} /token", f"{HOST} /token?"),
    Row("fragment", f"{S}/token#frag", f"{HOST} /token"),
    Row("query-and-fragment", f"{S}/token?a=1#f?g", f"{HOST} /token?a=1"),
    Row(
        "userinfo",
        f"https://user:pw@{HOST}/token",
        f"{HOST} /token",
        client="refuse userinfo",
        note="RFC 9110 4.2.4; a library that takes it for Basic sends a target that can be named",
    ),
    Row("trailing-slash", f"{S}/token/", f"{HOST} /token/"),
    Row("double-slash-first", f"{S}//token", f"{HOST} //token"),
    Row("double-slash", f"{S}/a//b", f"{HOST} /a//b"),
    Row("dot", f"{S}/a/./b", f"{HOST} /a/b"),
    Row("dot-dot", f"{S}/a/x/../b", f"{HOST} /a/b"),
    Row("dot-dot-above-root", f"{S}/../token", f"{HOST} /token"),
    Row(
        "dot-dot-encoded",
        f"{S}/a/%2e%2e/b",
        f"{HOST} /a/../b dot-segment",
        f"{HOST} /a/%2e%2e/b dot-segment",
        server=f"{S}/b",
        note="a server may resolve it before it compares, or not: no htu is right for both",
    ),
    Row("escape-lower-case", f"{S}/a%2fb", f"{HOST} /a%2Fb", f"{HOST} /a%2fb", server=f"{S}/a%2Fb"),
    Row("escape-upper-case", f"{S}/a%2Fb", f"{HOST} /a%2Fb"),
    Row(
        "escape-of-unreserved",
        f"{S}/%74oken/%7Euser",
        f"{HOST} /token/~user",
        f"{HOST} /%74oken/%7Euser",
        server=f"{S}/token/~user",
    ),
    Row("tilde", f"{S}/~user/token", f"{HOST} /~user/token"),
    Row("space-encoded", f"{S}/a%20b", f"{HOST} /a%20b"),
    Row("plus", f"{S}/a+b", f"{HOST} /a+b"),
    Row("space", f"{S}/a b", f"{HOST} /a%20b", client="refuse space"),
    Row("matrix-parameter", f"{S}/a;v=1/b", f"{HOST} /a;v=1/b"),
    Row("at-sign-and-colon-in-path", f"{S}/users/me@example.com:1", f"{HOST} /users/me@example.com:1"),
    Row("sub-delims", f"{S}/a!$&'()*+,;=b", f"{HOST} /a!$&'()*+,;=b"),
    Row(
        "characters-no-url-has",
        f'{S}/a"b<c>[d]{{e}}|f^g`h',
        f"{HOST} /a%22b%3Cc%3E%5Bd%5D%7Be%7D%7Cf%5Eg%60h",
        f"{HOST} /a%22b%3Cc%3E[d]%7Be%7D|f^g%60h character",
        server=f'{S}/a"b<c>[d]{{e}}|f^g`h',
        note="libraries escape different ones of them, so what is sent cannot be told from the URL",
    ),
    Row(
        "backslash",
        f"{S}/a\\b",
        f"{HOST} /a%5Cb",
        f"{HOST} /a\\b backslash",
        note="WHATWG URL parsers turn it into a slash",
    ),
    Row("percent-alone", f"{S}/100%/x", f"{HOST} /100%25/x", f"{HOST} /100%/x escape"),
    Row("percent-encoded", f"{S}/a%252Fb", f"{HOST} /a%252Fb"),
    Row("not-ascii", f"{S}/caf\u00e9", f"{HOST} /caf%C3%A9"),
    Row("not-ascii-decomposed", f"{S}/cafe\u0301", f"{HOST} /cafe%CC%81", note="no Unicode normalisation"),
    Row("not-ascii-encoded", f"{S}/caf%C3%A9", f"{HOST} /caf%C3%A9"),
    Row("not-latin", f"{S}/\u0434\u043e\u043a", f"{HOST} /%D0%B4%D0%BE%D0%BA"),
    Row("idn", "https://b\u00fccher.example/token", "xn--bcher-kva.example /token"),
    Row("idn-upper-case", "https://B\u00dcCHER.example/token", "xn--bcher-kva.example /token"),
    Row("idn-a-label", "https://xn--bcher-kva.example/token", "xn--bcher-kva.example /token"),
    Row(
        "idn-sharp-s",
        "https://stra\u00dfe.example/token",
        "xn--strae-oqa.example /token",
        note="UTS 46, non-transitional: not strasse.example",
    ),
    Row("host-with-trailing-dot", f"{S}./token", f"{HOST} /token", f"{HOST}. /token", note="another host"),
    Row("ipv4", "https://127.0.0.1:8443/token", "127.0.0.1:8443 /token"),
    Row("ipv6", "https://[2001:db8::1]/token", "[2001:db8::1] /token"),
    Row(
        "ipv6-long",
        "https://[2001:0DB8:0:0:0:0:0:1]:443/token",
        "[2001:0db8:0:0:0:0:0:1] /token ipv6-form",
        "[2001:0DB8:0:0:0:0:0:1] /token ipv6-form",
        client="htu https://[2001:db8::1]/token",
        note="RFC 5952; write the URL so before it is sent",
    ),
    Row(
        "ipv6-with-ipv4",
        "https://[::ffff:192.0.2.1]/token",
        "[::ffff:192.0.2.1] /token ipv6-form",
        client="htu https://[::ffff:c000:201]/token",
    ),
    Row("host-with-underscore", "https://my_host.example.com/token", "my_host.example.com /token"),
    Row("path-case", f"{S}/Token", f"{HOST} /Token"),
    Row(
        "colons-in-query",
        "https://pds.example.com/xrpc/com.atproto.repo.listRecords?repo=did:plc:abc",
        "pds.example.com /xrpc/com.atproto.repo.listRecords?repo=did:plc:abc",
    ),
]

EQUAL = [
    ("same", f"{S}/token", f"{S}/token"),
    ("scheme-and-host-case", "HTTPS://SERVER.example.com/token", f"{S}/token"),
    ("default-port", f"{S}:443/token", f"{S}/token"),
    ("port-empty", f"{S}:/token", f"{S}/token"),
    ("port-with-leading-zero", f"{S}:0443/token", f"{S}/token"),
    ("default-port-of-http", f"http://{HOST}:80/token", f"http://{HOST}/token"),
    ("path-empty", S, f"{S}/"),
    ("query-without-path", f"{S}?x=1", f"{S}/"),
    ("query", f"{S}/token?a=b", f"{S}/token"),
    ("fragment", f"{S}/token#f", f"{S}/token"),
    ("other-query", f"{S}/token?a#b", f"{S}/token?c"),
    ("escape-case", f"{S}/a%2fb", f"{S}/a%2Fb"),
    ("escape-of-unreserved", f"{S}/%7Euser", f"{S}/~user"),
    ("escape-of-letter", f"{S}/%74oken", f"{S}/token"),
    ("dot", f"{S}/a/./b", f"{S}/a/b"),
    ("dot-dot", f"{S}/a/x/../b", f"{S}/a/b"),
    ("dot-dot-above-root", f"{S}/../token", f"{S}/token"),
    ("dot-dot-encoded", f"{S}/a/%2e%2e/b", f"{S}/b"),
    ("not-ascii", f"{S}/caf\u00e9", f"{S}/caf%C3%A9"),
    ("not-ascii-escape-case", f"{S}/caf%c3%a9", f"{S}/caf%C3%A9"),
    ("idn", "https://b\u00fccher.example/t", "https://xn--bcher-kva.example/t"),
    ("idn-upper-case", "https://B\u00dcCHER.example/t", "https://xn--bcher-kva.example/t"),
    ("ipv6-form", "https://[2001:DB8:0:0::1]/t", "https://[2001:db8::1]/t"),
    ("ipv6-default-port", "https://[2001:db8::1]:443/t", "https://[2001:db8::1]/t"),
    ("escape-in-request", f"{S}/.well-known/x", f"{S}/%2Ewell-known/x"),
]

# With a fourth entry, the reason why the claim has no canonical form at all.
UNEQUAL: list[tuple[str, ...]] = [
    ("scheme", f"http://{HOST}/token", f"{S}/token"),
    ("port-of-the-other-scheme", f"{S}:80/token", f"{S}/token"),
    ("port", f"{S}:8443/token", f"{S}/token"),
    ("scheme-with-the-others-port", f"http://{HOST}:443/token", f"{S}/token"),
    ("trailing-slash", f"{S}/token/", f"{S}/token"),
    ("path-case", f"{S}/Token", f"{S}/token"),
    ("double-slash-first", f"{S}//token", f"{S}/token"),
    ("double-slash", f"{S}/a//b", f"{S}/a/b"),
    ("escape-of-slash", f"{S}/a%2Fb", f"{S}/a/b"),
    ("escape-twice", f"{S}/a%252Fb", f"{S}/a%2Fb"),
    ("plus-is-no-space", f"{S}/a+b", f"{S}/a%20b"),
    ("matrix-parameter", f"{S}/a;v=1", f"{S}/a"),
    ("host-with-trailing-dot", f"{S}./token", f"{S}/token"),
    ("host-prefix", f"{S}.evil.org/token", f"{S}/token"),
    ("host-suffix", f"https://sub.{HOST}/token", f"{S}/token"),
    ("userinfo", f"https://user:pw@{HOST}/token", f"{S}/token", "userinfo"),
    ("userinfo-that-looks-like-the-host", f"{S}@evil.org/token", f"{S}/token", "userinfo"),
    ("idn-sharp-s", "https://stra\u00dfe.example/t", "https://strasse.example/t"),
    ("idn-homograph", "https://server.ex\u0430mple.com/token", f"{S}/token"),
    ("not-ascii-decomposed", f"{S}/cafe\u0301", f"{S}/caf%C3%A9"),
    ("ipv4-short", "https://127.1/t", "https://127.0.0.1/t"),
    ("ipv4-mapped", "https://[::ffff:127.0.0.1]/t", "https://127.0.0.1/t"),
    ("relative", "/token", f"{S}/token", "not-absolute"),
    ("scheme-relative", f"//{HOST}/token", f"{S}/token", "not-absolute"),
    ("backslash", f"{S}\\token", f"{S}/token", "host"),
    ("tab", f"{S}/to\tken", f"{S}/token", "space"),
    ("leading-space", f" {S}/token", f"{S}/token", "not-absolute"),
    ("percent-alone", f"{S}/100%", f"{S}/100%25", "escape"),
    ("other-scheme", f"wss://{HOST}/token", f"{S}/token", "scheme"),
    ("nul-encoded", f"{S}/token%00", f"{S}/token"),
    ("dot-dot-with-parameter", f"{S}/a/..;/b", f"{S}/b"),
]


def inputs() -> dict[str, Any]:
    """The file htu_inputs.json."""
    return {
        "about": [
            "URLs as a caller writes them, and the htu claim (RFC 9449 4.2) a client puts into the proof.",
            "requests, httpx: host and request-target that these two libraries send for the URL, and the htu of",
            "that request, or why no proof is made for it.",
            "client: the htu for the URL itself, where the library that sends it is not known.",
            "server: the form in which a server compares it. refused: what is wrong with it.",
        ],
        "cases": [_case(row) for row in ROWS],
    }


def _case(row: Row) -> dict[str, Any]:
    scheme = row.url.partition(":")[0].lower()
    by_requests, by_httpx = (_sent(scheme, text) for text in (row.sent, row.httpx or row.sent))
    if row.client is not None:
        kind, _, value = row.client.partition(" ")
        client = {"htu": value} if kind == "htu" else {"refused": value}
    else:
        client = {name: by_httpx[name] for name in ("htu", "refused") if name in by_httpx}
    if row.server is not None:
        server = {"canonical": row.server}
    else:
        server = {"refused": client["refused"]} if "refused" in client else {"canonical": client["htu"]}
    case: dict[str, Any] = {"id": row.id}
    if row.note:
        case["note"] = row.note
    return case | {"url": row.url, "requests": by_requests, "httpx": by_httpx, "client": client, "server": server}


def _sent(scheme: str, text: str) -> dict[str, str]:
    """What goes over the wire and, by the rule itself, its htu: everything as sent, up to the query."""
    host, target, *reason = text.split(" ")
    sent = {"host": host, "target": target}
    if reason:
        return sent | {"refused": reason[0]}
    return sent | {"htu": f"{scheme}://{host.lower()}{target.partition('?')[0]}"}


def pairs() -> dict[str, Any]:
    """The file htu_pairs.json."""
    cases = [{"id": name, "claim": claim, "url": url, "equal": True} for name, claim, url in EQUAL]
    for name, claim, url, *reason in UNEQUAL:
        case: dict[str, Any] = {"id": f"not-{name}", "claim": claim, "url": url, "equal": False}
        cases.append(case | ({"refused": reason[0]} if reason else {}))
    return {
        "about": [
            "An htu claim and the URL of the request it came with.",
            "equal: a server takes the claim as naming that URL (RFC 9449 4.3, RFC 3986 6.2.2 and 6.2.3).",
            "refused: why the claim has no canonical form at all.",
        ],
        "cases": cases,
    }
