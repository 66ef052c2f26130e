"""Plain files through the kernel's target: `python -m targets.lio --file PATH …`.

Owns the command line and the process's life. For tests and benchmarks on a machine with LIO.
SIGTERM ends it as a controller ends: initiators wait for the next one. With `--forget` the
kernel forgets the targets instead. Without a file it makes the kernel forget all targets of a
node at once, a controller's as well (`--node`), and ends. SIGHUP looks for files that have grown.
Fails with a message and exit code 1 when the kernel can't, or a file can't be opened.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time

from targets import alone
from targets.iscsi.filelun import FileLun
from targets.lio.layout import TcmuError
from targets.lio.loop import DirectLoop
from targets.lio.passes import LioSettings
from targets.lio.target import LioError, LioTarget
from targets.lio.wanted import (
    BACKSTORE_PREFIX,
    Chap,
    Ownership,
    Portal,
    WantedError,
)
from targets.naming import target_prefix


def _arguments() -> argparse.ArgumentParser:
    parser = alone.arguments("python -m targets.lio", __doc__)
    parser.add_argument("--file", action="append", default=[], help="one target each")
    parser.add_argument("--host", action="append", default=[], help="127.0.0.1 unless given")
    parser.add_argument("--port", type=int, default=3260)
    parser.add_argument("--node", default="files", help="the first part of the targets' names")
    parser.add_argument("--forget", action="store_true", help="remove the targets at the end")
    return parser


def _settings(options: argparse.Namespace) -> LioSettings:
    chap = None
    if options.chap_user:
        chap = Chap(options.chap_user, os.environ.get("TRILUN_CHAP_SECRET", ""))
    portals = tuple(Portal(host, options.port) for host in options.host or ["127.0.0.1"])
    owner = Ownership(target_prefix(options.node), f"{BACKSTORE_PREFIX}{options.node}@")
    return LioSettings(owner, portals, chap)


async def _serve(options: argparse.Namespace) -> None:
    settings = _settings(options)
    units = [FileLun(path) for path in options.file]
    target = LioTarget(settings, time.monotonic)
    target.changed = lambda: alone.say(f"problems: {'; '.join(target.problems) or 'none'}")
    await target.start()
    iqns: list[str] = []
    for number, unit in enumerate(units):
        iqns.append(f"{settings.owner.iqn_prefix}f{number}")
        name = f"{settings.owner.backstore_prefix}f{number}"
        target.add(iqns[-1], name, f"trilun/f{number}", unit)
    await target.settle()
    for iqn in iqns:
        alone.say(f"serving {iqn}")
    alone.say("ready")
    if not iqns:
        await target.close()
        if target.problems:
            raise LioError("; ".join(target.problems))
        return

    def grow() -> None:
        for unit in units:
            unit.look_again()
        target.size_changed()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, grow)
    await alone.until_told()
    if options.forget:
        for iqn in iqns:
            await target.remove(iqn, force=True)
    else:
        await target.rest()
    await target.close()
    for unit in units:
        unit.close()


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _arguments().parse_args()
    return alone.run(
        _serve(options),
        verbose=options.verbose,
        refusals=(OSError, TcmuError, LioError, WantedError),
        loop_factory=DirectLoop,
    )


if __name__ == "__main__":
    sys.exit(main())
