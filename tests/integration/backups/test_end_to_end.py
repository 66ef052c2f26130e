"""Two backups and a whole volume back, with every real part: programs, iSCSI, mounts, MQTT.

What host 1 has on its volume is a real ext4, and what is compared in the end are whole images.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.service.mqtt import Broker
from deploy.pair import DATA_SET, LocalPair, PairError
from hostagent.programs import find_program
from tests.nodes import api_client

pytestmark = [pytest.mark.root, pytest.mark.tools]

MIB = 1 << 20
SIZE = 64 * MIB
PROGRAMS = {
    "mosquitto": "mosquitto",
    "qemu-storage-daemon": "qemu-system-common",
    "qemu-img": "qemu-utils",
    "mkfs.ext4": "e2fsprogs",
}
SLOTS = (("third", "demo-local"), ("third-2", "demo-local-2"))


class World:
    """A data set with two backup slots, in sync."""

    def __init__(self, pair: LocalPair) -> None:
        self.pair = pair
        self.files = pair.mountpoint

    def raise_up(self) -> None:
        pair = self.pair
        pair.configure()
        for number in (1, 2):
            path = pair.directory / "conf" / f"host{number}.toml"
            text = path.read_text(encoding="utf-8")
            text = text.replace('local_pair = "demo-local"\nthird = "third"\n', "")
            text += "freeze_ttl_s = 5\n"
            for volume, local in SLOTS:
                text += f'[[data_set.backup]]\nvolume = "{volume}"\npair = "{local}"\n'
            path.write_text(text, encoding="utf-8")
        pair.launch_broker()
        pair.launch_controller(1)
        pair.launch_controller(2)
        pair.wait_online("ctl1", "ctl2")
        for volume in ("ctl1/first", "ctl2/second", *(f"ctl2/{name}" for name, _ in SLOTS)):
            pair.trilun("volume", "create", volume, str(SIZE))
        self._make_filesystem()
        pair.trilun("pair", "create", "demo-remote", "ctl1/first", "ctl2/second")
        pair.trilun("pair", "wait", "demo-remote", "PAIR")
        for volume, local in SLOTS:
            pair.trilun("pair", "create", local, "ctl2/second", f"ctl2/{volume}")
            pair.trilun("pair", "wait", local, "PAIR")
        pair.launch_agent(1)
        pair.launch_agent(2)
        pair.wait_online("host1", "host2")
        self.until_mounted()

    def _make_filesystem(self) -> None:
        pair = self.pair
        blank = pair.directory / "blank.img"
        with blank.open("wb") as output:
            output.truncate(SIZE)
        run(pair.tool("mkfs.ext4"), "-q", "-F", "-E", "lazy_itable_init=0", str(blank))
        info = pair.trilun("volume", "show", "ctl1/first")
        url = f"iscsi://{info['portals'][0]}/{info['target']}/{info['lun']}"
        run(pair.tool("qemu-img"), "convert", "-n", "-f", "raw", "-O", "raw", str(blank), url)

    def until_mounted(self) -> None:
        deadline_s = time.monotonic() + 30
        while not os.path.ismount(self.files):
            assert time.monotonic() < deadline_s, "host 1 did not mount"
            time.sleep(0.05)

    def digest(self, volume: str) -> str:
        with self.pair.image(volume).open("rb") as source:
            return hashlib.file_digest(source, "sha256").hexdigest()

    def backups(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.pair.trilun("backup", "list")["backups"]
        return found


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One for all tests here: each leaves pairs in sync and host 1 with its volume."""
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices)")
    for program, package in PROGRAMS.items():
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package {package}")
    # Short: it becomes part of mount points and sockets.
    directory = Path(tempfile.mkdtemp(prefix="trilun-backups-", dir="/var/tmp"))
    world = World(LocalPair(directory))
    try:
        world.raise_up()
        yield world
    finally:
        for name in ("host1", "host2"):
            pid, _ = world.pair.pids.get(name, (0, ""))
            if pid:
                os.kill(pid, signal.SIGCONT)
        world.pair.stop()
        assert not os.path.ismount(world.files)
        shutil.rmtree(directory)


def test_an_older_backup_of_the_whole_volume_comes_back(world: World) -> None:
    pair, files = world.pair, world.files
    (files / "ledger").write_bytes(os.urandom(3 * MIB))
    good = (files / "ledger").read_bytes()
    pair.trilun("backup", DATA_SET, "--label", "monday")
    (files / "ledger").write_bytes(os.urandom(3 * MIB))
    (files / "tuesday").write_text("only since then")
    taken = pair.trilun("backup", DATA_SET, "--label", "tuesday")["receipt"]
    assert taken["frozen_s"] > 0
    assert [(each["label"], each["pair"]) for each in world.backups()] == [
        ("tuesday", "demo-local-2"),
        ("monday", "demo-local"),
    ]
    thirds = world.digest("third"), world.digest("third-2")
    assert thirds[0] != thirds[1]
    (files / "junk").write_bytes(os.urandom(2 * MIB))
    os.sync()

    monday = ("--from", "monday", "--no-undo")
    plan = pair.trilun("restore", "--whole", *monday, "--dry-run", DATA_SET)["plan"]
    assert plan["backup_label"] == "monday"
    assert plan["second_union_bytes"] >= 5 * MIB
    assert (files / "junk").exists(), "a dry run changes nothing"

    receipt = pair.trilun("restore", "--whole", "--verify", *monday)["receipt"]
    assert receipt["verified"]
    assert receipt["compared_bytes"] == 2 * SIZE
    assert receipt["wire_bytes"] <= 1.02 * receipt["union_bytes"] + 16384
    assert (world.digest("third"), world.digest("third-2")) == thirds, "backups stay backups"
    world.until_mounted()
    assert sorted(path.name for path in files.iterdir()) == ["ledger", "lost+found"]
    assert (files / "ledger").read_bytes() == good

    every = ["restore", "--conflict", "overwrite", "--from", "tuesday", "*"]
    assert "all there is in the backup" in pair.trilun(*every, "--dry-run")["plan"]["whole"]
    job = pair.trilun(*every)
    assert (job["kind"], job["receipt"]["label"]) == ("whole", "tuesday")
    assert "all there is on the volume" in job["receipt"]["whole"]
    world.until_mounted()
    assert sorted(path.name for path in files.iterdir()) == ["ledger", "lost+found", "tuesday"]
    (files / "more").write_text("not in the backup")
    assert pair.trilun(*every)["kind"] == "restore"
    world.until_mounted()
    assert (files / "more").exists()


def test_first_equals_third_before_anybody_mounts_it(world: World) -> None:
    """With host 1's agent held back, the images are what the restore left."""
    pair, files = world.pair, world.files
    (files / "a").write_bytes(os.urandom(2 * MIB))
    pair.trilun("backup", DATA_SET, "--label", "good")
    newest = world.backups()[0]
    third = world.digest(newest["volume"])
    (files / "a").write_bytes(os.urandom(4 * MIB))
    os.sync()
    job = asyncio.run(held_back(pair))
    assert world.digest("first") == world.digest("second") == third
    assert world.digest(newest["volume"]) == third
    os.kill(pair.pids["host1"][0], signal.SIGCONT)
    ended = pair.trilun("job", "wait", job)
    assert ended["state"] == "done"
    world.until_mounted()


def test_a_restore_is_undone_though_host_1_has_written_since(world: World) -> None:
    pair, files = world.pair, world.files
    world.until_mounted()
    (files / "precious").write_bytes(os.urandom(2 * MIB))
    precious = (files / "precious").read_bytes()
    with pytest.raises(PairError, match="no backup slot is free to keep what is overwritten"):
        pair.trilun("restore", "--whole")

    job = pair.trilun("restore", "--whole", "--undoable", "--keep", "1")
    world.until_mounted()
    assert not (files / "precious").exists()
    kept = world.backups()[0]
    assert (kept["undo_of"], kept["label"]) == (job["id"], f"before-{job['id']}")
    assert f"trilun restore undo {job['id']}" in job["next_step"]
    third = world.digest(kept["volume"])
    listed = pair.trilun("ls", "--from", kept["pair"], "precious")["entries"]
    assert [entry["size_bytes"] for entry in listed] == [2 * MIB]
    (files / "later").write_bytes(os.urandom(MIB))
    os.sync()

    plan = pair.trilun("restore", "undo", "--dry-run", job["id"])["plan"]
    assert MIB <= plan["overwritten_bytes"] < 4 * MIB, "what was written since, and no more"
    undone = pair.trilun("restore", "undo", DATA_SET)
    assert undone["receipt"]["whole"] == f"restore {job['id']} is undone"
    world.until_mounted()
    assert (files / "precious").read_bytes() == precious
    assert not (files / "later").exists()
    assert world.digest(kept["volume"]) == third

    dropped = pair.trilun("restore", "drop-undo", job["id"])
    assert (dropped["verdict"], dropped["message"]) == ("accepted", f"'{kept['pair']}' is free")
    assert pair.trilun("restore", "drop-undo", job["id"])["verdict"] == "no_op"
    pair.trilun("pair", "wait", kept["pair"], "PAIR")
    assert pair.trilun("backup", DATA_SET)["receipt"]["backup_pair"] == kept["pair"]


async def held_back(pair: LocalPair) -> str:
    """A restore up to where host 1 is to mount again, with its agent standing still."""
    host, _, port = pair.broker.partition(":")
    async with api_client(Broker(host, int(port)), client_id="held-back") as client:
        params = m.RestoreStart(data_set=DATA_SET, whole=True, undo=m.Undo.NEVER)
        job = await client.call("host2", "job.restore", params)
        assert isinstance(job, m.JobInfo)

        def at(*steps: str) -> Callable[[str, object], bool]:
            def reached(_topic: str, info: object) -> bool:
                return isinstance(info, m.JobInfo) and info.step in steps

            return reached

        topic = f"trilun/v1/host2/state/job/{job.id}"
        released = at("resync-second", "keep", "resync")
        await client.wait_until(topic, released, timeout_s=60)
        os.kill(pair.pids["host1"][0], signal.SIGSTOP)
        await client.wait_until(topic, at("reclaim"), timeout_s=60)
        assert not os.path.ismount(pair.mountpoint)  # noqa: ASYNC240
        return job.id


@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
def test_an_agent_that_hangs_or_dies_leaves_nothing_frozen(
    world: World, sign: signal.Signals
) -> None:
    pair, files = world.pair, world.files

    async def freeze() -> None:
        host, _, port = pair.broker.partition(":")
        async with api_client(Broker(host, int(port))) as client:
            info = await client.call("host1", "fs.freeze", m.FsFreeze(data_set=DATA_SET, ttl_s=2))
            assert isinstance(info, m.HostFs)
            assert info.frozen

    asyncio.run(freeze())
    os.kill(pair.pids["host1"][0], sign)
    written = threading.Event()

    def write() -> None:
        (files / "x").write_text("waits until it is thawed")
        written.set()

    thread = threading.Thread(target=write)
    began_s = time.monotonic()
    thread.start()
    assert written.wait(20), "it stayed frozen"
    thread.join()
    assert time.monotonic() - began_s < 15
    if sign == signal.SIGSTOP:
        os.kill(pair.pids["host1"][0], signal.SIGCONT)
    else:
        pair.kill("host1")
        pair.launch_agent(1)
    pair.wait_online("host1")
    world.until_mounted()


def test_a_file_comes_back_from_a_backup_that_is_still_being_copied(world: World) -> None:
    pair, files = world.pair, world.files
    for _, local in SLOTS:
        for limit in ("1GiB", "1MiB"):
            # In sync first, so that there is next to nothing to be copied slowly.
            pair.trilun("pair", "resync", local, "--rate-limit", limit)
            pair.trilun("pair", "wait", local, "PAIR")
            pair.trilun("pair", "split", local)
    (files / "bulk").write_bytes(os.urandom(40 * MIB))
    (files / "ledger").write_bytes(os.urandom(MIB))
    good = (files / "ledger").read_bytes()
    local = pair.trilun("backup", DATA_SET, "--quick", "--label", "now")["receipt"]["backup_pair"]
    assert world.backups()[0]["behind"], "the copy takes 40 s"
    (files / "ledger").write_bytes(os.urandom(2 * MIB))
    (files / "later").write_text("stays")
    assert "ledger" in {each["name"] for each in pair.trilun("ls", "/")["entries"]}
    receipt = pair.trilun("restore", "--conflict", "overwrite", "ledger")["receipt"]
    assert receipt["backup_pair"] == local
    world.until_mounted()
    assert (files / "ledger").read_bytes() == good
    assert (files / "later").read_text() == "stays"
    pair.trilun("pair", "resync", local, "--rate-limit", "1GiB")
    pair.trilun("pair", "wait", local, "PAIR")
    assert not any(slot["behind"] for slot in world.backups())
