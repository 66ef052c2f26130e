"""One host: commands, its disk, its plug."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deploy.labs.host import NOTE, Host
from deploy.labs.problem import CommandError, HostGoneError, LabError
from deploy.labs.process import Process
from deploy.pair import REPOSITORY

pytestmark = pytest.mark.lab


def test_output_and_exit_code_come_back(solo: Host) -> None:
    ran = solo.run("sh", "-c", "cat; echo bad >&2; exit 7", stdin=b"in", check=False)
    assert (ran.code, ran.stdout, ran.stderr) == (7, b"in", b"bad\n")
    with pytest.raises(CommandError, match="exit 3: because"):
        solo.shell("echo because >&2; exit 3")
    with pytest.raises(LabError, match="no-such-program could not be started"):
        solo.run("no-such-program")


def test_much_output_and_input_arrive_whole(solo: Host) -> None:
    data = bytes(range(256)) * 20_000
    assert solo.run("cat", stdin=data).stdout == data


def test_a_command_that_takes_too_long_is_ended(solo: Host) -> None:
    with pytest.raises(TimeoutError):
        solo.run("sleep", "4321", timeout_s=0.5)
    deadline_s = time.monotonic() + 10
    while solo.run("pgrep", "-f", "^sleep 4321", check=False).code == 0:
        assert time.monotonic() < deadline_s


def test_what_a_command_leaves_running_is_not_waited_for(solo: Host) -> None:
    assert solo.shell("sleep 300 & echo $!", timeout_s=10).text
    solo.shell("pkill -x sleep")


def test_it_runs_systemd_and_the_kernel_has_the_target(solo: Host) -> None:
    solo.run("systemctl", "reset-failed")  # what other tests have killed
    assert solo.run("systemctl", "is-system-running").text == "running"
    solo.shell("modprobe target_core_user && modprobe iscsi_target_mod && modprobe iscsi_tcp")
    assert solo.shell("ls /sys/kernel/config/target").text


def test_nothing_it_writes_reaches_the_machine(solo: Host) -> None:
    for place in ("/etc", "/usr", "/var/tmp", "/root"):
        solo.run("touch", f"{place}/trilun-lab-was-here")
        assert not Path(f"{place}/trilun-lab-was-here").exists()


def test_a_pulled_plug_keeps_what_was_flushed_and_nothing_else(solo: Host) -> None:
    solo.shell("mkdir /var/lib/trilun/p; cd /var/lib/trilun/p; echo kept >kept; sync; echo >lost")
    solo.kill()
    assert not solo.powered
    with pytest.raises(HostGoneError):
        solo.run("true")
    solo.start()
    assert solo.wait_booted() == "running"
    assert solo.shell("cd /var/lib/trilun/p; cat kept; ls").text.split() == ["kept", "kept"]


def test_a_command_learns_that_the_plug_was_pulled(solo: Host) -> None:
    call = solo.channel.start("sleep", "1000")
    solo.kill()
    with call.link, pytest.raises(HostGoneError):
        call.wait(30)
    solo.start()
    solo.wait_booted()


def test_shut_down_and_started_it_has_its_disk(solo: Host) -> None:
    solo.shell("echo here >/var/lib/trilun/halted")
    solo.halt()
    assert not solo.powered
    solo.start()
    solo.start()
    solo.wait_booted()
    assert solo.run("cat", "/var/lib/trilun/halted").text == "here"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_of_a_host_whose_command_was_told_to_end(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "deploy.labs.one", "--", "sh", "-c"]
    with subprocess.Popen(
        [*command, "cat /proc/cmdline; exec sleep 1000"],
        cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    ) as one:  # fmt: skip
        assert one.stdout is not None
        words = dict(word.partition("=")[::2] for word in one.stdout.readline().split())
        directory = Path(words["init"]).parent
        (note,) = directory.glob(f"*/{NOTE}")
        kernel = Process.noted(note)
        assert kernel is not None
        assert kernel.alive
        one.send_signal(number)
        assert one.wait(60) == 128 + number
    assert kernel.ended(0)
    assert not directory.exists()
