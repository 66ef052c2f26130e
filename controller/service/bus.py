"""A node's place on the broker: takes commands, answers them, and keeps its state published.

Owns the subscription to the node's commands, the bounded set of running requests, and the
retained status and states. Must not decide anything about a command: the handler does. The
broker may come and go; nothing here waits for it, and everything is published again in full
when it is back. Fails towards the caller only by answers.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Self

import structlog
from pydantic import BaseModel

from controller.api import topics
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import NodeStatus, Reply
from controller.service.answers import (
    Answer,
    Command,
    Handler,
    MalformedError,
    carry_out,
    parse_command,
    rejected,
)
from controller.service.mqtt import Backoff, Broker, Connection, Events, Incoming
from controller.service.outbox import Publication
from controller.service.requests import RequestJournal

__all__ = ["Answer", "Bus", "Handler"]

MAX_RUNNING = 32
MAX_WAITING = 256
STOP_GRACE_S = 2.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Pending:
    """A request that was accepted and has no answer yet; who wants the answer can be renewed."""

    command: Command
    incoming: Incoming
    arrived_s: float


class Bus:
    """Connects one node to the broker. Start it once, stop it once (or use `async with`).

    `status` is the node's status while online; the will and the farewell are made from it.
    `journal` stays the caller's to close.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        status: NodeStatus,
        handler: Handler,
        journal: RequestJournal,
        backoff: Backoff | None = None,
    ) -> None:
        self._node = status.node
        self._status = status.model_copy(update={"online": True})
        self._handler = handler
        self._journal = journal
        self._states: dict[str, BaseModel] = {}
        self._stale: set[str] | None = set()
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        self._up = asyncio.Event()
        self._reply_number = 0
        self._stopping = False
        self._own_states = f"{topics.ROOT}/{self._node}/state/#"
        self._connection = Connection(
            broker,
            self._node,
            Events(self._on_message, self._on_up, self._on_settled, self._on_down),
            filters=(topics.commands(self._node), self._own_states),
            will=self._offline("connection lost"),
            backoff=backoff,
        )

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def connected(self) -> bool:
        """Whether the broker is there at this moment."""
        return self._up.is_set()

    async def wait_connected(self) -> None:
        """Return once the broker is there and the commands are subscribed."""
        await self._up.wait()

    def start(self) -> None:
        """Begin connecting in the background; returns at once, broker or no broker."""
        self._connection.start()

    async def stop(self) -> None:
        """Let what runs end (for two seconds), say "offline" and disconnect.

        A durable request that is cut short here has no recorded answer: when its caller sends it
        again, it is carried out again.
        """
        self._stopping = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connection.stop(self._offline("stopped"))

    def publish_state(self, kind: topics.StateKind, name: str, info: BaseModel | None) -> None:
        """Set the retained state of one object; None clears it. Never blocks, latest wins."""
        topic = topics.state(self._node, kind, name)
        if info is None:
            self._states.pop(topic, None)
            self._connection.post(topic, Publication(topic, b"", retain=True))
        elif self._states.get(topic) != info:
            self._states[topic] = info
            self._post_state(topic)

    def publish_status(self, status: NodeStatus) -> None:
        """Replace the node's retained status (`online` is set here)."""
        assert status.node == self._node
        self._status = status.model_copy(update={"online": True})
        self._post_status()

    # -- what the connection tells us

    def _on_up(self) -> None:
        self._post_status()
        for topic in self._states:
            self._post_state(topic)
        self._up.set()

    def _on_down(self, _reason: str) -> None:
        self._up.clear()

    def _on_settled(self) -> None:
        """Clear what an earlier life of this node left behind; once, at the first connection."""
        if self._stale is None:
            return
        for topic in self._stale - self._states.keys():
            _log.info("clearing a state left behind", topic=topic)
            self._connection.post(topic, Publication(topic, b"", retain=True))
        self._stale = None
        self._connection.unsubscribe(self._own_states)

    def _on_message(self, incoming: Incoming) -> None:
        address = topics.parse(incoming.topic)
        if address is None or address.node != self._node:
            return
        if address.section == "state":
            if self._stale is not None and incoming.retained and incoming.payload:
                self._stale.add(incoming.topic)
            return
        if address.section != "cmd" or len(address.rest) != 1 or self._stopping:
            return
        if incoming.retained:
            # Carried out again at each reconnect otherwise.
            _log.warning("retained request ignored", topic=incoming.topic)
            return
        try:
            status_kind = self._status.kind
            command = parse_command(address.rest[0], incoming.payload, status_kind)
        except MalformedError as exc:
            _log.info("malformed request", topic=incoming.topic, problem=exc.message)
            reply = rejected(
                self._node, exc.request_id, Code.BAD_REQUEST, exc.message, exc.next_step
            )
            self._answer(incoming, reply)
            return
        self._accept(command, incoming)

    # -- requests under way

    def _accept(self, command: Command, incoming: Incoming) -> None:
        request_id = command.request.id
        same = self._pending.get(request_id)
        if same is not None:
            # Delivered twice, or asked again after a reconnect: the last asker gets the answer.
            same.incoming = incoming
            return
        if len(self._pending) >= MAX_RUNNING + MAX_WAITING:
            _log.warning("too many requests under way, one refused", verb=command.verb.name)
            reply = rejected(
                self._node, request_id, Code.BUSY, "too many requests under way", "ask again later"
            )
            self._answer(incoming, reply)
            return
        pending = _Pending(command, incoming, asyncio.get_running_loop().time())
        self._pending[request_id] = pending
        task = asyncio.create_task(self._work(pending), name=f"request {request_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, pending: _Pending) -> None:
        request_id = pending.command.request.id
        try:
            async with self._slots:
                reply = self._expired(pending) or await self._once(pending.command)
        finally:
            del self._pending[request_id]
        self._answer(pending.incoming, reply)

    def _expired(self, pending: _Pending) -> Reply | None:
        expiry_s = pending.incoming.expiry_s
        waited_s = asyncio.get_running_loop().time() - pending.arrived_s
        if expiry_s is None or waited_s <= expiry_s:
            return None
        return rejected(
            self._node,
            pending.command.request.id,
            Code.EXPIRED,
            f"the request waited {math.ceil(waited_s)} s, longer than it is valid",
            "ask again",
        )

    async def _once(self, command: Command) -> Reply:
        """Carry a durable request out once, whatever is delivered twice."""
        if not command.verb.durable:
            return await carry_out(self._node, command, self._handler)
        request_id = command.request.id
        try:
            recorded = await self._journal.begin(request_id)
        except RejectedError as exc:
            return rejected(self._node, request_id, exc.code, exc.message, exc.next_step)
        if recorded is not None:
            return recorded
        reply = await carry_out(self._node, command, self._handler)
        try:
            await self._journal.finish(request_id, reply)
        except RejectedError as exc:
            # It was done; only its answer can't be remembered. The caller still gets it.
            _log.error("answer not recorded", request=request_id, problem=exc.message)
        return reply

    def _answer(self, incoming: Incoming, reply: Reply) -> None:
        topic = incoming.response_topic
        if topic is not None and (not topic or any(sign in topic for sign in "+#\0")):
            _log.warning("response topic can't be published to", topic=incoming.topic)
            topic = None
        _log.info(
            "request answered",
            topic=incoming.topic,
            request=reply.id,
            code=reply.code.value,
            message=reply.message,
            asked_for=topic is not None,
        )
        if topic is None:
            return
        self._reply_number += 1
        self._connection.post(
            f"reply {self._reply_number}",
            Publication(
                topic,
                reply.model_dump_json().encode(),
                correlation=incoming.correlation,
            ),
        )

    # -- what we publish

    def _post_state(self, topic: str) -> None:
        payload = self._states[topic].model_dump_json().encode()
        self._connection.post(topic, Publication(topic, payload, retain=True))

    def _post_status(self) -> None:
        topic = topics.status(self._node)
        payload = self._status.model_dump_json().encode()
        self._connection.post(topic, Publication(topic, payload, retain=True))

    def _offline(self, detail: str) -> Publication:
        status = self._status.model_copy(update={"online": False, "detail": detail})
        payload = status.model_dump_json().encode()
        return Publication(topics.status(self._node), payload, retain=True)
