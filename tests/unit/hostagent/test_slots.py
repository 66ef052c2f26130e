"""Which slot a backup takes and which backup a restore reads: laws L7 and retention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.api.messages import PairState as P
from controller.api.undo import undo_label, undone_job
from hostagent.config import BackupSlot, DataSetConfig
from hostagent.jobs.slots import (
    choose_for_backup,
    choose_for_restore,
    choose_for_undo,
    choose_undo,
    describe,
    named,
    newest_first,
)
from tests.nodes import pair_info, volume_info

pytestmark = pytest.mark.plain


def slot(name: str, state: P = P.PSUS, **more: object) -> m.BackupInfo:
    fields: dict[str, object] = {
        "pair": name,
        "volume": f"v-{name}",
        "state": state.value,
        "is_backup": state is P.PSUS,
        **more,
    }
    return m.BackupInfo.model_validate(fields)


STATES = st.sampled_from([P.PAIR, P.COPY, P.PSUE, P.PSUS, P.RCPY, P.SMPL])


@st.composite
def slots_of(draw: st.DrawFn) -> list[m.BackupInfo]:
    count = draw(st.integers(1, 6))
    numbers = draw(st.lists(st.integers(0, 99), min_size=count, max_size=count, unique=True))
    found = []
    for number in numbers:
        state = draw(STATES)
        backup = state is P.PSUS and draw(st.booleans())
        undo = f"whole-{number:010x}" if backup and draw(st.booleans()) else ""
        more = {"is_backup": backup, "undo_of": undo, "behind": backup and draw(st.booleans())}
        found.append(slot(f"p{number}", state, number=number, **more))
    return found


def whole(slots: list[m.BackupInfo]) -> list[m.BackupInfo]:
    """The backups that are copied, newest first."""
    return newest_first(
        [each for each in slots if each.is_backup and not each.undo_of and not each.behind]
    )


@given(slots_of(), st.none() | st.integers(0, 7))
def test_no_backup_that_is_kept_is_ever_overwritten(
    slots: list[m.BackupInfo], keep: int | None
) -> None:
    """Nor what is kept for an undo, nor what isn't copied yet."""
    backups = whole(slots)
    free = [each for each in slots if not each.is_backup and each.state not in ("RCPY", "SMPL")]
    kept = keep if keep is not None else (1 if len(slots) > 1 else 0)
    if (not free and len(backups) <= kept) or not (free or backups):
        with pytest.raises(RejectedError) as caught:
            choose_for_backup(slots, keep)
        assert caught.value.code is Code.WRONG_STATE
        return
    choice = choose_for_backup(slots, keep)
    assert choice.number > max(each.number for each in slots)
    if free:
        assert choice.slot in free
        assert not choice.warning
    else:
        assert choice.slot == backups[-1], "the oldest"
        assert choice.slot not in backups[:kept]
        assert bool(choice.warning) == (len(backups) == 1)


@given(slots_of(), st.data(), st.none() | st.integers(0, 7))
def test_an_undo_takes_nothing_that_anybody_wants(
    slots: list[m.BackupInfo], data: st.DataObject, keep: int | None
) -> None:
    source = data.draw(st.sampled_from(slots))
    free = [
        each
        for each in slots
        if not each.is_backup and each.state not in ("RCPY", "SMPL") and each is not source
    ]
    backups = whole(slots)
    older = [] if keep is None else [each for each in backups[keep:] if each is not source]
    if not free and not older:
        with pytest.raises(RejectedError) as caught:
            choose_for_undo(slots, source, keep, "make one")
        assert caught.value.code is Code.WRONG_STATE
        assert caught.value.next_step == "make one"
        return
    choice = choose_for_undo(slots, source, keep, "make one")
    assert choice.number > max(each.number for each in slots)
    assert (choice.slot in free) if free else (choice.slot == older[-1])
    assert bool(choice.warning) == (not free)


def test_a_slot_that_is_not_made_yet_is_named_before_another_one() -> None:
    slots = [slot("one", number=1), slot("two", P.SMPL, next_step="trilun pair create two")]
    with pytest.raises(RejectedError) as caught:
        choose_for_undo(slots, slots[0], None, "make another")
    assert caught.value.next_step == "trilun pair create two"


def test_what_is_kept_for_an_undo_says_how_it_ends() -> None:
    undo = slot("two", number=2, undo_of="whole-0123456789")
    with pytest.raises(RejectedError, match="'two' keeps what was there before") as caught:
        choose_for_backup([slot("one", number=1), undo], None)
    assert "`trilun restore drop-undo whole-0123456789`" in caught.value.next_step
    with pytest.raises(RejectedError, match="no other to be used"):
        choose_for_backup([undo], 0)


def test_what_is_kept_for_an_undo_is_restored_only_by_name() -> None:
    slots = [
        slot("one", number=1, label="a"),
        slot("two", number=2, label="before-whole-0123456789", undo_of="whole-0123456789"),
        slot("three", number=3, label="before-whole-abcdefabcd", undo_of="whole-abcdefabcd"),
    ]
    assert choose_for_restore(slots, "").pair == "one"
    assert choose_for_restore(slots, "two").pair == "two"
    assert choose_for_restore(slots, "before-whole-0123456789").pair == "two"
    with pytest.raises(RejectedError, match="there is no backup: what was there before restore"):
        choose_for_restore(slots[1:2], "")
    assert choose_undo(slots, "").pair == "three"
    assert choose_undo(slots, "whole-0123456789").pair == "two"
    for job in ("", "whole-0000000000"):
        with pytest.raises(RejectedError, match="nothing is kept") as caught:
            choose_undo(slots[:1], job)
        assert caught.value.code is Code.NOT_FOUND


@given(st.sampled_from(["whole", "restore"]), st.integers(0, (1 << 40) - 1))
def test_a_label_tells_the_restore_it_undoes(kind: str, number: int) -> None:
    job = f"{kind}-{number:010x}"
    assert undone_job(undo_label(job)) == job
    with pytest.raises(ValidationError, match="can be undone"):
        m.BackupStart(data_set="ds", label=undo_label(job))


@pytest.mark.parametrize("label", ["", "before", "before-monday", "before-whole-0123456789x"])
def test_other_labels_are_an_operators(label: str) -> None:
    assert undone_job(label) == ""
    assert m.BackupStart(data_set="ds", label=label).label == label


def test_a_single_slot_says_that_the_old_backup_goes_first() -> None:
    only = slot("lp", number=4, label="monday")
    choice = choose_for_backup([only], None)
    assert choice.slot == only
    assert "backup 'monday' in 'lp' is the only backup, and is gone while" in choice.warning
    with pytest.raises(RejectedError, match="one of the 1 newest") as caught:
        choose_for_backup([only], 1)
    assert "[[data_set.backup]]" in caught.value.next_step


def test_the_only_backup_is_not_overwritten_for_want_of_the_other_slot() -> None:
    slots = [slot("one", number=1), slot("two", P.SMPL, next_step="make it")]
    with pytest.raises(RejectedError, match="every usable backup slot"):
        choose_for_backup(slots, None)
    assert choose_for_backup(slots, 0).slot.pair == "one"


def test_a_slot_in_sync_is_taken_before_one_that_has_to_be_copied_to() -> None:
    slots = [slot("broken", P.PSUE), slot("copying", P.COPY), slot("ready", P.PAIR)]
    assert choose_for_backup(slots, None).slot.pair == "ready"
    assert choose_for_backup(slots[:2], None).slot.pair == "copying"


def test_nothing_usable_names_what_to_do() -> None:
    with pytest.raises(RejectedError, match="'one' is SMPL") as caught:
        choose_for_backup([slot("one", P.SMPL, next_step="trilun pair create")], None)
    assert caught.value.next_step == "trilun pair create"


def test_a_restore_takes_the_newest_or_what_is_named() -> None:
    slots = [
        slot("one", number=1, label="a"),
        slot("three", number=3, label="b"),
        slot("two", number=2, label="b"),
        slot("four", P.COPY),
    ]
    assert choose_for_restore(slots, "").pair == "three"
    assert choose_for_restore(slots, "a").pair == "one"
    assert choose_for_restore(slots, "two").pair == "two"
    for wanted, code, words in (
        ("b", Code.BAD_REQUEST, "three, two"),
        ("nothing", Code.NOT_FOUND, "trilun backup list"),
        ("four", Code.WRONG_STATE, "trilun backup list"),
    ):
        with pytest.raises(RejectedError) as caught:
            choose_for_restore(slots, wanted)
        assert caught.value.code is code
        assert words in caught.value.next_step
    with pytest.raises(RejectedError, match="there is no backup: 'four' is COPY"):
        choose_for_restore(slots[3:], "")


SLOT = BackupSlot(volume="third", pair="lp")


def test_what_a_slot_holds() -> None:
    split = pair_info("lp", state=P.PSUS, split_label="x", split_at=5.0, backup_number=2)
    third = volume_info("third")
    info = describe(SLOT, "c2", "second", split, third)
    assert (info.is_backup, info.label, info.taken_at, info.number) == (True, "x", 5.0, 2)
    assert named(info) == "backup 'x' in 'lp'"
    before = split.model_copy(update={"split_label": "before-whole-0123456789"})
    assert describe(SLOT, "c2", "second", before, third).undo_of == "whole-0123456789"
    following = before.model_copy(update={"state": P.PAIR})
    assert describe(SLOT, "c2", "second", following, third).undo_of == ""
    for changed in (
        describe(SLOT, "c2", "second", split.model_copy(update={"guarded": True}), third),
        describe(SLOT, "c2", "second", split, third.model_copy(update={"consistent": False})),
        describe(SLOT, "c2", "second", split, third.model_copy(update={"healthy": False})),
        describe(SLOT, "c2", "second", pair_info("lp", state=P.PAIR, split_label="x"), third),
    ):
        assert not changed.is_backup
    assert describe(SLOT, "c2", "second", pair_info("lp"), third).label == ""


def test_a_backup_that_is_being_copied_is_read_from_and_left_alone() -> None:
    half = volume_info("third").model_copy(update={"consistent": False})
    copied = pair_info("lp", state=P.PSUS, split_label="x", backup_number=2, behind=True)
    info = describe(SLOT, "c2", "second", copied, half)
    assert (info.is_backup, info.behind, info.reason) == (True, True, "")
    assert choose_for_restore([info], "") == choose_for_restore([info], "x") == info
    with pytest.raises(RejectedError, match="'x' in 'lp' is being copied still") as caught:
        choose_for_backup([info], 0)
    assert "trilun pair wait lp PSUS" in caught.value.next_step
    begun = copied.model_copy(update={"state": P.COPY})
    assert not describe(SLOT, "c2", "second", begun, half).is_backup


@pytest.mark.parametrize(
    ("pair", "volume", "create"),
    [(True, False, "volume create c2/third"), (False, True, "pair create lp")],
)
def test_a_slot_that_is_not_there_says_how_to_make_it(
    pair: bool, volume: bool, create: str
) -> None:
    info = describe(
        SLOT, "c2", "second", pair_info("lp") if pair else None, volume_info() if volume else None
    )
    assert (info.state, info.is_backup) == ("SMPL", False)
    assert create in info.next_step


def config(**more: Any) -> DataSetConfig:
    fields = {
        "name": "ds",
        "part": "host1",
        "filesystem": "ext4",
        "primary": "c1",
        "first": "first",
        "remote_pair": "rp",
        "secondary": "c2",
        "second": "second",
        "host1": "h1",
        "host2": "h2",
        "mountpoint": "/srv",
    }
    return DataSetConfig.model_validate({**fields, **more})


def test_one_slot_or_many() -> None:
    assert config(third="t", local_pair="lp").slots == [BackupSlot(volume="t", pair="lp")]
    many = [{"volume": f"t{n}", "pair": f"lp{n}"} for n in range(3)]
    assert [each.pair for each in config(backup=many).slots] == ["lp0", "lp1", "lp2"]
    assert config(backup=many).mountpoint == Path("/srv")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "no backup slot"),
        ({"third": "t"}, "go together"),
        ({"local_pair": "lp"}, "go together"),
        ({"third": "t", "local_pair": "lp", "backup": [{"volume": "u", "pair": "q"}]}, "short way"),
        ({"third": "second", "local_pair": "lp"}, "two volumes"),
        ({"third": "t", "local_pair": "rp"}, "a pair of its own"),
        ({"backup": [{"volume": "t", "pair": "a"}, {"volume": "t", "pair": "b"}]}, "a volume of"),
        ({"backup": [{"volume": "t", "pair": "a"}, {"volume": "u", "pair": "a"}]}, "a pair of its"),
        ({"backup": [{"volume": f"t{n}", "pair": f"p{n}"} for n in range(33)]}, "at most 32"),
        ({"third": "t", "local_pair": "lp", "freeze_ttl_s": 61}, "less than or equal to 60"),
    ],
)
def test_slots_that_cannot_be(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**more)
