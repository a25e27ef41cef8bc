# SPDX-License-Identifier: Apache-2.0
"""What keys in all clouds have in common: no library until it is needed, one client per process, no pickles."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.forking import in_child

import dpop
from dpop import errors
from dpop.keys import SoftwareKey
from dpop.keys._external import SignatureFormat
from dpop.keys._public import PublicKey
from dpop.keys._uris import read_uri
from dpop.keys.kms import KeyService, KmsKey
from dpop.keys.kms._service import Facts, PerProcess

INNER = SoftwareKey.generate("PS256")
VERSION = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
URIS = {
    "aws": ("awskms:alias/x?region=eu-west-1", "boto3"),
    "gcp": (f"gcpkms:{VERSION}", "google"),
    "azure": ("azurekms:https://v.vault.azure.net/keys/k", "azure"),
}


class Nearby(KeyService):
    """A key service in this process."""

    title: ClassVar[str] = "Nearby"
    signature_format: ClassVar[SignatureFormat] = "raw"

    def describe(self) -> Facts:
        return self.usable(PublicKey.from_jwk(INNER.public_jwk), lambda alg: True)

    def sign(self, signing_input: bytes, alg: str) -> bytes:
        signature: bytes = self.ask(lambda client: client(signing_input, alg))
        return signature

    def explain(self, error: Exception) -> errors.DPoPKeyError:
        return self.trouble(errors.KeyUnavailableError, type(error).__name__)


def nearby(**arguments: Any) -> KmsKey:
    """A key of it."""
    return KmsKey.open(Nearby("k", lambda: lambda data, alg: INNER.with_alg(alg).sign(data)), **arguments)


# --- libraries


def test_importing_loads_no_cloud() -> None:
    """Neither the package, nor the modules of the three services, nor the command line."""
    code = (
        "import sys, dpop, dpop_cli.commands.key.command\n"
        "import dpop.keys.kms._aws, dpop.keys.kms._azure, dpop.keys.kms._gcp\n"
        "print([n for n in ('boto3', 'botocore', 'azure', 'google', 'grpc', 'requests') if n in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize("extra", URIS)
def test_a_missing_library_names_its_extra(extra: str) -> None:
    """Whoever has not installed the extra is told which one to install, at the command line too."""
    uri, package = URIS[extra]
    code = (
        "import runpy, sys\n"
        f"sys.modules[{package!r}] = None\n"
        "sys.argv = ['dpop', 'proof', 'GET', 'https://api.example/']\n"
        "runpy.run_module('dpop_cli', run_name='__main__')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "DPOP_KEY": uri}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (3, "")
    assert f"pip install 'dpop-toolkit[{extra}]'" in ran.stderr
    assert f"the Python package {package}" in ran.stderr


def test_a_missing_library_is_an_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both trees have it: whoever probes for a library catches ImportError."""
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ImportError) as caught:
        dpop.load_key(URIS["aws"][0])
    assert isinstance(caught.value, errors.MissingExtraError)
    assert caught.value.name == "boto3"


# --- the key


def test_what_a_key_shows_and_what_it_refuses() -> None:
    """Its repr says where it is; a copy is the key itself; it cannot be pickled."""
    key = nearby()
    assert repr(key) == f"<KmsKey PS256 {INNER.thumbprint} in Nearby: k>"
    assert copy.deepcopy([key])[0] is key
    with pytest.raises(errors.UsageError, match="pass on its URI"):
        pickle.dumps(key)
    assert key.blocking is True


def test_two_names_of_one_key() -> None:
    """A prover switches to what the server lists; the key that it came from stays as it was."""
    key = nearby()
    assert (key.alg, key.algs) == ("PS256", ("PS256", "RS256", "PS384", "PS512", "RS384", "RS512"))
    assert key.with_alg("PS256") is key
    switched = dpop.Prover(key, algs=["RS256"]).key
    assert (switched.alg, key.alg, switched.thumbprint) == ("RS256", "PS256", key.thumbprint)
    assert PublicKey.from_jwk(key.public_jwk).verify("RS256", b"bytes", switched.sign(b"bytes"))
    assert nearby(alg="RS256", reference="nearby:k").with_alg("PS256").reference == "nearby:k"
    with pytest.raises(
        errors.AlgorithmError,
        match="Nearby, key k: it signs with PS256 or RS256 or PS384 or PS512 or RS384 or RS512, not with 'ES256'",
    ):
        key.with_alg("ES256")


# --- one client per process


def test_a_client_is_made_once() -> None:
    """Sixty-four threads that ask at once get one client."""
    made: list[object] = []
    start = threading.Barrier(64)

    def make() -> object:
        time.sleep(0.01)  # long enough for the others to come
        made.append(object())
        return made[-1]

    client = PerProcess(make)

    def ask(_: int) -> object:
        start.wait()
        return client()

    with ThreadPoolExecutor(64) as pool:
        assert set(pool.map(ask, range(64))) == set(made)
    assert len(made) == 1


def test_a_client_that_could_not_be_made_is_made_later() -> None:
    """Credentials that come after a first failure are found."""
    responses: list[Any] = [OSError("not yet"), "client"]

    def make() -> str:
        response = responses.pop(0)
        if isinstance(response, Exception):
            raise response
        return str(response)

    client = PerProcess(make)
    with pytest.raises(OSError, match="not yet"):
        client()
    assert client() == client() == "client"


def test_a_child_has_a_client_of_its_own() -> None:
    """And its child again; the parent keeps its own."""
    made: list[int] = []

    def make() -> int:
        made.append(os.getpid())
        return made[-1]

    client = PerProcess(make)

    def work() -> bytes:
        mine = client() == client() == os.getpid()
        grandchild = in_child(lambda: b"yes" if client() == os.getpid() else b"no")
        return b"yes" if mine and grandchild == b"yes" else b"no"

    before = client()
    assert in_child(work) == b"yes"
    assert client() == before == os.getpid()
    assert made == [os.getpid()]


def test_a_lock_that_was_held_at_the_fork_holds_nobody_up() -> None:
    """A thread of the parent is making its client while the process forks; the child does not wait for it."""
    making, go_on = threading.Event(), threading.Event()

    def make() -> int:
        if not making.is_set():
            making.set()
            go_on.wait(30)
        return os.getpid()

    client = PerProcess(make)
    thread = threading.Thread(target=client)
    thread.start()
    making.wait(30)
    try:
        assert in_child(lambda: str(client() == os.getpid()).encode()) == b"True"
    finally:
        go_on.set()
        thread.join()
    assert client() == os.getpid()


# --- URIs


@given(st.text(max_size=60))
def test_any_text_is_a_uri_or_an_error(text: str) -> None:
    """No other exception comes out of whatever is behind a scheme."""
    for uri in (f"s:{text}", f"s:name?{text}", f"s:name?a={text}"):
        try:
            name, options = read_uri(uri, {"a": "[a-z]*"}, "s:name")
        except errors.InvalidKeyError:
            continue
        assert name.isascii()
        assert set(options) <= {"a"}


@pytest.mark.parametrize("extra", URIS)
@given(text=st.text(max_size=40))
def test_any_text_behind_a_scheme_is_refused_before_a_client_is_made(extra: str, text: str) -> None:
    """Random text names no key in any cloud; it is told at once, and with a key error."""
    scheme = URIS[extra][0].partition(":")[0]
    with pytest.raises(errors.InvalidKeyError):
        dpop.load_key(f"{scheme}:{text}")
