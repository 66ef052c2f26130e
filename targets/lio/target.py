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
from dataclasses import dataclass
from functools import partial

from targets.lio import probe
from targets.lio.addresses import AddressWatch, listening_error
from targets.lio.attentions import grown, raise_at_all
from targets.lio.configfs import Folder, Operation
from targets.lio.devices import Devices
from targets.lio.events import DeviceEvent, DeviceEvents, Happening
from targets.lio.layout import TcmuError
from targets.lio.offered import (
    ATTRIBUTES,
    Found,
    Offered,
    Stage,
    bound_portals,
    our_devices,
    parse_sessions,
    wanted_of,
)
from targets.lio.plan import plan
from targets.lio.refusals import blocked_by, explain, portal_of
from targets.lio.tree import CONFIGFS_TARGET, carry_out, read_tree
from targets.lio.uio import UioBusyError, uio_names
from targets.lio.wanted import Chap, Ownership, Portal
from targets.lio.worker import StuckError, Worker
from targets.lun import LogicalUnit, UnitAttention
from targets.scsi.device import DeviceServer

log = logging.getLogger(__name__)

RESCAN_S = 15.0
RETRY_S = 3.0
STEP_WITHIN_S = 90.0
"""A step may wait for commands that are out, so this is longer than CMD_TIME_OUT_S."""
READY_WITHIN_S = 10.0


class TargetInUseError(Exception):
    """Initiators are logged in; nothing was changed."""


class LioError(Exception):
    """The kernel would not do it; nothing was changed."""


@dataclass(frozen=True, slots=True)
class LioSettings:
    """What is the same for all targets."""

    owner: Ownership
    portals: tuple[Portal, ...]
    chap: Chap | None = None


class LioTarget:
    """Offers logical units through the kernel."""

    def __init__(self, settings: LioSettings, clock: Callable[[], float]) -> None:
        """`clock`: seconds, for when an initiator was seen first."""
        self._settings = settings
        self._clock = clock
        self._root = CONFIGFS_TARGET
        self._offers: dict[str, Offered] = {}
        self._worker = Worker()
        self._devices = Devices(self._root, self._worker, self._wake)
        self._events = DeviceEvents(self._heard)
        self._addresses = AddressWatch((each.host for each in settings.portals), self._wake)
        self._woken = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._notes: list[str] = []
        self._found: list[str] = []
        self.problems: tuple[str, ...] = ()
        """What is not as it should be, a sentence each."""
        self.changed: Callable[[], None] = lambda: None
        """Called when `problems` are others."""

    async def start(self) -> None:
        """Check the kernel and listen to it; raises `LioUnavailableError`."""
        try:
            self._notes = await self._worker.run("loading modules", probe.check, STEP_WITHIN_S)
            await self._events.start()
            await self._addresses.start()
        except (StuckError, OSError) as error:
            await self.close()
            raise probe.LioUnavailableError(f"{error}; its reason is in dmesg") from error
        except BaseException:
            await self.close()
            raise

    def add(self, iqn: str, name: str, config: str, lu: LogicalUnit) -> None:
        """Offer a logical unit, soon; raises `WantedError` for what the kernel can't be asked."""
        offered = Offered(iqn, name, config, DeviceServer(lu))
        offered.backstore()
        offered.target(self._settings.portals, self._settings.chap)
        self._offers[iqn] = offered
        self._wake()

    async def settle(self) -> None:
        """Begin: everything is offered that was made before. Returns when it is, or can't be."""
        if self._task is None:
            self._task = asyncio.create_task(self._passes(), name="lio passes")
        await self._next_pass()

    async def ready(self, iqn: str) -> None:
        """Return when initiators can find it, or after `READY_WITHIN_S`."""
        offered = self._offers.get(iqn)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                while self._task is not None and offered is not None and not offered.up:
                    await self._next_pass()
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
            await self._next_pass()
            if offered.up:
                offered.stage = Stage.OFFERED
                self._wake()
                raise LioError("; ".join(self.problems) or f"{iqn} is still there")
        await self._devices.release(offered)
        offered.stage = Stage.GONE
        if self._task is not None:
            await self._next_pass()
        self._offers.pop(iqn, None)

    def sessions(self, iqn: str) -> dict[str, float]:
        """The initiators that are logged in now, each with when it was seen first.

        Asked of the kernel at each call: this decides whether data may be replaced.
        """
        offered = self._offers.get(iqn)
        if offered is None:
            return {}
        try:
            names = parse_sessions((self._root / offered.sessions_path).read_text())
        except FileNotFoundError:
            names = []
        now = self._clock()
        offered.since = {name: offered.since.get(name, now) for name in names}
        return offered.since

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
        """Before a clean stop: initiators wait, and nothing is under way on return."""
        await self._stop_passes()
        found = {each.name: each.path for each in await self._our_devices()}
        for offered in self._offers.values():
            path = found.get(offered.name)
            try:
                if path is not None:
                    await self._devices.block(offered, path)
                else:
                    await self._devices.release(offered)
            except (StuckError, OSError) as error:
                log.warning("%s is not blocked: %s", offered.iqn, error)

    async def close(self) -> None:
        """Let go of everything; the kernel's configuration stays as it is."""
        await self._stop_passes()
        for offered in self._offers.values():
            await self._devices.release(offered)
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

    async def _next_pass(self) -> None:
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

    async def _passes(self) -> None:
        while True:
            pause_s = RETRY_S if self._found else RESCAN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            self._woken.clear()
            waiters, self._waiters = self._waiters, []
            self._found = []
            try:
                await self._pass()
            except (StuckError, OSError, TcmuError) as error:
                self._found.append(str(error) if ";" in str(error) else f"{error}; look at dmesg")
            except Exception:
                log.exception("a pass over configfs failed")
                self._found.append("a pass over the kernel's target failed; see the log")
            finally:
                self._tell()
                self._answer(waiters)

    def _tell(self) -> None:
        problems = tuple(self._found + self._notes + self._missing_portals())
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

    # ------------------------------------------------------------ one pass

    async def _pass(self) -> None:
        await self._release_lost()
        tree = await self._read()
        await self._serve_all()
        settings = self._settings
        portals = bound_portals(settings.portals, self._addresses.present, tree, settings.owner)
        wanted = wanted_of(self._offers.values(), settings.owner, portals, settings.chap)
        made = plan(wanted, tree)
        self._found += made.obstacles
        steps = made.operations
        cut = max(
            (n + 1 for n, each in enumerate(steps) if each.path.startswith("core/")), default=0
        )
        refused: set[str] = set()
        await self._carry_out(steps[:cut], refused)
        if cut:
            # What is new is served before its target is shown.
            await self._serve_all()
        refused |= {
            each.target_path
            for each in self._offers.values()
            if each.serving is None and each.stage is Stage.OFFERED
        }
        await self._carry_out(steps[cut:], refused)
        larger = grown(steps, refused)
        for offered in self._offers.values():
            if offered.name in larger:
                offered.attention(UnitAttention.CAPACITY_CHANGED)
            there = offered.target_path not in refused
            offered.up = there if offered.stage is Stage.OFFERED else not there
        await self._raise_attentions()
        if steps:
            log.info("kernel's target: %d steps", len(steps))

    async def _raise_attentions(self) -> None:
        for offered in list(self._offers.values()):
            if not offered.attention_due or offered.stage is not Stage.OFFERED:
                continue
            call = partial(raise_at_all, self._root, offered.lun_path)
            offered.attention_due = False  # another change may come meanwhile
            try:
                await self._worker.run(f"telling the hosts of {offered.iqn}", call, STEP_WITHIN_S)
            except StuckError:
                offered.attention_due = True
                raise
            except OSError as error:
                offered.attention_due = True
                self._found.append(
                    f"only one host of {offered.iqn} can be told of its change "
                    f"({error.strerror}); rescan on the others"
                )

    async def _read(self) -> Folder:
        owner = self._settings.owner
        read = partial(read_tree, self._root, owner, tuple(ATTRIBUTES))
        return await self._worker.run("reading configfs", read, STEP_WITHIN_S)

    async def _our_devices(self) -> list[Found]:
        names = await self._worker.run("looking for uio devices", uio_names, STEP_WITHIN_S)
        return our_devices(names, self._settings.owner)

    async def _release_lost(self) -> None:
        for offered in list(self._offers.values()):
            if offered.lost:
                await self._devices.release(offered)

    async def _serve_all(self) -> None:
        """Serve what is there and served by nobody; free what nobody will serve.

        Raises `UioBusyError` when another process serves one of ours.
        """
        offers = {(each.name, each.config): each for each in self._offers.values()}
        for found in await self._our_devices():
            offered = offers.get((found.name, found.config))
            try:
                if offered is None:
                    await self._devices.free(found)
                elif offered.serving is None and offered.stage is not Stage.GONE:
                    await self._devices.serve(offered, found)
            except UioBusyError:
                raise  # another process is at what is ours: it decides
            except (TcmuError, OSError) as error:
                self._found.append(f"{found.path} can't be served: {error}")

    async def _carry_out(self, steps: tuple[Operation, ...], refused: set[str]) -> None:
        """Take the steps, except beneath what was refused."""
        for step in steps:
            if any(step.path == path or step.path.startswith(f"{path}/") for path in refused):
                continue
            call = partial(carry_out, self._root, step)
            try:
                await self._worker.run(repr(step), call, STEP_WITHIN_S)
            except OSError as error:
                refused.add(blocked_by(step))
                portal = portal_of(step)
                if portal is not None:
                    error = listening_error(portal) or error
                self._found.append(explain(step, error))
