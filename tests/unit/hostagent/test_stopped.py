"""A file system that has stopped behind a power loss: jobs name what mounts it anew."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, cast

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.errors import FinalError, FsBusyError, HostError, ToolError, UnflushedError
from hostagent.filesystem.stopped import as_stopped
from hostagent.first_volumes import FirstVolumeKeeper
from hostagent.looking.first import FirstFiles
from hostagent.programs import Blocking
from hostagent.records import RecordStore
from tests.unit.hostagent.world import DATA_SET

pytestmark = pytest.mark.plain

AGAIN = "`systemctl restart trilun-agent@h1`"


@pytest.mark.parametrize(
    "exc",
    [
        UnflushedError("sda", "Remote I/O error"),
        OSError(errno.EIO, "Input/output error"),
        OSError(errno.EREMOTEIO, "Remote I/O error"),
        OSError(errno.EROFS, "Read-only file system"),
        ToolError("sync failed (1): sync: error syncing '/srv/db': Input/output error"),
        HostError("pg_ctl failed (1): could not write file: Remote I/O error"),
        HostError("/srv/db can't be frozen: Read-only file system"),
    ],
)
def test_what_a_remount_mends_names_it(exc: RejectedError | OSError) -> None:
    told = as_stopped(exc, Path("/srv/db"), "h1")
    assert isinstance(told, FinalError), "trying again changes nothing"
    assert told.message.startswith("the file system at /srv/db has stopped: ")
    assert AGAIN in told.next_step
    assert told.code is Code.HOST_ERROR


@pytest.mark.parametrize(
    "exc",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        FsBusyError("/srv/db", ["vi (12)"]),
        ToolError("umount failed (1): not mounted", "look"),
    ],
)
def test_what_it_does_not_mend_stays_what_it_is(exc: RejectedError | OSError) -> None:
    assert as_stopped(exc, Path("/srv/db"), "h1") is None


class Stopped:
    """Host 1's volumes and databases, as far as a release needs them."""

    def __init__(self, exc: Exception) -> None:
        self.exc = exc
        self.recovered: list[str] = []

    def keys(self) -> list[str]:
        return ["first-ds"]

    def unmount(self, _key: str, *, force: bool) -> None:
        raise self.exc

    async def show(self, data_set: str) -> m.HostFs:
        return m.HostFs(data_set=data_set, mounted=True, frozen=False, mountpoint="/nowhere")

    async def stop_all(self, *_: object, force: bool) -> None:
        assert not force

    async def recover(self, _data_set: str, job: str, *, check: bool) -> None:
        assert not check
        self.recovered.append(job)


@pytest.mark.parametrize(
    "exc", [ToolError("umount failed (32): Remote I/O error"), OSError(errno.EIO, "x")]
)
async def test_a_release_that_fails_for_it_says_so_and_is_none(
    tmp_path: Path, exc: Exception
) -> None:
    stopped, blocking = cast("Any", Stopped(exc)), Blocking(1)
    store = RecordStore(tmp_path)
    entry = DATA_SET.model_copy(update={"part": "host1"})
    keeper = FirstVolumeKeeper([entry], stopped, stopped, store, blocking, cast("Any", None))
    try:
        with pytest.raises(HostError, match="has stopped") as caught:
            await keeper.release("ds", "whole-1", force=False)
    finally:
        blocking.close()
    assert AGAIN in caught.value.next_step
    assert stopped.recovered == ["whole-1"]
    saved = store.load("ds")
    assert saved is not None
    assert saved["released_for"] == ""


async def test_files_that_cannot_be_read_for_it_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocking, nothing = Blocking(1), cast("Any", None)
    entry = DATA_SET.model_copy(update={"part": "host1"})
    keeper = FirstVolumeKeeper([entry], nothing, nothing, RecordStore(tmp_path), blocking, nothing)
    monkeypatch.setattr(keeper, "show", Stopped(OSError()).show)

    def shut_down(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("hostagent.looking.first._in_root", shut_down)
    try:
        with pytest.raises(HostError, match="has stopped") as caught:
            await FirstFiles(keeper, blocking).list(m.FsList(data_set="ds"))
    finally:
        blocking.close()
    assert AGAIN in caught.value.next_step
