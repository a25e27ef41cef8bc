# SPDX-License-Identifier: Apache-2.0
"""The error tree: what programs may catch, compare and pickle."""

from __future__ import annotations

import copy
import inspect
import pickle
import traceback

import httpx2
import pytest
import redis.asyncio

from dpop import errors
from dpop.errors import ArgumentTypeError, DPoPError, InvalidProof

CLASSES: list[type[DPoPError]] = [getattr(errors, name) for name in errors.__all__]
PLAIN = [cls for cls in CLASSES if cls not in {ArgumentTypeError, InvalidProof}]
SECRET = "Kz~8mXK1EalYznwH-LC-1fBAo"


def drawn_tree() -> dict[str, str | None]:
    """Name -> parent, as drawn at the top of the module."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (inspect.getdoc(errors) or "").splitlines():
        label = line.lstrip(" │├└─")
        name = label.split(" ")[0]
        if name not in errors.__all__ or not line.startswith(" "):
            continue
        depth = (len(line) - len(label) - 4) // 4
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else None
    return parents


def test_all_names_every_error_of_the_module() -> None:
    """__all__ is sorted and holds every public error class."""
    found = {n for n, c in vars(errors).items() if inspect.isclass(c) and issubclass(c, Exception)}
    assert set(errors.__all__) == found
    assert errors.__all__ == sorted(errors.__all__)


def test_the_drawn_tree_is_the_real_tree() -> None:
    """The tree in the module's docstring is the one Python knows."""
    real = {
        cls.__name__: next((b.__name__ for b in cls.__bases__ if issubclass(b, DPoPError)), None) for cls in CLASSES
    }
    assert drawn_tree() == real


def test_codes_are_stable_and_unique() -> None:
    """Each class has its own code, and none changes without this test changing."""
    assert {cls.__name__: cls.code for cls in CLASSES} == {
        "AgentLockedError": "agent_locked",
        "AgentRefusedError": "agent_refused",
        "AgentUnavailableError": "agent_unavailable",
        "AlgorithmError": "algorithm",
        "AmbiguousKeyError": "ambiguous_key",
        "ArgumentTypeError": "argument_type",
        "CredentialError": "credential",
        "DPoPError": "dpop_error",
        "DPoPKeyError": "key",
        "DeviceError": "device",
        "EncodingError": "encoding",
        "ForkedKeyError": "forked_key",
        "InsecureOriginError": "insecure_origin",
        "InvalidIDTokenError": "id_token",
        "InvalidKeyError": "invalid_key",
        "InvalidProof": "invalid_proof",
        "KeyAccessDeniedError": "key_access_denied",
        "KeyDisabledError": "key_disabled",
        "KeyFileError": "key_file",
        "KeyMismatchError": "key_mismatch",
        "KeyNotFoundError": "key_not_found",
        "KeyPasswordError": "key_password",
        "KeyThrottledError": "key_throttled",
        "KeyUnavailableError": "key_unavailable",
        "LookupUnavailableError": "lookup_unavailable",
        "MissingExtraError": "missing_extra",
        "OutcomeUnknownError": "token_outcome_unknown",
        "PinError": "pin",
        "PinLockedError": "pin_locked",
        "ReauthorizationError": "reauthorization",
        "ReplayCacheError": "replay_cache",
        "SignatureFormatError": "signature_format",
        "SigningError": "signing",
        "InvalidTargetError": "invalid_target",
        "TokenEndpointUnavailableError": "token_endpoint_unavailable",
        "InvalidTokenResponseError": "invalid_token_response",
        "TokenError": "token",
        "TokenFormatError": "token_format",
        "TokenLockError": "token_lock",
        "TokenRefusedError": "token_refused",
        "TokenRequestError": "token_request",
        "TokenStoreError": "token_store",
        "TokensNotSavedError": "tokens_not_saved",
        "UnboundTokenError": "token_unbound",
        "UnrewindableBodyError": "unrewindable_body",
        "UsageError": "usage",
    }
    assert len({cls.code for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", [c for c in CLASSES if issubclass(c, errors.UsageError)], ids=lambda c: c.__name__)
def test_misuse_is_a_value_error(cls: type[DPoPError]) -> None:
    """Whoever catches ValueError for a bad argument catches ours too."""
    assert issubclass(cls, ValueError)


def test_a_wrong_type_is_a_type_error_too() -> None:
    """A wrong type is caught by except TypeError, and by except ValueError."""
    with pytest.raises(TypeError):
        raise ArgumentTypeError("url", "str", 3)
    with pytest.raises(ValueError, match="url must be str, not int"):
        raise ArgumentTypeError("url", "str", 3)


def test_a_wrong_type_of_the_same_name_is_named_with_its_module() -> None:
    """Libraries for threads and for tasks call their classes alike."""
    error = ArgumentTypeError("client", "a redis.Redis or redis.RedisCluster", redis.asyncio.Redis())
    assert str(error) == "client must be a redis.Redis or redis.RedisCluster, not redis.asyncio.client.Redis"
    error = ArgumentTypeError("http", "a client of httpx (Client)", httpx2.Client())
    assert str(error) == "http must be a client of httpx (Client), not httpx2.Client"
    assert str(ArgumentTypeError("name", "a string", "")) == "name must be a string, not str"


def test_a_wrong_type_keeps_no_value() -> None:
    """The value, which may be a secret, is neither printed nor kept nor pickled."""
    error = ArgumentTypeError("access token", "str", SECRET.encode())
    assert (error.name, error.expected, error.got) == ("access token", "str", "bytes")
    seen = repr(error) + str(error) + repr(vars(error)) + repr(pickle.dumps(error))
    assert SECRET not in seen + "".join(traceback.format_exception(error))


@pytest.mark.parametrize("cls", PLAIN, ids=lambda c: c.__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_errors_travel_between_processes(cls: type[DPoPError], protocol: int) -> None:
    """A pickled error comes back with its class, its text and its code."""
    error = cls("what was expected, what came")
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is cls
    assert (str(back), back.code, back.args) == (str(error), error.code, error.args)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_wrong_type_survives_copying(clone: object) -> None:
    """Copies of an ArgumentTypeError have the same text and evidence."""
    assert callable(clone)
    back = clone(ArgumentTypeError("der", "bytes", 1.5))
    assert isinstance(back, ArgumentTypeError)
    assert (str(back), back.name, back.expected, back.got) == (
        "der must be bytes, not float",
        "der",
        "bytes",
        "float",
    )


def test_a_refusal_says_what_failed() -> None:
    """InvalidProof carries the OAuth error, a stable reason, a sentence and its evidence."""
    error = InvalidProof("invalid_dpop_proof", "htm_mismatch", "another method", expected="POST", got="GET")
    assert (error.error, error.reason, error.detail) == (
        "invalid_dpop_proof",
        "htm_mismatch",
        "another method",
    )
    assert (error.expected, error.got, error.nonce) == ("POST", "GET", None)
    assert str(error) == "invalid_dpop_proof (htm_mismatch): another method; expected POST, got GET"
    assert str(InvalidProof("invalid_token", "r", "d")) == "invalid_token (r): d"
    assert str(InvalidProof("invalid_token", "r", "d", expected="x")).endswith("; expected x, got nothing")


def test_a_refusal_hands_out_its_nonce_silently() -> None:
    """The nonce is an attribute for the caller and never text."""
    error = InvalidProof("use_dpop_nonce", "nonce_missing", "a nonce is required", nonce=SECRET)
    assert error.nonce == SECRET
    assert SECRET not in str(error) + repr(error) + "".join(traceback.format_exception(error))


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_a_refusal_survives_copying(clone: object) -> None:
    """Copies of an InvalidProof have the same text and evidence."""
    assert callable(clone)
    error = InvalidProof("use_dpop_nonce", "nonce_unknown", "not one of ours", expected="a", got="b", nonce="n")
    back = clone(error)
    assert isinstance(back, InvalidProof)
    assert (vars(back), str(back)) == (vars(error), str(error))
