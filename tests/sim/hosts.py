"""Hosts: they write, discard, flush and read, and remember what they were told.

Owns the commands of hosts to volumes and the checks of their answers. Buffers are spoiled as
soon as a command is answered, as a front end that reuses them would.
"""

from __future__ import annotations

import asyncio
from random import Random

from controller.api import messages as m
from controller.api.messages import Mode, PairState, Role
from targets.lun import Access, LunError, LunFault
from tests.sim.disk import SECTOR_BYTES
from tests.sim.history import Version, content
from tests.sim.loop import Died
from tests.sim.machine import Machine
from tests.sim.oracle import Oracle

TIRED = 8
AT_THE_DOOR = {LunFault.WRITE_PROTECTED, LunFault.NOT_READY}


class Host:
    """One initiator on one volume."""

    def __init__(
        self, oracle: Oracle, machine: Machine, volume: str, rng: Random, *, pause_s: float
    ) -> None:
        self._oracle = oracle
        self._machine = machine
        self._volume = volume
        self._rng = rng
        self._pause_s = pause_s
        self._key = (machine.name, volume)
        self._tracked = oracle.volumes[self._key]
        self._name = f"iqn.host{rng.getrandbits(32)}"
        self._logged_in = rng.random() < 0.5
        self.stopping = False

    def tire(self) -> None:
        """Slow down: the bad times are over but for a command that waits for its answer."""
        self._pause_s *= TIRED

    def rest(self) -> None:
        """Be as quick again as before."""
        self._pause_s /= TIRED

    async def run(self) -> None:
        """Work until told to stop."""
        rng = self._rng
        shut_out = False
        while not self.stopping:
            pause_s = self._pause_s * (4 if shut_out else 1)
            await asyncio.sleep(rng.expovariate(1 / pause_s))
            volume = self._machine.volume(self._volume)
            shut_out = volume is None or volume.access is not Access.READ_WRITE
            if volume is None or (shut_out and rng.random() < 0.8):
                continue
            self._come_and_go()
            try:
                await self._one(rng.random())
            except Died:
                continue
        self._logged_in = False
        if self._machine.volume(self._volume) is not None:
            self._machine.initiators(self._volume).clear()

    def _come_and_go(self) -> None:
        """Be logged in, or not, for a while; only a P-VOL's hosts are seen that way (law L12)."""
        if self._machine.name == "b":
            return
        if self._rng.random() < 0.02:
            self._logged_in = not self._logged_in
        initiators = self._machine.initiators(self._volume)
        mine = [each for each in initiators if each.initiator == self._name]
        if self._logged_in and not mine:
            initiators.append(m.SessionInfo(initiator=self._name, address="host:1", since_s=0.0))
        elif mine and not self._logged_in:
            initiators.remove(mine[0])

    async def _one(self, chance: float) -> None:
        if chance < 0.62:
            await self.write(fua=self._rng.random() < 0.2)
        elif chance < 0.70:
            await self.write(discard=True)
        elif chance < 0.82:
            await self.flush()
        else:
            await self.read()

    def _range(self) -> tuple[int, int]:
        rng = self._rng
        sectors = self._tracked.history.sectors
        count = rng.choice((1, 2, 8, 8, 8, 16, 40))
        if rng.random() < 0.5:
            # A hot corner, so that writes meet.
            first = rng.randrange(0, sectors // 8)
        else:
            first = rng.randrange(0, sectors - count)
        if rng.random() < 0.6:
            first -= first % 8
        return first * SECTOR_BYTES, count * SECTOR_BYTES

    async def write(self, *, fua: bool = False, discard: bool = False) -> None:
        """Write or discard somewhere."""
        oracle, history = self._oracle, self._tracked.history
        offset, length = self._range()
        volume = self._machine.volume(self._volume)
        assert volume is not None
        version = oracle.new_version(zero=discard)
        history.begin(version, offset, length)
        data = bytearray(b"" if discard else content(version.number, offset, length))
        if discard:
            answer = self._machine.io(lambda done: volume.discard(offset, length, done))
        else:
            answer = self._machine.io(
                lambda done: volume.write(offset, memoryview(data), fua, done)
            )
        what = f"{'discard' if discard else 'write'} {version.number}{' FUA' if fua else ''}"
        where = f"{self._key[0]}/{self._key[1]} {offset}+{length}"
        try:
            error: LunError | None = await answer
        except Died:
            history.end(version, oracle.tick(), acked=False, fua=fua)
            oracle.event(f"{what} {where}: no answer")
            raise
        data[:] = b"\xee" * len(data)
        oracle.event(f"{what} {where}: {error or 'ok'}")
        if error is None:
            oracle.acknowledged(self._key, version.started)
            since, image = self._tracked.given_over
            if version.started < since:
                self._check_given_over(version, image[offset : offset + length], offset)
            else:
                self._tracked.written = True
            if not discard:
                self._check_mirror(version, offset, length)
        self._settle(version, error, offset, length, fua=fua)

    def _check_given_over(self, version: Version, image: bytes, offset: int) -> None:
        """What is acknowledged behind an exchange of the roles was there when it was made (L8)."""
        wrong = self._tracked.history.older_than(version, image, offset)
        if wrong is not None:
            self._oracle.broken(
                "L8",
                f"{self._key[0]}/{self._key[1]} gave its role away, and then acknowledges write "
                f"{version.number}, which the new P-VOL has not got: {wrong}",
            )

    def _check_mirror(self, version: Version, offset: int, length: int) -> None:
        """In a sync pair in PAIR the S-VOL holds what was just acknowledged, or newer data."""
        machine = self._machine
        for owner in machine.node.pairs.of_volume(self._volume):
            record, side = owner.record, owner.side
            if record.role is not Role.P_VOL or record.state is not PairState.PAIR:
                continue
            if record.mode is not Mode.SYNC or record.peer is None or not side.mirroring:
                continue
            other = self._oracle.machines[record.peer]
            if not other.up or other.volume(record.other_volume) is None:
                continue
            followers = other.node.pairs.of_volume(record.other_volume)
            if not any(o.record.id == record.id and o.side.sinking for o in followers):
                continue
            image = other.image_of(record.other_volume)[offset : offset + length]
            wrong = self._tracked.history.older_than(version, image, offset)
            if wrong is not None:
                self._oracle.broken(
                    "SYNC",
                    f"{self._key[0]}/{self._key[1]}: write {version.number} is acknowledged and "
                    f"{record.other_volume} has not got it: {wrong}",
                )

    def _settle(
        self, version: Version, error: LunError | None, offset: int, length: int, *, fua: bool
    ) -> None:
        history = self._tracked.history
        if error is not None and error.fault in AT_THE_DOOR:
            history.refuse(version, offset, length)
        else:
            history.end(version, self._oracle.tick(), acked=error is None, fua=fua)

    async def flush(self) -> None:
        """SYNCHRONIZE CACHE."""
        volume = self._machine.volume(self._volume)
        assert volume is not None
        began = self._oracle.tick()
        rebased = self._tracked.history.rebased
        error = await self._machine.io(volume.flush)
        self._oracle.event(f"flush {self._key[0]}/{self._key[1]}: {error or 'ok'}")
        if error is None:
            self._oracle.acknowledged(self._key, began)
            if self._tracked.history.rebased == rebased:
                self._tracked.history.flushed(began)

    async def read(self) -> None:
        """Read somewhere, and look at what comes."""
        volume = self._machine.volume(self._volume)
        assert volume is not None
        offset, length = self._range()
        into = bytearray(length)
        began = self._oracle.tick()
        rebased = self._tracked.history.rebased
        checkable = volume.access is Access.READ_WRITE
        error = await self._machine.io(lambda done: volume.read(offset, memoryview(into), done))
        if error is not None or self._tracked.history.rebased != rebased or not checkable:
            return
        now = self._machine.volume(self._volume)
        if now is None or now.access is not Access.READ_WRITE:
            return
        wrong = self._tracked.history.wrong_read(bytes(into), offset, began)
        if wrong is not None:
            self._oracle.broken("READ", f"{self._key[0]}/{self._key[1]}: {wrong}")
