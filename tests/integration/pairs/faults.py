"""A disk whose stores fail on demand, for nodes in tests."""

from __future__ import annotations

from controller.volume.faulty import FaultRule, FaultyStore
from controller.volume.store import BlockStore, Disk


class FaultyDisk:
    """`inner`, with every volume's store open to rules."""

    def __init__(self, inner: Disk) -> None:
        self._inner = inner
        self.stores: dict[str, FaultyStore] = {}

    def open(self, name: str, size_bytes: int, *, create: bool, **how: bool) -> BlockStore:
        store = self._inner.open(name, size_bytes, create=create, **how)
        self.stores[name] = FaultyStore(store)
        return self.stores[name]

    def exists(self, name: str) -> bool:
        return self._inner.exists(name)

    def remove(self, name: str) -> None:
        self._inner.remove(name)

    def rules(self, volume_id: str, *rules: FaultRule) -> FaultyStore:
        """Set the rules of one volume's data."""
        store = self.stores[f"{volume_id}.volume"]
        store.rules = list(rules)
        return store


class Faults:
    """Give `wrap` to a node, then set rules by the volume's name."""

    def __init__(self) -> None:
        self.disk: FaultyDisk

    def wrap(self, disk: Disk) -> Disk:
        self.disk = FaultyDisk(disk)
        return self.disk
