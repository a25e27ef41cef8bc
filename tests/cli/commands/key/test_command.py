# SPDX-License-Identifier: Apache-2.0
"""`dpop key`: the file it writes, what it shows, and how a password reaches it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from dpop_cli.commands.key.command import generate, show, thumbprint
from dpop_cli.commands.key.device import list_keys
from support.cli_process import AtTerminal, examples, invoke, run, run_script
from support.pkcs11_devices import PIN, SoftHsm

import dpop
from dpop.keys import SoftwareKey

ALGS = ["ES256", "ES384", "ES512", "Ed25519", "EdDSA", "PS256", "RS256", "PS384", "PS512", "RS384", "RS512"]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A key on disk, not encrypted."""
    path = tmp_path / "some-key.pem"
    dpop.generate_key().save(path)
    return path


# --- generate


@pytest.mark.parametrize("alg", ALGS)
def test_generate_writes_a_key_only_its_owner_can_read(tmp_path: Path, alg: str) -> None:
    """Each algorithm: a file of mode 0600 that load_key reads, and a report of what was made."""
    path = tmp_path / "k.pem"
    result = invoke("key", "generate", "--alg", alg, "--out", str(path), "--json")
    assert result.exit_code == 0, result.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = dpop.load_key(path, alg=alg)
    assert json.loads(result.stdout) == {
        "path": str(path),
        "encrypted": False,
        "alg": alg,
        "thumbprint": key.thumbprint,
        "public_jwk": dict(key.public_jwk),
    }


def test_generate_reports_for_people_and_says_what_to_do_next(tmp_path: Path) -> None:
    """The thumbprint on stdout, and on stderr how to name the key from now on."""
    path = tmp_path / "k.pem"
    result = invoke("key", "generate", "--out", str(path))
    assert dpop.load_key(path).thumbprint in result.stdout
    assert f"export DPOP_KEY={path}" in result.stderr
    named = invoke("key", "generate", "--out", str(path), "--force", env={"DPOP_KEY": str(path)})
    assert named.stderr == ""


def test_generate_hints_at_a_name_the_file_cannot_keep(tmp_path: Path) -> None:
    """A file says Ed25519, not EdDSA: the hint names the option that does."""
    result = invoke("key", "generate", "--alg", "EdDSA", "--out", str(tmp_path / "k.pem"))
    assert "--alg EdDSA" in result.stderr


def test_generate_keeps_what_is_there(key_file: Path) -> None:
    """Without --force nothing is overwritten, and the message says what would be lost."""
    before = key_file.read_bytes()
    result = invoke("key", "generate", "--out", str(key_file))
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert key_file.read_bytes() == before


def test_generate_replaces_when_told_to(key_file: Path) -> None:
    """--force makes a new key in the old one's place."""
    before = dpop.load_key(key_file).thumbprint
    assert invoke("key", "generate", "--out", str(key_file), "--force").exit_code == 0
    assert dpop.load_key(key_file).thumbprint != before


def test_generate_never_prints_the_private_key(tmp_path: Path) -> None:
    """`--out -` is refused, and no report holds the private part."""
    refused = invoke("key", "generate", "--out", "-")
    assert refused.exit_code == 2
    assert "not printed" in refused.stderr
    path = tmp_path / "k.pem"
    made = invoke("key", "generate", "--out", str(path))
    shown = invoke("key", "show", "--key", str(path), "--json")
    key = dpop.load_key(path)
    assert isinstance(key, SoftwareKey)
    assert key.to_jwk(private=True)["d"] not in made.output + shown.output
    assert "PRIVATE" not in made.output + shown.output


def test_generate_into_a_place_that_is_not_there(tmp_path: Path) -> None:
    """A directory that does not exist is status 3 with its reason."""
    result = invoke("key", "generate", "--out", str(tmp_path / "no" / "k.pem"))
    assert result.exit_code == 3
    assert "No such file or directory" in result.stderr


def test_an_algorithm_that_is_none(tmp_path: Path) -> None:
    """HS256 and none are refused with the list of what there is."""
    for alg in ("HS256", "none"):
        result = invoke("key", "generate", "--alg", alg, "--out", str(tmp_path / "k.pem"))
        assert result.exit_code == 2
        assert "ES256" in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- show and thumbprint


def test_show_is_the_public_half(key_file: Path) -> None:
    """Algorithm, thumbprint and public JWK, for people and as JSON."""
    key = dpop.load_key(key_file)
    facts = {"alg": "ES256", "thumbprint": key.thumbprint, "public_jwk": dict(key.public_jwk)}
    assert json.loads(invoke("key", "show", "--key", str(key_file), "--json").stdout) == facts
    text = invoke("key", "show", "--key", str(key_file)).stdout
    assert key.thumbprint in text
    assert json.dumps(facts["public_jwk"]) in text


def test_thumbprint_is_one_line(key_file: Path) -> None:
    """Alone on its line for a script, or as JSON."""
    jkt = dpop.load_key(key_file).thumbprint
    assert invoke("key", "thumbprint", "--key", str(key_file)).stdout == f"{jkt}\n"
    assert json.loads(invoke("key", "thumbprint", "--key", str(key_file), "--json").stdout) == {"thumbprint": jkt}


def test_dpop_key_names_the_key(key_file: Path) -> None:
    """The environment variable stands in for --key, and --key beats it."""
    jkt = dpop.load_key(key_file).thumbprint
    assert invoke("key", "thumbprint", env={"DPOP_KEY": str(key_file)}).stdout == f"{jkt}\n"
    both = invoke("key", "thumbprint", "--key", str(key_file), env={"DPOP_KEY": "/nowhere"})
    assert both.stdout == f"{jkt}\n"


def test_a_jwk_file_is_a_key_too(tmp_path: Path) -> None:
    """What other tools write as a private JWK is read like PEM."""
    key = dpop.generate_key("ES384")
    path = tmp_path / "key.jwk"
    path.write_text(json.dumps(key.to_jwk(private=True)))
    path.chmod(0o600)
    assert invoke("key", "thumbprint", "--key", str(path)).stdout == f"{key.thumbprint}\n"


def test_alg_picks_the_other_name(tmp_path: Path) -> None:
    """--alg makes an Ed25519 key sign as EdDSA; a name the key does not have is status 3."""
    path = tmp_path / "k.pem"
    dpop.generate_key("Ed25519").save(path)
    shown = invoke("key", "show", "--key", str(path), "--alg", "EdDSA", "--json")
    assert json.loads(shown.stdout)["alg"] == "EdDSA"
    assert invoke("key", "show", "--key", str(path), "--alg", "ES256").exit_code == 3


# --- what cannot be a key


def test_no_key_named() -> None:
    """Status 2, and how to name one or make one."""
    result = invoke("key", "show")
    assert result.exit_code == 2
    assert "--key" in result.stderr
    assert "dpop key generate" in result.stderr


@pytest.mark.parametrize(
    "source",
    [
        '{"kty":"EC","d":"c2VjcmV0"}',
        "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----",
        "pkcs11:token=t;object=k?pin-value=c2VjcmV0",
    ],
)
def test_key_material_and_pins_are_refused_and_not_repeated(source: str) -> None:
    """--key takes a name; a key or PIN in its place is status 2, and appears in no message."""
    for result in (invoke("key", "show", "--key", source), invoke("key", "show", env={"DPOP_KEY": source})):
        assert result.exit_code == 2
        assert "c2VjcmV0" not in result.output


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    """Status 3 and the path that was looked at."""
    result = invoke("key", "show", "--key", str(tmp_path / "none.pem"))
    assert result.exit_code == 3
    assert "none.pem" in result.stderr


def test_arguments_too_many_are_counted_not_repeated() -> None:
    """What stands where no argument belongs may be a password."""
    result = invoke("key", "list", "hunter2", "hunter3")
    assert result.exit_code == 2
    assert "2 more arguments than expected" in result.stderr
    assert "hunter" not in result.stderr


# --- passwords


@pytest.mark.parametrize("way", ["file", "stdin", "env", "windows"])
def test_a_password_from_a_file_stdin_or_the_environment(tmp_path: Path, way: str) -> None:
    """The same three ways lock a key and open it; the end of the line is no part of the password."""
    path, password_file = tmp_path / "k.pem", tmp_path / "password.txt"
    password_file.write_bytes("pass wörd\r\n".encode("utf-16" if way == "windows" else "utf-8"))
    options, stdin, env = {
        "file": (["--password-file", str(password_file)], None, {}),
        "windows": (["--password-file", str(password_file)], None, {}),
        "stdin": (["--password-file", "-"], "pass wörd\n", {}),
        "env": (["--password-env", "KEY_PASSWORD"], None, {"KEY_PASSWORD": "pass wörd"}),
    }[way]
    made = invoke("key", "generate", "--out", str(path), "--json", *options, stdin=stdin, env=env)
    assert made.exit_code == 0, made.stderr
    assert json.loads(made.stdout)["encrypted"] is True
    key = dpop.load_key(path, password="pass wörd")
    opened = invoke("key", "thumbprint", "--key", str(path), *options, stdin=stdin, env=env)
    assert opened.stdout == f"{key.thumbprint}\n"


def test_a_wrong_password(tmp_path: Path) -> None:
    """Status 3; neither the wrong password nor the right one is in the message."""
    path = tmp_path / "k.pem"
    dpop.generate_key().save(path, password="right1")
    result = invoke("key", "show", "--key", str(path), "--password-file", "-", stdin="wrong1\n")
    assert result.exit_code == 3
    assert "password" in result.stderr
    assert "wrong1" not in result.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--password-file", "-", "--password-env", "HOME"], "not several"),
        (["--password-env", "NO_SUCH_VARIABLE_1"], "environment variable"),
        (["--password-file", "/no/such/s3cret"], "cannot be read"),
        (["--password-file", "/"], "cannot be read"),
        (["--password-file", "s3\0cret"], "cannot be read"),
        (["--password-file", "-"], "is empty"),
        (["--password-file", "/dev/zero"], "more than"),
    ],
)
def test_passwords_that_cannot_be_read(key_file: Path, options: list[str], words: str) -> None:
    """Status 2 with what was expected; what was given is not repeated, for it may be the password."""
    result = invoke("key", "show", "--key", str(key_file), *options)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "s3" not in result.stderr
    assert "NO_SUCH_VARIABLE_1" not in result.stderr


def test_a_locked_key_is_asked_for_at_the_terminal(tmp_path: Path) -> None:
    """Without a password option the terminal is asked, and what is typed is not shown."""
    path = tmp_path / "k.pem"
    key = dpop.generate_key()
    key.save(path, password="typed1")
    with AtTerminal("key", "thumbprint", "--key", "k.pem", cwd=tmp_path) as terminal:
        terminal.see("Password of ")
        terminal.type("typed1\n")
        assert terminal.end() == 0
    assert key.thumbprint in terminal.shown
    assert "typed1" not in terminal.shown


def test_a_key_without_a_password_is_never_asked_for(key_file: Path) -> None:
    """At a terminal too, a key that is not encrypted opens without a question."""
    with AtTerminal("key", "thumbprint", "--key", key_file.name, cwd=key_file.parent) as terminal:
        assert terminal.end() == 0
    assert terminal.shown.strip() == dpop.load_key(key_file).thumbprint


def test_a_new_password_is_asked_for_twice(tmp_path: Path) -> None:
    """A slip of the finger would lock the key for ever."""
    with AtTerminal("key", "generate", "--password-prompt", cwd=tmp_path) as terminal:
        for first, second in (("typed1\n", "tpyed1\n"), ("typed1\n", "typed1\n")):
            terminal.see("new key: ")
            terminal.type(first)
            terminal.see("confirmation: ")
            terminal.shown = ""
            terminal.type(second)
        assert terminal.end() == 0
    assert dpop.load_key(tmp_path / "key.pem", password="typed1").alg == "ES256"


def test_a_password_in_another_encoding(tmp_path: Path) -> None:
    """A terminal that is set to Latin-1 sends bytes that are no UTF-8: an error, and no key."""
    with AtTerminal("key", "generate", "--password-prompt", cwd=tmp_path, env={"PYTHONUTF8": "1"}) as terminal:
        terminal.see("new key: ")
        terminal.type(b"gr\xfcn\n")
        assert terminal.end() == 2
    assert "not text in utf-8" in terminal.shown
    assert list(tmp_path.iterdir()) == []


# --- help


@pytest.mark.parametrize("command", [show, thumbprint])
def test_the_examples_work(key_file: Path, command: object) -> None:
    """What the help shows can be typed as it stands."""
    key_file.rename(key_file.parent / "key.pem")
    done = run_script(examples(command), key_file.parent)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr


def test_the_examples_of_generate_work(tmp_path: Path, softhsm: SoftHsm) -> None:
    """The same for the command that writes, into files and into a token."""
    softhsm.init_device("office")
    (tmp_path / "pin").write_text(PIN)
    (tmp_path / "pin").chmod(0o600)
    environment = {**softhsm.environment, "PKCS11_MODULE": softhsm.module, "KEY_PASSWORD": "s3cret"}
    done = run_script(examples(generate), tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"key.pem", "api-key.pem", "locked.pem", "pin"}
    assert "a new ES256 key in the device 'office'" in done.stdout
    done = run_script(examples(list_keys), tmp_path, **environment)
    assert done.returncode == 0, done.stderr
    assert "api: ES256" in done.stdout
    assert dpop.load_key(tmp_path / "locked.pem", password="s3cret").alg == "ES256"


@pytest.mark.parametrize("command", ["show", "thumbprint"])
def test_the_key_may_be_the_argument(tmp_path: Path, command: str) -> None:
    """``dpop key show key.pem`` is what people type; a second key is one too many, and a key itself is refused."""
    made = dpop.generate_key()
    made.save(tmp_path / "key.pem")
    path = str(tmp_path / "key.pem")
    for env in ({}, {"DPOP_KEY": "other.pem"}):
        shown = invoke("key", command, path, env=env)
        assert (shown.exit_code, made.thumbprint in shown.stdout) == (0, True)
    assert invoke("key", command, path, "--key", path).exit_code == 2
    material = (tmp_path / "key.pem").read_text()
    for given, words in ((material, "name its file"), ('{"kty": "EC", "d": "pa55"}', "the key itself was given")):
        refused = invoke("key", command, given)
        assert (refused.exit_code, words in refused.stderr) == (2, True)
        assert given[:40] not in refused.output


def test_letters_of_algorithms_and_empty_names(tmp_path: Path) -> None:
    """es256 is ES256 wherever one is named; an empty file name is a usage error."""
    path = str(tmp_path / "a key.pem")
    made = invoke("key", "generate", "--alg", "es256", "--out", path)
    assert (made.exit_code, "a new ES256 key" in made.stdout) == (0, True)
    assert f"export DPOP_KEY='{path}'" in made.stderr
    assert invoke("proof", "GET", "https://a.example/", "--key", path, "--alg", "es256").exit_code == 0
    proof = invoke("proof", "GET", "https://a.example/", "--key", path).stdout.strip()
    assert invoke("inspect", proof, "--algs", "es256 ps256").exit_code == 0
    for args in (["key", "generate", "--out", ""], ["sig", "to-der", "00" * 64, "--out", ""]):
        refused = invoke(*args)
        assert (refused.exit_code, "but it is empty" in refused.stderr) == (2, True)


def test_a_key_that_others_can_read_gets_the_whole_command(tmp_path: Path) -> None:
    """The warning can be copied as it stands, blanks included."""
    path = tmp_path / "a key.pem"
    dpop.generate_key().save(path)
    path.chmod(0o644)
    shown = run("key", "show", str(path))
    assert f"chmod 600 '{path}'" in shown.stderr


def test_a_password_is_asked_for_by_the_keys_name(tmp_path: Path) -> None:
    """Of several keys it must be clear which one is meant."""
    dpop.generate_key().save(tmp_path / "locked.pem", password="pa55")
    with AtTerminal("key", "show", "locked.pem", cwd=tmp_path) as terminal:
        terminal.see("Password of locked.pem")
        terminal.type("pa55\n")
        assert terminal.end() == 0
