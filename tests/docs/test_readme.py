# SPDX-License-Identifier: Apache-2.0
"""The README does what it says: its shell lines and its scripts are run as they stand, one after the other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT
from support.ports import reserved_port

README = (ROOT / "README.md").read_text("utf-8")
PORT = "8910"


def blocks(language: str) -> list[tuple[str, str]]:
    """(nearest heading, text) of each block in a language."""
    found = []
    for match in re.finditer(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE):
        headings = re.findall(r"^#+ (.*)$", README[: match.start()], re.MULTILINE)
        found.append((headings[-1], match.group(1)))
    return found


def commands(heading: str) -> str:
    """The shell lines under a heading."""
    return "".join(text for name, text in blocks("sh") if name == heading)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A reader's folder and shell environment, with the server of the README running, on a port of its own."""
    folder = tmp_path_factory.mktemp("reader")
    port = str(reserved_port())
    activate, serve, generate = commands("The main job: a token that is always fresh").replace(PORT, port).splitlines()
    assert activate == ". .venv/bin/activate"  # where make demo installs; these tests have an environment already
    assert serve.endswith(" &")
    arguments = serve.removesuffix(" &").split()
    with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            assert port in server.stdout.readline()
            subprocess.run(["bash", "-ec", generate], cwd=folder, check=True, capture_output=True)
            yield folder, port
        finally:
            server.terminate()
            server.communicate()


def run(folder: Path, code: str) -> str:
    """Run a script in the reader's folder; what it prints."""
    ran = subprocess.run([sys.executable, "-"], input=code, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


SCRIPTS = blocks("python")


def test_the_main_script_runs_twice(reader: tuple[Path, str]) -> None:
    """The first run logs in, the second uses what is stored; both are accepted."""
    folder, port = reader
    (_, main), *_ = SCRIPTS
    assert run(folder, main.replace(PORT, port)) == "200\n"
    assert (folder / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert run(folder, main.replace(PORT, port)) == "200\n"


@pytest.mark.parametrize(("heading", "code"), SCRIPTS[1:], ids=[heading for heading, _ in SCRIPTS[1:]])
def test_a_recipe(heading: str, code: str, reader: tuple[Path, str]) -> None:
    """Each recipe goes on from the main script and is accepted."""
    folder, port = reader
    main = SCRIPTS[0][1]
    printed = run(folder, f"{main}\n{code}".replace(PORT, port)).splitlines()[1:]
    expected = {"async": str([200] * 10), "Many users, one session": "alice"}.get(heading, "200")
    assert printed == [expected]


def test_the_terminal(reader: tuple[Path, str]) -> None:
    """The shell lines run as printed."""
    folder, port = reader
    run(folder, SCRIPTS[0][1].replace(PORT, port))
    lines = commands("The terminal").replace(PORT, port)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(
        ["bash", "-ec", f"set -o pipefail\n{lines}"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert '"sub": "alice"' in ran.stdout
    assert '"htm": "GET"' in ran.stdout or "htm" in ran.stdout


def test_what_is_shown_can_be_pasted() -> None:
    """No prompts, which a shell would run, and no remarks, which zsh does not know at its prompt.

    ``make demo`` stands alone: at a terminal it would read the lines behind it.
    """
    assert commands("Try it") == "make demo\n"
    assert {language for language in re.findall(r"^```(\w*)$", README, re.MULTILINE) if language} == {"sh", "python"}
    for _, text in blocks("sh"):
        assert not re.search(r"^[$%>#] |\s#", text, re.MULTILINE), text


def test_it_fits() -> None:
    """A page that is read in one go."""
    assert len(README.splitlines()) <= 150


def test_it_names_the_right_package() -> None:
    """``pip install dpop`` would install another project, and the page says so."""
    assert not re.search(r"pip install \"?dpop(?!-toolkit)", README)
    assert "unrelated project" in README


def test_on_a_package_index_every_link_leads_somewhere(tmp_path: Path) -> None:
    """The release workflow rewrites the page, with the address and the tag that it knows."""
    (tmp_path / "scripts").mkdir()
    script = shutil.copy(ROOT / "scripts" / "publishable_readme.py", tmp_path / "scripts")
    page = Path(shutil.copy(ROOT / "README.md", tmp_path))
    subprocess.run([sys.executable, script, "https://forge.example/us/dpop", "v1.2.3"], check=True)
    text = page.read_text("utf-8")
    places = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]*)"', text)
    assert len(places) > 20
    assert [place for place in places if not place.startswith("https://")] == []
    own = re.findall(r"https://forge\.example/us/dpop/(blob|raw)/v1\.2\.3/([^)\"#]*)", text)
    assert {kind for kind, path in own if path.endswith(".svg")} == {"raw"}
    assert [path for _, path in own if not (ROOT / path).exists()] == []
    assert re.sub(r"https://forge\.example/us/dpop/(?:blob|raw)/v1\.2\.3/", "", text) == README


def test_quoted_figures_are_those_of_the_report() -> None:
    """A page that quotes a figure names it in the title of a link, and `make bench` writes it there."""
    kept = json.loads((ROOT / "docs" / "benchmarks" / "figures.json").read_text("utf-8"))
    figures = {figure["name"]: f"{figure['value']:g}" for row in kept["sections"].values() for figure in row["figures"]}
    quoted = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]:
        text = page.read_text("utf-8")
        for said, title in re.findall(r'\[([^\]\n]*)\]\([^)\s]*benchmarks/README\.md\s"([^"]*)"\)', text):
            name = " ".join(title.split())
            quoted.append((page.name, name, said, [value for each, value in figures.items() if each.startswith(name)]))
    assert quoted
    assert [each for each in quoted if [each[2]] != each[3]] == []


def test_what_a_proof_takes_is_what_was_measured() -> None:
    """The benchmarks' report and the README name the same times; `make bench` writes both."""
    said = re.search(r"A proof takes (\d+) us,\s(\d+) of which are the signature", README)
    assert said is not None
    report = (ROOT / "docs" / "benchmarks" / "README.md").read_text("utf-8")
    measured = [
        re.search(rf"^\| ES256 \| API request \| {by} \| (\d+)\.", report, re.MULTILINE)
        for by in ("dpop-toolkit", "cryptography, signature only")
    ]
    assert [said[1], said[2]] == [found and found[1] for found in measured]
