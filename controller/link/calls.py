"""Requests between controllers: a question that concerns the nodes, and its answer.

Owns the pending calls of each peer. A call ends with its answer, with RejectedError as the peer
refused it, or with NO_PEER when the link goes. Bounded: MAX_PENDING calls a peer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.link.channel import Control
from controller.link.frames import NODE
from controller.link.stream import Stream

MAX_PENDING = 64
ANSWER_WITHIN_S = 60.0

Serve = Callable[[str, str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""(peer, verb, params) to result; raises RejectedError."""


class PeerCalls:
    """Calls to and from all peers."""

    def __init__(self, find_stream: Callable[[str], Stream | None], serve: Serve) -> None:
        self._find_stream = find_stream
        self._serve = serve
        self._pending: dict[str, dict[int, asyncio.Future[dict[str, Any]]]] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._next_id = 1

    async def call(self, peer: str, verb: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask a peer; RejectedError when it refuses or can't be reached."""
        stream = self._find_stream(peer)
        pending = self._pending.setdefault(peer, {})
        if stream is None or not stream.open:
            raise _no_peer(peer)
        if len(pending) >= MAX_PENDING:
            raise RejectedError(Code.NO_PEER, f"'{peer}' owes too many answers", "try again")
        call_id = self._next_id
        self._next_id += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        pending[call_id] = future
        try:
            stream.send_control(NODE, {"call": call_id, "verb": verb, "params": params})
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await future
        except TimeoutError as error:
            raise _no_peer(peer) from error
        finally:
            pending.pop(call_id, None)

    def receive(self, peer: str, message: Control) -> None:
        """A node control message of a peer."""
        call_id = message.get("call")
        answer_id = message.get("answer")
        if isinstance(call_id, int) and isinstance(message.get("verb"), str):
            params = message.get("params")
            task = asyncio.create_task(
                self._answer(
                    peer, call_id, message["verb"], params if isinstance(params, dict) else {}
                )
            )
            self._tasks[task] = None
            task.add_done_callback(self._tasks.pop)
        elif isinstance(answer_id, int):
            future = self._pending.get(peer, {}).get(answer_id)
            if future is None or future.done():
                return
            error = message.get("error")
            if isinstance(error, dict):
                future.set_exception(
                    RejectedError(
                        _code(error.get("code")),
                        str(error.get("message", "refused")),
                        str(error.get("next_step", "")),
                    )
                )
            else:
                result = message.get("result")
                future.set_result(result if isinstance(result, dict) else {})

    async def _answer(self, peer: str, call_id: int, verb: str, params: dict[str, Any]) -> None:
        answer: Control = {"answer": call_id}
        try:
            answer["result"] = await self._serve(peer, verb, params)
        except RejectedError as error:
            answer["error"] = {
                "code": error.code.value,
                "message": error.message,
                "next_step": error.next_step,
            }
        stream = self._find_stream(peer)
        if stream is not None and stream.open:
            stream.send_control(NODE, answer)

    def lost(self, peer: str) -> None:
        """The link to a peer is gone: nobody will answer."""
        for future in self._pending.get(peer, {}).values():
            if not future.done():
                future.set_exception(_no_peer(peer))

    async def close(self) -> None:
        """End what is being served."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _code(value: object) -> Code:
    try:
        return Code(str(value))
    except ValueError:
        return Code.INTERNAL


def _no_peer(peer: str) -> RejectedError:
    return RejectedError(
        Code.NO_PEER,
        f"controller '{peer}' can't be reached",
        "restore the link; trilun status shows why it is down",
    )
