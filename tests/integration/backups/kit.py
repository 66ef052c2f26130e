"""One agent's job engine, in front of real controllers with real files; the test is host 1.

Owns a first volume that is held by a host, or released for a job, and the ways to die: at a
chosen moment the agent stands still, and the next life goes on from its records. Mounts have no
part in these jobs.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import JobKind
from controller.api.verbs import VERBS
from controller.link.transport import Peer
from hostagent.config import BackupSlot, DataSetConfig
from hostagent.copying.walk import Found, Listed
from hostagent.errors import HostError
from hostagent.jobs.backup import BACKUP
from hostagent.jobs.engine import JobEngine
from hostagent.jobs.group_backup import GROUP_BACKUP
from hostagent.jobs.group_restore import GROUP_RESTORE
from hostagent.jobs.ports import Ports
from hostagent.jobs.restore import RESTORE
from hostagent.jobs.steps import JobTable, StepWork
from hostagent.jobs.whole import WHOLE
from hostagent.programs import Blocking
from hostagent.records import RecordStore
from tests.rig import Running, chain, linked, start_node, two_nodes, write

S = m.PairState
BLOCK = 4096
BLOCKS = 256
SIZE = BLOCKS * BLOCK
NEVER: Callable[[str], bool] = lambda _: False  # noqa: E731


def data_set(*slots: tuple[str, str]) -> DataSetConfig:
    """The data set of `chain`, with these volumes and pairs for backups."""
    return DataSetConfig(
        name="ds",
        part="host1",
        filesystem="ext4",
        primary="a",
        first="first",
        remote_pair="remote",
        secondary="b",
        second="second",
        backup=[BackupSlot(volume=volume, pair=pair) for volume, pair in slots],
        host1="h1",
        host2="h2",
        mountpoint=Path("/srv/ds"),
        freeze_ttl_s=7.5,
    )


class Clock:
    """The test's clock: it goes on when a job waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s + 1.7e9


class Files:
    """Host 2's mounts and files, as far as these jobs ask for them."""

    def __init__(self) -> None:
        self.mounted: set[str] = set()
        self.nothing_else = True
        """Whether the named files are all there is on the second volume."""
        self.looked = 0

    async def mount(self, key: str, _address: object, _data_set: object) -> Path:
        self.mounted.add(key)
        return Path("/nowhere") / key

    async def unmount(self, key: str) -> None:
        self.mounted.discard(key)

    async def find(self, _view: Path, _asked: object, _work: object) -> Found:
        return Found([Listed("a", "file", 10)], [], 10, 1, ["a"])

    async def all_of_backup(self, _view: Path, _names: list[str]) -> bool:
        return True

    async def all_there_is(self, *_: object) -> bool:
        self.looked += 1
        assert {key.partition("-")[0] for key in self.mounted} == {"view", "second"}
        return self.nothing_else

    async def batches(self, *_: object) -> AsyncIterator[Any]:
        """What is in the backup, for comparing it with what host 1 has: nothing."""
        nothing: list[Any] = []
        for batch in nothing:
            yield batch

    async def compare(self, *_: object) -> object:
        raise HostError("files are another test's")


class Rig:
    """Everything a job reaches."""

    def __init__(self, a: Running, b: Running, config: DataSetConfig, directory: Path) -> None:
        self.a, self.b, self.config, self.directory = a, b, config, directory
        self.members = [config]
        self.clock = Clock()
        self.frozen = False
        self.at_mark: bytes | None = None
        """The first volume while the file system stood still."""
        self.released_for = ""
        self.kill_at = NEVER
        self.died = asyncio.Event()
        self.lives = 0
        self.states: list[m.JobInfo] = []
        self.calls: list[tuple[str, m.Params]] = []
        self.meanwhile: dict[str, Callable[[], Awaitable[None]]] = {}
        """Moment to what somebody else does then, once."""
        self.faults: dict[str, list[RejectedError]] = {}
        self._replies: dict[str, m.Info | RejectedError] = {}
        self.files = Files()
        self.blocking = Blocking(2)
        a.logged_in("first", "iqn.h1")

    # -- dying

    async def moment(self, what: str) -> None:
        if what in self.meanwhile:
            await self.meanwhile.pop(what)()
        if self.kill_at(what):
            self.died.set()
            # Dead: nothing of this life goes on, until its engine is thrown away.
            await asyncio.Event().wait()

    # -- nodes

    async def restart_secondary(self) -> None:
        """Stop the secondary and start it again; both controllers find each other again."""
        directory, port = self.b.directory, self.b.node.link_port
        await self.b.stop()
        self.b = await start_node(directory, "b", [Peer("a", "127.0.0.1", 1)], port=port)
        await linked(self.a, self.b)

    async def call(self, node: str, verb: str, params: m.Params, request_id: str | None) -> m.Info:
        await self.moment(f"before {verb}")
        if request_id is not None and request_id in self._replies:
            known = self._replies[request_id]
        else:
            known = await self._carry_out(node, verb, params)
            if request_id is not None:
                self._replies[request_id] = known
        await self.moment(f"after {verb}")
        if isinstance(known, RejectedError):
            raise known
        return known

    async def _carry_out(self, node: str, verb: str, params: m.Params) -> m.Info | RejectedError:
        self.calls.append((verb, params))
        try:
            if self.faults.get(verb):
                raise self.faults[verb].pop(0)
            if node == "h1":
                return self._host1(verb, params)
            outcome = await {"a": self.a, "b": self.b}[node].do(verb, params)
        except RejectedError as exc:
            return exc
        if outcome.result is None:
            # As a client has it: for who wants to see it, it is missing.
            return RejectedError(Code.NOT_FOUND, outcome.message)
        return outcome.result

    def _host1(self, verb: str, params: Any) -> m.Info:
        if verb == "fs.release":
            if self.released_for not in ("", params.job):
                raise RejectedError(Code.IN_USE, "released for another job")
            self.released_for = params.job
            self.a.logged_in("first")
        elif verb == "fs.reclaim":
            assert self.a.pair("remote").state is not S.RCPY, "not while it is being replaced"
            self.released_for = ""
            self.a.logged_in("first", "iqn.h1")
        else:
            # Databases: this host has none.
            answer: Any = VERBS[verb].result
            return cast("m.Info", answer(data_set="ds"))
        mounted = not self.released_for
        return m.HostFs(data_set="ds", mounted=mounted, frozen=False, mountpoint="/srv/ds")

    # -- host 1

    async def freeze(self, wanted: dict[str, float]) -> dict[str, list[Any]]:
        assert wanted == {"ds": 7.5}, "as it is configured"
        self.frozen = True
        self.at_mark = self.a.image("first")
        await self.moment("after freeze")
        return {"ds": []}

    async def still_frozen(self, _data_set: str) -> bool:
        return self.frozen

    async def thaw(self, _data_set: str) -> float:
        was, self.frozen = self.frozen, False
        return 0.5 if was else 0.0

    def guard_thaws(self) -> None:
        """What it does when the agent dies."""
        self.frozen = False

    async def pause(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await asyncio.sleep(0.002)

    async def fill(self, first: int, count: int, mark: str) -> None:
        """Be host 1: write blocks that say `mark`."""
        assert not self.released_for
        data = mark.encode().ljust(16, b".") * (BLOCK // 16)
        for block in range(first, first + count):
            await write(self.a.volume("first"), block * BLOCK, data)

    # -- jobs

    def engine(self) -> JobEngine:
        self.lives += 1
        self.died = asyncio.Event()
        tables = {
            JobKind.BACKUP: self._watched(BACKUP),
            JobKind.GROUP_BACKUP: self._watched(GROUP_BACKUP),
            JobKind.WHOLE: self._watched(WHOLE),
            JobKind.GROUP_RESTORE: self._watched(GROUP_RESTORE),
            JobKind.RESTORE: self._watched(RESTORE),
        }
        ours: dict[str, Any] = {
            "nodes": self,
            "host": self.files,
            "first": self,
            "clock": self.clock,
            "publish": self.states.append,
            "pause": self.pause,
            "forget": lambda _: None,
        }
        # What isn't ours has no part in these jobs.
        values: dict[str, Any] = {
            each.name: ours.get(each.name) for each in dataclasses.fields(Ports)
        }
        ports = Ports(**values)
        return JobEngine("h2", tables, RecordStore(self.directory), self.blocking, ports)

    def _watched(self, table: JobTable) -> JobTable:
        return JobTable(
            tuple(
                dataclasses.replace(
                    step,
                    run=self._around(f"step {step.name}", step.run),
                    undo=step.undo and self._around(f"undo {step.name}", step.undo),
                )
                for step in table.steps
            ),
            table.ahead_of_undo,
        )

    def _around(self, name: str, work: StepWork) -> StepWork:
        async def watched(context: Any) -> None:
            await self.moment(f"{name} begins")
            await work(context)
            await self.moment(f"{name} ended")

        return watched

    async def run(self, kind: JobKind, **params: object) -> m.JobInfo:
        """A job to its end, with a new engine after every death."""
        engine = self.engine()
        request = f"request-{len(self.states)}"
        several = kind in {JobKind.GROUP_BACKUP, JobKind.GROUP_RESTORE}
        group, data_sets = ("g", self.members) if several else ("", [self.config])
        info, _ = await engine.begin(kind, data_sets, request, params, group)
        while True:
            ended = asyncio.create_task(engine.wait(info.id))
            died = asyncio.create_task(self.died.wait())
            await asyncio.wait({ended, died}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            if not self.died.is_set():
                return await ended
            await engine.stop()
            ended.cancel()
            assert self.lives < 10
            self.guard_thaws()
            engine = self.engine()
            await engine.load({entry.name: entry for entry in self.members})

    async def backup(self, label: str = "", **more: object) -> m.JobInfo:
        """`trilun backup`."""
        fields: dict[str, object] = {"label": label, "quiesce": True, **more}
        return await self.run(JobKind.BACKUP, **fields)

    async def restore(self, from_backup: str = "", **more: object) -> m.JobInfo:
        """`trilun restore --whole --discard-writes`."""
        fields: dict[str, object] = {"from_backup": from_backup, "dry_run": False, "force": False}
        if len(self.config.slots) == 1:
            # Nowhere to keep anything.
            fields["undo"] = "never"
        fields["discard_writes"] = True
        return await self.run(JobKind.WHOLE, **{**fields, **more})

    async def in_sync(self) -> None:
        """Wait until both sides of the remote pair say PAIR."""
        for node in (self.a, self.b):
            await node.until("remote", S.PAIR)


def once(moment: str) -> Callable[[str], bool]:
    """Die at the first such moment."""
    left = [moment]

    def kill(what: str) -> bool:
        if left and what == left[0]:
            left.clear()
            return True
        return False

    return kill


@asynccontextmanager
async def rig(directory: Path, slots: int = 1) -> AsyncIterator[Rig]:
    """first on a, second and `slots` thirds on b, all in sync."""
    async with two_nodes(directory) as (a, b):
        await chain(a, b, SIZE)
        names = [("third", "local")]
        for number in range(2, slots + 1):
            volume, pair = f"third-{number}", f"local-{number}"
            await b.do("volume.create", m.VolumeCreate(name=volume, size_bytes=SIZE))
            params = m.PairCreate(
                name=pair, kind=m.PairKind.LOCAL, p_volume="second", s_volume=volume
            )
            await b.do("pair.create", params)
            await b.until(pair, S.PAIR)
            names.append((volume, pair))
        kit = Rig(a, b, data_set(*names), directory / "jobs")
        try:
            yield kit
        finally:
            kit.blocking.close()
            if kit.b is not b:
                await kit.b.stop()
