"""An event loop whose clock jumps: virtual time, no sockets, no threads, the same run each time.

Owns virtual time and which callbacks belong to which run of a controller (an `Epoch`), so that a
crash can take all of them away between two callbacks. Must not know controllers. Fails with
Stuck when nothing can ever happen again, or when time stands still for too many steps.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

STEPS_WITHOUT_TIME = 200_000


class Stuck(Exception):  # noqa: N818  (a state of the run)
    """The run can't go on: no timer and nothing ready, or no time passes any more."""


class Died(Exception):  # noqa: N818  (an event)
    """The controller that owed an answer has crashed."""


class Epoch:
    """One run of a controller, from its start to its stop or crash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alive = True
        self.tasks: list[asyncio.Task[Any]] = []
        self.owed: dict[asyncio.Future[Any], None] = {}
        """Futures of the outside world that this run would have answered."""
        self.context = contextvars.Context()
        self.context.run(OWNER.set, self)

    def call(self, run: Callable[..., Any], *args: Any) -> Any:
        """Call something as this run would."""
        return self.context.copy().run(run, *args)


OWNER: contextvars.ContextVar[Epoch | None] = contextvars.ContextVar("owner", default=None)
WORLD = contextvars.Context()
"""The context of what happens outside of all controllers."""


class _Jump(selectors.BaseSelector):
    """A selector that has no files: waiting is moving the clock."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._steps = 0
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        descriptor = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        key = selectors.SelectorKey(fileobj, descriptor, events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck(f"at {self.now_s:.3f} s: no timer, nothing ready, not finished")
        if timeout > 0:
            self.now_s += timeout
            self._steps = 0
        else:
            self._steps += 1
            if self._steps > STEPS_WITHOUT_TIME:
                raise Stuck(f"at {self.now_s:.3f} s: time does not go on")
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. `on_error` is told every exception that nobody caught."""

    def __init__(self, on_error: Callable[[str, BaseException | None], None]) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)
        self._on_error = on_error
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]
        self.set_exception_handler(self._uncaught)

    def time(self) -> float:
        """Virtual seconds since the start."""
        return self._jump.now_s

    def _check_closed(self) -> None:
        """Coroutines of crashed runs are thrown away after the end, and may still tidy up."""

    def _uncaught(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if not isinstance(context.get("task", context.get("future")), asyncio.Task) and (
            "never retrieved" in context.get("message", "")
        ):
            # Told when garbage is collected: at no time that belongs to the run.
            return
        error = context.get("exception")
        self._on_error(str(context.get("message", "")), error)

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **more)
        context = more.get("context")
        epoch = context.get(OWNER) if context is not None else OWNER.get()
        if epoch is not None:
            epoch.tasks.append(task)
            task.add_done_callback(self._task_done, context=WORLD)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._on_error(f"task '{task.get_name()}' died", task.exception())

    def start_task(self, epoch: Epoch, coro: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run a coroutine inside a controller; the future ends with Died when that crashes."""
        outcome: asyncio.Future[Any] = self.create_future()
        epoch.owed[outcome] = None

        async def run() -> None:
            try:
                result = await coro
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001  (handed to whoever waits)
                answer(error, None)
            else:
                answer(None, result)

        def answer(error: Exception | None, result: Any) -> None:
            epoch.owed.pop(outcome, None)
            if outcome.done():
                return
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)

        task = self.create_task(run(), context=epoch.context.copy())
        assert task in epoch.tasks
        return outcome

    def kill(self, epoch: Epoch) -> None:
        """Take away everything an epoch would still do, as a crash does."""
        epoch.alive = False
        handles: list[asyncio.Handle] = [*self._ready, *self._scheduled]  # type: ignore[attr-defined]
        for handle in handles:
            if handle._context.get(OWNER) is epoch:  # type: ignore[attr-defined]
                handle.cancel()
        for task in epoch.tasks:
            # A crash is no cancellation: the coroutine just never goes on.
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        owed, epoch.owed = list(epoch.owed), {}
        for outcome in owed:
            if not outcome.done():
                outcome.set_exception(Died(epoch.name))
                outcome.exception()
