"""A small stand-alone target over plain files: `python -m targets.iscsi --file PATH …`.

Owns the command line and the process's life. Must not hold protocol. Fails with a message
and exit code 1 when a file or portal can't be opened.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import time

from targets.iscsi.chap import ChapCredentials
from targets.iscsi.filelun import FileLun
from targets.iscsi.node import TargetConfig
from targets.iscsi.server import IscsiServer

DEFAULT_IQN = "iqn.2026-11.io.trilun:files"


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m targets.iscsi", description=__doc__)
    parser.add_argument("--file", action="append", required=True, help="one LUN, from 0 up")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--iqn", default=DEFAULT_IQN)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--chap-user", help="the secret is taken from TRILUN_CHAP_SECRET")
    parser.add_argument("--mutual-user", help="the secret is taken from TRILUN_MUTUAL_SECRET")
    parser.add_argument("--verbose", action="store_true")
    return parser


def _credentials(options: argparse.Namespace) -> ChapCredentials | None:
    if not options.chap_user:
        return None
    return ChapCredentials(
        options.chap_user,
        os.environ.get("TRILUN_CHAP_SECRET", ""),
        options.mutual_user,
        os.environ.get("TRILUN_MUTUAL_SECRET") if options.mutual_user else None,
    )


async def _serve(options: argparse.Namespace) -> None:
    units = [FileLun(path, read_only=options.read_only) for path in options.file]
    server = IscsiServer(clock=time.monotonic, random_bytes=os.urandom)
    luns = dict(enumerate(units))
    server.add_target(TargetConfig(options.iqn, luns, _credentials(options), "files"))
    host, port = await server.listen(options.host, options.port)
    lines = [f"listening on {host}:{port}"]
    lines += [f"iscsi://{host}:{port}/{options.iqn}/{lun}" for lun in luns]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    await server.close()
    for unit in units:
        unit.close()


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _arguments().parse_args()
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(_serve(options))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
