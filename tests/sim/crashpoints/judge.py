"""What must be true at a crash point, besides what the oracle sees.

Owns three judgements: crash images on paper (L1) of every combination of what the four disks
keep; that what hosts can see is one instant of what was written (L7, L11); and that what a flush
promised is on the mirror as well (L5). Reads controllers and images, never changes them.
"""

from __future__ import annotations

import itertools
from random import Random
from typing import TYPE_CHECKING

from controller.api.messages import PairKind, PairState, Role
from targets.lun import Access
from tests.sim import laws
from tests.sim.disk import CRASH_MODES, CrashMode
from tests.sim.history import History
from tests.sim.operator import PairPlan, turned

if TYPE_CHECKING:
    from tests.sim.crashpoints.world import CrashAt, World

SIZE_BYTES = 64 << 10
DRAWN_IMAGES = 4
"""Crash images a boundary with a mode drawn for each disk, beside all of keep and drop."""


class Judge:
    """Says what is wrong, through the oracle."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._archives = (History(SIZE_BYTES), History(SIZE_BYTES))
        self.two_writers = False
        """Hosts wrote to two volumes: no single order of writes explains both."""
        self.splits: list[tuple[PairPlan, int, str, str]] = []
        """Splits without an answer: the plan, when it began, and what holds the instant."""
        self._mirrors: list[PairPlan] = []

    def archive_of(self, volume: str) -> History:
        """Everything hosts wrote to the data set that a volume belongs to."""
        return self._archives[volume.endswith("2")]

    # ------------------------------------------------------------ on paper

    def paper(self, when: str, seed: int) -> int:
        """Law L1, were all machines to lose power now; how many images were judged."""
        rng = Random(seed)
        machines = list(self._world.oracle.machines.values())
        both: tuple[CrashMode, ...] = ("keep", "drop")
        choices = list(itertools.product(both, repeat=2 * len(machines)))
        choices += [
            tuple(rng.choice(CRASH_MODES) for _ in range(2 * len(machines)))
            for _ in range(DRAWN_IMAGES)
        ]
        for modes in choices:
            images: list[tuple[laws.Files, laws.Files]] = [
                (
                    machine.disk.after_crash(rng, modes[2 * index]),
                    machine.meta.after_crash(rng, modes[2 * index + 1]),
                )
                for index, machine in enumerate(machines)
            ]
            shown = ", ".join(modes)
            self._world.oracle.check_cover(images, f"all power lost at {when} ({shown})")
        return len(choices)

    # ------------------------------------------------------------ at the crash

    def before_crash(self, crash: CrashAt) -> None:
        """Which pairs mirror in this very step."""
        plans = self._world.plans
        self._mirrors = [p for p in (*plans, *map(turned, plans)) if self._mirroring(p)]

    def _mirroring(self, plan: PairPlan) -> bool:
        machines = self._world.oracle.machines
        source, target = machines[plan.p_machine], machines[plan.s_machine]
        if not (source.up and target.up) or source is target:
            return False
        leads = any(
            owner.record.name == plan.name
            and owner.record.state is PairState.PAIR
            and owner.side.mirroring
            for owner in source.node.pairs.of_volume(plan.p_volume)
        )
        return leads and any(
            owner.record.name == plan.name and owner.side.sinking
            for owner in target.node.pairs.of_volume(plan.s_volume)
        )

    def after_crash(self) -> None:
        """Law L1 over what is left, and L5 on the mirror: a flush is one of both sides."""
        world = self._world
        images: list[tuple[laws.Files, laws.Files]] = [
            (
                {name: image.live for name, image in machine.disk.files.items()},
                {name: image.live for name, image in machine.meta.files.items()},
            )
            for machine in world.oracle.machines.values()
        ]
        world.oracle.check_cover(images, "after the crash")
        for plan in self._mirrors:
            source = world.oracle.volumes[plan.p_machine, plan.p_volume]
            image = world.oracle.machines[plan.s_machine].image_of(plan.s_volume)
            wrong = source.history.wrong_after_crash(image)
            # A restart settles the source's own history: its disk kept what nobody had flushed.
            if (
                wrong is not None
                and self.archive_of(plan.s_volume).wrong_after_crash(image) is not None
            ):
                world.oracle.broken(
                    "L5", f"{plan.s_volume} mirrors {plan.p_volume} and lacks flushed data: {wrong}"
                )

    # ------------------------------------------------------------ what hosts can see

    def survivors(self) -> None:
        """Before the power is back: whole instants only, also of a split without an answer."""
        world = self._world
        assert world.crash is not None
        self._splits()
        for machine in world.oracle.machines.values():
            if machine.up and machine.name not in world.crash.victims:
                self._exported(machine.name)

    def restarted(self) -> None:
        """After it: where nothing was lost, what is shown is still an instant."""
        world = self._world
        assert world.crash is not None
        if world.crash.mode == "keep":
            for machine in world.oracle.machines.values():
                if machine.up:
                    self._exported(machine.name)

    def _exported(self, name: str) -> None:
        world = self._world
        if self.two_writers:
            return
        machine = world.oracle.machines[name]
        for where, volume in world.oracle.volumes:
            served = machine.volume(volume) if where == name else None
            if served is None or served.access is Access.NOT_READY:
                continue
            image = machine.image_of(volume)
            wrong = self.archive_of(volume).wrong_instant(image, -1, world.oracle.tick())
            if wrong is not None:
                roles = [
                    f"{owner.record.name} {owner.record.role} {owner.record.state}"
                    for owner in machine.node.pairs.of_volume(volume)
                ]
                world.oracle.broken(
                    "L7",
                    f"{name}/{volume} is {served.access.value} to hosts and no instant of what "
                    f"was written ({', '.join(roles)}): {wrong}",
                )

    def _splits(self) -> None:
        """Law L11 for a split that was under way when the power went."""
        world = self._world
        for plan, began, machine, volume in self.splits:
            frozen = world.oracle.volumes[machine, volume].frozen
            if frozen is None:
                continue
            wrong = self.archive_of(volume).wrong_instant(frozen, began, world.oracle.tick())
            if wrong is not None:
                world.oracle.broken(
                    "L11",
                    f"{machine}/{volume}, split of '{plan.name}' that was cut off, is no "
                    f"instant of {plan.p_volume}: {wrong}",
                )

    # ------------------------------------------------------------ at rest

    def at_rest(self) -> None:
        """Everything is in PAIR: hosts see all of it but the S-VOLs, which are read-only."""
        world = self._world
        if world.oracle.broke:
            return
        for plan in world.plans:
            for where, volume, role in (
                (plan.p_machine, plan.p_volume, Role.P_VOL),
                (plan.s_machine, plan.s_volume, Role.S_VOL),
            ):
                served = world.oracle.machines[where].volume(volume)
                assert served is not None
                follows = role is Role.S_VOL or plan.kind is PairKind.LOCAL
                expected = Access.READ_ONLY if follows else Access.READ_WRITE
                if served.access is not expected:
                    world.oracle.broken(
                        "ACCESS",
                        f"at rest, {where}/{volume} is {served.access.value}, not {expected.value}",
                    )
