"""A netlink socket, and the task that listens to it.

Owns both, until `close`. A shell. Must not know families. Fails with OSError.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError


class NetlinkTask(abc.ABC):
    """What is common to those who listen to the kernel."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._socket: Any = None  # pyroute2 has no types

    @abc.abstractmethod
    def _new_socket(self) -> Any:
        """A socket of the right kind, not bound."""

    @abc.abstractmethod
    async def _bind(self) -> None:
        """Subscribe with `self._socket`."""

    @abc.abstractmethod
    async def _listen(self) -> None:
        """Listen for ever; errors are for it to handle."""

    async def _open(self) -> None:
        self._socket = self._new_socket()
        try:
            await self._bind()
        except NetlinkError as error:
            self._socket.close()
            raise OSError(error.code, str(error)) from error
        except BaseException:
            self._socket.close()
            raise

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._listen(), name=self._name)

    async def close(self) -> None:
        """Stop listening."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._socket.close()
