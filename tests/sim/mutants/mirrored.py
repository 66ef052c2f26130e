"""Bugs in mirrors: what is sent on, splits, marks, generations and epochs of the link."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import controller.pair.choice as choice_module
import controller.pair.generations as generations
from controller.api.messages import Direction, Mode, PairKind
from controller.link.channel import Channel
from controller.link.stream import Stream
from controller.link.transport import Connection, Links
from controller.pair import messages as msg
from controller.pair.follower import Follower
from controller.pair.generations import Decision, How, Rule
from controller.pair.owner import PairOwner
from controller.pair.side import PairSide
from controller.pair.splitting import Splitting
from controller.pair.tickets import Mirrored
from controller.volume.volume import Volume
from controller.volume.write import WriteOp
from tests.sim.mutants.plant import Mutant, Patch


def _chain_dropped() -> list[Patch]:
    real = PairSide.mirror

    def mirror(side: PairSide, op: WriteOp) -> None:
        if op.source is None:
            real(side, op)

    return [(PairSide, "mirror", mirror)]


def _lost_write_unmarked() -> list[Patch]:
    return [(Mirrored, "lost", Mirrored.acked)]


def _split_overtakes_writes() -> list[Patch]:
    def barrier(_volume: Volume, run: Callable[[], None]) -> None:
        run()

    return [(Volume, "barrier", barrier)]


def _split_keeps_on_mirroring() -> list[Patch]:
    real = Splitting.begin

    def begin(splitting: Splitting, label: str, *, writable: bool) -> None:
        side = splitting._side
        was_mirroring = side.mirroring
        real(splitting, label, writable=writable)
        # The other side has split by then, and acknowledges what it ignores.
        side.mirroring = was_mirroring

    return [(Splitting, "begin", begin)]


def _split_not_flushed() -> list[Patch]:
    async def split_stored(follower: Follower, done: Any) -> None:
        follower._record.settled = True
        follower._side.volume.update_access()
        await follower._owner.services.commit()
        follower._owner.talk.send(done)

    return [(Follower, "split_stored", split_stored)]


def _stale_acks_counted() -> list[Patch]:
    real = Stream.close

    def close(stream: Stream) -> None:
        if stream.open:
            stream._ack(stream._next_out - 1)
        real(stream)

    return [(Stream, "close", close)]


def _done_before_the_peer() -> list[Patch]:
    real = PairSide.mirror

    def mirror(side: PairSide, op: WriteOp) -> None:
        record = side.record
        mode = record.mode
        if record.kind is PairKind.REMOTE:
            record.mode = Mode.ASYNC
        real(side, op)
        record.mode = mode

    return [(PairSide, "mirror", mirror)]


def _hosts_let_in_too_early() -> list[Patch]:
    async def all_stored(_owner: PairOwner) -> None:
        return

    return [(PairOwner, "all_stored", all_stored)]


def _mirror_outlives_its_epoch() -> list[Patch]:
    def on_lost(side: PairSide, reason: str) -> None:
        side.channel = None
        side.events.lost(reason)

    return [(PairSide, "on_lost", on_lost)]


def _old_frames_applied() -> list[Patch]:
    real = Links.established

    def established(links: Links, connection: Connection, hello: Any) -> None:
        old = links._live.pop(connection.peer, None)
        if old is not None and old.stream is not None:
            # Its tickets are lost, and its transport is left to itself: frames still come.
            stream = old.stream
            stream.close()
            links.events.on_down(connection.peer, "replaced by a newer connection")
            stream.open = True
            stream._send = lambda *_frame: None
        real(links, connection, hello)

    return [(Links, "established", established)]


def _generation_bumped_at_connect() -> list[Patch]:
    real = PairSide.on_open

    def on_open(side: PairSide, channel: Channel) -> None:
        if side.wants_generation:
            side.begin_generation(side.volume._services.new_generation())
        real(side, channel)

    return [(PairSide, "on_open", on_open)]


def _split_brain_overruled() -> list[Patch]:
    real: Callable[..., Decision] = generations.decide

    def decide(*sides: Any, full: bool) -> Decision:
        found = real(*sides, full=full)
        if found.rule in (Rule.SPLIT_BRAIN, Rule.P_BEHIND) and sides[2] is None:
            return Decision(Rule.NAMED_FORWARD, How.BITMAP, Direction.FORWARD)
        return found

    return [(choice_module, "decide", decide)]


def _mark_overtakes_writes() -> list[Patch]:
    real = Follower.at_once

    def at_once(follower: Follower, message: msg.PairMessage) -> bool:
        if isinstance(message, msg.Mark):
            owner = follower._owner
            owner.services.mark_local(owner.side, message, owner.talk.send)
            return True
        return real(follower, message)

    return [(Follower, "at_once", at_once)]


MUTANTS = [
    Mutant("chain law dropped", "L6", _chain_dropped),
    Mutant("lost write not marked", "L1", _lost_write_unmarked),
    Mutant("split overtakes queued writes", "L11", _split_overtakes_writes),
    Mutant("split goes on mirroring", "L11", _split_keeps_on_mirroring),
    Mutant("split not flushed", "L7", _split_not_flushed),
    Mutant("stale acks counted", "L9", _stale_acks_counted),
    Mutant("sync write done before the peer", "SYNC", _done_before_the_peer),
    Mutant("hosts let in too early", "L7", _hosts_let_in_too_early, slow=371),
    Mutant("mirror outlives its epoch", "L9", _mirror_outlives_its_epoch, slow=94),
    Mutant("old connection's frames applied", "L9", _old_frames_applied, slow=149),
    Mutant("generation bumped at connect", "L8", _generation_bumped_at_connect),
    Mutant("split-brain overruled", "L8", _split_brain_overruled, slow=110),
    Mutant("mark overtakes queued writes", "L11", _mark_overtakes_writes, slow=200),
]
