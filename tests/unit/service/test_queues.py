"""The outbox and the watches: bounded, latest value wins, nothing newer is lost."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import messages as m
from controller.service.mqtt import Backoff
from controller.service.outbox import Outbox, Publication
from controller.service.watches import Watch, matches
from tests.nodes import volume_info

pytestmark = pytest.mark.plain


def pub(payload: int, retain: bool = False) -> Publication:
    return Publication("t", b"%d" % payload, retain=retain)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_the_outbox_is_bounded_and_keeps_the_latest(puts: list[tuple[int, bool]]) -> None:
    box = Outbox(max_direct=3, max_retained=4)
    latest: dict[tuple[int, bool], int] = {}
    for number, (key, retain) in enumerate(puts):
        box.put(str(key), pub(number, retain))
        latest[key, retain] = number
    assert len(box) <= 7
    lanes = []
    while (entry := box.first()) is not None:
        key_text, publication = entry
        assert latest[int(key_text), publication.retain] == int(publication.payload)
        lanes.append(publication.retain)
        box.sent(*entry)
    assert lanes == sorted(lanes), "answers go before states"


def test_a_newer_value_stays_when_the_older_one_has_gone_out() -> None:
    box = Outbox()
    old = pub(1)
    box.put("k", old)
    box.put("k", pub(2))
    box.sent("k", old)
    assert box.first() == ("k", pub(2))


def test_a_full_outbox_says_what_gave_way() -> None:
    box = Outbox(max_direct=1)
    assert box.put("a", pub(1)) is None
    assert box.put("b", pub(2)) == pub(1)


@pytest.mark.parametrize(
    ("topic_filter", "topic", "fits"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/+/c", "a/b/d", False),
        ("a/#", "a/b/c", True),
        ("a/#", "b", False),
        ("a/+", "a/b/c", False),
        ("a/b/c", "a/b", False),
    ],
)
def test_filters(topic_filter: str, topic: str, fits: bool) -> None:
    assert matches(topic_filter, topic) is fits


@given(st.lists(st.sampled_from("ab+"), min_size=1), st.lists(st.sampled_from("ab"), min_size=1))
def test_filters_match_level_by_level(wanted: list[str], levels: list[str]) -> None:
    expected = len(wanted) == len(levels) and all(
        want in {"+", level} for want, level in zip(wanted, levels, strict=False)
    )
    assert matches("/".join(wanted), "/".join(levels)) is expected


async def test_a_slow_reader_gets_the_latest_value_once() -> None:
    watch = Watch("t/#")
    watch.offer("t/a", volume_info(size_bytes=4096))
    watch.offer("t/b", volume_info("b"))
    watch.offer("t/a", volume_info(size_bytes=8192))
    watch.offer("t/a", volume_info(size_bytes=8192))
    watch.offer("x", volume_info())
    watch.offer("t/never", None)
    assert (await watch.next())[0] == "t/b"
    topic, info = await watch.next()
    assert isinstance(info, m.VolumeInfo)
    assert (topic, info.size_bytes) == ("t/a", 8192)
    watch.offer("t/a", volume_info(size_bytes=8192))
    assert not watch._unread, "what is known is no news"
    waiting = asyncio.ensure_future(watch.next())
    watch.offer("t/a", None)
    assert await waiting == ("t/a", None)
    assert list(watch.snapshot()) == ["t/b"]


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_backoff_is_capped(failures: int, chance: float) -> None:
    backoff = Backoff(first_s=0.1, cap_s=5.0, jitter=lambda: chance)
    assert 0.05 <= backoff.delay_s(failures) <= 5.0
