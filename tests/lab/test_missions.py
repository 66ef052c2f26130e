"""What trilun is there for, with a database that is in use: a backup and a whole restore of it,
of a group of two data sets at one instant, and a restore that is undone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from deploy.labs import data_sets
from deploy.labs.lab import Lab
from tests.integration.recovery.ledger import ClientLoad
from tests.lab import images, settling
from tests.lab.shop import GROUP, JOURNAL, ORDERS, SHOP, WRITTEN_WITHIN_S, Shop, open_shop

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]
"""The first test also makes the shop, and may boot the lab."""

SOLD = 20
"""Orders before a backup, and behind it."""
SPOIL = 'echo gone >"$0"; sync'
NEW_FILE = 'dd if=/dev/urandom of="$0/new" bs=1M count=4 conv=fsync status=none; sha256sum "$0/new"'


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Iterator[Shop]:
    """In PAIR and mounted, the database running."""
    settling.wait_online(lab, *settling.everybody(lab))
    with open_shop(lab) as opened:
        yield opened


def back_up(lab: Lab, load: ClientLoad, name: str, label: str) -> tuple[dict[str, Any], int, int]:
    """In the middle of the load. The job, orders known to be committed before it, and begun when
    it had ended."""
    load.ledger.wait_for(SOLD, WRITTEN_WITHIN_S)
    committed = load.ledger.acknowledged
    job = lab.trilun("backup", name, "--label", label)
    begun = load.ledger.begun
    load.ledger.wait_for(begun + SOLD, WRITTEN_WITHIN_S)
    return job, committed, begun


def assert_good(receipt: dict[str, Any]) -> None:
    """The database was started, recovered, and found nothing wrong with itself."""
    (database,) = receipt["databases"]
    assert database["state"] == "good", database
    assert database["done"].startswith("amcheck of "), database


def test_a_database_comes_back_with_every_commit(lab: Lab, shop: Shop) -> None:
    load = shop.sell()
    try:
        backup, at_least, at_most = back_up(lab, load, SHOP.name, "noon")
    finally:
        load.stop()
    (prepared,) = backup["receipt"]["databases"]
    assert (prepared["state"], prepared["done"]) == ("quiesced", "checkpoint")

    shop.sql("DROP TABLE kept")
    shop.sql("CREATE TABLE later AS SELECT generate_series(1, 5000)")
    shop.sql("CHECKPOINT")
    shop.host1.run("sh", "-euc", SPOIL, f"{shop.data}/global/pg_control")

    job = lab.trilun("restore", "--whole", SHOP.name, "--from", "noon", "--no-undo")
    assert_good(job["receipt"])
    load.ledger.judge(shop.committed(), at_least, at_most)
    assert not shop.has_table("later")


def test_a_group_goes_back_to_one_instant(lab: Lab, shop: Shop) -> None:
    load = shop.sell()
    try:
        backup, at_least, at_most = back_up(lab, load, GROUP, "monday")
    finally:
        load.stop()
    assert sorted(each["data_set"] for each in backup["receipt"]["members"]) == ["orders", "shop"]
    assert all(each["frozen_s"] > 0 for each in backup["receipt"]["members"])

    shop.sql("DELETE FROM kept WHERE n % 2 = 0")
    shop.host1.run("sh", "-euc", SPOIL, JOURNAL)
    receipt = lab.trilun("restore", "--whole", GROUP, "--from", "monday", "--no-undo")["receipt"]
    assert sorted(each["data_set"] for each in receipt["restored"]) == ["orders", "shop"]
    assert_good(receipt)

    data_sets.wait_mounted(lab, ORDERS)
    committed, written = shop.committed(), shop.written()
    load.ledger.judge(committed, at_least, at_most)
    load.ledger.judge(written, len(committed), len(committed) + 1)


def test_a_restore_is_undone(lab: Lab, shop: Shop) -> None:
    lab.trilun("backup", SHOP.name, "--label", "evening")
    load = shop.sell()
    try:
        load.ledger.wait_for(SOLD, WRITTEN_WITHIN_S)
    finally:
        load.stop()
    shop.sql("CREATE TABLE since AS SELECT generate_series(1, 5000)")
    new = shop.host1.run("sh", "-euc", NEW_FILE, SHOP.mountpoint).text

    how = ("--whole", SHOP.name, "--from", "evening", "--undoable", "--keep", "1")
    restored = lab.trilun("restore", *how)
    assert_good(restored["receipt"])
    assert not shop.has_table("since")
    assert shop.host1.run("ls", f"{SHOP.mountpoint}/new", check=False).code != 0

    kept = f"before-{restored['id']}"
    slots = {slot["label"]: slot for slot in backups(lab)}
    assert set(slots) == {kept, "evening"}
    volume = f"secondary/{slots[kept]['volume']}"
    before = images.digest(lab, volume)
    undone = lab.trilun("restore", "undo", restored["id"])
    assert_good(undone["receipt"])
    assert undone["receipt"]["wire_bytes"] <= undone["receipt"]["union_bytes"] * 1.02 + (1 << 16)
    load.ledger.judge(shop.committed(), load.ledger.acknowledged, load.ledger.begun)
    assert shop.sql("SELECT count(*) FROM since") == "5000"
    assert shop.host1.run("sha256sum", f"{SHOP.mountpoint}/new").text == new

    assert images.digest(lab, volume) == before, "the backup that it came from stays"
    lab.trilun("restore", "drop-undo", restored["id"])
    settling.wait_state(lab, slots[kept]["pair"], "PAIR")
    assert [slot["label"] for slot in backups(lab) if slot["is_backup"]] == ["evening"]


def backups(lab: Lab) -> list[dict[str, Any]]:
    """The slots of the shop."""
    slots: list[dict[str, Any]] = lab.trilun("backup", "list", SHOP.name)["backups"]
    return slots
