"""Measurements, as ratios against a peer in the same run where there is one.

Owns what docs/numbers.md records. Everything runs on loopback, on files in one directory. Ends with
1 when a value misses its bar (`deploy.bench_bars`), and says which.
    memory     resident size of controllers with a 1 TiB sparse volume and one pair
    recovery   what is compared and copied after a crash, and after a cut of the link
    target     the embedded target against tgtd: the same client, the same file system
    intent     random writes over a large mirrored volume against those inside one hot extent
    lio        a volume, and a bare file, against the kernel's fileio and tcmu-runner, in a lab host
    restore    bytes and times of a file's restore at 10 GiB and 1 TiB, and of a whole volume's
    group      how long a host's write waits when a group of eight pairs is split
    share      what each of two primaries gets of one secondary
    lab        how long the lab takes to be up, and its kernels' memory
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploy.bench_bars import bar_of, missed
from deploy.bench_group import measure_group
from deploy.bench_intent import measure_intent
from deploy.bench_lab import measure_lab
from deploy.bench_lio import measure_lio
from deploy.bench_restore import measure_restore
from deploy.bench_share import measure_share
from deploy.labs.problem import LabError
from deploy.pair import PATH, LocalPair, PairError, free_port
from deploy.recovery import measure_recovery

TIB = 1 << 40
FILE_BYTES = 256 << 20
SHAPES = (
    ("4k read, depth 1", "4k", 1, False, 4000),
    ("4k read, depth 32", "4k", 32, False, 20000),
    ("4k write, depth 1", "4k", 1, True, 4000),
    ("4k write, depth 32", "4k", 32, True, 20000),
    ("256k read, depth 8", "256k", 8, False, 2000),
    ("256k write, depth 8", "256k", 8, True, 2000),
)
ROUNDS = 3


def resident_bytes(pid: int) -> int:
    """VmRSS of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found.group(1)) * 1024 if found else 0


def measure_memory(directory: Path) -> dict[str, float]:
    """A pair of controllers, a 1 TiB sparse volume each, one remote pair in PAIR."""
    pair = LocalPair(directory)
    pair.configure()
    try:
        pair.launch_broker()
        pair.launch_controller(1)
        pair.launch_controller(2)
        pair.wait_online("ctl1", "ctl2")
        for volume in ("ctl1/first", "ctl2/second"):
            pair.trilun("volume", "create", volume, str(TIB))
        began_s = time.monotonic()
        pair.trilun("pair", "create", "demo-remote", "ctl1/first", "ctl2/second")
        pair.trilun("pair", "wait", "demo-remote", "PAIR")
        copy_s = time.monotonic() - began_s
        return {
            "primary_mib": resident_bytes(pair.pids["ctl1"][0]) / (1 << 20),
            "secondary_mib": resident_bytes(pair.pids["ctl2"][0]) / (1 << 20),
            "initial_copy_s": copy_s,
        }
    finally:
        pair.stop()


@contextlib.contextmanager
def embedded_target(image: Path) -> Iterator[str]:
    """Our target on a file; gives the URL."""
    port = free_port()
    command = [sys.executable, "-m", "targets.iscsi", "--file", str(image), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = ""
        while not url:
            line = process.stdout.readline()
            if not line:
                raise PairError("targets.iscsi has ended")
            found = re.search(r"iscsi://\S+", line)
            url = found.group(0) if found else ""
        yield url
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def tgt_target(image: Path) -> Iterator[str]:
    """Debian's tgtd on a file, in the foreground, with its own control port."""
    port, control = free_port(), str(os.getpid() % 30000 + 100)
    iqn = "iqn.2026-11.io.trilun:bench"
    command = [LocalPair.tool("tgtd"), "-f", "-C", control]
    process = subprocess.Popen(
        [*command, "--iscsi", f"portal=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    admin = [LocalPair.tool("tgtadm"), "-C", control, "--lld", "iscsi"]
    try:
        new = [*admin, "--op", "new", "--mode", "target", "--tid", "1", "-T", iqn]
        deadline_s = time.monotonic() + 10
        while subprocess.run(new, capture_output=True, check=False).returncode != 0:
            if time.monotonic() > deadline_s:
                raise PairError("tgtd did not come up")
            time.sleep(0.1)
        unit = ["--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1"]
        subprocess.run([*admin, *unit, "-b", str(image)], check=True)
        bind = ["--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"]
        subprocess.run([*admin, *bind], check=True)
        yield f"iscsi://127.0.0.1:{port}/{iqn}/1"
    finally:
        process.kill()
        process.wait()


def qemu_bench(url: str, size: str, depth: int, *, write: bool, count: int) -> float:
    """Requests a second of `qemu-img bench`."""
    command = [
        LocalPair.tool("qemu-img"), "bench", "-f", "raw", "-t", "none", "-c", str(count),
        "-d", str(depth), "-s", size, *(["-w"] if write else []), url,
    ]  # fmt: skip
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": PATH}
    )
    found = re.search(r"completed in ([\d.]+) seconds", result.stdout)
    if found is None:
        raise PairError(f"qemu-img bench: {result.stderr.strip() or result.stdout.strip()}")
    return count / float(found.group(1))


def measure_target(directory: Path) -> dict[str, dict[str, float]]:
    """Ours and tgtd in turn, best of three rounds each."""
    image = directory / "bench.img"
    block = os.urandom(1 << 20)
    with image.open("wb") as output:
        for _ in range(FILE_BYTES >> 20):
            output.write(block)
    results: dict[str, dict[str, float]] = {}
    with embedded_target(image) as ours, tgt_target(image) as theirs:
        for name, size, depth, write, count in SHAPES:
            best = [0.0, 0.0]
            for _ in range(ROUNDS):
                for number, url in enumerate((ours, theirs)):
                    rate = qemu_bench(url, size, depth, write=write, count=count)
                    best[number] = max(best[number], rate)
            results[name] = {"trilun": best[0], "tgtd": best[1], "ratio": best[0] / best[1]}
    return results


MEASURES: dict[str, Callable[[Path], Mapping[str, object]]] = {
    "memory": measure_memory,
    "recovery": measure_recovery,
    "target": measure_target,
    "intent": measure_intent,
    "lio": measure_lio,
    "group": measure_group,
    "share": measure_share,
    "restore": measure_restore,
    "lab": measure_lab,
}


def main() -> int:
    """Run what is named, or all."""
    parser = argparse.ArgumentParser(prog="deploy/bench", description=__doc__)
    parser.add_argument("what", nargs="*", metavar="|".join(MEASURES), default=list(MEASURES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.what) - set(MEASURES)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # A terminated benchmark unwinds like an interrupted one, so that nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results: dict[str, object] = {}
    misses: list[str] = []
    for name in arguments.what:
        directory = Path(tempfile.mkdtemp(prefix="trilun-bench-", dir="/var/tmp"))
        try:
            found = MEASURES[name](directory)
        except (PairError, LabError) as error:
            print(f"bench {name}: {error}", file=sys.stderr)
            return 1
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        results[name] = found
        misses += [f"bench {name}: {sentence}" for sentence in missed(name, found)]
        if not arguments.json:
            show(name, found)
    if arguments.json:
        print(json.dumps(results, indent=2))
    for each in misses:
        print(each, file=sys.stderr)
    return 1 if misses else 0


def show(name: str, found: Mapping[str, object]) -> None:
    """A table for people."""
    print(name)
    for key, value in found.items():
        if isinstance(value, dict):
            cells = "  ".join(
                f"{label} {number:10.2f}{_bar(name, key, label)}" for label, number in value.items()
            )
            print(f"  {key:<28} {cells}")
        else:
            print(f"  {key:<22} {value:10.2f}{_bar(name, key)}")


def _bar(what: str, line: str, value: str = "") -> str:
    """The column that says what a value may be at most."""
    bar = bar_of(what, line, value)
    return "" if bar is None else f"  bar {bar:g}"


if __name__ == "__main__":
    sys.exit(main())
