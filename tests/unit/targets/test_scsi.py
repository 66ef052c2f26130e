"""The device server: bytes of its answers, and every command's error paths."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.lun import Access, LunFault, UnitAttention
from targets.scsi import cdb as cdbs
from targets.scsi.command import Nexus
from targets.scsi.device import HANDLERS, DeviceServer
from targets.scsi.opcodes import USAGE
from targets.scsi.sense import Sense, SenseKey, fixed_format
from targets.scsi.target import ScsiTarget, decode_lun, encode_lun
from tests.unit.targets.memory import IDENTITY, MemoryLun, NotedCommand, run

pytestmark = pytest.mark.plain

INVALID_FIELD = (5, 0x24, 0)
OUT_OF_RANGE = (5, 0x21, 0)
PROTECTED = (7, 0x27, 0)
NOT_READY = (2, 4, 0)
LAST = 2047


@pytest.fixture
def lun() -> MemoryLun:
    return MemoryLun()


@pytest.fixture
def server(lun: MemoryLun) -> DeviceServer:
    return DeviceServer(lun)


@pytest.fixture
def nexus(server: DeviceServer) -> Nexus:
    return server.open_nexus("host", power_on=False)


def test_sense_bytes_are_fixed_format() -> None:
    assert fixed_format(Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0), 0x1234).hex() == (
        "f00005000012340a00000000210000000000"
    )
    assert fixed_format(Sense(SenseKey.NOT_READY, 4, 1), 1 << 32)[:3].hex() == "700002"


def test_standard_inquiry(server: DeviceServer, nexus: Nexus) -> None:
    data = run(server, nexus, "12 00 00 00ff 00").reply
    assert len(data) == 96
    assert data[:8].hex() == "000006125b000002"
    assert data[8:36] == b"TRILUN  VOLUME          0001"
    assert data[58:66].hex() == "00a0046004c00960"
    assert run(server, nexus, "12 00 00 0005 00").reply == data[:5]


def test_vital_product_data(server: DeviceServer, nexus: Nexus) -> None:
    def page(code: int) -> bytes:
        return run(server, nexus, bytes((0x12, 1, code, 0, 255, 0))).reply

    assert page(0x00).hex() == "00000006008083b0b1b2"
    assert page(0x80) == b"\0\x80\0\x07MEM0001"
    naa = page(0x83)
    assert naa[4:8].hex() == "01030010"
    assert naa[8:24] == IDENTITY.naa
    limits = page(0xB0)
    assert len(limits) == 64
    assert limits[4] == 1
    assert struct.unpack_from(">HIII", limits, 6) == (8, 32768, 512, 0)
    assert struct.unpack_from(">II", limits, 20) == (1 << 20, 256)
    assert struct.unpack_from(">Q", limits, 36) == (32768,)
    assert page(0xB1)[4:6].hex() == "0001"
    assert page(0xB2).hex() == "00b2000400e40200"


@pytest.mark.parametrize("cdb", ["12 00 80 00ff 00", "12 01 c0 00ff 00", "12 02 00 00ff 00"])
def test_inquiry_refuses(server: DeviceServer, nexus: Nexus, cdb: str) -> None:
    assert run(server, nexus, cdb).condition == INVALID_FIELD


def test_capacity(server: DeviceServer, nexus: Nexus) -> None:
    assert run(server, nexus, "25" + "00" * 9).reply.hex() == "000007ff00000200"
    long = run(server, nexus, "9e10" + "00" * 8 + "00000020" + "0000").reply
    assert long[:16].hex() == "00000000000007ff00000200" + "0003c000"
    assert len(long) == 32
    assert run(server, nexus, "25 00 00000001 0000 00 00").condition == INVALID_FIELD
    assert run(server, nexus, "9e11" + "00" * 14).condition == INVALID_FIELD


def test_capacity_beyond_32_bits(nexus: Nexus, server: DeviceServer) -> None:
    class Huge(MemoryLun):
        @property
        def size_bytes(self) -> int:
            return 4 << 40

    huge = DeviceServer(Huge())
    assert run(huge, nexus, "25" + "00" * 9).reply.hex() == "ffffffff00000200"
    long = run(huge, nexus, "9e10" + "00" * 8 + "00000020" + "0000").reply
    assert int.from_bytes(long[:8], "big") == (4 << 40) // 512 - 1


def _read(lba: int, blocks: int, size: int = 10, flags: int = 0) -> bytes:
    if size == 6:
        return bytes((0x08,)) + lba.to_bytes(3, "big") + bytes((blocks & 255, 0))
    if size == 10:
        return struct.pack(">BBIBHB", 0x28, flags, lba, 0, blocks, 0)
    if size == 12:
        return struct.pack(">BBIIBB", 0xA8, flags, lba, blocks, 0, 0)
    return struct.pack(">BBQIBB", 0x88, flags, lba, blocks, 0, 0)


def _write(lba: int, blocks: int, size: int = 10, flags: int = 0) -> bytes:
    read = bytearray(_read(lba, blocks, size, flags))
    read[0] |= 2
    return bytes(read)


@pytest.mark.parametrize("size", [6, 10, 12, 16])
def test_what_is_written_is_read(
    server: DeviceServer, nexus: Nexus, lun: MemoryLun, size: int
) -> None:
    data = bytes(range(256)) * 8
    assert run(server, nexus, _write(5, 4, size), data).condition is None
    command = run(server, nexus, _read(5, 4, size), room=2048)
    assert (bytes(command.room), command.in_bytes, command.asked_bytes) == (data, 2048, 2048)
    assert lun.data[2560:4608] == data
    assert command.completions == 1


def test_six_byte_zero_means_256_blocks(server: DeviceServer, nexus: Nexus) -> None:
    assert run(server, nexus, _read(0, 0, 6), room=131072).in_bytes == 131072


@pytest.mark.parametrize("size", [10, 12, 16])
@pytest.mark.parametrize("make", [_read, _write])
def test_range_checks(server: DeviceServer, nexus: Nexus, size: int, make: object) -> None:
    assert callable(make)
    assert run(server, nexus, make(LAST, 2, size), bytes(1024), 1024).condition == OUT_OF_RANGE
    assert run(server, nexus, make(LAST + 2, 0, size)).condition == OUT_OF_RANGE
    assert run(server, nexus, make(LAST, 1, size), bytes(512), 512).condition is None
    assert run(server, nexus, make(0, 0, size)).condition is None
    assert run(server, nexus, make(0, 1, size, 0x20), bytes(512), 512).condition == INVALID_FIELD


def test_transfer_limit(nexus: Nexus) -> None:
    server = DeviceServer(MemoryLun(17 << 20))
    assert run(server, nexus, _read(0, 32769, 16)).condition == INVALID_FIELD
    assert run(server, nexus, _write(0, 32769, 16)).condition == INVALID_FIELD


def test_forced_unit_access(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    run(server, nexus, _write(0, 1, flags=0x18), bytes(512))
    run(server, nexus, _read(0, 1, flags=0x08), room=512)
    assert lun.log == ["write 0 512 fua", "flush", "read 0 512"]


def test_short_buffers_leave_a_residual(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    command = run(server, nexus, _read(0, 4), room=1024)
    assert (command.in_bytes, command.asked_bytes) == (1024, 2048)
    command = run(server, nexus, _write(0, 4), b"x" * 1024)
    assert (lun.log[-1], command.asked_bytes) == ("write 0 1024", 2048)


def test_segments_are_filled_in_order(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    lun.data[:2048] = bytes(range(256)) * 8
    command = NotedCommand(_read(0, 4), nexus, b"", 0)
    pieces = [bytearray(512), bytearray(1024), bytearray(4096)]
    command.cdb = command.cdb.ljust(16, b"\0")
    command.data_in = [memoryview(piece) for piece in pieces]
    lun.held = []
    server.submit(command)
    assert command.completions == 0
    lun.release()
    assert (command.completions, command.in_bytes) == (1, 2048)
    assert b"".join(pieces)[:2048] == lun.data[:2048]


@pytest.mark.parametrize(
    ("fault", "condition"),
    [
        (LunFault.NOT_READY, NOT_READY),
        (LunFault.WRITE_PROTECTED, PROTECTED),
        (LunFault.FENCED, PROTECTED),
        (LunFault.NO_SPACE, (7, 0x27, 7)),
        (LunFault.READ_ERROR, (3, 0x11, 0)),
        (LunFault.WRITE_ERROR, (3, 0x0C, 0)),
    ],
)
@pytest.mark.parametrize(
    ("cdb", "out"),
    [
        (_write(0, 1), bytes(512)),
        (_read(0, 1), b""),
        (_read(0, 1, flags=8), b""),
        ("35" + "00" * 9, b""),
        ("2f 00 00000000 00 0001 00", b""),
        ("2e 00 00000000 00 0001 00", bytes(512)),
        ("41 00 00000000 00 0001 00", bytes(512)),
        ("41 08 00000000 00 0001 00", bytes(512)),
        (
            "42 00 00000000 00 0018 00",
            bytes.fromhex("00160010" + "00" * 12 + "00000001" + "00" * 4),
        ),
        ("1b 00 00 00 00 00", b""),
    ],
)
def test_faults_become_sense(
    server: DeviceServer, nexus: Nexus, lun: MemoryLun, fault: LunFault,
    condition: tuple[int, int, int], cdb: str | bytes, out: bytes,
) -> None:  # fmt: skip
    lun.fault = fault
    command = run(server, nexus, cdb, out, room=512)
    assert command.condition == condition
    assert (command.completions, command.asked_bytes) == (1, 0)


WRITES = [
    (_write(0, 1), bytes(512)),
    ("2e 00 00000000 00 0001 00", bytes(512)),
    ("41 00 00000000 00 0001 00", bytes(512)),
    ("93 09 0000000000000000 00000001 00 00", b""),
    ("42 00 00000000 00 0000 00", b""),
]


@pytest.mark.parametrize(("cdb", "out"), WRITES)
def test_read_only(
    server: DeviceServer, nexus: Nexus, lun: MemoryLun, cdb: str | bytes, out: bytes
) -> None:
    lun.access = Access.READ_ONLY
    assert run(server, nexus, cdb, out).condition == PROTECTED
    assert lun.log == []
    assert run(server, nexus, _read(0, 1), room=512).condition is None
    assert run(server, nexus, "1a 08 0a 00 ff 00").reply[2] == 0x90


@pytest.mark.parametrize(
    ("cdb", "out"),
    [*WRITES, (_read(0, 1), b""), ("00" * 6, b""), ("25" + "00" * 9, b""), ("35" + "00" * 9, b"")],
)
def test_not_ready(
    server: DeviceServer, nexus: Nexus, lun: MemoryLun, cdb: str | bytes, out: bytes
) -> None:
    lun.access = Access.NOT_READY
    assert run(server, nexus, cdb, out, room=512).condition == NOT_READY
    assert run(server, nexus, "12 00 00 00ff 00").condition is None


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(HANDLERS)))
def test_unknown_opcodes(server: DeviceServer, nexus: Nexus, opcode: int) -> None:
    assert run(server, nexus, bytes((opcode,))).condition == (5, 0x20, 0)


def test_every_command_has_usage_data() -> None:
    assert {op for op, _ in USAGE} == set(HANDLERS) | {cdbs.Op.REPORT_LUNS}
    lengths = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}
    for (op, _), usage in USAGE.items():
        assert len(usage) == lengths[op >> 5], hex(op)


def test_report_supported_opcodes(server: DeviceServer, nexus: Nexus) -> None:
    everything = run(server, nexus, "a30c 00 00 0000 0000ffff 00 00").reply
    assert int.from_bytes(everything[:4], "big") == len(everything) - 4 == 8 * len(USAGE)
    one = run(server, nexus, "a30c 01 28 0000 000000ff 00 00").reply
    assert one.hex() == "0003000a" + "2818ffffffff1fffff07"
    assert run(server, nexus, "a30c 01 c0 0000 000000ff 00 00").reply[1] & 7 == 1
    assert run(server, nexus, "a30c 01 9e 0010 000000ff 00 00").condition == INVALID_FIELD
    assert run(server, nexus, "a30c 04 9e 0010 000000ff 00 00").condition == INVALID_FIELD
    assert run(server, nexus, "a30d 00 00 0000 000000ff 00 00").condition == INVALID_FIELD


def test_mode_pages(server: DeviceServer, nexus: Nexus) -> None:
    everything = run(server, nexus, "1a 00 3f 00 ff 00").reply
    assert everything[:4].hex() == f"{len(everything) - 1:02x}001008"
    assert struct.unpack_from(">II", everything, 4) == (2048, 512)
    assert everything[12:15].hex() == "081204"
    assert run(server, nexus, "1a 08 48 00 ff 00").reply[6:].hex() == "00" * 18
    assert run(server, nexus, "1a 08 4a 00 ff 00").reply[4:].hex() == "0a0a00000800000000000000"
    long = run(server, nexus, "5a 10 3f 00 000000 00ff 00").reply
    assert (long[4], long[7], int.from_bytes(long[:2], "big")) == (1, 16, len(long) - 2)
    assert run(server, nexus, "1a 00 c8 00 ff 00").condition == (5, 0x39, 0)
    assert run(server, nexus, "1a 00 01 00 ff 00").condition == INVALID_FIELD
    assert run(server, nexus, "1a 00 08 01 ff 00").condition == INVALID_FIELD


def test_software_write_protect(server: DeviceServer, nexus: Nexus) -> None:
    other = server.open_nexus("other", power_on=False)
    page = bytearray(run(server, nexus, "1a 08 0a 00 ff 00").reply)
    page[0] = page[2] = 0
    page[4 + 4] |= 0x08
    assert run(server, nexus, "15 10 00 00 10 00", bytes(page)).condition is None
    assert run(server, nexus, _write(0, 1), bytes(512)).condition == PROTECTED
    assert run(server, other, "00" * 6).condition == (6, 0x2A, 1)
    page[4 + 3] ^= 0x40
    assert run(server, nexus, "15 10 00 00 10 00", bytes(page)).condition == (5, 0x26, 0)
    assert run(server, nexus, "15 10 00 00 03 00", b"\0\0\0").condition == (5, 0x1A, 0)
    assert run(server, nexus, "15 00 00 00 10 00", bytes(page)).condition == INVALID_FIELD
    assert run(server, nexus, "15 10 00 00 00 00").condition is None


def test_unit_attentions_reach_each_nexus_once(server: DeviceServer) -> None:
    first, second = server.open_nexus("1"), server.open_nexus("2", power_on=False)
    server.attention(UnitAttention.DATA_CHANGED)
    server.attention(UnitAttention.DATA_CHANGED)
    assert run(server, first, "12 00 00 00ff 00").condition is None
    assert run(server, first, "00" * 6).condition == (6, 0x29, 0)
    assert run(server, first, "03 00 00 00 ff 00").reply[12:14].hex() == "2800"
    assert run(server, first, "00" * 6).condition is None
    assert run(server, second, "00" * 6).condition == (6, 0x28, 0)
    assert run(server, second, "03 00 00 00 ff 00").reply[2] == 0


def _unmap(*ranges: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in ranges)
    return struct.pack(">HH4x", len(body) + 6, len(body)) + body


def _unmap_cdb(length: int, flags: int = 0) -> bytes:
    return struct.pack(">BB5xHB", 0x42, flags, length, 0)


def test_unmap(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    lun.data[:] = b"\xff" * len(lun.data)
    parameters = _unmap((8, 8), (100, 1), (0, 0))
    assert run(server, nexus, _unmap_cdb(len(parameters)), parameters).condition is None
    assert lun.log == ["discard 4096 4096", "discard 51200 512"]
    beyond = _unmap((8, 8), (LAST, 2))
    assert run(server, nexus, _unmap_cdb(len(beyond)), beyond).condition == OUT_OF_RANGE
    many = _unmap(*[(0, 1)] * 257)
    assert run(server, nexus, _unmap_cdb(len(many)), many).condition == (5, 0x26, 0)
    assert run(server, nexus, _unmap_cdb(4), b"\0\0\0\0").condition == (5, 0x1A, 0)
    assert run(server, nexus, _unmap_cdb(0, 1)).condition == INVALID_FIELD
    assert len(lun.log) == 2


def test_write_same(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    block = bytes(range(256)) * 2
    assert run(server, nexus, "41 00 00000002 00 0400 00", block).condition is None
    assert lun.data[1024 : 1024 + 524288] == block * 1024
    assert len(lun.log) == 2
    assert run(server, nexus, "93 08 0000000000000000 00000008 0000", bytes(512)).condition is None
    assert lun.log[-1] == "discard 0 4096"
    assert run(server, nexus, "93 08 0000000000000000 00000008 0000", block).condition is None
    assert lun.log[-1] == "write 0 4096"
    assert run(server, nexus, "93 01 0000000000000000 00000008 0000").condition is None
    assert lun.data[:4096] == bytes(4096)
    for cdb, out in [
        ("41 00 00000002 00 0000 00", block),
        ("41 10 00000002 00 0001 00", block),
        ("41 20 00000002 00 0001 00", block),
        ("41 02 00000002 00 0001 00", block),
        ("41 00 00000002 00 0001 00", block + block),
        ("41 00 00000002 00 0001 00", block[:100]),
    ]:
        assert run(server, nexus, cdb, out).condition == INVALID_FIELD
    assert run(server, nexus, "41 00 000007ff 00 0002 00", block).condition == OUT_OF_RANGE


def test_a_long_sweep_does_not_recurse(nexus: Nexus) -> None:
    lun = MemoryLun(16 << 20)
    server = DeviceServer(lun)
    command = run(server, nexus, "93 01 0000000000000000 00008000 0000")
    assert (command.condition, command.completions) == (None, 1)
    assert len(lun.log) == 64
    lun.held = []
    command = run(server, nexus, "2f 00 00000000 00 0400 00")
    while lun.held:
        lun.held.pop()()
    assert command.completions == 1


def test_verify(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    lun.data[512:1024] = b"a" * 512
    assert run(server, nexus, "2f 00 00000001 00 0001 00").condition is None
    assert run(server, nexus, "2f 02 00000001 00 0001 00", b"a" * 512).condition is None
    wrong = run(server, nexus, "2f 02 00000001 00 0001 00", b"a" * 100 + b"b" * 412)
    assert wrong.condition == (0xE, 0x1D, 0)
    assert wrong.sense[0] == 0xF0
    assert int.from_bytes(wrong.sense[3:7], "big") == 100
    assert run(server, nexus, "2f 06 00000001 00 0002 00", b"a" * 512).condition == (0xE, 0x1D, 0)
    assert run(server, nexus, "2f 04 00000001 00 0001 00").condition == INVALID_FIELD
    assert run(server, nexus, "2f 00 000007ff 00 0002 00").condition == OUT_OF_RANGE
    assert run(server, nexus, "2f 00 00000001 00 0000 00").condition is None
    assert run(server, nexus, "2f 02 00000001 00 0001 00", b"a").condition == (0xB, 0x0C, 0x0D)


def test_write_and_verify_is_durable(server: DeviceServer, nexus: Nexus, lun: MemoryLun) -> None:
    assert run(server, nexus, "2e 02 00000001 00 0001 00", b"v" * 512).condition is None
    assert lun.log == ["write 512 512 fua", "read 512 512"]


def test_lun_fields() -> None:
    assert decode_lun(encode_lun(7)) == 7
    assert decode_lun(0x4007 << 48) == 7
    assert decode_lun(0x8000 << 48) is None
    assert decode_lun(0x0100 << 48) is None
    assert decode_lun(1) is None


def test_report_luns_and_missing_units(lun: MemoryLun) -> None:
    target = ScsiTarget({0: lun, 5: lun})
    nexus = Nexus("host")

    def ask(cdb: str) -> NotedCommand:
        command = NotedCommand(bytes.fromhex(cdb), nexus, b"", 0)
        target.submit(target.find(3 << 48), command)
        return command

    assert ask("a0 00 00 000000 000000ff 00 00").reply.hex() == (
        "0000001000000000" + "0000000000000000" + "0005000000000000"
    )
    assert ask("a0 00 03 000000 000000ff 00 00").condition == INVALID_FIELD
    assert ask("a0 00 00 000000 0000000f 00 00").condition == INVALID_FIELD
    assert ask("12 00 00 00ff 00").reply[0] == 0x7F
    assert ask("03 00 00 00 ff 00").reply[12] == 0x25
    assert ask("00" * 6).condition == (5, 0x25, 0)
    with pytest.raises(ValueError):
        ScsiTarget({256: lun})


@given(cdb=st.binary(min_size=16, max_size=16), out=st.binary(max_size=2048))
def test_no_cdb_breaks_the_server(cdb: bytes, out: bytes) -> None:
    server = DeviceServer(MemoryLun(64 << 10))
    nexus = server.open_nexus("host", power_on=False)
    command = run(server, nexus, cdb, out, room=min(cdbs.data_in_bytes(cdb), 4096))
    assert command.completions == 1
    assert command.status in {0, 2}
