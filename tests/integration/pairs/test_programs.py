"""Random programs on three volumes: whatever happens on the way, the end is right.

Hosts write, discard and flush at once while pairs are split, re-synchronised both ways and
marked for backups, links are cut and machines are restarted or lose their power. At the end
everything is brought to PAIR: the three images are equal, every bitmap is empty in memory and on
disk (law L3), and no acknowledged write is missing that a crash was not allowed to take (L5).
A failing seed is in the test's name; TRILUN_EXAMPLES says how many seeds are run.
"""

from __future__ import annotations

import asyncio
import os
import random
import struct
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.link.transport import Peer
from controller.volume.bitmap import DirtyBitmap
from controller.volume.bitmap_file import BitmapFile, file_bytes
from controller.volume.file import DirectoryDisk
from controller.volume.offload import ThreadOffload
from targets.lun import LunError
from tests.rig import Running, discard, eventually, flush, start_node, write

S = m.PairState
SECTOR = 512
SIZE = 1 << 20
SECTORS = SIZE // SECTOR
EXAMPLES = int(os.environ.get("TRILUN_EXAMPLES", "12"))
FIRST_SEED = int(os.environ.get("TRILUN_SEED", "0"))


def sector_of(tag: int) -> bytes:
    return bytes(SECTOR) if tag == 0 else struct.pack("<Q", tag) * (SECTOR // 8)


@dataclass
class Oracle:
    """Which writes a volume may show, sector by sector."""

    now: list[frozenset[int]] = field(default_factory=lambda: [frozenset({0})] * SECTORS)
    safe: list[frozenset[int]] = field(default_factory=lambda: [frozenset({0})] * SECTORS)
    """What a crash has to leave, with anything that came after it."""
    since: list[frozenset[int]] = field(default_factory=lambda: [frozenset()] * SECTORS)
    busy: set[int] = field(default_factory=set)
    unsure: set[int] = field(default_factory=set)

    def begin(self, first: int, count: int, tag: int) -> None:
        for sector in range(first, first + count):
            self.now[sector] |= {tag}
            self.since[sector] |= {tag}
            self.busy.add(sector)

    def acknowledged(self, first: int, count: int, tag: int) -> None:
        for sector in range(first, first + count):
            self.now[sector] = frozenset({tag})

    def ended(self, first: int, count: int) -> None:
        self.busy.difference_update(range(first, first + count))

    def flush_begins(self) -> list[tuple[int, frozenset[int]]]:
        return [
            (sector, self.now[sector])
            for sector in range(SECTORS)
            if sector not in self.busy and self.since[sector]
        ]

    def flushed(self, covered: list[tuple[int, frozenset[int]]]) -> None:
        for sector, tags in covered:
            if self.now[sector] == tags:
                self.safe[sector] = tags
                self.since[sector] = frozenset()

    def crashed(self) -> None:
        for sector in range(SECTORS):
            if self.since[sector]:
                self.now[sector] |= self.safe[sector] | self.since[sector]

    def replaced_by(self, other: Oracle) -> None:
        self.now = list(other.now)
        self.safe = list(other.safe)
        self.since = list(other.since)

    def either(self, other: Oracle) -> None:
        self.now = [a | b for a, b in zip(self.now, other.now, strict=True)]
        self.safe = [a | b for a, b in zip(self.safe, other.safe, strict=True)]
        self.since = [a | b for a, b in zip(self.since, other.since, strict=True)]

    def anything(self, tags: int) -> None:
        """Some mixture of the past: only that no sector is torn can still be checked."""
        self.now = [frozenset(range(tags + 1))] * SECTORS
        self.safe = list(self.now)
        self.since = [frozenset()] * SECTORS

    def check(self, image: bytes, what: str) -> None:
        for sector in range(SECTORS):
            raw = image[sector * SECTOR : (sector + 1) * SECTOR]
            (tag,) = struct.unpack_from("<Q", raw)
            allowed = self.now[sector]
            assert raw == sector_of(tag), f"{what}: sector {sector} is torn"
            assert tag in allowed, f"{what}: sector {sector} shows {tag}, not {set(allowed)}"


class Program:
    """One run."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self.chance = random.Random(seed)
        self.first, self.second = Oracle(), Oracle()
        self.hosts: dict[str, set[asyncio.Task[None]]] = {"a": set(), "b": set()}
        self.tag = 0
        self.port = 0
        self.third_image: bytes | None = None
        self.log: list[str] = []
        self.a: Running
        self.b: Running

    async def start(self, name: str) -> None:
        if name == "b":
            self.b = await start_node(
                self.directory / "b",
                "b",
                [Peer("a", "127.0.0.1", 1)],
                port=self.port,
                crashes=True,
            )
            self.port = self.b.node.link_port
        else:
            peers = [Peer("b", "127.0.0.1", self.port)]
            self.a = await start_node(self.directory / "a", "a", peers, crashes=True)

    async def linked(self) -> None:
        def both() -> bool:
            return self.a.node.links.connected("b") and self.b.node.links.connected("a")

        await eventually(both)

    async def build(self) -> None:
        await self.start("b")
        await self.start("a")
        await self.linked()
        await self.a.do("volume.create", m.VolumeCreate(name="first", size_bytes=SIZE))
        for name in ("second", "third"):
            await self.b.do("volume.create", m.VolumeCreate(name=name, size_bytes=SIZE))
        mode = self.chance.choice([m.Mode.SYNC, m.Mode.SYNC, m.Mode.ASYNC])
        await self.a.do(
            "pair.create",
            m.PairCreate(
                name="remote",
                kind=m.PairKind.REMOTE,
                p_volume="first",
                s_volume="second",
                peer="b",
                mode=mode,
            ),
        )
        await self.b.do(
            "pair.create",
            m.PairCreate(name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third"),
        ) if self.b.pair("remote").state is S.PAIR else None

    # ------------------------------------------------------------ steps

    def host_writes(self) -> None:
        for _ in range(self.chance.randint(1, 12)):
            on_second = self.b_is_split() and self.chance.random() < 0.4
            oracle = self.second if on_second else self.first
            running, name = (self.b, "second") if on_second else (self.a, "first")
            node = "b" if on_second else "a"
            count = self.chance.choice([1, 1, 7, 8, 8, 16, 40, 130])
            first = self.chance.randrange(0, SECTORS - count)
            if self.chance.random() < 0.6:
                first = min(first // 8 * 8 % 256, SECTORS - count)
            if oracle.busy.intersection(range(first, first + count)):
                continue
            self.tag += 1
            roll = self.chance.random()
            tag = 0 if roll < 0.15 else self.tag
            fua = roll > 0.9
            oracle.begin(first, count, tag)
            work = self.one_write(running, name, oracle, first, count, tag, fua=fua)
            task = asyncio.create_task(work)
            self.hosts[node].add(task)
            task.add_done_callback(self.hosts[node].discard)

    def b_is_split(self) -> bool:
        owner = self.b.node.pairs.find("remote")
        return owner is not None and owner.record.state is S.SSUS and owner.record.writable

    async def one_write(
        self,
        running: Running,
        name: str,
        oracle: Oracle,
        first: int,
        count: int,
        tag: int,
        *,
        fua: bool,
    ) -> None:
        try:
            volume = running.volume(name)
            if tag == 0:
                await discard(volume, first * SECTOR, count * SECTOR)
            else:
                await write(volume, first * SECTOR, sector_of(tag) * count, fua=fua)
        except LunError:
            pass
        else:
            oracle.acknowledged(first, count, tag)
        finally:
            oracle.ended(first, count)

    async def host_flush(self) -> None:
        covered = self.first.flush_begins()
        try:
            await flush(self.a.volume("first"))
        except LunError:
            return
        self.first.flushed(covered)

    async def command(self, running: Running, verb: str, params: m.Params) -> bool:
        try:
            await asyncio.wait_for(running.do(verb, params), 20)
        except RejectedError as error:
            self.log.append(f"{verb}: {error.code} {error}")
            if error.code is Code.INTERNAL:
                raise
            return False
        self.log.append(f"{verb} {params}")
        return True

    async def quiet(self) -> None:
        """Wait until no host command is under way."""
        while tasks := [*self.hosts["a"], *self.hosts["b"]]:
            await asyncio.wait_for(asyncio.gather(*tasks), 20)
            # Tasks that were done already end the wait at once: let them leave the set.
            await asyncio.sleep(0)

    async def split(self) -> None:
        await self.quiet()
        in_pair = self.a.pair("remote").state is S.PAIR
        if await self.command(self.a, "pair.split", m.PairSplit(name="remote", writable=True)):
            if in_pair:
                self.second.replaced_by(self.first)
            else:
                # Second is somewhere between the last PAIR and now; only first is known.
                self.second.anything(self.tag)
        elif in_pair:
            # It is split here, and there it is not known when.
            self.second.anything(self.tag)

    async def resync(self) -> None:
        direction = self.chance.choice([m.Direction.FORWARD, m.Direction.REVERSE])
        await self.quiet()
        asked = m.PairResync(name="remote", direction=direction, force=True)
        before = self.a.pair("remote").state
        accepted = await self.command(self.a, "pair.resync", asked)
        if direction is m.Direction.FORWARD or before is S.RCPY:
            return
        if before is not S.PSUS:
            if accepted or "no_peer" in self.log[-1]:
                self.first.anything(self.tag)
        elif accepted:
            self.first.replaced_by(self.second)
        elif "no_peer" in self.log[-1]:
            # It may have begun, and then it goes on by itself.
            self.first.either(self.second)

    async def mark(self) -> None:
        await self.quiet()
        params = m.BackupMark(remote_pair="remote", local_pair="local")
        image = self.a.image("first")
        if await self.command(self.a, "backup.mark", params):
            assert self.b.image("third") == image, "the third volume isn't the backup's instant"
            self.third_image = image

    async def local_resync(self) -> None:
        if self.third_image is not None:
            assert self.b.image("third") == self.third_image, "the third volume changed"
        self.third_image = None
        if self.b.node.pairs.find("local") is None:
            if self.b.pair("remote").state is S.PAIR:
                await self.command(
                    self.b,
                    "pair.create",
                    m.PairCreate(
                        name="local", kind=m.PairKind.LOCAL, p_volume="second", s_volume="third"
                    ),
                )
            return
        await self.command(self.b, "pair.resync", m.PairResync(name="local"))

    async def restart(self, name: str) -> None:
        running = self.a if name == "a" else self.b
        await running.stop()
        await self.quiet()
        await self.start(name)

    async def crash(self, name: str) -> None:
        running = self.a if name == "a" else self.b
        await running.crash(self.chance)
        tasks = list(self.hosts[name])
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if name == "a":
            self.first.crashed()
        else:
            self.second.crashed()
            # The crash may have taken writes from the third volume's cache.
            self.third_image = None
        await self.start(name)

    async def step(self) -> None:
        roll = self.chance.random()
        self.log.append(f"{roll:.3f}")
        if roll < 0.45:
            self.host_writes()
        elif roll < 0.55:
            await self.host_flush()
        elif roll < 0.62:
            await self.split()
        elif roll < 0.72:
            await self.resync()
        elif roll < 0.77:
            await self.mark()
        elif roll < 0.84:
            await self.local_resync()
        elif roll < 0.91:
            self.chance.choice([self.a, self.b]).cut_link()
        elif roll < 0.94:
            await self.restart(self.chance.choice("ab"))
        elif roll < 0.97:
            await self.crash(self.chance.choice("ab"))
        else:
            await self.linked()
        for _ in range(self.chance.choice([0, 0, 1, 5, 50])):
            await asyncio.sleep(0)

    # ------------------------------------------------------------ the end

    async def to_pair(self) -> None:
        await self.linked()
        await self.quiet()
        first = self.a.node.volumes.get("first").record
        direction = m.Direction.FORWARD

        async def settled() -> S:
            info = await self.a.until("remote", S.PAIR, S.PSUS, S.PSUE)
            return info.state

        for _ in range(100):
            if await settled() is S.PAIR:
                break
            direction = m.Direction.FORWARD if first.consistent else m.Direction.REVERSE
            asked = m.PairResync(name="remote", direction=direction, force=True)
            if direction is m.Direction.REVERSE and self.a.pair("remote").state is S.PSUS:
                self.first.replaced_by(self.second)
            if not await self.command(self.a, "pair.resync", asked):
                await asyncio.sleep(0.02)
        assert await settled() is S.PAIR, (self.a.pair("remote"), self.log[-20:])
        await self.b.until("remote", S.PAIR)
        for _ in range(100):
            owner = self.b.node.pairs.find("local")
            if owner is not None and owner.record.state is S.PAIR:
                break
            await self.local_resync()
            await asyncio.sleep(0.02)
        await self.b.until("local", S.PAIR)

    async def finish(self) -> None:
        await self.to_pair()
        first, second, third = self.a.image("first"), self.b.image("second"), self.b.image("third")
        assert first == second, differing(first, second)
        assert second == third, differing(second, third)
        self.first.check(first, "first")
        for running in (self.a, self.b):
            for owner in running.node.pairs.owners():
                assert not len(owner.side.bitmap), owner.record
        generations = {
            (owner.record.current, owner.record.baseline)
            for running in (self.a, self.b)
            for owner in running.node.pairs.owners()
            if owner.record.name == "remote"
        }
        assert len(generations) == 1, generations
        await self.a.stop()
        await self.b.stop()
        await self.check_bitmaps_on_disk()

    async def check_bitmaps_on_disk(self) -> None:
        offload = ThreadOffload(asyncio.get_running_loop())
        for running in (self.a, self.b):
            disk = DirectoryDisk(running.directory / "meta", offload.lane)
            for owner in running.node.pairs.owners():
                bitmap = DirtyBitmap(SIZE // 4096)
                side = "p" if owner.record.role is m.Role.P_VOL else "s"
                name = f"{owner.record.id}.{side}.bitmap"
                store = disk.open(name, file_bytes(bitmap.blocks), create=False)
                await BitmapFile(store, bitmap, bytes.fromhex(owner.record.id)).load(print)
                store.close()
                assert not len(bitmap), owner.record
        offload.close()


def differing(left: bytes, right: bytes) -> str:
    found = [
        (at // SECTOR, left[at : at + 8].hex(), right[at : at + 8].hex())
        for at in range(0, len(left), SECTOR)
        if left[at : at + SECTOR] != right[at : at + SECTOR]
    ]
    return f"{len(found)} sectors differ: {found[:8]}"


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + EXAMPLES))
async def test_any_program_ends_equal(seed: int, tmp_path: Path) -> None:
    program = Program(tmp_path, seed)
    await program.build()
    try:
        for _ in range(program.chance.randint(10, 60)):
            await program.step()
        await program.finish()
    except BaseException:
        print("\n".join(program.log[-40:]))
        raise
