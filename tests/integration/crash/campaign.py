"""A campaign of kills: rounds of work on a chain of three volumes, each with its own deaths.

Owns what is done, when which process dies (drawn from a seed), and what must be true afterwards.
A round begins and ends with everything in PAIR. Fails with AssertionError; `log` then says how it
came to that.
"""

from __future__ import annotations

import asyncio
import ctypes
import random
from collections import Counter
from collections.abc import Awaitable, Callable

from controller.api import messages as m
from controller.api.codes import Code
from tests.integration.crash.ledger import Ledger
from tests.integration.crash.load import Load, Lun, new_tags
from tests.integration.crash.machines import (
    SIZE_BYTES,
    Machines,
    Pairs,
    S,
    all_in_sync,
    refusal,
    remote_in_sync,
)
from tests.rig import eventually

VICTIMS = (("ctl1",), ("ctl2",), ("ctl1", "ctl2"), ("ctl1", "ctl2"))
WRITES_WITHIN_S = 90.0
MARK = "marked"
FORWARD = m.PairResync(name="remote", direction=m.Direction.FORWARD)
REVERSE = m.PairResync(name="remote", direction=m.Direction.REVERSE)


class Campaign:
    """Rounds until enough have died. `kills` counts processes that were killed."""

    def __init__(self, machines: Machines, library: ctypes.CDLL, seed: int, mode: m.Mode) -> None:
        self.machines = machines
        self._sync = mode is m.Mode.SYNC
        self.chance = random.Random(seed)
        self.kills = 0
        self.moments: Counter[str] = Counter()
        self.log: list[str] = []
        self._tags = new_tags()
        self.host1 = self._load(library, "first", seed)
        self.host2 = self._load(library, "second", seed + 1)

    def _load(self, library: ctypes.CDLL, volume: str, seed: int) -> Load:
        info = self.machines.volumes[volume]
        assert info.target is not None
        lun = Lun(info.portals[0], info.target, f"iqn.2026-11.example:host.{volume}")
        return Load(library, lun, Ledger(SIZE_BYTES), self._tags, seed)

    def note(self, line: str) -> None:
        """Remember for a failure."""
        self.log.append(f"kill {self.kills}: {line}")

    async def run(self, kills: int) -> None:
        """Rounds of every kind, then the end: all three volumes are equal."""
        rounds: list[Callable[[], Awaitable[None]]] = [
            self.in_sync,
            self.in_sync,
            self.while_splitting,
            self.while_copying,
            self.while_copying_back,
            self.while_marking,
        ]
        waiting: list[Callable[[], Awaitable[None]]] = []
        self.host1.resume()
        while self.kills < kills:
            if not waiting:
                waiting = self.chance.sample(rounds, len(rounds))
            kind = waiting.pop()
            self.note(f"round {kind.__name__}")
            await kind()
            await self._compare()
        await self.finish()

    async def finish(self) -> None:
        """Log out, and look at everything once more."""
        await asyncio.to_thread(self.host1.pause, log_out=True)
        await self._compare()
        self.host1.stop()
        self.host2.stop()

    def stop(self) -> None:
        """End the hosts, however it went."""
        self.host1.stop()
        self.host2.stop()

    # ------------------------------------------------------------ rounds

    async def in_sync(self) -> None:
        """A death in PAIR, under load; perhaps another while they find together again."""
        await self._writes(self.host1, 40)
        victims = self.chance.choice(VICTIMS)
        floor = self.host1.ledger.floor()
        await self._kill("in PAIR", *victims)
        if "ctl2" not in victims:
            await self.machines.cut_off("ctl2")
        if self._sync:
            for volume in ("second", "third"):
                floor.check(self.machines.image(volume), f"{volume}, cut off in PAIR")
        self.host1.ledger.close_floor(floor)
        if "ctl1" in victims:
            await asyncio.to_thread(self.host1.pause)
            first = self.machines.image("first")
            self.host1.ledger.check(first, "first, just killed", settle=True)
            self.host1.resume()
        elif self.chance.random() < 0.5:
            await self._writes(self.host1, 40)
        await self.machines.start(*victims)
        await self._more_deaths("while they meet again", 0.35)
        await self.machines.until(all_in_sync, "everything is in PAIR again by itself")

    async def while_splitting(self) -> None:
        """A death in the middle of a split, then the way back that the states name."""
        asked = m.PairSplit(name="remote", writable=self.chance.random() < 0.5)
        await self._command("pair.split", asked, "during a split")
        pairs = await self._named(S.PAIR, S.PSUS)
        if pairs["remote@ctl1"].state is S.PSUS:
            await self._writes(self.host1, 20)
            await self._resync(FORWARD, "during a resync")

    async def while_copying(self) -> None:
        """Split, both sides written, and a death while P-VOL goes to S-VOL."""
        # Host 1 goes on: the second volume is its ledger at some moment of the split.
        floor = self.host1.ledger.floor()
        await self._split_writable()
        self.host1.ledger.close_floor(floor)
        await self._part_second(floor)
        await self._writes(self.host1, 60)
        await asyncio.to_thread(self.host2.pause, log_out=True)
        await self._resync(FORWARD, "during a resync")

    async def while_copying_back(self) -> None:
        """Split, the second volume written, and a death while S-VOL goes to P-VOL."""
        await asyncio.to_thread(self.host1.pause, log_out=True)
        await self._split_writable()
        await self._part_second(self.host1.ledger.copy())
        if self.chance.random() < 0.5:
            await self._kill("while host 2 writes", "ctl2")
            await asyncio.to_thread(self.host2.pause)
            second = self.machines.image("second")
            self.host2.ledger.check(second, "second, just killed", settle=True)
            await self.machines.start("ctl2")
            self.host2.resume()
            await self._writes(self.host2, 20)
        await asyncio.to_thread(self.host2.pause, log_out=True)
        await self._resync(REVERSE, "during a reverse resync")
        self.host1.ledger = self.host2.ledger
        self.host1.resume()

    async def while_marking(self) -> None:
        """A death while the third volume is split for a backup, and on its way back."""
        floor = self.host1.ledger.floor()
        asked = m.BackupMark(remote_pair="remote", local_pair="local", label=MARK)
        done = await self._command("backup.mark", asked, "during a backup's mark")
        self.host1.ledger.close_floor(floor)
        if done:
            # Nothing that was acknowledged before is missing, nothing that came after is there.
            floor.check(self.machines.image("third"), "third, after the mark")
        pairs = await self.machines.until(
            lambda pairs: (
                all_in_sync(pairs)
                or (remote_in_sync(pairs) and (_marked(pairs) or (not done and _cut_off(pairs))))
            ),
            "all is in PAIR but for the mark",
        )
        if _cut_off(pairs):
            await self._local_resync()
        elif _marked(pairs):
            third = self.machines.image("third")
            await self._writes(self.host1, 20)
            assert self.machines.image("third") == third, "the split third volume has changed"
            await self._local_resync()

    # ------------------------------------------------------------ parts of rounds

    async def _kill(self, moment: str, *victims: str) -> None:
        self.machines.kill(*victims)
        state = await self.machines.shown(victims[0])
        self.kills += len(victims)
        self.moments[f"{moment}, {state}"] += len(victims)
        self.note(f"killed {' and '.join(victims)} {moment}, {state}")

    async def _writes(self, load: Load, most: int) -> None:
        """Let a host write up to so many times: a random moment of its work."""
        count = self.chance.randint(1, most)
        await asyncio.to_thread(load.acknowledged, count, WRITES_WITHIN_S)

    async def _pause(self) -> None:
        """A random moment of somebody else's work: more often early than late in it."""
        await asyncio.sleep(self.chance.random() ** 3 * 0.3)

    async def _command(self, verb: str, params: m.Params, moment: str, node: str = "ctl1") -> bool:
        """Give a command, kill something meanwhile; whether it was answered as done."""
        task = asyncio.create_task(self.machines.do(node, verb, params))
        await self._pause()
        victims = self.chance.choice(VICTIMS)
        await self._kill(moment, *victims)
        await self.machines.start(*victims)
        error = await refusal(task)
        self.note(f"{verb}: {error or 'done'}")
        return error is None

    async def _more_deaths(self, moment: str, likelihood: float) -> None:
        """Somebody dies, perhaps, while the last death is being mended."""
        while self.chance.random() < likelihood:
            await asyncio.sleep(self.chance.random() * 1.2)
            victims = self.chance.choice(VICTIMS)
            await self._kill(moment, *victims)
            await self.machines.start(*victims)

    async def _named(self, *states: S) -> Pairs:
        """Both know of each other and the primary is in one of these states."""
        return await self.machines.until(
            lambda pairs: (
                _linked(pairs)
                and pairs["remote@ctl1"].state in states
                and (remote_in_sync(pairs) or _not_begun(pairs))
            ),
            f"the remote pair is in one of {', '.join(states)}",
        )

    async def _split_writable(self) -> None:
        await self.machines.do("ctl1", "pair.split", m.PairSplit(name="remote", writable=True))
        await self._named(S.PSUS)

    async def _part_second(self, ledger: Ledger) -> None:
        """Host 2 logs in to the split second volume and writes."""
        self.host2.ledger = ledger
        self.host2.resume()
        await self._writes(self.host2, 40)

    async def _resync(self, asked: m.PairResync, moment: str) -> None:
        """Kill during the copy; ask again while the state says that nobody has begun it."""
        await self._command("pair.resync", asked, moment)
        await self._more_deaths(f"{moment}, again", 0.2)
        for _ in range(20):
            pairs = await self.machines.until(
                lambda pairs: remote_in_sync(pairs) or _not_begun(pairs),
                "the copy ends or has not begun",
            )
            if not _not_begun(pairs):
                break
            task = asyncio.create_task(self.machines.do("ctl1", "pair.resync", asked))
            error = await refusal(task)
            self.note(f"asked again: {error or 'done'}")
            assert error is None or error.code in (Code.NO_PEER, Code.IN_USE), error
        await self.machines.until(all_in_sync, "all is in PAIR after a resync")

    async def _local_resync(self) -> None:
        asked = m.PairResync(name="local")
        await self._command("pair.resync", asked, "during a local resync", node="ctl2")
        pairs = await self.machines.until(
            lambda pairs: (
                all_in_sync(pairs)
                or (remote_in_sync(pairs) and (_marked(pairs) or _cut_off(pairs)))
            ),
            "the local pair follows again, or was never told to",
        )
        if _marked(pairs) or _cut_off(pairs):
            await self.machines.do("ctl2", "pair.resync", asked)
        await self.machines.until(all_in_sync, "all is in PAIR after a local resync")

    async def _compare(self) -> None:
        """At rest and in PAIR: what hosts were told is there, and all three are equal."""
        await self.machines.until(all_in_sync, "all is in PAIR at the end of a round")
        await asyncio.to_thread(self.host1.pause)
        if not self._sync:
            await self._drained()
        images = {name: self.machines.image(name) for name in self.machines.volumes}
        self.host1.ledger.check(images["first"], "first, at rest", settle=True)
        assert images["first"] == images["second"], "first and second differ in PAIR"
        assert images["second"] == images["third"], "second and third differ in PAIR"
        self.host1.resume()

    async def _drained(self) -> None:
        """Mode async: wait until what was acknowledged has arrived. `_compare` then judges."""
        await eventually(
            lambda: self.machines.image("first") == self.machines.image("third"),
            lambda: "what was acknowledged in mode async arrives",
        )


def _linked(pairs: Pairs) -> bool:
    return pairs["remote@ctl1"].peer_connected and pairs["remote@ctl2"].peer_connected


def _not_begun(pairs: Pairs) -> bool:
    """The split stands; a target that a crash left half ready says what helps, on both sides."""
    return _linked(pairs) and (
        _split(pairs)
        or (
            pairs["remote@ctl1"].state is S.PSUS
            and pairs["remote@ctl2"].state is S.PSUE
            and all(_is_named(pairs[f"remote@{node}"].next_step) for node in ("ctl1", "ctl2"))
        )
    )


def _is_named(next_step: str) -> bool:
    """Whether it says what brings the pair in sync: where both sides were written, who gives up."""
    return "pair resync" in next_step or "pair resolve" in next_step


def _marked(pairs: Pairs) -> bool:
    """Split by the mark, and not by the guard that keeps a consistent copy for a moment."""
    local = pairs["local@ctl2"]
    return local.state is S.PSUS and local.split_label == MARK


def _cut_off(pairs: Pairs) -> bool:
    """The mark had split, and the death came before its S-VOL was on disk: no backup, and named."""
    local = pairs["local@ctl2"]
    return (
        local.state is S.PSUS
        and not local.split_label
        and not local.guarded
        and "no point in time" in local.reason
        and _is_named(local.next_step)
    )


def _split(pairs: Pairs) -> bool:
    return pairs["remote@ctl1"].state is S.PSUS and pairs["remote@ctl2"].state is S.SSUS
