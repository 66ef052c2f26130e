"""A network that cuts bytes anywhere, delays, stalls, goes half-open and refuses.

Owns connections between machines as two ordered streams of bytes. Everything it does is drawn
from the seed. Each end is called in its controller's own context, so that a crash of one takes
its callbacks away and leaves the other end's alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, cast

from tests.sim.loop import OWNER, WORLD, Epoch, VirtualLoop

Factory = Callable[[], asyncio.BaseProtocol]


class End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, fabric: Fabric, machine: str, epoch: Epoch) -> None:
        super().__init__()
        self.fabric = fabric
        self.machine = machine
        self.epoch = epoch
        self.other: End
        self.protocol: asyncio.BufferedProtocol
        self.closing = False
        self.lost = False
        self.deaf = False
        """Nothing that is sent to this end arrives any more."""
        self._coming: deque[bytes | None] = deque()
        self._last_arrival_s = 0.0
        self.lingers_until_s = 0.0
        """What is on its way to this end takes until then."""

    # ------------------------------------------------------------ asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send; the bytes are copied."""
        if not self.closing and data:
            self.other.expect(bytes(data))

    def is_closing(self) -> bool:
        """Whether it is over."""
        return self.closing

    def close(self) -> None:
        """What was written still goes out, then the other end hears of it."""
        if not self.closing:
            self.closing = True
            self.other.expect(None)
            self.fabric.loop.call_soon(self.lose, None, context=WORLD)

    def abort(self) -> None:
        """The same here."""
        self.close()

    # ------------------------------------------------------------ the wire

    def expect(self, data: bytes | None) -> None:
        """Bytes (None: the end of them) are on their way to here."""
        if self.deaf or self.lost:
            return
        fabric = self.fabric
        arrival_s = fabric.arrival_s(self.machine, self.other.machine)
        arrival_s = max(arrival_s, self.lingers_until_s)
        self._last_arrival_s = max(self._last_arrival_s, arrival_s)
        self._coming.append(data)
        fabric.loop.call_at(self._last_arrival_s, self._arrive, context=WORLD)

    def _arrive(self) -> None:
        if not self._coming or self.lost:
            return
        data = self._coming.popleft()
        if data is None:
            self.lose(None)
            return
        if self.fabric.rng.random() < 0.5 and self._coming and self._coming[0] is not None:
            # Two writes arrive as one; the second's own timer finds what comes after.
            data += self._coming.popleft() or b""
        at = 0
        while at < len(data) and not self.closing and self.epoch.alive:
            size = self._piece(len(data) - at)
            at += self.epoch.call(self._hand_over, data[at : at + size])

    def _piece(self, left: int) -> int:
        rng = self.fabric.rng
        if rng.random() < 0.7:
            return left
        return rng.randint(1, min(left, rng.choice((3, 64, 200, 5000, 1 << 20))))

    def _hand_over(self, data: bytes) -> int:
        buffer = cast("memoryview", self.protocol.get_buffer(len(data)))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        self.protocol.buffer_updated(size)
        return size

    def lose(self, error: Exception | None) -> None:
        """The connection is gone, and this end notices."""
        if self.lost:
            return
        self.lost = self.closing = True
        self._coming.clear()
        self.fabric.ends.pop(self, None)
        if self.epoch.alive:
            self.epoch.call(self.protocol.connection_lost, error)

    def truncate(self) -> None:
        """A cut: a random part of what is on the way still arrives."""
        whole = b"".join(part for part in self._coming if part)
        self._coming.clear()
        self.deaf = True
        if whole and self.fabric.rng.random() < 0.5:
            self._coming.append(whole[: self.fabric.rng.randrange(len(whole))])

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known."""
        return default


class Fabric:
    """All links. `loss` says until when no bytes pass between two machines."""

    def __init__(self, rng: Random, loop: VirtualLoop) -> None:
        self.rng = rng
        self.loop = loop
        self.calm = False
        self.ends: dict[End, None] = {}
        self.listeners: dict[str, tuple[Epoch, Factory]] = {}
        self.refused_until_s: dict[frozenset[str], float] = {}
        self.stalled_until_s: dict[frozenset[str], float] = {}
        self.delay_s = rng.choice((0.0001, 0.0005, 0.002, 0.01))

    def arrival_s(self, here: str, there: str) -> float:
        """When what is sent now arrives."""
        now_s = self.loop.time()
        stall_s = self.stalled_until_s.get(frozenset((here, there)), 0.0)
        return max(now_s, stall_s) + self.delay_s * self.rng.uniform(0.2, 3.0)

    def between(self, one: str, two: str) -> list[End]:
        """The open ends of connections between two machines."""
        return [end for end in self.ends if {end.machine, end.other.machine} == {one, two}]

    def cut(self, one: str, two: str, for_s: float, *, half_open: bool) -> None:
        """Cut what is open, anywhere in the bytes; dialling fails for a while."""
        self.refused_until_s[frozenset((one, two))] = self.loop.time() + for_s
        for end in self.between(one, two):
            end.truncate()
            if half_open and self.rng.random() < 0.5:
                continue
            error = ConnectionResetError("connection reset by the simulator")
            self.loop.call_later(self.rng.uniform(0, 0.05), end.lose, error, context=WORLD)

    def stall(self, one: str, two: str, for_s: float) -> None:
        """Nothing arrives for a while; then everything does."""
        self.stalled_until_s[frozenset((one, two))] = self.loop.time() + for_s

    def linger(self, one: str, two: str, for_s: float) -> None:
        """What is sent on the connections there are now arrives late; new ones are quick."""
        for end in self.between(one, two):
            end.lingers_until_s = self.loop.time() + for_s

    def strand(self, here: str, there: str) -> None:
        """One end is gone, the other doesn't know, and what was sent to it arrives still."""
        for end in self.between(here, there):
            if end.machine == here:
                error = ConnectionResetError("connection reset by the simulator")
                self.loop.call_soon(end.lose, error, context=WORLD)

    def machine_died(self, machine: str) -> None:
        """Its ends are gone; the other ends hear of it soon, or never."""
        self.listeners.pop(machine, None)
        for end in [end for end in self.ends if end.machine == machine]:
            self.ends.pop(end, None)
            end.lost = end.closing = True
            other = end.other
            if self.rng.random() < 0.5:
                other.truncate()
            else:
                other.deaf = True
            if self.calm or self.rng.random() < 0.7:
                error = ConnectionResetError("the other machine is gone")
                self.loop.call_later(self.rng.uniform(0.001, 0.5), other.lose, error, context=WORLD)

    def connect(self, here: str, epoch: Epoch, factory: Factory, there: str) -> None:
        """Make a connection; OSError when nobody listens."""
        if there not in self.listeners:
            raise ConnectionRefusedError(111, "Connection refused")
        other_epoch, other_factory = self.listeners[there]
        near, far = End(self, here, epoch), End(self, there, other_epoch)
        near.other, far.other = far, near
        near.protocol = cast("asyncio.BufferedProtocol", epoch.call(factory))
        far.protocol = cast("asyncio.BufferedProtocol", other_epoch.call(other_factory))
        self.ends[near] = self.ends[far] = None
        other_epoch.call(far.protocol.connection_made, far)
        epoch.call(near.protocol.connection_made, near)


class SimNetwork:
    """The `Network` of one run of a controller. A machine's name is its address."""

    def __init__(self, fabric: Fabric, machine: str) -> None:
        self._fabric = fabric
        self._machine = machine

    async def listen(self, host: str, port: int, factory: Factory) -> int:
        """Accept connections."""
        del host
        epoch = OWNER.get()
        assert epoch is not None
        self._fabric.listeners[self._machine] = (epoch, factory)
        return port or 1

    async def dial(self, host: str, port: int, factory: Factory) -> None:
        """Connect, or be refused, or wait in vain."""
        del port
        fabric = self._fabric
        epoch = OWNER.get()
        assert epoch is not None
        await asyncio.sleep(fabric.delay_s * fabric.rng.uniform(0.5, 3))
        if fabric.refused_until_s.get(frozenset((self._machine, host)), 0) > fabric.loop.time():
            if fabric.rng.random() < 0.1:
                await asyncio.sleep(5)
            raise OSError(113, "No route to host")
        fabric.connect(self._machine, epoch, factory, host)

    async def close(self) -> None:
        """Stop accepting."""
        self._fabric.listeners.pop(self._machine, None)
