# SPDX-License-Identifier: Apache-2.0
"""Token sets: what they show, how they are written down, and whose key they ask for."""

from __future__ import annotations

import copy
import datetime as dt
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.rotating_server import RotatingServer

import dpop
from dpop.errors import ArgumentTypeError, KeyMismatchError, TokenFormatError, UsageError
from dpop.keys import Key, SoftwareKey
from dpop.requests import TokenEndpoint
from dpop.tokens import FileTokenStore, MemoryTokenStore, Refresher, TokenSet
from dpop.tokens._key_reference import check_key_reference, key_reference_of

KEY = dpop.generate_key()
FULL = TokenSet(
    access_token="access-secret",
    issued_at=1000,
    expires_at=4600.5,
    refresh_token="refresh-secret",
    refresh_expires_at=9000,
    scope="read write",
    jkt=KEY.thumbprint,
    key_reference="pkcs11:object=dpop",
    token_endpoint="https://as.example/token",
    client_id="client",
    id_token="id-secret",
    refresh_sent_at=1001,
    extra={"session_state": "x", "n": [1, {"a": None}]},
)


def test_no_secret_is_shown() -> None:
    """Neither repr nor str holds a token; the jkt is no secret."""
    shown = f"{FULL!r}{FULL}{[FULL]}"
    assert "secret" not in shown
    assert KEY.thumbprint in shown


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)), TokenSet.replace])
def test_copies_are_equal(clone: object) -> None:
    """A set that was copied, pickled or changed in nothing is the same set."""
    assert callable(clone)
    assert clone(FULL) == FULL


def test_json_and_back() -> None:
    """What is written down comes back, in one spelling; unknown facts are left out."""
    written = FULL.to_json()
    assert TokenSet.from_dict(json.loads(written)) == FULL
    assert TokenSet.from_dict({**json.loads(written), "future": 1}).to_json() == written
    assert TokenSet(access_token="a").to_dict() == {"access_token": "a", "token_type": "DPoP"}


@given(
    st.builds(
        TokenSet,
        access_token=st.text(min_size=1),
        token_type=st.sampled_from(["DPoP", "Bearer"]),
        expires_at=st.none() | st.floats(0, 1e12) | st.integers(0, 10**12),
        refresh_token=st.none() | st.text(),
        scope=st.none() | st.text(),
        extra=st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text()),
    )
)
def test_any_set_comes_back(tokens: TokenSet) -> None:
    """Whatever is in it, writing and reading changes nothing, and the fingerprint names it."""
    back = TokenSet.from_dict(json.loads(tokens.to_json()))
    assert (back, back.fingerprint) == (tokens, tokens.fingerprint)
    assert back.replace(access_token=tokens.access_token + "x").fingerprint != tokens.fingerprint


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"access_token": ""},
        {"access_token": 1},
        {"access_token": "a", "expires_at": "1"},
        {"access_token": "a", "expires_at": True},
        {"access_token": "a", "scope": ["a"]},
        {"access_token": "a", "extra": []},
        {"access_token": "a", "key_reference": "-----BEGIN PRIVATE KEY-----"},
    ],
)
def test_facts_that_make_no_set(facts: dict[str, object]) -> None:
    """A fact that is missing or of another type is a damaged store, not a crash."""
    with pytest.raises(TokenFormatError):
        TokenSet.from_dict(facts)


@pytest.mark.parametrize(
    "facts",
    [
        {"expires_at": "1700000000"},
        {"expires_at": dt.datetime(2026, 1, 1)},  # noqa: DTZ001
        {"expires_at": float("nan")},
        {"issued_at": float("inf")},
        {"issued_at": 10**400},
        {"refresh_expires_at": True},
        {"scope": ["read"]},
        {"refresh_token": b"r"},
        {"access_token": None},
        {"token_type": None},
        {"extra": []},
        {"refused_times": 1.5},
    ],
)
def test_a_fact_of_another_type_is_refused_when_it_is_given(facts: dict[str, Any], tmp_path: Path) -> None:
    """It would be stored in the place of good tokens, and could not be read again."""
    store = FileTokenStore(tmp_path / "tokens.json")
    store.save(FULL)
    (name,) = facts
    with pytest.raises(ArgumentTypeError, match=f"{name} must be"):
        store.save(FULL.replace(**facts))
    with pytest.raises(ArgumentTypeError, match=f"{name} must be"):
        TokenSet(**{"access_token": "a", **facts})
    assert store.load() == FULL


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("by", ["source", "refresher"])
def test_a_refresh_token_alone_is_stored_and_refreshed(kind: str, by: str, tmp_path: Path) -> None:
    """As the error of a response carries it that had no access token, or was cut off before it."""
    alone = TokenSet(access_token="", refresh_token="r0", jkt=KEY.thumbprint)
    store: Any = FileTokenStore(tmp_path / "tokens.json") if kind == "file" else MemoryTokenStore()
    store.save(alone)
    assert store.load() == alone
    with RotatingServer() as server:
        source = TokenEndpoint(KEY, server.url, client_id="c").source(store)
        if by == "source":
            assert source() == "a1"
        else:
            Refresher([source]).step()
        assert server.sent == ["r0"]
    assert store.load().access_token == "a1"


def test_a_set_does_not_change() -> None:
    """Threads share it, so nobody writes into it; and the meaning of a fact never depends on its place."""
    with pytest.raises(AttributeError):
        FULL.access_token = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        TokenSet("token")  # type: ignore[misc]


def test_scopes_and_time() -> None:
    """What was granted, what lacks, how long it is good."""
    assert FULL.scopes == {"read", "write"}
    assert FULL.missing_scopes("read admin", "x") == {"admin", "x"}
    assert FULL.seconds_left(1000) == 3600.5
    assert TokenSet(access_token="a").seconds_left(1000) is None
    assert TokenSet(access_token="a").scopes == frozenset()


def test_the_key_is_loaded_from_its_reference(tmp_path: Path) -> None:
    """A key that was loaded knows where from; the tokens find it there again, and no other."""
    path = tmp_path / "key.pem"
    KEY.save(path, password="pw")
    loaded = dpop.load_key(str(path), password="pw")
    assert isinstance(loaded, SoftwareKey)
    assert loaded.reference == str(path)
    assert loaded.with_alg("ES256").reference == str(path)
    tokens = FULL.replace(key_reference=key_reference_of(loaded, None))
    assert tokens.load_key(password="pw").thumbprint == KEY.thumbprint
    with pytest.raises(UsageError):
        FULL.replace(key_reference=None).load_key()
    dpop.generate_key().save(path, overwrite=True)
    with pytest.raises(KeyMismatchError) as caught:
        tokens.load_key()
    assert caught.value.expected == KEY.thumbprint


def test_where_a_key_is_kept(tmp_path: Path) -> None:
    """As given, else as the key says; a key that was made or came as bytes is kept nowhere."""

    class Elsewhere:
        alg, public_jwk, thumbprint, blocking = KEY.alg, KEY.public_jwk, KEY.thumbprint, True
        reference = "pkcs11:object=dpop?pin-value=1234"

        def sign(self, signing_input: bytes, /) -> bytes:
            return KEY.sign(signing_input)

    key: Key = Elsewhere()
    assert key_reference_of(key, None) is None
    assert key_reference_of(key, "pkcs11:object=dpop") == "pkcs11:object=dpop"
    assert key_reference_of(KEY, None) is None
    assert key_reference_of(dpop.load_key(KEY.to_jwk(private=True)), None) is None


@pytest.mark.parametrize(
    ("reference", "error"),
    [
        (b"key.pem", ArgumentTypeError),
        ("", UsageError),
        ("x" * 3000, UsageError),
        ("key\n.pem", UsageError),
        ("-----BEGIN EC PRIVATE KEY-----", UsageError),
        ('{"kty":"EC","d":"SECRET"}', UsageError),
        ("pkcs11:token=a;object=b?pin-value=SECRET", UsageError),
        ("pkcs11:token=a?module-path=/x&PIN-VALUE=SECRET", UsageError),
        ("vault://user:SECRET@vault.example/key", UsageError),
    ],
)
def test_a_reference_is_no_secret(reference: object, error: type[Exception]) -> None:
    """What could be a key, or has a PIN in it, is refused without being repeated."""
    with pytest.raises(error) as caught:
        check_key_reference(reference)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("resource", ["https://api.example", [1], [None, "https://api.example"]])
def test_resources_are_several_texts(resource: Any) -> None:
    """One text would be read as many of one character each."""
    with pytest.raises(ArgumentTypeError, match="several str"):
        TokenSet(access_token="a", resource=resource)


@pytest.mark.parametrize(
    "reference",
    ["key.pem", "/keys/ключ.pem", "C:\\keys\\k.pem", "pkcs11:object=a?pin-source=file:/run/pin", "awskms:alias/a"],
)
def test_references(reference: str) -> None:
    """Paths and URIs, a PIN's place included, can be noted."""
    assert check_key_reference(reference) == reference
