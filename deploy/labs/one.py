"""One lab host for one command, or for a test: `python -m deploy.labs.one -- COMMAND...`.

Owns a temporary directory and what runs in it, and removes both. The host sees this machine's
files, the working tree included, and changes none of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deploy.labs import needs
from deploy.labs.host import MEMORY_MIB, Host
from deploy.labs.layer import install_boot
from deploy.labs.network import Network
from deploy.labs.problem import LabError
from deploy.labs.terminal import follow
from deploy.labs.terminated import TerminatedError, unwound

ADDRESS = "10.77.0.9"


@contextmanager
def one_host(
    name: str = "solo", *, memory_mib: int = MEMORY_MIB, package: Path | None = None
) -> Iterator[Host]:
    """A booted host; gone, with everything it had, at the end, also at that of the program."""
    needs.check()
    with unwound():
        directory = Path(tempfile.mkdtemp(prefix="trilun-lab-", dir="/var/tmp"))
        try:
            with _host(name, directory, memory_mib, package) as host:
                yield host
        finally:
            shutil.rmtree(directory)


@contextmanager
def _host(name: str, directory: Path, memory_mib: int, package: Path | None) -> Iterator[Host]:
    network = Network.create(directory / "holder")
    try:
        host = Host(
            name,
            ADDRESS,
            directory / name,
            network,
            install_boot(directory),
            package=package,
            memory_mib=memory_mib,
        )
        host.layer.build(name, {name: ADDRESS})
        try:
            host.start()
            host.wait_booted()
            yield host
        finally:
            host.kill()
    finally:
        network.remove()


def main() -> int:
    """Run the command; its exit code is ours."""
    parser = argparse.ArgumentParser(prog="python -m deploy.labs.one", description=__doc__)
    parser.add_argument(
        "--memory", type=int, default=MEMORY_MIB, metavar="MIB", help="default %(default)s"
    )
    parser.add_argument("command", nargs="+", help="what to run as root on the host")
    arguments = parser.parse_args()
    with one_host(memory_mib=arguments.memory) as host:
        return follow(host, arguments.command)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2)
    except TerminatedError as error:
        sys.exit(error.exit_code)
