"""One pass over the kernel's target: read, let go, plan, serve, carry out, judge.

Owns the order, and what a pass found to be wrong. A shell. Must not decide when there is a pass,
nor keep anything from one to the next but what stands in the offers. Fails with `StuckError`,
OSError and `TcmuError`; the next pass begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from targets.lio.addresses import listening_error
from targets.lio.attentions import grown
from targets.lio.configfs import Kind, Operation
from targets.lio.devices import Devices
from targets.lio.layout import TcmuError
from targets.lio.machine import Machine
from targets.lio.offered import Found, Offered, Stage, bound_portals, our_devices, wanted_of
from targets.lio.plan import plan
from targets.lio.refusals import blocked_by, explain, portal_of
from targets.lio.uio import UioBusyError
from targets.lio.wanted import Chap, Ownership, Portal
from targets.lio.worker import StuckError, Worker
from targets.lun import UnitAttention

log = logging.getLogger(__name__)

STEP_WITHIN_S = 90.0
"""A step may wait for commands that are out, so this is longer than CMD_TIME_OUT_S."""


@dataclass(frozen=True, slots=True)
class LioSettings:
    """What is the same for all targets."""

    owner: Ownership
    portals: tuple[Portal, ...]
    chap: Chap | None = None


class Passes:
    """Makes passes, one at a time."""

    def __init__(
        self,
        settings: LioSettings,
        machine: Machine,
        worker: Worker,
        devices: Devices,
        offers: Mapping[str, Offered],
        present: Callable[[], frozenset[str]],
    ) -> None:
        """`present`: which of the portals' addresses this machine has now."""
        self._settings = settings
        self._machine = machine
        self._worker = worker
        self._devices = devices
        self._offers = offers
        self._present = present
        self.problems: list[str] = []
        """What the last one found, a sentence each; also when it was not finished."""

    async def run(self) -> None:
        """Make the kernel's configuration what is offered, as far as it goes."""
        self.problems = []
        settings, machine = self._settings, self._machine
        await self._release_lost()
        read = partial(machine.read, settings.owner)
        tree = await self._worker.run("reading configfs", read, STEP_WITHIN_S)
        portals = bound_portals(settings.portals, self._present(), tree, settings.owner)
        made = plan(wanted_of(self._offers.values(), settings.owner, portals, settings.chap), tree)
        self.problems += made.obstacles
        refused = dict(made.held)
        self._note_cuts(made.operations)
        await self._serve_all(made.held)
        steps = made.operations
        cut = max(
            (n + 1 for n, each in enumerate(steps) if each.path.startswith("core/")), default=0
        )
        await self._carry_out(steps[:cut], refused)
        if cut:
            # What is new is served before its target is shown.
            await self._serve_all(made.held)
        for each in self._offers.values():
            if each.serving is None and each.stage is Stage.OFFERED:
                refused.setdefault(each.target_path, "")
        await self._carry_out(steps[cut:], refused)
        self._note_cuts(())
        larger = grown(steps, refused)
        for offered in self._offers.values():
            if offered.name in larger:
                offered.attention(UnitAttention.CAPACITY_CHANGED)
            _judge(offered, refused, portals)
        await self._raise_attentions()
        if steps:
            log.info("kernel's target: %d steps", len(steps))

    def _note_cuts(self, steps: tuple[Operation, ...]) -> None:
        """Of which targets a part is to be removed. It stays so where a step never comes back."""
        kinds = (Kind.REMOVE, Kind.UNLINK)
        cut = {"/".join(each.path.split("/")[:2]) for each in steps if each.kind in kinds}
        for offered in self._offers.values():
            offered.being_cut = offered.target_path in cut

    async def devices(self) -> list[Found]:
        """All that are ours, offered or not."""
        look = self._machine.uio_names
        names = await self._worker.run("looking for uio devices", look, STEP_WITHIN_S)
        return our_devices(names, self._settings.owner)

    async def _release_lost(self) -> None:
        for offered in list(self._offers.values()):
            if offered.lost:
                try:
                    await self._devices.release(offered)
                except TcmuError as error:
                    self.problems.append(str(error))

    async def _serve_all(self, held: Mapping[str, str]) -> None:
        """Serve what is there and served by nobody; free what nobody will serve.

        Raises `UioBusyError` when another process serves one of ours.
        """
        offers = {(each.name, each.config): each for each in self._offers.values()}
        for found in await self.devices():
            offered = offers.get((found.name, found.config))
            try:
                if offered is None:
                    if found.path not in held:
                        await self._devices.free(found)
                elif offered.serving is None and offered.stage is not Stage.GONE:
                    await self._devices.serve(offered, found)
                elif offered.serving is not None and not offered.lost:
                    await self._devices.unblock(offered, found)
            except UioBusyError:
                raise  # another process is at what is ours: it decides
            except (TcmuError, OSError) as error:
                self.problems.append(f"{found.path} can't be served: {error}")

    async def _carry_out(self, steps: tuple[Operation, ...], refused: dict[str, str]) -> None:
        """Take the steps, except beneath what was refused."""
        for step in steps:
            if any(step.path == path or step.path.startswith(f"{path}/") for path in refused):
                continue
            if _enables_nothing(step, refused, self._settings.portals):
                continue
            call = partial(self._machine.carry_out, step)
            try:
                await self._worker.run(repr(step), call, STEP_WITHIN_S)
            except OSError as error:
                portal = portal_of(step)
                if portal is not None:
                    error = listening_error(portal) or error
                refused[blocked_by(step)] = explain(step, error)
                self.problems.append(explain(step, error))

    async def _raise_attentions(self) -> None:
        for offered in list(self._offers.values()):
            if not offered.attention_due or offered.stage is not Stage.OFFERED:
                continue
            call = partial(self._machine.raise_attentions, offered.lun_path)
            offered.attention_due = False  # another change may come meanwhile
            try:
                await self._worker.run(f"telling the hosts of {offered.iqn}", call, STEP_WITHIN_S)
            except StuckError:
                offered.attention_due = True
                raise
            except OSError as error:
                offered.attention_due = True
                self.problems.append(
                    f"only one host of {offered.iqn} can be told of its change "
                    f"({error.strerror}); rescan on the others"
                )


def _enables_nothing(
    step: Operation, refused: Mapping[str, str], portals: tuple[Portal, ...]
) -> bool:
    """A portal group that got none of its portals stays off: that is all that is wrong with it."""
    group, _, name = step.path.rpartition("/")
    return (
        group.startswith("iscsi/")
        and (name, step.value) == ("enable", "1")
        and any(path.startswith(f"{group}/np/") for path in refused)
        and all(f"{group}/np/{each.name}" in refused for each in portals)
    )


def _judge(offered: Offered, refused: Mapping[str, str], portals: tuple[Portal, ...]) -> None:
    """Whether initiators can find it, and why not."""
    if offered.stage is not Stage.OFFERED:
        offered.up = offered.target_path in refused
        return
    offered.refusal = next((why for path, why in refused.items() if offered.stands_on(path)), "")
    shown = any(offered.portal_path(each) not in refused for each in portals)
    offered.up = shown and not offered.blocked and not any(map(offered.stands_on, refused))
