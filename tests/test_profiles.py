# SPDX-License-Identifier: Apache-2.0
"""Profiles of servers: their files, and what the servers' documentation says, replayed and rehearsed."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from support.paths import PACKAGE
from support.transcripts import TRANSCRIPTS, played, read, rehearsed

import dpop
from dpop.errors import ArgumentTypeError, UsageError
from dpop.profiles import NAMES, RFC9449, Behaviour, Profile


def test_every_profile_is_a_file_with_sources() -> None:
    """The names are those of the files, and each says where its facts come from."""
    files = {path.stem: path for path in (PACKAGE / "_profiles").glob("*.toml")}
    assert {*files, "rfc9449"} == set(NAMES)
    for name, path in files.items():
        assert Profile.load(name).sources, name
        assert Profile.load(path)._replace(name="") == Profile.load(name)._replace(name=""), name
        assert tomllib.loads(path.read_text("utf-8"))["name"] == Profile.load(name).name


def test_every_profile_has_a_transcript() -> None:
    """Written from a source that it names, with how sure it is."""
    assert {read(path)["profile"] for path in TRANSCRIPTS} == set(NAMES) - {"rfc9449"}
    for path in TRANSCRIPTS:
        transcript = read(path)
        assert transcript["sources"], path.name
        assert transcript["certainty"], path.name


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_client_satisfies_a_transcript(path: Path) -> None:
    """A client with the profile sends what the server's documentation asks for, and understands what it responds."""
    assert list(played(read(path))) == []


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_test_server_acts_as_the_transcript(path: Path) -> None:
    """The same steps at the mode of that name: the same statuses and errors in the same order."""
    for expected, seen in rehearsed(read(path)):
        assert seen == expected


def test_the_constants_are_the_files() -> None:
    """The names in capitals are read on first use."""
    assert Profile.load("google") is dpop.profiles.GOOGLE
    assert Profile.load("rfc9449") is RFC9449
    with pytest.raises(AttributeError, match="BLUESKY"):
        dpop.profiles.BLUESKY  # noqa: B018


def written(folder: Path, text: str) -> Path:
    """A profile of one's own."""
    path = folder / "own.toml"
    path.write_text(text, "utf-8")
    return path


def test_a_profile_of_ones_own_starts_from_another(tmp_path: Path) -> None:
    """Only what differs has to be written."""
    path = written(tmp_path, 'like = "okta"\nname = "ours"\n[client]\nalgs = ["ES256"]\n[server]\nmax_age = 120\n')
    own = Profile.load(path)
    okta = Profile.load("okta")
    assert own == okta._replace(name="ours", algs=("ES256",), server=own.server)
    assert (own.server.max_age, own.server.api_status, okta.server.max_age) == (120, 400, 300)
    assert Profile.of(str(path)) == own
    assert repr(own) == "<Profile ours>"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nmae = 'x'", r"own\.toml: 'nmae' is not known; did you mean name\?"),
        ("name = 'x'\n[client]\nnonce = 'required'", r"\[client\]: 'nonce' is not known; did you mean nonces\?"),
        ("name = 'x'\n[server]\nmaxage = 5", r"\[server\]: 'maxage' is not known; did you mean max_age\?"),
        ("name = 'x'\n[server]\nqqqq = 5", r"'qqqq' is not known; expected some of as_nonces, rs_nonces"),
        ("name = 'x'\n[client]\nnonces = 'always'", 'nonces must be "auto" or "required", not \'always\''),
        ("name = 'x'\n[client]\nserial = 1", "serial must be true or false, not 1"),
        ("name = 'x'\n[client]\nlogin_parameters = ['prompt']", r"must be like \[\"prompt=consent\"\]"),
        ("name = 'x'\n[client]\nalgs = []", r"algs must be an array of strings, not \[\]"),
        ("name = 'x'\n[client]\nserver = 'y'", "'server' is not known"),
        ("name = 'x'\n[server]\nmax_age = 301", "max_age must be 0 to 300 seconds"),
        ("name = 'x'\n[server]\nnonce_seconds = 'long'", "nonce_seconds must be a number, 0 or more"),
        ("name = 'x'\n[server]\nskew = -1", "skew must be a whole number, 0 or more"),
        ("name = 5", "name must be a string, not 5"),
        ("name = 'x'\nclient = 5", r"\[client\] must be a table"),
        ("like = 'google'\n[client", "is not TOML: at "),
        ("name = " + "[" * 5_000, "is not TOML: it is nested too deep"),
        ("name = " + "1" * 5_000, "is not TOML: a number in it is too long"),
        ("like = 'gogle'\nname = 'x'", "'gogle', which is no profile of this package; did you mean google"),
        ("like = 'okta'", "has no name"),
        ("a = '" + "x" * 70_000 + "'", "more than 65536 bytes"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, told: str) -> None:
    """With the place, what was expected and what came."""
    with pytest.raises(UsageError, match=told):
        Profile.load(written(tmp_path, text))


def test_a_wrong_name_is_told(tmp_path: Path) -> None:
    """A near name is named; a file has to be there, and to be called .toml."""
    with pytest.raises(UsageError, match=r"no profile 'keyclaok'; did you mean keycloak\?"):
        Profile.load("keyclaok")
    with pytest.raises(UsageError, match="there are rfc9449, google"):
        Profile.load("x" * 70)
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: No such file"):
        Profile.of(tmp_path / "none.toml")
    with pytest.raises(ArgumentTypeError):
        Profile.load(5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError):
        Profile.of(None)  # type: ignore[arg-type]


def test_the_book_is_the_default() -> None:
    """RFC 9449 assumes nothing about either side."""
    assert Profile("x") == RFC9449._replace(name="x")
    assert RFC9449.server == Behaviour()
