# SPDX-License-Identifier: Apache-2.0
"""Crash reporters send the variables of every frame: those of our errors hold no token, secret or code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.endpoints import ENDPOINTS, Endpoint
from support.recorder import Recorder, Response, script

import dpop
from dpop.errors import DPoPError, TokenError
from dpop.tokens import FileTokenStore, TokenSet

KEY = dpop.generate_key()
SECRETS = ("0ld-refresh-t0ken", "cl1ent-secret", "n3w-access-token", "n3w-refresh-token")


def variables_of(error: BaseException | None) -> Iterator[str]:
    """What a crash reporter sees below the test: the variables of each frame, of what it was made from too."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                yield from (f"{name} = {value!r}" for name, value in trace.tb_frame.f_locals.items())
            trace = trace.tb_next
        error = error.__cause__ or error.__context__


def check(call: Callable[[], Any], kind: type[DPoPError]) -> None:
    """It raises such an error, and no variable in its frames contains a secret."""
    with pytest.raises(kind) as caught:
        call()
    shown = "\n".join(variables_of(caught.value))
    assert [secret for secret in SECRETS if secret in shown] == []


ANSWERS = {
    "refused": Response(400, [], b'{"error":"invalid_grant","error_description":"0ld-refresh-t0ken"}'),
    "bad": Response(
        200, [], b'{"access_token":"n3w-access-token","refresh_token":"n3w-refresh-token","token_type":"x"}'
    ),
    "unbound": Response(200, [], b'{"access_token":"n3w-access-token","token_type":"Bearer"}'),
    "none": Response(drop=True),
}


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
@pytest.mark.parametrize("response", sorted(ANSWERS))
def test_requests_that_fail(name: str, response: str, tmp_path: Path) -> None:
    """Neither what was sent nor what came is in the frames, by an endpoint or through a source."""
    tokens = TokenSet(access_token="old", expires_at=1, refresh_token=SECRETS[0], jkt=KEY.thumbprint)
    store = FileTokenStore(tmp_path / "tokens.json")
    store.save(tokens)
    with Recorder(script(ANSWERS[response])) as recorder:
        url = recorder.url("/token")
        with Endpoint(name, KEY, url, client_id="c", client_secret=SECRETS[1]) as endpoint:
            check(lambda: endpoint.refresh(tokens), TokenError)
            source = endpoint.it.source(store)
            check(lambda: endpoint.wait(source.atoken()), TokenError)


@pytest.mark.parametrize("data", [b'{"refresh_token":"0ld-refresh-t0ken"', b'{"dpop_tokens":1,"account":"default"}'])
def test_stores_that_fail(data: bytes, tmp_path: Path) -> None:
    """What was read and what was to be written stay out of the frames."""
    store = FileTokenStore(tmp_path / "tokens.json")
    new = TokenSet(access_token=SECRETS[2], refresh_token=SECRETS[3])
    store.path.write_bytes(data)
    check(store.load, TokenError)
    check(lambda: store.replace(None, new, "default"), TokenError)
    store.path.unlink()
    store.path.mkdir()
    check(lambda: store.save(new), TokenError)
