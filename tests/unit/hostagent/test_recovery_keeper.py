"""The databases of host 1, with a hook that writes down what it is called for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from controller.api import messages as m
from controller.api.messages import DatabaseState as S
from hostagent.config import DataSetConfig
from hostagent.errors import HostError
from hostagent.filesystem.mounts import Mount
from hostagent.programs import Blocking
from hostagent.records import RecordStore
from hostagent.recovery.keeper import DatabaseKeeper
from tests.unit.hostagent.world import DATA_SET

HOOK = """#!/bin/sh
echo "$1 $TRILUN_DATA_SET $TRILUN_DATABASE" >> "$TRILUN_PATH.calls"
if [ -e "$TRILUN_PATH.fail-$1" ]; then echo "can't $1"; exit 1; fi
if [ -e "$TRILUN_PATH.hang-$1" ]; then exec sleep 600; fi
case $1 in
start)
    exec 8>&-; sleep 600 3<"$TRILUN_PATH" >/dev/null 2>&1 & echo $! > "$TRILUN_PATH.pid"
    until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done ;;
stop) kill "$(cat "$TRILUN_PATH.pid")" ;;
esac
"""
"""Its server is a sleep that holds the file open; by that name from the end of `start` on."""


class Bench:
    """A data set whose mountpoint is a plain directory, and one store in it."""

    def __init__(self, root: Path, blocking: Blocking) -> None:
        self.root, self.blocking = root, blocking
        self.store = root / "store"
        self.store.touch()
        hook = root / "hook"
        hook.write_text(HOOK)
        hook.chmod(0o755)
        self.keeper = self.new_keeper()

    def new_keeper(self) -> DatabaseKeeper:
        section = {
            "kind": "hook",
            "path": "store",
            "command": [str(self.root / "hook")],
            "processes": ["sleep"],
            "quiesce_timeout_s": 5,
            "recover_timeout_s": 10,
            "stop_timeout_s": 5,
        }
        plain: dict[str, Any] = DATA_SET.model_dump(exclude_unset=True)
        config = DataSetConfig.model_validate(
            {**plain, "part": "host1", "mountpoint": self.root, "database": [section]}
        )
        records = RecordStore(self.root / "records")
        return DatabaseKeeper([config], records, self.blocking, _Clock())

    def calls(self) -> list[str]:
        path = Path(f"{self.store}.calls")
        if not path.exists():
            return []
        lines = path.read_text().splitlines()
        assert all(line.endswith(" ds store") for line in lines)
        return [line.split()[0] for line in lines]

    def let(self, what: str) -> None:
        """`fail-ACT` or `hang-ACT`."""
        Path(f"{self.store}.{what}").touch()

    def let_go(self) -> None:
        """Take back every `let`."""
        for path in (*self.root.glob("store.fail-*"), *self.root.glob("store.hang-*")):
            path.unlink()

    async def ended(self) -> m.DatabaseInfo:
        async with asyncio.timeout(20):
            while self.keeper.show("ds").running:  # noqa: ASYNC110 - it is polled by jobs, too
                await asyncio.sleep(0.01)
        return self.keeper.show("ds").databases[0]

    async def recovered(self, job: str | None, *, check: bool) -> m.DatabaseInfo:
        await self.keeper.recover("ds", job, check=check)
        return await self.ended()


class _Clock:
    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
async def bench(
    tmp_path: Path, blocking: Blocking, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    mounted = Mount(tmp_path, "ext4", "/dev/loop0", "/", frozenset(), read_only=False)
    monkeypatch.setattr("hostagent.recovery.keeper.find_mount", lambda _path: mounted)
    bench = Bench(tmp_path, blocking)
    yield bench
    await bench.keeper.stop()
    bench.let_go()
    await bench.keeper.stop_all("ds", "end", force=True)


async def test_a_database_is_started_checked_and_stopped(bench: Bench) -> None:
    info = await bench.recovered("restore-1", check=True)
    assert (info.state, info.done) == (S.GOOD, "the hook's check")
    assert bench.calls() == ["start", "check"]
    await bench.keeper.stop_all("ds", "restore-2", force=False)
    assert bench.keeper.show("ds").databases[0].state is S.STOPPED
    assert bench.calls() == ["start", "check", "stop"]


async def test_a_recovery_asked_for_twice_is_one(bench: Bench) -> None:
    _, first = await bench.keeper.recover("ds", "restore-1", check=True)
    _, second = await bench.keeper.recover("ds", "restore-1", check=True)
    await bench.ended()
    _, third = await bench.keeper.recover("ds", "restore-1", check=True)
    assert (first, second, third) == (True, False, False)
    assert bench.calls() == ["start", "check"]
    await bench.recovered(None, check=True)
    assert bench.calls() == ["start", "check", "check"], "an operator's is always a new one"


async def test_what_did_not_run_is_not_started_by_an_undo(bench: Bench) -> None:
    await bench.keeper.stop_all("ds", "restore-1", force=False)
    await bench.recovered("restore-1", check=False)
    assert bench.calls() == []


async def test_what_was_stopped_is_started_by_an_undo_and_not_checked(bench: Bench) -> None:
    await bench.recovered("restore-1", check=True)
    await bench.keeper.stop_all("ds", "restore-2", force=False)
    info = await bench.recovered("restore-2", check=False)
    assert info.state is S.STARTED
    assert bench.calls() == ["start", "check", "stop", "start"]


async def test_what_can_not_be_stopped_is_refused_and_goes_on(bench: Bench) -> None:
    await bench.recovered("restore-1", check=True)
    bench.let("fail-stop")
    with pytest.raises(HostError, match="can't stop"):
        await bench.keeper.stop_all("ds", "restore-2", force=False)
    assert (await bench.ended()).state is S.STARTED
    await bench.keeper.stop_all("ds", "restore-2", force=True)


@pytest.mark.parametrize(
    ("act", "said"),
    [("start", "did not start: hook failed (1): can't start"), ("check", "found: can't check")],
)
async def test_a_failure_is_told_with_the_next_step(bench: Bench, act: str, said: str) -> None:
    bench.let(f"fail-{act}")
    info = await bench.recovered("restore-1", check=True)
    assert info.state is S.FAILED
    assert said in info.error
    assert "`trilun db check ds`" in info.next_step


async def test_a_failed_recovery_is_tried_again_when_its_job_asks_again(bench: Bench) -> None:
    bench.let("fail-check")
    assert (await bench.recovered("restore-1", check=True)).state is S.FAILED
    bench.let_go()
    assert (await bench.recovered("restore-1", check=True)).state is S.GOOD


async def test_a_freeze_is_undone_after_the_thaw(bench: Bench) -> None:
    (idle,) = await bench.keeper.quiesce("ds", 5)
    assert idle.state is S.NOT_RUNNING
    await bench.recovered("restore-1", check=True)
    (held,) = await bench.keeper.quiesce("ds", 5)
    assert (held.state, held.done) == (S.QUIESCED, "the hook's freeze")
    await bench.keeper.resume("ds")
    await bench.keeper.resume("ds")
    assert bench.calls() == ["start", "check", "freeze", "thaw"]


async def test_a_freeze_that_fails_or_hangs_is_undone_and_told(bench: Bench) -> None:
    await bench.recovered("restore-1", check=True)
    bench.let("fail-freeze")
    with pytest.raises(HostError, match="can't be prepared for the freeze") as caught:
        await bench.keeper.quiesce("ds", 5)
    assert "--no-quiesce" in caught.value.next_step
    assert bench.calls() == ["start", "check", "freeze", "thaw"]


async def test_a_dead_agents_recovery_goes_on_in_the_next_one(bench: Bench) -> None:
    bench.let("hang-check")
    await bench.keeper.recover("ds", "restore-1", check=True)
    await _until(lambda: bench.calls() == ["start", "check"])
    await bench.keeper.stop()
    bench.let_go()
    bench.keeper = bench.new_keeper()
    await bench.keeper.start()
    assert (await bench.ended()).state is S.GOOD
    assert bench.calls() == ["start", "check", "check"], "what runs is not started again"
    assert bench.keeper.show("ds").job == "restore-1"


async def test_a_recovery_may_end_while_the_next_is_asked_for(bench: Bench) -> None:
    """Both note it: one after the other."""
    await bench.recovered("restore-1", check=True)
    for number in range(2, 32):
        bench.let("fail-check")
        await bench.keeper.recover("ds", f"restore-{number}", check=True)
        await _until(lambda: not bench.keeper.show("ds").running)
        bench.let_go()
        await bench.keeper.recover("ds", f"restore-{number}", check=True)
        assert (await bench.ended()).state is S.GOOD


async def test_a_dead_agent_leaves_nothing_prepared(bench: Bench) -> None:
    await bench.new_keeper().resume_left_over("ds")
    assert bench.calls() == ["thaw"]


async def test_a_new_restore_ends_a_recovery(bench: Bench) -> None:
    bench.let("hang-check")
    await bench.keeper.recover("ds", "restore-1", check=True)
    await _until(lambda: bench.calls() == ["start", "check"])
    await bench.keeper.stop_all("ds", "restore-2", force=False)
    assert bench.calls() == ["start", "check", "stop"]
    assert not bench.keeper.show("ds").running


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process makes it so
            await asyncio.sleep(0.01)
