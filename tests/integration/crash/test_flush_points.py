"""The second volume, cut off as a flush reaches it: a file system that keeps its promises.

A user works on ext4 and XFS on the first volume and relies on fsync. At flush points on the
secondary, its disk loses its power in three ways: everything written is there, nothing that no
flush has covered, or torn parts of that. Each time the journal is replayed on a throw-away copy,
every file that was fsynced has to be there, and fsck must find nothing. TRILUN_POINTS says how
many points of each file system are looked at, TRILUN_SEED which run it is.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.crash.mirrored import (
    Filesystem,
    check_filesystem,
    mirrored_filesystem,
    mounted,
    need_loop_mounts,
    short_directory,
)
from tests.integration.crash.recording import (
    Change,
    CrashImages,
    FlushPoint,
    Recording,
    drop,
    keep,
    tear,
)
from tests.integration.crash.workload import Promises, Workload, check_promises
from tests.rig import eventually

pytestmark = [pytest.mark.root, pytest.mark.tools]

POINTS = int(os.environ.get("TRILUN_POINTS", "30"))
SEED = int(os.environ.get("TRILUN_SEED", "0"))
MORE_FLUSHES = 4
"""Of so many flushes, one is looked at."""
WORK_WITHIN_S = 120.0

Kept = Callable[[Change], Change | None]


async def work_on(directory: Path, filesystem: Filesystem) -> tuple[Path, Recording[Promises]]:
    """A user at work until there are enough flushes; gives the image to begin with."""
    users: list[Workload] = []
    nothing = Promises({}, None, 0, 0, 0)
    recording: Recording[Promises] = Recording(lambda: users[0].promises() if users else nothing)
    async with mirrored_filesystem(directory, filesystem, recording) as (mountpoint, base):
        users.append(Workload(mountpoint, SEED))
        work = asyncio.create_task(asyncio.to_thread(users[0].run))
        try:
            await eventually(
                lambda: work.done() or len(recording.points) >= POINTS * MORE_FLUSHES,
                lambda: f"{len(recording.points)} flushes",
                WORK_WITHIN_S,
            )
        finally:
            users[0].stop()
            await work
    return base, recording


class Crashes:
    """Looks at the images of one file system's crashes."""

    def __init__(
        self, base: Path, filesystem: Filesystem, recording: Recording[Promises], place: Path
    ) -> None:
        self._images = CrashImages(base, recording, place)
        self._filesystem = filesystem
        self._image = place / "crash.img"
        self._mountpoint = place / "mnt"

    def look(self, point: FlushPoint[Promises], kept: Kept) -> None:
        """One crash: what was promised is there, and the file system is whole."""
        self._images.image(point, self._image, kept)
        with mounted(self._image, self._filesystem, self._mountpoint):
            check_promises(self._mountpoint, point.promises)
        check_filesystem(self._image, self._filesystem)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
async def test_what_was_fsynced_is_on_the_second_volume(
    filesystem: Filesystem, tmp_path: Path
) -> None:
    need_loop_mounts()
    base, recording = await work_on(tmp_path, filesystem)
    chance = random.Random(SEED)
    numbers = sorted(chance.sample(range(len(recording.points)), POINTS))
    ways: dict[str, Kept] = {"kept": keep, "dropped": drop, "torn": tear(chance)}
    uncovered = 0
    with short_directory() as place:
        crashes = Crashes(base, filesystem, recording, place)
        for number in numbers:
            point = recording.points[number]
            uncovered += point.written - point.durable
            for way, kept in ways.items():
                try:
                    await asyncio.to_thread(crashes.look, point, kept)
                except Exception as error:
                    error.add_note(f"flush {number}, unflushed writes {way}, TRILUN_SEED={SEED}")
                    raise
    last = recording.points[numbers[-1]]
    assert last.promises.synced > 0, "nobody relied on anything"
    assert uncovered > 0, "there was nothing to lose at any point"
    print(
        f"{filesystem}: {POINTS} of {len(recording.points)} flushes, {last.promises.synced} "
        f"fsyncs, {uncovered} writes in doubt"
    )
