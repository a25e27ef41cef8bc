# SPDX-License-Identifier: Apache-2.0
"""Watch the wire: record each request of requests and urllib3 with its response, and show it without secrets.

While a command watches, urllib3's connection classes are replaced, as in tools that record requests for tests. Only
fields whose names are in a list of harmless names are shown; all others are masked.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import click

from dpop.encoding import b64url_decode, json_object
from dpop.errors import EncodingError

__all__ = [
    "MASK",
    "SHOWN_FIELDS",
    "SHOWN_MEMBERS",
    "Exchange",
    "masked_body",
    "masked_fields",
    "parts",
    "proof_facts",
    "show",
    "watching",
]

MASK = "[redacted]"

_MAX_BODY = 1 << 21  # twice the limit for a token endpoint's response; the rest of a longer body is dropped
_SHORTEST_SECRET = 8  # a shorter value may be part of any word
SHOWN_FIELDS = frozenset(
    """
    accept accept-encoding cache-control connection content-encoding content-length content-type date host
    pragma retry-after server transfer-encoding user-agent vary
    """.split()  # noqa: SIM905 - to be read
)
SHOWN_MEMBERS = frozenset(
    """
    grant_type client_id redirect_uri scope resource token_type_hint code_challenge_method response_type
    client_assertion_type token_type expires_in refresh_token_expires_in refresh_expires_in error error_description
    error_uri error_subtype active interval verification_uri verification_url issuer jkt
    """.split()  # noqa: SIM905 - as above
)
_SHOWN_CLAIMS = ("htm", "htu", "iat")
_HIDDEN_CLAIMS = ("jti", "nonce", "ath")


@dataclass(slots=True)
class Exchange:
    """One request as it was written to a connection, and its response; the status is 0 if none came."""

    method: str
    url: str
    sent: list[tuple[str, str]] = field(default_factory=list, repr=False)
    body: bytes = field(default=b"", repr=False)
    status: int = 0
    received: list[tuple[str, str]] = field(default_factory=list, repr=False)
    content: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first value of a field of the response; ``name`` is in lower case."""
        return next((value for each, value in self.received if each.lower() == name), None)

    @property
    def proof(self) -> str | None:
        """The proof that was sent."""
        return next((value for name, value in self.sent if name.lower() == "dpop"), None)

    @property
    def members(self) -> Mapping[str, Any]:
        """The members of the response's body; empty if it is not a JSON object."""
        try:
            return json_object(self.content)
        except EncodingError:
            return {}


@contextlib.contextmanager
def watching(see: Callable[[Exchange], None]) -> Iterator[None]:
    """Call ``see`` with each exchange of this process, after head and body of its response were read."""
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool  # noqa: PLC0415 - only to watch

    pools: list[Any] = [HTTPConnectionPool, HTTPSConnectionPool]
    if importlib.util.find_spec("socks") is not None:  # otherwise urllib3 warns that it is missing
        from urllib3.contrib.socks import SOCKSHTTPConnectionPool, SOCKSHTTPSConnectionPool  # noqa: PLC0415 - as above

        pools += [SOCKSHTTPConnectionPool, SOCKSHTTPSConnectionPool]
    before = [pool.ConnectionCls for pool in pools]
    for pool in pools:
        pool.ConnectionCls = _watched(pool.ConnectionCls, see)
    try:
        yield
    finally:
        for pool, connection in zip(pools, before, strict=True):
            pool.ConnectionCls = connection


def _watched(connection: Any, see: Callable[[Exchange], None]) -> Any:
    from urllib3.response import HTTPResponse  # noqa: PLC0415 - as above

    class Watched(connection):  # type: ignore[misc]  # a class that is known only now
        _begun = False
        _seen: Exchange

        def putrequest(self, method: str, url: str, *args: Any, **options: Any) -> Any:
            target = url if "://" in url else f"{self._scheme}://{self._authority}{url}"
            self._seen = Exchange(method, target)
            return super().putrequest(method, url, *args, **options)

        def putheader(self, header: Any, *values: Any) -> Any:
            self._seen.sent.append((_text(header), ", ".join(map(_text, values))))
            return super().putheader(header, *values)

        def send(self, data: Any) -> Any:
            if self._begun and isinstance(data, bytes) and len(self._seen.body) < _MAX_BODY:
                self._seen.body += data
            return super().send(data)

        def endheaders(self, *args: Any, **options: Any) -> Any:
            done = super().endheaders(*args, **options)
            self._begun = True
            return done

        def getresponse(self, *args: Any, **options: Any) -> Any:
            response = super().getresponse(*args, **options)
            seen, self._begun = self._seen, False
            seen.status, seen.received = response.status, list(response.headers.items())
            seen.content = response.read(_MAX_BODY, decode_content=False)
            see(seen)
            return HTTPResponse(
                body=io.BytesIO(seen.content),
                headers=response.headers,
                status=response.status,
                version=response.version,
                reason=response.reason,
                preload_content=False,
                decode_content=False,
                original_response=getattr(response, "_original_response", None),  # its end gives the connection back
                enforce_content_length=False,
                request_method=seen.method,
                request_url=seen.url,
            )

        @property
        def _scheme(self) -> str:
            return "https" if "HTTPS" in connection.__name__ else "http"

        @property
        def _authority(self) -> str:
            host, port = self.host, self.port
            if getattr(self, "_tunnel_host", None):  # self.host is then the proxy
                host, port = self._tunnel_host, self._tunnel_port
            host = f"[{host}]" if ":" in host else host
            return str(host if port in {None, self.default_port} else f"{host}:{port}")

    Watched.__name__ = connection.__name__
    return Watched


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


# --- masked


def parts(proof: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JOSE header and the claims of a proof that this program made."""
    header, claims, _ = proof.split(".")
    return json_object(b64url_decode(header)), json_object(b64url_decode(claims))


def proof_facts(proof: str) -> dict[str, Any]:
    """Return the harmless facts of a proof: method, URL and time, and the names of its other claims."""
    try:
        header, claims = (json_object(b64url_decode(part)) for part in proof.split(".")[:2])
    except (EncodingError, ValueError):
        return {}
    facts: dict[str, Any] = {"alg": header.get("alg")}
    facts.update((name, claims.get(name)) for name in _SHOWN_CLAIMS)
    facts.update((name, MASK) for name in _HIDDEN_CLAIMS if name in claims)
    return facts


def masked_fields(fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return header fields with all values masked that may be secret; challenges and schemes stay readable."""
    return [(name, _masked_field(name.lower(), value)) for name, value in fields]


def _masked_field(name: str, value: str) -> str:
    if name in SHOWN_FIELDS or name.startswith("access-control-"):
        return value
    if name == "www-authenticate":
        from dpop.redaction import redact  # noqa: PLC0415 - only to show one

        return redact(value)
    if name == "authorization":
        return f"{value.partition(' ')[0]} {MASK}"
    return MASK


def masked_body(fields: list[tuple[str, str]], body: bytes) -> str:
    """Return a form or a JSON object without its secrets; for any other body, its length."""
    if not body:
        return ""
    kind = next((value for name, value in fields if name.lower() == "content-type"), "").partition(";")[0].strip()
    if kind == "application/x-www-form-urlencoded":
        pairs = parse_qsl(body.decode("latin-1"), keep_blank_values=True)
        return "&".join(f"{name}={value if name in SHOWN_MEMBERS else MASK}" for name, value in pairs)
    try:
        members = json_object(body)
    except EncodingError:
        return f"({len(body)} bytes)"
    return json.dumps({name: _masked_member(name, value) for name, value in members.items()})


def _masked_member(name: str, value: object) -> object:
    shown = name in SHOWN_MEMBERS or name.endswith(("_endpoint", "_supported"))
    return value if shown or isinstance(value, bool) else MASK


def show(exchange: Exchange) -> None:
    """Print an exchange on stderr in the format of curl -v, with its secrets masked.

    If it cannot be printed, nothing happens: an error here would look like one of the connection, so that a request
    whose response has come would be sent again.
    """
    lines = [f"> {exchange.method} {_masked_url(exchange.url)}"]
    for name, value in exchange.sent:
        if name.lower() == "dpop":
            facts = ", ".join(f"{each}={shown}" for each, shown in proof_facts(value).items())
            lines.append(f"> {name}: a proof with {facts}" if facts else f"> {name}: {MASK}")
        else:
            lines.append(f"> {name}: {_masked_field(name.lower(), value)}")
    if exchange.body:
        lines.append(f"> {masked_body(exchange.sent, exchange.body)}")
    lines.append(f"< {exchange.status}" if exchange.status else "< (no response)")
    lines += [f"< {name}: {value}" for name, value in masked_fields(exchange.received)]
    if exchange.content:
        lines.append(f"< {masked_body(exchange.received, exchange.content)}")
    text = "\n".join(lines)
    for secret in _secrets(exchange):
        text = text.replace(secret, MASK)
    # The server chooses the text of a response; it must not move the cursor.
    with contextlib.suppress(OSError):
        click.echo("".join(c if c.isprintable() or c == "\n" else "?" for c in text), err=True)


def _secrets(exchange: Exchange) -> list[str]:
    """Return the secrets in a request, the longest first: a server may repeat them in an error's description."""
    fields = [value.rpartition(" ")[2] for name, value in exchange.sent if name.lower() in {"authorization", "dpop"}]
    form = parse_qsl(exchange.body.decode("latin-1")) if b"=" in exchange.body else []
    values = [*fields, *(value for name, value in form if name not in SHOWN_MEMBERS)]
    return sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)


def _masked_url(url: str) -> str:
    before, question, query = url.partition("?")
    if not question:
        return url
    pairs = parse_qsl(query, keep_blank_values=True)
    return f"{before}?{'&'.join(f'{name}={value if name in SHOWN_MEMBERS else MASK}' for name, value in pairs)}"
