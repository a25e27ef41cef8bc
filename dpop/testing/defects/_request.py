# SPDX-License-Identifier: Apache-2.0
"""Defects of the claims about the request, the time, the token and the nonce."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from dpop.errors import UsageError
from dpop.server._reasons import Reason
from dpop.testing.defects._draft import OUT, Draft, WritableDefect, Write, refused
from dpop.testing.defects._forge import B, b64u, sha256, to_json

__all__ = ["REQUEST"]


def _with(claim: str, value: Any) -> Write:
    """Make a proof with one claim changed; a function computes the claim from the draft."""
    return lambda draft: draft.proof(claims=draft.claims(**{claim: value(draft) if callable(value) else value}))


# --- jti, htm, iat, exp, nbf

_claim = partial(refused, "claims")


def _iat(name: str, literal: Callable[[int], str], reason: Reason, note: str = "", also: str = "") -> WritableDefect:
    """Write ``iat`` as any text, JSON or not."""

    def write(draft: Draft) -> str:
        honest, changed = f'"iat":{draft.iat}', f'"iat":{literal(draft.iat)}'
        return draft.proof(claims=to_json(draft.claims()).replace(honest.encode(), changed.encode()))

    where = {"iat-61s-window-edge": "a max_age of 60 s", "iat-future-31": "a skew of 30 s"}
    return _claim(name, write, reason, note, also=also, where=where.get(name, ""))


def _another_method(draft: Draft) -> str:
    return "PUT" if draft.method != "PUT" else "GET"


_CLAIMS = [
    _claim("jti-missing", _with("jti", OUT), Reason.JTI_MISSING),
    _claim("htm-missing", _with("htm", OUT), Reason.HTM_MISSING),
    _claim("htu-missing", _with("htu", OUT), Reason.HTU_MISSING),
    _claim("iat-missing", _with("iat", OUT), Reason.IAT_MISSING),
    _claim("jti-empty", _with("jti", ""), Reason.JTI_MISSING),
    _claim("jti-number", _with("jti", 1), Reason.JTI_MISSING),
    _claim("jti-null", _with("jti", None), Reason.JTI_MISSING),
    _claim("jti-array", _with("jti", lambda draft: [draft.jti]), Reason.JTI_MISSING),
    _claim("jti-huge", _with("jti", "j" * 3000), Reason.JTI_TOO_LONG),
    _claim("htm-array", _with("htm", lambda draft: [draft.method]), Reason.HTM_MISSING),
    _claim(
        "htm-lowercase",
        _with("htm", lambda draft: draft.method.swapcase()),
        Reason.HTM_MISMATCH,
        "RFC 9110 9.1: methods have a case",
        also="ok",
    ),
    _claim("htm-other", _with("htm", _another_method), Reason.HTM_MISMATCH),
    _claim("htm-trailing-space", _with("htm", lambda draft: f"{draft.method} "), Reason.HTM_MISMATCH),
    _claim("htm-empty", _with("htm", ""), Reason.HTM_MISSING),
    _iat("iat-string", lambda iat: f'"{iat}"', Reason.IAT_MISSING),
    _iat("iat-bool", lambda _: "true", Reason.IAT_MISSING, "a number to some languages"),
    _iat("iat-null", lambda _: "null", Reason.IAT_MISSING),
    _iat("iat-array", lambda iat: f"[{iat}]", Reason.IAT_MISSING),
    _iat("iat-object", lambda _: "{}", Reason.IAT_MISSING),
    _iat("iat-zero", lambda _: "0", Reason.IAT_OUT_OF_RANGE),
    _iat("iat-negative", lambda iat: f"-{iat}", Reason.IAT_OUT_OF_RANGE),
    _iat("iat-huge", lambda _: "1" + "0" * 30, Reason.IAT_OUT_OF_RANGE, "no date can hold it"),
    _iat("iat-milliseconds", lambda iat: f"{iat}000", Reason.IAT_OUT_OF_RANGE),
    _iat("iat-stale-3600", lambda iat: str(iat - 3600), Reason.IAT_TOO_OLD),
    _iat("iat-future-3600", lambda iat: str(iat + 3600), Reason.IAT_IN_FUTURE),
    _iat("iat-NaN", lambda _: "NaN", Reason.PAYLOAD_MALFORMED, "no JSON, and every comparison with it is false"),
    _iat("iat-Infinity", lambda _: "Infinity", Reason.PAYLOAD_MALFORMED),
    _iat("iat-1e400", lambda _: "1e400", Reason.PAYLOAD_MALFORMED, "infinity, once parsed"),
    _iat("iat-61s-window-edge", lambda iat: str(iat - 61), Reason.IAT_TOO_OLD),
    _iat("iat-future-31", lambda iat: str(iat + 31), Reason.IAT_IN_FUTURE, "FAPI 2.0 allows 60 at most", "ok"),
    _iat("iat-future-61", lambda iat: str(iat + 61), Reason.IAT_IN_FUTURE, "FAPI 2.0 refuses it"),
    _claim(
        "exp-past",
        _with("exp", lambda draft: draft.iat - 60),
        Reason.EXPIRED,
        "no DPoP claim, but a JWT that has it means it",
        also="ok",
    ),
    _claim("nbf-future", _with("nbf", lambda draft: draft.iat + 60), Reason.NOT_YET_VALID, also="ok"),
    _claim("exp-string", _with("exp", lambda draft: str(draft.iat + 60)), Reason.TIME_CLAIM_MALFORMED, also="ok"),
]


# --- the URL (RFC 9449 4.3(9))


def _htu(
    name: str, value: Any, note: str = "", *, also: str = "", reason: Reason = Reason.HTU_MISMATCH, where: str = ""
) -> WritableDefect:
    return refused("htu", name, _with("htu", value), reason, note, also=also, where=where)


def _not_a_url(name: str, value: Any, note: str = "", also: str = "") -> WritableDefect:
    return _htu(name, value, note, also=also, reason=Reason.HTU_INVALID)


def _other_host(draft: Draft) -> str:
    first, _, rest = draft.host.partition(".")
    number = draft.host.startswith("[") or draft.host.rpartition(".")[2].isdigit()
    domain = "example.com" if number or not rest else rest
    return f"{draft.scheme}://{'other' if first != 'other' else 'another'}.{domain}{draft.port}{draft.path}"


def _other_path(draft: Draft) -> str:
    front, _, last = draft.path.rpartition("/")
    return f"{draft.origin}{front}/{'other' if last != 'other' else 'another'}"


def _other_scheme(draft: Draft) -> str:
    return ("http" if draft.scheme == "https" else "https") + draft.htu.removeprefix(draft.scheme)


def _port(draft: Draft, port: int, otherwise: int) -> str:
    return f"{draft.scheme}://{draft.host}:{port if draft.port != f':{port}' else otherwise}{draft.path}"


def _port_of_the_other_scheme(draft: Draft) -> str:
    return _port(draft, 80 if draft.scheme == "https" else 443, 8080)


def _slash_at_the_end(draft: Draft) -> str:
    return f"{draft.htu}/" if not draft.htu.endswith("/") or draft.path == "/" else draft.htu[:-1]


def _path_case(draft: Draft) -> str:
    for found in re.finditer(r"%[0-9A-Fa-f]{2}|[A-Za-z]", draft.path):
        if len(found[0]) == 1:
            at = found.start()
            return f"{draft.origin}{draft.path[:at]}{found[0].swapcase()}{draft.path[at + 1 :]}"
    raise UsageError("this defect is in a letter's case; take a URL with a letter in its path")


def _prefix(draft: Draft) -> str:
    if draft.path == "/":
        raise UsageError("this defect cuts the path; take a URL with more than / behind the host")
    return draft.htu[: -3 if draft.htu[-3] == "%" else -1]


def _homograph(draft: Draft) -> str:
    for latin, cyrillic in {"a": "\u0430", "e": "\u0435", "o": "\u043e", "c": "\u0441", "p": "\u0440"}.items():
        if latin in draft.host:
            return f"{draft.scheme}://{draft.host.replace(latin, cyrillic, 1)}{draft.port}{draft.path}"
    raise UsageError("this defect is in a letter of the host; take a URL whose host has an a, c, e, o or p")


def _named_host(draft: Draft, tail: str) -> str:
    if draft.host.startswith("["):
        raise UsageError("this defect adds to the name of the host; take a URL without an IPv6 address")
    return f"{draft.scheme}://{draft.host}{tail}{draft.port}{draft.path}"


def _decoded(draft: Draft, escape: str, text: str) -> str:
    if escape not in draft.path:
        raise UsageError(f"this defect reads an escape wrongly; take a URL with {escape} in its path")
    return draft.origin + draft.path.replace(escape, text)


def _tab_in_host(draft: Draft) -> str:
    first, dot, rest = draft.authority.partition(".")
    return f"{draft.scheme}://{first}\t{dot}{rest}{draft.path}"


def _climbing(draft: Draft) -> str:
    """Append an encoded dot segment (``%2e%2e``) and another path."""
    return f"{draft.htu}/%2e%2e/{_other_path(draft).rpartition('/')[2]}"


_HTU = [
    _htu("htu-other-host", _other_host),
    _htu("htu-other-path", _other_path),
    _htu("htu-http-scheme", _other_scheme),
    _htu("htu-other-port", lambda draft: _port(draft, 8443, 9443)),
    _htu("htu-cross-default-port", _port_of_the_other_scheme),
    _htu("htu-trailing-slash", _slash_at_the_end),
    _htu("htu-path-case", _path_case, also="ok"),
    _htu("htu-double-slash", lambda draft: f"{draft.origin}/{draft.path}"),
    _htu("htu-host-suffix", lambda draft: _named_host(draft, ".evil.example")),
    _not_a_url("htu-userinfo", lambda draft: f"{draft.origin}@evil.example{draft.path}"),
    _not_a_url(
        "htu-userinfo-same-host",
        lambda draft: f"{draft.scheme}://user@{draft.authority}{draft.path}",
        also="ok",
    ),
    _not_a_url("htu-relative", lambda draft: draft.path),
    _not_a_url("htu-scheme-relative", lambda draft: f"//{draft.authority}{draft.path}"),
    _not_a_url("htu-no-scheme", lambda draft: f"{draft.authority}{draft.path}"),
    _not_a_url("htu-backslash", lambda draft: draft.htu.replace("/", "\\"), "browsers read it as /", "ok"),
    _not_a_url("htu-space", lambda draft: f" {draft.htu}", "browsers strip it", "ok"),
    _not_a_url("htu-tab-inside", _tab_in_host, "browsers drop it", "ok"),
    _htu("htu-prefix", _prefix),
    _not_a_url("htu-encoded-slash", lambda draft: f"{draft.origin}%2F{draft.path[1:]}"),
    _htu("htu-idn-homograph", _homograph, "the first a is Cyrillic"),
    _htu("htu-trailing-dot", lambda draft: _named_host(draft, ".")),
    _htu("htu-array", lambda draft: [draft.htu], reason=Reason.HTU_MISSING),
    _htu("htu-number", 1, reason=Reason.HTU_MISSING),
    _htu("htu-empty", "", reason=Reason.HTU_MISSING),
    _htu("htu-null", None, reason=Reason.HTU_MISSING),
    _not_a_url("htu-file", lambda draft: f"file://{draft.path}"),
    _not_a_url("htu-very-long", lambda draft: f"{draft.origin}/{'x' * 4100}"),
    _htu("htu-encoded-dotdot", _climbing),
    _htu(
        "htu-reserved-decoded",
        lambda draft: _decoded(draft, "%2F", "/"),
        "%2F is not /",
        where="a URL with %2F in its path",
    ),
    _htu("htu-plus-vs-space", lambda draft: _decoded(draft, "%20", "+"), where="a URL with %20 in its path"),
]


# --- the access token and its key (RFC 9449 4.3(12))


def _ath(name: str, value: Any, reason: Reason = Reason.ATH_MALFORMED, note: str = "") -> WritableDefect:
    def write(draft: Draft) -> str:
        _ = draft.token
        return draft.proof(claims=draft.claims(ath=value(draft) if callable(value) else value))

    return refused("binding", name, write, reason, note, where="a request with an access token")


def _standard_ath(draft: Draft) -> str:
    digest = sha256(draft.token.encode())
    standard = base64.b64encode(digest).decode().rstrip("=")
    if standard == b64u(digest):
        raise UsageError("the hash of this token has the same text in both alphabets; take another token")
    return standard


_BINDING = [
    _ath("ath-missing", OUT, Reason.ATH_MISSING),
    _ath("ath-other-token", b64u(sha256(b"other.token")), Reason.ATH_MISMATCH, "two tokens of one client"),
    _ath("ath-padded", lambda draft: f"{draft.ath}="),
    _ath("ath-hex", lambda draft: sha256(draft.token.encode()).hex()),
    _ath("ath-std-base64", _standard_ath),
    _ath("ath-of-header", lambda draft: b64u(sha256(f"DPoP {draft.token}".encode())), Reason.ATH_MISMATCH),
    _ath(
        "ath-half",
        lambda draft: b64u(sha256(draft.token.encode())[:16]),
        note="at_hash of OpenID Connect is made like this",
    ),
    _ath(
        "ath-non-ascii",
        lambda draft: f"{draft.ath[:-1]}\u00e9",
        note="constant-time comparisons of text can fail on it",
    ),
    _ath("ath-number", 1),
    _ath("ath-empty", ""),
    refused(
        "binding",
        "cnf-other-key",
        lambda draft: draft.by(B).proof(),
        Reason.KEY_MISMATCH,
        "a good proof by the thief's own key",
        also="invalid_dpop_proof",
        where="a token bound to the key",
        verdict="invalid_token",
    ),
]


# --- the nonce (RFC 9449 8, 9)

_NONCES = "a server that issues nonces"


def _asked(name: str, value: Any, reason: Reason, note: str = "", also: str = "") -> WritableDefect:
    return refused(
        "nonce", name, _with("nonce", value), reason, note, also=also, where=_NONCES, verdict="use_dpop_nonce"
    )


def _nonce(draft: Draft) -> str:
    if draft.nonce is None:
        raise UsageError("this defect is in the claim nonce; give the server's newest nonce")
    return draft.nonce


def _nonce_in_other_case(draft: Draft) -> str:
    nonce = _nonce(draft)
    changed = nonce.lower() if nonce != nonce.lower() else nonce.upper()
    if changed == nonce:
        raise UsageError("this defect is in a letter's case; take a nonce with a letter")
    return changed


def _nonce_type(name: str, value: Any) -> WritableDefect:
    return refused("nonce", name, _with("nonce", value), Reason.NONCE_MALFORMED, also="use_dpop_nonce")


_NONCE = [
    _asked("nonce-missing", OUT, Reason.NONCE_MISSING),
    _asked("nonce-unknown", "Nonce-of-nobody", Reason.NONCE_UNKNOWN),
    _asked("nonce-empty", "", Reason.NONCE_MISSING, also="invalid_dpop_proof"),
    _asked("nonce-case", _nonce_in_other_case, Reason.NONCE_UNKNOWN, "RFC 9449 8: an exact match"),
    _nonce_type("nonce-number", 1),
    _nonce_type("nonce-array", lambda draft: [_nonce(draft)]),
]


# --- an authorization server has several endpoints


def _issuer(draft: Draft) -> str:
    if draft.path == "/":
        raise UsageError("this defect names the origin alone; take a URL with more than / behind the host")
    return draft.origin


_AS = [
    refused(
        "as",
        "as-wrong-endpoint",
        _with("htu", lambda draft: f"{draft.origin}/{'par' if draft.path != '/par' else 'token'}"),
        Reason.HTU_MISMATCH,
        "made for PAR",
    ),
    refused("as", "as-issuer-as-htu", _with("htu", _issuer), Reason.HTU_MISMATCH),
]

REQUEST = [*_CLAIMS, *_HTU, *_BINDING, *_NONCE, *_AS]
