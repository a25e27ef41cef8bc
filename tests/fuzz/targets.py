# SPDX-License-Identifier: Apache-2.0
"""What is fuzzed: each target takes any bytes, and lets no error through but those its function promises.

A target also checks what must hold of every answer. Seeds are what a fuzzer starts from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from dpop_cli.wire.header_dump import last_nonce
from support.paths import VECTORS

import dpop
from dpop import htu
from dpop.agent._assertions import read_assertion
from dpop.agent._proofs import read_proof
from dpop.agent._protocol import MAX_REQUEST, Frames, Refusal, pack, read_request
from dpop.client._challenge import dpop_challenge, error_of_json, nonce_field
from dpop.client._flow import PEEK_BYTES, ProofFlow, Step
from dpop.client._policy import Policy
from dpop.client._prover import Prover
from dpop.client._request import OutgoingRequest
from dpop.encoding import b64url_decode, b64url_encode, json_object
from dpop.errors import (
    CredentialError,
    DPoPKeyError,
    EncodingError,
    InsecureOriginError,
    InvalidKeyError,
    InvalidProof,
    InvalidTargetError,
    SignatureFormatError,
    TokenFormatError,
    TokenRequestError,
)
from dpop.keys._public import PublicKey
from dpop.keys._uris import read_uri
from dpop.keys.kms._service import checked_endpoint
from dpop.keys.pkcs11._uri import Pkcs11Uri
from dpop.origin import Origin
from dpop.server import MemoryReplayCache, NonceIssuer, ProofVerifier, resource_challenge, token_error
from dpop.server._checks import read_claims
from dpop.server._resource import ProtectedResource, ResourceRequest
from dpop.signature import der_to_raw, raw_to_der
from dpop.testing.defects._forge import ED, A, b64u, make
from dpop.tokens._authorization import AuthorizationRequest
from dpop.tokens._metadata import read_metadata
from dpop.tokens._records import read_record, write_record
from dpop.tokens._responses import read_tokens
from dpop.tokens._steps import HTTPResponse
from dpop.tokens._token_set import TokenSet

__all__ = ["TARGETS", "Target"]

NOW = 1_700_000_000
TOKEN = "vector.access~token-0123456789"
URL = "https://server.example.com/items"
NONCES = NonceIssuer(secret=bytes(32), clock=lambda: NOW)
JKT = dpop.thumbprint(A.public_jwk)


@dataclass(frozen=True)
class Target:
    """One thing to fuzz."""

    run: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]


# --- the proof

_judge = partial(ProofVerifier, clock=lambda: NOW, algs=["ES256", "ES384", "Ed25519", "EdDSA", "PS256", "RS256"])


def verify(proof: str) -> None:
    """One header field: it is accepted, or refused with an answer that any HTTP server can send."""
    for nonces in (None, NONCES):
        verifier = _judge(replay=MemoryReplayCache(clock=lambda: NOW), nonces=nonces)
        try:
            seen = verifier.verify_resource([("DPoP", proof)], "GET", URL, access_token=TOKEN, bound_jkt=JKT)
        except InvalidProof as refused:
            _check_refusal(refused)
            continue
        assert (seen.jkt, seen.htm, seen.htu, seen.claims["htm"]) == (JKT, "GET", URL, "GET")
        assert htu.same_target(seen.claims["htu"], URL)
        assert (nonces is None) or NONCES.check(seen.nonce or "")


def _check_refusal(refused: InvalidProof) -> None:
    text = f"{refused} {refused.expected} {refused.got}"
    assert len(text) < 2_000
    assert text.isascii()
    assert text.isprintable()
    assert TOKEN not in text
    status, fields = resource_challenge(refused, algs="ES256")
    lines = [value for name, value in fields if name == "WWW-Authenticate"]
    assert (status, (dpop_challenge(lines) or {})["error"]) == (401, refused.error)
    status, fields, body = token_error(refused)
    assert (status, error_of_json(body)) == (400, refused.error)


def _check_length(refused: Exception) -> None:
    """What a stranger sent is not repeated at length."""
    assert len(str(refused)) < 500


def fuzz_proof(data: bytes) -> None:
    """A header field as it came over the wire."""
    verify(data.decode("latin-1"))


def fuzz_signed_proof(data: bytes) -> None:
    """A header and claims of a fuzzer's own, a zero byte between them, signed well by the key that is bound."""
    header, _, claims = data.partition(b"\0")
    verify(make(header, claims, (ED if b"Ed" in header else A).sign))


def _fields() -> Iterator[str]:
    for case in json.loads((VECTORS / "proofs.json").read_text(encoding="ascii"))["cases"]:
        for _, value in case["headers"]:
            if isinstance(value, str):
                yield value


def _proof_seeds() -> Iterator[bytes]:
    return (field.encode("latin-1") for field in _fields())


def _signed_proof_seeds() -> Iterator[bytes]:
    for field in _fields():
        try:
            header, claims = (b64url_decode(part) for part in field.split(".")[:2])
        except ValueError:
            continue
        yield header + b"\0" + claims


# --- challenges, and what else a hostile server can say


def fuzz_challenge(data: bytes) -> None:
    """Field lines of an answer."""
    lines = data.decode("latin-1").split("\n")
    parameters = dpop_challenge(lines)
    assert parameters is None or all(name == name.lower() for name in parameters)
    assert nonce_field(lines).nonce is None or len(set(lines)) == 1
    error_of_json(data)


def _challenge_seeds() -> Iterator[bytes]:
    for case in json.loads((VECTORS / "challenges.json").read_text(encoding="utf-8"))["cases"]:
        yield "\n".join(case["fields"]).encode("latin-1")
    yield b'{"error":"use_dpop_nonce","error_description":"x"}'
    yield b"same-nonce\nsame-nonce"  # a gateway said it twice
    yield b"eyJ7S_zG.eyJH0-Z.HX4w-7v"


def fuzz_flow(data: bytes) -> None:
    """A hostile server's responses to one request, in turn: three are sent at most, and what is learnt is bounded."""
    clock = iter(range(NOW, NOW + 1_000_000))
    for token in (None, TOKEN):
        prover = Prover(_FLOW_KEY, clock=lambda: float(next(clock)))
        policy = Policy(prover, origins="https://server.example.com", access_token=token, learn_clock=True)
        flow = ProofFlow.open(policy, OutgoingRequest("POST", URL))
        assert flow is not None
        sent = 0
        for response in data.split(b"\0\0"):
            flow.attempt("https", "server.example.com", "/items", token)
            sent += 1
            head, _, body = response.partition(b"\n\n")
            first, *lines = head.decode("latin-1").split("\n")
            status = int(first) if first.isascii() and first.isdigit() and len(first) == 3 else 401
            step = flow.received(status, [(name, value) for name, _, value in (line.partition(":") for line in lines)])
            if step is Step.PEEK:
                step = flow.judged(body[:PEEK_BYTES])
            if step is not Step.RETRY:
                break
        assert sent <= 3
        assert policy.clocks is not None
        assert abs(policy.clocks.offset(flow.origin)) <= 300


_FLOW_KEY = dpop.generate_key()


def _flow_seeds() -> Iterator[bytes]:
    date = b"Date:Tue, 14 Nov 2023 22:13:20 GMT"
    challenge = b'401\nWWW-Authenticate:DPoP error="use_dpop_nonce"\nDPoP-Nonce:n1\n' + date
    yield challenge + b"\0\0" + challenge.replace(b"n1", b"n2") + b"\0\0200\nDPoP-Nonce:n3"
    yield b'400\nDPoP-Nonce:n1\n\n{"error":"use_dpop_nonce"}\0\0' + b'400\nDPoP-Nonce:n2\n\n{"error":"invalid_grant"}'
    yield b'401\nWWW-Authenticate:DPoP error="invalid_dpop_proof"\n' + date.replace(b"2023", b"1999")
    yield b'400\nDate:Tue, 14 Nov 2023 22:10:00 -0000\nAge: 1\n\n{"error":"invalid_dpop_proof"}'


def fuzz_header_dump(data: bytes) -> None:
    """What curl -D wrote, or somebody who wants to be taken for it."""
    try:
        nonce = last_nonce(data.decode("latin-1"))
    except CredentialError:
        return
    assert nonce.isascii()
    assert nonce.isprintable()


def _header_dump_seeds() -> Iterator[bytes]:
    yield b"HTTP/1.1 302 Found\r\nDPoP-Nonce: old\r\n\r\nHTTP/2 200\r\ndpop-nonce:\tnew \r\n\r\nbody"
    yield b"DPoP-Nonce: a\n\nHTTP/1.1 200 OK\n"
    yield b"nonce\n"


# --- URLs


def _costs_too_much(url: str) -> bool:
    """Whether a server may refuse to compare this URL: its path is long or deep, or has escaped control characters."""
    if url.count("/") > htu._MAX_DOTTED_SEGMENTS or 3 * len(url.encode("utf-8", "surrogatepass")) > htu.MAX_HTU:
        return True
    return ("%0" in url or "%1" in url) and url.count("%") > htu._MAX_SLOW_ESCAPES


def fuzz_url(data: bytes) -> None:
    """A URL; or, with zero bytes in it, scheme, Host and request-target of a request."""
    text = data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace") if _is_text(data) else ""
    text = text or data.decode("latin-1")
    try:
        canonical = htu.canonical(text)
    except InvalidTargetError:
        canonical = None
    if canonical is not None:
        assert htu.canonical(canonical) == canonical
        assert canonical.isascii()
        assert canonical.isprintable()
        assert not set("?#\\@ ") & set(canonical.partition("://")[2].partition("/")[0])
        assert not set("?#\\ ") & set(canonical)
        # A host that is not ASCII may be refused before it is converted, which costs much.
        if (
            text.partition("://")[2].partition("/")[0].isascii()
            and not _costs_too_much(canonical)
            and not _costs_too_much(text)
        ):
            assert htu.same_target(text, canonical)
    try:
        made = htu.url_htu(text)
    except InvalidTargetError:
        made = None
    if made is not None:
        # What we would sign is what a server would find the same.
        assert _costs_too_much(made) or _costs_too_much(text) or htu.same_target(made, text)
    scheme, _, rest = text.partition("\0")
    authority, _, target = rest.partition("\0")
    try:
        wire = htu.wire_htu(scheme, authority, target)
    except InvalidTargetError:
        return
    assert htu.canonical(wire).partition("://")[2].partition("/")[0] == wire.partition("://")[2].partition("/")[0]


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def _url_seeds() -> Iterator[bytes]:
    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                yield from texts(inner)

    for name in ("htu_pairs.json", "htu_inputs.json"):
        for text in texts(json.loads((VECTORS / name).read_text(encoding="utf-8"))["cases"]):
            yield text.encode("utf-8", "surrogatepass")
    yield b"https\0server.example.com:8443\0/a%2Fb?x"
    yield b"http\0[2001:db8::1]\0http://[2001:db8::1]/x"


# --- signatures and keys


def fuzz_der(data: bytes) -> None:
    """DER to raw and back, for each size, with another reader of DER beside it."""
    try:
        r, s = decode_dss_signature(data)
        strict = encode_dss_signature(r, s) == data and min(r, s) > 0
    except ValueError:
        r = s = 0
        strict = False
    for size in (32, 48, 66):
        try:
            raw = der_to_raw(data, size)
        except SignatureFormatError:
            # Only what the other does not read either, or what does not fit.
            assert not strict or max(r, s).bit_length() > 8 * size - (7 if size == 66 else 0) or _beyond(r, s, size)
        else:
            assert strict
            assert raw == r.to_bytes(size, "big") + s.to_bytes(size, "big")
            assert raw_to_der(raw) == data
    try:
        der = raw_to_der(data)
    except SignatureFormatError:
        return
    assert der_to_raw(der, len(data) // 2) == data


_ORDERS = {
    32: 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    48: 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973,
    66: int("01" + "FF" * 32 + "FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16),
}


def _beyond(r: int, s: int, size: int) -> bool:
    return max(r, s) >= _ORDERS[size]


def _der_seeds() -> Iterator[bytes]:
    for r, s in [(1, 1), (2**255, 2**255 - 1), (127, 128), (2**383, 1), (2**520, 2**519)]:
        yield encode_dss_signature(r, s)
    for case in json.loads((VECTORS / "signatures.json").read_text(encoding="ascii"))["cases"]:
        for value in case.values():
            if isinstance(value, str) and len(value) % 2 == 0 and set(value) <= set("0123456789abcdef"):
                yield bytes.fromhex(value)


def fuzz_jwk(data: bytes) -> None:
    """JSON, then a public key: whatever passes is usable and has one spelling."""
    try:
        members = json_object(data)
    except EncodingError:
        return
    try:
        key = PublicKey.from_jwk(members)
    except InvalidKeyError as refused:
        _check_length(refused)
        return
    assert all(members[name] == value for name, value in key.jwk.items())
    assert PublicKey.from_jwk(key.jwk) == key
    try:
        assert key.verify(key.algs[0], b"bytes", bytes(64)) is False
    except SignatureFormatError:
        return


def _jwk_seeds() -> Iterator[bytes]:
    for field in _fields():
        try:
            yield json.dumps(json_object(b64url_decode(field.split(".")[0]))["jwk"]).encode()
        except (ValueError, KeyError):
            continue


def fuzz_key_file(data: bytes) -> None:
    """A key file: PEM, DER or JWK, private or public."""
    try:
        key = dpop.load_key(data, password="pa55word")
    except DPoPKeyError as refused:
        _check_length(refused)
    except dpop.errors.UsageError:
        assert not data
    else:
        assert len(key.thumbprint) == 43
    try:
        PublicKey.from_bytes(data)
    except InvalidKeyError:
        return


def _key_file_seeds() -> Iterator[bytes]:
    from cryptography.hazmat.primitives import serialization

    for key in (A.key, ED.key):
        for form in (serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL):
            for encoding in (serialization.Encoding.PEM, serialization.Encoding.DER):
                if key is A.key or form is serialization.PrivateFormat.PKCS8:
                    yield key.private_bytes(encoding, form, serialization.NoEncryption())
        yield key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    yield json.dumps(A.public_jwk | {"d": A.d}).encode()


# --- URIs of keys


def fuzz_key_uri(data: bytes) -> None:
    """A PKCS#11 URI and one of a key service: read whole, or refused without a word of what may be a PIN."""
    text = data.decode("latin-1")
    try:
        uri = Pkcs11Uri.parse(text)
    except InvalidKeyError as refused:
        _check_length(refused)
        _check_pin(text, refused)
    else:
        assert Pkcs11Uri.parse(uri.name).name == uri.name
        without_pin = Pkcs11Uri.parse(text.partition("?")[0])
        assert (repr(uri), str(uri)) == (repr(without_pin), str(without_pin))
    try:
        kms = read_uri(
            f"awskms:{text.partition(':')[2]}", {"region": "[a-z0-9-]+", "endpoint": ".+"}, "awskms:KEY?region=REGION"
        )
    except InvalidKeyError as refused:
        _check_length(refused)
        return
    if "endpoint" in kms.options:
        try:
            checked_endpoint(kms.options["endpoint"])
        except InvalidKeyError as refused:
            _check_length(refused)


def _check_pin(text: str, refused: InvalidKeyError) -> None:
    """Behind the question mark may be a PIN. Short parts of it may be in the sentence by chance."""
    assert not any(part in str(refused) for part in text.partition("?")[2].split("&") if len(part) > 40)


def _key_uri_seeds() -> Iterator[bytes]:
    yield b"pkcs11:token=my%20token;object=dpop;id=%01%ff?module-path=/usr/lib/libx.so&pin-source=file:/run/pin"
    yield b"pkcs11:serial=1;model=m;manufacturer=x;slot-id=3;type=private;library-version=2.6?pin-value=1234"
    yield b"PKCS11:object=a?module-name=softhsm2&pin-source=/x"
    yield b"awskms:arn:aws:kms:eu-west-1:1:key/2?region=eu-west-1&endpoint=https%3A%2F%2Fkms.example"


# --- a whole request at an API


def fuzz_request(data: bytes) -> None:
    """Method and target, header fields, an empty line, and what the token's issuer says of it."""
    head, _, said = data.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    method, _, target = first.partition(" ")
    headers = [(name, value.strip(" \t")) for name, colon, value in (line.partition(":") for line in lines) if colon]
    try:
        claims = json_object(said)
    except EncodingError:
        claims = {"cnf": {"jkt": JKT}}
    request = ResourceRequest(method, target, target, headers)
    for bearer in (False, True):
        verifier = _judge(replay=MemoryReplayCache(clock=lambda: NOW))
        resource = ProtectedResource(verifier, url="https://server.example.com", token=lambda _: claims, bearer=bearer)
        try:
            access = resource.admit(request)
            access.require_scope("read")
        except InvalidProof as refused:
            status, fields = resource.refusal(request, refused)
            assert status in {400, 401, 403}
            for name, value in fields:
                assert (name + value).isascii()
                assert (name + value).isprintable()
            challenge = dpop_challenge([value for name, value in fields if name == "WWW-Authenticate"])
            assert challenge is not None
            assert challenge.get("algs")
        else:
            assert access.scheme == ("Bearer" if access.proof is None else "DPoP")
            assert access.proof is None or access.proof.jkt == JKT
            assert access.proof is not None or (bearer and claims.get("cnf") is None)


def _request_seeds() -> Iterator[bytes]:
    for case in json.loads((VECTORS / "responses.json").read_text(encoding="ascii"))["cases"]:
        for step in case.get("steps", ()):
            request = step["request"]
            lines = [f"{request['method']} {request['url'].removeprefix('https://server.example.com')}"]
            lines += [f"{name}: {value}" for name, value in request["headers"]]
            yield "\n".join(lines).encode("latin-1") + b'\n\n{"cnf":{"jkt":"%s"},"scope":"read"}' % JKT.encode()


# --- the responses of an authorization server


def fuzz_token_response(data: bytes) -> None:
    """Tokens, or an error, or anything else; the first byte chooses the status."""
    response = HTTPResponse((200, 200, 200, 400, 401, 302, 500)[data[0] % 7] if data else 200, [], data[1:])
    try:
        tokens = read_tokens(response, asked_at=NOW, jkt=JKT, allow_bearer=False, secrets=["pa55word"])
    except TokenRequestError as refused:
        _check_refused_tokens(refused)
        return
    assert tokens.token_type in {"DPoP", "N_A"}
    assert TokenSet.from_dict(json_object(tokens.to_json(), max_depth=24)) == tokens


def _check_refused_tokens(refused: TokenRequestError) -> None:
    text = str(refused)
    assert len(text) < 2_000
    assert text.isprintable()
    assert "pa55word" not in text


def _token_response_seeds() -> Iterator[bytes]:
    yield b'\0{"access_token":"a","token_type":"DPoP","expires_in":3600,"refresh_token":"r","scope":"a b"}'
    yield b'\0{"access_token":"a","token_type":"Bearer","expires_in":1.5,"refresh_expires_in":0,"id_token":"x"}'
    yield b'\3{"error":"invalid_grant","error_description":"no pa55word","error_subtype":"x","error_uri":"y"}'
    yield b'\3{"error":"use_dpop_nonce"}'
    yield b"\6<html>"


def fuzz_callback(data: bytes) -> None:
    """What a browser brings back, whoever sent it there."""
    request = AuthorizationRequest("https://as.example/authorize?x=1", "s", "v" * 43, "https://c.example/")
    for text in (data.decode("latin-1"), data.decode("utf-8", "surrogateescape")):
        try:
            code = request.code_of(text, issuer="https://as.example")
        except TokenRequestError as refused:
            _check_refused_tokens(refused)
        else:
            assert code


def _callback_seeds() -> Iterator[bytes]:
    yield b"https://c.example/?code=4%2Fabc&state=s&iss=https%3A%2F%2Fas.example"
    yield b"code=1&state=s"
    yield b"http://127.0.0.1:1/cb?error=access_denied&error_description=no&state=s"
    yield b"http://[::1]:1/cb?state=s&code=1#f"


def fuzz_metadata(data: bytes) -> None:
    """A server's metadata; and a record of tokens as a store keeps it."""
    try:
        metadata = read_metadata("https://as.example", data)
    except InsecureOriginError as refused:
        _check_length(refused)
    except TokenRequestError as refused:
        _check_refused_tokens(refused)
    else:
        assert metadata.issuer == "https://as.example"
    try:
        read_record(data, "a", None, "the file")
    except TokenFormatError as refused:
        _check_length(refused)


def _metadata_seeds() -> Iterator[bytes]:
    yield json.dumps(
        {
            "issuer": "https://as.example",
            "token_endpoint": "https://as.example/token",
            "authorization_endpoint": "https://as.example/authorize",
            "token_endpoint_auth_methods_supported": ["none"],
            "dpop_signing_alg_values_supported": ["ES256"],
            "require_pushed_authorization_requests": True,
        }
    ).encode()
    tokens = TokenSet(access_token="a", token_type="DPoP", issued_at=NOW, expires_at=NOW + 60, jkt=JKT)
    yield write_record(tokens, "a", None)


# --- the ground


def fuzz_encoding(data: bytes) -> None:
    """base64url has one spelling; JSON that is read is read as json.loads does, and is UTF-8."""
    text = data.decode("latin-1")
    try:
        content = b64url_decode(text)
    except EncodingError:
        pass
    else:
        assert b64url_encode(content) == b64u(content) == text
    try:
        members = json_object(data)
    except EncodingError as refused:
        _check_length(refused)
        return
    assert members == json.loads(data.decode("utf-8"))
    try:
        read_claims(members, max_jti=256, max_htu=4096)
    except InvalidProof as refused:
        _check_refusal(refused)


def _encoding_seeds() -> Iterator[bytes]:
    for field in _fields():
        for part in field.split(".")[:2]:
            yield part.encode("latin-1")
            try:
                yield b64url_decode(part)
            except ValueError:
                continue


# --- the signing agent


def fuzz_agent(data: bytes) -> None:
    """The bytes of a connection to the agent, in two pieces: requests are read or refused, and only proofs pass."""
    frames = Frames(MAX_REQUEST)
    for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
        frames.feed(piece)
        try:
            while (frame := frames.next()) is not None:
                _request_to_the_agent(frame)
        except Refusal as refusal:
            _check_agent_refusal(refusal)
            return


def _request_to_the_agent(frame: bytes) -> None:
    try:
        request = read_request(frame)
        if request.op != "sign":
            return
        text = request.members["input"]
        _assertion_to_the_agent(text)
        proof = read_proof(text, "ES256", A.public_jwk)
    except Refusal as refusal:
        _check_agent_refusal(refusal)
        return
    header, payload = (json.loads(b64url_decode(part)) for part in text.split("."))
    assert header == {"typ": "dpop+jwt", "alg": "ES256", "jwk": A.public_jwk}
    assert {"jti", "htm", "htu", "iat"} <= payload.keys() <= {"jti", "htm", "htu", "iat", "nonce", "ath"}
    assert (proof.method, proof.jti, proof.iat) == (payload["htm"], payload["jti"], payload["iat"])
    assert payload["htu"] == htu.url_htu(payload["htu"])
    assert proof.origin == Origin.of_url(payload["htu"])


def _assertion_to_the_agent(text: str) -> None:
    try:
        assertion = read_assertion(text, "ES256", "c")
    except Refusal as refusal:
        _check_agent_refusal(refusal)
        return
    header, payload = (json.loads(b64url_decode(part)) for part in text.split("."))
    assert {"typ", "alg"} <= header.keys() <= {"typ", "alg", "kid"}
    assert payload.keys() <= {"iss", "sub", "aud", "jti", "iat", "exp", "nbf"}
    assert (payload["iss"], payload["sub"], payload["jti"]) == ("c", "c", assertion.jti)
    assert 0 < payload["exp"] - assertion.iat <= 300
    assert assertion.origins


def _check_agent_refusal(refusal: Refusal) -> None:
    response = json.loads(pack(refusal.response())[4:])
    assert (response["v"], response["error"]) == (1, refusal.error)
    assert len(refusal.message) < 500


def _agent_seeds() -> Iterator[bytes]:
    for case in json.loads((VECTORS / "agent.json").read_text(encoding="ascii"))["cases"]:
        body = case["request"].encode()
        yield len(body).to_bytes(4, "big") + body
    claims = {"iss": "c", "sub": "c", "aud": ["https://as.example"], "jti": "j", "iat": 10, "exp": 20, "nbf": 5}
    parts = ({"typ": "JWT", "alg": "ES256", "kid": "k"}, claims)
    text = ".".join(b64url_encode(json.dumps(part).encode()) for part in parts)
    yield pack({"op": "sign", "key": "work", "input": text})
    yield b"\x00\x0f\x42\x40" + b"x" * 100
    yield b"\x00\x00\x00\x02{}" * 10


TARGETS = {
    "agent": Target(fuzz_agent, _agent_seeds),
    "proof": Target(fuzz_proof, _proof_seeds),
    "signed-proof": Target(fuzz_signed_proof, _signed_proof_seeds),
    "challenge": Target(fuzz_challenge, _challenge_seeds),
    "flow": Target(fuzz_flow, _flow_seeds),
    "header-dump": Target(fuzz_header_dump, _header_dump_seeds),
    "url": Target(fuzz_url, _url_seeds),
    "der": Target(fuzz_der, _der_seeds),
    "jwk": Target(fuzz_jwk, _jwk_seeds),
    "key-file": Target(fuzz_key_file, _key_file_seeds),
    "key-uri": Target(fuzz_key_uri, _key_uri_seeds),
    "request": Target(fuzz_request, _request_seeds),
    "token-response": Target(fuzz_token_response, _token_response_seeds),
    "callback": Target(fuzz_callback, _callback_seeds),
    "metadata": Target(fuzz_metadata, _metadata_seeds),
    "encoding": Target(fuzz_encoding, _encoding_seeds),
}
