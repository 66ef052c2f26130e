"""Following retained states: the latest value of each topic, in the order of change.

Owns what a watcher hasn't read yet. Must not touch the network. Bounded by the number of
topics, because a newer value replaces an unread one.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from controller.api.messages import Info


def matches(topic_filter: str, topic: str) -> bool:
    """Whether an MQTT topic filter covers a topic (MQTT 5.0, 4.7.1)."""
    wanted = topic_filter.split("/")
    levels = topic.split("/")
    for index, want in enumerate(wanted):
        if want == "#":
            return True
        if index >= len(levels) or want not in {"+", levels[index]}:
            return False
    return len(wanted) == len(levels)


class Watch:
    """The states of one filter; `settled` once every stored one has been offered."""

    def __init__(self, topic_filter: str) -> None:
        self.topic_filter = topic_filter
        self.settled = False
        self._latest: dict[str, Info | None] = {}
        self._unread: OrderedDict[str, Info | None] = OrderedDict()
        self._news = asyncio.Event()

    def offer(self, topic: str, info: Info | None) -> None:
        """A state has come; one that is known already is no news."""
        if not matches(self.topic_filter, topic):
            return
        if topic in self._latest and self._latest[topic] == info:
            return
        if info is None:
            if topic not in self._latest:
                return
            del self._latest[topic]
        else:
            self._latest[topic] = info
        self._unread[topic] = info
        self._unread.move_to_end(topic)
        self._news.set()

    async def next(self) -> tuple[str, Info | None]:
        """The next change that hasn't been read."""
        while not self._unread:
            self._news.clear()
            await self._news.wait()
        return self._unread.popitem(last=False)

    def snapshot(self) -> dict[str, Info]:
        """What exists now, by topic."""
        return {topic: info for topic, info in sorted(self._latest.items()) if info is not None}
