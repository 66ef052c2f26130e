"""The main job between real kernels: open-iscsi, systemd, commands from the machine itself."""

from __future__ import annotations

import pytest

from deploy.labs import data_sets
from deploy.labs.host import Host
from deploy.labs.lab import Lab
from deploy.labs.roles import DataSet, unit_of
from deploy.pair import REPOSITORY
from tests.lab import images

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]
"""The first test also boots the lab, which takes minutes on a busy machine."""

FILES = 2200
WIRE_LIMIT = 1.05
EXT4_EXTRA_BYTES = 8 << 20

FILL = f"""
import os, pathlib, shutil, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from deploy.quickstart import real_files
root = pathlib.Path(sys.argv[1])
copied = 0
for source in real_files():
    target = root / "files" / f"{{copied % 40:02}}" / f"{{copied:05}}-{{source.name}}"
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copyfile(source, target)
    except OSError:
        target.unlink(missing_ok=True)
        continue
    copied += 1
    if copied == {FILES}:
        break
books = root / "books"
books.mkdir()
(books / "ledger.dat").write_bytes(os.urandom(10 << 20))
(books / "contract.txt").write_text("signed in ink\\n" * 3000)
(books / "today.txt").write_text("morning\\n")
os.sync()
print(copied)
"""

ACCIDENT = """
cd "$0/books"
for i in 0 1 2 3 4 5 6 7 8 9; do
    tr '\\0' '\\336' </dev/zero | dd of=ledger.dat bs=64K count=1 seek=$((i * 16)) \
        conv=notrunc iflag=fullblock status=none
done
rm contract.txt
echo "afternoon: written after the backup, must survive" >>today.txt
sync
"""


def sums(host: Host, data: DataSet) -> list[str]:
    """Digests of the two files that will be lost."""
    books = f"{data.mountpoint}/books"
    ran = host.shell(f"cat {books}/ledger.dat | sha256sum; cat {books}/contract.txt | sha256sum")
    return ran.text.split("\n")


def tell_the_story(lab: Lab, data: DataSet) -> None:
    host1, books = lab.host("host1"), f"{data.mountpoint}/books"
    ran = host1.run("python3", "-IS", "-", data.mountpoint, stdin=FILL.encode(), timeout_s=180)
    assert ran.text == str(FILES)
    good = sums(host1, data)
    lab.trilun("backup", data.name, "--label", "before-the-accident")
    host1.run("sh", "-euc", ACCIDENT, data.mountpoint)
    assert sums(host1, data) != good

    wanted = ["--data-set", data.name, f"{books}/ledger.dat", f"{books}/contract.txt"]
    plan = lab.trilun("restore", "--dry-run", *wanted)["plan"]
    assert len(plan["files"]) == 2
    assert plan["overwritten_bytes"] == 0
    receipt = lab.trilun("restore", *wanted)["receipt"]

    data_sets.wait_mounted(lab, data)
    assert sums(host1, data) == good
    assert "must survive" in host1.run("cat", f"{books}/today.txt").text
    count = host1.shell(f"find {data.mountpoint}/files -type f | wc -l").text
    assert count == str(FILES)
    assert 0 < receipt["wire_bytes"] <= WIRE_LIMIT * receipt["union_bytes"]
    if data.filesystem == "ext4":
        assert receipt["union_bytes"] <= receipt["file_bytes"] + EXT4_EXTRA_BYTES


def prove_beneath(lab: Lab, data: DataSet) -> None:
    """With host 1 gone: in PAIR, clean, equal bit for bit."""
    lab.host("host1").run("systemctl", "stop", unit_of("host1"))
    try:
        pair = lab.trilun("pair", "show", data.remote)["pair"]
        assert (pair["state"], pair["dirty_bytes"]) == ("PAIR", 0)
        first, second = images.volumes_of(data)
        images.check_file_system(lab, first, data.filesystem)
        images.assert_equal(lab, first, second)
    finally:
        lab.host("host1").run("systemctl", "start", unit_of("host1"))
    data_sets.wait_mounted(lab, data)


def test_a_file_comes_back_on_ext4(lab: Lab, ext4: DataSet) -> None:
    tell_the_story(lab, ext4)
    prove_beneath(lab, ext4)


def test_a_file_comes_back_on_xfs(lab: Lab, xfs: DataSet) -> None:
    tell_the_story(lab, xfs)
    prove_beneath(lab, xfs)
