"""A lab with a third controller, by the lab's own commands: two primaries, one secondary."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from deploy.labs import data_sets, initiator, needs
from deploy.labs.lab import Lab
from deploy.labs.problem import LabError
from deploy.pair import REPOSITORY
from tests.lab import images
from tests.lab.commands import command
from tests.lab.lio import TARGETS
from tests.lab.load import Load

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

SIZE_BYTES = 64 << 20
COLLECTED = {
    "own": ("primary/first", "secondary/second", "secondary/third"),
    "collected": ("third/fourth", "secondary/fifth", "secondary/sixth"),
}
"""Remote pairs of two primaries at one secondary, each with its S-VOL's own mirror."""


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Five hosts."""
    try:
        needs.check(whole_lab=True)
    except LabError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("third") / "lab"
    try:
        up = command(directory, "up", "--third")
        assert up.returncode == 0, up.stderr
        assert "third" in up.stdout
        yield Lab.open(directory)
    finally:
        Lab.down(directory)
    assert list(directory.parent.iterdir()) == []


def test_two_primaries_mirror_to_one_secondary_under_load(collection: Lab) -> None:
    lab, host1 = collection, collection.host("host1")
    loads = []
    for p_volume, *others in COLLECTED.values():
        for volume in (p_volume, *others):
            lab.trilun("volume", "create", volume, str(SIZE_BYTES))
        loads.append(Load(host1, initiator.attach(lab, host1, p_volume)))
        loads[-1].start()
    for name, (p_volume, s_volume, _) in COLLECTED.items():
        lab.trilun("pair", "create", name, p_volume, s_volume)
    for name, (_, s_volume, third) in COLLECTED.items():
        data_sets.wait_pair(lab, name)
        lab.trilun("pair", "create", f"{name}-local", s_volume, third)
    for name in COLLECTED:
        data_sets.wait_pair(lab, f"{name}-local")
    for load in loads:
        load.go_on()
    for load, (name, volumes) in zip(loads, COLLECTED.items(), strict=True):
        load.stop()
        assert not load.errors
        load.check()
        lab.trilun("pair", "verify", name)
        images.assert_equal(lab, *volumes)
        initiator.detach(lab, host1, volumes[0])


def test_nothing_is_left_of_a_controller_that_is_uninstalled(collection: Lab) -> None:
    """The steps of docs/installing.md, on the third controller. Before, its places become what they
    are for a user: directories of its own disk."""
    host = collection.host("third")
    collection.trilun("volume", "create", "third/kept", str(SIZE_BYTES))
    page = (REPOSITORY / "docs/installing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", page.partition("## Uninstall")[2], re.DOTALL)
    host.shell(
        "cd /opt; cp -a trilun copy; umount -l trilun; rmdir trilun; mv copy trilun",
        timeout_s=120,
    )
    assert "trilun" in host.run("ls", f"{TARGETS}/iscsi").text
    for block in blocks:
        steps = block.replace("trilun-agent@host1 ", "").replace("ctl1", "third")
        # The lab's state disk is mounted there, as the page says it may be.
        steps = steps.replace("rmdir /var/lib/trilun", "mountpoint -q /var/lib/trilun")
        host.shell(steps, timeout_s=120)
    left = f"ls {TARGETS}/iscsi {TARGETS}/core | grep -E 'trilun|user_747' || true"
    assert not host.shell(left).text
    named = "find /etc /opt /usr/local /var/lib /var/target -xdev -name '*trilun*' -not -type d"
    assert not host.shell(f"{named} -not -path '*/trilun-lab/*'", check=False).text
    assert not host.run("ls", "-A", "/var/lib/trilun").text
    assert not host.run("systemctl", "list-unit-files", "-q", "trilun*", check=False).text
    assert host.run("id", "trilun", check=False).code != 0
