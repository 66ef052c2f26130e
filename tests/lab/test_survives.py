"""What the pair has to survive, under writes that are verified: nothing flushed is lost.

After each fault the pair has to come to PAIR by itself, and both volumes have to be equal.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.labs import data_sets, initiator, roles
from deploy.labs.host import Host
from deploy.labs.lab import Lab
from deploy.labs.roles import BROKER_HOST, DataSet, unit_of
from tests.lab import images, settling
from tests.lab.lio import TARGETS
from tests.lab.load import Load

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

SHUT_DOWN_WITHIN_S = 150.0
"""An agent's TimeoutStopSec=, and what else there is to end."""
RAW_BYTES = 64 << 20
RAW = ("primary/raw-first", "secondary/raw-second")


@pytest.fixture(scope="module")
def on_files(lab: Lab, ext4: DataSet) -> Load:
    """Load on a file of the ext4 data set: for faults that take no acknowledged write away."""
    host1 = lab.host("host1")
    path = f"{ext4.mountpoint}/load"
    load = Load(host1, path)
    size = f"bs=4096 count={load.blocks}"
    host1.shell(f"dd if=/dev/zero of={path} {size} conv=fsync status=none")
    return load


@pytest.fixture(scope="module")
def on_disk(lab: Lab) -> Load:
    """Load on a volume of its own without a file system.

    A controller that loses power loses what nobody flushed, and no file system that stays mounted
    would hear of it. A ledger knows what was flushed.
    """
    settling.wait_online(lab, *settling.everybody(lab))
    if not settling.pair(lab, "raw"):
        for volume in RAW:
            lab.trilun("volume", "create", volume, str(RAW_BYTES))
        lab.trilun("pair", "create", "raw", *RAW)
    data_sets.wait_pair(lab, "raw")
    return Load(lab.host("host1"), initiator.attach(lab, lab.host("host1"), RAW[0]))


@pytest.fixture
def files(lab: Lab, ext4: DataSet, on_files: Load) -> Iterator[Load]:
    """The load on the file system, running; judged afterwards by whoever asked for it."""
    settling.make_whole(lab, ext4)
    on_files.errors.clear()
    on_files.start()
    yield on_files
    on_files.stop()


@pytest.fixture
def disk(lab: Lab, on_disk: Load) -> Iterator[Load]:
    """The load on the disk, running."""
    settling.wait_state(lab, "raw", "PAIR")
    on_disk.errors.clear()
    on_disk.start()
    yield on_disk
    on_disk.stop()


def judge_files(lab: Lab, data: DataSet, load: Load) -> None:
    """Nothing lost, no error seen, both sides equal while the file system stays mounted."""
    load.go_on()
    load.stop()
    assert not load.errors
    settling.make_whole(lab, data)
    load.check()
    lab.trilun("pair", "verify", data.remote)


def judge_disk(lab: Lab, load: Load) -> None:
    """Nothing lost, both sides equal bit for bit."""
    load.go_on()
    load.stop()
    settling.wait_state(lab, "raw", "PAIR")
    load.check()
    images.assert_equal(lab, *RAW)


def look_anew(lab: Lab, load: Load) -> None:
    """Its host can't flush until it logs in anew, and does."""
    data_sets.wait_for(lambda: bool(load.errors), "the host to be told", settling.PEACE_WITHIN_S)
    flushes, errors = load.flushes, len(load.errors)
    data_sets.wait_for(lambda: len(load.errors) > errors + 1, "the host to be told again")
    assert load.flushes == flushes
    assert refused(lab) == [True]
    load.stop()
    load.check()
    log_in_anew(lab, load)
    assert refused(lab) == [False]
    load.start()


def refused(lab: Lab) -> list[bool]:
    """Of each session with the disk, whether it can't write."""
    sessions = lab.trilun("volume", "show", RAW[0])["sessions"]
    return [bool(session["lost_writes"]) for session in sessions]


def log_in_anew(lab: Lab, load: Load) -> None:
    """Behind a power loss of the primary."""
    initiator.detach(lab, load.host, RAW[0])
    load.path = initiator.attach(lab, load.host, RAW[0])
    load.errors.clear()


def restarts(lab: Lab, host: str) -> int:
    """How often systemd has restarted trilun on a host."""
    shown = lab.host(host).run("systemctl", "show", unit_of(host), "-p", "NRestarts", "--value")
    return int(shown.text)


@pytest.mark.parametrize("node", ["primary", "secondary"])
def test_a_killed_daemon(lab: Lab, ext4: DataSet, files: Load, node: str) -> None:
    before = restarts(lab, node)
    lab.host(node).run("systemctl", "kill", "--signal=KILL", unit_of(node))
    data_sets.wait_for(lambda: restarts(lab, node) > before, f"systemd to restart {node}")
    judge_files(lab, ext4, files)


def test_a_cut_link(lab: Lab, ext4: DataSet, files: Load) -> None:
    lab.cut("primary", "secondary")
    try:
        settling.wait_state(lab, ext4.remote, "PSUE")
        files.go_on()
        dirty = settling.pair(lab, f"primary/{ext4.remote}")["dirty_bytes"]
        assert dirty > 0
    finally:
        lab.mend("primary", "secondary")
    judge_files(lab, ext4, files)


def test_a_slow_link(lab: Lab, ext4: DataSet, files: Load) -> None:
    lab.delay("primary", "secondary", 20)
    try:
        files.go_on()
        assert settling.state(lab, ext4.remote) == "PAIR"
    finally:
        lab.mend("primary", "secondary")
    judge_files(lab, ext4, files)


def test_a_killed_broker(lab: Lab, ext4: DataSet, files: Load) -> None:
    host = lab.host(BROKER_HOST)
    host.run("systemctl", "kill", "--signal=KILL", "mosquitto")
    host.run("systemctl", "stop", "mosquitto")
    files.go_on(100)
    command = lab.trilun_command("volume", "list")
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 5, refused.stdout
    assert "next:" in refused.stderr
    host.shell("systemctl reset-failed mosquitto; systemctl start mosquitto")
    settling.wait_online(lab, *settling.everybody(lab))
    judge_files(lab, ext4, files)


SWITCH_OFF = 'echo 0 >"$0/iscsi/$1/tpgt_1/enable"'
TEAR_DOWN = """
cd "$0/iscsi/$1"
device=$(readlink -f tpgt_1/lun/lun_0/backstore)
echo 0 >tpgt_1/enable
rm tpgt_1/lun/lun_0/backstore
rmdir tpgt_1/lun/lun_0 tpgt_1/np/* tpgt_1
cd /
rmdir "$0/iscsi/$1" "$device"
"""


@pytest.mark.parametrize("by_hand", [SWITCH_OFF, TEAR_DOWN], ids=["off", "gone"])
def test_the_kernels_target_torn_down_by_hand(
    lab: Lab, ext4: DataSet, files: Load, by_hand: str
) -> None:
    """Somebody else's hands at the first volume's target: it is made again, and hosts go on."""
    if lab.target != "lio":
        pytest.skip("the lab's volumes are not served by the kernel's target")
    target = str(lab.trilun("volume", "show", f"primary/{ext4.first}")["target"])
    lab.host("primary").run("sh", "-euc", by_hand, TARGETS, target, timeout_s=120)
    judge_files(lab, ext4, files)
    status = lab.host("primary").run("cat", f"{TARGETS}/iscsi/{target}/tpgt_1/enable")
    assert status.text == "1"


def test_a_secondary_without_power(lab: Lab, ext4: DataSet, files: Load) -> None:
    lab.host("secondary").kill()
    files.go_on(50)
    lab.host("secondary").start()
    lab.host("secondary").wait_booted()
    judge_files(lab, ext4, files)


@pytest.mark.parametrize(
    "victims", [("primary",), ("secondary",), ("primary", "secondary")], ids="+".join
)
def test_controllers_without_power(
    lab: Lab, ext4: DataSet, disk: Load, victims: tuple[str, ...]
) -> None:
    for name in victims:
        lab.host(name).kill()
    for name in victims:
        lab.host(name).start()
    for name in victims:
        lab.host(name).wait_booted()
    if "primary" in victims:
        # What was acknowledged and not flushed is gone with the primary's memory.
        look_anew(lab, disk)
        settling.mount_anew(lab, ext4)
    judge_disk(lab, disk)
    assert not disk.errors


TREE = """
mkdir "$0/tree"; cd "$0/tree"
for i in $(seq 400); do mkdir $i; echo $i >$i/file; done
sync
"""


def test_a_file_system_behind_a_power_loss(lab: Lab, ext4: DataSet) -> None:
    """What `sync` wrote home behind its last flush is gone, and the journal has it still.

    Unless the file system's end may write: it empties the journal though a flush has failed.
    """
    host1, primary = lab.host("host1"), lab.host("primary")
    settling.make_whole(lab, ext4)
    host1.run("sh", "-euc", TREE, ext4.mountpoint)
    primary.kill()
    primary.start()
    primary.wait_booted()
    settling.mount_anew(lab, ext4)
    found = host1.shell(f"cat {ext4.mountpoint}/tree/*/file").text.split()
    assert sorted(map(int, found)) == list(range(1, 401))
    with settling.unmounted(lab, ext4):
        images.check_file_system(lab, f"primary/{ext4.first}", ext4.filesystem)


def test_host_2_without_power_in_the_middle_of_a_restore(
    lab: Lab, ext4: DataSet, files: Load
) -> None:
    """The job stands where it stood, and goes on when host 2 is back, to a good end."""
    host1, host2 = lab.host("host1"), lab.host("host2")
    books = f"{ext4.mountpoint}/restore"
    host1.shell(f"mkdir -p {books}; dd if=/dev/urandom of={books}/big bs=1M count=64 status=none")
    good = host1.shell(f"sha256sum <{books}/big; sync").text
    files.stop()
    lab.trilun("backup", ext4.name)
    host1.shell(f"echo damaged >{books}/big; sync")
    # So that the copy is still under way when it has been seen.
    lab.delay("host2", "secondary", 20)
    started = lab.trilun("restore", "--no-wait", "--data-set", ext4.name, f"{books}/big")
    job = str(started["id"])

    def step() -> str:
        return str(lab.trilun("job", "show", job, check=False).get("step", ""))

    data_sets.wait_for(lambda: step() in ("copy", "verify"), "the job to copy")
    host2.kill()
    assert host1.run("mountpoint", "-q", ext4.mountpoint, check=False).code != 0
    host2.start()
    host2.wait_booted()
    lab.delay("host2", "secondary", 0)
    ended = lab.trilun("job", "wait", job, "--timeout", "180")
    assert ended["state"] == "done", json.dumps(ended, indent=1)
    data_sets.wait_mounted(lab, ext4)
    assert host1.shell(f"sha256sum <{books}/big").text == good
    files.check()
    lab.trilun("pair", "verify", ext4.remote)


def started_s(host: Host, unit: str) -> float:
    """When a unit was up, in this boot."""
    shown = host.run("systemctl", "show", "-P", "ActiveEnterTimestampMonotonic", unit)
    assert int(shown.text) > 0, f"{unit} on {host.name}"
    return int(shown.text) / 1e6


def test_everything_shut_down_in_order_under_load(
    lab: Lab, ext4: DataSet, on_files: Load, on_disk: Load
) -> None:
    """Hosts first, in the middle of their writes; then the controllers. Nobody loses a byte, so
    nobody's writes are refused afterwards, and everything comes up by itself."""
    settling.make_whole(lab, ext4)
    settling.wait_state(lab, "raw", "PAIR")
    # The primary may have lost power before this.
    log_in_anew(lab, on_disk)
    loads = (on_files, on_disk)
    for load in loads:
        load.errors.clear()
        load.start()
    for names in (roles.HOSTS, roles.CONTROLLERS):
        going = [lab.host(name) for name in names if name in lab.names]
        with ThreadPoolExecutor(len(going)) as pool:
            in_order = list(pool.map(lambda host: host.halt(SHUT_DOWN_WITHIN_S), going))
        assert all(in_order), [host.name for host in going]
    for load in loads:
        load.stop()
        assert not load.errors
    for host in lab.hosts.values():
        host.start()
    assert {host.wait_booted() for host in lab.hosts.values()} == {"running"}
    for host in lab.hosts.values():
        order = [unit_of(host.name), "trilun.target"]
        if host.name in roles.HOSTS:  # hosts use what controllers of the same machine export
            order.reverse()
        times_s = [started_s(host, unit) for unit in order]
        assert times_s == sorted(times_s), dict(zip(order, times_s, strict=True))
        needed = "mosquitto" if host.name == BROKER_HOST else "systemd-modules-load"
        assert started_s(host, f"{needed}.service") < started_s(host, unit_of(host.name))
    settling.wait_online(lab, *settling.everybody(lab))
    data_sets.wait_mounted(lab, ext4)
    settling.make_whole(lab, ext4)
    settling.wait_state(lab, "raw", "PAIR")
    on_disk.path = initiator.attach(lab, lab.host("host1"), RAW[0])
    for load in loads:
        load.check()
    assert refused(lab) == [False]
    images.assert_equal(lab, *RAW)
    lab.trilun("pair", "verify", ext4.remote)


def test_everything_without_power_at_once(
    lab: Lab, ext4: DataSet, on_files: Load, on_disk: Load
) -> None:
    settling.make_whole(lab, ext4)
    log_in_anew(lab, on_disk)
    on_files.start()
    on_disk.start()
    for host in lab.hosts.values():
        host.kill()
    for load in (on_files, on_disk):
        load.stop()
    for host in lab.hosts.values():
        host.start()
    for host in lab.hosts.values():
        host.wait_booted()
    settling.wait_online(lab, *settling.everybody(lab))
    data_sets.wait_mounted(lab, ext4)
    settling.make_whole(lab, ext4)
    settling.wait_state(lab, "raw", "PAIR")
    on_disk.path = initiator.attach(lab, lab.host("host1"), RAW[0])
    on_files.check()
    on_disk.check()
    images.assert_equal(lab, *RAW)
    lab.trilun("pair", "verify", ext4.remote)
