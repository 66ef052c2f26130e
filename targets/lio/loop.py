"""An event loop that serves TCMU devices before it does anything else.

Owns the selector of the loop, and in it the descriptors that are served directly. A shell. Must
not know rings. An exception out of a device's callback goes to the loop's exception handler.

asyncio makes a turn of each wake-up: two looks at the clock, a handle, a context. A command that
can be done at once needs none of that, only the wait, its own I/O and the answer (law S6). So a
device's callback is run inside of the wait, for as long as nothing else is ready: no other
descriptor, nothing that was scheduled, and no timer. The next timer is a descriptor, too: a wait
with a time would set and stop one of the kernel's for each command.

Devices are watched by edge: each announcement of the kernel wakes the wait once, and nothing has
to be read to reset it.
"""

from __future__ import annotations

import asyncio
import select
import selectors
from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, TypeVarTuple, Unpack

from targets.lio.alarm import Alarm

MAX_EVENTS = 64
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_IN, _OUT = select.EPOLLIN, select.EPOLLOUT


_Ts = TypeVarTuple("_Ts")


def _fd_of(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


class _Keys(dict[int, selectors.SelectorKey]):
    """Keys by descriptor, found by the object as well."""

    def __missing__(self, fileobj: Any) -> selectors.SelectorKey:
        if isinstance(fileobj, int):
            raise KeyError(fileobj)
        return self[_fd_of(fileobj)]


class DirectSelector(selectors.BaseSelector):
    """epoll, with descriptors whose callbacks run inside of `select`."""

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._epoll = select.epoll()
        self._alarm = Alarm()
        self._epoll.register(self._alarm.fd, _IN | select.EPOLLET)
        self._keys = _Keys()
        self._direct: dict[int, Callable[[int], None]] = {}
        self._failed = failed
        self.interrupted = False
        """The loop has something to run: `select` returns."""

    # ------------------------------------------------------------ as selectors are

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors`."""
        fd = _fd_of(fileobj)
        if fd in self._keys or fd in self._direct:
            raise KeyError(f"{fileobj!r} is registered already")
        self._epoll.register(fd, _mask(events))
        key = self._keys[fd] = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        """See `selectors`."""
        key = self._keys.pop(_fd_of(fileobj))
        self._forget(key.fd)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """See `selectors`."""
        old = self._keys[fileobj]
        if old.events != events:
            self._epoll.modify(old.fd, _mask(events))
        key = self._keys[old.fd] = selectors.SelectorKey(old.fileobj, old.fd, events, data)
        return key

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        """See `selectors`."""
        return self._keys

    def close(self) -> None:
        """See `selectors`."""
        self._epoll.close()
        self._alarm.close()
        self._keys.clear()
        self._direct.clear()

    def _forget(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except OSError:  # it was closed before
            return

    # ------------------------------------------------------------ directly

    def serve(self, fd: int, run: Callable[[int], None]) -> None:
        """Call `run` with the events whenever `fd` says that it became readable."""
        self._epoll.register(fd, _IN | select.EPOLLET)
        self._direct[fd] = run

    def unserve(self, fd: int) -> None:
        """Stop that."""
        if self._direct.pop(fd, None) is not None:
            self._forget(fd)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready for the loop; devices are served meanwhile."""
        self.interrupted = False
        poll, direct, keys, alarm = self._epoll.poll, self._direct, self._keys, self._alarm.fd
        ready: list[tuple[selectors.SelectorKey, int]] = []
        if timeout is not None and timeout > 0:
            self._alarm.ring_in(timeout)
        wait_s = 0 if timeout is not None and timeout <= 0 else -1
        while not (ready or self.interrupted):
            try:
                found = poll(wait_s, MAX_EVENTS)
            except InterruptedError:
                return ready
            for fd, events in found:
                run = direct.get(fd)
                if run is not None:
                    self._run(run, events)
                elif fd in keys:
                    ready.append((keys[fd], _events(events, keys[fd].events)))
                elif fd == alarm:
                    self.interrupted = True
            if not wait_s:
                break
        return ready

    def _run(self, run: Callable[[int], None], events: int) -> None:
        try:
            run(events)
        except Exception as error:  # noqa: BLE001 - a mistake in one device ends no other
            self._failed(error)


def _mask(events: int) -> int:
    return (_IN if events & _READ else 0) | (_OUT if events & _WRITE else 0)


def _events(found: int, asked: int) -> int:
    """Errors count as ready for both, so that whoever waits hears of them."""
    ready = (_WRITE if found & ~_IN else 0) | (_READ if found & ~_OUT else 0)
    return ready & asked


class DirectLoop(asyncio.SelectorEventLoop):
    """The loop of a process that serves TCMU devices."""

    def __init__(self) -> None:
        self._direct_selector = DirectSelector(self._device_failed)
        super().__init__(self._direct_selector)

    def call_soon(
        self,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        """As ever; and the wait ends."""
        self._direct_selector.interrupted = True
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[_Ts]], object],
        *args: *_Ts,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        """As ever; and the wait ends, as the next one may be shorter."""
        self._direct_selector.interrupted = True
        return super().call_at(when, callback, *args, context=context)

    def serve(self, fd: int, run: Callable[[int], None]) -> None:
        """Call `run` with epoll's events inside of the wait, whenever `fd` became readable."""
        self._direct_selector.serve(fd, run)

    def unserve(self, fd: int) -> None:
        """Stop that."""
        self._direct_selector.unserve(fd)

    def _device_failed(self, error: Exception) -> None:
        self.call_exception_handler({"message": "serving a device failed", "exception": error})
