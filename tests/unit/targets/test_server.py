"""The embedded target on a real socket, driven by a small initiator of our own."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from targets.iscsi.chap import ChapCredentials
from targets.iscsi.node import TargetBusyError, TargetConfig, TargetError, UnknownTargetError
from targets.iscsi.pdu import BHS, Opcode
from targets.iscsi.server import IscsiServer, Limits
from targets.lun import UnitAttention
from tests.unit.targets.initiator import HOST, IQN, READ, WRITE, Initiator, read_10, write_10
from tests.unit.targets.memory import MemoryLun

pytestmark = pytest.mark.plain

NO_IMMEDIATE = {"ImmediateData": "No", "InitialR2T": "Yes"}


class Bench:
    """A server with one target over a unit in memory, and its initiators."""

    def __init__(self, limits: Limits) -> None:
        self.now = 1000.0
        self.lun = MemoryLun(32 << 20)
        self.server = IscsiServer(clock=lambda: self.now, random_bytes=os.urandom, limits=limits)
        self.server.add_target(TargetConfig(IQN, {0: self.lun}))
        self.address = ("", 0)
        self._opened: list[Initiator] = []

    async def open(self) -> Initiator:
        """A connection, closed at the end."""
        initiator = await Initiator.connect(self.address)
        self._opened.append(initiator)
        return initiator

    async def login(self, keys: dict[str, str] | None = None, *, isid: int = 1) -> Initiator:
        """A session that has heard its power-on attention."""
        initiator = await self.open()
        assert (await initiator.login(keys, isid=isid)).header[11] == 0
        await initiator.clear()
        return initiator

    async def close(self) -> None:
        for each in self._opened:
            await each.close()
        await self.server.close()


@pytest.fixture
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    made = Bench(getattr(request, "param", Limits()))
    made.address = await made.server.listen("127.0.0.1", 0)
    yield made
    made.lun.release()
    await made.close()
    assert made.server.pool.lent_bytes == 0, "buffers leaked"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, not for a time."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the server has no event for each of these
            await asyncio.sleep(0.001)


async def test_read_and_write(bench: Bench) -> None:
    host = await bench.login()
    data = os.urandom(4096)
    host.command(write_10(8, 8), WRITE, 4096, data)
    answer = await host.receive()
    assert (answer.opcode, answer.status) == (Opcode.SCSI_RESPONSE, 0)
    host.command(read_10(8, 8), READ, 4096)
    answer = await host.receive()
    assert (answer.opcode, answer.header[1], answer.data) == (Opcode.DATA_IN, 0x81, data)


@pytest.mark.parametrize("later", [False, True])
async def test_no_task_or_future_for_a_command(bench: Bench, later: bool) -> None:
    host = await bench.login()
    loop = asyncio.get_running_loop()
    bench.lun.later = loop.call_soon if later else None
    tasks: list[str] = []
    futures = 0

    def factory(
        loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **rest: Any
    ) -> asyncio.Task[Any]:
        tasks.append(repr(work))
        return asyncio.Task(work, loop=loop, **rest)

    # All requests are in one write, all answers are taken from the stream's own buffer: the
    # initiator itself makes futures only where it waits, and those are counted apart.
    for number in range(100):
        host.command(write_10(number, 8), WRITE, 4096, bytes([number]) * 4096)
        host.command(read_10(number, 8), READ, 4096)
    before = loop.create_future

    def counted() -> asyncio.Future[Any]:
        nonlocal futures
        futures += 1
        return before()

    loop.set_task_factory(factory)  # type: ignore[arg-type]
    loop.create_future = counted  # type: ignore[method-assign]
    try:
        waits = 0
        for _ in range(200):
            assert (await host.receive()).status == 0
            waits += 1
    finally:
        loop.set_task_factory(None)
        del loop.create_future
    assert tasks == []
    # At most two waits an answer are the reader's own (header and data).
    assert futures <= 2 * waits + 2


async def test_large_write_by_r2t(bench: Bench) -> None:
    host = await bench.login(NO_IMMEDIATE | {"MaxBurstLength": "65536"})
    data = os.urandom(128 << 10)
    itt = host.command(write_10(0, 256), WRITE, len(data))
    for offset in (0, 65536):
        r2t = await host.receive()
        assert (r2t.opcode, r2t.header[12], r2t.header[13]) == (Opcode.R2T, offset, 65536)
        half = offset + 32768
        host.data_out(itt, offset, data[offset:half], ttt=r2t.header[7], last=False)
        host.data_out(itt, half, data[half : half + 32768], ttt=r2t.header[7], sn=1)
    assert (await host.receive()).status == 0
    assert bench.lun.data[: len(data)] == data


async def test_immediate_and_unsolicited_data(bench: Bench) -> None:
    host = await bench.login({"InitialR2T": "No", "FirstBurstLength": "65536"})
    data = os.urandom(100 << 10)
    itt = host.command(write_10(0, 200), WRITE, len(data), data[:8192], final=False)
    host.data_out(itt, 8192, data[8192:40000], last=False)
    host.data_out(itt, 40000, data[40000:65536], sn=1)
    r2t = await host.receive()
    assert (r2t.header[12], r2t.header[13]) == (65536, len(data) - 65536)
    host.data_out(itt, 65536, data[65536:], ttt=r2t.header[7])
    assert (await host.receive()).status == 0
    assert bench.lun.data[: len(data)] == data


@pytest.mark.parametrize(
    ("offset", "sn", "length", "condition"),
    [(0, 5, 1024, 0x4705), (512, 0, 512, 0x4705), (0, 0, 2048, 0x0C0D), (0, 0, 512, 0x0C0D)],
)
async def test_data_out_out_of_order(
    bench: Bench, offset: int, sn: int, length: int, condition: int
) -> None:
    host = await bench.login(NO_IMMEDIATE)
    itt = host.command(write_10(0, 2), WRITE, 1024)
    r2t = await host.receive()
    host.data_out(itt, offset, bytes(length), ttt=r2t.header[7], sn=sn)
    answer = await host.receive()
    assert (answer.status, struct.unpack_from(">H", answer.data, 14)[0]) == (2, condition)
    host.command(bytes(6))
    assert (await host.receive()).status == 0


async def test_data_that_was_not_allowed(bench: Bench) -> None:
    host = await bench.login(NO_IMMEDIATE)
    host.command(write_10(0, 1), WRITE, 512, bytes(512))
    answer = await host.receive()
    assert answer.data[14:16].hex() == "0c0c"


async def test_long_reads_are_split(bench: Bench) -> None:
    host = await bench.login({"MaxRecvDataSegmentLength": "4096", "MaxBurstLength": "8192"})
    bench.lun.data[:20480] = data = os.urandom(20480)
    host.command(read_10(0, 40), READ, 20480)
    pdus = [await host.receive() for _ in range(5)]
    assert b"".join(pdu.data for pdu in pdus) == data
    assert [pdu.header[1] for pdu in pdus] == [0, 0x80, 0, 0x80, 0x81]
    assert [pdu.header[11] for pdu in pdus] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("blocks", "expected", "flag", "residual"),
    [(2, 512, 4, 512), (1, 1024, 2, 512), (1, 512, 0, 0)],
)
async def test_residuals(
    bench: Bench, blocks: int, expected: int, flag: int, residual: int
) -> None:
    host = await bench.login()
    host.command(read_10(0, blocks), READ, expected)
    answer = await host.receive()
    assert (answer.header[1] & 6, answer.header[13]) == (flag, residual)
    host.command(write_10(0, blocks), WRITE, expected, bytes(expected))
    answer = await host.receive()
    assert (answer.header[1] & 6, answer.header[13]) == (flag, residual)


async def test_command_numbers(bench: Bench) -> None:
    host = await bench.login()
    right = host.cmd_sn
    for wrong in (right - 1, right + 1000):
        host.cmd_sn = wrong
        host.command(bytes(6))
    host.cmd_sn = right
    tag = host.command(bytes(6))
    answer = await host.receive()
    assert (answer.header[6], answer.header[9]) == (tag, right + 1)
    host.cmd_sn += 1
    host.command(bytes(6))
    assert await host.closed()


async def test_window_closes_and_opens(bench: Bench) -> None:
    host = await bench.login()
    bench.lun.held = []
    for _ in range(128):
        host.command(read_10(0, 1), READ, 512)
    host.command(read_10(0, 1), READ, 512)
    await until(lambda: len(bench.lun.held or []) == 128)
    bench.lun.release()
    last = [await host.receive() for _ in range(128)][-1]
    assert last.header[10] - last.header[9] + 1 == 128


async def test_abort_task_waits_for_the_volume(bench: Bench) -> None:
    host = await bench.login()
    bench.lun.held = []
    tag = host.command(read_10(0, 1), READ, 512)
    await until(lambda: bool(bench.lun.held))
    host.send(Opcode.TASK_MANAGEMENT | 0x40, 0x81, (500, tag, host.cmd_sn, 0, 0, 0, 0, 0))
    host.send(Opcode.NOP_OUT | 0x40, 0x80, (501, 0xFFFFFFFF, host.cmd_sn, 0, 0, 0, 0, 0))
    assert (await host.receive()).header[6] == 501
    bench.lun.release()
    answer = await host.receive()
    assert (answer.opcode, answer.header[2]) == (Opcode.TASK_MANAGEMENT_RESPONSE, 0)
    host.send(Opcode.TASK_MANAGEMENT | 0x40, 0x81, (502, tag, host.cmd_sn, 0, 0, 0, 0, 0))
    assert (await host.receive()).header[2] == 1


@pytest.mark.parametrize(
    ("function", "response", "attention"),
    [
        (2, 0, None),
        (3, 5, None),
        (4, 0, "2f00"),
        (5, 0, "2903"),
        (6, 0, "2902"),
        (8, 4, None),
        (9, 255, None),
    ],
)
async def test_task_management(
    bench: Bench, function: int, response: int, attention: str | None
) -> None:
    one, two = await bench.login(isid=1), await bench.login(isid=2)
    itt = two.command(write_10(0, 512), WRITE, 512 << 9)
    assert (await two.receive()).opcode == Opcode.R2T
    one.send(Opcode.TASK_MANAGEMENT | 0x40, 0x80 | function, (9, 0, one.cmd_sn, 0, 0, 0, 0, 0))
    assert (await one.receive()).header[2] == response
    if attention is not None:
        two.data_out(itt, 0, bytes(512), ttt=1)
        two.command(bytes(6))
        answer = await two.receive()
        assert (answer.status, answer.data[14:16].hex()) == (2, attention)


async def test_cold_reset_ends_all_sessions(bench: Bench) -> None:
    one, two = await bench.login(isid=1), await bench.login(isid=2)
    one.send(Opcode.TASK_MANAGEMENT | 0x40, 0x87, (9, 0, one.cmd_sn, 0, 0, 0, 0, 0))
    assert (await one.receive()).opcode == Opcode.TASK_MANAGEMENT_RESPONSE
    assert await one.closed()
    assert await two.closed()


async def test_reinstatement_waits_for_old_commands(bench: Bench) -> None:
    old = await bench.login()
    bench.lun.held = []
    old.command(write_10(0, 8), WRITE, 4096, b"o" * 4096)
    await until(lambda: bool(bench.lun.held))
    new = await bench.open()
    waiting = asyncio.ensure_future(new.login())
    assert await old.closed()
    # Whole round trips of another session later, the new one still waits.
    other = await bench.login(isid=2)
    other.command(bytes(6))
    assert (await other.receive()).status == 0
    assert not waiting.done()
    bench.lun.release()
    assert (await waiting).header[11] == 0
    assert len(bench.server.sessions(IQN)) == 2


async def test_logout_ping_text_and_rejects(bench: Bench) -> None:
    host = await bench.login()
    host.send(Opcode.NOP_OUT | 0x40, 0x80, (70, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0), data=b"ping!")
    assert (await host.receive()).data == b"ping!"
    host.send(Opcode.TEXT | 0x40, 0x80, (71, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0), data=b"SendTargets=\0")
    assert (await host.receive()).data.startswith(f"TargetName={IQN}\0TargetAddress=127".encode())
    host.send(Opcode.TEXT | 0x40, 0x80, (72, 0xFFFFFFFF, 0, 0, 0, 0, 0, 0), data=b"bad\0")
    assert ((await host.receive()).opcode) == Opcode.REJECT
    host.send(Opcode.SNACK | 0x40, 0x80, (73, 0, 0, 0, 0, 0, 0, 0))
    assert (await host.receive()).header[2] == 3
    host.send(0x1C | 0x40, 0x80, (74, 0, 0, 0, 0, 0, 0, 0))
    assert (await host.receive()).header[2] == 5
    host.send(Opcode.LOGOUT | 0x40, 0x81, (75, 5 << 16, 0, 0, 0, 0, 0, 0))
    assert (await host.receive()).header[2] == 1
    host.send(Opcode.LOGOUT | 0x40, 0x80, (76, 0, 0, 0, 0, 0, 0, 0))
    assert ((await host.receive()).opcode) == Opcode.LOGOUT_RESPONSE
    assert await host.closed()


async def test_discovery_of_many_targets(bench: Bench) -> None:
    for number in range(300):
        bench.server.add_target(TargetConfig(f"iqn.2026-11.io.trilun:v{number}", {}))
    host = await bench.open()
    await host.login({"MaxRecvDataSegmentLength": "4096"}, discovery=True)
    host.send(Opcode.TEXT, 0x80, (5, 0xFFFFFFFF, 100, 0, 0, 0, 0, 0), data=b"SendTargets=All\0")
    answer = await host.receive()
    said = answer.data
    number = 101
    while not answer.header[1] & 0x80:
        host.send(Opcode.TEXT, 0x80, (5, answer.header[7], number, 0, 0, 0, 0, 0))
        answer = await host.receive()
        said += answer.data
        number += 1
    assert said.count(b"TargetName=") == 301
    assert number > 103


async def test_targets_and_sessions(bench: Bench) -> None:
    with pytest.raises(TargetError):
        bench.server.add_target(TargetConfig(IQN, {}))
    with pytest.raises(UnknownTargetError):
        bench.server.sessions("iqn.2026-11.io.trilun:none")
    with pytest.raises(UnknownTargetError):
        bench.server.attention(IQN, 3, UnitAttention.MODE_CHANGED)
    with pytest.raises(ValueError):
        TargetConfig("not a name", {})
    host = await bench.login(isid=0x23)
    info = bench.server.sessions(IQN)[0]
    assert (info.initiator, info.isid, info.since) == (HOST, "000000000023", 1000.0)
    bench.server.attention(IQN, 0, UnitAttention.CAPACITY_CHANGED)
    host.command(bytes(6))
    assert (await host.receive()).data[14:16].hex() == "2a09"
    with pytest.raises(TargetBusyError):
        await bench.server.remove_target(IQN)


@pytest.mark.parametrize("bench", [Limits(logout_s=0.2)], indirect=True)
async def test_forced_removal(bench: Bench) -> None:
    host = await bench.login()
    removal = asyncio.ensure_future(bench.server.remove_target(IQN, force=True))
    event = await host.receive()
    assert (event.opcode, event.header[11] >> 24) == (Opcode.ASYNC, 1)
    late = await bench.open()
    assert (await late.login()).header[11] >> 16 == 0x0203
    await removal
    assert await host.closed()
    assert bench.server.targets() == []


@pytest.mark.parametrize("bench", [replace(Limits(), pool_bytes=16 << 20)], indirect=True)
async def test_small_pool_makes_commands_wait(bench: Bench) -> None:
    host = await bench.login(NO_IMMEDIATE | {"MaxRecvDataSegmentLength": "262144"})
    bench.lun.data[: 8 << 20] = os.urandom(8 << 20)
    for _ in range(6):
        host.command(read_10(0, 16384), READ, 8 << 20)
    got = 0
    while got < 6 * (8 << 20):
        got += len((await host.receive()).data)
    assert got == 6 * (8 << 20)


async def test_a_slow_reader_is_not_read_from(bench: Bench) -> None:
    host = await bench.login({"MaxRecvDataSegmentLength": "262144"})
    host.writer.transport.pause_reading()  # type: ignore[attr-defined]
    for _ in range(40):
        host.command(read_10(0, 2048), READ, 1 << 20)
    connection = next(iter(bench.server.connections))
    await until(lambda: not connection._reading)
    assert connection._outbox.unsent_bytes < 45 << 20
    host.writer.transport.resume_reading()  # type: ignore[attr-defined]
    got = 0
    while got < 40 << 20:
        got += len((await host.receive()).data)


async def test_silent_and_slow_peers_are_dropped(bench: Bench) -> None:
    quiet, never = await bench.login(), await bench.open()
    await until(lambda: len(bench.server.connections) == 2)
    bench.now += 25
    assert (await quiet.receive()).opcode == Opcode.NOP_IN
    assert await never.closed()
    bench.now += 40
    assert await quiet.closed()


async def test_chap_target(bench: Bench) -> None:
    secured = ChapCredentials("user", "secret12secret")
    bench.server.add_target(TargetConfig(IQN + ".chap", {0: bench.lun}, secured))
    host = await bench.open()
    answer = await host.login({"TargetName": IQN})
    assert answer.header[11] == 0
    other = await bench.open()
    words = (1, 0, 1, 0, 0, 0, 0, 0)
    data = f"InitiatorName={HOST}\0TargetName={IQN}.chap\0".encode()
    other.send(0x43, 0x87, words, data=data)
    assert (await other.receive()).header[11] >> 16 == 0x0201
    assert await other.closed()


async def test_digests(bench: Bench) -> None:
    from targets.iscsi.pdu import digest

    host = await bench.login()
    await host.close()
    host = await bench.open()
    await host.login({"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"})
    cdb = struct.unpack(">4I", bytes(16))
    header = BHS.pack(1, 0x80, 0, 0, 0, 0, 2, 0, 100, 0, *cdb)
    host.writer.write(header + digest(header))
    raw = await host.reader.readexactly(48 + 4)
    assert raw[48:] == digest(raw[:48])
    sense = await host.reader.readexactly(20 + 4)
    assert sense[20:] == digest(sense[:20])
    host.writer.write(header + b"\0\0\0\0")
    assert await host.closed()


def test_crc_vectors() -> None:
    from targets.iscsi.pdu import digest

    assert digest(bytes(32)).hex() == "aa36918a"
    assert digest(b"\xff" * 32).hex() == "43aba862"
    assert digest(bytes(range(16)), bytes(range(16, 32))).hex() == "4e79dd46"


async def test_hostile_bytes(bench: Bench) -> None:
    """Garbage, truncated and mutated PDUs: the server lives, and nothing leaks."""
    chaos = random.Random(7)
    for round_ in range(120):
        host = await bench.open()
        if round_ % 3:
            await host.login(isid=round_)
        if round_ % 3 == 2:
            base = bytearray(
                BHS.pack(1, 0xA0, 0, 0, 512, 0, 7, 4096, 100, 0, 0x2A000000, 0, 8 << 8, 0)
            )
            for _ in range(chaos.randrange(1, 6)):
                base[chaos.randrange(48)] = chaos.randrange(256)
            host.writer.write(bytes(base) + chaos.randbytes(chaos.randrange(2000)))
        else:
            host.writer.write(chaos.randbytes(chaos.randrange(1, 3000)))
        await asyncio.sleep(0)
        await host.close()
    host = await bench.login(isid=0x999)
    host.command(bytes(6))
    assert (await host.receive()).status == 0
    await until(lambda: len(bench.server.connections) == 1)
    assert bench.server.pool.lent_bytes == 0


def test_clock_is_injected() -> None:
    server = IscsiServer(clock=time.monotonic, random_bytes=os.urandom)
    assert server.targets() == []
