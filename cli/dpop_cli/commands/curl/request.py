# SPDX-License-Identifier: Apache-2.0
"""The request of a curl command line: its method, URL and body, found in the same way as in curl."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote, urljoin

import click

from dpop.errors import InvalidTargetError
from dpop.htu import check_method, url_htu
from dpop.origin import Origin
from dpop_cli.commands.curl.options import CurlOption, CurlWords
from dpop_cli.console.secret_input import claim_stdin, read_bytes

__all__ = ["CurlRequest"]

_DATA = ("data", "data-ascii", "data-binary", "data-raw", "data-urlencode", "json")
_FORM = ("form", "form-string")
_BODY = (*_DATA, *_FORM, "upload-file")
# Options that this program handles, so that curl does not get them.
_OURS = ("location", "max-redirs", "post301", "post302", "post303", "proto-redir", "dump-header", "globoff")
_PROXY_TWICE = ("proxy-anyauth", "proxy-digest", "proxy-negotiate", "proxy-ntlm")
_MAX_FORM = 65_536
_FORM_TYPE = "application/x-www-form-urlencoded"
_IN_HEADER = ("header", "user-agent", "referer", "cookie", "range")
_HEADER_NAME = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*[:;]")


class CurlRequest(NamedTuple):
    """One request, with the words of the command line that are passed to curl.

    :param url: the URL that curl gets: the one in the proof, with the query.
    :param words: the options that curl gets.
    :param headers: header lines from files; curl gets them together with the proof.
    :param repeatable: whether the body can be sent a second time.
    """

    method: str
    url: str
    words: CurlWords
    headers: tuple[str, ...] = ()
    repeatable: bool = True

    def __repr__(self) -> str:
        return f"<CurlRequest {self.method} {self.origin}>"  # words and headers hold passwords and forms

    @classmethod
    def of(cls, words: CurlWords, *, with_token: bool) -> Self:
        """Read a command line.

        :param with_token: the request gets an access token.
        :raises click.UsageError: there is not exactly one request, or it cannot have a proof.
        :raises InvalidTargetError: a proof cannot name the URL or the method.
        """
        _check_once(words)
        headers = _header_lines(words)
        _check_headers(words, headers, with_token=with_token)
        url = _url(words)
        if url.startswith("http:") and words.is_on(*_PROXY_TWICE):
            raise click.UsageError("curl sends a request to a proxy twice with this authentication; use --proxy-basic")
        request = cls(check_method(_method(words)), url, words.without(_OURS), tuple(headers), _repeatable(words))
        kept = [o for o in request.words.options if not (o.name == "header" and (o.value or "").startswith("@"))]
        return request._replace(words=request.words._replace(options=tuple(kept)))

    @property
    def origin(self) -> Origin:
        """The origin of the URL."""
        return Origin.of_url(self.url)

    @property
    def target(self) -> str:
        """The request-target: path and query of the URL."""
        return self.url[len(str(self.origin)) :]

    def arguments(self, *, leave_out: Iterable[str] = (), elsewhere: bool = False) -> list[str]:
        """Return options and URL for curl. Curl expands no sequences or ranges in the URL.

        :param leave_out: the names of options that curl must not get.
        :param elsewhere: curl writes the body to a pipe, so ``-w`` gets the name of the file in which it will be.
        """
        options = list(self.words.without(leave_out).options)
        if elsewhere:
            shown = (self.output or "").replace("%", "%%")
            options = [
                option._replace(value=_format(option.value or "").replace("%{filename_effective}", shown))
                if option.name == "write-out" and "%{filename_effective}" in _format(option.value or "")
                else option
                for option in options
            ]
        return [word for option in options for word in option.words] + ["--globoff", "--url", self.url]

    @property
    def output(self) -> str | None:
        """The file that curl writes the body to; None for standard output."""
        directory = self.words.last("output-dir") or ""
        if self.words.is_on("out-null"):
            return os.devnull
        # If there are several, the first belongs to the only URL.
        named = next(iter(self.words.values("output")), None)
        if named is None and self.words.is_on("remote-name", "remote-name-all"):
            named = self.target.partition("?")[0].rpartition("/")[2]
        if named is None or named == "-":
            return None
        return named if named == os.devnull else str(Path(directory, named))

    @property
    def writes_itself(self) -> bool:
        """Whether curl must write the file of ``output`` itself, because an option does more with it."""
        return self.output is not None and (
            self.words.has("continue-at", "create-file-mode")
            or self.words.is_on("remote-header-name", "remote-time", "remove-on-error", "skip-existing", "xattr")
            or self.words.is_off("clobber")
            or self.shows_json
        )

    @property
    def shows_json(self) -> bool:
        """Whether ``-w`` prints JSON about the transfer, which includes the name of the output file."""
        return any("%{json}" in _format(value) for value in self.words.values("write-out"))

    @property
    def form(self) -> bytes | None:
        """The form in the body, to recognise the kind of request; None for any other body.

        It shows a grant type or a client assertion, but is not always byte for byte what curl sends.
        """
        if not self.repeatable or self.words.has(*_FORM, "upload-file", "json") or self.words.is_on("get"):
            return None
        parts = [_data(o.name, o.value or "") for o in self.words.options if o.name in _DATA]
        return b"&".join(parts)[:_MAX_FORM] if parts else None

    @property
    def content_type(self) -> str | None:
        """The media type of the form; None without one."""
        return None if self.form is None else _FORM_TYPE

    def after_another(self) -> CurlRequest:
        """Return this request with the cookies that curl saved during the same command."""
        jar = self.words.last("cookie-jar")
        if jar is None or jar == "-" or jar in self.words.values("cookie"):
            return self
        loaded = CurlOption("cookie", "--cookie", jar)
        return self._replace(words=self.words._replace(options=(*self.words.options, loaded)))

    def redirected(self, status: int, location: str, words: CurlWords) -> CurlRequest:
        """Return the request after a redirect within the origin, by curl's rules for methods.

        :param words: the original command line, with ``--post301`` and similar options.
        :raises InvalidTargetError: a proof cannot name the new URL.
        """
        try:
            joined = urljoin(self.url, location)
        except ValueError:  # such as for http://[/
            raise InvalidTargetError("the Location of the response is not a URL") from None
        url = _final(joined)
        kept = self.words.without((*(_DATA if self.words.is_on("get") else ()), "get", "url-query"))
        drops_body = (
            status in {301, 302, 303} and self.words.has(*_DATA, *_FORM) and not words.is_on(f"post{status}")
        ) or (status == 303 and self.words.has("upload-file"))
        if drops_body:
            kept = kept.without(_BODY)
        return self._replace(
            method=_method(kept), url=url, words=kept, repeatable=self.repeatable or not kept.has(*_BODY)
        )


def _check_once(words: CurlWords) -> None:
    """Check that there is one URL, one method and one body."""
    if len(words.urls) != 1:
        if not words.urls:
            raise click.UsageError(
                "no URL was given; expected one, as in: dpop curl --key key.pem https://api.example/"
            )
        raise click.UsageError(f"{len(words.urls)} URLs were given; a proof is for one request: run dpop curl for each")
    if not words.is_on("globoff"):
        for text in (words.urls[0].partition("://")[2].partition("/")[2], *words.values("upload-file")):
            if any(character in text for character in "[]{}"):
                raise click.UsageError(
                    "brackets and braces ask curl for several requests; run dpop curl once for each, or write %5B %5D"
                    " %7B %7D if the characters themselves are meant"
                )
    kinds = [
        words.is_on("head"),
        words.has(*_DATA) and not words.is_on("get"),
        words.has(*_FORM),
        words.has("upload-file"),
    ]
    if sum(kinds) > 1:
        raise click.UsageError("-I, -d (or --json), -F and -T ask for different requests; give one of them")


def _header_lines(words: CurlWords) -> list[str]:
    """Read the lines of all ``-H @file``, only once, because a pipe is empty after that."""
    lines: list[str] = []
    for value in words.values("header"):
        if value.startswith("@"):
            text = read_bytes(value[1:], "-H @").decode("latin-1")
            lines += [line for line in re.split(r"\r?\n", text) if line]
    return lines


def _check_headers(words: CurlWords, lines: list[str], *, with_token: bool) -> None:
    """Refuse a header that carries a proof or a token, or names another server."""
    if with_token and words.has("user"):
        raise click.UsageError("-u and an access token both fill the Authorization header; give one of them")
    for option in words.options:
        if option.name in _IN_HEADER and re.search(r"[\r\n]", option.value or ""):
            raise click.UsageError(
                f"the value of {option.spelling} has a line break, and the rest would be another header; give each"
                " header an -H of its own"
            )
    if any("\r" in line for line in lines):
        raise click.UsageError("the file of -H @ has a carriage return within a line, which would be another header")
    for line in (*lines, *(value for value in words.values("header") if not value.startswith("@"))):
        match = _HEADER_NAME.match(line)
        name = match[1].lower() if match else ""
        if name == "dpop":
            raise click.UsageError("a DPoP header is given; dpop curl makes its own, so leave it out")
        if name == "host":
            raise click.UsageError(
                "a Host header is given; write that host in the URL, and use --connect-to or --resolve"
            )
        if name != "authorization":
            continue
        scheme = line.partition(":")[2].strip().partition(" ")[0].lower()
        if with_token or scheme in {"dpop", "bearer"}:
            raise click.UsageError(
                "an Authorization header is given; put the access token into a file and name it with --token-file,"
                " before curl's options: arguments are seen in the list of processes"
            )


def _url(words: CurlWords) -> str:
    """Return the URL that curl will use: ``-T`` adds the file's name to a URL without a name."""
    url = words.urls[0]
    for name in words.values("upload-file"):
        before, question, _ = url.partition("#")[0].partition("?")
        path = before.partition("://")[2].partition("/")[2]
        if path.rpartition("/")[2] or name in {"-", "."}:
            continue
        if question:
            raise click.UsageError(
                "versions of curl differ in where -T puts a file if the URL has a query but no name; write the name"
            )
        last = re.split(r"[/\\]", name)[-1]
        url = f"{before}{'' if before.endswith('/') else '/'}{quote(os.fsencode(last), safe='')}"
    return _final(url)


def _final(url: str) -> str:
    """Return the URL in the form that the proof names, but with its query."""
    before, question, query = url.partition("#")[0].partition("?")
    if re.search(r"[\x00-\x20\x7f]", query):
        raise InvalidTargetError("the query contains a space or a control character; percent-encode it")
    return f"{url_htu(before)}{question}{query}"


def _method(words: CurlWords) -> str:
    named = words.last("request")
    if named:
        return named
    if words.is_on("head"):
        return "HEAD"
    if words.is_on("get"):
        return "GET"
    if words.has("upload-file"):
        return "PUT"
    return "POST" if words.has(*_DATA, *_FORM) else "GET"


def _format(value: str) -> str:
    """Return the format of ``-w``, which may be in a file; standard input is left to curl."""
    if not value.startswith("@") or value == "@-":
        return value
    try:
        # curl leaves line ends in the file out.
        return re.sub(r"[\r\n]", "", Path(value[1:]).read_text("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return value


# --- the body


def _repeatable(words: CurlWords) -> bool:
    """Whether every file of the body can be read again; standard input only if it is a file."""
    repeatable = True
    for option, name in _files(words):
        if name == "-":
            claim_stdin(option)
            repeatable &= _stdin_is_regular()
        else:
            repeatable &= _is_regular(name)
    return repeatable


def _files(words: CurlWords) -> Iterator[tuple[str, str]]:
    """List option and name of each file that curl will read for the body; ``-`` is standard input."""
    for option in words.options:
        value = option.value or ""
        match option.name:
            case "upload-file":
                yield option.spelling, "-" if value == "." else value
            case "data" | "data-ascii" | "data-binary" | "json" if value.startswith("@"):
                yield option.spelling, value[1:]
            case "data-urlencode" if (name := _file_to_encode(value)) is not None:
                yield option.spelling, name
            case "form":
                content = value.partition("=")[2]
                if content[:1] in {"@", "<"}:
                    for part in content[1:].partition(";")[0].split(","):
                        yield option.spelling, part.strip('"')


def _file_to_encode(value: str) -> str | None:
    """Return the file in ``name@file`` of ``--data-urlencode``; None if an equals sign comes first."""
    found = re.match(r"[^=@]*@(.*)", value, re.DOTALL)
    return found[1] if found else None


def _is_regular(name: str) -> bool:
    """Whether a file can be read twice. curl itself reports a missing file."""
    try:
        return stat.S_ISREG(Path(name).stat().st_mode)
    except (OSError, ValueError):
        return True


def _stdin_is_regular() -> bool:
    try:
        return stat.S_ISREG(os.fstat(sys.stdin.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False


def _data(name: str, value: str) -> bytes:
    """Return one part of a form, approximately as curl sends it."""
    if name == "data-urlencode":
        field_name, separator, content = value.partition("=")
        file = _file_to_encode(value)
        if file is not None:
            field_name, separator, content = value.partition("@")[0], "=", _content(file).decode("latin-1")
        elif not separator:
            field_name, content = "", value
        front = f"{field_name}=" if field_name else ""
        return f"{front}{quote(content, safe='', encoding='latin-1', errors='replace')}".encode(
            "utf-8", "surrogateescape"
        )
    if name != "data-raw" and value.startswith("@"):
        data = _content(value[1:])
        return data if name == "data-binary" else re.sub(rb"[\r\n\0]", b"", data)
    return value.encode("utf-8", "surrogateescape")


def _content(name: str) -> bytes:
    """Read the beginning of a file; the position in standard input does not change."""
    try:
        if name == "-":
            return os.pread(sys.stdin.fileno(), _MAX_FORM, os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR))
        with Path(name).open("rb") as file:
            return file.read(_MAX_FORM)
    except (OSError, ValueError, AttributeError):
        return b""
