# SPDX-License-Identifier: Apache-2.0
"""curl's command line: read as curl reads it, whatever is on it."""

from __future__ import annotations

import re
import subprocess

import click
import pytest
from dpop_cli.commands.curl.options import (
    REFUSED,
    SHORT,
    WITH_VALUE,
    WITHOUT_VALUE,
    CurlOption,
    read_words,
    split_words,
)
from hypothesis import given
from hypothesis import strategies as st

_OLD_NAMES = {"show-headers": "include"}  # curl 8.10 renamed it; it knows both names

OURS = {"--key": True, "--token-file": True, "--no-nonce": False}

words = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["-", "--", "-s", "-sSL", "-d", "-dx", "-Xd", "--data", "--json", "--no-buffer", *OURS]),
        st.sampled_from(sorted(REFUSED)).map(lambda name: f"--{name}"),
    ),
    max_size=8,
)
flags = st.sampled_from(sorted(WITHOUT_VALUE - {"disable"})).map(lambda name: CurlOption(name, f"--{name}"))
values = st.builds(
    lambda name, value: CurlOption(name, f"--{name}", value),
    st.sampled_from(sorted(WITH_VALUE - {"url", "key"})),
    st.text(),
)
letters = {letter: name for letter, name in SHORT.items() if name in WITHOUT_VALUE - {"disable"}}


def test_curls_own_options_are_known() -> None:
    """Each option of the curl that is here has the arity we think, or is not passed on; each letter is right."""
    listed = subprocess.run(["curl", "--help", "all"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"^ *(?:-(.), +)?--([a-z0-9.-]+)( [<\[])?", listed, re.MULTILINE)
    assert len(found) > 200
    for letter, name, value in found:
        assert name not in WITH_VALUE or value, name
        assert name.removeprefix("no-") not in WITHOUT_VALUE or not value, name
        if letter in SHORT:
            assert SHORT[letter] == _OLD_NAMES.get(name, name)
        elif letter:
            assert name not in WITH_VALUE | WITHOUT_VALUE
    known = {name.removeprefix("no-") for _, name, _ in found}
    assert len(known & (WITH_VALUE | WITHOUT_VALUE)) > 180
    assert not WITH_VALUE & WITHOUT_VALUE
    assert not (WITH_VALUE | WITHOUT_VALUE) & REFUSED.keys()


@given(words)
def test_any_words_are_read_or_refused(given_words: list[str]) -> None:
    """There is a command line or a usage error, and all of the first goes on to curl."""
    mine, curls = split_words(given_words, OURS)
    assert len(mine) + len(curls) in {len(given_words), len(given_words) - 1}
    try:
        read = read_words(curls)
    except click.UsageError:
        return
    again = [word for option in read.options for word in option.words]
    assert read_words([*again, "--", *read.urls]) == read


@given(st.lists(flags | values, max_size=6), st.lists(st.text().filter(lambda text: text[:1] != "-"), max_size=2))
def test_what_was_written_is_read(options: list[CurlOption], urls: list[str]) -> None:
    """Any value may stand behind an option that takes one, one of our options and a dash included."""
    line = [word for option in options for word in option.words]
    mine, curls = split_words([*line, *urls], OURS)
    assert mine == []
    read = read_words(curls)
    assert list(read.options) == options
    assert list(read.urls) == urls


@given(st.lists(st.sampled_from(sorted(letters)), min_size=1, max_size=5), st.none() | st.text(min_size=1))
def test_a_cluster_is_its_letters(cluster: list[str], value: str | None) -> None:
    """`-sSd x` and `-sSdx` are `-s -S -d x`."""
    together = "-" + "".join(cluster)
    apart = [f"-{letter}" for letter in cluster]
    if value is None:
        assert read_words([together]) == read_words(apart)
    else:
        for line in ([f"{together}d{value}"], [f"{together}d", value]):
            assert read_words(line) == read_words([*apart, "-d", value])


@pytest.mark.parametrize("line", [["--token", "s3cret"], ["-us3cret:s3cret", "--s3cret"], ["-d", "s3cret", "--next"]])
def test_no_value_is_in_an_error_or_a_repr(line: list[str]) -> None:
    """A password among the arguments is repeated nowhere."""
    with pytest.raises(click.UsageError) as refused:
        read_words(line)
    assert "s3cret" not in str(refused.value).replace("--s3cret", "")
    assert "s3cret" not in repr(CurlOption("user", "-u", "s3cret"))
