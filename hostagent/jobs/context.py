"""What a step has in its hands: the job's record, its data set, and the way to other nodes.

Owns request ids (the same step asks with the same id, so that a command asked again is carried
out once), saving, and telling progress. Must not decide the order of steps. Fails with whatever
the other node, or this disk, answers.
"""

from __future__ import annotations

import asyncio
import copy
import threading
from dataclasses import dataclass
from typing import Any, TypeVar

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from hostagent.config import DataSetConfig
from hostagent.copying.content import Work
from hostagent.jobs.meter import Meter
from hostagent.jobs.ports import Ports
from hostagent.jobs.record import JobRecord
from hostagent.jobs.retry import UNANSWERED, wait_s
from hostagent.programs import Blocking
from hostagent.records import RecordStore

InfoT = TypeVar("InfoT", bound=m.Info)
SAVE_FOR_S = 600.0
"""How long a disk that refuses the record is asked again."""
COMMITTED = "committed"
"""The fact that says so."""
_PARTS = "parts"


@dataclass(slots=True)
class _Shared:
    """What the parts of a job have in common and may change."""

    steps: list[str]
    progress: m.Progress | None = None
    stopping: bool = False
    stands_still: RejectedError | None = None


class JobContext:
    """One job's surroundings."""

    def __init__(
        self,
        node: str,
        record: JobRecord,
        data_sets: list[DataSetConfig],
        steps: list[str],
        ports: Ports,
        store: RecordStore,
        blocking: Blocking,
    ) -> None:
        self.record = record
        self.data_sets = data_sets
        """One, but for a job of a group."""
        self.ports = ports
        self.interrupted = threading.Event()
        """Tells work in threads to end."""
        self._shared = _Shared(steps)
        self._node = node
        self._store = store
        self._blocking = blocking
        self._saving = asyncio.Lock()
        self.part = ""
        """Which data set's part of a group's job this is; empty for the whole job."""

    def stop(self) -> None:
        """The agent stops: nothing is waited for any more."""
        self._shared.stopping = True
        self.interrupted.set()

    @property
    def data_set(self) -> DataSetConfig:
        """The only data set, or the one whose part of the job this is."""
        return self.data_sets[0]

    @property
    def facts(self) -> dict[str, Any]:
        """What steps found out and later ones need; each part of a job has its own."""
        facts = self.record.facts
        return facts.setdefault(_PARTS, {}).setdefault(self.part, {}) if self.part else facts

    def parts(self) -> list[JobContext]:
        """The job as it concerns each of its data sets: facts and commands of its own."""
        parts = []
        for number, data_set in enumerate(self.data_sets):
            part = copy.copy(self)
            part.data_sets, part.part = [data_set], str(number)
            parts.append(part)
        return parts

    @property
    def steps(self) -> list[str]:
        """The steps of this kind of job."""
        return self._shared.steps

    @property
    def step_name(self) -> str:
        """The step under way."""
        return self._shared.steps[self.record.step]

    def become(self, kind: m.JobKind, steps: list[str], step: str, why: str) -> None:
        """Go on as a job of another kind."""
        record = self.record
        record.kind, record.step = kind, steps.index(step)
        record.params = {**record.params, "why": why}
        if record.plan is not None:
            record.plan = record.plan.model_copy(update={"whole": why, "steps": steps})
        self._shared.steps = steps

    @property
    def committed(self) -> bool:
        """Whether only forward is possible."""
        return bool(self.record.facts.get(COMMITTED, False))

    async def commit(self, committed: bool) -> None:
        """Say, durably, that from here on only forward is possible (or that it still isn't)."""
        self.record.facts[COMMITTED] = committed
        await self.save()

    async def save(self, *, once: bool = False) -> None:
        """Make the record durable and tell operators.

        A disk that refuses is asked again for a while (a file is written anew each time), unless
        `once` is enough: the caller answers somebody. Raises OSError then.
        """
        clock, message = self.ports.clock, self.record.message
        began_s, attempts = clock.monotonic(), 0
        while True:
            try:
                await self._write()
            except OSError as exc:
                attempts += 1
                if once or clock.monotonic() - began_s > SAVE_FOR_S:
                    raise
                problem = exc.strerror or str(exc)
                self.record.message = (
                    f"waiting: the job's record can't be saved: {problem}; make room in "
                    f"{self._store.directory}"
                )
                self.publish()
                await self.ports.pause(wait_s(attempts))
            else:
                break
            finally:
                self.record.message = message
        self._shared.progress = None
        self.publish()

    async def _write(self) -> None:
        async with self._saving:
            body = self.record.model_dump(mode="json")
            await self._blocking.run(self._store.save, self.record.id, body)

    @property
    def stands_still(self) -> bool:
        """Nobody drives the job, although it hasn't ended."""
        return self._shared.stands_still is not None

    def stand_still(self, problem: RejectedError | None) -> None:
        """Show why nobody drives the job; None when somebody does again."""
        self._shared.stands_still = problem
        self.publish()

    def info(self) -> m.JobInfo:
        """The job as operators see it now."""
        info = self.record.info(self._node, self._shared.steps, self._shared.progress)
        problem = self._shared.stands_still
        if problem is None:
            return info
        told = {
            "state": m.JobState.FAILED,
            "error": f"it stands still at '{info.step}': {problem.message}",
            "code": problem.code,
            "next_step": problem.next_step,
        }
        return info.model_copy(update=told)

    def publish(self) -> None:
        """Tell operators how the job is."""
        self.ports.publish(self.info())

    async def ask(
        self, node: str, verb: str, params: m.Params, answer: type[InfoT], key: str
    ) -> InfoT:
        """A command that changes something. `key` names it within the job.

        The request's id stays the same until it is definitely rejected: a new attempt then is
        a new request.
        """
        request_id = self.request_id(key)
        call = asyncio.ensure_future(self.ports.nodes.call(node, verb, params, request_id))
        try:
            info = await asyncio.shield(call)
        except asyncio.CancelledError:
            # A cancelled job is undone, and an undo must not overtake the command it undoes.
            if self._shared.stopping:
                call.cancel()
            await asyncio.wait({call})
            raise
        except RejectedError as exc:
            if exc.code not in UNANSWERED:
                self.renew(key)
                await self.save()
            raise
        return _expect(info, answer, node)

    def request_id(self, key: str) -> str:
        """Under which id the next `ask` with that key is made."""
        key = self._key(key)
        attempt = self.record.attempts.setdefault(key, 0)
        return f"{self.record.id}.{key}.{self.record.round}-{attempt}"

    def renew(self, key: str) -> None:
        """Make the next `ask` with that key a new request."""
        key = self._key(key)
        self.record.attempts[key] = self.record.attempts.get(key, 0) + 1

    def _key(self, key: str) -> str:
        return f"{self.part}-{key}" if self.part else key

    async def look(self, node: str, verb: str, params: m.Params, answer: type[InfoT]) -> InfoT:
        """A question that changes nothing."""
        return _expect(await self.ports.nodes.call(node, verb, params, None), answer, node)

    def work(self, total_bytes: int) -> Work:
        """Progress and interruption for work in a thread."""
        meter = Meter(total_bytes, self.ports.clock.monotonic())
        loop = asyncio.get_running_loop()

        def did(length_bytes: int) -> None:
            now_s = self.ports.clock.monotonic()
            meter.add(length_bytes, now_s)
            if meter.due(now_s):
                loop.call_soon_threadsafe(self.tell, meter.progress(now_s))

        return Work(did, self.interrupted.is_set)

    def tell(self, progress: m.Progress) -> None:
        """Publish how far the step is; the caller sees to it that this isn't too often."""
        self._shared.progress = progress
        self.publish()


def _expect(info: m.Info, answer: type[InfoT], node: str) -> InfoT:
    if not isinstance(info, answer):
        raise RejectedError(
            Code.INTERNAL,
            f"{node} answered {type(info).__name__}",
            "run the same version everywhere",
        )
    return info
