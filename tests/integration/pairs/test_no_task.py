"""Law S6: a mirrored write costs no asyncio Task on either controller."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from controller.api import messages as m
from targets.lun import LunError
from tests.rig import eventually, read, two_nodes

BLOCK = 4096
WRITES = 200


async def test_mirrored_writes_and_reads_make_no_task(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (a, b):
        await a.do("volume.create", m.VolumeCreate(name="first", size_bytes=1 << 20))
        await b.do("volume.create", m.VolumeCreate(name="second", size_bytes=1 << 20))
        await a.do(
            "pair.create",
            m.PairCreate(
                name="remote",
                kind=m.PairKind.REMOTE,
                p_volume="first",
                s_volume="second",
                peer="b",
            ),
        )
        await a.until("remote", m.PairState.PAIR)
        await b.until("remote", m.PairState.PAIR)
        first = a.volume("first")
        loop = asyncio.get_running_loop()
        made: list[str] = []

        def factory(
            running: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any
        ) -> asyncio.Task[Any]:
            made.append(repr(coro))
            return asyncio.Task(coro, loop=running, **more)

        ended: list[LunError | None] = []
        data = memoryview(b"w" * BLOCK)
        into = memoryview(bytearray(BLOCK))
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        for number in range(WRITES):
            first.write(number * BLOCK % (1 << 20), data, False, ended.append)
            first.read(0, into, ended.append)
        await eventually(lambda: len(ended) == 2 * WRITES)
        loop.set_task_factory(None)
        assert ended == [None] * (2 * WRITES)
        assert made == []
        assert await read(first, 0, BLOCK) == bytes(data)
        assert a.image("first") == b.image("second")
