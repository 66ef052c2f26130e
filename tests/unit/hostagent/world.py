"""Two controllers and two hosts in memory, small enough to see through.

Volumes are dictionaries of files, a request id is carried out once, and anything can be made to
fail or to end the engine at a chosen moment. What jobs may never do is asserted here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.looking import FsEntry
from controller.api.messages import PairState as P
from hostagent.attach.attacher import LunAddress
from hostagent.config import DataSetConfig
from hostagent.copying.beneath import parent_of
from hostagent.copying.comparing import Compared
from hostagent.copying.content import Work
from hostagent.copying.copier import Copied
from hostagent.copying.patterns import Asked
from hostagent.copying.placing import Placing
from hostagent.copying.verify import Verified
from hostagent.copying.walk import Found, Listed
from hostagent.errors import HostError
from hostagent.jobs.backup import BACKUP
from hostagent.jobs.context import JobContext
from hostagent.jobs.engine import JobEngine
from hostagent.jobs.group_restore import GROUP_RESTORE
from hostagent.jobs.look import look_table
from hostagent.jobs.ports import Ports
from hostagent.jobs.restore import RESTORE
from hostagent.jobs.steps import JobTable, Step, StepWork
from hostagent.jobs.whole import WHOLE
from hostagent.looking.listing import Batch
from hostagent.looking.rooms import Rooms
from hostagent.programs import Blocking
from hostagent.records import RecordStore
from hostagent.recovery.files import FileSet

DATA_SET = DataSetConfig(
    name="ds",
    part="host2",
    filesystem="ext4",
    primary="c1",
    first="v1",
    remote_pair="rp",
    secondary="c2",
    second="v2",
    local_pair="lp",
    third="v3",
    host1="h1",
    host2="h2",
    mountpoint=Path("/srv/db"),
)
GIB = 1 << 30


class KilledError(BaseException):
    """The agent dies here."""


def _entry(name: str, content: str) -> FsEntry:
    """A file of 10 bytes whose content can't be told from its metadata."""
    return FsEntry(
        name=name, mode=0o100644, uid=0, gid=0, size_bytes=10, mtime_ns=1,
        ctime_ns=hash(content), inode=1, links=1,
    )  # fmt: skip


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return self.now_s + 1e9


@dataclass
class World:
    """Controllers `c1` (primary) and `c2` (secondary), host 1 and host 2."""

    first: dict[str, str] = field(default_factory=lambda: {"a": "bad", "b": "new"})
    second: dict[str, str] = field(default_factory=lambda: {"a": "bad", "b": "new"})
    third: dict[str, str] = field(default_factory=lambda: {"a": "good", "b": "old"})
    remote: P = P.PAIR
    local: P = P.PSUS
    copies_back: int = 0
    """Into the first volume."""
    views: set[str] = field(default_factory=set)
    mounted: dict[str, str] = field(default_factory=dict)
    """Key to volume, on host 2."""
    released_for: str = ""
    first_mounted: bool = True
    writes_lost: bool = False
    """Host 1 can't flush the first volume, and leaves it for its operator to mount."""
    frozen: bool = False
    freezes: int = 0
    frozen_at_mark: list[bool] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, list[RejectedError]] = field(default_factory=dict)
    """Verb or host action to the errors its next calls meet."""
    kill_at: Callable[[str], bool] = lambda _: False
    hold: asyncio.Event | None = None
    """When set, the copy waits for it."""
    copying: asyncio.Event = field(default_factory=asyncio.Event)
    replies: dict[str, Any] = field(default_factory=dict)
    states: list[m.JobInfo] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    writable: bool = False
    database: m.DatabaseInfo | None = None
    """How the data set's one database is, after its recovery."""
    recovered_for: str = ""
    recovering: bool = False
    recoveries: list[bool] = field(default_factory=list)
    """Each recovery that was asked for: whether with a check."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Pairs of each group of the primary."""
    max_conflicts: int = 100
    rooms: Rooms = field(init=False)

    def __post_init__(self) -> None:
        self.rooms = Rooms(self.clock)

    def moment(self, what: str) -> None:
        if self.kill_at(what):
            raise KilledError(what)

    def fail(self, what: str) -> None:
        self.calls.append(what)
        if self.faults.get(what):
            raise self.faults[what].pop(0)

    # -- nodes

    async def call(self, node: str, verb: str, params: m.Params, request_id: str | None) -> m.Info:
        self.moment(f"before {verb}")
        if request_id in self.replies:
            known = self.replies[request_id]
            if isinstance(known, RejectedError):
                raise known
            return known  # type: ignore[no-any-return]
        try:
            self.fail(verb)
            info: m.Info = getattr(self, verb.replace(".", "_"))(node, params)
        except RejectedError as exc:
            answered = exc.code not in {Code.UNREACHABLE, Code.TIMEOUT}
            if request_id is not None and answered:
                self.replies[request_id] = exc
            raise
        if request_id is not None:
            self.replies[request_id] = info
        self.moment(f"after {verb}")
        return info

    def pair_show(self, node: str, params: m.Named) -> m.PairInfo:
        if params.name == "rp" and self.remote in {P.COPY, P.RCPY}:
            if self.remote is P.COPY:
                self.second = dict(self.first)
            else:
                self.first = dict(self.second)
            info = self._pair(node, "rp", self.remote)
            self.remote = P.PAIR
            return info
        if params.name == "lp" and self.local is P.COPY:
            self.third, self.local = dict(self.second), P.PAIR
            return self._pair(node, "lp", P.COPY)
        return self._pair(node, params.name, self.remote if params.name == "rp" else self.local)

    def group_show(self, node: str, params: m.Named) -> m.GroupInfo:
        return m.GroupInfo(name=params.name, node=node, pairs=self.groups[params.name], states={})

    def pair_split(self, node: str, params: m.PairSplit) -> m.PairInfo:
        assert not self.first_mounted, "host 1 must have let go before the split"
        self.remote, self.writable = P.PSUS, params.writable
        return self._pair(node, "rp", self.remote)

    def pair_resync(self, node: str, params: m.PairResync) -> m.PairInfo:
        if params.name == "lp":
            self.local = P.COPY
            return self._pair(node, "lp", self.local)
        assert self.remote is P.PSUS, "a resync starts from a split"
        assert "v2" not in self.mounted.values(), "the second volume may not be mounted now"
        if params.direction is m.Direction.REVERSE:
            assert not self.first_mounted, "law L12"
            self.remote = P.RCPY
            self.copies_back += 1
        else:
            self.remote = P.COPY
        return self._pair(node, "rp", self.remote)

    def backup_mark(self, node: str, params: m.BackupMark) -> m.PairInfo:
        if self.local is not P.PAIR:
            raise RejectedError(Code.WRONG_STATE, "the local pair is not in PAIR")
        self.frozen_at_mark.append(self.frozen)
        self.third, self.local = dict(self.first), P.PSUS
        return self._pair(node, "lp", self.local)

    def view_open(self, _node: str, params: m.ViewOpen) -> m.VolumeInfo:
        self.views.add(params.view)
        return self._volume(params.view)

    def view_close(self, _node: str, params: m.Named) -> m.VolumeInfo:
        if params.name not in self.views:
            raise RejectedError(Code.NOT_FOUND, "no such view")
        assert params.name not in self.mounted, "a view is closed once it is detached"
        self.views.discard(params.name)
        return self._volume(params.name)

    def volume_show(self, _node: str, params: m.Named) -> m.VolumeInfo:
        if params.name.startswith("view") and params.name not in self.views:
            raise RejectedError(Code.NOT_FOUND, "no such view")
        return self._volume(params.name)

    def fs_release(self, node: str, params: m.FsRelease) -> m.HostFs:
        assert node == "h1"
        self.first_mounted = False
        if self.writes_lost:
            raise HostError("flushing sda failed", "mount it anew")
        self.released_for = params.job
        return self._fs()

    def fs_reclaim(self, node: str, params: m.FsReclaim) -> m.HostFs:
        assert self.remote is not P.RCPY, "not while the first volume is being replaced"
        self.released_for, self.first_mounted = "", not self.writes_lost
        return self._fs()

    def db_show(self, node: str, params: m.DataSetNamed) -> m.RecoveryInfo:
        running, self.recovering = self.recovering, self.writes_lost
        databases = [self.database] if self.database else []
        names = [one.name for one in databases]
        return m.RecoveryInfo(
            data_set="ds",
            job=self.recovered_for,
            running=running,
            concerned=names,
            databases=databases,
        )

    def db_recover(self, node: str, params: m.DbRecover) -> m.RecoveryInfo:
        assert node == "h1"
        assert self.first_mounted or self.writes_lost, "nothing is mounted that it could start from"
        self.recovered_for, self.recovering = params.job or "", True
        self.recoveries.append(params.check)
        return self.db_show(node, m.DataSetNamed(data_set="ds"))

    def _fs(self) -> m.HostFs:
        return m.HostFs(
            data_set="ds", mounted=self.first_mounted, frozen=False, mountpoint="/srv/db"
        )

    def _pair(self, node: str, name: str, state: P) -> m.PairInfo:
        remote = name == "rp"
        return m.PairInfo(
            name=name,
            node=node,
            kind=m.PairKind.REMOTE if remote else m.PairKind.LOCAL,
            role=m.Role.P_VOL,
            state=state,
            p_volume="v1" if remote else "v2",
            s_volume="v2" if remote else "v3",
            peer="c2" if remote else None,
            peer_connected=True,
            mode=m.Mode.SYNC,
            fence=m.Fence.NEVER,
            dirty_bytes=4096 if state is P.PSUS else 0,
            generation="g",
            goal="split" if state is P.PSUS else "reverse" if state is P.RCPY else "mirror",
            copies_back=self.copies_back if remote else 0,
            progress=m.Progress(done_bytes=1, left_bytes=1, rate_bytes_per_s=1, eta_s=1),
            resync_payload_bytes=8192,
            resync_wire_bytes=9000,
            resync_union_bytes=8192,
            resync_discarded_bytes=4096,
        )

    def _volume(self, name: str) -> m.VolumeInfo:
        looked_at = any(view.startswith("now-") for view in self.views)
        writable = name != "v2" or (self.writable and not looked_at)
        access = m.AccessInfo.READ_WRITE if writable else m.AccessInfo.READ_ONLY
        return m.VolumeInfo(
            name=name,
            node="c2",
            size_bytes=GIB,
            allocated_bytes=0,
            access=access,
            consistent=True,
            healthy=True,
            generation="g",
            pairs=[],
            target=f"iqn.2026-11.io.trilun:{name}",
            portals=["127.0.0.1:3260"],
        )

    def fs_list(self, node: str, params: m.FsList) -> m.FsEntries:
        assert node == "h1"
        entries = [
            _entry(parent_of(path)[1], content)
            for path, content in sorted(self.first.items())
            if parent_of(path)[0] == params.directory
            and (not params.names or parent_of(path)[1] in params.names)
        ]
        return m.FsEntries(entries=entries, more=False)

    def fs_digest(self, node: str, params: m.FsDigest) -> m.DigestInfo:
        assert node == "h1"
        return m.DigestInfo(length_bytes=params.length_bytes, digest=self.first[params.path])

    # -- host 2

    def _files(self, key: str) -> dict[str, str]:
        seconds = self.mounted[key] == "v2" or key.startswith("now-")
        return self.second if seconds else self.third

    async def mount(self, key: str, address: LunAddress, data_set: DataSetConfig) -> Path:
        self.moment("before mount")
        self.fail("mount")
        self.mounted[key] = address.iqn.rpartition(":")[2]
        self.moment("after mount")
        return Path("/run") / key

    async def unmount(self, key: str) -> None:
        self.moment("before unmount")
        self.fail("unmount")
        self.mounted.pop(key, None)
        self.moment("after unmount")

    async def find(self, view: Path, asked: list[Asked], work: Work) -> Found:
        self.fail("find")
        there = self._files(view.name)
        names: list[str] = []
        missing: list[str] = []
        for one in asked:
            found = [n for n in sorted(there) if fnmatchcase(n, one.path)]
            names += found
            missing += [] if found else [one.path]
        named = [Listed(n, "file", 10) for n in names]
        return Found(named, missing, 10 * len(named), len(named), names)

    async def batches(self, view: Path, names: list[str], work: Work) -> AsyncIterator[Batch]:
        there = self._files(view.name)
        for name in names:
            directory, last = parent_of(name)
            yield Batch(directory, [_entry(last, there[name])])

    async def digest(
        self, view: Path, path: str, offset_bytes: int, length_bytes: int
    ) -> m.DigestInfo:
        content = self._files(view.name)[path]
        return m.DigestInfo(length_bytes=length_bytes, digest=content)

    async def all_of_backup(self, view: Path, names: list[str]) -> bool:
        return False

    async def all_there_is(self, view: Path, volume: Path, names: list[str], work: Work) -> bool:
        # A restore that becomes one of the whole volume is another world's.
        return False

    async def compare(
        self, view: Path, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Compared:
        self.moment("before compare")
        self.fail("compare")
        compared = Compared(self.max_conflicts)
        for name in names:
            present = self._files(volume.name).get(placing.at(name))
            same = present == self._files(view.name)[name]
            compared.note(name, None if present is None else "" if same else "content")
        return compared

    async def copy(
        self, view: Path, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Copied:
        files = self._files(volume.name)
        for number, name in enumerate(names):
            self.moment(f"copy {number}")
            if placing.skips(name):
                continue
            if placing.keeps(name) and files[name] != self._files(view.name)[name]:
                files[placing.kept_path(name)] = files[name]
            files[placing.at(name)] = self._files(view.name)[name]
        self.copying.set()
        if self.hold is not None:
            await self.hold.wait()
        self.fail("copy")
        return Copied(len(names))

    async def verify(
        self, view: Path, key: str, volume: Path, names: list[str], placing: Placing, work: Work
    ) -> Verified:
        self.moment("before verify")
        self.fail("verify")
        names = [n for n in names if not placing.skips(n)]
        for name in names:
            if self._files(volume.name)[placing.at(name)] != self._files(view.name)[name]:
                raise HostError("differs")
        listed = [Listed(n, "file", 10, "d" * 64) for n in names]
        return Verified(listed, 10 * len(names), 10 * len(names), len(names))

    # -- databases, in the view and on the second volume

    async def sets(
        self, view: Path, databases: list[m.DatabaseInfo], mountpoint: Path
    ) -> list[FileSet]:
        return [FileSet(one.name, one.kind, (one.path, *one.also)) for one in databases]

    async def make_exact(self, view: Path, volume: Path, sets: list[FileSet]) -> int:
        self.moment("before make_exact")
        self.fail("make_exact")
        return len(sets)

    # -- host 1's own

    async def freeze(self, wanted: dict[str, float]) -> dict[str, list[m.DatabaseInfo]]:
        self.moment("before freeze")
        self.fail("freeze")
        self.frozen = True
        self.freezes += 1
        self.moment("after freeze")
        return {name: [self.database] if self.database else [] for name in wanted}

    async def still_frozen(self, data_set: str) -> bool:
        return self.frozen

    async def thaw(self, data_set: str) -> float:
        self.moment("before thaw")
        self.fail("thaw")
        was, self.frozen = self.frozen, False
        self.moment("after thaw")
        return 0.25 if was else 0.0

    async def pause(self, seconds: float) -> None:
        self.clock.now_s += seconds
        await asyncio.sleep(0)

    def ports(self) -> Ports:
        return Ports(
            nodes=self,
            host=self,
            databases=self,
            first=self,
            clock=self.clock,
            publish=self.states.append,
            pause=self.pause,
            forget=lambda _: None,
        )

    # -- engines

    def engine(self, directory: Path, blocking: Blocking) -> JobEngine:
        tables = {
            m.JobKind.BACKUP: self._watched(BACKUP),
            m.JobKind.RESTORE: self._watched(RESTORE),
            m.JobKind.WHOLE: self._watched(WHOLE),
            m.JobKind.GROUP_RESTORE: self._watched(GROUP_RESTORE),
            m.JobKind.LOOK: self._watched(look_table(self.rooms)),
        }
        return JobEngine("h2", tables, RecordStore(directory), blocking, self.ports())

    def _watched(self, table: JobTable) -> JobTable:
        return JobTable(
            tuple(
                Step(
                    step.name,
                    self._around(f"step {step.name}", step.run),
                    None if step.undo is None else self._around(f"undo {step.name}", step.undo),
                    step.resume_at,
                )
                for step in table.steps
            ),
            table.ahead_of_undo,
        )

    def _around(self, name: str, work: StepWork) -> StepWork:
        async def watched(context: JobContext) -> None:
            self.moment(f"{name} begins")
            await work(context)
            self.moment(f"{name} ended")

        return watched
