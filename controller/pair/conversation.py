"""One side's conversation with the other: what is said, what is awaited, and when it is over.

Owns the replies that somebody waits for, and the rule that nothing said in one epoch is taken
up in the next (law L9). Must not know what a message means. Fails with LinkLost.
"""

from __future__ import annotations

import asyncio

from controller.link.channel import Channel
from controller.pair import messages as msg
from controller.pair.side import PairSide

ANSWER_WITHIN_S = 60.0

Reply = asyncio.Future[msg.Message]


class LinkLost(Exception):  # noqa: N818  (an event of the conversation, not an error of ours)
    """The other side went away in the middle of a conversation."""


class Conversation:
    """The messages between two sides, over whichever channel is up."""

    def __init__(self, side: PairSide) -> None:
        self._side = side
        self._awaiting: list[tuple[tuple[type[msg.Message], ...], Reply]] = []

    def takes(self, message: msg.PairMessage) -> bool:
        """Give a message to whoever waits for its kind; False when nobody does."""
        for entry in self._awaiting:
            if isinstance(message, entry[0]):
                self._awaiting.remove(entry)
                if not entry[1].done():
                    entry[1].set_result(message)
                return True
        return False

    def awaits(self, kind: type[msg.Message]) -> bool:
        """Whether somebody waits for a message of this kind."""
        return any(kind in kinds for kinds, _ in self._awaiting)

    def lost(self, reason: str) -> None:
        """The epoch has ended: nobody will answer."""
        awaiting, self._awaiting = self._awaiting, []
        for _, reply in awaiting:
            if not reply.done():
                reply.set_exception(LinkLost(reason))
                # Whoever began the conversation may have left already.
                reply.exception()

    def send(self, message: msg.PairMessage) -> None:
        """Put a message into the stream, if there is one."""
        if self._side.channel is not None and self._side.channel.alive:
            self._side.channel.control(message.model_dump(mode="json"))

    def epoch(self) -> Channel:
        """The channel of this conversation; LinkLost when there is none."""
        if self._side.channel is None:
            raise LinkLost("no link")
        return self._side.channel

    def still(self, channel: Channel) -> None:
        """LinkLost when the epoch a conversation began in has ended, even if a new one is up.

        To be called behind every wait: what follows it would be said to the wrong epoch, and a
        side that doesn't follow acknowledges frames it has ignored.
        """
        if self._side.channel is not channel:
            raise LinkLost("the link broke meanwhile")

    def awaiting(self, *kinds: type[msg.Message]) -> Reply:
        """The next message of one of these kinds. To be called before what it answers is sent."""
        reply: Reply = asyncio.get_running_loop().create_future()
        channel = self._side.channel
        if channel is None or not channel.alive:
            reply.set_exception(LinkLost("no link"))
            reply.exception()
        else:
            self._awaiting.append((kinds, reply))
        return reply

    async def settled(self, reply: Reply) -> msg.Message:
        """Wait for a reply; LinkLost when the epoch ends before, or nothing comes."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await reply
        except TimeoutError as error:
            raise LinkLost(f"no answer within {ANSWER_WITHIN_S:.0f} s") from error
        finally:
            self._awaiting = [entry for entry in self._awaiting if entry[1] is not reply]

    async def converse(self, message: msg.PairMessage, *kinds: type[msg.Message]) -> msg.Message:
        """Send a message and wait for its answer."""
        reply = self.awaiting(*kinds)
        self.send(message)
        return await self.settled(reply)
