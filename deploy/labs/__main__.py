"""The lab's commands: `deploy/lab --help`.

Owns the command line and nothing else. Ends with 0, with a host's exit code for `run`, `shell` and
`trilun`, with 1 when something failed, with 2 when a command can't be given here.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable

from deploy.labs import data_sets, roles
from deploy.labs.lab import Lab, directory_of_choice
from deploy.labs.problem import LabError
from deploy.labs.terminal import follow
from deploy.labs.terminated import TerminatedError

Command = Callable[[argparse.Namespace], int]


def up(arguments: argparse.Namespace) -> int:
    """Make the lab and boot it."""
    began_s = time.monotonic()
    names = [*roles.USUAL, *(["third"] if arguments.third else [])]
    lab = Lab.up(directory_of_choice(), names, arguments.target)
    print(f"{', '.join(lab.names)} are up, after {time.monotonic() - began_s:.0f} s")
    return 0


def demo(arguments: argparse.Namespace) -> int:
    """Make a data set."""
    lab = Lab.open(directory_of_choice())
    data = roles.DataSet(arguments.filesystem)
    data_sets.make(lab, data)
    print(f"data set {data.name} is on host1 at {data.mountpoint}, in PAIR")
    return 0


def down(_arguments: argparse.Namespace) -> int:
    """End it."""
    print("the lab is gone" if Lab.down(directory_of_choice()) else "no lab was up")
    return 0


def status(_arguments: argparse.Namespace) -> int:
    """What is up, and what is broken."""
    lab = Lab.open(directory_of_choice())
    print(f"in {lab.directory}, {lab.target} target")
    for host in lab.hosts.values():
        process = host.process
        state = f"up, pid {process.pid}" if process and process.alive else "no power"
        print(f"{host.name:10} {host.address:12} {state:16} {host.console}")
    for line in lab.links.broken():
        print(line)
    return 0


def run(arguments: argparse.Namespace) -> int:
    """A command on a host."""
    return follow(Lab.open(directory_of_choice()).host(arguments.host), arguments.command)


def shell(arguments: argparse.Namespace) -> int:
    """A shell on a host, without root's own settings: they are the machine's, and slow there."""
    host = Lab.open(directory_of_choice()).host(arguments.host)
    return follow(host, ["env", r"PS1=\u@\h:\w\$ ", "bash", "--noprofile", "--norc"])


def trilun(arguments: argparse.Namespace) -> int:
    """The operator's command, from the machine itself."""
    command = Lab.open(directory_of_choice()).trilun_command(*arguments.command)
    os.execv(command[0], command)  # noqa: S606


def plug(arguments: argparse.Namespace) -> int:
    """Pull the plug."""
    lab = Lab.open(directory_of_choice())
    for host in [lab.host(name) for name in arguments.hosts]:
        host.kill()
    return 0


def start(arguments: argparse.Namespace) -> int:
    """Power on."""
    lab = Lab.open(directory_of_choice())
    hosts = [lab.host(name) for name in arguments.hosts]
    for host in hosts:
        host.start()
    for host in hosts:
        host.wait_booted()
    return 0


def cut(arguments: argparse.Namespace) -> int:
    """Cut a link."""
    Lab.open(directory_of_choice()).cut(arguments.one, arguments.other)
    return 0


def mend(arguments: argparse.Namespace) -> int:
    """Mend a link."""
    Lab.open(directory_of_choice()).mend(arguments.one, arguments.other)
    return 0


def delay(arguments: argparse.Namespace) -> int:
    """Slow a link down."""
    Lab.open(directory_of_choice()).delay(arguments.one, arguments.other, arguments.ms)
    return 0


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="deploy/lab",
        description="Machines with kernels of their own, to try trilun on: two controllers and "
        "two hosts on a network of their own. The lab's files are in $TRILUN_LAB "
        "(/var/tmp/trilun-lab).",
    )
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def add(command: Command, text: str, *arguments: str) -> argparse.ArgumentParser:
        made = commands.add_parser(command.__name__, help=text, description=text)
        made.set_defaults(do=command)
        for argument in arguments:
            made.add_argument(argument)
        return made

    made = add(up, "make the lab and boot its hosts; does nothing where it is up")
    made.add_argument("--target", choices=("lio", "embedded"), default="lio")
    made.add_argument("--third", action="store_true", help="a third controller, too")
    made = add(demo, "make three volumes and both pairs, with a file system in use on host 1")
    made.add_argument("filesystem", nargs="?", choices=roles.FILESYSTEMS, default="ext4")
    add(down, "end all of it and remove its files")
    add(status, "what is up, and which links are broken")
    made = add(run, "run a command on a host, as root", "host")
    made.add_argument("command", nargs=argparse.REMAINDER)
    made = add(trilun, "give trilun's own command from the machine itself")
    made.prefix_chars = "\0"  # all options are trilun's
    made.add_argument("command", nargs=argparse.REMAINDER)
    add(shell, "a shell on a host", "host")
    for command, text in (
        (plug, "pull a host's plug: its memory is gone, its disk stays"),
        (start, "give a host power and wait until it has booted"),
    ):
        add(command, text).add_argument("hosts", nargs="+", metavar="host")
    for command, text in ((cut, "drop all frames between two hosts"), (mend, "end that")):
        made = add(command, text, "one")
        made.add_argument("other", help="a host, or: all")
    made = add(delay, "let frames between two hosts take longer, each way", "one")
    made.add_argument("other", help="a host, or: all")
    made.add_argument("ms", type=float, help="milliseconds; 0 ends it")
    return parser.parse_args(argv)


def main() -> int:
    """Carry one command out."""
    arguments = parse(sys.argv[1:])
    do: Command = arguments.do
    return do(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LabError, TimeoutError) as error:
        print(f"lab: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, LabError) else 1)
    except TerminatedError as error:
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
