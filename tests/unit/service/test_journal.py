"""The request journal at every crash image: what was remembered is still known."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import Reply
from controller.service.requests import JournalError, RequestJournal

pytestmark = pytest.mark.plain


def reply(request_id: str, message: str = "done") -> Reply:
    return Reply(id=request_id, node="n", verdict=Verdict.ACCEPTED, code=Code.OK, message=message)


async def test_answers_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "requests.log"
    journal = await RequestJournal.open(path)
    assert await journal.begin("a") is None
    await journal.finish("a", reply("a"))
    assert await journal.begin("b") is None
    assert await journal.begin("a") == reply("a")
    await journal.close()
    again = await RequestJournal.open(path)
    assert await again.begin("a") == reply("a")
    assert await again.begin("b") is None, "begun without an answer: carried out again"
    await again.close()


async def test_an_id_is_on_disk_before_begin_returns(tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    journal = await RequestJournal.open(path)
    await journal.begin("early")
    assert b'"early"' in path.read_bytes()
    await journal.close()


def _size(path: Path) -> int:
    return path.stat().st_size


async def _written(path: Path, count: int) -> list[int]:
    """A journal with `count` answered ids; how long the file was after each answer."""
    journal = await RequestJournal.open(path)
    lengths = []
    for number in range(count):
        await journal.begin(f"r{number}")
        await journal.finish(f"r{number}", reply(f"r{number}"))
        lengths.append(_size(path))
    await journal.close()
    return lengths


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_end_loses_only_what_was_torn(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal") / "requests.log"

    async def scenario() -> None:
        lengths = await _written(path, 4)
        whole = path.read_bytes()
        header_bytes = whole.index(b"\n") + 1
        cut = data.draw(st.integers(header_bytes, len(whole)))
        garbage = data.draw(st.binary(max_size=30))
        path.write_bytes(whole[:cut] + garbage)
        journal = await RequestJournal.open(path)
        for number, length in enumerate(lengths):
            known = await journal.begin(f"r{number}")
            if length <= cut:
                assert known == reply(f"r{number}")
        await journal.begin("new")
        await journal.finish("new", reply("new"))
        await journal.close()
        again = await RequestJournal.open(path)
        assert await again.begin("new") == reply("new"), "written behind what was cut off"
        assert await again.begin("r0") == (reply("r0") if lengths[0] <= cut else None)
        await again.close()

    asyncio.run(scenario())


async def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    await _written(path, 2)
    whole = path.read_bytes()
    first, last = whole.rsplit(b'"done"', 1)
    path.write_bytes(first + b'"dune"' + last)
    journal = await RequestJournal.open(path)
    assert await journal.begin("r0") == reply("r0")
    assert await journal.begin("r1") is None, "its answer can't be trusted"
    await journal.close()


async def test_it_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "requests.log"
    journal = await RequestJournal.open(path, max_ids=8)
    for number in range(200):
        await journal.begin(f"r{number}")
        await journal.finish(f"r{number}", reply(f"r{number}"))
        assert path.read_bytes().count(b"\n") <= 4 * 8 + 2
    assert await journal.begin("r199") == reply("r199")
    assert await journal.begin("r150") is None, "forgotten"
    await journal.close()
    again = await RequestJournal.open(path, max_ids=8)
    assert await again.begin("r199") == reply("r199")
    await again.close()


async def test_a_large_result_is_not_recorded(tmp_path: Path) -> None:
    journal = await RequestJournal.open(tmp_path / "requests.log")
    large = reply("a").model_copy(update={"result": {"x": "y" * 100_000}})
    await journal.begin("a")
    await journal.finish("a", large)
    assert await journal.begin("a") == reply("a")
    await journal.close()


@pytest.mark.parametrize("content", [b"something else\n", b"\0" * 100])
async def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "requests.log"
    path.write_bytes(content)
    with pytest.raises(JournalError):
        await RequestJournal.open(path)
    assert path.read_bytes() == content


async def test_after_a_failed_write_nothing_is_promised(tmp_path: Path) -> None:
    journal = await RequestJournal.open(tmp_path / "requests.log")
    full = os.open("/dev/full", os.O_WRONLY)
    fd, journal._fd = journal._fd, full
    with pytest.raises(RejectedError) as caught:
        await journal.begin("a")
    assert caught.value.code is Code.IO_ERROR
    journal._fd = fd
    with pytest.raises(RejectedError):
        await journal.begin("b")
    os.close(full)
    await journal.close()
