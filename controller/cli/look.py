"""`trilun ls`, `trilun cat` and `trilun diff`: look into a backup without restoring anything.

Owns the arguments, the walk through directories, and what is printed. A look is a job of the
agent with a throw-away view; it is closed at the end of the command, whatever the end, and by
the agent itself where this process can't.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import click

from controller.api import messages as m
from controller.api import topics
from controller.api.codes import Code, Exit
from controller.api.errors import RejectedError
from controller.api.file_names import from_wire, to_wire
from controller.api.looking import MAX_CAT_BYTES, Difference, FsEntry
from controller.cli.locate import find_agent
from controller.cli.names import complete_data_set
from controller.cli.output import print_json, print_line, print_note
from controller.cli.session import ApiCommand, Session
from controller.service.client import ApiClient
from controller.service.sizes import format_size, parse_size

OPEN_WITHIN_S = 330.0
"""A view's file system replays its journal first."""
CLOSE_WITHIN_S = 60.0
ANSWER_WITHIN_S = 600.0
"""For what may have to read file contents."""
OPEN = "open"
"""What a look's message says once it can be looked into."""

_SIGNS = {"added": "A", "removed": "R", "changed": "C", "metadata": "M"}

_DATA_SET = click.option("--data-set", help="Where no absolute PATH tells it.",
                         shell_complete=complete_data_set)  # fmt: skip
_FROM = click.option("--from", "from_backup", metavar="LABEL|PAIR", default="",
                     help="Which backup; default: the newest.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """A backup that is open."""

    client: ApiClient
    node: str
    job: str
    timeout_s: float

    async def pages(self, path: str) -> AsyncIterator[m.FsEntries]:
        """The entries of a directory (or a file itself), page by page; `path` as on the wire."""
        after = ""
        while True:
            params = m.LookList(job=self.job, path=path, after=after)
            page = await self.client.call_for(
                m.FsEntries, self.node, "look.list", params, self.timeout_s
            )
            yield page
            if not page.more or not page.entries:
                return
            after = page.entries[-1].name

    async def pieces(self, path: str, max_bytes: int) -> AsyncIterator[bytes]:
        """A file's content, checked against the agent's digest at its end."""
        sha, done = hashlib.sha256(), 0
        while True:
            params = m.LookRead(job=self.job, path=path, offset_bytes=done, max_bytes=max_bytes)
            piece = await self.client.call_for(
                m.LookPiece, self.node, "look.read", params, self.timeout_s
            )
            data = base64.b64decode(piece.data)
            sha.update(data)
            done += len(data)
            yield data
            if done >= piece.size_bytes or not data:
                break
        if done != piece.size_bytes or sha.hexdigest() != piece.digest:
            raise RejectedError(
                Code.IO_ERROR,
                f"'{from_wire(path)}' did not arrive as the agent read it",
                "read it again",
            )

    async def differences(self, path: str) -> AsyncIterator[m.Differences]:
        """What has changed beneath a path, answer by answer."""
        pending = [path]
        while pending:
            directory, after = pending.pop(), ""
            while True:
                params = m.LookDiff(job=self.job, path=directory, after=after)
                timeout_s = max(self.timeout_s, ANSWER_WITHIN_S)
                answer = await self.client.call_for(
                    m.Differences, self.node, "look.diff", params, timeout_s
                )
                yield answer
                pending += answer.directories
                after = answer.after
                if not after:
                    break


@asynccontextmanager
async def looking(
    session: Session, client: ApiClient, data_set: str | None, paths: list[str], backup: str
) -> AsyncIterator[Look]:
    """Open a backup, and close it again."""
    node, name = await find_agent(client, "host2", data_set, paths)
    params = m.LookStart(data_set=name, from_backup=backup)
    job = await client.call_for(m.JobInfo, node, "job.look", params, session.timeout_s)
    try:
        await _until_open(client, job)
        yield Look(client, node, job.id, session.timeout_s)
    finally:
        await _close(client, node, job.id)


async def _until_open(client: ApiClient, job: m.JobInfo) -> None:
    def reached(_topic: str, info: m.Info | None) -> bool:
        if not isinstance(info, m.JobInfo):
            return info is None
        return info.message == OPEN or info.state is not m.JobState.RUNNING

    topic = topics.state(job.node, "job", job.id)
    _, info = await client.wait_until(topic, reached, OPEN_WITHIN_S)
    if isinstance(info, m.JobInfo) and info.state is m.JobState.RUNNING:
        return
    if isinstance(info, m.JobInfo) and info.error:
        raise RejectedError(info.code, info.error, info.next_step)
    raise RejectedError(Code.WRONG_STATE, f"job '{job.id}' has ended", "look again")


async def _close(client: ApiClient, node: str, job: str) -> None:
    closing = client.call_for(m.JobInfo, node, "look.close", m.Named(name=job), CLOSE_WITHIN_S)
    try:
        await asyncio.shield(closing)
    except RejectedError as exc:
        # What was wanted is done or has failed already; the agent closes an idle view itself.
        print_note(f"job '{job}' could not be closed and ends by itself: {exc.message}")


# ---------------------------------------------------------------- ls


@click.command("ls", cls=ApiCommand)
@click.argument("path", default="")
@click.option("-l", "long", is_flag=True, help="Mode, owner, size and time, too.")
@click.option("-R", "recursive", is_flag=True, help="Directories in it as well.")
@_DATA_SET
@_FROM
@click.pass_obj
def ls(
    session: Session,
    path: str,
    long: bool,
    recursive: bool,
    data_set: str | None,
    from_backup: str,
) -> None:
    """List PATH in the backup (default: the volume's root)."""
    found: list[dict[str, Any]] = []

    async def work(client: ApiClient) -> None:
        async with looking(session, client, data_set, [path], from_backup) as look:
            pending = [to_wire(path)]
            while pending:
                directory = pending.pop()
                async for page in look.pages(directory):
                    for entry in page.entries:
                        at = directory if page.alone else _joined(directory, entry.name)
                        if session.json:
                            found.append(_entry_json(at, entry))
                        else:
                            print_line(_line(at if recursive else entry.name, entry, long))
                        if recursive and not page.alone and stat.S_ISDIR(entry.mode):
                            pending.append(at)

    session.run(work)
    if session.json:
        print_json({"entries": found})


def _joined(directory: str, name: str) -> str:
    return f"{directory.rstrip('/')}/{name}" if directory else name


def _line(name: str, entry: FsEntry, long: bool) -> str:
    shown = from_wire(name)
    if not long:
        return shown
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(entry.mtime_ns // 10**9))
    link = f" -> {from_wire(entry.link_to)}" if entry.link_to else ""
    return (
        f"{stat.filemode(entry.mode)} {entry.links:>3} {entry.uid:>5} {entry.gid:>5} "
        f"{entry.size_bytes:>12} {moment} {shown}{link}"
    )


def _entry_json(path: str, entry: FsEntry) -> dict[str, Any]:
    """For scripts; paths as on the wire, where each name has one text."""
    return {"path": path, "type": stat.filemode(entry.mode)[0], **entry.model_dump(mode="json")}


# ---------------------------------------------------------------- cat


class _SizeType(click.ParamType[int]):
    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(str(value))
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@click.command("cat", cls=ApiCommand)
@click.argument("path")
@click.option("--max-bytes", type=_SizeType(), default=MAX_CAT_BYTES,
              help=f"Refuse a larger file; default {format_size(MAX_CAT_BYTES)}.")  # fmt: skip
@_DATA_SET
@_FROM
@click.pass_obj
def cat(
    session: Session, path: str, max_bytes: int, data_set: str | None, from_backup: str
) -> None:
    """Print a file of the backup, byte for byte."""
    whole = bytearray()

    async def work(client: ApiClient) -> None:
        out = sys.stdout.buffer
        async with looking(session, client, data_set, [path], from_backup) as look:
            async for data in look.pieces(to_wire(path), max_bytes):
                if session.json:
                    whole.extend(data)
                else:
                    out.write(data)
                    out.flush()

    session.run(work)
    if session.json:
        print_json({
            "path": to_wire(path),
            "size_bytes": len(whole),
            "sha256": hashlib.sha256(whole).hexdigest(),
            "data_base64": base64.b64encode(whole).decode("ascii"),
        })  # fmt: skip


# ---------------------------------------------------------------- diff


@click.command("diff", cls=ApiCommand)
@click.argument("path", default="")
@_DATA_SET
@_FROM
@click.pass_context
def diff(ctx: click.Context, path: str, data_set: str | None, from_backup: str) -> None:
    """Tell what has changed beneath PATH between the backup and now.

    A: added, R: removed, C: changed, M: metadata only. Ends with 1 where anything has changed.
    """
    session = ctx.find_object(Session)
    assert session is not None
    found: list[Difference] = []
    compared = read_bytes = differing = 0

    async def work(client: ApiClient) -> None:
        nonlocal compared, read_bytes, differing
        async with looking(session, client, data_set, [path], from_backup) as look:
            async for answer in look.differences(to_wire(path)):
                compared += answer.compared_count
                read_bytes += answer.read_bytes
                differing += len(answer.differences)
                if session.json:
                    found.extend(answer.differences)
                    continue
                for one in answer.differences:
                    detail = f" ({one.detail})" if one.detail else ""
                    slash = "/" if one.kind == "directory" else ""
                    print_line(f"{_SIGNS[one.what]} {one.path}{slash}{detail}")

    session.run(work)
    if session.json:
        print_json(
            {"differences": found, "compared_count": compared, "read_bytes": read_bytes}
        )  # fmt: skip
    else:
        print_note(f"{compared} files compared, {format_size(read_bytes)} of content read")
    if differing:
        ctx.exit(Exit.FAILED)
