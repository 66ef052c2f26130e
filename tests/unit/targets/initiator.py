"""A small initiator: PDUs out, PDUs in, over asyncio streams; for tests only."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

from targets.iscsi import text
from targets.iscsi.pdu import BHS, NO_TAG, Header, Opcode

IQN = "iqn.2026-11.io.trilun:test"
HOST = "iqn.2026-11.example:host"
READ, WRITE, FINAL, IMMEDIATE = 0x40, 0x20, 0x80, 0x40


@dataclass
class Pdu:
    """A PDU that came."""

    header: Header
    data: bytes

    @property
    def opcode(self) -> int:
        return int(self.header[0]) & 0x3F

    @property
    def status(self) -> int:
        return int(self.header[3])


class Initiator:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.cmd_sn = 100
        self.itt = 1

    @classmethod
    async def connect(cls, address: tuple[str, int]) -> Initiator:
        return cls(*await asyncio.open_connection(*address))

    def send(
        self, opcode: int, flags: int, words: tuple[int, ...], *, lun: int = 0, data: bytes = b""
    ) -> None:
        padded = data + bytes(-len(data) & 3)
        self.writer.write(BHS.pack(opcode, flags, 0, 0, len(data), lun, *words) + padded)

    async def receive(self) -> Pdu:
        async with asyncio.timeout(5):
            header = BHS.unpack(await self.reader.readexactly(48))
            size = header[4] & 0xFFFFFF
            data = await self.reader.readexactly(size + 3 & ~3)
        return Pdu(header, data[:size])

    async def closed(self) -> bool:
        async with asyncio.timeout(5):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True

    async def login(
        self, keys: dict[str, str] | None = None, *, isid: int = 1, discovery: bool = False
    ) -> Pdu:
        pairs = {"InitiatorName": HOST} | (keys or {})
        pairs |= {"SessionType": "Discovery"} if discovery else {"TargetName": IQN}
        words = (self.itt, 0, self.cmd_sn, 0, 0, 0, 0, 0)
        self.send(0x43, 0x87, words, lun=isid << 16, data=text.encode(pairs.items()))
        return await self.receive()

    def command(
        self,
        cdb: bytes,
        flags: int = 0,
        expected: int = 0,
        data: bytes = b"",
        *,
        lun: int = 0,
        final: bool = True,
        immediate: bool = False,
    ) -> int:
        """Send a command; returns its task tag."""
        self.itt += 1
        words = struct.unpack(">4I", cdb.ljust(16, b"\0"))
        head = (self.itt, expected, self.cmd_sn, 0)
        opcode = Opcode.SCSI_COMMAND | (IMMEDIATE if immediate else 0)
        self.send(
            opcode, flags | (FINAL if final else 0), (*head, *words), lun=lun << 48, data=data
        )
        if not immediate:
            self.cmd_sn += 1
        return self.itt

    def data_out(
        self,
        itt: int,
        offset: int,
        data: bytes,
        *,
        ttt: int = NO_TAG,
        sn: int = 0,
        last: bool = True,
    ) -> None:
        flags = FINAL if last else 0
        self.send(Opcode.DATA_OUT, flags, (itt, ttt, 0, 0, 0, sn, offset, 0), data=data)

    async def clear(self) -> None:
        """Hear the power-on attention."""
        self.command(bytes(6))
        assert (await self.receive()).status == 2

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


def read_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x28, 0, lba, 0, blocks, 0)


def write_10(lba: int, blocks: int) -> bytes:
    return struct.pack(">BBIBHB", 0x2A, 0, lba, 0, blocks, 0)
