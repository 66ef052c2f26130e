"""Requests and answers through a real broker: once, in time, and never silently wrong."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Self

import pytest

from controller.api import messages as m
from controller.api import topics
from controller.api.codes import Code, Verdict
from controller.api.errors import RejectedError
from controller.api.verbs import Verb
from controller.service.bus import Answer, Bus
from controller.service.mqtt import Connection, Events, Incoming
from controller.service.outbox import Publication
from controller.service.requests import RequestJournal
from tests.brokers import QUICK, Mosquitto
from tests.nodes import api_client, controller_status, fake_node, volume_info

pytestmark = pytest.mark.tools


def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
    if isinstance(params, m.Named) and params.name == "missing":
        raise RejectedError(Code.NOT_FOUND, "volume 'missing' does not exist", "list volumes")
    if isinstance(params, m.Named) and params.name == "bug":
        raise KeyError("planted")
    if isinstance(params, m.VolumeCreate):
        return Answer(result=volume_info(params.name, size_bytes=params.size_bytes))
    if verb.name == "volume.list":
        return Answer(result=m.VolumeList(volumes=[]))
    return Answer(Verdict.NO_OP, "as it was", result=volume_info())


class RawClient:
    """Publishes what a careless client might."""

    def __init__(self, broker: Mosquitto) -> None:
        self.replies: asyncio.Queue[Incoming] = asyncio.Queue()
        self.up = asyncio.Event()
        self._number = 0
        self.connection = Connection(
            broker.address,
            "raw",
            Events(self.replies.put_nowait, self.up.set, lambda: None, lambda reason: None),
            filters=(),
            backoff=QUICK,
        )

    async def __aenter__(self) -> Self:
        self.connection.start()
        await self.up.wait()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.connection.stop()

    def send(self, verb: str, payload: bytes, reply: bool = True, retain: bool = False) -> None:
        self._number += 1
        topic = f"{topics.ROOT}/ctl1/cmd/{verb}"
        back = self.connection.reply_topic if reply else None
        correlation = b"c%d" % self._number if reply else None
        publication = Publication(
            topic, payload, retain=retain, response_topic=back, correlation=correlation
        )
        self.connection.post(str(self._number), publication)

    async def next_code(self) -> Code:
        incoming = await asyncio.wait_for(self.replies.get(), 10)
        return m.Reply.model_validate_json(incoming.payload).code

    async def ask(self, verb: str, payload: bytes) -> tuple[m.Reply, bytes | None]:
        self.send(verb, payload)
        incoming = await asyncio.wait_for(self.replies.get(), 5)
        return m.Reply.model_validate_json(incoming.payload), incoming.correlation


async def test_answers_come_back_typed(broker: Mosquitto, tmp_path: Path) -> None:
    async with fake_node(broker.address, tmp_path, canned), api_client(broker.address) as client:
        params = m.VolumeCreate(name="v7", size_bytes=8192)
        reply = await client.request("ctl1", "volume.create", params)
        assert (reply.verdict, reply.code, reply.node) == (Verdict.ACCEPTED, Code.OK, "ctl1")
        info = await client.call_for(m.VolumeInfo, "ctl1", "volume.show", m.Named(name="v1"))
        assert info == volume_info()


async def test_rejections_keep_their_code_and_next_step(broker: Mosquitto, tmp_path: Path) -> None:
    async with fake_node(broker.address, tmp_path, canned), api_client(broker.address) as client:
        with pytest.raises(RejectedError) as caught:
            await client.call("ctl1", "volume.show", m.Named(name="missing"))
        assert caught.value.code is Code.NOT_FOUND
        assert caught.value.next_step == "list volumes"


async def test_a_bug_in_a_handler_is_an_answer(broker: Mosquitto, tmp_path: Path) -> None:
    async with fake_node(broker.address, tmp_path, canned), api_client(broker.address) as client:
        reply = await client.request("ctl1", "volume.show", m.Named(name="bug"))
        assert (reply.verdict, reply.code) == (Verdict.REJECTED, Code.INTERNAL)
        assert "planted" not in reply.message
        again = await client.request("ctl1", "volume.show", m.Named(name="v1"))
        assert again.code is Code.OK


@pytest.mark.parametrize(
    ("verb", "payload", "says"),
    [
        ("volume.create", b"{", "the request is not JSON"),
        ("volume.create", b"\xff\xfe", "the request is not JSON"),
        ("volume.create", b"[]", "must be"),
        ("volume.create", b"{}", "id: is required"),
        ("no.verb", b'{"id": "a"}', "unknown verb 'no.verb'"),
        ("job.list", b'{"id": "a"}', "is a verb of agents"),
        ("volume.create", b'{"id": "a", "params": {"name": "v", "size_bytes": 5000}}',
         "size_bytes: must be a multiple of 4096"),
        ("volume.create", b'{"id": "a", "params": {"name": "v", "size": 4096}}',
         "size: is not known"),
        ("volume.show", b'{"id": "a", "params": {"name": "../x"}}', "name: must match"),
    ],
)  # fmt: skip
async def test_malformed_requests_are_bad_requests(
    broker: Mosquitto, tmp_path: Path, verb: str, payload: bytes, says: str
) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node, RawClient(broker) as raw:
        reply, correlation = await raw.ask(verb, payload)
        assert (reply.verdict, reply.code) == (Verdict.REJECTED, Code.BAD_REQUEST)
        assert says in reply.message
        assert "\n" not in reply.message
        assert correlation == b"c1"
        assert node.carried_out == []


async def test_a_request_without_response_topic_is_carried_out(
    broker: Mosquitto, tmp_path: Path
) -> None:
    done = asyncio.Event()

    def noting(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        if request.id == "quiet":
            done.set()
        return canned(verb, params, request)

    payload = m.Request(id="quiet", params={"name": "v1", "size_bytes": 4096})
    async with fake_node(broker.address, tmp_path, noting), RawClient(broker) as raw:
        raw.send("volume.create", payload.model_dump_json().encode(), reply=False)
        await asyncio.wait_for(done.wait(), 5)
        reply, _ = await raw.ask("volume.list", b'{"id": "after"}')
        assert reply.id == "after"
        assert raw.replies.empty()


async def test_a_retained_request_is_not_carried_out(broker: Mosquitto, tmp_path: Path) -> None:
    async with RawClient(broker) as raw:
        raw.send("volume.delete", b'{"id": "old", "params": {"name": "v1"}}', retain=True)
        async with fake_node(broker.address, tmp_path, canned) as node:
            await raw.ask("volume.list", b'{"id": "after"}')
            assert [done[2] for done in node.carried_out] == ["after"]


async def test_a_repeated_id_is_carried_out_once(broker: Mosquitto, tmp_path: Path) -> None:
    params = m.VolumeCreate(name="v7", size_bytes=8192)
    async with api_client(broker.address) as client:
        async with fake_node(broker.address, tmp_path, canned) as node:
            first = await client.request("ctl1", "volume.create", params, request_id="once")
            second = await client.request("ctl1", "volume.create", params, request_id="once")
            assert second == first
            assert len(node.carried_out) == 1
        async with fake_node(broker.address, tmp_path, canned) as restarted:
            third = await client.request("ctl1", "volume.create", params, request_id="once")
            assert third == first
            assert restarted.carried_out == []
            await client.request("ctl1", "volume.create", params, request_id="twice")
            assert len(restarted.carried_out) == 1


async def test_the_same_request_delivered_while_it_runs_runs_once(
    broker: Mosquitto, tmp_path: Path
) -> None:
    release, runs = asyncio.Event(), []

    async def slow(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        runs.append(request.id)
        await release.wait()
        return Answer(message="done")

    journal = await RequestJournal.open(tmp_path / "requests.log")
    bus = Bus(
        broker.address, status=controller_status(), handler=slow, journal=journal, backoff=QUICK
    )
    payload = b'{"id": "slow", "params": {"name": "v1"}}'
    async with bus, RawClient(broker) as raw:
        await bus.wait_connected()
        raw.send("volume.delete", payload)
        raw.send("volume.delete", payload)
        # Malformed requests are answered at once: this one has passed both.
        reply, _ = await raw.ask("no.verb", b'{"id": "x"}')
        assert reply.code is Code.BAD_REQUEST
        release.set()
        incoming = await asyncio.wait_for(raw.replies.get(), 5)
        assert json.loads(incoming.payload)["message"] == "done"
        assert runs == ["slow"]
    await journal.close()


async def test_too_many_requests_are_refused(broker: Mosquitto, tmp_path: Path) -> None:
    release, most = asyncio.Event(), [0, 0]

    async def slow(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        most[0] += 1
        most[1] = max(most)
        await release.wait()
        most[0] -= 1
        return Answer()

    journal = await RequestJournal.open(tmp_path / "requests.log")
    bus = Bus(
        broker.address, status=controller_status(), handler=slow, journal=journal, backoff=QUICK
    )
    async with bus, RawClient(broker) as raw:
        await bus.wait_connected()
        for number in range(300):
            raw.send("volume.list", b'{"id": "r%d"}' % number)
        codes = [await raw.next_code() for _ in range(300 - 288)]
        assert set(codes) == {Code.BUSY}
        release.set()
        assert {await raw.next_code() for _ in range(288)} == {Code.OK}
        assert most[1] == 32
    await journal.close()


async def test_a_request_waits_over_a_broker_restart(broker: Mosquitto, tmp_path: Path) -> None:
    entered, release = asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    async def slow(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        runs.append(request.id)
        entered.set()
        await release.wait()
        return Answer(result=volume_info())

    journal = await RequestJournal.open(tmp_path / "requests.log")
    bus = Bus(
        broker.address, status=controller_status(), handler=slow, journal=journal, backoff=QUICK
    )
    async with bus, api_client(broker.address) as client:
        await bus.wait_connected()
        asking = asyncio.create_task(
            client.call("ctl1", "volume.delete", m.VolumeDelete(name="v1"))
        )
        async with asyncio.timeout(5):
            await entered.wait()
        broker.stop()
        broker.start()
        release.set()
        assert await asyncio.wait_for(asking, 10) == volume_info()
        assert len(runs) == 1
    await journal.close()
