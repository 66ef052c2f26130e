"""Waiting for a pair or a job, and telling how far it has come.

Owns the progress display: a bar on a terminal, plain lines elsewhere, nothing beside JSON. Must
not give up because broker or node is away for a while: what is waited for goes on without us.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from controller.api import messages as m
from controller.api import topics
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.locate import as_info, find_pair
from controller.cli.names import Ref
from controller.cli.output import clean, print_line
from controller.service.client import ApiClient
from controller.service.sizes import format_size

ASK_AGAIN_S = 1.0


def progress_text(progress: m.Progress | None) -> str:
    """`42 % of 1 GiB, 100 MiB/s, 6 s left`; empty without progress."""
    if progress is None:
        return ""
    total = progress.done_bytes + progress.left_bytes
    text = f"{percent(progress)} % of {format_size(total)}"
    if progress.rate_bytes_per_s > 0:
        text += f", {format_size(progress.rate_bytes_per_s)}/s"
    if progress.eta_s is not None and progress.left_bytes:
        text += f", {progress.eta_s:.0f} s left"
    return text


def percent(progress: m.Progress) -> int:
    """Whole per cent that are done; 100 only when nothing is left."""
    total = progress.done_bytes + progress.left_bytes
    return 100 if total == 0 else progress.done_bytes * 100 // total


class Teller:
    """Tells of progress while something is waited for. Use it in a `with`."""

    def __init__(self, what: str, *, silent: bool) -> None:
        self._what = what
        self._silent = silent
        self._last = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if not silent and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(binary_units=True),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def tell(self, phase: str, progress: m.Progress | None, remark: str = "") -> None:
        """Show the phase (a pair's state, a job's step) and its progress."""
        if self._silent:
            return
        text = f"{self._what}: {phase}" + (f" ({remark})" if remark else "")
        if self._bar is not None:
            self._show_bar(clean(text), progress)
            return
        # Off a terminal, a line for each tenth is enough.
        tenth = "" if progress is None else str(percent(progress) // 10)
        if f"{text} {tenth}" != self._last:
            self._last = f"{text} {tenth}"
            detail = progress_text(progress)
            print_line(f"{text}  {detail}" if detail else text)

    def _show_bar(self, text: str, progress: m.Progress | None) -> None:
        assert self._bar is not None
        if self._task is None:
            self._task = self._bar.add_task(text, total=None)
        if progress is None:
            self._bar.update(self._task, description=text)
            return
        self._bar.update(
            self._task,
            description=text,
            completed=progress.done_bytes,
            total=progress.done_bytes + progress.left_bytes,
        )


async def wait_for_pair(
    client: ApiClient, ref: Ref, wanted: m.PairState, timeout_s: float | None, teller: Teller
) -> m.PairInfo | None:
    """The pair once it is in the wanted state; None once it is gone, when SMPL is wanted.

    Raises RejectedError: timeout, or not_found when it is deleted meanwhile.
    """
    last = "unknown"

    def note(pair: m.PairInfo | None) -> None:
        nonlocal last
        if pair is None:
            last = m.PairState.SMPL.value
            teller.tell(last, None)
        else:
            last = pair.state.value
            teller.tell(last, pair.progress, pair.reason)

    try:
        async with asyncio.timeout(timeout_s):
            try:
                side = await find_pair(client, ref)
            except RejectedError as exc:
                if exc.code is Code.NOT_FOUND and wanted is m.PairState.SMPL:
                    return None
                raise
            async with aclosing(
                client.watch(topics.state(side.node, "pair", side.name))
            ) as changes:
                async for _, info in changes:
                    pair = as_info(info, m.PairInfo)
                    note(pair)
                    if _has(pair, wanted, ref):
                        # A retained state can be a moment old: the node itself decides.
                        pair = await _as_it_is(client, side.node, side.name)
                        if _has(pair, wanted, ref):
                            return pair
    except TimeoutError:
        raise RejectedError(
            Code.TIMEOUT,
            f"pair '{ref.name}' is {last}, not {wanted.value}, after {timeout_s:g} s",
            f"trilun pair show {ref}",
        ) from None
    raise AssertionError("a watch has no end")


def _has(pair: m.PairInfo | None, wanted: m.PairState, ref: Ref) -> bool:
    if pair is not None:
        # A quick split has ended when everything is copied behind it.
        return pair.state is wanted and not pair.behind
    if wanted is m.PairState.SMPL:
        return True
    raise RejectedError(
        Code.NOT_FOUND, f"pair '{ref.name}' was deleted meanwhile", "trilun pair list"
    )


async def _as_it_is(client: ApiClient, node: str, name: str) -> m.PairInfo | None:
    while True:
        try:
            return await client.call_for(m.PairInfo, node, "pair.show", m.Named(name=name))
        except RejectedError as exc:
            if exc.code is Code.NOT_FOUND:
                return None
            if exc.code not in {Code.UNREACHABLE, Code.TIMEOUT}:
                raise
        await asyncio.sleep(ASK_AGAIN_S)


async def wait_for_verify(client: ApiClient, node: str, ref: Ref, teller: Teller) -> m.PairInfo:
    """The pair once its verify, and the repair where that was asked for, has ended."""
    going_on = (m.VerifyState.RUNNING, m.VerifyState.REPAIRING)
    async with aclosing(client.watch(topics.state(node, "pair", ref.name))) as changes:
        async for _, info in changes:
            # A retained state can be a moment old: the node itself decides.
            pair = as_info(info, m.PairInfo)
            if pair is not None and pair.verify is not None:
                teller.tell(pair.verify.state.value, pair.verify.progress or pair.progress)
            if pair is None or pair.verify is None or pair.verify.state not in going_on:
                pair = await _as_it_is(client, node, ref.name)
                if pair is None:
                    raise RejectedError(
                        Code.NOT_FOUND,
                        f"pair '{ref.name}' was deleted meanwhile",
                        "trilun pair list",
                    )
                if pair.verify is None:
                    raise RejectedError(
                        Code.WRONG_STATE,
                        f"the controller '{node}' was restarted and the verify with it",
                        f"trilun pair verify {ref}",
                    )
                if pair.verify.state not in going_on:
                    return pair
    raise AssertionError("a watch has no end")


async def wait_for_job(
    client: ApiClient, job: m.JobInfo, timeout_s: float | None, teller: Teller
) -> m.JobInfo:
    """The job once it has ended, however it ended; raises RejectedError (timeout)."""
    teller.tell(job.step, job.progress, job.message)
    if job.state is not m.JobState.RUNNING:
        return job
    try:
        async with (
            asyncio.timeout(timeout_s),
            aclosing(client.watch(topics.state(job.node, "job", job.id))) as changes,
        ):
            async for _, info in changes:
                now = as_info(info, m.JobInfo)
                if now is None:
                    raise RejectedError(
                        Code.NOT_FOUND, f"job '{job.id}' was forgotten", "trilun job list"
                    )
                teller.tell(now.step, now.progress, now.message)
                if now.state is not m.JobState.RUNNING:
                    return now
    except TimeoutError:
        raise RejectedError(
            Code.TIMEOUT,
            f"job '{job.id}' still runs after {timeout_s:g} s",
            f"trilun job wait {job.id}",
        ) from None
    raise AssertionError("a watch has no end")
