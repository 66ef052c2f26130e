"""A small stand-alone target over plain files: `python -m targets.iscsi --file PATH …`.

Owns the command line and the process's life. Must not hold protocol. Fails with a message
and exit code 1 when a file or portal can't be opened.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from targets import alone
from targets.iscsi.chap import ChapCredentials
from targets.iscsi.filelun import FileLun
from targets.iscsi.node import TargetConfig
from targets.iscsi.server import IscsiServer

DEFAULT_IQN = "iqn.2026-11.io.trilun:files"


def _arguments() -> argparse.ArgumentParser:
    parser = alone.arguments("python -m targets.iscsi", __doc__)
    parser.add_argument("--file", action="append", required=True, help="one LUN, from 0 up")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--iqn", default=DEFAULT_IQN)
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--mutual-user", help="the secret is taken from TRILUN_MUTUAL_SECRET")
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
    alone.say(f"listening on {host}:{port}")
    for lun in luns:
        alone.say(f"iscsi://{host}:{port}/{options.iqn}/{lun}")
    await alone.until_told()
    await server.close()
    for unit in units:
        unit.close()


def main() -> int:
    """Serve until SIGTERM or SIGINT."""
    options = _arguments().parse_args()
    refusals = (OSError, ValueError)
    return alone.run(_serve(options), verbose=options.verbose, refusals=refusals)


if __name__ == "__main__":
    sys.exit(main())
