"""Looking into a backup: rooms that always close, pieces, lists, and differences to now."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.file_names import from_wire, to_wire
from controller.api.looking import MAX_LISTED, MAX_PIECE_BYTES, LookDiff, LookList, LookRead
from controller.api.messages import JobKind, JobState
from hostagent.errors import PathRefusedError
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.looking import differences, listing
from hostagent.looking.desk import LookDesk
from hostagent.looking.first import FirstFiles
from hostagent.looking.rooms import IDLE_S, Rooms
from hostagent.programs import Blocking
from tests.unit.hostagent.kit import ALL, Kit, once
from tests.unit.hostagent.test_rooms import MARKS
from tests.unit.hostagent.world import DATA_SET, FakeClock, World

# ---------------------------------------------------------------- the job


def nothing_left(world: World) -> None:
    assert not world.views
    assert not world.mounted
    assert world.first_mounted
    assert not world.rooms._rooms


async def opened(kit: Kit, world: World) -> tuple[Any, str]:
    engine = kit.engine()
    info, _ = await engine.begin(JobKind.LOOK, DATA_SET, "look-1", {"from_backup": ""})
    while info.id not in world.rooms._rooms:
        await asyncio.sleep(0)
        assert engine.show(info.id).state is JobState.RUNNING
    return engine, info.id


async def test_a_look_ends_when_it_is_closed(kit: Kit, world: World) -> None:
    engine, job = await opened(kit, world)
    assert world.views
    with world.rooms.visit(job):
        assert world.rooms.close(job)
        with pytest.raises(RejectedError, match="no backup open"), world.rooms.visit(job):
            pass
        assert world.views, "not while somebody is in"
    ended = await engine.wait(job)
    assert ended.state is JobState.DONE
    nothing_left(world)


async def test_a_client_that_says_nothing_is_taken_for_dead(kit: Kit, world: World) -> None:
    engine, job = await opened(kit, world)
    began_s = world.clock.now_s
    assert (await engine.wait(job)).state is JobState.DONE
    assert IDLE_S <= world.clock.now_s - began_s < IDLE_S + 5
    nothing_left(world)


async def test_a_look_is_cancelled_like_any_job(kit: Kit, world: World) -> None:
    engine, job = await opened(kit, world)
    await engine.cancel(job)
    assert (await engine.wait(job)).state is JobState.CANCELLED
    nothing_left(world)


@pytest.mark.parametrize(
    "moment",
    [
        f"step {step} {when}"
        for step in ("plan", "open-view", "mount-view", "look")
        for when in ("begins", "ended")
    ]
    + ["after view.open", "after mount", "undo mount-view begins", "undo open-view begins"],
)
async def test_killed_at_any_moment_nothing_stays_open(kit: Kit, world: World, moment: str) -> None:
    world.kill_at = once(moment)
    engine = kit.engine()
    info, _ = await engine.begin(JobKind.LOOK, DATA_SET, "look-1", {"from_backup": ""})
    ended = await kit.see_through(engine, info.id)
    assert ended.state is JobState.DONE
    nothing_left(world)


async def test_a_look_is_not_gone_on_with_by_the_next_life(kit: Kit, world: World) -> None:
    engine, job = await opened(kit, world)
    await engine.stop()
    assert world.views, "nothing is undone while the agent stops"
    calls = len(world.calls)
    engine = kit.engine()
    await engine.load(ALL)
    assert (await engine.wait(job)).state is JobState.DONE
    assert "mount" not in world.calls[calls:]
    nothing_left(world)


async def test_looks_do_not_crowd_receipts_out(kit: Kit, world: World) -> None:
    engine = kit.engine()
    for number in range(8):
        info, _ = await engine.begin(JobKind.LOOK, DATA_SET, f"l{number}", {"from_backup": ""})
        await engine.wait(info.id)
    assert len(engine.list_jobs()) <= 4


# ---------------------------------------------------------------- the desk


class Desk:
    """A backup and now, as two folders, and a desk that answers about them."""

    def __init__(self, base: Path) -> None:
        self.backup, self.now = base / "backup", base / "now"
        self.backup.mkdir()
        self.now.mkdir()
        self.blocking = Blocking(2)
        rooms = Rooms(FakeClock())
        rooms.open("look-1", "ds", PurePosixPath("/srv/db"), "h1", self.backup, MARKS)
        self.desk = LookDesk(rooms, self.blocking, self)
        self.asked: list[str] = []

    async def call(self, node: str, verb: str, params: m.Params, request_id: str | None) -> m.Info:
        assert node == "h1"
        self.asked.append(verb)
        fd = os.open(self.now, os.O_RDONLY)
        try:
            if isinstance(params, m.FsList):
                names = [from_wire(name) for name in params.names] or None
                return listing.list_directory(
                    fd, from_wire(params.directory), names, from_wire(params.after)
                )
            assert isinstance(params, m.FsDigest)
            return listing.digest_range(
                fd, from_wire(params.path), params.offset_bytes, params.length_bytes
            )
        finally:
            os.close(fd)

    async def names(self, path: str) -> list[str]:
        found, after = [], ""
        while True:
            page = await self.desk.list(LookList(job="look-1", path=to_wire(path), after=after))
            found += [from_wire(entry.name) for entry in page.entries]
            if not page.more:
                return found
            after = page.entries[-1].name

    async def cat(self, path: str, **more: Any) -> tuple[bytes, str]:
        data = b""
        while True:
            piece = await self.desk.read(
                LookRead(job="look-1", path=to_wire(path), offset_bytes=len(data), **more)
            )
            data += base64.b64decode(piece.data)
            if len(data) >= piece.size_bytes:
                return data, piece.digest

    async def diff(self, path: str = "") -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        pending = [to_wire(path)]
        while pending:
            directory, after = pending.pop(), ""
            while True:
                answer = await self.desk.diff(LookDiff(job="look-1", path=directory, after=after))
                told = {d.path: (d.what, d.detail) for d in answer.differences}
                assert not told.keys() & found.keys(), "each is told once"
                found.update(told)
                pending += answer.directories
                after = answer.after
                if not after:
                    break
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.blocking.close()


async def test_lists_say_what_ls_says(desk: Desk) -> None:
    (desk.backup / "d").mkdir(mode=0o750)
    (desk.backup / "d/f").write_bytes(b"12345")
    (desk.backup / "d/l").symlink_to("f")
    strange = os.fsdecode(b"d/caf\xe9 %41\n")
    (desk.backup / strange).write_text("")
    assert await desk.names("") == ["d"]
    assert await desk.names("/srv/db/d") == sorted([strange[2:], "f", "l"])
    page = await desk.desk.list(LookList(job="look-1", path="d"))
    by_name = {from_wire(e.name): e for e in page.entries}
    assert by_name["f"].size_bytes == 5
    assert by_name["l"].link_to == "f"
    alone = await desk.desk.list(LookList(job="look-1", path="d/f"))
    assert (alone.alone, [e.name for e in alone.entries]) == (True, ["f"])
    with pytest.raises(RejectedError) as caught:
        await desk.names("none")
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(PathRefusedError):
        await desk.names("../x")
    (desk.backup / "out").symlink_to("/etc")
    with pytest.raises(PathRefusedError, match="symbolic link"):
        await desk.names("out/ssl")


async def test_long_directories_come_in_pages(desk: Desk) -> None:
    names = [f"{n:05}" for n in range(2 * MAX_LISTED + 1)]
    for name in names:
        (desk.backup / name).touch()
    assert await desk.names("") == names


async def test_an_answer_has_a_size_whatever_its_entries_have(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_ENTRIES_BYTES", 600)
    names = [f"{n:02}" for n in range(20)]
    for name in names:
        (desk.backup / name).touch()
    page = await desk.desk.list(LookList(job="look-1"))
    assert 0 < len(page.entries) < 5
    assert await desk.names("") == names


@pytest.mark.parametrize(
    "size_bytes", [0, 1, MAX_PIECE_BYTES, MAX_PIECE_BYTES + 1, 3 * MAX_PIECE_BYTES]
)
async def test_any_bytes_come_whole_with_their_digest(desk: Desk, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    (desk.backup / "f").write_bytes(content)
    data, digest = await desk.cat("f")
    assert data == content
    assert digest == hashlib.sha256(content).hexdigest()


async def test_a_piece_that_is_asked_for_again_counts_once(desk: Desk) -> None:
    content = os.urandom(2 * MAX_PIECE_BYTES + 7)
    (desk.backup / "f").write_bytes(content)
    digests = []
    for offset in (
        0,
        0,
        MAX_PIECE_BYTES,
        MAX_PIECE_BYTES,
        2 * MAX_PIECE_BYTES,
        2 * MAX_PIECE_BYTES,
    ):
        piece = await desk.desk.read(LookRead(job="look-1", path="f", offset_bytes=offset))
        digests.append(piece.digest)
    assert digests[-2:] == [hashlib.sha256(content).hexdigest()] * 2
    piece = await desk.desk.read(LookRead(job="look-1", path="f", offset_bytes=MAX_PIECE_BYTES - 1))
    assert piece.digest == "", "out of order there is nothing to vouch for"


async def test_a_large_file_is_refused_before_a_byte_is_sent(desk: Desk) -> None:
    (desk.backup / "f").write_bytes(bytes(1001))
    with pytest.raises(RejectedError) as caught:
        await desk.cat("f", max_bytes=1000)
    assert caught.value.code is Code.WRONG_STATE
    assert "--max-bytes 1001" in caught.value.next_step
    assert (await desk.cat("f", max_bytes=1001))[0] == bytes(1001)


@pytest.mark.parametrize("make", ["directory", "fifo", "link"])
async def test_only_regular_files_have_content(desk: Desk, make: str) -> None:
    path = desk.backup / "x"
    if make == "directory":
        path.mkdir()
    elif make == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/etc/passwd")
    with pytest.raises(RejectedError) as caught:
        await desk.cat("x")
    assert caught.value.code is Code.BAD_REQUEST


# ---------------------------------------------------------------- differences


def same(desk: Desk, name: str, text: str) -> None:
    """A file that is equal on both sides, though its inode isn't the same."""
    for root in (desk.backup, desk.now):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
        os.utime(root / name, ns=(1, 10**18))


async def test_a_difference_of_each_sort(desk: Desk) -> None:
    for name in ("d/same", "d/longer", "d/quiet", "d/mode", "d/gone", "d/both", "d/type"):
        same(desk, name, "text")
    (desk.now / "d/longer").write_text("longer text")
    (desk.now / "d/quiet").write_text("TEXT")
    os.utime(desk.now / "d/quiet", ns=(1, 10**18))
    (desk.now / "d/mode").chmod(0o600)
    (desk.now / "d/both").write_text("TEXT")
    (desk.now / "d/gone").unlink()
    (desk.now / "d/new").write_text("new")
    (desk.now / "d/type").unlink()
    (desk.now / "d/type").mkdir()
    (desk.backup / "d/link").symlink_to("a")
    (desk.now / "d/link").symlink_to("b")
    for root in (desk.backup, desk.now):
        os.utime(root / "d/link", ns=(1, 10**18), follow_symlinks=False)
    (desk.now / "newdir").mkdir()
    (desk.backup / "olddir").mkdir()
    found = await desk.diff()
    assert found == {
        "d/longer": ("changed", "modification time, size"),
        "d/quiet": ("changed", "content"),
        "d/mode": ("metadata", "mode"),
        "d/both": ("changed", "content, modification time"),
        "d/gone": ("removed", ""),
        "d/new": ("added", ""),
        "d/type": ("changed", "a directory now"),
        "d/link": ("changed", "where the link points"),
        "newdir": ("added", ""),
        "olddir": ("removed", ""),
    }
    assert await desk.diff("d/quiet") == {"d/quiet": ("changed", "content")}
    assert await desk.diff("/srv/db/d/same") == {}


async def test_what_was_not_touched_is_not_read(desk: Desk) -> None:
    same(desk, "f", "text")
    (desk.now / "f").unlink()
    os.link(desk.backup / "f", desk.now / "f")
    answer = await desk.desk.diff(LookDiff(job="look-1"))
    assert (answer.differences, answer.read_bytes, answer.compared_count) == ([], 0, 1)
    assert desk.asked == ["fs.list"]


async def test_long_directories_are_merged_page_by_page(desk: Desk) -> None:
    for number in range(1, 2600, 2):
        (desk.backup / f"{number:05}").touch()
    for number in range(0, 2600, 5):
        (desk.now / f"{number:05}").touch()
    found = await desk.diff()
    then, now = set(range(1, 2600, 2)), set(range(0, 2600, 5))
    assert {int(n) for n, (what, _) in found.items() if what == "added"} == now - then
    assert {int(n) for n, (what, _) in found.items() if what == "removed"} == then - now


async def test_one_answer_reads_only_so_much(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(differences, "MAX_READ_BYTES", 8)
    for name in "abcd":
        same(desk, name, "text")
    answer = await desk.desk.diff(LookDiff(job="look-1"))
    assert (answer.read_bytes, answer.after) == (8, "b")
    assert await desk.diff() == {}


# ---------------------------------------------------------------- host 1's side


class First:
    """A first volume that is, or isn't, mounted at a folder."""

    def __init__(self, folder: Path, *, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted

    async def show(self, data_set: str) -> m.HostFs:
        return m.HostFs(
            data_set=data_set,
            mounted=self.mounted,
            frozen=False,
            released_for="" if self.mounted else "restore-7",
            mountpoint=str(self.folder),
        )


async def test_host_1_tells_of_what_it_has_mounted_only(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(b"12345")
    (tmp_path / "out").symlink_to("/etc")
    blocking = Blocking(1)
    try:
        there = FirstFiles(cast("FirstVolumeKeeper", First(tmp_path, mounted=True)), blocking)
        some = await there.list(m.FsList(data_set="ds", directory="d", names=["f", "none"]))
        assert [(e.name, e.size_bytes) for e in some.entries] == [("f", 5)]
        digest = await there.digest(
            m.FsDigest(data_set="ds", path="d/f", offset_bytes=3, length_bytes=100)
        )
        assert digest == m.DigestInfo(length_bytes=2, digest=hashlib.sha256(b"45").hexdigest())
        with pytest.raises(PathRefusedError):
            await there.list(m.FsList(data_set="ds", directory="out"))
        with pytest.raises(PathRefusedError):
            await there.list(m.FsList(data_set="ds", directory="../x"))
        for name in ("a/b", "..", "%00"):
            with pytest.raises(RejectedError, match="no names"):
                await there.list(m.FsList(data_set="ds", names=[name]))
        away = FirstFiles(cast("FirstVolumeKeeper", First(tmp_path, mounted=False)), blocking)
        with pytest.raises(RejectedError, match="released for restore-7") as caught:
            await away.list(m.FsList(data_set="ds"))
        assert caught.value.code is Code.WRONG_STATE
    finally:
        blocking.close()


async def test_a_look_by_host_1_leaves_access_times_alone(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "f").write_bytes(b"12345")
    for path in (folder / "f", folder):
        os.utime(path, ns=(1, 2))
    blocking = Blocking(1)
    try:
        there = FirstFiles(cast("FirstVolumeKeeper", First(tmp_path, mounted=True)), blocking)
        await there.list(m.FsList(data_set="ds", directory="d"))
        await there.digest(m.FsDigest(data_set="ds", path="d/f", offset_bytes=0, length_bytes=9))
    finally:
        blocking.close()
    assert folder.stat().st_atime_ns == (folder / "f").stat().st_atime_ns == 1
