"""A backup of two data sets with every real part: programs, iSCSI, frozen file systems, MQTT.

A program on host 1 writes numbers to a file of one volume and of the other in turns, each on disk
before the next. Whatever the third volumes hold, it is these numbers up to one of them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.pair import LocalPair, PairError
from hostagent.programs import find_program
from tests.integration.backups.test_end_to_end import PROGRAMS, SIZE, run

pytestmark = [pytest.mark.root, pytest.mark.tools]

DATA_SETS = {
    "demo": ("first", "demo-remote", "second", "demo-local", "third"),
    "log": ("log-first", "log-remote", "log-second", "log-local", "log-third"),
}


class World:
    """Two data sets of one host 1, in sync, and the group 'shop' of both."""

    def __init__(self, pair: LocalPair) -> None:
        self.pair = pair
        self.places = {"demo": pair.mountpoint, "log": pair.directory / "host1-log"}

    def raise_up(self) -> None:
        pair = self.pair
        pair.configure()
        self.places["log"].mkdir()
        for number in (1, 2):
            path = pair.directory / "conf" / f"host{number}.toml"
            text = path.read_text(encoding="utf-8")
            _, mark, one = text.partition("[[data_set]]")
            other = one.replace('"demo"', '"log"').replace("demo-", "log-")
            for name in ("first", "second", "third"):
                other = other.replace(f'"{name}"', f'"log-{name}"')
            other = other.replace(str(self.places["demo"]), str(self.places["log"]))
            if number == 1:
                other += self._hook()
            path.write_text(f"{text}{mark}{other}", encoding="utf-8")
        pair.launch_broker()
        pair.launch_controller(1)
        pair.launch_controller(2)
        pair.wait_online("ctl1", "ctl2")
        for first, remote, second, local, third in DATA_SETS.values():
            for volume in (f"ctl1/{first}", f"ctl2/{second}", f"ctl2/{third}"):
                pair.trilun("volume", "create", volume, str(SIZE))
            self._make_filesystem(first)
            pair.trilun("pair", "create", remote, f"ctl1/{first}", f"ctl2/{second}")
            pair.trilun("pair", "wait", remote, "PAIR")
            pair.trilun("pair", "create", local, f"ctl2/{second}", f"ctl2/{third}")
            pair.trilun("pair", "wait", local, "PAIR")
        pair.trilun("group", "create", "shop", "demo-remote", "log-remote")
        pair.launch_agent(1)
        pair.launch_agent(2)
        pair.wait_online("host1", "host2")
        self.until_mounted()

    def until_mounted(self) -> None:
        deadline_s = time.monotonic() + 30
        while not all(os.path.ismount(place) for place in self.places.values()):
            assert time.monotonic() < deadline_s, "host 1 did not mount"
            time.sleep(0.05)

    def _hook(self) -> str:
        """The writer as a database, which writes to the other volume when it is prepared."""
        script = self.pair.directory / "hook"
        note = self.places["demo"] / "checkpoint"
        script.write_text(f"#!/bin/sh\necho $1 > {note} && sync {note}\n", encoding="utf-8")
        script.chmod(0o755)
        return (
            f'[[data_set.database]]\nkind = "hook"\npath = "ledger"\ncommand = ["{script}"]\n'
            'does = ["freeze"]\n'
        )

    def _make_filesystem(self, volume: str) -> None:
        pair = self.pair
        blank = pair.directory / "blank.img"
        with blank.open("wb") as output:
            output.truncate(SIZE)
        run(pair.tool("mkfs.ext4"), "-q", "-F", "-E", "lazy_itable_init=0", str(blank))
        info = pair.trilun("volume", "show", f"ctl1/{volume}")
        url = f"iscsi://{info['portals'][0]}/{info['target']}/{info['lun']}"
        run(pair.tool("qemu-img"), "convert", "-n", "-f", "raw", "-O", "raw", str(blank), url)
        blank.unlink()

    def backed_up(self) -> list[int]:
        """The numbers in the third volumes, in order."""
        numbers: list[int] = []
        for *_, third in DATA_SETS.values():
            image, place = self.pair.directory / "third.img", self.pair.directory / "third"
            shutil.copyfile(self.pair.image(third), image)
            place.mkdir(exist_ok=True)
            run("mount", "-o", "loop", str(image), str(place))
            try:
                numbers += [int(line) for line in (place / "ledger").read_text().split()]
            finally:
                run("umount", str(place))
        return sorted(numbers)


class Writer(threading.Thread):
    """Numbers, to one file and the other in turns, each on disk before the next."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.written = 0
        self.ended = threading.Event()
        self._files = [place / "ledger" for place in world.places.values()]

    def run(self) -> None:
        files = [path.open("ab") for path in self._files]
        while not self.ended.is_set():
            number = self.written + 1
            file = files[number % 2]
            file.write(b"%d\n" % number)
            file.flush()
            os.fsync(file.fileno())
            self.written = number
        for file in files:
            file.close()

    def reaches(self, count: int) -> None:
        deadline_s = time.monotonic() + 30
        while self.written < count:
            assert time.monotonic() < deadline_s, f"{self.written} of {count} writes"
            time.sleep(0.01)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices)")
    for program, package in PROGRAMS.items():
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package {package}")
    # Short: it becomes part of mount points and sockets.
    directory = Path(tempfile.mkdtemp(prefix="trilun-group-", dir="/var/tmp"))
    world = World(LocalPair(directory))
    try:
        world.raise_up()
        yield world
    finally:
        world.pair.stop()
        assert not any(os.path.ismount(place) for place in world.places.values())
        shutil.rmtree(directory)


def test_what_both_thirds_hold_is_the_program_up_to_one_write(world: World) -> None:
    writer = Writer(world)
    writer.start()
    try:
        for label, more in (("frozen", []), ("crash", ["--no-quiesce"])):
            writer.reaches(writer.written + 40)
            before = writer.written
            job = world.pair.trilun("backup", "shop", "--label", label, *more)
            after = writer.written
            receipt = job["receipt"]
            assert (job["data_set"], job["data_sets"]) == ("shop", ["demo", "log"])
            assert [(e["data_set"], e["pair"]) for e in receipt["members"]] == [
                ("demo", "demo-local"), ("log", "log-local"),
            ]  # fmt: skip
            assert all((e["frozen_s"] > 0) == (not more) for e in receipt["members"])
            if not more:
                prepared = receipt["members"][1]["databases"]
                assert [each["done"] for each in prepared] == ["the hook's freeze"]
            writer.reaches(after + 10)
            numbers = world.backed_up()
            assert numbers == list(range(1, len(numbers) + 1)), "no number without those before"
            assert before <= len(numbers) <= after + 1
            for name in DATA_SETS:
                slot = world.pair.trilun("backup", "list", name)["backups"][0]
                assert (slot["label"], slot["is_backup"]) == (label, True)
    finally:
        writer.ended.set()
        writer.join()


def test_both_go_back_to_that_instant(world: World) -> None:
    numbers = world.backed_up()
    for place in world.places.values():
        (place / "ledger").write_text("gone")
    back = ("restore", "--whole", "shop", "--from", "crash")
    with pytest.raises(PairError, match="'log': no backup slot is free to keep"):
        world.pair.trilun(*back)
    plan = world.pair.trilun(*back, "--no-undo", "--dry-run")["plan"]
    assert [one["data_set"] for one in plan["members"]] == ["demo", "log"]
    assert all((place / "ledger").read_text() == "gone" for place in world.places.values())
    job = world.pair.trilun(*back, "--no-undo", "--verify", "--deadline", "120")
    assert (job["data_sets"], job["state"]) == (["demo", "log"], "done")
    assert [one["data_set"] for one in job["receipt"]["restored"]] == ["demo", "log"]
    assert (job["receipt"]["verified"], job["receipt"]["compared_bytes"]) == (True, 4 * SIZE)
    world.until_mounted()
    text = "".join((place / "ledger").read_text() for place in world.places.values())
    assert sorted(int(line) for line in text.split()) == numbers


def test_where_one_slot_is_not_there_nothing_is_split(world: World) -> None:
    pair = world.pair
    labels = {
        name: pair.trilun("backup", "list", name)["backups"][0]["label"] for name in DATA_SETS
    }
    pair.trilun("group", "create", "more", "demo-remote", "log-remote")
    pair.trilun("pair", "split", "log-remote")
    with pytest.raises(PairError, match=r"log-remote.*PSUS"):
        pair.trilun("backup", "more", "--label", "bad")
    pair.trilun("pair", "resync", "log-remote")
    pair.trilun("pair", "wait", "log-remote", "PAIR")
    for name, label in labels.items():
        assert pair.trilun("backup", "list", name)["backups"][0]["label"] == label
    with pytest.raises(PairError, match="no data set, no remote pair of one and no group"):
        pair.trilun("backup", "nothing")
