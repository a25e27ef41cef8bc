# SPDX-License-Identifier: Apache-2.0
"""The ``htu`` and ``htm`` claims: how a proof names a request, and how a server compares (RFC 9449 §4.2, §4.3).

A client names exactly the characters that it puts on the wire: servers that compare strings refuse a proof that is
normalised further than the request. A server compares canonical forms (RFC 3986 §6.2.2, §6.2.3). Both refuse a URL
that two readers could understand differently, because a proof must name one resource.

Query and fragment are removed first, so no cache keeps them and no message shows them.
"""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from typing import Final

from dpop.errors import ArgumentTypeError, InvalidTargetError
from dpop.origin import Origin, front_of, origin_of, split_url, wire_origin

__all__ = [
    "MAX_HTU",
    "Origin",
    "canonical",
    "canonical_request",
    "check_method",
    "compared_request",
    "names_request",
    "same_target",
    "unescape",
    "url_htu",
    "wire_htu",
]

MAX_HTU: Final = 4096
"""The most characters that an ``htu`` may have. A client counts without the query, a server the whole claim."""

# The longest registered method has 17 characters.
_MAX_METHOD: Final = 64

# RFC 9110 §5.6.2
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++")

# RFC 3986 §3.3: the characters of a path, and the longest well-formed run of them and of %-escapes.
_PATH_CHARACTERS: Final = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]"
_PATH = re.compile(rf"(?:{_PATH_CHARACTERS}++|%[0-9A-Fa-f]{{2}})*")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2[Ee]){1,2}(?=/|\Z)")

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
# URL parsers disagree on these characters if a claim has them unescaped.
_NEVER_IN_PATH: Final = bytes(range(0x21)) + b"\x7f\\"
_NAMES: Final = {" ": "a space", "\\": "a backslash"}


def check_method(method: str) -> str:
    """Return the method, as a plain ``str``, if ``htm`` can hold it: it must be an RFC 9110 token (RFC 9449 §4.2).

    :raises InvalidTargetError: empty, longer than 64 characters, or with a character no method has.
    :raises ArgumentTypeError: not a str.
    """
    if type(method) is not str:
        if not isinstance(method, str):
            raise ArgumentTypeError("method", "str", method)
        method = str.__str__(method)  # as a member of an enum may not show itself, and caches would keep it for GET
    return _checked_method(method)


@lru_cache(maxsize=64)
def _checked_method(method: str) -> str:
    if not _TOKEN.fullmatch(method) or len(method) > _MAX_METHOD:
        what = "holds a character no HTTP method has" if method else "is empty"
        if len(method) > _MAX_METHOD:
            what = f"is longer than {_MAX_METHOD} characters"
        raise InvalidTargetError(f"the method {what}; expected one such as GET or POST")
    return method


# --- client


def wire_htu(scheme: str, authority: str, target: str) -> str:
    """The ``htu`` of a request as it goes onto the wire (RFC 9449 §4.2).

    :param scheme: ``https`` or ``http``, of the connection to the server.
    :param authority: the Host header, or ``:authority``.
    :param target: the request-target as sent: ``/path?query``, or the absolute form that a forward
        proxy is given (RFC 9112 §3.2.2), which must name the same server as the Host header.
    :returns: ``scheme://host[:port]/path``; scheme and host in lower case, the path as it was sent.
    :raises InvalidTargetError: a request that no proof can name without doubt: characters in the path that RFC 3986
        requires to be percent-encoded, a bad %-escape, a dot segment, an IPv6 address not in RFC 5952 form, an
        invalid host or port, a user or password, more than ``MAX_HTU`` characters.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(scheme, str):
        raise ArgumentTypeError("scheme", "str", scheme)
    if not isinstance(authority, str):
        raise ArgumentTypeError("authority", "str", authority)
    if not isinstance(target, str):
        raise ArgumentTypeError("target", "str", target)
    return _wire_htu(scheme, authority, target.partition("?")[0])


@lru_cache(maxsize=1024)
def _wire_htu(scheme: str, authority: str, path: str) -> str:
    _check_length(authority, path)
    front = wire_origin(scheme, authority)
    if path and path[0] != "/":
        path = _path_of_absolute_form(path, front)
    _check_path(path)
    if "." in path or "%2" in path:
        _refuse_dot_segments(_DOT_SEGMENT.search(path) is not None)
    return _bounded(front + (path or "/"))


def _path_of_absolute_form(target: str, front: str) -> str:
    if "://" not in target:
        raise InvalidTargetError(
            "the request-target is neither a path nor an absolute URL; no proof can name OPTIONS * or CONNECT"
        )
    if "#" in target:
        raise InvalidTargetError("the request-target holds a fragment; cut it at the # before sending")
    scheme, authority, path = split_url(target)
    if wire_origin(scheme, authority) != front:
        raise InvalidTargetError("the request-target names another server than the Host header; they must agree")
    return path


def url_htu(url: str) -> str:
    """The ``htu`` of the request a careful client makes for this URL (RFC 9449 §4.2).

    Scheme and host in lower case, an international host as A-label, IPv6 in RFC 5952 form, the default
    port dropped, non-ASCII in the path percent-encoded as UTF-8, dot segments removed (RFC 3986
    §5.2.4), an empty path made ``/``. %-escapes stay as they are.

    :raises InvalidTargetError: for every URL that :func:`wire_htu` refuses, and for a path that ends in a dot
        segment, because clients disagree on the slash that it leaves. The message says what to write instead.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(url, str):
        raise ArgumentTypeError("url", "str", url)
    return _url_htu(url.partition("?")[0].partition("#")[0])


@lru_cache(maxsize=1024)
def _url_htu(url: str) -> str:
    _check_length(url)
    scheme, authority, path = split_url(url)
    front = str(origin_of(scheme, authority))
    path = _ascii_path(path)
    _check_path(path)
    if "." in path or "%2" in path:
        _refuse_dot_segments(any("%" in dots[0] for dots in _DOT_SEGMENT.finditer(path)))
        if path.endswith(("/.", "/..")):
            raise InvalidTargetError(
                "the path ends in a dot segment, and clients disagree on the slash it leaves; write the path it means"
            )
        path = _without_dot_segments(path)
    return _bounded(front + (path or "/"))


def _check_length(*parts: str) -> None:
    # Check this first. Scheme and port add a little, so the finished htu is checked as well.
    if sum(map(len, parts)) > MAX_HTU:
        raise _too_long()


def _bounded(htu: str) -> str:
    if len(htu) > MAX_HTU:
        raise _too_long()
    return htu


def _too_long() -> InvalidTargetError:
    return InvalidTargetError(f"the URL has more than {MAX_HTU} characters without its query; servers refuse that")


def _check_path(path: str) -> None:
    """Refuse characters that RFC 3986 §3.3 does not allow in a path: clients and servers repair them differently."""
    match = _PATH.match(path)
    end = match.end() if match else 0
    if end == len(path):
        return
    bad = path[end]
    if bad == "%":
        raise _bad_escape()
    if not bad.isascii():
        raise InvalidTargetError("the request-target holds a character outside ASCII; percent-encode it as UTF-8")
    if bad == "#":
        raise InvalidTargetError("the request-target holds a fragment; cut it at the # before sending")
    name = _NAMES.get(bad, bad if bad.isprintable() else "a control character")
    raise InvalidTargetError(f"the path holds {name}, which no URL may; percent-encode it as %{ord(bad):02X}")


def _refuse_dot_segments(found: bool) -> None:
    if found:
        raise InvalidTargetError(
            "the path holds a dot segment (/./ or /../, perhaps as %2E), which servers resolve differently; "
            "write the path it means"
        )


def _ascii_path(path: str) -> str:
    """Percent-encode non-ASCII characters as UTF-8, without normalising them (RFC 3987 §3.1)."""
    if path.isascii():
        return path
    from urllib.parse import quote  # noqa: PLC0415 - most paths are ASCII, and it is slow to load

    try:
        return _NOT_ASCII.sub(lambda run: quote(run[0], safe=""), path)
    except UnicodeEncodeError:
        raise InvalidTargetError("the path holds half of a surrogate pair, which no UTF-8 text can hold") from None


def _without_dot_segments(path: str, slash: str = "/") -> str:
    """Remove dot segments (RFC 3986 §5.2.4) from a path that is empty or begins with a slash."""
    if slash + "." not in path:
        return path
    segments = path.split(slash)[1:]
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return slash + slash.join(kept)


# --- server


def canonical(url: str) -> str:
    """The form in which two URLs are compared (RFC 9449 §4.3 (9); RFC 3986 §6.2.2, §6.2.3).

    Query and fragment are removed; scheme and host are in lower case, the host as A-label or in RFC 5952
    form; the port is a number, removed if it is the default; %-escapes of unreserved characters are
    decoded and the others in upper case; dot segments are removed; an empty path becomes ``/``. Reserved
    characters, double slashes, a trailing slash, a trailing dot of the host and the case of the path
    stay as they are, because they may matter.

    :raises InvalidTargetError: not an absolute http or https URL of at most ``MAX_HTU`` characters; a user or
        password; a backslash, control or space in the path; a bad %-escape; an invalid host or port.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(url, str):
        raise ArgumentTypeError("url", "str", url)
    return _canonical(url)


def canonical_request(url: str) -> str:
    """:func:`canonical` for the URL of a request, whose query may have any length; the result is cached.

    :raises InvalidTargetError: as :func:`canonical` does.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(url, str):
        raise ArgumentTypeError("url", "str", url)
    return _canonical_request(url.partition("?")[0].partition("#")[0])


def same_target(claim: str, url: str) -> bool:
    """Whether an ``htu`` claim names the URL of the request, that is, whether their canonical forms are equal.

    :param claim: untrusted. A claim that :func:`canonical` refuses never names the URL.
    :param url: the URL of the request, from the server's own configuration; its query does not count.
    :raises InvalidTargetError: ``url`` is refused by :func:`canonical`.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(claim, str):
        raise ArgumentTypeError("claim", "str", claim)
    expected = compared_request(url)
    try:
        return names_request(claim, url, expected)
    except InvalidTargetError:
        return False


def names_request(claim: str, url: str, compared: bytes) -> bool:
    """Whether an ``htu`` claim names the URL of a request; the time for it is bounded, whatever an attacker sends.

    :param compared: :func:`compared_request` of ``url``.
    :raises InvalidTargetError: as :func:`canonical` does for the claim; but a host outside ASCII that cannot be
        that of the request is not looked at further.
    """
    if claim == url:
        return True
    authority = split_url(claim)[1]
    if not authority.isascii():
        # To convert such a host takes longer than to check a signature, so only one that can be right is converted:
        # an international name is never longer than its A-label.
        own = origin_of(*split_url(url)[:2]).authority
        if "xn--" not in own or len(authority) > len(own):
            return False
    # Not cached: the senders of claims must not choose the contents of the cache.
    return _compared(claim) == compared


def _canonical(url: str) -> str:
    if len(url) > MAX_HTU:
        raise InvalidTargetError(f"the URL is longer than {MAX_HTU} characters")
    scheme, authority, path = split_url(url)
    front = front_of(scheme, authority)
    if _NEVER in path.encode("utf-8", "surrogatepass").translate(_MARKED):
        raise _never_in_path()
    path = _ascii_path(path)
    if "%" in path:
        path = _ESCAPE.sub(_normal_escape, path)
    return _bounded(front + (_without_dot_segments(path) or "/"))


_canonical_request = lru_cache(maxsize=1024)(_canonical)


def compared_request(url: str) -> bytes:
    """The form of a request's URL for comparison and for the replay cache; the result is cached.

    It is equal for two URLs exactly if :func:`canonical` is, takes a tenth of the time, and is not for people.

    :raises InvalidTargetError: as :func:`canonical` does.
    :raises ArgumentTypeError: not a str.
    """
    if not isinstance(url, str):
        raise ArgumentTypeError("url", "str", url)
    return _compared_request(url.partition("?")[0].partition("#")[0])


# Each unescaped character of a path that is not unreserved gets a control character of its own as a mark, which tells
# it from an escaped one after decoding.
_LITERALS: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in _UNRESERVED | set("%\\"))
_MARKS: Final = bytes(code for code in range(1, 0x1D) if code not in b"\r\n")
# Characters that a path may not have all become this one, which none may have either.
_NEVER: Final = b"\x7f"
_MARKED: Final = bytes.maketrans(
    b"%" + _LITERALS.encode() + _NEVER_IN_PATH, b"=" + _MARKS + _NEVER * len(_NEVER_IN_PATH)
)
_SLASH: Final = b"/".translate(_MARKED)
_ASCII: Final = bytes(range(128))
# Escaped control characters would be mistaken for these marks. Such paths are rare, and take the slower way.
_MAX_SLOW_ESCAPES: Final = 32
_MAX_DOTTED_SEGMENTS: Final = 128


def _compared(url: str) -> bytes:
    if len(url) > MAX_HTU:
        raise InvalidTargetError(f"the URL is longer than {MAX_HTU} characters")
    scheme, authority, path = split_url(url)
    front = front_of(scheme, authority).encode()
    if "%0" in path or "%1" in path:
        if path.count("%") > _MAX_SLOW_ESCAPES:
            raise InvalidTargetError(
                f"the path holds escaped control characters and more than {_MAX_SLOW_ESCAPES} %-escapes"
            )
        text = _canonical(url)
        if "%0" in text or "%1" in text:
            return text.encode()
        path = split_url(text)[2]  # they were in segments that dot segments removed
    return front + _compared_path(path, MAX_HTU - len(front))


def _compared_path(path: str, max_length: int) -> bytes:
    try:
        data = path.encode()
    except UnicodeEncodeError:
        raise InvalidTargetError("the path holds half of a surrogate pair, which no UTF-8 text can hold") from None
    more = 0 if path.isascii() else 2 * len(data.translate(None, _ASCII))
    if len(data) + more > max_length:  # as it would be in a canonical URL
        raise _too_long()
    marked = data.translate(_MARKED)
    if _NEVER in marked:
        raise _never_in_path()
    # Quoted-printable is %-encoding with another sign, and the standard library decodes it in C.
    decoded = binascii.a2b_qp(marked)
    if len(decoded) != len(data) - 2 * data.count(b"%"):
        raise _bad_escape()
    if _SLASH + b"." in decoded:
        if decoded.count(_SLASH) > _MAX_DOTTED_SEGMENTS:
            raise InvalidTargetError(f"the path holds dot segments and is deeper than {_MAX_DOTTED_SEGMENTS} segments")
        decoded = _without_dot_segments(decoded.decode("latin-1"), _SLASH.decode()).encode("latin-1")
    return decoded or _SLASH


_compared_request = lru_cache(maxsize=1024)(_compared)


# A line break, which no path holds, would have a meaning in quoted-printable.
_AS_QUOTED_PRINTABLE: Final = bytes.maketrans(b"%\r\n", b"=\0\0")


def unescape(path: str) -> str:
    """Decode the %-escapes of a path, for a server: bytes that are not UTF-8 become U+FFFD.

    :param path: one character for each byte, as ASGI and WSGI servers have it.
    :raises InvalidTargetError: a % without two hex digits, or more than ``MAX_HTU`` characters.
    """
    _check_length(path)
    data = path.encode("latin-1", "replace")
    decoded = binascii.a2b_qp(data.replace(b"=", b"=3D").translate(_AS_QUOTED_PRINTABLE)) if b"%" in data else data
    if len(decoded) != len(data) - 2 * data.count(b"%"):
        raise _bad_escape()
    return decoded.decode("utf-8", "replace")


def _never_in_path() -> InvalidTargetError:
    return InvalidTargetError("the path holds a backslash, a space or a control character; percent-encode it")


def _bad_escape() -> InvalidTargetError:
    return InvalidTargetError("the path holds a % without two hex digits; write a literal percent sign as %25")


def _normal_escape(escape: re.Match[str]) -> str:
    digits: str | None = escape[1]
    if digits is None:
        raise _bad_escape()
    character = chr(int(digits, 16))
    return character if character in _UNRESERVED else "%" + digits.upper()
