"""A store that fails, delays or fills up on demand, on top of any other.

Owns the faults that tests (and operators who rehearse) ask for. Must not invent any of its
own: without a rule it is transparent. Every failure is a StoreError like a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from controller.volume.store import BlockStore, GrowingStore, StoreDone, StoreError, StoreFault

Call = Literal["read", "write", "discard", "flush"]


@dataclass(slots=True)
class FaultRule:
    """Meets calls of one kind that overlap a range; used `times` times, after `skip` calls."""

    call: Call
    action: Literal["fail", "no_space", "hold"]
    times: int = 1
    skip: int = 0
    first_byte: int = 0
    end_byte: int = 1 << 62

    def meets(self, call: Call, offset_bytes: int, length_bytes: int) -> bool:
        """Whether this call is met; counts it."""
        if call != self.call or self.times <= 0:
            return False
        if offset_bytes >= self.end_byte or offset_bytes + length_bytes <= self.first_byte:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


class FaultyStore:
    """`inner`, with `rules`. Held calls wait in `held` until `release`."""

    def __init__(self, inner: BlockStore, rules: list[FaultRule] | None = None) -> None:
        self._inner = inner
        self.rules = rules if rules is not None else []
        self.held: list[Callable[[], None]] = []

    @property
    def size_bytes(self) -> int:
        """Capacity of the inner store."""
        return self._inner.size_bytes

    @property
    def writes_at_once(self) -> bool:
        """A held write isn't done when it returns."""
        return False

    def _run(
        self,
        call: Call,
        offset_bytes: int,
        length_bytes: int,
        go: Callable[[], None],
        done: StoreDone,
    ) -> None:
        for rule in self.rules:
            if rule.meets(call, offset_bytes, length_bytes):
                if rule.action == "hold":
                    self.held.append(go)
                elif rule.action == "no_space":
                    done(StoreError(StoreFault.NO_SPACE, f"{call}: no space, on purpose"))
                else:
                    done(StoreError(StoreFault.IO, f"{call}: failed, on purpose"))
                return
        go()

    def release(self) -> None:
        """Let every held call go on, in order."""
        held, self.held = self.held, []
        for go in held:
            go()

    def read(self, offset_bytes: int, into: memoryview, done: StoreDone) -> None:
        """Read, unless a rule says otherwise."""
        self._run(
            "read",
            offset_bytes,
            len(into),
            lambda: self._inner.read(offset_bytes, into, done),
            done,
        )

    def write(self, offset_bytes: int, data: memoryview, done: StoreDone) -> None:
        """Write, unless a rule says otherwise."""
        self._run(
            "write",
            offset_bytes,
            len(data),
            lambda: self._inner.write(offset_bytes, data, done),
            done,
        )

    def discard(self, offset_bytes: int, length_bytes: int, done: StoreDone) -> None:
        """Discard, unless a rule says otherwise."""
        self._run(
            "discard",
            offset_bytes,
            length_bytes,
            lambda: self._inner.discard(offset_bytes, length_bytes, done),
            done,
        )

    def flush(self, done: StoreDone) -> None:
        """Flush, unless a rule says otherwise."""
        self._run("flush", 0, 1 << 62, lambda: self._inner.flush(done), done)

    def next_data(self, offset_bytes: int) -> int | None:
        """The inner store's answer."""
        return self._inner.next_data(offset_bytes)

    def next_hole(self, offset_bytes: int) -> int:
        """The inner store's answer."""
        return self._inner.next_hole(offset_bytes)

    def allocated_bytes(self) -> int:
        """The inner store's answer."""
        return self._inner.allocated_bytes()

    def lengthen(self, size_bytes: int) -> None:
        """Lengthen the inner store."""
        assert isinstance(self._inner, GrowingStore)
        self._inner.lengthen(size_bytes)

    def close(self) -> None:
        """Close the inner store."""
        self._inner.close()
