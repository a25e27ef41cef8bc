# SPDX-License-Identifier: Apache-2.0
"""Origins: the scheme, host and port of an absolute http or https URL, in one spelling.

Error messages here never repeat the text that they refuse: in a mistyped URL, the text before the first ``/`` may be a
password.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from dpop.errors import ArgumentTypeError, InvalidTargetError

__all__ = ["Origin", "front_of", "origin_of", "split_url", "wire_origin"]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# RFC 3986 §3, appendix B, without the forms that are not absolute. What follows is the path, query and fragment.
_FRONT = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*+)://([^/?#]*+)")

# A name as DNS and Docker use it: labels, in which service names may have an underscore.
_NAME = re.compile(r"[a-z0-9_\-]++(?:\.[a-z0-9_\-]++)*\.?")
_MAX_NAME: Final = 253  # RFC 1035 §2.3.4, without the trailing dot

# Browsers read https://api.example\@evil.test/ as api.example, RFC 3986 as evil.test.
_NOT_IN_USERINFO = re.compile(r"[\x00-\x20\x7f\\]")

_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_PORT = re.compile(r"0*+([0-9]{0,5})")


class Origin(NamedTuple):
    """Scheme, host and port of a server (RFC 6454 §4). Get one from :meth:`parse` or :meth:`of_url`.

    ``host`` is in lower case; an international name is an A-label, an IPv6 address is in RFC 5952
    form without brackets. ``str()`` gives the URL form, without the port if it is the default.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Parse the origin in a setting such as ``https://api.example`` or ``https://api.example:8443/``.

        :raises InvalidTargetError: a path, query, fragment, user or password; a scheme other than http and
            https; a host or port that is not valid.
        :raises ArgumentTypeError: not a str.
        """
        scheme, authority, path = split_url(text)
        if path not in {"", "/"} or "?" in text or "#" in text:
            raise InvalidTargetError(
                "an origin has no path, query or fragment: write the scheme, host and port only, "
                "such as https://api.example"
            )
        return origin_of(scheme, authority)

    @classmethod
    def of_url(cls, url: str) -> Origin:
        """Return the origin of an absolute http or https URL, without its user and password.

        :raises InvalidTargetError: not such a URL, or a host or port that is not valid.
        :raises ArgumentTypeError: not a str.
        """
        scheme, authority, _ = split_url(url)
        if "@" in authority:
            userinfo, _, authority = authority.partition("@")
            if _NOT_IN_USERINFO.search(userinfo):
                raise InvalidTargetError(
                    "the user or password in the URL contains a backslash, a space or a control character, "
                    "after which URL parsers disagree on the host; percent-encode it"
                )
        return origin_of(scheme, authority)

    @property
    def authority(self) -> str:
        """``host``, or ``host:port`` if the port is not the default; an IPv6 address is in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS.get(self.scheme) else f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether the host is this machine: 127.0.0.0/8, ::1, ``localhost`` or ``*.localhost`` (RFC 6761 §6.3)."""
        if self.host in {"localhost", "::1"} or self.host.endswith(".localhost"):
            return True
        if not self.host.startswith("127."):
            return False
        from ipaddress import AddressValueError, IPv4Address  # noqa: PLC0415 - most hosts are names

        try:
            return IPv4Address(self.host).is_loopback
        except AddressValueError:
            return False

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def split_url(url: str) -> tuple[str, str, str]:
    """Split an absolute http or https URL into scheme (in lower case), authority and path (both unchanged).

    :raises InvalidTargetError: not such a URL.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(url, str):
        raise ArgumentTypeError("url", "str", url)
    match = _FRONT.match(url)
    if match is None:
        if url[:1].isspace():
            raise InvalidTargetError("not an absolute URL: it has white space around it; strip() it")
        raise InvalidTargetError("not an absolute URL; write it whole, such as https://api.example/path")
    return _known_scheme(match[1]), match[2], url[match.end() :].partition("?")[0].partition("#")[0]


@lru_cache(maxsize=2048)  # a client may have a thousand servers
def origin_of(scheme: str, authority: str) -> Origin:
    """Return the origin of ``host[:port]`` with a scheme, both in upper or lower case; the result is cached.

    :raises InvalidTargetError: another scheme, a user or password, a host or port that is not valid.
    """
    # lru_cache does not remember exceptions, so a password in a refused authority does not stay in memory.
    scheme = _known_scheme(scheme)
    host, port = _host_and_port(authority)
    return Origin(scheme, _host(host), _port(port, scheme))


@lru_cache(maxsize=256)
def front_of(scheme: str, authority: str) -> str:
    """Return the first part of a canonical URL: ``str(origin_of(scheme, authority))``; the result is cached.

    :raises InvalidTargetError: as :func:`origin_of` does.
    """
    return str(origin_of(scheme, authority))


@lru_cache(maxsize=2048)
def wire_origin(scheme: str, authority: str) -> str:
    """Return the origin of a request that is about to be sent: the first part of its ``htu``.

    An IPv6 address in a Host header must already be in RFC 5952 form. Otherwise it would differ from the address in
    the proof for servers that compare strings.

    :raises InvalidTargetError: as :func:`origin_of` does, and for such an address.
    """
    origin = origin_of(scheme, authority)
    host, _ = _host_and_port(authority)
    if host.startswith("[") and host != f"[{origin.host}]":
        raise InvalidTargetError(
            "the Host header has an IPv6 address in another form than RFC 5952; "
            f"write it as [{origin.host}] in the URL of the request"
        )
    return str(origin)


def _known_scheme(scheme: str) -> str:
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise InvalidTargetError(
            "neither an https nor an http URL; the handshake of a WebSocket is an HTTP request:"
            " write https for wss, and http for ws"
            if scheme in {"ws", "wss"}
            else "neither an https nor an http URL; DPoP proofs are for these two only"
        )
    return scheme


def _host_and_port(authority: str) -> tuple[str, str]:
    """Split into the host (an IPv6 address keeps its brackets) and the port (empty if there is none)."""
    if "@" in authority:
        raise InvalidTargetError(
            "the URL has a user or password before its host; remove them and send them in a header"
        )
    if authority.startswith("["):
        address, bracket, rest = authority.partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidTargetError("an IPv6 host must be written as [address] or [address]:port")
        return address + bracket, rest[1:]
    host, _, port = authority.partition(":")
    if ":" in port:
        raise InvalidTargetError("more than one colon in host and port; an IPv6 address needs brackets: [::1]")
    return host, port


def _port(digits: str, scheme: str) -> int:
    """Read a port: an empty one is the default, leading zeros are ignored (RFC 3986 §3.2.3, §6.2.3)."""
    if not digits:
        return _DEFAULT_PORTS[scheme]
    match = _PORT.fullmatch(digits)
    port = int(match[1] or "0") if match else 0
    if not 1 <= port <= 65535:
        around = ": the URL has white space after it" if digits[-1:].isspace() else ""
        raise InvalidTargetError(f"the port is not a number from 1 to 65535{around}")
    return port


def _host(host: str) -> str:
    if host.startswith("["):
        return _ipv6(host[1:-1])
    if "%" in host:
        raise InvalidTargetError("the host contains a percent sign; write the name itself, without %-escapes")
    if not host:
        raise InvalidTargetError("the URL has no host; write it whole, such as https://api.example/path")
    name = (host if host.isascii() else _a_label(host)).lower()
    if not _NAME.fullmatch(name):
        raise InvalidTargetError(
            "the host contains a character that no host name has, or an empty label; "
            "expected letters, digits, hyphens and underscores between single dots"
        )
    if len(name.rstrip(".")) > _MAX_NAME:
        raise InvalidTargetError(f"the host name is longer than {_MAX_NAME} characters")
    return name


def _a_label(host: str) -> str:
    """Return the ASCII form of an international name: UTS 46, non-transitional, as in browsers."""
    if len(host) > _MAX_NAME:
        raise InvalidTargetError(f"the host name is longer than {_MAX_NAME} characters")
    try:
        import idna  # noqa: PLC0415 - most programs never meet such a host
    except ImportError:
        raise InvalidTargetError(
            "the host is not ASCII, and converting it needs the package idna; "
            "install idna, or write the host in its xn-- form"
        ) from None
    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except UnicodeError:
        raise InvalidTargetError("the host is not a name that IDNA allows; write it in its xn-- form") from None


def _ipv6(text: str) -> str:
    if "%" in text:
        raise InvalidTargetError(
            "the IPv6 address has a zone, which means nothing to a server; remove it from the % on"
        )
    from ipaddress import AddressValueError, IPv6Address  # noqa: PLC0415 - see is_loopback

    try:
        if not _IPV6.fullmatch(text):
            raise AddressValueError
        packed = IPv6Address(text).packed
    except AddressValueError:
        raise InvalidTargetError("the text in brackets is not an IPv6 address") from None
    return _rfc5952(packed)


def _rfc5952(packed: bytes) -> str:
    """Write an IPv6 address by RFC 5952 §4, because ``str(IPv6Address)`` changed between Python 3.12 and 3.13.

    An IPv4-mapped address is hexadecimal like any other, as the URL standard of browsers prints it.
    """
    groups = [packed[i : i + 2].hex().lstrip("0") or "0" for i in range(0, 16, 2)]
    start = length = 0
    for first in range(8):
        run = 0
        while first + run < 8 and groups[first + run] == "0":
            run += 1
        if run > length:
            start, length = first, run
    if length < 2:
        return ":".join(groups)
    return ":".join(groups[:start]) + "::" + ":".join(groups[start + length :])
