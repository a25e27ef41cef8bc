# SPDX-License-Identifier: Apache-2.0
"""The vectors through a second implementation, in another language: it agrees, or the disagreement is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from interop.peers import answers_to_vectors, installed_version
from support.paths import VECTORS

Case = dict[str, Any]

# What the vectors answer, in the words of the program; None: the question is not for it.
OURS: dict[str, Callable[[Case], str | None]] = {
    "proofs.json": lambda case: case["verdict"],
    "keys.json": lambda case: case["thumbprint"],
    "thumbprints.json": lambda case: case.get("thumbprint", "refused"),
    "ath.json": lambda case: case.get("ath"),
    "code_jti.json": lambda case: case.get("jti"),
    "challenges.json": lambda case: "retry" if case["retry"] else "no retry",
    "htu_inputs.json": lambda case: case["client"].get("htu", "refused"),
    "htu_pairs.json": lambda case: "equal" if case["equal"] else "not equal",
}


def document(name: str) -> dict[str, Any]:
    """A file of vectors."""
    made: dict[str, Any] = json.loads((VECTORS / name).read_text("ascii"))
    return made


def known() -> dict[tuple[str, str], str]:
    """The answer that is listed for each case in disagreement."""
    return {
        (row["file"], name): row["answer"] for row in document("disagreements.json")["cases"] for name in row["ids"]
    }


@pytest.fixture(scope="module")
def theirs() -> dict[str, dict[str, str]]:
    """All answers of the program."""
    return answers_to_vectors({name: document(name) for name in OURS})


@pytest.mark.parametrize("name", OURS)
def test_a_second_implementation_agrees_or_is_known_not_to(name: str, theirs: dict[str, dict[str, str]]) -> None:
    """Each answer is that of the vectors or of disagreements.json; one that went away must leave the list too."""
    differing = {}
    verdicts = {case["id"]: OURS[name](case) for case in document(name)["cases"]}
    for case in document(name)["cases"]:
        response, ours = theirs[name][case["id"]], OURS[name](case)
        if ours is None or response in {ours, "refused" if ours == "not equal" else ours}:
            continue
        whatever = name == "thumbprints.json" and ours == "refused"  # of which its value says nothing
        differing[case["id"]] = "a thumbprint" if whatever else response
    for row in document("disagreements.json")["cases"]:
        if row["file"] == name and "newer" in row:
            # As old platforms answer, or as new ones do; which may be as the vectors say.
            for case_id in row["ids"]:
                if differing.get(case_id, verdicts[case_id]) == row["newer"]:
                    differing[case_id] = row["answer"]
    listed = {case_id: response for (file, case_id), response in known().items() if file == name}
    assert differing == listed, "list what differs in vectors/group_disagreements.py, with the reason"


def test_enough_was_asked() -> None:
    """Most cases are within the program's reach: a file it had no answers for would agree with anything."""
    asked = {name: sum(OURS[name](case) is not None for case in document(name)["cases"]) for name in OURS}
    assert asked["proofs.json"] >= 243
    assert min(asked.values()) >= 7


def test_another_reader_of_der_agrees_or_is_known_not_to() -> None:
    """The cryptography package reads the DER of the vectors, and no BER; it is asked about no curve."""
    differing = {}
    for case in document("signatures.json")["cases"]:
        if "der" in case:
            try:
                decode_dss_signature(bytes.fromhex(case["der"]))
                response = "read"
            except ValueError:
                response = "refused"
            if (response == "read") != ("refused" not in case):
                differing[case["id"]] = response
    assert differing == {
        case_id: response for (file, case_id), response in known().items() if file == "signatures.json"
    }


@pytest.mark.parametrize("package", ["jose", "oauth4webapi"])
def test_the_version_is_the_one_named(package: str) -> None:
    """What the list says is of the version it names."""
    assert document("disagreements.json")["software"][package]["version"] == installed_version(package)
