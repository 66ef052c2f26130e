"""The composition root of a controller: builds the parts and lets them know each other.

Owns the life of a node from the catalogue to the last close. The clock, the ids, the disks, the
network and the front end are handed in, so that a simulator runs this very class. Must not
decide anything about volumes, pairs or commands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from controller.api import messages as m
from controller.api.topics import StateKind
from controller.catalogue import Catalogue
from controller.commands import Commands
from controller.exports import Exporter
from controller.groups import Groups
from controller.infos import pair_info, volume_info
from controller.keeping import Keeping
from controller.link.calls import PeerCalls
from controller.link.channel import Control, Receiver
from controller.link.pair_channel import StreamChannel
from controller.link.stream import Stream
from controller.link.transport import Links, Network, Peer
from controller.pair.copier import Clock
from controller.pair.side import PairSide
from controller.pairing import Pairing
from controller.pairs import Pairs
from controller.volume.store import Disk, StoreDone, StoreError
from controller.volume.superblock import IntentSettings
from controller.volume.volume import Volume
from controller.volumes import Volumes
from targets.lun import UnitAttention

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
REFRESH_EVERY_TICKS = 4
"""What changes without an event (sessions, marked blocks, space) is published this late."""


class Publisher(Protocol):
    """Where the retained states go; never blocks."""

    def publish_state(
        self, kind: StateKind, name: str, info: m.VolumeInfo | m.PairInfo | None
    ) -> None:
        """Set or clear one object's state."""

    def publish_status(self, peers: dict[str, bool], detail: str) -> None:
        """Set the node's status."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything a node needs of the world."""

    disk: Disk
    """For the volumes' data."""
    meta_disk: Disk
    """For the catalogue, the logs and the bitmaps."""
    network: Network
    exporter: Exporter
    clock: Clock
    new_id: Callable[[], str]
    """32 hex digits, never the same twice."""
    boot_id: str
    """Another one after each loss of power: what was not flushed before may be gone."""


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What an operator configured."""

    node: str
    link_host: str
    link_port: int
    peers: list[Peer]
    intent: IntentSettings
    rate_limit_bytes_per_s: int | None = None


class Node:
    """A controller."""

    def __init__(self, settings: NodeSettings, world: Surroundings, publisher: Publisher) -> None:
        self.name = settings.node
        self.settings = settings
        self._world = world
        self._publisher = publisher
        self._changed_pairs: set[str] = set()
        self._changed_volumes: set[str] = set()
        self._published: dict[tuple[StateKind, str], m.VolumeInfo | m.PairInfo | None] = {}
        self._ticks = 0
        self._publishing: Callable[[], None] | None = None
        self._cancel_progress: Callable[[], None] | None = None
        self.stopping = False
        """A clean stop is under way: no command is taken any more."""
        self.link_port = 0

    async def start(self) -> None:
        """Bring everything back that the catalogue knows, then export it and find the peers."""
        world, settings = self._world, self.settings
        self.catalogue = await Catalogue.open(world.meta_disk, self.name, world.new_id())
        self.exporter = world.exporter
        self.volumes = Volumes(
            self.name,
            world.disk,
            world.meta_disk,
            self.catalogue,
            world.exporter,
            self,
            settings.intent,
            world.new_id,
            world.boot_id,
        )
        self.pairs = Pairs(
            self.name, self.volumes, world.meta_disk, self.catalogue, world.clock, self
        )
        self.groups = Groups(self.name, self.pairs, self.catalogue)
        self.keeping = Keeping(self.name, self.pairs, self.catalogue)
        self.pairing = Pairing(self.pairs, self.volumes, self.catalogue, world.new_id)
        self.links = Links(
            self.name,
            self.catalogue.contents.node_id,
            settings.peers,
            world.network,
            self,
        )
        self.catalogue.failed = self._catalogue_failed
        self.commands = Commands(self)
        self.calls = PeerCalls(self.links.stream, self.commands.serve_peer)
        await self.volumes.open_all()
        await self.pairs.open_all()
        await self.catalogue.commit()
        self.volumes.offer_all()
        self.link_port = await self.links.start(settings.link_host, settings.link_port)
        for shelved in self.volumes.all():
            self.changed(shelved.volume)
        for owner in self.pairs.owners():
            self.pair_changed(owner.side)
        self._tick()

    async def stop(self) -> None:
        """A clean stop: no host, no peer, everything durable and marked clean."""
        if self._cancel_progress is not None:
            self._cancel_progress()
        self.stopping = True
        await self.volumes.withdraw_all()
        await self.calls.close()
        await self.links.close()
        await self.pairs.close_all()
        await self.volumes.close_all()
        self.pairs.close_files()
        try:
            await self.catalogue.commit()
        except StoreError as error:
            # It was told to whom it concerns when it happened; what is on disk is what counts.
            log.warning("not a clean stop: the catalogue can't be written: %s", error)
        self.catalogue.close()

    # ------------------------------------------------------------ VolumeServices

    def commit(self, done: StoreDone) -> None:
        """Make the catalogue durable."""
        self.catalogue.commit_then(done)

    def soon(self, run: Callable[[], None]) -> object:
        """Behind what the loop has at hand now."""
        return self._world.clock.later(0.0, run)

    def _catalogue_failed(self, error: StoreError) -> None:
        """No peer may build on what this node says: it would be forgotten at the next start."""
        if not self.links.refusal:
            log.error("the catalogue can't be written: %s", error)
            self.links.refuse(
                f"the catalogue of '{self.name}' can't be written ({error}): "
                "mend its disk and restart trilund there"
            )

    def new_generation(self) -> str:
        """A fresh id."""
        return self._world.new_id()

    def changed(self, volume: Volume) -> None:
        """Publish a volume soon; several changes of one moment are one message."""
        self._changed_volumes.add(volume.name)
        self._publish_soon()

    # ------------------------------------------------------------ PairEvents

    def pair_changed(self, side: PairSide) -> None:
        """Publish a pair soon."""
        self._changed_pairs.add(side.record.name)
        self._changed_volumes.add(side.record.volume)
        self._publish_soon()

    def pair_gone(self, name: str) -> None:
        """Clear the retained state."""
        self._changed_pairs.discard(name)
        self._state("pair", name, None)

    def data_replaced(self, side: PairSide) -> None:
        """Hosts get a UNIT ATTENTION."""
        iqn = self.volumes.get(side.volume.name).iqn
        self.exporter.attention(iqn, UnitAttention.DATA_CHANGED)

    # ------------------------------------------------------------ LinkEvents

    def find(self, pair: bytes, peer: str) -> Receiver | None:
        """The side that takes a pair's frames."""
        return self.pairs.remote_side(pair, peer)

    def on_up(self, peer: str, stream: Stream) -> None:
        """Give every pair with that peer its place in the new stream."""
        for owner in self.pairs.of_peer(peer):
            self.connect(owner.side, stream)
        self._publish_status()

    def connect(self, side: PairSide, stream: Stream) -> None:
        """Give one side its place, once an epoch."""
        if side.channel is None:
            side.on_open(StreamChannel(stream, bytes.fromhex(side.record.id), side))

    def on_down(self, peer: str, reason: str) -> None:
        """The epoch is over for every pair with that peer."""
        self.calls.lost(peer)
        for owner in self.pairs.of_peer(peer):
            owner.side.on_lost(reason)
        self._publish_status()

    def on_node_control(self, peer: str, message: Control) -> None:
        """A call between the nodes."""
        self.calls.receive(peer, message)

    def known_id(self, peer: str) -> str | None:
        """The id a peer had."""
        return self.catalogue.contents.peers.get(peer)

    def learn_id(self, peer: str, node_id: str) -> None:
        """Remember a peer's id."""
        self.catalogue.contents.peers[peer] = node_id

        def noted(error: StoreError | None) -> None:
            if error is not None:
                log.warning("the id of peer %s is not remembered: %s", peer, error)

        self.catalogue.commit_then(noted)

    # ------------------------------------------------------------ publishing

    def volume_info(self, name: str) -> m.VolumeInfo:
        """One volume as operators see it."""
        shelved = self.volumes.get(name)
        return volume_info(self.name, shelved, self.pairs.of_volume(name), self.exporter)

    def pair_info(self, name: str) -> m.PairInfo:
        """One pair as operators see it."""
        return pair_info(self.name, self.pairs.get(name))

    def peers(self) -> dict[str, bool]:
        """Which peers are connected."""
        return {peer.name: self.links.connected(peer.name) for peer in self.settings.peers}

    def detail(self) -> str:
        """Why peers are away, in a line."""
        if self.links.refusal:
            return self.links.refusal
        reasons = [f"{name}: {why}" for name, why in sorted(self.links.reasons.items()) if why]
        return "; ".join(reasons)

    def _publish_status(self) -> None:
        self._publisher.publish_status(self.peers(), self.detail())

    def _publish_soon(self) -> None:
        if self._publishing is None and not self.stopping:
            self._publishing = self._world.clock.later(0, self._publish)

    def _state(self, kind: StateKind, name: str, info: m.VolumeInfo | m.PairInfo | None) -> None:
        if self._published.get((kind, name)) != info:
            self._published[kind, name] = info
            self._publisher.publish_state(kind, name, info)

    def _publish(self) -> None:
        self._publishing = None
        if self.stopping:
            # What the files say when they are closed is no news.
            return
        pairs, self._changed_pairs = self._changed_pairs, set()
        volumes, self._changed_volumes = self._changed_volumes, set()
        for name in pairs:
            owner = self.pairs.find(name)
            if owner is not None:
                self._state("pair", name, pair_info(self.name, owner))
        known = {shelved.record.name for shelved in self.volumes.all()}
        for name in volumes:
            info = self.volume_info(name) if name in known else None
            self._state("volume", name, info)

    def _tick(self) -> None:
        """Keep fresh what no event tells: progress while something copies, the rest later."""
        self._ticks += 1
        everything = self._ticks % REFRESH_EVERY_TICKS == 0
        for owner in self.pairs.owners():
            if everything or owner.record.copying is not None or owner.side.verifying:
                self._changed_pairs.add(owner.record.name)
        if everything:
            self._changed_volumes.update(each.record.name for each in self.volumes.all())
        self._publish_soon()
        self._publish_status()
        self._cancel_progress = self._world.clock.later(PROGRESS_EVERY_S, self._tick)


class LoopClock:
    """The running loop's clock and timers."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now_s(self) -> float:
        """Monotonic seconds."""
        return self._loop.time()

    def later(self, delay_s: float, run: Callable[[], None]) -> Callable[[], None]:
        """Call `run` later; returns what cancels it."""
        return self._loop.call_later(delay_s, run).cancel
