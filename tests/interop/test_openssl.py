# SPDX-License-Identifier: Apache-2.0
"""openssl's twins: keys, signatures and whole proofs made by either program are good to the other, and to a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli_process import invoke, run_script

import dpop
from dpop.encoding import b64url_encode
from dpop.keys import PublicKey
from dpop.server import MemoryReplayCache, ProofVerifier
from dpop.testing import DPoPTestServer

TOKEN_URL = "https://as.example/token"

FUNCTION = 'dpop() { "$PYTHON" -m dpop_cli "$@"; }\n'

KEYS = {
    "ecparam": "openssl ecparam -name prime256v1 -genkey -out key.pem",
    "ecparam -noout": "openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
    "genpkey": "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem",
    "der": "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -outform DER -out key.pem",
    "dpop": "dpop key generate --out key.pem",
}
CURVES = {"ES256": ("P-256", "sha256"), "ES384": ("P-384", "sha384"), "ES512": ("P-521", "sha512")}

# The whole proof by openssl and the shell, as one does without a library; only the signature wants converting.
BY_OPENSSL = r"""
b64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
point() { openssl pkey -in key.pem -pubout -outform DER | tail -c 64; }
x=$(point | head -c 32 | b64url)
y=$(point | tail -c 32 | b64url)
jwk=$(printf '{"kty":"EC","crv":"P-256","x":"%s","y":"%s"}' "$x" "$y")
header=$(printf '{"typ":"dpop+jwt","alg":"ES256","jwk":%s}' "$jwk" | b64url)
proof() { # jti [nonce]
  claims=$(printf '"jti":"%s","htm":"POST","htu":"%s","iat":%d' "$1" "$TOKEN_ENDPOINT" "$(date +%s)")
  payload=$(printf '{%s%s}' "$claims" "${2:+,\"nonce\":\"$2\"}" | b64url)
  signature=$(printf %s "$header.$payload" | openssl dgst -sha256 -sign key.pem | dpop sig to-raw)
  printf 'DPoP: %s.%s.%s\n' "$header" "$payload" "$signature"
}
nonce() { sed -n 's/^dpop-nonce: *\([^ \r]*\).*/\1/Ip' "$1"; }
"""

# The same by dpop, which is left only the signing, or everything.
BY_DPOP = r"""
proof() { # jti [nonce]
  printf %s "$(dpop proof POST "$TOKEN_ENDPOINT" --key key.pem --unsigned --jti "$1" ${2:+--nonce "$2"})" > input
  printf 'DPoP: %s.%s\n' "$(cat input)" "$(openssl dgst -sha256 -sign key.pem input | dpop sig to-raw)"
}
"""
ALL_BY_DPOP = r"""
proof() { printf 'DPoP: %s\n' "$(dpop proof POST "$TOKEN_ENDPOINT" --key key.pem --jti "$1" ${2:+--nonce "$2"})"; }
"""
HELPERS = BY_OPENSSL[: BY_OPENSSL.index("point()")] + BY_OPENSSL[BY_OPENSSL.index("nonce()") :]

# Google's two requests: the code's hash as jti, then a fresh one with the nonce that the 200 brought.
GOOGLE = r"""
ask() { curl -sS --fail-with-body -D headers.txt -H @proof.txt -d @client.form "$@" "$TOKEN_ENDPOINT"; }
proof "$(printf %s "$CODE" | openssl dgst -sha256 -binary | b64url)" > proof.txt
ask -d grant_type=authorization_code -d "redirect_uri=$REDIRECT" --data-urlencode "code=$CODE" > first.json
refresh=$(sed -n 's/.*"refresh_token": *"\([^"]*\)".*/\1/p' first.json)
OTHERPROOF
proof "$(openssl rand -hex 16)" "$(nonce headers.txt)" > proof.txt
ask -d grant_type=refresh_token -d "refresh_token=$refresh" > second.json
"""

MAKERS = {"openssl": BY_OPENSSL, "dpop --unsigned": HELPERS + BY_DPOP, "dpop": HELPERS + ALL_BY_DPOP}


def google(first: str, second: str, key: str, tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A code exchange and a refresh at a token endpoint of Google's kind, and the two answers."""
    script = FUNCTION + KEYS[key] + "\n" + first + GOOGLE.replace("OTHERPROOF", second)
    with DPoPTestServer(mode="google") as server:
        redirect = "http://127.0.0.1/callback"
        (tmp_path / "client.form").write_text(f"client_id={server.client_id}&client_secret={server.client_secret}")
        done = run_script(
            script,
            tmp_path,
            TOKEN_ENDPOINT=server.token_endpoint,
            REDIRECT=redirect,
            CODE=server.issue_code(redirect_uri=redirect),
        )
        assert done.returncode == 0, (done.stderr, server.refusals)
        assert [request.status for request in server.requests] == [200, 200]
        assert server.refusals == []
    responses = [json.loads((tmp_path / name).read_text()) for name in ("first.json", "second.json")]
    return responses[0], responses[1]


@pytest.mark.parametrize(
    ("first", "second", "key"),
    [
        ("openssl", "openssl", "ecparam"),
        ("openssl", "dpop", "genpkey"),
        ("dpop", "openssl", "dpop"),
        ("dpop --unsigned", "dpop --unsigned", "ecparam -noout"),
    ],
)
def test_googles_recipe_both_ways(first: str, second: str, key: str, tmp_path: Path) -> None:
    """Proofs by openssl, by dpop, or by both in turn: a refresh token bound by one is refreshed by the other."""
    exchanged, refreshed = google(MAKERS[first], MAKERS[second], key, tmp_path)
    assert exchanged["token_type"] == refreshed["token_type"] == "Bearer"
    assert exchanged["access_token"] != refreshed["access_token"]


def test_what_openssl_signs_without_conversion_is_refused(tmp_path: Path) -> None:
    """The mistake the conversion is there for: DER in the proof, and the server says which check failed."""
    script = FUNCTION + KEYS["ecparam"] + BY_OPENSSL.replace("dpop sig to-raw", "b64url")
    script += 'proof some-id > proof.txt; curl -sS -H @proof.txt -d @client.form "$TOKEN_ENDPOINT"\n'
    with DPoPTestServer() as server:
        secrets = f"client_id={server.client_id}&client_secret={server.client_secret}"
        (tmp_path / "client.form").write_text(f"grant_type=client_credentials&{secrets}")
        done = run_script(script, tmp_path, TOKEN_ENDPOINT=server.token_endpoint)
        assert json.loads(done.stdout)["error"] == "invalid_dpop_proof", done.stderr
        assert [refusal.reason for refusal in server.refusals] == ["signature_malformed"]


@pytest.mark.parametrize("alg", CURVES)
@pytest.mark.parametrize("half", ["key.pem", "public.pem"])
def test_a_proof_signed_by_openssl(alg: str, half: str, tmp_path: Path) -> None:
    """`dpop proof --unsigned` needs only the public key, and with openssl's signature a verifier accepts it."""
    curve, digest = CURVES[alg]
    script = (
        FUNCTION
        + f"""
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:{curve} -out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
    dpop proof POST {TOKEN_URL} --key {half} --unsigned > input
    printf %s.%s "$(cat input)" "$(openssl dgst -{digest} -sign key.pem input | dpop sig to-raw)"
    """
    )
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    seen = ProofVerifier(replay=MemoryReplayCache(), algs=[alg]).verify_token_request(
        [("DPoP", done.stdout)], "POST", TOKEN_URL
    )
    assert seen.jkt == dpop.load_key(tmp_path / "key.pem").thumbprint


@pytest.mark.parametrize("alg", CURVES)
def test_a_proof_checked_by_openssl(alg: str, tmp_path: Path) -> None:
    """`dpop sig to-der` makes of a proof's signature one that openssl verifies, and of a changed proof none."""
    curve, digest = CURVES[alg]
    script = (
        FUNCTION
        + f"""
    dpop key generate --alg {alg} --out key.pem
    openssl pkey -in key.pem -pubout -out public.pem
    openssl pkey -in key.pem -noout -text | grep -q {curve}
    dpop proof POST {TOKEN_URL} --key key.pem > proof
    printf %s "$(cut -d. -f1,2 proof)" > input
    cut -d. -f3 proof | dpop sig to-der > signature.der
    openssl dgst -{digest} -verify public.pem -signature signature.der input
    printf x >> input
    openssl dgst -{digest} -verify public.pem -signature signature.der input || true
    """
    )
    done = run_script(script, tmp_path)
    assert done.stdout.splitlines()[-2:] == ["Verified OK", "Verification failure"], done.stderr


@pytest.mark.parametrize("key", KEYS)
def test_openssls_keys_are_keys_everywhere(key: str, tmp_path: Path) -> None:
    """The PEM and DER of openssl work in each command that takes a key, and its thumbprint is the same."""
    script = (
        FUNCTION
        + KEYS[key]
        + f"""
    openssl pkey -in key.pem -pubout -out public.pem
    dpop key thumbprint --key key.pem > thumbprint
    dpop key show --key key.pem --json > facts
    dpop headers POST {TOKEN_URL} --key key.pem --json > headers
    dpop proof POST {TOKEN_URL} --key key.pem --json > proof
    """
    )
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    public = PublicKey.from_bytes((tmp_path / "public.pem").read_bytes())
    assert (tmp_path / "thumbprint").read_text() == public.thumbprint + "\n"
    facts, headers, proof = (json.loads((tmp_path / name).read_text()) for name in ("facts", "headers", "proof"))
    assert facts["public_jwk"] == proof["header"]["jwk"] == public.jwk
    seen = ProofVerifier(replay=MemoryReplayCache()).verify_token_request(headers, "POST", TOKEN_URL)
    assert seen.jkt == public.thumbprint


# --- dpop proof --unsigned


def test_unsigned_is_the_proof_without_its_last_part(tmp_path: Path) -> None:
    """No end of a line, which would be signed too; --json shows what is inside."""
    key = dpop.generate_key()
    key.save(tmp_path / "key.pem")
    args = ["proof", "POST", TOKEN_URL, "--key", str(tmp_path / "key.pem"), "--jti", "1", "--iat", "1700000000"]
    unsigned = invoke(*args, "--unsigned")
    assert unsigned.stdout == invoke(*args).stdout.rpartition(".")[0]
    shown = json.loads(invoke(*args, "--unsigned", "--json").stdout)
    assert set(shown) == {"signing_input", "header", "claims"}
    assert shown["signing_input"] == unsigned.stdout


def public_half(key: dpop.Key, form: str) -> bytes:
    """The public key in a file's form."""
    if form == "jwk":
        return json.dumps(dict(key.public_jwk)).encode()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    assert isinstance(key, dpop.keys.SoftwareKey)
    encoding = Encoding.PEM if form == "pem" else Encoding.DER
    return key._private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("alg", ["ES256", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"])
@pytest.mark.parametrize("form", ["pem", "der", "jwk"])
def test_unsigned_with_a_public_key_in_any_form(alg: str, form: str, tmp_path: Path) -> None:
    """PEM, DER or JWK, and a name of the algorithm where the key has two."""
    key = dpop.generate_key(alg)
    path = tmp_path / "public"
    path.write_bytes(public_half(key, form))
    args = ["proof", "POST", TOKEN_URL, "--key", str(path), "--alg", alg, "--unsigned", "--json"]
    header = json.loads(invoke(*args).stdout)["header"]
    assert header == {"typ": "dpop+jwt", "alg": alg, "jwk": dict(key.public_jwk)}


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (b"no key", [], "not a key"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", [], "not a public key"),
        (b'{"kty":"oct","k":"AAAA"}', [], "symmetric"),
        (b'{"kty":"EC",', [], "JWK"),
        (None, ["--alg", "RS256"], "RS256"),
    ],
)
def test_unsigned_with_what_is_no_key_is_status_3(
    data: bytes | None, options: list[str], words: str, tmp_path: Path
) -> None:
    """The message says what came, and nothing is printed to sign."""
    path = tmp_path / "public"
    path.write_bytes(public_half(dpop.generate_key(), "pem") if data is None else data)
    made = invoke("proof", "POST", TOKEN_URL, "--key", str(path), "--unsigned", *options)
    assert (made.exit_code, made.stdout) == (3, ""), made.output
    assert words in made.stderr


def test_a_key_out_of_a_pipe(tmp_path: Path) -> None:
    """A pipe can be read only once, and gives either half: <(openssl pkey -pubout), or a private key."""
    script = (
        FUNCTION
        + KEYS["genpkey"]
        + f"""
    dpop proof POST {TOKEN_URL} --unsigned --jti 1 --iat 1700000000 --key key.pem > from-file
    dpop proof POST {TOKEN_URL} --unsigned --jti 1 --iat 1700000000 --key <(openssl pkey -in key.pem -pubout) > public
    dpop proof POST {TOKEN_URL} --unsigned --jti 1 --iat 1700000000 --key <(cat key.pem) > private
    dpop key thumbprint --key <(openssl pkey -in key.pem -pubout) > thumbprint
    dpop key show --json --key <(cat key.pem) > facts
    """
    )
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len({(tmp_path / name).read_bytes() for name in ("from-file", "public", "private")}) == 1
    key = dpop.load_key(tmp_path / "key.pem")
    assert (tmp_path / "thumbprint").read_text() == key.thumbprint + "\n"
    assert json.loads((tmp_path / "facts").read_text())["public_jwk"] == key.public_jwk


def test_a_public_key_signs_nothing(tmp_path: Path) -> None:
    """Without --unsigned a public key is refused: no proof with a made-up signature leaves."""
    path = tmp_path / "public.pem"
    path.write_bytes(public_half(dpop.generate_key(), "pem"))
    for command in ("proof", "headers"):
        made = invoke(command, "POST", TOKEN_URL, "--key", str(path))
        assert (made.exit_code, made.stdout) == (3, "")
        assert "public key" in made.stderr


def test_an_encrypted_key_is_still_a_key_for_unsigned(tmp_path: Path) -> None:
    """A private key with its password works too."""
    key = dpop.generate_key()
    key.save(tmp_path / "locked.pem", password="pa55word")
    args = ["proof", "POST", TOKEN_URL, "--key", str(tmp_path / "locked.pem"), "--unsigned", "--password-env", "PASS"]
    made = invoke(*args, env={"PASS": "pa55word"})
    assert made.exit_code == 0, made.stderr
    assert b64url_encode(b'{"typ":"dpop+jwt"')[:20] in made.stdout
