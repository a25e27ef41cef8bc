# SPDX-License-Identifier: Apache-2.0
"""Write the vectors: ``python vectors/generate.py [DIRECTORY]``, by default beside this file.

The same octets each time, on any machine, so ``git diff --exit-code vectors`` proves the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cases_proof
import cases_response
import cases_state
import group_agent
import group_challenges
import group_disagreements
import group_hashes
import group_htu
import group_keys
import group_signatures
from case import LIMITS, NOW, Case

GROUPS: dict[str, Callable[[], list[Case]]] = {
    "accept": cases_proof.accept,
    "transport": partial(cases_proof.group, "transport"),
    "structure": partial(cases_proof.group, "structure"),
    "header": cases_proof.header,
    "jwk": partial(cases_proof.group, "jwk"),
    "signature": cases_proof.signature,
    "claims": partial(cases_proof.group, "claims"),
    "htu": cases_proof.htu,
    "binding": cases_proof.binding,
    "nonce": cases_state.nonce,
    "replay": cases_state.replay,
    "as": cases_state.authorization_server,
}

READ_ME = [
    "DPoP proofs (RFC 9449) and the verdict a server reaches on each.",
    "now: the server's clock, Unix seconds. limits: the server's policy; a case may change some of them.",
    "role: RS, a resource server, or AS, an authorization server.",
    "headers: name and value of each field, one character per octet. A value may be a list of pieces:",
    "text, or text to repeat a number of times.",
    "bound_jkt: the thumbprint the access token (RS) or the grant (AS) is bound to; null: unbound.",
    "nonces: what the server issued and accepts at this moment, with the times it can tell from each.",
    "used: the nonce was accepted before, and each is good once. Without nonces, the server uses none.",
    "after: the case that the same server judged just before; all others meet one that saw nothing yet.",
    "verdict: ok, missing (no proof), or the OAuth error code. also: what some other servers respond.",
    "reason: this project's name for the check that fails.",
    "ECDSA signatures are those of RFC 6979, and the salt of RSASSA-PSS is the first octets of SHA-256(x/0) ||",
    "SHA-256(x/1), where x is the text dpop-toolkit vectors: salt. So any language can regenerate this file.",
]


def proofs() -> dict[str, Any]:
    """The file proofs.json."""
    cases = [{"group": group, **case} for group, build in GROUPS.items() for case in build()]
    return {"about": READ_ME, "now": NOW, "limits": LIMITS, "cases": cases}


FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "proofs.json": proofs,
    "responses.json": cases_response.responses,
    "keys.json": group_keys.keys,
    "signatures.json": group_signatures.signatures,
    "htu_inputs.json": group_htu.inputs,
    "htu_pairs.json": group_htu.pairs,
    "challenges.json": group_challenges.challenges,
    "thumbprints.json": group_hashes.thumbprints,
    "ath.json": group_hashes.ath,
    "code_jti.json": group_hashes.code_jti,
    "agent.json": group_agent.agent,
    "disagreements.json": group_disagreements.disagreements,
}


def main(directory: Path) -> None:
    """Write every file into the directory."""
    for name, build in FILES.items():
        text = json.dumps(build(), indent=1, ensure_ascii=True) + "\n"
        (directory / name).write_text(text, encoding="ascii", newline="\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
