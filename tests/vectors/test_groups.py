# SPDX-License-Identifier: Apache-2.0
"""The vectors as others use them: each file fits its schema, is described, and holds for this package too."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from support.agents import Wire, agent_running, rules_of, socket_folder
from support.paths import VECTORS

import dpop
from dpop.agent import AgentLogins
from dpop.encoding import b64url_encode
from dpop.errors import CredentialError, InvalidKeyError
from dpop.keys import PublicKey, SoftwareKey
from dpop.requests import TokenEndpoint

FILES = sorted(path.name for path in VECTORS.glob("*.json"))
README = (VECTORS / "README.md").read_text("utf-8")


def document(name: str) -> dict[str, Any]:
    """A file of vectors, as strictly as its readers in other languages may read it."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    made: dict[str, Any] = json.loads((VECTORS / name).read_text("ascii"), object_pairs_hook=unique)
    json.dumps(made, ensure_ascii=False).encode("utf-8")  # with half of a surrogate pair in it, this fails
    return made


def schema(name: str) -> dict[str, Any]:
    """The schema of a file."""
    path = VECTORS / "schemas" / f"{name.removesuffix('.json')}.schema.json"
    made: dict[str, Any] = json.loads(path.read_text("ascii"))
    return made


def cases(name: str, *members: str) -> list[Any]:
    """The cases of a file that have the members, as pytest parameters."""
    return [pytest.param(case, id=case["id"]) for case in document(name)["cases"] if case.keys() >= set(members)]


# --- files


@pytest.mark.parametrize("name", FILES)
def test_each_file_fits_its_schema(name: str) -> None:
    """The schema is one of JSON Schema 2020-12, and the file is as it says."""
    jsonschema.Draft202012Validator.check_schema(schema(name))
    jsonschema.Draft202012Validator(schema(name)).validate(document(name))


@pytest.mark.parametrize("name", FILES)
def test_a_schema_can_refuse(name: str) -> None:
    """A member too many or too few in any place does not pass: a misspelt one would otherwise go unseen."""
    validator = jsonschema.Draft202012Validator(schema(name))
    for change in ("more", "less"):
        made = document(name)
        case = made["cases"][0]
        if change == "more":
            case["misspelt"] = 1
        else:
            del case[next(iter(case))]
        assert not validator.is_valid(made)
    assert not validator.is_valid({"about": ["x"], "cases": []})


def test_each_schema_has_a_file() -> None:
    """And each file a schema."""
    schemas = {path.name.replace(".schema.json", ".json") for path in (VECTORS / "schemas").iterdir()}
    assert schemas == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_in_the_readme(name: str) -> None:
    """A section of its own, in which every member of its cases is explained."""
    section = re.search(rf"^### `{re.escape(name)}`.*?(?=^##)", README + "\n##", re.MULTILINE | re.DOTALL)
    assert section is not None
    members = {member for case in document(name)["cases"] for member in case}
    common = {"id", "note"}
    assert {member for member in members - common if f"`{member}`" not in section[0]} == set()


@pytest.mark.parametrize("name", [name for name in FILES if name != "disagreements.json"])
def test_ids_are_unique(name: str) -> None:
    """A case is found by file and id."""
    assert [i for i, n in Counter(case["id"] for case in document(name)["cases"]).items() if n > 1] == []


def test_disagreements_are_of_cases_that_exist() -> None:
    """Of software that is named, about a case of a file, listed once."""
    listed = document("disagreements.json")
    seen = [(row["software"], row["file"], case_id) for row in listed["cases"] for case_id in row["ids"]]
    assert len(seen) == len(set(seen))
    for software, name, case_id in seen:
        assert software in listed["software"]
        assert case_id in {case["id"] for case in document(name)["cases"]}


# --- keys


@pytest.mark.parametrize("case", cases("keys.json"))
def test_a_key_signs_as_the_vectors_say(case: dict[str, Any]) -> None:
    """The private JWK is read, has its thumbprint, and the signature is by it."""
    key = SoftwareKey.from_jwk(case["jwk"]).with_alg(case["alg"])
    signature = base64.urlsafe_b64decode(case["signature"] + "==")
    assert key.thumbprint == case["thumbprint"]
    assert PublicKey.from_jwk(key.public_jwk).verify(case["alg"], case["signing_input"].encode(), signature)
    if case["alg"] in {"Ed25519", "RS256", "RS384", "RS512"}:  # which choose nothing
        assert key.sign(case["signing_input"].encode()) == signature


def accepted_proofs() -> list[Any]:
    """The proofs that servers accept, as pytest parameters."""
    found = [case for case in document("proofs.json")["cases"] if case["verdict"] == "ok"]
    return [pytest.param(case["headers"][0][1].strip(" \t"), id=case["id"]) for case in found]


@pytest.mark.parametrize("proof", accepted_proofs())
def test_anyone_can_make_the_proofs_again(proof: str, request: pytest.FixtureRequest) -> None:
    """Signed anew with the key of keys.json and the nonce of RFC 6979, a proof is the same byte for byte."""
    keys = {case["thumbprint"]: SoftwareKey.from_jwk(case["jwk"]) for case in document("keys.json")["cases"]}
    header, payload, signature = proof.split(".")
    members = json.loads(base64.urlsafe_b64decode(header + "=="))
    key, signed = keys[dpop.thumbprint(members["jwk"])], f"{header}.{payload}".encode()
    if key.alg.startswith("ES"):
        private = key._private
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        der = private.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
        made = dpop.der_to_raw(der)
    else:
        made = key.with_alg(members["alg"]).sign(signed)
    if members["alg"].startswith("PS"):  # which has a new salt each time
        assert (len(made), b64url_encode(made) == signature) == (256, False)
        return
    # The one that has the other s of the two that verify.
    assert (b64url_encode(made) == signature) is (request.node.callspec.id != "ok-high-s")


# --- hashes


@pytest.mark.parametrize("case", cases("thumbprints.json", "thumbprint"))
def test_a_thumbprint(case: dict[str, Any]) -> None:
    """Of the required members alone, in one order."""
    assert dpop.thumbprint(case["jwk"]) == case["thumbprint"]


@pytest.mark.parametrize("case", cases("thumbprints.json", "refused"))
def test_no_thumbprint(case: dict[str, Any]) -> None:
    """Another spelling of a key, or no key."""
    with pytest.raises(InvalidKeyError):
        dpop.thumbprint(case["jwk"])


@pytest.mark.parametrize("case", cases("ath.json"))
def test_an_access_token_hash(case: dict[str, Any]) -> None:
    """Of token68 and nothing else."""
    if "refused" in case:
        with pytest.raises(CredentialError):
            dpop.access_token_hash(case["access_token"])
    else:
        assert dpop.access_token_hash(case["access_token"]) == case["ath"]


@pytest.mark.parametrize("case", cases("code_jti.json"))
def test_a_code_jti(case: dict[str, Any]) -> None:
    """Of the decoded code, not of its spelling in a form."""
    if "refused" in case:
        with pytest.raises(CredentialError):
            dpop.code_jti(case["code"])
    else:
        assert dpop.code_jti(case["code"]) == case["jti"]
        assert case.get("not") != case["jti"]
        assert ("not" in case) == (case["form"] != case["code"])
        assert dpop.code_jti(case["form"]) == case.get("not", case["jti"])


# --- the agent


@pytest.fixture(scope="module")
def agent_of_the_vectors() -> Iterator[Wire]:
    """A connection to an agent with the key, the clock and the rules of the vectors."""
    told = document("agent.json")
    private = {case["thumbprint"]: case["jwk"] for case in document("keys.json")["cases"] if "thumbprint" in case}
    client = told["client"]
    with socket_folder() as folder:
        for name, jwk in (("work", told["jwk"]), (client["key"], client["jwk"])):
            SoftwareKey.from_jwk(private[dpop.thumbprint(jwk)]).save(folder / f"{name}.pem")
        rules = rules_of(folder, origins=told["origins"], methods=told["methods"])
        of_client = rules_of(folder, client["key"], origins=told["origins"], client_id=client["client_id"])
        logins = AgentLogins(folder / "logins", TokenEndpoint)
        with (
            agent_running(folder, rules, of_client, clock=lambda: told["now"], logins=logins) as running,
            running.connect() as wire,
        ):
            assert "error" not in wire.ask(**json.loads(told["login"]))
            yield wire


@pytest.mark.parametrize("case", cases("agent.json"))
def test_a_request_to_the_agent(case: dict[str, Any], agent_of_the_vectors: Wire) -> None:
    """It is signed, answered or refused, for the reason given."""
    body = case["request"].encode()
    frame = len(body).to_bytes(4, "big") + body
    assert frame.hex() == case.get("frame", frame.hex())
    agent_of_the_vectors.send(frame)
    response = agent_of_the_vectors.receive()
    assert response is not None
    assert response.get("error", "signed" if "signature" in response else "ok") == case["answer"]
    assert response.get("reason") == case.get("reason")
    assert {"v": 1, **case.get("response", response)} == response
