"""The operator: the commands, and the checks of what each one promised.

Owns commands to the controllers. A refusal is a fine answer; an exception, or no answer within
bounded time, is not. Successful splits and marks are held against the hosts' history (law L11).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from controller.api import messages as m
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.outcome import Outcome
from controller.pair.generations import Rule
from controller.pair.record import PairRecord
from targets.lun import Access
from tests.sim.loop import Died
from tests.sim.machine import Machine
from tests.sim.oracle import Oracle
from tests.sim.weather import Habits

ANSWER_WITHIN_S = 400.0
HOME_WITHIN_S = 600
PARTED = (m.PairState.PSUS, m.PairState.PSUE)


@dataclass(frozen=True)
class PairPlan:
    """A pair that should exist."""

    name: str
    kind: m.PairKind
    p_machine: str
    p_volume: str
    s_machine: str
    s_volume: str
    mode: m.Mode
    fence: m.Fence


@dataclass(frozen=True)
class Answered:
    """How a command ended; one of the three is set."""

    outcome: Outcome | None = None
    refused: RejectedError | None = None
    died: bool = False

    @property
    def done(self) -> bool:
        """Whether it was accepted (not a no-op)."""
        return self.outcome is not None and self.outcome.verdict is Verdict.ACCEPTED


def turned(plan: PairPlan) -> PairPlan:
    """The plan behind a swap."""
    p_end, s_end = (plan.p_machine, plan.p_volume), (plan.s_machine, plan.s_volume)
    return PairPlan(plan.name, plan.kind, *s_end, *p_end, plan.mode, plan.fence)


class Operator:
    """Gives commands."""

    def __init__(
        self,
        oracle: Oracle,
        rng: Random,
        plans: list[PairPlan],
        size_bytes: int,
        habits: Habits,
    ) -> None:
        self.oracle = oracle
        self.rng = rng
        self.plans = plans
        self.size_bytes = size_bytes
        self.habits = habits
        self.commands = 0
        self.under_way = 0
        """Commands that have no answer yet."""
        self.on_command: Callable[[Machine], None] = lambda _machine: None
        """Told when a command is on its way."""

    # ------------------------------------------------------------ commands

    async def give(self, machine: Machine, verb: str, params: m.Params) -> Answered:
        """Give one command and wait for its answer."""
        self.commands += 1
        shown = " ".join(f"{k}={v}" for k, v in params.model_dump(exclude_defaults=True).items())
        text = f"command {machine.name}: {verb} {shown}"
        if not machine.up:
            return Answered(died=True)
        self.oracle.event(f"{text} ...")
        self.on_command(machine)
        self.under_way += 1
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                outcome: Outcome = await machine.ask(machine.node.commands.carry_out(verb, params))
        except RejectedError as error:
            self.oracle.event(f"{text}: {error.code.value}: {error.message}")
            return Answered(refused=error)
        except Died:
            self.oracle.event(f"{text}: no answer, {machine.name} is gone")
            return Answered(died=True)
        except TimeoutError:
            self.oracle.broken("ANSWER", f"{text}: no answer in {ANSWER_WITHIN_S:.0f} s")
            return Answered(died=True)
        finally:
            self.under_way -= 1
        self.oracle.event(f"{text}: {outcome.verdict.value} {outcome.message}")
        return Answered(outcome=outcome)

    async def create_volume(self, machine: Machine, name: str) -> Answered:
        """Make a volume, and begin its history."""
        known = machine.volume(name) is not None
        answer = await self.give(
            machine, "volume.create", m.VolumeCreate(name=name, size_bytes=self.size_bytes)
        )
        if answer.done and not known:
            tracked = self.oracle.volumes[machine.name, name]
            tracked.is_volume(machine.volume_id(name))
            tracked.access = Access.READ_WRITE
        return answer

    async def create_pair(self, plan: PairPlan) -> Answered:
        """Bind two volumes."""
        remote = plan.kind is m.PairKind.REMOTE
        params = m.PairCreate(
            name=plan.name,
            kind=plan.kind,
            p_volume=plan.p_volume,
            s_volume=plan.s_volume,
            peer=plan.s_machine if remote else None,
            mode=plan.mode,
            fence=plan.fence,
        )
        # To make a pair is to say that the S-VOL's content is given up.
        with self.naming(plan, m.Direction.FORWARD):
            return await self.give(self.oracle.machines[plan.p_machine], "pair.create", params)

    @contextlib.contextmanager
    def naming(self, plan: PairPlan, direction: m.Direction | None) -> Iterator[None]:
        """A command is under way that says which side's writes may be given up (law L8)."""
        if direction is None:
            yield
            return
        named = (plan.name, direction.value)
        self.oracle.named.add(named)
        self.oracle.asking[named] += 1
        try:
            yield
        finally:
            self.oracle.asking[named] -= 1

    async def split(
        self, plan: PairPlan, *, writable: bool, quick: bool = False, at: Machine | None = None
    ) -> Answered:
        """Split a pair; what the S-VOL holds then is one instant of the P-VOL."""
        machine = at or self.oracle.machines[plan.p_machine]
        watch = self._begin_watch(plan)
        answer = await self.give(
            machine, "pair.split", m.PairSplit(name=plan.name, writable=writable, quick=quick)
        )
        if answer.done and watch is not None and not writable:
            self._check_instant(plan, watch, plan.s_machine, plan.s_volume)
        return answer

    async def resync(
        self,
        plan: PairPlan,
        *,
        reverse: bool,
        full: bool = False,
        force: bool = True,
        limited: bool = False,
        named: bool = True,
        at: Machine | None = None,
    ) -> Answered:
        """Make both sides equal again; without a name only where nothing is given up (law L8)."""
        machine = at or self.oracle.machines[plan.p_machine]
        direction = None
        if reverse or named:
            direction = m.Direction.REVERSE if reverse else m.Direction.FORWARD
        limit = 1 << 20 if limited else None
        params = m.PairResync(
            name=plan.name,
            direction=direction,
            full=full,
            force=force,
            rate_limit_bytes_per_s=limit,
        )
        free = force or not reverse or not self._used(plan)
        with self.naming(plan, direction):
            answer = await self.give(machine, "pair.resync", params)
        if answer.done and not free and self._used(plan):
            self.oracle.broken(
                "L12", f"{plan.p_volume} is copied back while initiators are logged in to it"
            )
        return answer

    def _used(self, plan: PairPlan) -> bool:
        """Whether a copy back into a P-VOL has to be forced."""
        record = self.record(plan, m.Role.P_VOL)
        machine = self.oracle.machines[plan.p_machine]
        # Going on with one that was forced before needs no force.
        return (
            record is not None
            and record.goal != "reverse"
            and machine.volume(plan.p_volume) is not None
            and bool(machine.initiators(plan.p_volume))
        )

    async def resolve(
        self, plan: PairPlan, *, discard_p: bool, at: Machine | None = None
    ) -> Answered:
        """End a split-brain by giving up what one side wrote."""
        machine = at or self.oracle.machines[plan.p_machine]
        remote = plan.kind is m.PairKind.REMOTE
        ends = (plan.p_machine, plan.s_machine) if remote else (plan.p_volume, plan.s_volume)
        direction = m.Direction.REVERSE if discard_p else m.Direction.FORWARD
        params = m.PairResolve(name=plan.name, discard=ends[0 if discard_p else 1], force=True)
        with self.naming(plan, direction):
            return await self.give(machine, "pair.resolve", params)

    async def takeover(self, plan: PairPlan) -> Answered:
        """Let hosts write to the S-VOL, whatever has become of the P-VOL."""
        machine = self.oracle.machines[plan.s_machine]
        self.oracle.alone.add(plan.name)
        answer = await self.give(machine, "pair.takeover", m.PairTakeover(name=plan.name))
        self._led_alone(plan)
        return answer

    def _led_alone(self, plan: PairPlan) -> None:
        """What lets one side lead alone counts until both are in PAIR: they may be so still."""
        for each in (plan, turned(plan)):
            sides = [self.record(each, role) for role in m.Role]
            if all(side is not None and side.state is m.PairState.PAIR for side in sides):
                self.oracle.alone.discard(plan.name)

    async def swap(self, plan: PairPlan, *, force: bool = False) -> Answered:
        """Exchange the roles by agreement."""
        params = m.PairSwap(name=plan.name, to=plan.s_machine, force=force)
        return await self.give(self.oracle.machines[plan.p_machine], "pair.swap", params)

    async def swap_alone(self, plan: PairPlan) -> Answered:
        """The same behind a takeover: what the P-VOL had beyond it is given up."""
        params = m.PairSwap(name=plan.name, to=plan.s_machine)
        self.oracle.alone.add(plan.name)
        with self.naming(plan, m.Direction.FORWARD):
            answer = await self.give(self.oracle.machines[plan.s_machine], "pair.swap", params)
        self._led_alone(plan)
        return answer

    async def keep(self, plan: PairPlan) -> Answered:
        """Behind a swap that was cut off, the old P-VOL goes on alone."""
        params = m.PairSwap(name=plan.name, to=plan.p_machine, force=True)
        self.oracle.alone.add(plan.name)
        answer = await self.give(self.oracle.machines[plan.p_machine], "pair.swap", params)
        self._led_alone(plan)
        return answer

    async def bring_home(self, plan: PairPlan) -> None:
        """Exchange a remote pair's roles once more, where one is not where the plan has it."""
        assert plan.kind is m.PairKind.REMOTE
        away = turned(plan)
        for _ in range(HOME_WITHIN_S):
            p, s = self.record(away, m.Role.P_VOL), self.record(away, m.Role.S_VOL)
            if p is None and s is None:
                return
            if p is not None and s is not None:
                if p.state is m.PairState.PAIR:
                    await self.swap(away)
                elif p.state is m.PairState.PSUS:
                    await self.resync(away, reverse=False)
            await asyncio.sleep(1.0)
        self.oracle.broken("L3", f"'{plan.name}' has no P-VOL and S-VOL again after a swap")

    async def verify(self, plan: PairPlan, *, repair: bool, limited: bool) -> Answered:
        """Compare both sides under I/O; the oracle looks at what is found (law VERIFY)."""
        limit = 1 << 20 if limited else None
        params = m.PairVerify(name=plan.name, repair=repair, rate_limit_bytes_per_s=limit)
        return await self.give(self.oracle.machines[plan.p_machine], "pair.verify", params)

    async def delete(self, plan: PairPlan, *, force: bool = False) -> Answered:
        """Dissolve a pair."""
        machine = self.oracle.machines[plan.p_machine]
        return await self.give(machine, "pair.delete", m.PairDelete(name=plan.name, force=force))

    async def mark(
        self,
        remote: PairPlan,
        local: PairPlan,
        *,
        split_remote: bool = False,
        quick: bool = False,
    ) -> Answered:
        """Take a backup: split the local pair, or both, at one point of the remote stream."""
        machine = self.oracle.machines[remote.p_machine]
        watch = self._begin_watch(remote)
        params = m.BackupMark(
            remote_pair=remote.name,
            local_pair=local.name,
            label="b",
            split_remote=split_remote,
            quick=quick,
        )
        answer = await self.give(machine, "backup.mark", params)
        if answer.done and watch is not None:
            self._check_instant(remote, watch, local.s_machine, local.s_volume, behind=local)
            if split_remote:
                self._check_instant(remote, watch, remote.s_machine, remote.s_volume)
        return answer

    # ------------------------------------------------------------ law L11

    def _begin_watch(self, plan: PairPlan) -> tuple[int, int] | None:
        """When the command begins; None where the S-VOL is no mirror of hosts' writes now."""
        record = self.record(plan, m.Role.P_VOL)
        if record is None or record.state is not m.PairState.PAIR or plan.p_machine != "a":
            return None
        history = self.oracle.volumes[plan.p_machine, plan.p_volume].history
        return self.oracle.tick(), history.rebased

    def _check_instant(
        self,
        plan: PairPlan,
        watch: tuple[int, int],
        s_machine: str,
        s_volume: str,
        *,
        behind: PairPlan | None = None,
    ) -> None:
        began, rebased = watch
        history = self.oracle.volumes[plan.p_machine, plan.p_volume].history
        frozen = self.oracle.volumes[s_machine, s_volume].frozen
        local = None if behind is None else self.record(behind, m.Role.P_VOL)
        if local is not None and local.behind:
            frozen = self.oracle.quick.get(local.id)
        if history.rebased != rebased or frozen is None:
            return
        wrong = history.wrong_instant(frozen, began, self.oracle.tick())
        if wrong is not None:
            self.oracle.broken(
                "L11", f"split of {s_machine}/{s_volume} is no instant of {plan.p_volume}: {wrong}"
            )

    # ------------------------------------------------------------ what there is

    def record(self, plan: PairPlan, role: m.Role) -> PairRecord | None:
        """A side's record, on a machine that is up."""
        name = plan.p_machine if role is m.Role.P_VOL else plan.s_machine
        machine = self.oracle.machines[name]
        if not machine.up:
            return None
        for owner in machine.node.pairs.owners():
            if owner.record.name == plan.name and owner.record.role is role:
                return owner.record
        return None

    def now(self, plan: PairPlan) -> PairPlan:
        """The plan as the roles are now; as it is where nobody can be asked."""
        away = turned(plan)
        lead = self.record(plan, m.Role.P_VOL), self.record(away, m.Role.P_VOL)
        return away if plan.kind is m.PairKind.REMOTE and lead[0] is None and lead[1] else plan

    def undecided(self, plan: PairPlan) -> bool:
        """Both sides are there and have the same role: a swap is under way, or was cut off."""
        ends = (plan, turned(plan))
        same = ([self.record(each, role) for each in ends] for role in m.Role)
        return plan.kind is m.PairKind.REMOTE and any(a and b and a.id == b.id for a, b in same)

    def in_pair(self, plan: PairPlan) -> bool:
        """Whether a pair is in sync."""
        record = self.record(plan, m.Role.P_VOL)
        return record is not None and record.state is m.PairState.PAIR

    async def bring_in_sync(self, plans: list[PairPlan]) -> None:
        """Resynchronise what is parted, and wait a while until all of them are in PAIR."""
        for plan in plans:
            record = self.record(plan, m.Role.P_VOL)
            if record is not None and record.state in PARTED:
                await self.resync(plan, reverse=False)
        for _ in range(40):
            if all(map(self.in_pair, plans)):
                return
            await asyncio.sleep(0.1)

    async def replace(self, machine: Machine, volume: str) -> None:
        """Delete a volume with its pairs, and make it anew."""
        for plan in self.plans:
            if volume in (plan.p_volume, plan.s_volume):
                await self.delete_both(plan)
        if machine.volume(volume) is not None:
            machine.initiators(volume).clear()
        await self.give(machine, "volume.delete", m.VolumeDelete(name=volume))
        await self.create_volume(machine, volume)

    async def delete_both(self, plan: PairPlan) -> None:
        """Dissolve a pair whose sides may not know each other any more."""
        for name in dict.fromkeys((plan.p_machine, plan.s_machine)):
            machine = self.oracle.machines[name]
            await self.give(machine, "pair.delete", m.PairDelete(name=plan.name, force=True))


def split_brain(record: PairRecord) -> bool:
    """Whether a side shows a split-brain."""
    return Rule.SPLIT_BRAIN.value in record.reason


REFUSED_FULL = {Code.FULL_COPY_NEEDED, Code.UNRELATED}
