"""A copier on its own: a channel and stores that do everything at once."""

from __future__ import annotations

from controller.link.channel import Ticket
from controller.pair.copier import Copier
from controller.volume.bitmap import DirtyBitmap
from controller.volume.store import StoreDone
from tests.unit.pair.slow import BLOCK, QuietVolume
from tests.unit.pair.test_verifier import Clock


class _FlushesAtOnce(QuietVolume):
    """`done` may run before the call returns (`controller.volume.store`)."""

    def flush_store(self, done: StoreDone) -> None:
        done(None)


class _Direct:
    """A channel whose other side does everything at once."""

    def write(self, offset_bytes: int, data: memoryview, ticket: Ticket, *, copy: bool) -> None:
        del offset_bytes, data, copy
        ticket.acked()

    def flush(self, ticket: Ticket, *, copy: bool) -> None:
        del copy
        ticket.acked()

    def control(self, message: object) -> None:
        del message


def test_a_copy_ends_where_both_sides_flush_at_once() -> None:
    volume, bitmap, clock, told = (
        _FlushesAtOnce(bytearray(b"h" * BLOCK)),
        DirtyBitmap(1),
        Clock(),
        [],
    )
    volume.store.at_once = True
    bitmap.set_all()
    copier = Copier(
        volume,  # type: ignore[arg-type]
        bitmap,
        None,
        _Direct(),  # type: ignore[arg-type]
        clock,
        None,
        lambda: told.append("done"),
        lambda error: told.append(str(error)),
    )
    copier.pump()
    clock.run()
    assert not len(bitmap)
    assert told == ["done"], "nothing is left to do, and nobody goes on"
