"""Our LUNs beside the kernel's fileio LUN and tcmu-runner's, through open-iscsi on loopback.

Owns the set-up, the load and the ratios. Ours are a volume of trilund and a bare file. One lab host
is target and initiator; all files lie on its one ext4 and fit its page cache; each case runs on all
targets in turn, several rounds, in one boot. `python -m deploy.bench_lio` runs on the host; it
prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.labs.one import one_host
from deploy.labs.problem import LabError

ROOT = Path(__file__).parents[1]
BIN = ROOT / ".venv/bin"
CONFIGFS = Path("/sys/kernel/config/target")
FILES = Path("/var/lib/trilun/bench")
FILE_BYTES = 256 << 20
MEMORY_MIB = 2048
ROUNDS = 3
ROUND_S = 3
OURS = ("trilund", "file")
IQNS = {
    "trilund": "iqn.2026-11.io.trilun:volumes.v",
    "file": "iqn.2026-11.io.trilun:bench.f0",
    "fileio": "iqn.2003-01.org.linux-iscsi.bench:fileio",
    "tcmu-runner": "iqn.2003-01.org.linux-iscsi.bench:runner",
}
NODE = "volumes"
BROKER_PORT = 1884
RUNNER_HANDLER = "*/tcmu-runner/handler_qcow.so"
LIBRARIES = Path("/usr/lib")
GENERIC_NETLINK = "16"
PORT_PID = (1 << 22) - 1
"""libnl numbers a process's sockets above the bits that are its pid."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load."""

    block: str
    write: bool
    depth: int

    @property
    def name(self) -> str:
        """As a table shows it."""
        return f"{self.block} {'write' if self.write else 'read'} depth {self.depth}"


CASES = tuple(
    Case(block, write, depth) for block in ("4k", "256k") for write in (False, True)
    for depth in (1, 32)
)  # fmt: skip


def sh(script: str) -> str:
    """Run a script; CalledProcessError when it fails."""
    done = subprocess.run(["/bin/sh", "-euc", script], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _until(true: Callable[[], bool], what: str, within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"waited {within_s:.0f} s for {what}")
        time.sleep(0.1)


def _kernel_target(iqn: str, backstore: str, control: str) -> None:
    """A target of the kernel's own, as targetcli would make it."""
    sh(
        f"cd {CONFIGFS}; mkdir -p core/{backstore} iscsi\n"
        f"for each in {control}; do echo $each > core/{backstore}/control; done\n"
        f"echo 1 > core/{backstore}/enable\n"
        f"mkdir -p iscsi/{iqn}/tpgt_1/lun/lun_0\n"
        f"ln -s $PWD/core/{backstore} iscsi/{iqn}/tpgt_1/lun/lun_0/b\n"
        f"cd iscsi/{iqn}/tpgt_1; mkdir np/127.0.0.1:3260\n"
        "echo 0 > attrib/demo_mode_write_protect; echo 1 > attrib/cache_dynamic_acls\n"
        "echo 1 > attrib/generate_node_acls; echo 0 > attrib/authentication; echo 1 > enable"
    )


@contextmanager
def _running(*command: str, output: int = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A program while it is needed."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def _volume() -> Iterator[None]:
    """A volume of a controller, in no pair, behind all that a controller does for one."""
    (FILES / "broker.conf").write_text(f"listener {BROKER_PORT} 127.0.0.1\nallow_anonymous true\n")
    (FILES / "trilund.toml").write_text(
        f'node = "{NODE}"\nstate_dir = "{FILES}/{NODE}"\n'
        f'[broker]\nhost = "127.0.0.1"\nport = {BROKER_PORT}\n'
        f'[target]\nkind = "lio"\nlisten = ["127.0.0.1:3260"]\n'
    )
    trilun = f"{BIN / 'trilun'} --broker 127.0.0.1:{BROKER_PORT}"
    with (
        _running("mosquitto", "-c", f"{FILES}/broker.conf"),
        _running(str(BIN / "trilund"), "--config", f"{FILES}/trilund.toml"),
    ):
        _until(lambda: f'"{NODE}"' in sh(f"{trilun} --json status || true"), "trilund to be there")
        sh(f"{trilun} volume create {NODE}/v {FILE_BYTES}")
        yield


@contextmanager
def _file() -> Iterator[None]:
    """A bare file through our TCMU LUN."""
    ours = (sys.executable, "-m", "targets.lio", "--node", "bench", "--file", f"{FILES}/file")
    with _running(*ours, output=subprocess.PIPE) as process:
        assert process.stdout is not None
        if not any(line.strip() == "ready" for line in process.stdout):
            raise RuntimeError("targets.lio has ended")
        yield


@contextmanager
def _runner() -> Iterator[None]:
    """tcmu-runner's LUN."""
    with _running("/usr/bin/tcmu-runner", "--tcmu-log-dir", "/run") as process:
        _until(lambda: _hears_of_devices(process.pid), "tcmu-runner to be there")
        options = f"dev_config=qcow/{FILES}/runner dev_size={FILE_BYTES} hw_max_sectors=2048"
        _kernel_target(IQNS["tcmu-runner"], "user_1/bench", options)
        yield


def _hears_of_devices(pid: int) -> bool:
    """Whether a process has joined a group of generic netlink: an earlier device has no handler."""
    sockets = Path("/proc/net/netlink").read_text(encoding="ascii").splitlines()[1:]
    fields = [line.split() for line in sockets]
    return any(
        protocol == GENERIC_NETLINK and int(port) & PORT_PID == pid and int(groups, 16)
        for _, protocol, port, groups, *_ in fields
    )


@contextmanager
def _targets() -> Iterator[dict[str, str]]:
    """All targets, logged in: name to disk."""
    FILES.mkdir(exist_ok=True)
    sh("modprobe -a iscsi_tcp sd_mod target_core_user target_core_file iscsi_target_mod")
    sh("mkdir -p /run/lock/iscsi; systemctl start iscsid")
    for name in ("file", "fileio", "runner"):
        with (FILES / name).open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(os.urandom(1 << 20))
    with _volume(), _file(), _runner():
        options = f"fd_dev_name={FILES}/fileio,fd_dev_size={FILE_BYTES},fd_buffered_io=1"
        _kernel_target(IQNS["fileio"], "fileio_0/bench", options)
        try:
            disks = _log_in()
            sh(f"dd if={FILES}/file of={disks['trilund']} bs=1M oflag=direct status=none")
            yield disks
        finally:
            sh("iscsiadm -m node -u || true")


def _log_in() -> dict[str, str]:
    sh("iscsiadm -m discovery -t st -p 127.0.0.1; iscsiadm -m node -l")
    links = {
        name: Path(f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{iqn}-lun-0")
        for name, iqn in IQNS.items()
    }
    for link in links.values():
        _until(link.exists, f"{link} to be there")
    return {name: str(link.resolve()) for name, link in links.items()}


def _fio(disk: str, case: Case, seconds: int) -> float:
    """Operations a second."""
    command = (
        f"fio --name=b --filename={disk} --direct=1 --ioengine=libaio --output-format=json "
        f"--rw={'randwrite' if case.write else 'randread'} --bs={case.block} "
        f"--iodepth={case.depth} --time_based --runtime={seconds}"
    )
    found = json.loads(sh(command))["jobs"][0]
    return float(found["write" if case.write else "read"]["iops"])


def guest(seconds: int, rounds: int, cases: tuple[Case, ...]) -> dict[str, dict[str, list[float]]]:
    """Run everything: case to target to rates, one a round."""
    rates: dict[str, dict[str, list[float]]] = {}
    with _targets() as disks:
        for disk in disks.values():  # the files into the page cache, the data areas into place
            sh(f"dd if={disk} of=/dev/null bs=1M iflag=direct status=none")
        for case in cases:
            found = rates.setdefault(case.name, {name: [] for name in disks})
            for _ in range(rounds):
                for name, disk in disks.items():
                    found[name].append(round(_fio(disk, case, seconds), 1))
    return rates


def ratios(rates: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Medians of the rounds, and of each of ours over each other's in the same round."""
    table: dict[str, dict[str, float]] = {}
    for case, found in rates.items():
        row = table[case] = {name: statistics.median(each) for name, each in found.items()}
        for ours in OURS:
            for other in found.keys() - set(OURS):
                pairs = zip(found[ours], found[other], strict=True)
                row[f"{ours}/{other}"] = statistics.median(a / b for a, b in pairs)
    return table


def check() -> None:
    """LabError when there is not everything to compare with."""
    if not any(LIBRARIES.glob(RUNNER_HANDLER)):
        raise LabError(
            "tcmu-runner with its qcow handler is not installed, and is what it is compared with",
            "deploy/setup tools bench",
        )


def measure(seconds: int, rounds: int, only: str = "") -> dict[str, dict[str, float]]:
    """Boot a host and run there; raises LabError."""
    check()
    with one_host("bench", memory_mib=MEMORY_MIB) as host:
        ran = host.channel.run(
            str(BIN / "python"), "-m", "deploy.bench_lio",
            "--seconds", str(seconds), "--rounds", str(rounds), "--only", only,
            timeout_s=1800, cwd=str(ROOT),
        )  # fmt: skip
    return ratios(json.loads(ran.text.splitlines()[-1]))


def measure_lio(_directory: Path) -> dict[str, dict[str, float]]:
    """Operations a second, all cases."""
    return measure(ROUND_S, ROUNDS)


def main() -> None:
    """Be the host that is measured."""
    parser = argparse.ArgumentParser(prog="python -m deploy.bench_lio", description=__doc__)
    parser.add_argument("--seconds", type=int, default=ROUND_S)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", default="", help="cases that begin with this")
    options = parser.parse_args()
    cases = tuple(each for each in CASES if each.name.startswith(options.only))
    print(json.dumps(guest(options.seconds, options.rounds, cases)))


if __name__ == "__main__":
    main()
