"""The kernel's target, told what to offer: passes over configfs until it is so.

Owns the offers, the one task that changes configfs, and what is wrong with it. Must not know
volumes. Fails with `LioUnavailableError` at the start; later what is wrong stands in `problems`,
is tried again, and never ends the process.

A pass reads the tree, takes over what is served by nobody, plans, carries the plan out, and
serves what is new. There is a pass when something is offered or withdrawn, when the kernel tells
of a device or an address, and every `RESCAN_S`, which mends what others have torn down. Nothing
is planned before `settle`: what isn't offered by then is a leftover.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from targets.lio import probe
from targets.lio.devices import Devices
from targets.lio.events import DeviceEvent, Happening
from targets.lio.layout import TcmuError
from targets.lio.machine import LinuxMachine, Machine
from targets.lio.offered import Offered, Stage
from targets.lio.passes import STEP_WITHIN_S, LioSettings, Passes
from targets.lio.sessions import Seen
from targets.lio.wanted import WantedError
from targets.lio.worker import StuckError, Worker
from targets.lun import LogicalUnit, UnitAttention
from targets.scsi.device import DeviceServer

log = logging.getLogger(__name__)

RESCAN_S = 15.0
RETRY_S = 3.0
READY_WITHIN_S = 10.0
BLOCK_WITHIN_S = 20.0
"""Of a clean stop: until all devices send their initiators waiting."""


class TargetInUseError(Exception):
    """Initiators are logged in; nothing was changed."""


class LioError(Exception):
    """The kernel would not do it; nothing was changed."""


class LioTarget:
    """Offers logical units through the kernel."""

    def __init__(
        self, settings: LioSettings, clock: Callable[[], float], machine: Machine | None = None
    ) -> None:
        """`clock`: seconds, for when an initiator was seen first."""
        self._settings = settings
        self._clock = clock
        self._machine = machine or LinuxMachine()
        self._offers: dict[str, Offered] = {}
        self._worker = Worker()
        self._devices = Devices(self._machine, self._worker, self._wake)
        self._events = self._machine.events(self._heard)
        hosts = [each.host for each in settings.portals]
        self._addresses = self._machine.addresses(hosts, self._wake)
        self._passes = Passes(
            *(settings, self._machine, self._worker, self._devices, self._offers),
            lambda: self._addresses.present,
        )
        self._woken = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._notes: list[str] = []
        self.problems: tuple[str, ...] = ()
        """What is not as it should be, a sentence each."""
        self.changed: Callable[[], None] = lambda: None
        """Called when `problems` are others."""

    async def start(self) -> None:
        """Check the kernel and listen to it; raises `LioUnavailableError`."""
        try:
            check = self._machine.check
            self._notes = await self._worker.run("loading modules", check, STEP_WITHIN_S)
            await self._events.start()
            await self._addresses.start()
        except (StuckError, OSError) as error:
            await self.close()
            raise probe.LioUnavailableError(f"{error}; its reason is in dmesg") from error
        except BaseException:
            await self.close()
            raise

    def add(
        self, iqn: str, name: str, config: str, lu: LogicalUnit, initiators: tuple[str, ...] = ()
    ) -> None:
        """Offer a logical unit, soon; raises `WantedError` for what the kernel can't be asked.

        `initiators`: those that may log in, none: all.
        """
        offered = Offered(iqn, name, config, DeviceServer(lu), initiators)
        offered.backstore()
        offered.target(self._settings.portals, self._settings.chap)
        self._offers[iqn] = offered
        self._wake()

    async def settle(self) -> None:
        """Begin: everything is offered that was made before. Returns behind the first pass."""
        if self._task is None:
            self._task = asyncio.create_task(self._pass_after_pass(), name="lio passes")
        await self.next_pass()

    @property
    def held_up(self) -> tuple[str, ...]:
        """Why initiators can't find all that is offered, a sentence each.

        That this host has none of the addresses is no reason: they may come at any time, or
        never, and everything else is ready for them.
        """
        waiting = [
            each for each in self._offers.values() if each.stage is Stage.OFFERED and not each.up
        ]
        refusals = dict.fromkeys(each.refusal for each in waiting if each.refusal)
        if not waiting or refusals:
            return tuple(refusals)
        if not self._addresses.present and not self._passes.problems:
            return ()
        return self.problems or ("the kernel's target is being set up",)

    def trouble(self, iqn: str) -> str:
        """Why initiators can't find this one now; nothing when they can."""
        offered = self._offers.get(iqn)
        if offered is None or offered.up:
            return ""
        return offered.refusal or "; ".join(self.problems) or "its target is being set up"

    async def ready(self, iqn: str) -> None:
        """Return when initiators can find it, or when that takes too long: see `trouble`.

        Raises `LioError` when the kernel refuses this one.
        """
        offered = self._offers.get(iqn)
        if offered is None or self._task is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                while not offered.up:
                    await self.next_pass()
                    if offered.refusal:
                        raise LioError(offered.refusal)
                    if self.problems and not offered.up:
                        return

    async def remove(self, iqn: str, *, force: bool) -> None:
        """Withdraw it and make the kernel forget it; one that isn't offered is fine.

        Raises `TargetInUseError` when initiators are logged in and `force` is not set,
        `LioError` when the kernel would not let it go.
        """
        offered = self._offers.get(iqn)
        if offered is None:
            return
        if not force and self.sessions(iqn):
            raise TargetInUseError(iqn)
        offered.stage = Stage.LEAVING
        if self._task is not None:
            offered.up = True  # until a pass has seen that it isn't
            await self.next_pass()
            if offered.up:
                self._back(offered)
                raise LioError("; ".join(self.problems) or f"{iqn} is still there")
        try:
            await self._devices.release(offered)
        except TcmuError as error:
            offered.lost = True
            self._back(offered)
            raise LioError(str(error)) from error
        offered.stage = Stage.GONE
        if self._task is not None:
            await self.next_pass()
        self._offers.pop(iqn, None)

    def _back(self, offered: Offered) -> None:
        """It could not be withdrawn, so it is offered again."""
        offered.stage = Stage.OFFERED
        self._wake()

    def sessions(self, iqn: str) -> list[Seen]:
        """The initiators that are logged in now; of each its latest session.

        Asked of the kernel at each call: this decides whether data may be replaced.
        """
        offered = self._offers.get(iqn)
        if offered is None:
            return []
        # A folder that is being removed makes whoever looks into it wait for that.
        if offered.stage is Stage.OFFERED and not offered.being_cut:
            offered.note(self._machine.sessions(offered.group_path), self._clock())
        return list(offered.seen.values())

    def cut_off_by(self, iqn: str, initiators: tuple[str, ...]) -> list[Seen]:
        """Those that are logged in now and won't be behind `allow`."""
        self.sessions(iqn)
        offered = self._offers.get(iqn)
        return [] if offered is None else offered.cut_off_by(initiators)

    async def allow(self, iqn: str, initiators: tuple[str, ...]) -> None:
        """Let these in from now on, or all when there are none; ends the sessions of others.

        Raises `WantedError` for a name that the kernel can't be asked for, `LioError` when it has
        not done it yet. It will be asked again.
        """
        offered = self._offers.get(iqn)
        if offered is None:
            return
        before, offered.initiators = offered.initiators, initiators
        try:
            offered.target(self._settings.portals, self._settings.chap)
        except WantedError:
            offered.initiators = before
            raise
        if self._task is None:
            return
        await self.next_pass()
        if offered.being_cut or not self._has_list(offered):
            raise LioError("; ".join(self.problems) or f"{iqn} has another list still")

    def _has_list(self, offered: Offered) -> bool:
        found = set(self._machine.sessions(offered.group_path).acls)
        return not offered.initiators or found == set(offered.initiators)

    def lost_writes(self, iqn: str) -> bool:
        """Whether writes are refused behind a power loss, until an initiator looks anew."""
        offered = self._offers.get(iqn)
        return offered is not None and any(
            nexus.lost_writes for nexus in offered.server.unit.nexuses
        )

    def attention(self, iqn: str, attention: UnitAttention) -> None:
        """Tell initiators that something changed, each of them soon.

        The kernel tells all of them the same, whatever changed; the first that sends a command
        then hears what it was, too (see `RingDevice`).
        """
        offered = self._offers.get(iqn)
        if offered is not None:
            offered.attention(attention)
            self._wake()

    def size_changed(self) -> None:
        """A logical unit has grown: the kernel is told, then initiators are."""
        self._wake()

    async def rest(self) -> None:
        """Before a clean stop: initiators wait, and nothing is under way on return.

        Takes `BLOCK_WITHIN_S` and the time of a drain at most, whatever the kernel and disks do.
        """
        await self._stop_passes()
        try:
            async with asyncio.timeout(BLOCK_WITHIN_S):
                await self._block_all()
        except TimeoutError:
            log.warning("not all initiators are sent waiting: the kernel takes too long")
        except (StuckError, OSError) as error:
            log.warning("not all initiators are sent waiting: %s", error)
        await asyncio.gather(*map(self._devices.drain, self._offers.values()))

    async def _block_all(self) -> None:
        served = {each.name: each for each in self._offers.values() if each.serving is not None}
        for found in await self._passes.devices():
            offered = served.get(found.name)
            if offered is None:
                continue
            try:
                await self._devices.block(found.path)
            except OSError as error:
                log.warning("target %s: is not blocked: %s", offered.iqn, error)

    async def close(self) -> None:
        """Let go of everything; the kernel's configuration stays as it is."""
        await self._stop_passes()
        await asyncio.gather(*map(self._devices.drain, self._offers.values()))
        await self._events.close()
        await self._addresses.close()
        self._worker.close()

    # ------------------------------------------------------------ the task

    def _wake(self) -> None:
        self._woken.set()

    def _heard(self, event: DeviceEvent | None) -> None:
        prefix = self._settings.owner.backstore_prefix
        if event is not None and f"/{prefix}" not in event.device:
            return
        if event is None or event.happening is Happening.REMOVED:
            for offered in self._offers.values():
                if offered.serving is not None:
                    offered.serving.look()
        self._wake()

    async def next_pass(self) -> None:
        """Return at the end of a pass that began after this call."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake()
        await waiter

    async def _stop_passes(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._answer(self._waiters)

    @staticmethod
    def _answer(waiters: list[asyncio.Future[None]]) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def _pass_after_pass(self) -> None:
        passes = self._passes
        while True:
            pause_s = RETRY_S if passes.problems else RESCAN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            self._woken.clear()
            waiters, self._waiters = self._waiters, []
            try:
                await passes.run()
            except (StuckError, OSError, TcmuError) as error:
                passes.problems.append(str(error) if ";" in str(error) else f"{error}; see dmesg")
            except Exception:
                log.exception("a pass over configfs failed")
                passes.problems.append("a pass over the kernel's target failed; see the log")
            finally:
                self._tell()
                self._answer(waiters)

    def _tell(self) -> None:
        problems = (*self._passes.problems, *self._notes, *self._missing_portals())
        if problems == self.problems:
            return
        for each in problems:
            if each not in self.problems:
                log.warning("kernel's target: %s", each)
        if not problems:
            log.info("kernel's target: all is as it should be")
        self.problems = problems
        self.changed()

    def _missing_portals(self) -> list[str]:
        return [
            f"portal {each.name}: this host has no such address now; add it, or change "
            "[target] listen"
            for each in self._settings.portals
            if each.host not in self._addresses.present
        ]
