"""Our TCMU LUN beside the kernel's fileio LUN and tcmu-runner's, through open-iscsi on loopback.

Owns the set-up, the load and the ratios. One lab host is target and initiator; all files lie on
its one ext4 and fit its page cache; each case runs on all targets in turn, several rounds, in one
boot. `python -m deploy.bench_lio` is what runs on the host; it prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.labs.one import one_host

ROOT = Path(__file__).parents[1]
CONFIGFS = Path("/sys/kernel/config/target")
FILES = Path("/var/lib/trilun/bench")
FILE_BYTES = 256 << 20
MEMORY_MIB = 2048
ROUNDS = 3
ROUND_S = 3
OURS = "iqn.2026-11.io.trilun:bench.f0"
FILEIO = "iqn.2003-01.org.linux-iscsi.bench:fileio"
RUNNER = "iqn.2003-01.org.linux-iscsi.bench:runner"
RUNNER_HANDLER = Path("/usr/lib/x86_64-linux-gnu/tcmu-runner/handler_qcow.so")


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


def _until_there(path: Path, within_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not path.exists():
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{path} did not come")
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
def _targets() -> Iterator[dict[str, str]]:
    """All targets, logged in: name to disk."""
    FILES.mkdir(exist_ok=True)
    sh("modprobe -a iscsi_tcp sd_mod target_core_user target_core_file iscsi_target_mod")
    sh("mkdir -p /run/lock/iscsi; systemctl start iscsid")
    for name in ("ours", "fileio", "runner"):
        with (FILES / name).open("wb") as file:
            for _ in range(FILE_BYTES >> 20):
                file.write(os.urandom(1 << 20))
    command = [sys.executable, "-m", "targets.lio", "--node", "bench"]
    ours = subprocess.Popen(
        [*command, "--file", str(FILES / "ours")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert ours.stdout is not None
    for line in ours.stdout:
        if line.strip() == "ready":
            break
    options = f"fd_dev_name={FILES}/fileio,fd_dev_size={FILE_BYTES},fd_buffered_io=1"
    _kernel_target(FILEIO, "fileio_0/bench", options)
    iqns = {"ours": OURS, "fileio": FILEIO}
    runner = None
    if RUNNER_HANDLER.exists():
        runner = subprocess.Popen(
            ["/usr/bin/tcmu-runner", "--tcmu-log-dir", "/run"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(2)
        options = f"dev_config=qcow/{FILES}/runner dev_size={FILE_BYTES} hw_max_sectors=2048"
        _kernel_target(RUNNER, "user_1/bench", options)
        iqns["tcmu-runner"] = RUNNER
    try:
        sh("iscsiadm -m discovery -t st -p 127.0.0.1; iscsiadm -m node -l")
        disks: dict[str, str] = {}
        for name, iqn in iqns.items():
            link = Path(f"/dev/disk/by-path/ip-127.0.0.1:3260-iscsi-{iqn}-lun-0")
            _until_there(link)
            disks[name] = str(link.resolve())
        yield disks
    finally:
        sh("iscsiadm -m node -u || true")
        ours.terminate()
        ours.wait()
        if runner is not None:
            runner.terminate()
            runner.wait()


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
    """Medians of the rounds, and of ours over each other's in the same round."""
    table: dict[str, dict[str, float]] = {}
    for case, found in rates.items():
        ours = found["ours"]
        row = table[case] = {"trilun": statistics.median(ours)}
        for other in found.keys() - {"ours"}:
            pairs = zip(ours, found[other], strict=True)
            row[other] = statistics.median(found[other])
            row[f"trilun/{other}"] = statistics.median(a / b for a, b in pairs)
    return table


def measure(seconds: int, rounds: int, only: str = "") -> dict[str, dict[str, float]]:
    """Boot a host and run there; raises LabError."""
    with one_host("bench", memory_mib=MEMORY_MIB) as host:
        ran = host.channel.run(
            str(ROOT / ".venv/bin/python"), "-m", "deploy.bench_lio",
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
