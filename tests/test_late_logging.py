# SPDX-License-Identifier: Apache-2.0
"""Loggers that load logging with their first message."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from dpop import _late_logging
from dpop._late_logging import before_messages, late_logger


def test_a_record_is_as_the_loggers_own(caplog: pytest.LogCaptureFixture) -> None:
    """Name, level and the caller's place."""
    late_logger("dpop.late").warning("%s is odd", "this")
    (record,) = caplog.records
    assert (record.name, record.levelno, record.getMessage()) == ("dpop.late", logging.WARNING, "this is odd")
    assert (record.filename, record.funcName) == ("test_late_logging.py", "test_a_record_is_as_the_loggers_own")


def test_a_program_adds_its_handler_before_the_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not logging is loaded by then; a function that is given twice is called once."""
    monkeypatch.setattr(_late_logging, "_prepare", [])
    calls: list[int] = []

    def prepare() -> None:
        calls.append(1)

    before_messages(prepare)
    before_messages(prepare)
    assert calls == []
    late_logger("dpop.late").info("nothing to see")
    assert calls == [1]


def test_without_any_setting_a_warning_reaches_stderr() -> None:
    """As with any logger: a program that never mentions logging sees it."""
    code = (
        "import sys\nfrom dpop._late_logging import late_logger\nlog = late_logger('dpop.late')\n"
        "assert 'logging' not in sys.modules\nlog.info('unseen')\nlog.warning('seen')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "seen\n"
