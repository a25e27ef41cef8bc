# SPDX-License-Identifier: Apache-2.0
"""Input of ``dpop inspect``: a proof, saved request headers or a HAR file, read as requests with headers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import click

from dpop.encoding import b64url_decode, json_object
from dpop.errors import EncodingError
from dpop.origin import Origin

__all__ = ["MAX_HAR_BYTES", "SeenRequest", "bound_jkt", "seen_requests"]

MAX_HAR_BYTES = 1 << 26

_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (\S+) HTTP/[0-9.]+")
_FIELD = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]+)[ \t]*:(.*)")
_LINE_END = re.compile(r"\r\n|\r|\n")
_CURL = re.compile(r"(?:\$ +)?(?:dpop +)?curl\s")
_QUOTES_AND_SCHEME = re.compile(r"\A([\"']?)(?:DPoP +)?([^\s\"']+)\1\Z", re.IGNORECASE)
_EXPECTED = "expected a proof, saved request headers with a DPoP line, or a HAR file"


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """The known parts of a request.

    :param method: None if it is not known; the same holds for ``url`` and ``at``, in seconds since 1970.
    :param status: the status of its response.
    """

    headers: tuple[tuple[str, str], ...] = field(repr=False)
    method: str | None = None
    url: str | None = None
    at: float | None = None
    status: int | None = None

    @property
    def has_proof(self) -> bool:
        """Whether there is any DPoP header."""
        return any(name.lower() == "dpop" for name, _ in self.headers)

    @property
    def token(self) -> str | None:
        """The access token after ``Authorization: DPoP``."""
        for name, value in self.headers:
            scheme, _, token = value.strip().partition(" ")
            if name.lower() == "authorization" and scheme.lower() == "dpop" and token.strip():
                return token.strip()
        return None


def seen_requests(text: str) -> Iterator[SeenRequest]:
    """Yield the requests with a proof in a text, in their order.

    :raises click.UsageError: the text contains no such request. The message repeats no part of the text.
    """
    stripped = text.strip()
    if not stripped:
        raise click.UsageError(f"there is nothing to inspect; {_EXPECTED}")
    if stripped.startswith(("{", "[")):
        found: Iterable[SeenRequest] = _of_json(stripped)
    elif _CURL.match(stripped):
        found = _of_curl(stripped)
    elif stripped.startswith("-----BEGIN "):
        found = ()
    elif re.search(r"^[><*{} ]*dpop[ \t]*:", stripped, re.IGNORECASE | re.MULTILINE):
        found = _of_dump(stripped)
    else:
        found = [SeenRequest((("DPoP", _QUOTES_AND_SCHEME.sub(r"\2", stripped)),))]
    empty = True
    for request in found:
        if request.has_proof:
            empty = False
            yield request
    if empty:
        raise click.UsageError(f"the input contains no request with a DPoP header; {_EXPECTED}{_what_else(stripped)}")


def _what_else(text: str) -> str:
    """Say what a text without a proof is, if another command can read it."""
    if text.startswith("-----BEGIN "):
        return ". It is a key or certificate: see dpop key show FILE"
    try:
        members = json_object(text.encode("utf-8"))
    except EncodingError:
        return ""
    if "access_token" in members:
        return ". It is a response with tokens: name it as the token of a request with --token-file"
    if "dpop_tokens" in members:
        return ". It is a token store: see dpop token show FILE"
    if "client_id" in members or {"installed", "web"} & members.keys():
        return ". It describes a client, for --client"
    return ". It is a key, for --key" if "kty" in members else ""


def bound_jkt(token: str) -> str | None:
    """Return ``cnf.jkt`` of an access token that is a JWT, unverified; None for any other token (RFC 9449 §6.1)."""
    parts = token.split(".")
    try:
        confirmation = json_object(b64url_decode(parts[1])).get("cnf") if len(parts) == 3 else None
    except EncodingError:
        return None
    jkt = confirmation.get("jkt") if isinstance(confirmation, dict) else None
    return jkt if isinstance(jkt, str) else None


# --- a command


def _of_curl(text: str) -> list[SeenRequest]:
    """Read the request of a curl command, as browsers copy it and guides show it; other options are ignored."""
    try:
        words = shlex.split(text.replace("\\\n", " "))
    except ValueError:
        raise click.UsageError(f"the curl command cannot be read: a quote is not closed; {_EXPECTED}") from None
    headers: list[tuple[str, str]] = []
    method, url = None, None
    rest = iter(words[words.index("curl") + 1 :])
    for word in rest:
        if word in {"-H", "--header"} or (word.startswith("-H") and len(word) > 2):
            line = next(rest, "") if word in {"-H", "--header"} else word[2:]
            if match := _FIELD.fullmatch(line.strip()):
                headers.append((match[1], match[2].strip(" \t")))
        elif word in {"-X", "--request"} or (word.startswith("-X") and len(word) > 2):
            method = next(rest, None) if word in {"-X", "--request"} else word[2:]
        elif word in {"-I", "--head"}:
            method = method or "HEAD"
        elif word in {"-d", "--json"} or word.startswith("--data"):
            method = method or "POST"
            next(rest, None)
        elif word == "--url":
            url = next(rest, None)
        elif url is None and re.match(r"https?://", word):
            url = word
    return [SeenRequest(tuple(headers), method or "GET", url)]


# --- headers


def _of_dump(text: str) -> list[SeenRequest]:
    """Read requests from saved headers, or from the output of ``curl -v``, where they follow ``>``."""
    lines = _LINE_END.split(text)
    sent = [line[1:].strip(" ") for line in lines if line.startswith(">")]
    found: list[SeenRequest] = []
    method, target, headers = None, None, list[tuple[str, str]]()
    for line in [*(sent or lines), "- end HTTP/1"]:
        if match := _REQUEST_LINE.match(line):
            if headers:
                found.append(SeenRequest(tuple(headers), method, _url(target, headers)))
            method, target, headers = match[1], match[2], []
        elif match := _FIELD.fullmatch(line.strip()):
            headers.append((match[1], match[2].strip(" \t")))
    return found


def _url(target: str | None, headers: list[tuple[str, str]]) -> str | None:
    """Return the URL of a request. No header contains the scheme: https is assumed, except for this machine."""
    if target is None or "://" in target:
        return target
    hosts = [value for name, value in headers if name.lower() == "host"]
    if len(hosts) != 1:
        return None
    with_http = f"http://{hosts[0]}"
    try:
        local = Origin.parse(with_http).is_loopback
    except ValueError:
        return None
    return f"{with_http if local else f'https://{hosts[0]}'}{target}"


# --- JSON


_ENTRIES = re.compile(r'(?<!\\)"entries"\s*:\s*\[\s*(?=\{)')
_BETWEEN = re.compile(r"\s*,\s*")


def _of_json(text: str) -> Iterator[SeenRequest]:
    """Read requests from a HAR file, one entry at a time to save memory."""
    entries = _ENTRIES.search(text)
    if entries is None:
        yield from _of_document(text)
        return
    decoder, place = json.JSONDecoder(), entries.end()
    try:
        while True:
            entry, place = decoder.raw_decode(text, place)
            if isinstance(entry, dict):
                yield _of_entry(entry)
            more = _BETWEEN.match(text, place)
            if more is None:
                break
            place = more.end()
    except (ValueError, RecursionError):
        raise click.UsageError(f"the input begins like JSON, but is not JSON; {_EXPECTED}") from None
    if not re.compile(r"\s*\]").match(text, place):
        raise click.UsageError(f"the input begins like JSON, but is not JSON; {_EXPECTED}")


def _of_document(text: str) -> list[SeenRequest]:
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        raise click.UsageError(f"the input begins like JSON, but is not JSON; {_EXPECTED}") from None
    if not isinstance(document, dict):
        return []
    # The output of dpop proof --json and dpop headers --json.
    for name in ("proof", "DPoP"):
        if isinstance(document.get(name), str):
            authorization = document.get("Authorization")
            given = [("Authorization", authorization)] if isinstance(authorization, str) else []
            return [SeenRequest((("DPoP", document[name]), *given))]
    return []


def _of_entry(entry: dict[str, Any]) -> SeenRequest:
    """Read one entry of a HAR file; parts that violate HAR 1.2 count as unknown."""
    request = entry.get("request")
    request = request if isinstance(request, dict) else {}
    listed = request.get("headers")
    headers = [
        (header["name"], header["value"])
        for header in (listed if isinstance(listed, list) else [])
        if isinstance(header, dict) and isinstance(header.get("name"), str) and isinstance(header.get("value"), str)
    ]
    response = entry.get("response")
    status = response.get("status") if isinstance(response, dict) else None
    return SeenRequest(
        tuple(headers),
        _text(request.get("method")),
        _text(request.get("url")),
        _time(entry.get("startedDateTime")),
        status if isinstance(status, int) and status > 0 else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _time(value: object) -> float | None:
    try:
        return datetime.fromisoformat(value).timestamp() if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
