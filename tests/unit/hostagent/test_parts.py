"""Configuration, records, progress, retries, mount tables, disks, paths of programs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.codes import Code
from controller.service.config import ConfigError, load_toml
from hostagent.attach.attacher import LunAddress
from hostagent.attach.choice import choose_attacher
from hostagent.attach.flushing import flush
from hostagent.attach.open_iscsi import OpenIscsiAttacher, find_disk
from hostagent.attach.qemu import QemuAttacher
from hostagent.config import AgentConfig
from hostagent.errors import HostError, ToolError, UnflushedError
from hostagent.filesystem.btrfs import SUPERBLOCK_BYTES, filesystem_id, refuse_twin
from hostagent.filesystem.mounts import find_mount, mount_table, parse_mount
from hostagent.jobs.meter import Meter
from hostagent.jobs.retry import CAREFUL, INSISTENT, MAX_WAIT_S, wait_s
from hostagent.programs import need_program, run_program
from hostagent.records import RecordError, RecordStore

DATA_SET = """
[[data_set]]
name = "orders"
part = "host1"
filesystem = "xfs"
primary = "array-a"
first = "orders-1"
remote_pair = "orders-r"
secondary = "array-b"
second = "orders-2"
local_pair = "orders-l"
third = "orders-3"
host1 = "db1"
host2 = "backup1"
mountpoint = "/srv/orders"
"""


def load(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return load_toml(path, AgentConfig)


def test_configuration_with_its_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, 'node = "db1"\n' + DATA_SET)
    assert config.state_dir == Path("/var/lib/trilun/db1")
    assert config.runtime_dir == Path("/run/trilun/db1")
    assert config.initiator_name == "iqn.2026-11.io.trilun:host.db1"
    assert config.attach.kind == "auto"
    assert config.data_set[0].mount_with == "auto"
    assert config.find("orders") is config.data_set[0]
    assert config.find("x") is None
    assert config.references()[0].part == "host1"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('part = "host1"', 'part = "host3"', "part"),
        ('part = "host1"', 'part = "host2"', "host2 must be this node"),
        ('filesystem = "xfs"', 'filesystem = "ntfs"', "filesystem"),
        ('filesystem = "xfs"', 'filesystem = "xfs"\nmount_with = "fuse2fs"', "ext4 only"),
        ('mountpoint = "/srv/orders"', 'mountpoint = "srv"', "absolute"),
        ('mountpoint = "/srv/orders"', 'mountpoint = "/"', "absolute"),
        ('mountpoint = "/srv/orders"', 'mount_point = "/srv/orders"', "mountpoint"),
        ('secondary = "array-b"', 'secondary = "array-a"', "two controllers"),
        ('third = "orders-3"', 'third = "orders-2"', "two volumes"),
        ('node = "db1"', 'node = "db1"\n[attach]\ninitiator_name = "me"', "initiator_name"),
    ],
)
def test_a_wrong_configuration_is_told_in_lines(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    text = ('node = "db1"\n' + DATA_SET).replace(old, new)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert any(words in line for line in caught.value.lines), caught.value.lines


def test_a_data_set_is_there_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there twice"):
        load(tmp_path, 'node = "db1"\n' + DATA_SET + DATA_SET)


# ---------------------------------------------------------------- records


def test_records_come_back_and_go(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r")
    assert store.names() == []
    assert store.load("a") is None
    store.save("a", {"x": "ü", "n": [1, 2]})
    store.save("a", {"x": "y"})
    assert RecordStore(tmp_path / "r").load("a") == {"x": "y"}
    assert store.names() == ["a"]
    store.delete("a")
    store.delete("a")
    assert store.names() == []


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_damaged_byte_goes_unnoticed(at: int, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = RecordStore(Path(folder))
        body = {"step": 3, "facts": {"a": "b" * 50}}
        store.save("a", body)
        path = Path(folder) / "a.json"
        data = bytearray(path.read_bytes())
        data[at % len(data)] ^= flip
        path.write_bytes(data)
        try:
            loaded = store.load("a")
        except RecordError:
            return
        assert loaded == body, "the flip hit nothing that matters, or it is told"


@pytest.mark.parametrize(
    "text", ["", "{}", "{}\n{}\n", '{"magic":"trilun-record"}\n{}\n', "[]\n[]"]
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(RecordError):
        RecordStore(tmp_path).load("a")


def test_a_record_name_cannot_leave_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        RecordStore(tmp_path).save("../x", {})


# ---------------------------------------------------------------- progress and retries


def test_progress_has_rate_and_end() -> None:
    meter = Meter(1000, 0.0)
    assert meter.progress(0.0).eta_s is None
    meter.add(100, 1.0)
    progress = meter.progress(1.0)
    assert (progress.rate_bytes_per_s, progress.left_bytes, progress.eta_s) == (100.0, 900, 9.0)
    meter.add(900, 2.0)
    assert meter.progress(2.0).eta_s == 0.0


def test_progress_is_told_at_most_twice_a_second() -> None:
    meter = Meter(1, 0.0)
    assert sum(meter.due(tick / 1000) for tick in range(10_000)) == 20


def test_retries_are_bounded() -> None:
    assert CAREFUL.again(Code.TIMEOUT, 1.0, 50)
    assert not CAREFUL.again(Code.TIMEOUT, 61.0, 2)
    assert not CAREFUL.again(Code.HOST_ERROR, 0.0, 1)
    assert INSISTENT.again(Code.HOST_ERROR, 0.0, 1)
    assert not INSISTENT.again(Code.HOST_ERROR, 0.0, 8)
    assert wait_s(1000) == MAX_WAIT_S


# ---------------------------------------------------------------- the host


def test_mount_table_lines() -> None:
    line = r"36 35 98:0 /m /a\040b rw,nosuid shared:1 master:2 - ext4 /dev/loop0 rw,errors=continue"
    mount = parse_mount(line)
    assert mount.mountpoint == Path("/a b")
    assert (mount.filesystem, mount.source, mount.root) == ("ext4", "/dev/loop0", "/m")
    assert {"nosuid", "errors=continue"} <= mount.options
    assert parse_mount("36 35 98:0 / / rw - proc none rw").filesystem == "proc"
    assert mount_table()
    assert find_mount(Path("/proc")) is not None
    assert find_mount(Path("/proc/none")) is None


def test_a_disk_is_found_below_its_own_session(tmp_path: Path) -> None:
    """One that somebody else has with the same target isn't."""
    for number, iqn, interface in (
        (0, "iqn.a:x", "default"),
        (1, "iqn.a:x", "mine"),
        (2, "iqn.a:y", "mine"),
    ):
        session = tmp_path / f"class/iscsi_session/session{number}"
        for lun in (0, 1):
            (session / f"device/target{number}:0:0/{number}:0:0:{lun}/block/sd{number}{lun}").mkdir(
                parents=True
            )
        (session / "targetname").write_text(iqn + "\n")
        (session / "ifacename").write_text(interface + "\n")
    assert find_disk(tmp_path, "mine", LunAddress("p", "iqn.a:y", 1)) == "sd21"
    assert find_disk(tmp_path, "mine", LunAddress("p", "iqn.a:x", 0)) == "sd10"
    assert find_disk(tmp_path, "mine", LunAddress("p", "iqn.a:z", 0)) is None
    assert find_disk(tmp_path, "mine", LunAddress("p", "iqn.a:x", 7)) is None


def test_the_initiator_is_chosen_with_a_reason(tmp_path: Path) -> None:
    config = load(tmp_path, 'node = "db1"')
    attacher, why = choose_attacher(config, transport=tmp_path / "none")
    assert isinstance(attacher, QemuAttacher)
    assert "the kernel has no iSCSI initiator" in why
    if os.geteuid() == 0:
        attacher, why = choose_attacher(config, transport=tmp_path)
        assert isinstance(attacher, OpenIscsiAttacher)
    named = load(tmp_path, 'node = "db1"\n[attach]\nkind = "open-iscsi"')
    attacher, why = choose_attacher(named, transport=tmp_path / "none")
    assert isinstance(attacher, OpenIscsiAttacher)
    assert "the configuration says so" in why


def test_twins_are_refused_on_kernels_that_mix_them_up(tmp_path: Path) -> None:
    image = tmp_path / "image"
    block = bytearray(4096)
    block[32:48] = bytes(range(16))
    block[64:72] = b"_BHRfS_M"
    image.write_bytes(bytes(SUPERBLOCK_BYTES) + block)
    fsid = filesystem_id(image)
    assert fsid == "00010203-0405-0607-0809-0a0b0c0d0e0f"
    refuse_twin(image, "6.1.0-13-amd64", tmp_path)
    (tmp_path / fsid).mkdir()
    refuse_twin(image, "6.7.0", tmp_path)
    with pytest.raises(HostError, match="mixes them up"):
        refuse_twin(image, "6.6.99", tmp_path)


def test_programs_that_fail_hang_or_are_missing() -> None:
    assert run_program(["sh", "-c", "echo hi"]) == "hi"
    with pytest.raises(ToolError, match=r"sh failed \(3\): oops"):
        run_program(["sh", "-c", "echo oops; exit 3"])
    with pytest.raises(ToolError, match="did not end within"):
        run_program(["sh", "-c", "sleep 100"], timeout_s=0.1)
    with pytest.raises(ToolError) as caught:
        need_program("no-such-program", "some-package")
    assert "some-package" in caught.value.next_step


def test_a_failed_flush_is_told_or_given_up() -> None:
    """Of /dev/full, which can't be flushed."""
    with pytest.raises(UnflushedError, match=r"flushing full failed .* last writes are lost"):
        flush(Path("/dev/full"), abandon=False)
    flush(Path("/dev/full"), abandon=True)
