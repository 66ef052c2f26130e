"""Plans between generated configurations: accepted, complete, idempotent, safe after any step."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.lio.plan import plan
from targets.lio.wanted import (
    IQN_PREFIX,
    Acl,
    Portal,
    PortalGroup,
    Target,
    Wanted,
)
from tests.unit.targets.lio.offers import (
    CHAP,
    HOST,
    MUTUAL,
    OTHER_HOST,
    backstore,
    carry_out,
    fits,
    foreign_part,
    others,
    simple,
)

pytestmark = pytest.mark.plain

NAMES = ("trilun-v1", "trilun-v2", "trilun-v3")
chaps = st.sampled_from([CHAP, MUTUAL])
portals = st.lists(
    st.sampled_from([Portal("10.0.0.1"), Portal("10.0.0.2", 3261), Portal("fe80::1")]), unique=True
).map(tuple)
backstores = st.tuples(
    *(
        st.none()
        | st.builds(
            backstore,
            st.just(name),
            st.sampled_from([f"trilun/{name}", "trilun/new"]),
            size_bytes=st.sampled_from([1 << 20, 1 << 21]),
            serial=st.sampled_from(["S1", "S1", "S2"]),
            attributes=st.sampled_from([{}, {"cmd_time_out": "0", "qfull_time_out": "5"}]),
        )
        for name in NAMES
    )
).map(lambda found: tuple(each for each in found if each is not None))


@st.composite
def groups(draw: st.DrawFn, names: list[str], tag: int) -> PortalGroup:
    numbers = draw(st.lists(st.integers(0, 3), unique=True, max_size=3)) if names else []
    luns = {number: draw(st.sampled_from(names)) for number in numbers}
    acls: list[Acl] = []
    with_acl_chap = draw(st.booleans())
    for initiator in draw(st.lists(st.sampled_from([HOST, OTHER_HOST]), unique=True)):
        mapped = draw(
            st.dictionaries(st.integers(0, 3), st.sampled_from(sorted(luns)), max_size=3)
            if luns
            else st.just({})
        )
        read_only = frozenset(each for each in mapped if draw(st.booleans()))
        chap = draw(chaps) if with_acl_chap else None
        acls.append(Acl(initiator, mapped, read_only, chap))
    chap = None if acls else draw(st.none() | chaps)
    return PortalGroup(luns, draw(portals), tuple(acls), chap, tag)


@st.composite
def wanteds(draw: st.DrawFn) -> Wanted:
    stores = draw(backstores)
    names = [each.name for each in stores]
    targets: list[Target] = []
    for iqn in draw(st.lists(st.sampled_from(["n.v1", "n.v2"]), unique=True)):
        tags = draw(st.lists(st.sampled_from([1, 2]), unique=True))
        found = tuple(draw(groups(names, tag)) for tag in tags)
        targets.append(Target(IQN_PREFIX + iqn, found))
    return Wanted(stores, tuple(targets))


@settings(max_examples=120, deadline=None)
@given(before=wanteds(), after=wanteds())
def test_any_change_is_accepted_and_complete(before: Wanted, after: Wanted) -> None:
    tree = others()
    foreign = foreign_part(tree)
    for wanted in (before, after):
        fits(tree, wanted, carry_out(tree, wanted).obstacles)
        assert foreign_part(tree) == foreign


@settings(max_examples=80, deadline=None)
@given(before=wanteds(), after=wanteds(), data=st.data())
def test_after_a_crash_at_any_step_the_next_plan_gets_there(
    before: Wanted, after: Wanted, data: st.DataObject
) -> None:
    tree = others()
    foreign = foreign_part(tree)
    for goal in (before, after, before):
        steps = data.draw(st.integers(0, len(plan(goal, tree.root).operations)))
        carry_out(tree, goal, steps)
        assert foreign_part(tree) == foreign
    fits(tree, after, carry_out(tree, after).obstacles)
    assert foreign_part(tree) == foreign


def test_every_step_of_a_build_and_of_a_removal() -> None:
    acl = Acl(HOST, {0: 0, 1: 0}, frozenset({0}), MUTUAL)
    wanted = simple(acls=(acl,))
    count = len(plan(wanted, others().root).operations)
    assert count > 20
    for steps in range(count + 1):
        tree = others()
        carry_out(tree, wanted, steps)
        for goal in (wanted, Wanted()):
            fits(tree, goal, carry_out(tree, goal).obstacles)
    for steps in range(count):
        tree = others()
        before = tree.root.copied()
        carry_out(tree, wanted)
        carry_out(tree, Wanted(), steps)
        fits(tree, Wanted(), carry_out(tree, Wanted()).obstacles)
        assert tree.root == before
