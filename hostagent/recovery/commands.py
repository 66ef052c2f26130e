"""Running a database's programs without holding anything up.

They run in the host's mount namespace, as its servers do. Owns deadlines, process groups, the
bound on output, and children that hold something (a lock, a backup mode) for as long as their
input stays open: it ends with the agent, however that dies. Must not know what a program does.
Fails with ToolError.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import IO

from hostagent.errors import ToolError
from hostagent.filesystem.host_namespace import entrance
from hostagent.programs import SEARCH_PATH

MAX_OUTPUT_BYTES = 8 << 20
MAX_LINE_BYTES = 64 << 10
RELEASE_TIMEOUT_S = 10.0
_READ_BYTES = 64 << 10


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float,
    script: str = "",
    keeps_running: bool = False,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a program to its end and return what it said; `script` is its input.

    `keeps_running`: it leaves a server behind, which may keep its output open. Cancelled or too
    late, it is killed with its whole process group. Raises ToolError.
    """
    with ExitStack() as stack:
        sink: int | IO[bytes] = asyncio.subprocess.PIPE
        if keeps_running:
            sink = stack.enter_context(tempfile.TemporaryFile())
        process = await _start(argv, sink, environment)
        try:
            async with asyncio.timeout(timeout_s):
                raw = await _converse(process, script.encode())
                code = await process.wait()
        except TimeoutError as exc:
            raise ToolError(f"'{_name(argv)}' did not end within {timeout_s:.0f} s") from exc
        finally:
            await _end(process)
        if not isinstance(sink, int):
            sink.seek(0)
            raw = sink.read(MAX_OUTPUT_BYTES)
    output = raw.decode("utf-8", "replace").strip()
    if code != 0:
        said = " ".join(output[-2000:].split()) or "it said nothing"
        raise ToolError(f"{_name(argv)} failed ({code}): {said}", output=output)
    return output


class Held:
    """A child that holds something until its input ends; see `begin`."""

    def __init__(self, process: asyncio.subprocess.Process, said: str) -> None:
        self._process = process
        self.said = said
        """The line that told that it holds."""

    @classmethod
    async def begin(
        cls, argv: Sequence[str], *, script: str, marker: str, timeout_s: float
    ) -> Held:
        """Start it, and wait for the line that begins with `marker`. Raises ToolError."""
        process = await _start(argv, asyncio.subprocess.PIPE, None)
        held = False
        try:
            async with asyncio.timeout(timeout_s):
                said = await _until(process, script.encode(), marker.encode())
            held = said.startswith(marker)
        except TimeoutError as exc:
            raise ToolError(f"'{_name(argv)}' was not ready within {timeout_s:.0f} s") from exc
        finally:
            if not held:
                await _end(process)
        if not held:
            raise ToolError(f"{_name(argv)} failed: {said or 'it said nothing'}", output=said)
        return cls(process, said.removeprefix(marker).strip())

    @property
    def holds(self) -> bool:
        """Whether it still runs."""
        return self._process.returncode is None

    async def release(self, script: str = "") -> None:
        """Let go: a last input, and its end. What doesn't end by that is killed."""
        try:
            async with asyncio.timeout(RELEASE_TIMEOUT_S):
                await _converse(self._process, script.encode())
                await self._process.wait()
        except TimeoutError:
            pass  # Killed below, which lets go as well.
        finally:
            await _end(self._process)


async def _start(
    argv: Sequence[str], sink: int | IO[bytes], environment: dict[str, str] | None
) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *entrance(),
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=sink,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env={"PATH": SEARCH_PATH, "LC_ALL": "C.UTF-8", **(environment or {})},
            limit=MAX_LINE_BYTES,
        )
    except FileNotFoundError as exc:
        raise ToolError(f"'{argv[0]}' is not there", f"install '{_name(argv)}'") from exc
    except OSError as exc:
        raise ToolError(f"'{argv[0]}' can't be run: {exc.strerror}") from exc


async def _converse(process: asyncio.subprocess.Process, script: bytes) -> bytes:
    """Give it its input to the end, and read what it says to the end."""
    feeding = asyncio.create_task(_feed(process, script, close=True))
    output = bytearray()
    try:
        while process.stdout is not None:
            piece = await process.stdout.read(_READ_BYTES)
            if not piece:
                break
            output += piece
            if len(output) > MAX_OUTPUT_BYTES:
                raise ToolError(f"it said more than {MAX_OUTPUT_BYTES} bytes")
        await feeding
    finally:
        feeding.cancel()
        await asyncio.gather(feeding, return_exceptions=True)
    return bytes(output)


async def _feed(process: asyncio.subprocess.Process, script: bytes, *, close: bool) -> None:
    assert process.stdin is not None
    # A program that has ended reads no more; its exit code tells the rest.
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(script)
        await process.stdin.drain()
        if close:
            process.stdin.close()


async def _until(process: asyncio.subprocess.Process, script: bytes, marker: bytes) -> str:
    """The line with the marker, or all that was said when the program ends without it."""
    assert process.stdout is not None
    await _feed(process, script, close=False)
    said: list[bytes] = []
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError as exc:
            raise ToolError(f"it said a line of more than {MAX_LINE_BYTES} bytes") from exc
        if line.startswith(marker):
            return line.decode("utf-8", "replace").strip()
        if not line:
            return " ".join(b" ".join(said).decode("utf-8", "replace").split())
        said = [*said[-50:], line]


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of it."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _name(argv: Sequence[str]) -> str:
    return argv[0].rpartition("/")[2]
