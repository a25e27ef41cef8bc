# SPDX-License-Identifier: Apache-2.0
"""Read a command line like curl: find its options, their values, and the URL.

An option is passed on only if it is known that the command still sends one request with one proof. The names of the
options, and whether they take a value, come from curl 7.55 to 8.17; a test compares them with the installed curl.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import click

from dpop_cli.console.command import OTHER_OPTIONS
from dpop_cli.console.output import closest

__all__ = ["REFUSED", "SHORT", "WITHOUT_VALUE", "WITH_VALUE", "CurlOption", "CurlWords", "read_words", "split_words"]

WITH_VALUE = frozenset(
    """
    abstract-unix-socket alt-svc aws-sigv4 cacert capath cert cert-type ciphers connect-timeout connect-to
    continue-at cookie cookie-jar create-file-mode crlfile curves data data-ascii data-binary data-raw
    data-urlencode delegation dns-interface dns-ipv4-addr dns-ipv6-addr dns-servers doh-url dump-header ech
    egd-file engine etag-compare etag-save expect100-timeout form form-string happy-eyeballs-timeout-ms
    haproxy-clientip header hsts interface ip-tos json keepalive-cnt keepalive-time key key-type knownhosts
    limit-rate local-port max-filesize max-redirs max-time netrc-file noproxy output output-dir pass
    pinnedpubkey preproxy proto proto-redir proxy proxy-cacert proxy-capath proxy-cert proxy-cert-type
    proxy-ciphers proxy-crlfile proxy-header proxy-key proxy-key-type proxy-pass proxy-pinnedpubkey
    proxy-service-name proxy-tls13-ciphers proxy-tlsauthtype proxy-tlspassword proxy-tlsuser proxy-user
    proxy1.0 random-file range rate referer request resolve service-name sigalgs socks4 socks4a socks5
    socks5-gssapi-service socks5-hostname speed-limit speed-time ssl-sessions stderr time-cond tls-max
    tls13-ciphers tlsauthtype tlspassword tlsuser trace trace-ascii trace-config unix-socket upload-file url
    url-query user user-agent vlan-priority write-out
    """.split()  # noqa: SIM905 - to be read, and compared with curl's own list
)
"""Options that take a value and may be passed on."""

WITHOUT_VALUE = frozenset(
    """
    alpn basic buffer ca-native cert-status clobber compressed create-dirs crlf disable
    disallow-username-in-url doh-cert-status doh-insecure fail fail-early fail-with-body false-start
    form-escape get globoff haproxy-protocol head http0.9 http1.0 http1.1 http2 http2-prior-knowledge http3
    http3-only ignore-content-length include insecure ipv4 ipv6 junk-session-cookies keepalive location mptcp
    netrc netrc-optional npn out-null post301 post302 post303 progress-bar progress-meter proxy-anyauth
    proxy-basic proxy-ca-native proxy-digest proxy-http2 proxy-insecure proxy-negotiate proxy-ntlm
    proxy-ssl-allow-beast proxy-ssl-auto-client-cert proxy-tlsv1 proxytunnel raw remote-header-name
    remote-name remote-name-all remote-time remove-on-error sessionid show-error show-headers silent
    skip-existing socks5-basic socks5-gssapi socks5-gssapi-nec ssl ssl-allow-beast ssl-auto-client-cert
    ssl-no-revoke ssl-reqd ssl-revoke-best-effort sslv2 sslv3 styled-output suppress-connect-headers
    tcp-fastopen tcp-nodelay tls-earlydata tlsv1 tlsv1.0 tlsv1.1 tlsv1.2 tlsv1.3 tr-encoding trace-ids
    trace-time use-ascii verbose xattr
    """.split()  # noqa: SIM905 - to be read, and compared with curl's own list
)
"""Options that take no value and may be passed on; ``--no-`` turns each of them off."""

_SEVERAL = "makes several requests, but each needs a proof of its own; run dpop curl once for each"
_AGAIN = "sends the same proof again, which a server refuses; run the command again instead"
_TWICE = "sends a request twice with one proof"
_TWO_URLS = "can change the URL that the proof is for; write the URL itself"

REFUSED = {
    "next": _SEVERAL,
    "parallel": _SEVERAL,
    "parallel-immediate": _SEVERAL,
    "parallel-max": _SEVERAL,
    "parallel-max-host": _SEVERAL,
    "config": "may contain any option and several URLs; give its options here",
    "retry": _AGAIN,
    "retry-all-errors": _AGAIN,
    "retry-connrefused": _AGAIN,
    "retry-delay": _AGAIN,
    "retry-max-time": _AGAIN,
    "location-trusted": "sends the token to any host that a server names; use -L, which stays within the origin",
    "follow": "may send the proof to another origin; use -L, which does not",
    "anyauth": _TWICE,
    "digest": _TWICE,
    "negotiate": _TWICE,
    "ntlm": _TWICE,
    "ntlm-wb": _TWICE,
    "oauth2-bearer": "shows the token in the list of processes; use --token-file before curl's options",
    "request-target": _TWO_URLS,
    "path-as-is": _TWO_URLS,
    "variable": _TWO_URLS,
    "ipfs-gateway": _TWO_URLS,
    "libcurl": "writes the proof and the token to a file",
    "help": "is for curl itself; see curl --help, or dpop curl --help",
    "manual": "is for curl itself; run curl --manual",
    "version": "is for curl itself; run curl --version",
}
"""Options that are refused, with the reason."""

SHORT = {
    "0": "http1.0",
    "1": "tlsv1",
    "2": "sslv2",
    "3": "sslv3",
    "4": "ipv4",
    "6": "ipv6",
    "A": "user-agent",
    "B": "use-ascii",
    "C": "continue-at",
    "D": "dump-header",
    "E": "cert",
    "F": "form",
    "G": "get",
    "H": "header",
    "I": "head",
    "J": "remote-header-name",
    "K": "config",
    "L": "location",
    "M": "manual",
    "N": "no-buffer",
    "O": "remote-name",
    "R": "remote-time",
    "S": "show-error",
    "T": "upload-file",
    "U": "proxy-user",
    "V": "version",
    "X": "request",
    "Y": "speed-limit",
    "Z": "parallel",
    "b": "cookie",
    "c": "cookie-jar",
    "d": "data",
    "e": "referer",
    "f": "fail",
    "g": "globoff",
    "h": "help",
    "i": "include",
    "j": "junk-session-cookies",
    "k": "insecure",
    "m": "max-time",
    "n": "netrc",
    "o": "output",
    "p": "proxytunnel",
    "q": "disable",
    "r": "range",
    "s": "silent",
    "u": "user",
    "v": "verbose",
    "w": "write-out",
    "x": "proxy",
    "y": "speed-time",
    "z": "time-cond",
    "#": "progress-bar",
    ":": "next",
}
"""Long names of the options of one letter."""


class CurlOption(NamedTuple):
    """One option as the user gave it.

    :param name: the long name, without ``--no-``.
    :param spelling: the option as it was written, such as ``-d`` or ``--no-buffer``.
    :param value: its value; None for an option without a value.
    :param on: True, or False if ``--no-`` turns it off.
    """

    name: str
    spelling: str
    value: str | None = None
    on: bool = True

    def __repr__(self) -> str:
        # Values hold passwords, tokens and forms.
        return f"<CurlOption {self.spelling}>"

    @property
    def words(self) -> list[str]:
        """The option as command line words."""
        return [self.spelling] if self.value is None else [self.spelling, self.value]


class CurlWords(NamedTuple):
    """A whole command line of curl: its options in order, and its URLs."""

    options: tuple[CurlOption, ...]
    urls: tuple[str, ...]

    def is_on(self, *names: str) -> bool:
        """Whether a switch is on, under any of its names; the last occurrence counts."""
        return next((option.on for option in reversed(self.options) if option.name in names), False)

    def is_off(self, name: str) -> bool:
        """Whether a switch was turned off by ``--no-``."""
        return next((not option.on for option in reversed(self.options) if option.name == name), False)

    def values(self, *names: str) -> list[str]:
        """All values of the options with these names, in order."""
        return [option.value for option in self.options if option.name in names and option.value is not None]

    def last(self, name: str) -> str | None:
        """The value of an option; the last one counts if it was given several times."""
        return next(reversed(self.values(name)), None)

    def has(self, *names: str) -> bool:
        """Whether any of these options was given."""
        return any(option.name in names for option in self.options)

    def without(self, names: Iterable[str]) -> CurlWords:
        """Return a copy without the options of these names."""
        left_out = frozenset(names)
        return self._replace(options=tuple(option for option in self.options if option.name not in left_out))


def split_words(words: Sequence[str], ours: Mapping[str, bool]) -> tuple[list[str], list[str]]:
    """Separate our options from curl's words, anywhere before ``--``.

    An option name that both have means ours before the first word of curl, and curl's after it. After a ``--`` all
    words are curl's.

    :param ours: our options, and whether they take a value.
    """
    mine: list[str] = []
    curls: list[str] = []
    place = 0
    while place < len(words):
        word = words[place]
        if word == "--":
            return mine, [*curls, *words[place if curls else place + 1 :]]
        name = word.partition("=")[0]
        if name in ours and not (curls and name[2:] in WITH_VALUE):
            count = 2 if ours[name] and "=" not in word else 1
            mine += words[place : place + count]
        else:
            count = 2 if _wants_next(word) else 1
            curls += words[place : place + count]
        place += count
    return mine, curls


def _wants_next(word: str) -> bool:
    """Whether the option in this word takes the next word as its value."""
    if word.startswith("--"):
        return word[2:] in WITH_VALUE
    if word.startswith("-"):
        for place, letter in enumerate(word[1:], start=2):
            if SHORT.get(letter) in WITH_VALUE:
                return place == len(word)
    return False


def read_words(words: Sequence[str], ours: Iterable[str] = ()) -> CurlWords:
    """Read curl's arguments like curl: combined letters, attached or separate values, ``--`` before URLs.

    :param ours: the names of our options; an unknown word may be one of them, misspelt.
    :raises click.UsageError: an option is refused or unknown, or its value is missing. No value is
        in the message.
    """
    options: list[CurlOption] = []
    urls: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            urls += rest
            break
        if word.startswith("--"):
            options.append(_long(word, rest, ours))
        elif word.startswith("-"):
            options += _cluster(word, rest)
        else:
            urls.append(word)
    found = CurlWords(tuple(option for option in options if option.name not in {"url", "disable"}), tuple(urls))
    named = [option.value for option in options if option.name == "url" and option.value is not None]
    return found._replace(urls=(*named, *found.urls))


def _long(word: str, rest: list[str], ours: Iterable[str]) -> CurlOption:
    name = word[2:]
    if name in WITH_VALUE:
        return CurlOption(name, word, _value(word, rest))
    on = True
    if name not in WITHOUT_VALUE and name.startswith("no-") and name[3:] in WITHOUT_VALUE:
        name, on = name[3:], False
    _check_known(name, word, ours)
    return CurlOption(name, word, None, on)


def _cluster(word: str, rest: list[str]) -> list[CurlOption]:
    found: list[CurlOption] = []
    letters = word[1:]
    while letters or not found:
        letter, letters = letters[:1], letters[1:]
        name, spelling = SHORT.get(letter, letter), f"-{letter}"
        if name in WITH_VALUE:
            found.append(CurlOption(name, spelling, letters or _value(spelling, rest)))
            break
        on = not name.startswith("no-")
        name = name.removeprefix("no-")
        _check_known(name, spelling)
        found.append(CurlOption(name, spelling, None, on))
    return found


def _value(spelling: str, rest: list[str]) -> str:
    if not rest:
        raise click.UsageError(f"the value of curl's option {spelling} is missing")
    return rest.pop(0)


def _check_known(name: str, spelling: str, ours: Iterable[str] = ()) -> None:
    if name in WITHOUT_VALUE:
        return
    reason = REFUSED.get(name.removeprefix("no-"))
    if name.startswith("expand-"):
        reason = _TWO_URLS
    if reason is not None:
        raise click.UsageError(f"curl's option {spelling} {reason}")
    # The word may be a token that begins with a dash.
    if len(spelling) > 30 or not spelling.isprintable():
        spelling, guess = "here", ""
    else:
        word = spelling.partition("=")[0]
        ours = frozenset(ours)
        others = {"--token": "--token-file"} | {each: meant for each, meant in OTHER_OPTIONS.items() if meant in ours}
        near = closest(word, [*ours, *others, *(f"--{each}" for each in sorted(WITH_VALUE | WITHOUT_VALUE))])
        guess = f"; did you mean {others.get(near[0], near[0])}?" if near else ""
    raise click.UsageError(
        f"dpop curl does not pass on an option {spelling} to curl{guess} Write curl's options in full,"
        " and dpop's own before them"
        if guess
        else f"dpop curl does not pass on an option {spelling} to curl; write curl's options in full,"
        " and dpop's own before them"
    )
