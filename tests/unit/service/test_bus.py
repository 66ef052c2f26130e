"""The bus without a broker: what it queues for one, and how it treats late requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api import topics
from controller.api.codes import Code
from controller.api.verbs import Verb
from controller.service.bus import MAX_RUNNING, Answer, Bus
from controller.service.mqtt import Broker, Incoming
from controller.service.outbox import Publication
from controller.service.requests import RequestJournal
from tests.nodes import controller_status, volume_info

pytestmark = pytest.mark.plain


class Slow:
    """A handler that waits until it is told to go on."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.runs: list[str] = []

    async def __call__(self, verb: Verb, params: m.Params, request: m.Request) -> Answer:
        self.runs.append(request.id)
        await self.release.wait()
        return Answer()


@pytest.fixture
async def slow() -> Slow:
    return Slow()


@pytest.fixture
async def bus(tmp_path: Path, slow: Slow) -> AsyncIterator[Bus]:
    journal = await RequestJournal.open(tmp_path / "requests.log")
    yield Bus(Broker("127.0.0.1", 1), status=controller_status(), handler=slow, journal=journal)
    await journal.close()


def arrive(bus: Bus, request_id: str, **more: object) -> None:
    fields: dict[str, object] = {
        "topic": topics.command("ctl1", "volume.list"),
        "payload": m.Request(id=request_id).model_dump_json().encode(),
        "retained": False,
        "response_topic": "trilun/v1/me/reply",
    }
    bus._on_message(Incoming(**(fields | more)))  # type: ignore[arg-type]


def queued(bus: Bus) -> list[Publication]:
    """Everything that would go out, in order."""
    out = []
    while (entry := bus._connection._outbox.first()) is not None:
        out.append(entry[1])
        bus._connection._outbox.sent(*entry)
    return out


async def finish(bus: Bus) -> None:
    async with asyncio.timeout(5):
        while bus._tasks:
            await asyncio.wait(set(bus._tasks))


async def test_a_request_that_waited_too_long_is_expired(bus: Bus, slow: Slow) -> None:
    for number in range(MAX_RUNNING):
        arrive(bus, f"r{number}")
    arrive(bus, "late", expiry_s=0)
    arrive(bus, "patient", expiry_s=3600)
    slow.release.set()
    await finish(bus)
    replies = {
        reply.id: reply.code
        for reply in (m.Reply.model_validate_json(p.payload) for p in queued(bus))
    }
    assert len(replies) == MAX_RUNNING + 2
    assert replies.pop("late") is Code.EXPIRED
    assert set(replies.values()) == {Code.OK}
    assert "late" not in slow.runs


@pytest.mark.parametrize("response_topic", ["", "a/+", "a/#", "a\0b"])
async def test_a_response_topic_that_can_not_be_published_to_costs_the_reply_only(
    bus: Bus, slow: Slow, response_topic: str
) -> None:
    slow.release.set()
    arrive(bus, "odd", response_topic=response_topic)
    await finish(bus)
    assert slow.runs == ["odd"]
    assert queued(bus) == []


async def test_states_are_queued_once_and_latest(bus: Bus) -> None:
    topic = topics.state("ctl1", "volume", "v1")
    bus.publish_state("volume", "v1", volume_info(size_bytes=4096))
    bus.publish_state("volume", "v1", volume_info(size_bytes=8192))
    (publication,) = queued(bus)
    assert (publication.topic, publication.retain) == (topic, True)
    assert m.VolumeInfo.model_validate_json(publication.payload).size_bytes == 8192
    bus.publish_state("volume", "v1", volume_info(size_bytes=8192))
    assert queued(bus) == [], "an unchanged state is no news"
    bus.publish_state("volume", "v1", None)
    assert queued(bus) == [Publication(topic, b"", retain=True)]


async def test_the_status_says_online_whatever_it_was_given(bus: Bus) -> None:
    bus.publish_status(controller_status(online=False, detail="busy"))
    (publication,) = queued(bus)
    status = m.NodeStatus.model_validate_json(publication.payload)
    assert (status.online, status.detail) == (True, "busy")


async def test_requests_are_not_taken_while_stopping(bus: Bus, slow: Slow) -> None:
    slow.release.set()
    arrive(bus, "before")
    await bus.stop()
    arrive(bus, "after")
    await finish(bus)
    assert slow.runs == ["before"]
