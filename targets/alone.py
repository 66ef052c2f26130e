"""The life of a stand-alone target over files: its log, its lines, its end.

Owns what `python -m targets.iscsi` and `python -m targets.lio` have in common. Must not know
either. Fails with exit code 1 and a line, for the errors that it is told of.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any


def arguments(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The options that both have."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--chap-user", help="the secret is taken from TRILUN_CHAP_SECRET")
    parser.add_argument("--verbose", action="store_true")
    return parser


def say(line: str) -> None:
    """A line for whoever has started it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def until_told() -> None:
    """Return at SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


def run(
    serving: Coroutine[Any, Any, None],
    *,
    verbose: bool,
    refusals: tuple[type[Exception], ...],
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Serve to the end; 1 with a line on standard error for what can't be."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        with (
            contextlib.suppress(KeyboardInterrupt),
            asyncio.Runner(loop_factory=loop_factory) as runner,
        ):
            runner.run(serving)
    except refusals as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0
