"""A lab host's kernel as the target, its own initiator as the host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deploy.labs.host import Host
from tests.lab.lio import (
    IQN,
    LOAD_UNIT,
    PYTHON,
    ROOT,
    TARGETS,
    Files,
    Load,
    configuration,
    forget,
    log_in,
    log_out,
    relogins,
    until,
)

pytestmark = pytest.mark.lab


@pytest.fixture
def files(solo: Host) -> Iterator[Files]:
    served = Files(solo)
    served.prepare()
    solo.run("dmesg", "-C")
    yield served
    solo.run("systemctl", "stop", LOAD_UNIT, check=False)
    log_out(solo)
    served.stop()
    forget(solo)


def test_a_file_system_comes_back_as_it_was_written(files: Files) -> None:
    host = files.host
    files.start()
    disk = log_in(host)
    made = host.shell(
        f"mkfs.ext4 -q {disk}; mount {disk} /mnt; head -c 20M /dev/urandom > /mnt/data; sync\n"
        "sha256sum < /mnt/data; umount /mnt"
    )
    log_out(host)
    files.stop()
    files.start()
    disk = log_in(host)
    again = host.shell(
        f"fsck.ext4 -nf {disk} >/dev/null; mount -o ro {disk} /mnt\n"
        "sha256sum < /mnt/data; umount /mnt"
    )
    assert again.text == made.text
    # And the file itself holds it.
    assert "ext4" in host.run("blkid", "-p", "/srv/f0").text


def test_a_killed_daemon_is_a_pause(files: Files) -> None:
    host = files.host
    files.start()
    load = Load(host, log_in(host))
    load.start()
    for _ in range(2):
        load.goes_on()
        files.kill()
        files.start()
        load.goes_on()
    load.ends_well()
    assert relogins(host) == 0


def test_a_clean_stop_is_a_pause(files: Files) -> None:
    host = files.host
    files.start()
    load = Load(host, log_in(host))
    load.start()
    load.goes_on()
    files.stop()
    state = host.shell(f"cat {TARGETS}/core/user_747/*/action/block_dev").text
    assert state == "blocked"
    files.start()
    load.goes_on()
    load.ends_well()
    assert relogins(host) == 0


def test_a_grown_file_reaches_the_initiator(files: Files) -> None:
    host = files.host
    files.start()
    disk = log_in(host)
    assert host.run("blockdev", "--getsize64", disk).text == str(64 << 20)
    host.shell("truncate -s 96M /srv/f0")
    host.run("systemctl", "kill", "-s", "HUP", "lio-files")

    def grown() -> bool:
        host.run("iscsiadm", "-m", "session", "-R")
        return host.run("blockdev", "--getsize64", disk).text == str(96 << 20)

    until(grown, "the disk has grown")
    info = host.shell(f"cat {TARGETS}/core/user_747/*/info").text
    assert f"Size: {96 << 20}" in info
    host.shell(f"dd if=/dev/zero of={disk} bs=1M seek=90 count=6 oflag=direct status=none")


def test_what_others_have_configured_stays_as_it_is(files: Files) -> None:
    host = files.host
    other = "iqn.2003-01.org.linux-iscsi.other:x"
    # Loaded before the picture is taken: what a module makes by being there is nobody's.
    host.shell("modprobe -a target_core_user target_core_file iscsi_target_mod")
    host.shell(
        f"""cd {TARGETS}
        truncate -s 16M /srv/other
        mkdir -p core/fileio_0/trilun-files@x core/user_3/other iscsi
        echo fd_dev_name=/srv/other,fd_dev_size=16777216 > core/fileio_0/trilun-files@x/control
        echo 1 > core/fileio_0/trilun-files@x/enable
        echo dev_config=other/1 > core/user_3/other/control
        echo dev_size=1048576 > core/user_3/other/control
        echo nl_reply_supported=-1 > core/user_3/other/control
        echo 1 > core/user_3/other/enable
        for iqn in {other} iqn.2026-11.io.trilun:files2.f0; do
            mkdir -p iscsi/$iqn/tpgt_1/np/127.0.0.1:3261 iscsi/$iqn/tpgt_1/lun/lun_0
            ln -s $PWD/core/fileio_0/trilun-files@x iscsi/$iqn/tpgt_1/lun/lun_0/l
            mkdir iscsi/$iqn/tpgt_1/acls/iqn.1993-08.org.debian:01:other
            echo secret > iscsi/$iqn/tpgt_1/acls/iqn.1993-08.org.debian:01:other/auth/password
            echo 1 > iscsi/$iqn/tpgt_1/enable
        done"""
    )
    ours = ("user_747", "trilun:files.f0")
    before = configuration(host, *ours)
    try:
        assert "password\nsecret" in before
        files.start()
        log_in(host)
        assert configuration(host, *ours) == before
        files.kill()
        files.start()
        log_out(host)
        files.stop()
        files.options = ["--forget"]
        files.start()
        files.stop()
        assert "user_747" not in configuration(host)
        assert configuration(host, *ours) == before
    finally:
        host.shell(
            f"""cd {TARGETS}
            for iqn in {other} iqn.2026-11.io.trilun:files2.f0; do
                rmdir iscsi/$iqn/tpgt_1/acls/*
                rm iscsi/$iqn/tpgt_1/lun/lun_0/l
                rmdir iscsi/$iqn/tpgt_1/lun/lun_0 iscsi/$iqn/tpgt_1/np/*
                rmdir iscsi/$iqn/tpgt_1 iscsi/$iqn
            done
            rmdir core/fileio_0/trilun-files@x core/fileio_0 core/user_3/other core/user_3"""
        )


def test_what_was_torn_down_behind_our_back_is_made_again(files: Files) -> None:
    host = files.host
    files.start()
    log_in(host)
    log_out(host)
    host.shell(
        f"""cd {TARGETS}/iscsi/{IQN}
        echo 0 > tpgt_1/enable; rm tpgt_1/lun/lun_0/backstore; rmdir tpgt_1/lun/lun_0
        rmdir tpgt_1/np/* tpgt_1 ../{IQN} {TARGETS}/core/user_747/trilun-files@f0"""
    )
    until(lambda: files.said("is lost"), "the loss is noticed")

    def back() -> bool:
        return (
            host.run(
                "test", "-d", f"{TARGETS}/iscsi/{IQN}/tpgt_1/np/127.0.0.1:3260", check=False
            ).code
            == 0
        )

    until(back, "the target is back")
    disk = log_in(host)
    host.shell(f"dd if={disk} of=/dev/null bs=1M count=8 iflag=direct status=none")


def test_a_missing_address_is_a_state(files: Files) -> None:
    host = files.host
    files.options = ["--host", "127.0.0.1", "--host", "198.51.100.7"]
    files.start()
    assert files.said("portal 198.51.100.7:3260: this host has no such address now; add it")
    disk = log_in(host)  # the other portal serves
    host.run("ip", "addr", "add", "198.51.100.7/32", "dev", "lo")
    try:
        until(lambda: files.said("problems: none"), "the address is noticed")
        log_in(host, address="198.51.100.7")
        host.shell(f"dd if={disk} of=/dev/null bs=1M count=8 iflag=direct status=none")
    finally:
        log_out(host)
        host.run("ip", "addr", "del", "198.51.100.7/32", "dev", "lo")
    until(lambda: files.log.count("198.51.100.7:3260: this host has") > 1, "its loss is noticed")
    log_in(host)


def test_an_address_in_use_is_named_and_tried_again(files: Files) -> None:
    host = files.host
    listen = "import socket,time; s=socket.create_server(('127.0.0.1',3260)); time.sleep(900)"
    host.run("systemd-run", "-q", "--unit=squatter", "python3", "-c", listen)
    until(lambda: ":3260" in host.run("ss", "-ltn").text, "somebody listens")
    files.start()
    assert files.said("portal 127.0.0.1:3260: another program listens there; stop it")
    host.run("systemctl", "stop", "squatter")
    until(lambda: files.said("problems: none"), "the portal is there")
    log_in(host)


@pytest.mark.parametrize(
    ("before", "as_whom", "words"),
    [
        ("true", "setpriv --reuid=65534 --clear-groups", "run as root, or with CAP_DAC_OVERRIDE"),
        (
            "umount /sys/kernel/config",
            "setpriv --reuid=65534 --clear-groups",
            "configfs is not mounted; as root: mount -t configfs",
        ),
        (
            "mount -t tmpfs none /sys/module/target_core_user",
            "env",
            "has no TCMU that can be taken over; use 4.19 or later",
        ),
        (
            "mount -t tmpfs none /sys/kernel/config/target",
            "env",
            "/sys/kernel/config/target",
        ),
        ("true", "setpriv --bounding-set=-all", "ready"),
    ],
)
def test_a_machine_that_cannot_says_why_in_a_line(
    files: Files, before: str, as_whom: str, words: str
) -> None:
    host = files.host
    host.shell("modprobe -a target_core_user iscsi_target_mod; chmod o+x /root")
    configured = configuration(host)
    serve = f"cd {ROOT}; {as_whom} {PYTHON} -m targets.lio --node none"
    ran = host.shell(f"unshare -m sh -c '{before}; {serve}' 2>&1", check=False)
    assert words in ran.text
    assert len(ran.text.splitlines()) == 1
    assert configuration(host) == configured


def test_a_device_that_another_process_holds_is_named(files: Files) -> None:
    host = files.host
    files.start()
    other = Files(host, unit="lio-other")
    other.start()
    assert other.said("another process has /dev/uio0 open; stop the controller that runs already")
    assert files.active
    forgetting = Files(host, files=[], unit="lio-forget")
    forgetting.start()
    assert forgetting.said("another process has /dev/uio0 open")
    disk = log_in(host)
    host.shell(f"dd if={disk} of=/dev/null bs=1M count=8 iflag=direct status=none")
    other.kill()
    host.shell(f"dd if={disk} of=/dev/null bs=1M count=8 iflag=direct status=none")


def test_a_death_between_any_two_steps_is_survived(files: Files) -> None:
    host = files.host
    host.shell("modprobe -a target_core_user iscsi_target_mod")
    before = configuration(host)
    ran = host.channel.run(str(PYTHON), "-m", "tests.lab.lio_steps", cwd=str(ROOT), timeout_s=200)
    assert int(ran.text.rpartition("=")[2]) > 60
    # The kernel makes `iscsi` on demand; it stays.
    assert configuration(host).replace("./iscsi/", "") == before.replace("./iscsi/", "")
