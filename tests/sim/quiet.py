"""The quiet phase: faults off, machines up, and an operator who brings everything to PAIR.

Owns the way there, with the next steps the controllers themselves name, and the final checks.
It must end within bounded virtual time (law L3); a state that no command leads out of is a
failure of its own.
"""

from __future__ import annotations

import asyncio
import contextlib

from controller.api import messages as m
from controller.api.codes import Code
from tests.sim import laws
from tests.sim.group_backups import GroupBackups
from tests.sim.machine import Machine
from tests.sim.operator import ANSWER_WITHIN_S, REFUSED_FULL, Operator, PairPlan, split_brain
from tests.sim.oracle import Oracle
from tests.sim.unprodded import copies_behind_end, machines_up

WITHIN_S = 600.0
PAUSE_S = 1.0
PATIENCE = 12
"""Rounds a pair may go on by itself before the operator does something."""


class Quiet:
    """Brings everything to PAIR and looks at it."""

    def __init__(
        self,
        oracle: Oracle,
        operator: Operator,
        hosts: list[asyncio.Future[None]],
        groups: GroupBackups | None = None,
    ) -> None:
        self._oracle = oracle
        self._groups = groups
        self._hosts = hosts
        self._operator = operator
        self._waited: dict[str, int] = {}

    async def converge(self) -> None:
        """Bring everything to PAIR while hosts go on, as far as a while is enough for that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WITHIN_S / 10):
                await self._converge()

    async def run(self) -> None:
        """Converge, then check laws L2 and L3."""
        await copies_behind_end(self._oracle, self._operator)
        try:
            async with asyncio.timeout(WITHIN_S):
                await self._converge()
                if self._groups is not None and self._groups.possible:
                    await self._groups.in_vain()
                    await self._converge()
                while not (self._oracle.broke or await self._rested()):
                    # A connection that died half open is noticed late, and all goes on from there.
                    await self._converge()
        except TimeoutError:
            self._oracle.broken("L3", f"no end after {WITHIN_S:.0f} s: {self._states()}")
            return
        await self._settled()

    def _states(self) -> str:
        parts = []
        for plan in self._operator.plans:
            for role in m.Role:
                record = self._operator.record(plan, role)
                if record is None:
                    parts.append(f"{plan.name} {role}: none")
                else:
                    parts.append(f"{plan.name} {role}: {record.state} {record.reason!r}")
        for machine, name in self._oracle.volumes:
            volume = self._oracle.machines[machine].volume(name)
            if volume is not None:
                state = volume.state
                parts.append(f"{name}: healthy={state.healthy} consistent={state.consistent}")
        return "; ".join(parts)

    async def _converge(self) -> None:
        while True:
            await machines_up(self._oracle)
            await self._close_views()
            if self._groups is not None:
                await self._groups.give_up_forgotten()
                self._groups.look()
            if await self._mended() and await self._pairs():
                return
            if self._oracle.broke:
                return
            await asyncio.sleep(PAUSE_S)

    async def _close_views(self) -> None:
        machine = self._oracle.machines["b"]
        if machine.up and machine.volume("view") is not None:
            await self._operator.give(machine, "view.close", m.Named(name="view"))

    async def _mended(self) -> bool:
        """Replace volumes whose disk has failed: their pairs and they themselves are made anew."""
        fine = True
        for name, volume_name in self._oracle.volumes:
            machine = self._oracle.machines[name]
            volume = machine.volume(volume_name)
            half = volume is not None and not volume.state.consistent and not volume.trackers
            if volume is not None and volume.state.healthy and not half:
                continue
            fine = False
            if volume is not None:
                await self._operator.replace(machine, volume_name)
            else:
                await self._operator.create_volume(machine, volume_name)
        return fine

    async def _pairs(self) -> bool:
        fine = True
        for planned in self._operator.plans:
            if self._operator.undecided(planned):
                # It decides itself, or there is no end.
                fine = False
                continue
            plan = self._operator.now(planned)
            p = self._operator.record(plan, m.Role.P_VOL)
            s = self._operator.record(plan, m.Role.S_VOL)
            if p is not None and s is not None and p.id == s.id:
                if p.state is m.PairState.PAIR and s.state is m.PairState.PAIR:
                    if plan is not planned:
                        fine = False
                        await self._operator.swap(plan, force=True)
                    continue
                fine = False
                waited = self._waited.get(plan.name, 0) + 1
                self._waited[plan.name] = waited
                running = p.state in (m.PairState.COPY, m.PairState.RCPY)
                # What was marked for a backup that never came to be follows again by itself.
                running |= p.guarded and bool(p.instant)
                if running or p.behind or (waited % PATIENCE and p.state is m.PairState.PSUE):
                    continue
                if not (split_brain(p) and await self._resolved(plan)):
                    await self._resync(plan)
            else:
                fine = False
                await self._operator.delete_both(plan)
                await self._operator.create_pair(planned)
        return fine

    async def _resolved(self, plan: PairPlan) -> bool:
        answer = await self._operator.resolve(plan, discard_p=False)
        return answer.outcome is not None

    async def _resync(self, plan: PairPlan) -> None:
        operator = self._operator
        reverse = full = False
        for _ in range(4):
            answer = await operator.resync(plan, reverse=reverse, full=full)
            if answer.refused is None:
                return
            if answer.refused.code in REFUSED_FULL and not full:
                full = True
            elif answer.refused.code is Code.NOT_CONSISTENT and not reverse:
                reverse, full = True, False
            else:
                # As where the S-VOL is itself the target of a copy from its local mirror.
                return

    # ------------------------------------------------------------ at rest

    async def _rested(self) -> bool:
        """Wait until nothing is on its way; False when a pair has left PAIR meanwhile."""
        oracle = self._oracle
        _, unanswered = await asyncio.wait(self._hosts, timeout=ANSWER_WITHIN_S)
        if unanswered:
            oracle.broken("ANSWER", f"{len(unanswered)} hosts wait for an answer for ever")
            return True
        for name, volume_name in oracle.volumes:
            volume = oracle.machines[name].volume(volume_name)
            if volume is not None:
                await oracle.machines[name].io(volume.flush)
        await asyncio.sleep(1)
        await self._idle()
        owners = [o for each in oracle.machines.values() for o in each.node.pairs.owners()]
        return all(owner.record.state is m.PairState.PAIR for owner in owners)

    async def _settled(self) -> None:
        oracle = self._oracle
        if oracle.broke:
            return
        for plan in self._operator.plans:
            p = oracle.machines[plan.p_machine].image_of(plan.p_volume)
            s = oracle.machines[plan.s_machine].image_of(plan.s_volume)
            if p != s:
                at = laws.first_difference(p, s) or 0
                oracle.broken(
                    "L3", f"'{plan.name}' is in PAIR and differs at byte {at} (block {at // 4096})"
                )
        for machine in oracle.machines.values():
            for owner in machine.node.pairs.owners():
                if len(owner.side.bitmap):
                    oracle.broken(
                        "L3",
                        f"'{owner.record.name}', {owner.record.role}, is in PAIR with "
                        f"{len(owner.side.bitmap)} bits set",
                    )
        images = [
            (self._durable(x, data=True), self._durable(x, data=False))
            for x in oracle.machines.values()
        ]
        await self._verified()
        wrong = laws.not_clear(images)
        if wrong is not None:
            oracle.broken("L3", wrong)
        self._histories()

    async def _verified(self) -> None:
        """A verify of a quiet equal pair reports nothing, and ends."""
        for plan in self._operator.plans:
            await self._operator.verify(plan, repair=False, limited=False)
        await asyncio.sleep(5)
        for machine in self._oracle.machines.values():
            for owner in machine.node.pairs.owners():
                verifier = owner.side.verifier
                if owner.record.role is not m.Role.P_VOL or verifier is None:
                    continue
                info = verifier.info()
                if info.state is not m.VerifyState.ENDED or info.busy_bytes:
                    self._oracle.broken("VERIFY", f"at rest, '{owner.record.name}': {info}")
        self._oracle.look()

    async def _idle(self) -> None:
        for _ in range(60):
            if not self._busy():
                break
            await asyncio.sleep(1)
        else:
            self._oracle.broken("STUCK", f"writes wait for ever in {self._busy()}")

    def _busy(self) -> list[str]:
        """Volumes in which writes are on their way, also such that were answered long ago."""
        volumes = (
            self._oracle.machines[machine].volume(name) for machine, name in self._oracle.volumes
        )
        return [v.name for v in volumes if v is not None and (v._in_flight or v._queue)]

    def _durable(self, machine: Machine, *, data: bool) -> laws.Files:
        disk = machine.disk if data else machine.meta
        return {name: image.durable for name, image in disk.files.items()}

    def _histories(self) -> None:
        oracle = self._oracle
        for plan in self._operator.plans:
            if plan.kind is not m.PairKind.REMOTE:
                continue
            tracked = oracle.volumes[plan.p_machine, plan.p_volume]
            image = oracle.machines[plan.p_machine].image_of(plan.p_volume)
            wrong = tracked.history.wrong_read(image, 0, oracle.tick())
            if wrong is not None:
                oracle.broken("READ", f"at rest, {plan.p_volume}: {wrong}")
