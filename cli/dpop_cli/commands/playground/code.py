# SPDX-License-Identifier: Apache-2.0
"""The playground's requests as code to copy: curl, Python and JavaScript.

The code runs as it is. It contains no secrets: it reads them from files that only the user can read, and that are there
until the playground stops.
"""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

from dpop._files import write_private_file
from dpop.keys import SoftwareKey
from dpop.origin import Origin
from dpop_cli.wire.small_client import Exchange

__all__ = ["CodeWriter"]


@dataclass(frozen=True, slots=True)
class _Request:
    """The facts of a request that the code needs.

    :param form: the parameters that may be shown; ``secrets`` is the file with the others.
    :param fields: the file with its header fields, if they are to be sent word for word.
    """

    method: str
    url: str
    form: Mapping[str, str]
    secrets: str
    fields: str = ""
    has_token: bool = False

    @property
    def has_form(self) -> bool:
        return bool(self.form or self.secrets)


class CodeWriter:
    """Writes code that sends a request again, and the files with the secrets that the code reads."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="dpop-playground-"))
        self._number = 0

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def put_key(self, key: SoftwareKey) -> None:
        """Write the key that the code signs with."""
        key.save(self._folder / "key.pem", overwrite=True)

    def put_token(self, access_token: str) -> None:
        """Write the access token that the code sends."""
        self._put("token.json", json.dumps({"access_token": access_token, "token_type": "DPoP"}))

    def code(
        self, exchange: Exchange, form: Mapping[str, str], secrets: Mapping[str, str], *, again: bool
    ) -> dict[str, str]:
        """Return code by the name of its language.

        :param form: the parameters of the request's form that may be shown.
        :param secrets: its other parameters.
        :param again: send the same header fields again, as a thief does; otherwise with a new proof.
        """
        fields = {name: value for name, value in exchange.sent.items() if name in {"Authorization", "DPoP"}}
        signed = "DPoP" in fields and not again
        has_token = signed and fields.get("Authorization", "").startswith("DPoP ")
        if signed:  # the library or the code makes the proof, and sends the token with it
            fields = {} if has_token else {name: value for name, value in fields.items() if name != "DPoP"}
        request = _Request(
            exchange.method,
            exchange.url,
            form,
            self._put_next("form", urlencode(secrets)) if secrets else "",
            self._put_next("headers", _as_lines(fields)) if fields else "",
            has_token,
        )
        if not signed:
            return {"curl": _curl(request), "Python": _python(request), "JavaScript": _javascript(request)}
        key, token = str(self._folder / "key.pem"), str(self._folder / "token.json")
        return {
            "curl": _signed_curl(request, key, token),
            "Python": _signed_python(request, key, token),
            "JavaScript": _signed_javascript(request, key, token),
        }

    def _put_next(self, kind: str, text: str) -> str:
        self._number += 1
        return self._put(f"{kind}-{self._number}", text)

    def _put(self, name: str, text: str) -> str:
        write_private_file(self._folder / name, text.encode(), durable=False)
        return str(self._folder / name)


def _as_lines(fields: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in fields.items())


# --- without a new proof


def _curl(request: _Request) -> str:
    fields = [f"-H {shlex.quote('@' + request.fields)}"] if request.fields else []
    return _words("curl -i", *fields, *_data(request), shlex.quote(request.url))


def _python(request: _Request) -> str:
    lines = ["import requests"]
    arguments = [f'"{request.method}"', json.dumps(request.url)]
    if request.secrets:
        lines.insert(0, "from urllib.parse import parse_qsl\n")
    lines.append("")
    if request.fields:
        lines += _python_fields(request)
        arguments.append("headers=headers")
    if request.has_form:
        lines += _python_form(request)
        arguments.append("data=form")
    lines += [
        f"response = requests.request({', '.join(arguments)}, allow_redirects=False)",
        "print(response.status_code, response.headers, response.text)",
    ]
    return "\n".join(lines)


def _javascript(request: _Request) -> str:
    lines = ["// Node.js 20 or newer, in a file whose name ends in .mjs"]
    options = [f'method: "{request.method}"', 'redirect: "manual"']
    if request.fields or request.secrets:
        lines.append('import { readFileSync } from "node:fs";')
    lines.append("")
    if request.fields:
        lines.append(_javascript_fields(request))
        options.append("headers: fields")
    if request.has_form:
        lines += _javascript_form(request)
        options.append("body: form")
    lines += [
        f"const response = await fetch({json.dumps(request.url)}, {{",
        f"  {', '.join(options)},",
        "});",
        "console.log(response.status, response.headers, await response.text());",
    ]
    return "\n".join(lines)


# --- with a new proof


def _signed_curl(request: _Request, key: str, token: str) -> str:
    words = [f"dpop curl --key {shlex.quote(key)}"]
    words += [f"--token-file {shlex.quote(token)}"] if request.has_token else []
    words[-1] += " -i"
    words += [f"-H {shlex.quote('@' + request.fields)}"] if request.fields else []
    return _words(*words, *_data(request), shlex.quote(request.url))


def _signed_python(request: _Request, key: str, token: str) -> str:
    lines = ["import json\n"] if request.has_token else []
    if request.secrets:
        lines.append("from urllib.parse import parse_qsl\n")
    origin = json.dumps(str(Origin.of_url(request.url)))
    lines += [
        "import dpop",
        "import requests",
        "from dpop.requests import DPoPAdapter",
        "",
        f"origin = {origin}",
        f"key = dpop.load_key({json.dumps(key)})",
    ]
    settings, data = "", ""
    if request.has_token:
        lines += [f"with open({json.dumps(token)}) as file:", '    token = json.load(file)["access_token"]']
        settings = ", access_token=token"
    if request.fields:
        lines += _python_fields(request)
        data = ", headers=headers"
    if request.has_form:
        lines += _python_form(request)
        data += ", data=form"
    lines += [
        "session = requests.Session()",
        f"session.mount(origin, DPoPAdapter(key, origins=origin{settings}))",
        f"response = session.{request.method.lower()}({json.dumps(request.url)}{data})",
        "print(response.status_code, response.headers, response.text)",
    ]
    return "\n".join(lines)


def _signed_javascript(request: _Request, key: str, token: str) -> str:
    lines = [
        "// Node.js 20 or newer, in a file whose name ends in .mjs",
        'import { createHash, createPrivateKey, createPublicKey, randomUUID, sign } from "node:crypto";',
        'import { readFileSync } from "node:fs";',
        "",
        f"const url = {json.dumps(request.url)};",
        f"const key = createPrivateKey(readFileSync({json.dumps(key)}));",
        'const { kty, crv, x, y } = createPublicKey(key).export({ format: "jwk" });',
    ]
    claims, headers, body = "", "", ""
    if request.has_token:
        lines += [
            f'const token = JSON.parse(readFileSync({json.dumps(token)}, "utf8")).access_token;',
            'const ath = createHash("sha256").update(token).digest("base64url");',
        ]
        claims, headers = ", ath", "Authorization: `DPoP ${token}`, "
    if request.fields:
        lines.append(_javascript_fields(request))
        headers = "...Object.fromEntries(fields), "
    if request.has_form:
        lines += _javascript_form(request)
        body = ", body: form"
    lines += [
        'const coded = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");',
        "",
        "function proof(nonce) {",
        '  const header = { typ: "dpop+jwt", alg: "ES256", jwk: { kty, crv, x, y } };',
        "  const iat = Math.floor(Date.now() / 1000);",
        f'  const claims = {{ jti: randomUUID(), htm: "{request.method}", htu: url, iat, nonce{claims} }};',
        "  const input = `${coded(header)}.${coded(claims)}`;",
        '  const signature = sign("sha256", Buffer.from(input), { key, dsaEncoding: "ieee-p1363" });',
        '  return `${input}.${signature.toString("base64url")}`;',
        "}",
        "",
        "const send = (nonce) => fetch(url, {",
        f'  method: "{request.method}", headers: {{ {headers}DPoP: proof(nonce) }}{body},',
        "});",
        "let response = await send();",
        'const nonce = response.headers.get("DPoP-Nonce");',
        "if (nonce && [400, 401].includes(response.status)) response = await send(nonce);",
        "console.log(response.status, response.headers, await response.text());",
    ]
    return "\n".join(lines)


# --- header fields and forms


def _python_fields(request: _Request) -> list[str]:
    return [
        f"with open({json.dumps(request.fields)}) as file:",
        '    headers = dict(line.split(": ", 1) for line in file.read().splitlines())',
    ]


def _javascript_fields(request: _Request) -> str:
    path = json.dumps(request.fields)
    return f'const fields = readFileSync({path}, "utf8").trim().split("\\n").map((line) => line.split(": "));'


def _data(request: _Request) -> list[str]:
    words = [f"-d {shlex.quote(urlencode({name: value}))}" for name, value in request.form.items()]
    return [*words, f"-d {shlex.quote('@' + request.secrets)}"] if request.secrets else words


def _python_form(request: _Request) -> list[str]:
    if not request.secrets:
        return [f"form = {json.dumps(request.form)}"]
    return [
        f"with open({json.dumps(request.secrets)}) as file:",
        f"    form = {json.dumps(request.form)} | dict(parse_qsl(file.read()))",
    ]


def _javascript_form(request: _Request) -> list[str]:
    lines = [f"const form = new URLSearchParams({json.dumps(request.form)});"]
    if request.secrets:
        lines += [
            f'const secrets = new URLSearchParams(readFileSync({json.dumps(request.secrets)}, "utf8"));',
            "for (const [name, value] of secrets) form.append(name, value);",
        ]
    return lines


def _words(*words: str) -> str:
    return " \\\n  ".join(words)
