"""A logical unit in memory, and a command that notes how it ended."""

from __future__ import annotations

from collections.abc import Callable

from targets.lun import Access, Done, Losses, LunError, LunFault, LunIdentity, NoLosses
from targets.scsi.command import Command, Nexus
from targets.scsi.device import DeviceServer

IDENTITY = LunIdentity(naa=bytes.fromhex("6" + "0123456789abcde" * 2 + "f"), serial="MEM0001")


class MemoryLun:
    """Done at once, unless `held` is a list: then the caller runs what it collects."""

    def __init__(self, size_bytes: int = 1 << 20) -> None:
        self.data = bytearray(size_bytes)
        self.access = Access.READ_WRITE
        self.losses: Losses = NoLosses()
        self.fault: LunFault | None = None
        self.held: list[Callable[[], None]] | None = None
        self.later: Callable[..., object] | None = None
        """How to call back from outside the command, if not at once."""
        self.log: list[str] = []

    @property
    def identity(self) -> LunIdentity:
        return IDENTITY

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    def _end(self, done: Done) -> None:
        error = LunError(self.fault) if self.fault is not None else None
        if self.later is not None:
            self.later(done, error)
        elif self.held is None:
            done(error)
        else:
            self.held.append(lambda: done(error))

    def release(self) -> None:
        """Let everything held go."""
        held, self.held = self.held or [], None
        for each in held:
            each()

    def read(self, offset_bytes: int, into: memoryview, done: Done) -> None:
        self.log.append(f"read {offset_bytes} {len(into)}")
        into[:] = self.data[offset_bytes : offset_bytes + len(into)]
        self._end(done)

    def write(self, offset_bytes: int, data: memoryview, fua: bool, done: Done) -> None:
        self.log.append(f"write {offset_bytes} {len(data)}{' fua' if fua else ''}")
        if self.fault is None:
            self.data[offset_bytes : offset_bytes + len(data)] = data
        self._end(done)

    def discard(self, offset_bytes: int, length_bytes: int, done: Done) -> None:
        self.log.append(f"discard {offset_bytes} {length_bytes}")
        self.data[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)
        self._end(done)

    def flush(self, done: Done) -> None:
        self.log.append("flush")
        self._end(done)


class NotedCommand(Command):
    """Remembers that, and how often, it was completed."""

    __slots__ = ("completions", "room")

    def __init__(self, cdb: bytes, nexus: Nexus, out: bytes, room: int) -> None:
        super().__init__()
        self.cdb = cdb.ljust(16, b"\0")
        self.nexus = nexus
        self.data_out = (memoryview(out),) if out else ()
        self.offered_bytes = len(out)
        self.room = bytearray(room)
        self.data_in = (memoryview(self.room),) if room else ()
        self.completions = 0

    def completed(self) -> None:
        self.completions += 1

    @property
    def condition(self) -> tuple[int, int, int] | None:
        """Key, ASC, ASCQ; None when the command ended well."""
        if not self.status:
            return None
        return self.sense[2] & 0xF, self.sense[12], self.sense[13]


def run(
    server: DeviceServer, nexus: Nexus, cdb: str | bytes, out: bytes = b"", room: int = 0
) -> NotedCommand:
    """Submit a command; hexadecimal CDBs may have blanks."""
    raw = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
    command = NotedCommand(raw, nexus, out, room)
    server.submit(command)
    return command
