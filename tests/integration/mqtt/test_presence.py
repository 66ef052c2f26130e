"""Who is there, and what is retained: wills, farewells, restarts of broker and nodes."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from controller.api import messages as m
from controller.api import topics
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.verbs import Verb
from controller.service.bus import Answer, Bus
from controller.service.client import ApiClient
from controller.service.mqtt import Backoff
from controller.service.requests import RequestJournal
from tests.brokers import QUICK, Mosquitto
from tests.nodes import api_client, controller_status, fake_node, pair_info, volume_info

pytestmark = pytest.mark.tools

CHILD = """
import asyncio, sys
from pathlib import Path
from controller.service.mqtt import Broker
from tests.nodes import fake_node
from controller.service.bus import Answer

async def main():
    broker = Broker("127.0.0.1", int(sys.argv[1]))
    async with fake_node(broker, Path(sys.argv[2]), lambda *a: Answer()):
        print("up", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def canned(verb: Verb, params: m.Params, request: m.Request) -> Answer:
    if verb.name == "volume.list":
        return Answer(result=m.VolumeList(volumes=[volume_info()]))
    return Answer(result=volume_info())


async def until_offline(client: ApiClient, node: str) -> m.NodeStatus:
    async with asyncio.timeout(10):
        while True:
            status = (await client.discover())[node]
            if not status.online:
                return status
            await asyncio.sleep(0.01)


async def test_discovery_ends_and_is_complete(broker: Mosquitto, tmp_path: Path) -> None:
    async with api_client(broker.address, "early") as early:
        assert await early.discover() == {}
    async with (
        fake_node(broker.address, tmp_path, canned, controller_status("ctl1")),
        fake_node(broker.address, tmp_path, canned, controller_status("ctl2")),
        api_client(broker.address) as client,
    ):
        await client.call("ctl1", "volume.list", m.Empty())
        await client.call("ctl2", "volume.list", m.Empty())
        found = await client.discover()
        assert list(found) == ["ctl1", "ctl2"]
        assert all(status.online for status in found.values())


async def test_a_clean_stop_says_offline(broker: Mosquitto, tmp_path: Path) -> None:
    async with api_client(broker.address) as client:
        async with fake_node(broker.address, tmp_path, canned):
            await client.call("ctl1", "volume.list", m.Empty())
        status = await until_offline(client, "ctl1")
        assert status.detail == "stopped"


async def test_a_killed_node_leaves_its_will(broker: Mosquitto, tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(broker.port), str(tmp_path), stdout=PIPE
    )
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"up\n"
        async with api_client(broker.address) as client:
            await client.request("ctl1", "volume.show", m.Named(name="v1"))
            child.kill()
            status = await until_offline(client, "ctl1")
            assert status.detail == "connection lost"
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


async def test_everything_is_published_again_after_a_broker_restart(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node:
        node.bus.publish_state("volume", "v1", volume_info("v1"))
        node.bus.publish_state("volume", "v2", volume_info("v2"))
        node.bus.publish_state("volume", "v2", None)
        node.bus.publish_state("pair", "p1", pair_info())
        await node.flushed()
        broker.stop()
        node.bus.publish_state("volume", "v3", volume_info("v3"))
        broker.start()
        async with api_client(broker.address, "late") as client:
            await client.call("ctl1", "volume.list", m.Empty())
            found = await client.states()
        assert sorted(found) == [
            topics.state("ctl1", "pair", "p1"),
            topics.state("ctl1", "volume", "v1"),
            topics.state("ctl1", "volume", "v3"),
        ]


async def test_states_of_an_earlier_life_are_cleared(broker: Mosquitto, tmp_path: Path) -> None:
    async with api_client(broker.address) as client:
        async with fake_node(broker.address, tmp_path, canned) as node:
            node.bus.publish_state("volume", "gone", volume_info("gone"))
            node.bus.publish_state("volume", "kept", volume_info("kept"))
            await client.wait_until(topics.ALL_STATE, lambda topic, info: "kept" in topic, 5)
        async with fake_node(broker.address, tmp_path, canned) as restarted:
            restarted.bus.publish_state("volume", "kept", volume_info("kept"))
            kept = topics.state("ctl1", "volume", "kept")
            async with asyncio.timeout(5):
                while list(await client.states()) != [kept]:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)


async def test_a_watch_sees_stored_states_then_changes(broker: Mosquitto, tmp_path: Path) -> None:
    async with fake_node(broker.address, tmp_path, canned) as node:
        node.bus.publish_state("pair", "p1", pair_info(state=m.PairState.COPY))
        async with api_client(broker.address) as client:
            seen = []
            async with asyncio.timeout(5):
                async for _, info in client.watch(topics.state("ctl1", "pair", "p1")):
                    seen.append(info.state if isinstance(info, m.PairInfo) else None)
                    if len(seen) == 1:
                        node.bus.publish_state("pair", "p1", pair_info())
                    elif len(seen) == 2:
                        node.bus.publish_state("pair", "p1", None)
                    else:
                        break
            assert seen == [m.PairState.COPY, m.PairState.PAIR, None]


async def test_snapshots_taken_at_the_same_time_are_complete(
    broker: Mosquitto, tmp_path: Path
) -> None:
    names = [f"v{number}" for number in range(20)]
    async with fake_node(broker.address, tmp_path, canned) as node:
        for name in names:
            node.bus.publish_state("volume", name, volume_info(name))
        await node.flushed()

        async def snapshot(client: ApiClient, number: int) -> list[str]:
            # Each begins while the one before is being answered.
            for _ in range(3 * number):
                await asyncio.sleep(0)
            return list(await client.states(topics.state("ctl1", "volume", names[number])))

        async with api_client(broker.address) as client:
            await client.discover()
            found = await asyncio.gather(*(snapshot(client, n) for n in range(len(names))))
        assert found == [[topics.state("ctl1", "volume", name)] for name in names]


async def test_a_node_starts_without_a_broker(stopped_broker: Mosquitto, tmp_path: Path) -> None:
    journal = await RequestJournal.open(tmp_path / "requests.log")

    async def handle(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return canned(verb, params, request)

    bus = Bus(
        stopped_broker.address,
        status=controller_status(),
        handler=handle,
        journal=journal,
        backoff=QUICK,
    )
    async with bus:
        bus.publish_state("volume", "v1", volume_info())
        assert not bus.connected
        stopped_broker.start()
        async with api_client(stopped_broker.address) as client:
            assert await client.call("ctl1", "volume.show", m.Named(name="v1")) == volume_info()
            assert list(await client.states()) == [topics.state("ctl1", "volume", "v1")]
    await journal.close()


async def test_stopping_without_a_broker_is_quick(
    stopped_broker: Mosquitto, tmp_path: Path
) -> None:
    journal = await RequestJournal.open(tmp_path / "requests.log")

    async def handle(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return canned(verb, params, request)

    bus = Bus(stopped_broker.address, status=controller_status(), handler=handle, journal=journal)
    began = time.monotonic()
    async with bus:
        pass
    assert time.monotonic() - began < 3
    await journal.close()


async def test_who_is_away_is_said(stopped_broker: Mosquitto, tmp_path: Path) -> None:
    async def complaint(node: str) -> RejectedError:
        async with api_client(stopped_broker.address, patience_s=0) as client:
            with pytest.raises(RejectedError) as caught:
                await client.call(node, "volume.list", m.Empty())
            return caught.value

    away = await complaint("ctl1")
    assert away.code is Code.UNREACHABLE
    assert away.message.startswith(f"no broker at 127.0.0.1:{stopped_broker.port}")
    stopped_broker.start()
    unknown = await complaint("nosuch")
    assert "'nosuch' has never been seen" in unknown.message
    async with fake_node(stopped_broker.address, tmp_path, canned):
        pass
    offline = await complaint("ctl1")
    assert offline.message == "node 'ctl1' is offline"


async def test_waits_and_calls_outlast_restarts_of_broker_and_node(
    broker: Mosquitto, tmp_path: Path
) -> None:
    topic = topics.state("ctl1", "pair", "p1")

    def in_pair(_topic: str, info: m.Info | None) -> bool:
        return isinstance(info, m.PairInfo) and info.state is m.PairState.PAIR

    async with api_client(broker.address) as client:
        async with fake_node(broker.address, tmp_path, canned) as node:
            node.bus.publish_state("pair", "p1", pair_info(state=m.PairState.COPY))
            waiting = asyncio.create_task(client.wait_until(topic, in_pair, 20))
            await client.wait_until(topic, lambda _topic, info: info is not None, 5)
        calling = asyncio.create_task(client.call("ctl1", "volume.list", m.Empty(), 20))
        broker.stop()
        broker.start()
        async with fake_node(broker.address, tmp_path, canned) as node:
            node.bus.publish_state("pair", "p1", pair_info())
            assert (await waiting)[0] == topic
            assert isinstance(await calling, m.VolumeList)


async def test_a_request_lost_with_the_broker_is_sent_again(
    broker: Mosquitto, tmp_path: Path
) -> None:
    async def handle(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        return canned(verb, params, request)

    journal = await RequestJournal.open(tmp_path / "requests.log")
    # The client is back long before the node: what it sends first finds no subscriber.
    late = Backoff(first_s=1.0, cap_s=1.0, jitter=lambda: 1.0)
    bus = Bus(
        broker.address, status=controller_status(), handler=handle, journal=journal, backoff=late
    )
    async with bus, api_client(broker.address) as client:
        await client.call("ctl1", "volume.list", m.Empty())
        broker.stop()
        broker.start()
        answer = await client.call("ctl1", "volume.list", m.Empty(), timeout_s=8)
        assert isinstance(answer, m.VolumeList)
    await journal.close()


async def test_a_silent_node_is_a_timeout(broker: Mosquitto, tmp_path: Path) -> None:
    async def never(verb: Verb, params: m.Params, request: m.Request) -> Answer:
        await asyncio.Event().wait()
        return Answer()

    journal = await RequestJournal.open(tmp_path / "requests.log")
    bus = Bus(
        broker.address, status=controller_status(), handler=never, journal=journal, backoff=QUICK
    )
    async with bus, api_client(broker.address) as client:
        with pytest.raises(RejectedError) as caught:
            await client.call("ctl1", "volume.list", m.Empty(), timeout_s=0.3)
        assert caught.value.code is Code.TIMEOUT
    await journal.close()


async def test_a_wait_that_is_too_long_ends(broker: Mosquitto) -> None:
    async with api_client(broker.address) as client:
        with pytest.raises(RejectedError) as caught:
            await client.wait_until(topics.ALL_STATE, lambda topic, info: True, 0.1)
        assert caught.value.code is Code.TIMEOUT
