"""A machine: disks that outlive crashes, and the controller that runs on it now.

Owns the life of the real `Node`: start, clean stop, crash, start again. Must not judge: it tells
`Watcher` what it sees. A controller that can't start because its disk fails is started again
later, as systemd would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, Protocol

from controller.api.messages import SessionInfo
from controller.link.transport import Peer
from controller.node import LoopClock, Node, NodeSettings, Surroundings
from controller.volume.store import StoreError
from controller.volume.superblock import IntentSettings
from controller.volume.volume import Volume
from targets.lun import LunError
from tests.rig import Published, StandInExporter
from tests.sim.disk import CrashMode, Faults, Image, SimDisk
from tests.sim.loop import Died, Epoch, VirtualLoop
from tests.sim.net import Fabric, SimNetwork


class Watcher(Protocol):
    """Who wants to know what happens on a machine."""

    def booted(self, machine: Machine) -> None:
        """The controller serves hosts; called before any of them can."""

    def volume_changed(self, machine: Machine, volume: Volume) -> None:
        """Called inside the step that changed a volume's access."""

    def submitted(self, machine: Machine, file: str, offset_bytes: int, length_bytes: int) -> None:
        """A data file is about to be changed."""

    def flush_failed(self, machine: Machine, file: str) -> None:
        """A flush of a data file has failed."""

    def event(self, text: str) -> None:
        """For the trace."""

    def broken(self, law: str, text: str) -> None:
        """A law is broken."""


class WatchedNode(Node):
    """The real node; every change of a volume is seen in the step that makes it."""

    watch: Callable[[Volume], None] = staticmethod(lambda _volume: None)

    def changed(self, volume: Volume) -> None:
        super().changed(volume)
        self.watch(volume)


class Machine:
    """One machine."""

    def __init__(
        self,
        name: str,
        peers: list[str],
        intent: IntentSettings,
        loop: VirtualLoop,
        fabric: Fabric,
        watcher: Watcher,
        rng: Random,
        faults: tuple[Faults, Faults],
    ) -> None:
        self.name = name
        self.loop = loop
        self.fabric = fabric
        self.watcher = watcher
        self.up = False
        self.epoch: Epoch | None = None
        self.node: WatchedNode
        self.exporter = StandInExporter()
        self.disk = SimDisk(Random(rng.random()), faults[0], loop)
        self.meta = SimDisk(Random(rng.random()), faults[1], loop)
        self.disk.on_write = lambda file, at, size: watcher.submitted(self, file, at, size)
        self.disk.on_flush_failed = lambda file: watcher.flush_failed(self, file)
        self._ids = Random(rng.random())
        self._runs = 0
        self._changing = asyncio.Lock()
        """Held while it starts or stops; a crash asks nobody."""
        self._volume_ids: dict[str, str] = {}
        self._settings = NodeSettings(
            node=name,
            link_host=name,
            link_port=1,
            peers=[Peer(peer, peer, 1) for peer in peers],
            intent=intent,
        )

    # ------------------------------------------------------------ life

    @property
    def running(self) -> bool:
        """Whether there is a controller process, also one that is still starting."""
        return self.epoch is not None and self.epoch.alive

    async def start(self) -> bool:
        """Start the controller, if it doesn't run; False when its disk would not let it."""
        async with self._changing:
            return self.up or await self._start()

    async def _start(self) -> bool:
        self._runs += 1
        epoch = Epoch(f"{self.name}{self._runs}")
        self.epoch = self.disk.epoch = self.meta.epoch = epoch
        self.exporter = StandInExporter()

        async def boot() -> None:
            world = Surroundings(
                disk=self.disk,
                meta_disk=self.meta,
                network=SimNetwork(self.fabric, self.name),
                exporter=self.exporter,
                clock=LoopClock(),
                new_id=lambda: f"{self._ids.getrandbits(128):032x}",
                boot_id=str(self._runs),
            )
            self.node = WatchedNode(self._settings, world, Published())
            await self.node.start()
            self.up = True
            for shelved in self.node.volumes.all():
                self._volume_ids[shelved.record.name] = shelved.record.id
            # Still inside the controller's last step of starting: no host came before this.
            self.node.watch = self._changed
            self.watcher.booted(self)

        try:
            await self.loop.start_task(epoch, boot())
        except StoreError as error:
            self.watcher.event(f"{self.name} can't start: {error}")
            self._end(epoch)
            return False
        except Died:
            return False
        except Exception as error:  # noqa: BLE001  (whatever it is, an operator is stuck)
            self.watcher.broken("START", f"{self.name} can't start: {type(error).__name__} {error}")
            self._end(epoch)
            return False
        self.watcher.event(f"{self.name} is up")
        return True

    def _changed(self, volume: Volume) -> None:
        if not self.up or self.volume(volume.name) is not volume:
            # Also one that is being made and isn't on the shelf yet.
            return
        try:
            self.watcher.volume_changed(self, volume)
        except Exception as error:  # noqa: BLE001  (the controller must not catch our mistakes)
            self.watcher.broken("ORACLE", f"{type(error).__name__}: {error}")

    def _end(self, epoch: Epoch) -> None:
        self.up = False
        self.loop.kill(epoch)
        self.fabric.machine_died(self.name)

    def crash(self, rng: Random, mode: CrashMode) -> None:
        """Pull the plug."""
        if self.epoch is None or not self.epoch.alive:
            return
        self._end(self.epoch)
        self.disk.crash(rng, mode)
        self.meta.crash(rng, mode)

    async def stop(self) -> None:
        """A clean stop."""
        async with self._changing:
            await self._stop()

    async def _stop(self) -> None:
        epoch = self.epoch
        if not self.up or epoch is None:
            return
        self.up = False
        try:
            await self.loop.start_task(epoch, self.node.stop())
        finally:
            self._end(epoch)

    # ------------------------------------------------------------ the world's way in

    def ask(self, call: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run a command in the controller; Died when it crashes before the answer."""
        assert self.epoch is not None
        return self.loop.start_task(self.epoch, call)

    def io(self, call: Callable[[Callable[[LunError | None], None]], None]) -> asyncio.Future[Any]:
        """A host's command: the future gives None or the LunError; Died after a crash."""
        epoch = self.epoch
        assert epoch is not None
        outcome: asyncio.Future[LunError | None] = self.loop.create_future()
        epoch.owed[outcome] = None

        def done(error: LunError | None) -> None:
            epoch.owed.pop(outcome, None)
            if outcome.done():
                self.watcher.broken("S6", f"a command on {self.name} was answered twice")
            else:
                outcome.set_result(error)

        epoch.call(call, done)
        return outcome

    def initiators(self, name: str) -> list[SessionInfo]:
        """Who is logged in to a volume; to be changed by hosts as they come and go."""
        iqn = self.node.volumes.get(name).iqn
        return self.exporter.logged_in.setdefault(iqn, [])

    def attentions(self, name: str) -> int:
        """How many UNIT ATTENTIONs this run of the controller has given a volume's hosts."""
        iqn = self.node.volumes.get(name).iqn
        return sum(each == iqn for each, _ in self.exporter.attentions)

    def volume(self, name: str) -> Volume | None:
        """A volume or view, when it is served."""
        if not self.up:
            return None
        for shelved in self.node.volumes.all():
            if shelved.record.name == name:
                self._volume_ids[name] = shelved.record.id
                return shelved.volume
        return None

    def volume_id(self, name: str) -> str:
        """The id of the volume that had this name when it was last seen."""
        return self._volume_ids[name]

    def file_of(self, name: str) -> Image:
        """A volume's file, also while the controller is down or starting."""
        return self.disk.files[f"{self._volume_ids[name]}.volume"]

    def has_file(self, name: str) -> bool:
        """Whether the volume that was last seen under this name is still there."""
        return f"{self._volume_ids[name]}.volume" in self.disk.files

    def image_of(self, name: str) -> bytes:
        """What a reader of the store would see of a volume now."""
        return bytes(self.file_of(name).live)

    def durable_image_of(self, name: str) -> bytes:
        """What surely survives of a volume."""
        return bytes(self.file_of(name).durable)

    def pending_images_of(self, name: str) -> list[bytes]:
        """Images that show each unflushed write of a volume over what is durable."""
        image = self.file_of(name)
        images = []
        for write in image.pending:
            over = bytearray(image.durable)
            over[write.offset_bytes : write.offset_bytes + len(write.data)] = write.data
            images.append(bytes(over))
        return images
