"""What a restore costs: bytes on the link, and how its steps' times grow with the volume.

Owns the story: one file of 10 MiB comes back into a volume that changed nowhere else, one of
10 GiB and a sparse one of 1 TiB, on ext4 and XFS; then all of the small one. Real processes on
loopback, as in the quickstart.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from deploy.pair import DATA_SET, LocalPair, PairError
from deploy.quickstart import digest, run, wait_for

GIB = 1 << 30
SMALL_BYTES, LARGE_BYTES = 10 * GIB, 1024 * GIB
FILE_BYTES = 10 << 20
OTHERS, OTHER_BYTES = 16, 4 << 20
MKFS = {
    # Few inodes, written at once: what the kernel would do later is no part of a restore.
    "ext4": ["-q", "-F", "-i", "4194304", "-J", "size=64", "-E", "lazy_itable_init=0"],
    "xfs": ["-q"],
}


def _raise_up(pair: LocalPair, volume_bytes: int) -> None:
    """Everything, with the file system mounted on host 1."""
    pair.configure()
    pair.launch_broker()
    pair.launch_controller(1)
    pair.launch_controller(2)
    pair.wait_online("ctl1", "ctl2")
    for volume in ("ctl1/first", "ctl2/second", "ctl2/third"):
        pair.trilun("volume", "create", volume, str(volume_bytes))
    image = pair.directory / "blank.img"
    with image.open("wb") as output:
        output.truncate(volume_bytes)
    run(pair.tool(f"mkfs.{pair.filesystem}"), *MKFS[pair.filesystem], str(image))
    info = pair.trilun("volume", "show", "ctl1/first")
    url = f"iscsi://{info['portals'][0]}/{info['target']}/{info['lun']}"
    run(pair.tool("qemu-img"), "convert", "-n", "--target-is-zero", "-f", "raw", "-O", "raw",
        str(image), url)  # fmt: skip
    image.unlink()
    pair.launch_agent(1)
    pair.launch_agent(2)
    pair.wait_online("host1", "host2")
    wait_for(lambda: os.path.ismount(pair.mountpoint), "host 1 to mount the first volume")


def _mirror(pair: LocalPair) -> None:
    for name, volumes in (
        ("demo-remote", ("ctl1/first", "ctl2/second")),
        ("demo-local", ("ctl2/second", "ctl2/third")),
    ):
        pair.trilun("pair", "create", name, *volumes)
        pair.trilun("pair", "wait", name, "PAIR")


def _receipt(pair: LocalPair, *arguments: str) -> dict[str, Any]:
    job = pair.trilun("restore", *arguments)
    wait_for(lambda: os.path.ismount(pair.mountpoint), "host 1 to mount it again")
    receipt: dict[str, Any] = job["receipt"]
    return receipt


def _others(pair: LocalPair) -> list[Path]:
    return [pair.mountpoint / f"other-{number}" for number in range(OTHERS)]


def _overwrite(path: Path) -> None:
    """In place, so that the blocks which have to come back hold data."""
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))
    os.sync()


def _one_file(pair: LocalPair) -> dict[str, Any]:
    """The receipt of one file's restore."""
    wanted = pair.mountpoint / "books.dat"
    for path, length in ((wanted, FILE_BYTES), *((each, OTHER_BYTES) for each in _others(pair))):
        path.write_bytes(os.urandom(length))
    os.sync()
    good = digest(wanted)
    _mirror(pair)
    pair.trilun("backup", DATA_SET)
    _overwrite(wanted)
    receipt = _receipt(pair, "--conflict", "overwrite", str(wanted))
    if digest(wanted) != good:
        raise PairError(f"{wanted} is not what it was at the backup")
    return receipt


def _whole_volume(pair: LocalPair) -> dict[str, Any]:
    """The receipt of a whole volume's restore, behind changes all over it."""
    good = [digest(path) for path in _others(pair)]
    pair.trilun("backup", DATA_SET)
    for path in _others(pair):
        _overwrite(path)
    receipt = _receipt(pair, "--whole", "--no-undo", DATA_SET)
    if [digest(path) for path in _others(pair)] != good:
        raise PairError("the first volume is not what it was at the backup")
    return receipt


def _story(directory: Path, filesystem: str, volume_bytes: int, *, whole: bool) -> dict[str, Any]:
    directory.mkdir()
    pair = LocalPair(directory, filesystem=filesystem)
    try:
        _raise_up(pair, volume_bytes)
        found = {"file": _one_file(pair)}
        if whole:
            found["whole"] = _whole_volume(pair)
        return found
    finally:
        pair.stop()
        shutil.rmtree(directory)


def measure_restore(directory: Path) -> dict[str, dict[str, float]]:
    """Each file system: one file at both sizes, the whole of the small one."""
    results: dict[str, dict[str, float]] = {}
    for filesystem in MKFS:
        small = _story(directory / f"{filesystem}-small", filesystem, SMALL_BYTES, whole=True)
        large = _story(directory / f"{filesystem}-large", filesystem, LARGE_BYTES, whole=False)
        for size, receipt in (("10 GiB", small["file"]), ("1 TiB", large["file"])):
            results[f"{filesystem}, one file, {size}"] = {
                "wire / union": receipt["wire_bytes"] / receipt["union_bytes"],
                "union - file, MiB": (receipt["union_bytes"] - receipt["file_bytes"]) / (1 << 20),
                "seconds": receipt["duration_s"],
            }
        few, many = small["file"]["step_s"], large["file"]["step_s"]
        growth = {step: many[step] - few.get(step, 0.0) for step in many}
        slowest = max(growth, key=lambda step: growth[step])
        results[f"{filesystem}, growth to 1 TiB: {slowest}"] = {"seconds": growth[slowest]}
        whole = small["whole"]
        results[f"{filesystem}, whole volume"] = {
            "wire / union": whole["wire_bytes"] / whole["union_bytes"],
            "union, MiB": whole["union_bytes"] / (1 << 20),
            "seconds": whole["duration_s"],
        }
    return results
