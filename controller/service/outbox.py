"""What waits to be published: bounded, the latest value of a key wins.

Owns the order of outgoing messages: answers and requests first, then retained states. Pure.
When full, the oldest entry of the same lane gives way and is handed back to be told about.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MAX_DIRECT = 1024
MAX_RETAINED = 65536


@dataclass(frozen=True, slots=True)
class Publication:
    """One message to be published, QoS 1."""

    topic: str
    payload: bytes
    retain: bool = False
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None


class Outbox:
    """Two lanes of publications by key; an entry stays until `sent` says it has gone out."""

    def __init__(self, max_direct: int = MAX_DIRECT, max_retained: int = MAX_RETAINED) -> None:
        assert max_direct > 0
        assert max_retained > 0
        self._direct: OrderedDict[str, Publication] = OrderedDict()
        self._retained: OrderedDict[str, Publication] = OrderedDict()
        self._max_direct = max_direct
        self._max_retained = max_retained

    def __len__(self) -> int:
        return len(self._direct) + len(self._retained)

    def put(self, key: str, publication: Publication) -> Publication | None:
        """Queue or replace; returns the entry that had to give way, if any."""
        lane, limit = self._lane(publication)
        lane[key] = publication
        if len(lane) > limit:
            return lane.popitem(last=False)[1]
        return None

    def drop(self, key: str) -> None:
        """Forget a direct entry nobody waits for any more."""
        self._direct.pop(key, None)

    def first(self) -> tuple[str, Publication] | None:
        """What goes out next, without taking it."""
        for lane in (self._direct, self._retained):
            if lane:
                return next(iter(lane.items()))
        return None

    def sent(self, key: str, publication: Publication) -> None:
        """It went out; a newer value of the same key stays queued."""
        lane, _ = self._lane(publication)
        if lane.get(key) is publication:
            del lane[key]

    def _lane(self, publication: Publication) -> tuple[OrderedDict[str, Publication], int]:
        if publication.retain:
            return self._retained, self._max_retained
        return self._direct, self._max_direct
