"""A client of the API: asks nodes, finds them, and follows their retained states.

Owns one broker connection, the requests that wait for an answer, and a directory of the nodes'
retained statuses. Must not know what the verbs do. A request that is under way survives a
restart of the broker or of the node: it is sent again under the same id, which nodes carry out
once. Fails with `RejectedError`, code `unreachable` or `timeout`, saying who didn't answer.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Self, TypeVar

import structlog
from pydantic import ValidationError

from controller.api import topics
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.messages import (
    Info,
    JobInfo,
    NodeStatus,
    PairInfo,
    Params,
    Reply,
    Request,
    VolumeInfo,
)
from controller.api.verbs import VERBS
from controller.service.mqtt import Backoff, Broker, Connection, Events, Incoming
from controller.service.outbox import Publication
from controller.service.watches import Watch

MAX_WAITING = 1024
STATE_MODELS: dict[str, type[Info]] = {"volume": VolumeInfo, "pair": PairInfo, "job": JobInfo}

InfoT = TypeVar("InfoT", bound=Info)

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Waiting:
    node: str
    topic: str
    payload: bytes
    deadline_s: float
    answer: asyncio.Future[Reply]


class ApiClient:
    """Speaks to every node behind one broker. Use it as an async context manager.

    `client_id` must be a valid name, and no node's: replies come to it. `new_id` makes request
    ids. `patience_s` is how long an absent broker or node is waited for before a call says so:
    0 for a person at a terminal, a minute for a job that has to survive restarts.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        new_id: Callable[[], str],
        patience_s: float = 0.0,
        backoff: Backoff | None = None,
    ) -> None:
        self._broker = broker
        self._new_id = new_id
        self._patience_s = patience_s
        self._nodes: dict[str, NodeStatus] = {}
        self._waiting: dict[str, _Waiting] = {}
        self._watches: list[Watch] = []
        self._settled = False
        self._reason = ""
        self._listeners: set[asyncio.Event] = set()
        self._connection = Connection(
            broker,
            client_id,
            Events(self._on_message, lambda: None, self._on_settled, self._on_down),
            filters=(topics.ALL_STATUS,),
            backoff=backoff,
        )

    async def __aenter__(self) -> Self:
        self._connection.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._connection.stop()

    async def request(
        self,
        node: str,
        verb_name: str,
        params: Params,
        timeout_s: float = 30.0,
        request_id: str | None = None,
    ) -> Reply:
        """Ask and return the answer, whatever its verdict.

        Raises RejectedError (unreachable, timeout) when there is none.
        """
        verb = VERBS[verb_name]
        assert isinstance(params, verb.params), f"{verb_name} takes {verb.params.__name__}"
        await self._node_online(node, timeout_s)
        request = Request(id=request_id or self._new_id(), params=params.model_dump(mode="json"))
        loop = asyncio.get_running_loop()
        assert request.id not in self._waiting, "two requests under one id at a time"
        if len(self._waiting) >= MAX_WAITING:
            raise RejectedError(Code.BUSY, "too many requests wait for an answer", "try later")
        waiting = _Waiting(
            node,
            topics.command(node, verb_name),
            request.model_dump_json().encode(),
            loop.time() + timeout_s,
            loop.create_future(),
        )
        self._waiting[request.id] = waiting
        try:
            self._post(request.id, waiting)
            return await asyncio.wait_for(waiting.answer, timeout_s)
        except TimeoutError:
            raise self._no_answer(node, verb_name, timeout_s) from None
        finally:
            del self._waiting[request.id]
            self._connection.drop(request.id)

    async def call(
        self,
        node: str,
        verb_name: str,
        params: Params,
        timeout_s: float = 30.0,
        request_id: str | None = None,
    ) -> Info:
        """Ask and return the result; raises RejectedError for a rejected answer, too."""
        reply = await self.request(node, verb_name, params, timeout_s, request_id)
        return result_of(reply, VERBS[verb_name].result)

    async def call_for(
        self,
        expect: type[InfoT],
        node: str,
        verb_name: str,
        params: Params,
        timeout_s: float = 30.0,
        request_id: str | None = None,
    ) -> InfoT:
        """`call`, for callers that name the type they expect (it must be the verb's)."""
        assert VERBS[verb_name].result is expect, f"{verb_name} doesn't give {expect.__name__}"
        reply = await self.request(node, verb_name, params, timeout_s, request_id)
        return result_of(reply, expect)

    async def discover(self) -> dict[str, NodeStatus]:
        """Every node that ever said it exists, online or not, by name."""
        await self._broker_there()
        return dict(sorted(self._nodes.items()))

    async def watch(self, topic_filter: str) -> AsyncGenerator[tuple[str, Info | None], None]:
        """Follow retained states: first the stored ones, then each change; None means gone.

        Endless; leave it with `contextlib.aclosing`. A slow reader gets the latest value of each
        topic. States that don't parse (of a newer version) are logged and left out.
        """
        watch = self._open_watch(topic_filter)
        try:
            while True:
                topic, info = await watch.next()
                yield topic, info
        finally:
            self._close_watch(watch)

    async def states(self, topic_filter: str = topics.ALL_STATE) -> dict[str, Info]:
        """The stored states at this moment, by topic."""
        await self._broker_there()
        watch = self._open_watch(topic_filter)
        try:
            given_up = not self._patience_s
            await self._until(
                lambda: watch.settled or (given_up and not self._settled), self._patience_s or None
            )
            if not watch.settled:
                raise self._no_broker()
            return watch.snapshot()
        finally:
            self._close_watch(watch)

    async def wait_until(
        self,
        topic_filter: str,
        reached: Callable[[str, Info | None], bool],
        timeout_s: float | None = None,
    ) -> tuple[str, Info | None]:
        """The first state for which `reached` says yes.

        An object that doesn't exist is no state: only its going is one (None). Raises what
        `reached` raises, and RejectedError (timeout). A broker or node that goes
        away meanwhile is waited for.
        """
        watch = self._open_watch(topic_filter)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    topic, info = await watch.next()
                    if reached(topic, info):
                        return topic, info
        except TimeoutError:
            raise RejectedError(
                Code.TIMEOUT, f"not reached within {timeout_s:g} s", "the work itself goes on"
            ) from None
        finally:
            self._close_watch(watch)

    # -- what the connection tells us

    def _on_settled(self) -> None:
        self._settled = True
        self._reason = ""
        for watch in self._watches:
            watch.settled = True
        self._notify()

    def _on_down(self, reason: str) -> None:
        self._settled = False
        self._reason = reason
        self._notify()

    def _on_message(self, incoming: Incoming) -> None:
        address = topics.parse(incoming.topic)
        if incoming.topic == self._connection.reply_topic:
            self._on_reply(incoming)
        elif address is not None and address.section == "status":
            self._on_status(address.node, incoming.payload)
        elif address is not None and address.section == "state" and len(address.rest) == 2:
            self._on_state(address.rest[0], incoming)

    def _on_reply(self, incoming: Incoming) -> None:
        try:
            reply = Reply.model_validate_json(incoming.payload)
        except ValidationError:
            _log.warning("an answer that can't be read was dropped")
            return
        waiting = self._waiting.get(reply.id)
        if waiting is None and incoming.correlation is not None:
            # A node that could not read the id at all still gives our correlation back.
            waiting = self._waiting.get(incoming.correlation.decode("utf-8", "replace"))
        if waiting is not None and not waiting.answer.done():
            waiting.answer.set_result(reply)

    def _on_status(self, node: str, payload: bytes) -> None:
        try:
            status = NodeStatus.model_validate_json(payload)
        except ValidationError:
            if not payload:
                self._nodes.pop(node, None)
            else:
                _log.warning("a status that can't be read was ignored", node=node)
            return
        self._nodes[node] = status
        if status.online:
            # After each reconnect, of the node's or of ours, this comes behind the node's
            # subscription: what was lost meanwhile arrives now, what wasn't is recognised.
            for request_id, waiting in self._waiting.items():
                if waiting.node == node:
                    self._post(request_id, waiting)
        self._notify()

    def _on_state(self, kind: str, incoming: Incoming) -> None:
        model = STATE_MODELS.get(kind)
        if model is None:
            return
        try:
            info = model.model_validate_json(incoming.payload) if incoming.payload else None
        except ValidationError:
            _log.warning("a state that can't be read was ignored", topic=incoming.topic)
            return
        for watch in self._watches:
            watch.offer(incoming.topic, info)

    # -- waiting

    def _post(self, request_id: str, waiting: _Waiting) -> None:
        left_s = waiting.deadline_s - asyncio.get_running_loop().time()
        self._connection.post(
            request_id,
            Publication(
                waiting.topic,
                waiting.payload,
                response_topic=self._connection.reply_topic,
                correlation=request_id.encode(),
                expiry_s=max(1, math.ceil(left_s)),
            ),
        )

    async def _broker_there(self) -> None:
        if not self._patience_s:
            await self._until(lambda: self._settled or bool(self._reason), None)
        else:
            await self._until(lambda: self._settled, self._patience_s)
        if not self._settled:
            raise self._no_broker()

    async def _node_online(self, node: str, timeout_s: float) -> None:
        await self._broker_there()
        if self._patience_s:
            patience_s = min(self._patience_s, timeout_s)
            await self._until(lambda: self._is_online(node), patience_s)
        if not self._is_online(node):
            raise self._not_online(node)

    def _is_online(self, node: str) -> bool:
        status = self._nodes.get(node)
        return status is not None and status.online

    async def _until(self, reached: Callable[[], bool], timeout_s: float | None) -> None:
        """Wait for a condition, or until the time is over; the caller looks which."""
        news = asyncio.Event()
        self._listeners.add(news)
        try:
            async with asyncio.timeout(timeout_s):
                while not reached():
                    news.clear()
                    await news.wait()
        except TimeoutError:
            return
        finally:
            self._listeners.remove(news)

    def _notify(self) -> None:
        for news in self._listeners:
            news.set()

    def _open_watch(self, topic_filter: str) -> Watch:
        watch = Watch(topic_filter)
        self._watches.append(watch)
        self._connection.subscribe(topic_filter)
        return watch

    def _close_watch(self, watch: Watch) -> None:
        self._watches.remove(watch)
        if all(other.topic_filter != watch.topic_filter for other in self._watches):
            self._connection.unsubscribe(watch.topic_filter)

    # -- saying who didn't answer

    def _no_broker(self) -> RejectedError:
        return RejectedError(
            Code.UNREACHABLE,
            f"no broker at {self._broker}" + (f" ({self._reason})" if self._reason else ""),
            "start the broker, or name another one",
        )

    def _not_online(self, node: str) -> RejectedError:
        if node in self._nodes:
            return RejectedError(
                Code.UNREACHABLE, f"node '{node}' is offline", f"start the service on '{node}'"
            )
        known = ", ".join(sorted(self._nodes)) or "none"
        return RejectedError(
            Code.UNREACHABLE,
            f"node '{node}' has never been seen by this broker",
            f"known nodes: {known}",
        )

    def _no_answer(self, node: str, verb_name: str, timeout_s: float) -> RejectedError:
        if not self._connection.connected:
            return self._no_broker()
        if not self._is_online(node):
            return self._not_online(node)
        return RejectedError(
            Code.TIMEOUT,
            f"node '{node}' gave no answer to {verb_name} within {timeout_s:g} s",
            "ask for its state; the command may still be carried out",
        )


def result_of(reply: Reply, expect: type[InfoT]) -> InfoT:
    """The typed result of a reply; raises RejectedError when it was rejected or has none.

    A command on what isn't there any more may be a no-op; for who wants to see it, it is missing.
    """
    if reply.verdict is Verdict.REJECTED:
        raise RejectedError(reply.code, reply.message, reply.next_step)
    if reply.verdict is Verdict.NO_OP and reply.result is None:
        raise RejectedError(Code.NOT_FOUND, reply.message, reply.next_step)
    try:
        return expect.model_validate(reply.result or {})
    except ValidationError as exc:
        raise RejectedError(
            Code.INTERNAL,
            f"node '{reply.node}' answered without a readable {expect.__name__}",
            "compare the versions of client and node",
        ) from exc
