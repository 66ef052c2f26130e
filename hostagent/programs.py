"""Running the external programs the agent needs, and threads for whatever blocks.

Owns timeouts, process groups and the wording when a program is missing or fails. Must not know
what a program does. Fails with `ToolError`, which carries the program's own output.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from hostagent.errors import ToolError

DEFAULT_TIMEOUT_S = 60.0
MAX_OUTPUT_BYTES = 64 << 10
MAX_THREADS = 16

P = ParamSpec("P")
T = TypeVar("T")

# Ours first: the service manager's PATH may lack the sbin folders these programs live in.
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    """The program's full path, or None when it isn't installed."""
    return shutil.which(name, path=SEARCH_PATH)


def need_program(name: str, package: str) -> str:
    """The program's full path; raises ToolError that names the Debian package."""
    path = find_program(name)
    if path is None:
        raise ToolError(f"'{name}' is not installed", f"install the package {package}")
    return path


def run_program(
    argv: Sequence[str],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    ok: frozenset[int] = frozenset({0}),
    through: Sequence[str] = (),
) -> str:
    """Run a program to its end and return its output; blocks. Raises ToolError.

    It runs in its own process group, so that a terminal's interrupt doesn't reach it, and the
    whole group is killed when `timeout_s` has passed. `through` is a launcher with its arguments,
    which becomes the program.
    """
    name = os.path.basename(argv[0])  # noqa: PTH119 - argv is text
    try:
        child = subprocess.Popen(  # noqa: S603 - no shell, and argv is ours
            [*through, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"PATH": SEARCH_PATH, "LC_ALL": "C"},
        )
    except FileNotFoundError as exc:
        raise ToolError(f"'{name}' is not installed", f"install '{name}'") from exc
    with child:
        try:
            raw, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as exc:
            os.killpg(child.pid, signal.SIGKILL)
            raise ToolError(f"'{name}' did not end within {timeout_s:.0f} s") from exc
    output = raw[-MAX_OUTPUT_BYTES:].decode("utf-8", "replace").strip()
    if child.returncode not in ok:
        said = " ".join(output.split()) or "it said nothing"
        raise ToolError(f"{name} failed ({child.returncode}): {said}", output=output)
    return output


class Blocking:
    """A bounded pool of threads for mounts, copies and everything else that blocks."""

    def __init__(self, max_threads: int = MAX_THREADS) -> None:
        self._pool = ThreadPoolExecutor(max_threads, thread_name_prefix="host")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread. When the caller is cancelled, the work still ends first."""
        loop = asyncio.get_running_loop()
        future = loop.run_in_executor(self._pool, lambda: work(*args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A thread can't be cancelled; leaving it behind would let it meet its successor.
            await asyncio.wait({future})
            if not future.cancelled():
                future.exception()
            raise

    def close(self) -> None:
        """Wait for what runs and end the threads."""
        self._pool.shutdown(wait=True)
