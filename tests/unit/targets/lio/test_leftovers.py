"""What a plan takes for its own, and how it makes devices that never wait for an answer."""

from __future__ import annotations

from targets.lio.configfs import Kind, Operation
from targets.lio.plan import plan
from targets.lio.wanted import IQN_PREFIX, Ownership, Wanted
from tests.unit.targets.lio.offers import simple
from tests.unit.targets.lio.tree import Configfs

OWNER = Ownership(f"{IQN_PREFIX}a.", "trilun-a@")


def target(iqn: str, backstore: str) -> Configfs:
    tree = Configfs()
    hba = backstore.rpartition("/")[0]
    tree.make(hba, backstore)
    tree.write(f"{backstore}/control", "dev_config=trilun/1")
    tree.write(f"{backstore}/control", "dev_size=4096")
    tree.write(f"{backstore}/enable", "1")
    group = f"iscsi/{iqn}/tpgt_1"
    tree.make("iscsi", f"iscsi/{iqn}", group, f"{group}/lun/lun_0")
    tree.link(f"{group}/lun/lun_0/backstore", backstore)
    return tree


def test_a_leftover_goes_with_its_backstore() -> None:
    tree = target(f"{IQN_PREFIX}a.v", "core/user_747/trilun-a@1")
    made = plan(Wanted(owner=OWNER), tree.root)
    for operation in made.operations:
        tree.do(operation)
    assert not tree.root.folders["iscsi"].folders
    assert "user_747" not in tree.root.folders["core"].folders


def test_the_targets_of_a_node_whose_name_begins_alike_stay() -> None:
    for backstore in ("core/user_747/trilun-a.b@1", "core/fileio_0/trilun-a@1"):
        tree = target(f"{IQN_PREFIX}a.b.v", backstore)
        assert plan(Wanted(owner=OWNER), tree.root).operations == ()


def test_a_device_is_told_never_to_wait_for_an_answer_before_it_is_enabled() -> None:
    steps = plan(simple(), Configfs().root).operations
    path = "core/user_747/trilun-v1"
    told = steps.index(Operation(Kind.WRITE, f"{path}/control", "nl_reply_supported=-1"))
    assert told < steps.index(Operation(Kind.WRITE, f"{path}/enable", "1"))
