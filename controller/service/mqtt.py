"""One MQTT 5 connection that keeps itself up. The only module that imports the MQTT library.

Owns connecting, subscribing, publishing in order and reconnecting with a capped backoff. Must
not know what the messages mean. A broker that is away is a state, not an error: it is logged
once when it goes and once when it comes back, and what is queued waits (bounded) meanwhile.

aiomqtt speaks 3.1.1 unless told otherwise, doesn't reconnect, queues without bound, and leaves
`async with` without its will: each is dealt with here.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import aiomqtt
import structlog
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from pydantic import SecretStr

from controller.api import topics
from controller.service.outbox import Outbox, Publication

MAX_PACKET_BYTES = 4 << 20
MAX_QUEUED_INCOMING = 16384
MAX_SUBSCRIPTIONS = 64
OPERATION_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 3.0
KEEPALIVE_S = 20

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Broker:
    """Where the broker is, and who we are there."""

    host: str = "127.0.0.1"
    port: int = 1883
    username: str | None = None
    password: SecretStr | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Incoming:
    """One received message."""

    topic: str
    payload: bytes
    retained: bool
    """True for a stored message that was sent because we subscribed."""
    response_topic: str | None = None
    correlation: bytes | None = None
    expiry_s: int | None = None


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait between attempts: doubling from `first_s` up to `cap_s`, with jitter."""

    first_s: float = 0.1
    cap_s: float = 5.0
    jitter: Callable[[], float] = random.random

    def delay_s(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row, at most `cap_s`."""
        assert failures > 0
        ceiling = min(self.cap_s, self.first_s * float(1 << min(failures - 1, 16)))
        return ceiling * (0.5 + self.jitter() / 2)


@dataclass(frozen=True, slots=True)
class Events:
    """What the owner of a connection is called for; each returns at once."""

    on_message: Callable[[Incoming], None]
    on_up: Callable[[], None]
    """Connected and subscribed; called before anything queued goes out."""
    on_settled: Callable[[], None]
    """Every stored message of the subscriptions has been delivered."""
    on_down: Callable[[str], None]
    """The connection is gone, or an attempt failed; the reason in a sentence."""


class Connection:
    """Keeps one session with the broker. `client_id` must be a valid name (it is in a topic)."""

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        events: Events,
        *,
        filters: tuple[str, ...],
        will: Publication | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._events = events
        self.reply_topic = topics.reply(client_id)
        self._filters = [self.reply_topic, *filters]
        self._will = will
        self._backoff = backoff or Backoff()
        self._outbox = Outbox()
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._farewell: Publication | None = None
        self._to_subscribe: list[str] = []
        self._to_unsubscribe: list[str] = []
        self._settle_round = 0
        self._told_down = False
        self.connected = False

    def start(self) -> None:
        """Begin connecting, in the background and for ever."""
        assert self._task is None, "a connection is started once"
        self._task = asyncio.create_task(self._run(), name=f"mqtt {self._client_id}")
        self._task.add_done_callback(_tell_of_crash)

    async def stop(self, farewell: Publication | None = None) -> None:
        """Send what is queued and `farewell` if the broker is there, then disconnect.

        Takes at most a few seconds when the broker doesn't answer.
        """
        if self._task is None:
            return
        self._farewell = farewell
        self._stopping.set()
        self._wake.set()
        try:
            await asyncio.wait_for(self._task, DRAIN_TIMEOUT_S + OPERATION_TIMEOUT_S)
        except TimeoutError:
            _log.warning("gave up on a clean disconnect", broker=str(self._broker))
        self._task = None

    def post(self, key: str, publication: Publication) -> None:
        """Queue a message; a newer one under the same key replaces it. Never blocks."""
        dropped = self._outbox.put(key, publication)
        if dropped is not None:
            _log.warning("outgoing queue full, message dropped", topic=dropped.topic)
        self._wake.set()

    def drop(self, key: str) -> None:
        """Forget a queued message that is no longer wanted."""
        self._outbox.drop(key)

    def subscribe(self, topic_filter: str) -> None:
        """Add a subscription, now and after every reconnect; `on_settled` follows."""
        if topic_filter not in self._filters:
            assert len(self._filters) < MAX_SUBSCRIPTIONS, "too many subscriptions"
            self._filters.append(topic_filter)
        if topic_filter in self._to_unsubscribe:
            self._to_unsubscribe.remove(topic_filter)
        self._to_subscribe.append(topic_filter)
        # An echo that is under way already says nothing about this subscription.
        self._settle_round += 1
        self._wake.set()

    def unsubscribe(self, topic_filter: str) -> None:
        """Give a subscription up."""
        if topic_filter in self._filters:
            self._filters.remove(topic_filter)
            self._to_subscribe = [f for f in self._to_subscribe if f != topic_filter]
            self._to_unsubscribe.append(topic_filter)
            self._wake.set()

    async def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            reason = "disconnected"
            try:
                await self._session()
            except aiomqtt.MqttError as exc:
                reason = _ERRNO.sub("", " ".join(str(exc).split())) or type(exc).__name__
            # A session that came up ends the row of failures, however it went down.
            failures = 1 if self.connected else failures + 1
            self._went_down(reason)
            if self._stopping.is_set():
                return
            await _wait_up_to(self._stopping, self._backoff.delay_s(failures))

    async def _session(self) -> None:
        async with self._new_client() as client:
            self._to_subscribe.clear()
            self._to_unsubscribe.clear()
            await client.subscribe([(f, 1) for f in self._filters], qos=1)
            self.connected = True
            if self._told_down:
                _log.info("broker is back", broker=str(self._broker))
                self._told_down = False
            self._events.on_up()
            if not self._to_subscribe:
                self._echo()
            await self._serve(client)

    async def _serve(self, client: aiomqtt.Client) -> None:
        sending = asyncio.create_task(self._send(client))
        receiving = asyncio.create_task(self._receive(client))
        both = (sending, receiving)
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # A publish that waits for its PUBACK would outlive the session by its timeout.
            for task in both:
                task.cancel()
            results = await asyncio.gather(*both, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _send(self, client: aiomqtt.Client) -> None:
        deadline: float | None = None
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            await self._change_subscriptions(client)
            entry = self._outbox.first()
            if self._stopping.is_set():
                deadline = deadline or loop.time() + DRAIN_TIMEOUT_S
                if entry is None or loop.time() > deadline:
                    break
            if entry is None:
                await self._wake.wait()
                continue
            await _publish(client, entry[1])
            self._outbox.sent(*entry)
        if self._farewell is not None:
            await _publish(client, self._farewell)

    async def _change_subscriptions(self, client: aiomqtt.Client) -> None:
        while self._to_unsubscribe:
            await client.unsubscribe(self._to_unsubscribe.pop())
        if not self._to_subscribe:
            return
        while self._to_subscribe:
            added, self._to_subscribe = self._to_subscribe, []
            await client.subscribe([(f, 1) for f in added], qos=1)
        # No wait between the last subscription and this: the echo speaks for all of them.
        self._echo()

    async def _receive(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            incoming = _incoming(message)
            if incoming.topic == self.reply_topic and incoming.response_topic == _ECHO:
                if incoming.payload == self._echo_payload():
                    self._events.on_settled()
                continue
            self._events.on_message(incoming)

    def _echo(self) -> None:
        """Send ourselves a message behind the stored ones: when it is here, they are too."""
        self._settle_round += 1
        self.post(_ECHO, Publication(self.reply_topic, self._echo_payload(), response_topic=_ECHO))

    def _echo_payload(self) -> bytes:
        return b"echo %d" % self._settle_round

    def _went_down(self, reason: str) -> None:
        self.connected = False
        if not self._told_down and not self._stopping.is_set():
            _log.warning("broker is away", broker=str(self._broker), reason=reason)
            self._told_down = True
        self._events.on_down(reason)

    def _new_client(self) -> aiomqtt.Client:
        will = None
        if self._will is not None:
            will = aiomqtt.Will(self._will.topic, self._will.payload, qos=1, retain=True)
        limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        limits.MaximumPacketSize = MAX_PACKET_BYTES
        password = self._broker.password
        return aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=None if password is None else password.get_secret_value(),
            identifier=self._client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
            will=will,
            clean_start=True,
            properties=limits,
            timeout=OPERATION_TIMEOUT_S,
            keepalive=KEEPALIVE_S,
            max_queued_incoming_messages=MAX_QUEUED_INCOMING,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
        )


_ECHO = "trilun-echo"
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")


async def _publish(client: aiomqtt.Client, publication: Publication) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    if publication.response_topic is not None:
        properties.ResponseTopic = publication.response_topic
    if publication.correlation is not None:
        properties.CorrelationData = publication.correlation
    if publication.expiry_s is not None:
        properties.MessageExpiryInterval = publication.expiry_s
    await client.publish(
        publication.topic,
        publication.payload,
        qos=1,
        retain=publication.retain,
        properties=properties,
    )


def _incoming(message: aiomqtt.Message) -> Incoming:
    payload = message.payload
    assert isinstance(payload, bytes | bytearray), "received payloads are bytes"
    properties = message.properties
    return Incoming(
        topic=message.topic.value,
        payload=bytes(payload),
        retained=bool(message.retain),
        response_topic=getattr(properties, "ResponseTopic", None),
        correlation=getattr(properties, "CorrelationData", None),
        expiry_s=getattr(properties, "MessageExpiryInterval", None),
    )


async def _wait_up_to(event: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return


def _tell_of_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("MQTT connection task crashed", exc_info=task.exception())
