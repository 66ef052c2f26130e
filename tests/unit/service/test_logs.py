"""Logging: one handler for both kinds of loggers, and a flood costs a few lines."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from controller.service.logs import BURST_LINES, MAX_REMEMBERED_LINES, WINDOW_S, set_up_logging

pytestmark = pytest.mark.plain


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clean_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.usefixtures("clean_logging")
def test_both_kinds_of_loggers_give_json() -> None:
    out = io.StringIO()
    set_up_logging("info", "json", out)
    structlog.get_logger("ours").info("volume made", size_bytes=4096)
    logging.getLogger("theirs").warning("odd %s", "thing")
    structlog.get_logger("ours").debug("hidden")
    ours, theirs = (json.loads(line) for line in out.getvalue().splitlines())
    assert (ours["event"], ours["size_bytes"], ours["level"]) == ("volume made", 4096, "info")
    assert (theirs["event"], theirs["logger"]) == ("odd thing", "theirs")


@pytest.mark.usefixtures("clean_logging")
def test_exceptions_are_one_json_line() -> None:
    out = io.StringIO()
    set_up_logging("info", "json", out)
    try:
        int("planted")
    except ValueError:
        structlog.get_logger("ours").exception("failed")
    (line,) = out.getvalue().splitlines()
    assert "ValueError: invalid literal" in json.loads(line)["exception"]


@pytest.mark.usefixtures("clean_logging")
def test_a_flood_of_identical_lines_is_counted_instead() -> None:
    clock, out = Clock(), io.StringIO()
    set_up_logging("info", "json", out, clock)
    log = structlog.get_logger("ours")
    for _ in range(100):
        log.warning("fsync failed", volume="v1")
    log.warning("fsync failed", volume="v2")
    assert len(out.getvalue().splitlines()) == BURST_LINES + 1
    clock.now += WINDOW_S
    log.warning("fsync failed", volume="v1")
    assert json.loads(out.getvalue().splitlines()[-1])["repeated"] == 100 - BURST_LINES


@pytest.mark.usefixtures("clean_logging")
def test_what_is_remembered_is_bounded() -> None:
    out = io.StringIO()
    set_up_logging("info", "console", out, Clock())
    for number in range(2 * MAX_REMEMBERED_LINES):
        logging.getLogger("x").info("line %d", number)
    (handler,) = logging.getLogger().handlers
    (repeats,) = handler.filters
    assert len(repeats._seen) == MAX_REMEMBERED_LINES  # type: ignore[union-attr]
