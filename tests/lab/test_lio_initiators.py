"""Two initiators at one LUN of a lab host's kernel: what each of them is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.labs.host import Host
from tests.lab.lio import (
    LOAD_UNIT,
    UNIT_ATTENTION,
    Files,
    Load,
    forget,
    heard,
    log_in_as,
    log_out,
    until,
)

pytestmark = pytest.mark.lab

NAMES = ("one", "two")
GROWN = "Capacity data has changed"


@pytest.fixture
def files(solo: Host) -> Iterator[Files]:
    served = Files(solo)
    served.prepare()
    solo.run("dmesg", "-C")
    served.start()
    yield served
    solo.run("systemctl", "stop", LOAD_UNIT, check=False)
    log_out(solo)
    served.stop()
    forget(solo)


def grow(files: Files, size: str) -> None:
    files.host.shell(f"truncate -s {size} {files.files[0]}")
    steps = files.log.count("1 steps")
    files.host.run("systemctl", "kill", "-s", "HUP", files.unit)
    until(lambda: files.log.count("1 steps") > steps, "the kernel has the new size")


def test_each_of_two_initiators_hears_that_the_size_has_changed(files: Files) -> None:
    host = files.host
    one, two = log_in_as(host, *NAMES)
    assert heard(host, one) == heard(host, two) == []
    grow(files, "96M")
    assert heard(host, one) == [UNIT_ATTENTION, GROWN]
    assert heard(host, two) == [UNIT_ATTENTION]
    assert heard(host, one) == [UNIT_ATTENTION, GROWN]  # once
    assert heard(host, two) == [UNIT_ATTENTION]
    for disk in (one, two):
        host.shell(f"echo 1 >/sys/block/{Path(disk).name}/device/rescan")
        assert host.run("blockdev", "--getsize64", disk).text == str(96 << 20)


def test_what_grew_while_nobody_served_it_is_told(files: Files) -> None:
    host = files.host
    one, two = log_in_as(host, *NAMES)
    files.stop()
    host.shell("truncate -s 96M /srv/f0")
    files.start()
    assert UNIT_ATTENTION in heard(host, one)
    assert UNIT_ATTENTION in heard(host, two)


def test_writes_go_on_while_attentions_are_raised(files: Files) -> None:
    host = files.host
    one, two = log_in_as(host, *NAMES)
    load = Load(host, one)
    load.start()
    for times, size in enumerate(("96M", "128M", "160M"), start=1):
        grow(files, size)
        load.goes_on()
        assert (
            heard(host, one).count(UNIT_ATTENTION)
            == heard(host, two).count(UNIT_ATTENTION)
            == times
        )
    load.ends_well()
