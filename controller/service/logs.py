"""Logging: structlog and the standard library's loggers through one bounded handler.

Owns the set-up, called once by each program. Must not be imported for its loggers: modules
take theirs from `structlog.get_logger`. Identical lines beyond a burst are counted instead of
written, so that a failing disk or broker can't fill the journal.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from controller.service.journal import JournalHandler, stderr_is_journal

Output = Literal["auto", "console", "json", "journal"]

MAX_REMEMBERED_LINES = 512
BURST_LINES = 5
WINDOW_S = 30.0


class RepeatFilter(logging.Filter):
    """Lets through `BURST_LINES` identical lines a window, then says how many it held back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line that has been written often enough lately."""
        now = self._clock()
        key = _line_key(record)
        began, count = self._seen.pop(key, (now, 0))
        if now - began >= WINDOW_S:
            if count > BURST_LINES:
                _mention(record, count - BURST_LINES)
            began, count = now, 0
        self._seen[key] = (began, count + 1)
        if len(self._seen) > MAX_REMEMBERED_LINES:
            self._seen.popitem(last=False)
        return count < BURST_LINES


def _line_key(record: logging.LogRecord) -> str:
    if isinstance(record.msg, dict):
        parts = sorted((k, v) for k, v in record.msg.items() if k != "timestamp")
        return f"{record.levelno} {record.name} {parts!r}"
    return f"{record.levelno} {record.name} {record.getMessage()}"


def _mention(record: logging.LogRecord, held_back: int) -> None:
    if isinstance(record.msg, dict):
        record.msg = {**record.msg, "repeated": held_back}
    else:
        record.msg, record.args = f"{record.getMessage()} (repeated {held_back} times)", ()


def set_up_logging(
    level: str = "info",
    output: Output = "console",
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    *,
    program: str = "trilun",
    node: str | None = None,
) -> None:
    """Route structlog and `logging` to `stream` (stderr) or the journal.

    Replaces what was set up before. `auto` is the journal where stderr is connected to it, else
    the console. The journal knows `program` and `node` for every line.
    """
    if output == "auto":
        to_journal = stream is None and stderr_is_journal(os.environ)
        output = "journal" if to_journal else "console"
    stream = sys.stderr if stream is None else stream
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler: logging.Handler
    if output == "journal":
        always = {} if node is None else {"node": node}
        handler = JournalHandler(program, always, stderr=stream)
    else:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(_formatter(output, shared, colors=stream.isatty()))
    handler.addFilter(RepeatFilter(clock))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        if isinstance(old, JournalHandler):
            old.close()
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _formatter(
    output: Output, shared: list[structlog.typing.Processor], *, colors: bool
) -> logging.Formatter:
    renderer: structlog.typing.Processor
    if output == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=colors)
    last: list[structlog.typing.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.StackInfoRenderer(),
    ]
    if output == "json":
        last += [structlog.processors.format_exc_info, _limit_length]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared, processors=[*last, renderer]
    )


def _limit_length(
    _logger: Any, _name: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > 8192:
            event[key] = value[:8192] + "…"
    return event
