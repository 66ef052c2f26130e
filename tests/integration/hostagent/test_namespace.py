"""Mounts made from inside of a service's mount namespace are the host's, and go again in both.

The host is a mount namespace made for the test, with everything shared as systemd has it; the
service is a slave of it, as `PrivateMounts=` makes one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from hostagent.filesystem.mounts import Mount, parse_mount
from tests.integration.hostagent.conftest import Target, fsck, make_image

pytestmark = [pytest.mark.root, pytest.mark.tools]

REPOSITORY = Path(__file__).resolve().parents[3]
SERVE = [sys.executable, "-m", "tests.integration.hostagent.inside"]
PYTHON_SAYS = "import os, sys; os.write(1, b'r'); sys.stdin.read()"


class Service:
    """An agent in a mount namespace of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """The call's result behind `done`, or an error's class and words."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self._process.stdin.flush()
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer

    def do(self, name: str, *arguments: Any) -> Any:
        """The call's result."""
        state, result = self.ask(name, *arguments)
        assert state == "done", result
        return result


class Host:
    """A mount namespace in which everything is shared."""

    def __init__(self, pid: int, runtime: Path) -> None:
        self.namespace = f"/proc/{pid}/ns/mnt"
        self._pid = pid
        self._runtime = runtime

    @contextmanager
    def service(self, *before: str) -> Iterator[Service]:
        """An agent in a slave of it; `before` is a command that changes what it finds there."""
        prepare = " ".join([*before, "&&"] if before else [])
        argv = ["nsenter", f"--mount={self.namespace}", "--wd=.", "--", "unshare", "--mount"]
        argv += ["--propagation", "slave", "sh", "-euc", f'{prepare} exec "$@"', "sh", *SERVE]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*argv, self.namespace, str(self._runtime)], stdin=pipe, stdout=pipe, text=True
        )
        with process:
            try:
                yield Service(process)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(20)

    @contextmanager
    def holds(self, path: Path) -> Iterator[int]:
        """A process on the host that has a file open; gives its pid."""
        command = f'exec 3<"$0"; exec {sys.executable} -c "$1"'
        argv = ["nsenter", f"--mount={self.namespace}", "--", "sh", "-euc", command]
        process = subprocess.Popen(
            [*argv, str(path), PYTHON_SAYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with process:
            assert process.stdout is not None
            assert process.stdout.read(1) == b"r"
            yield process.pid
            process.communicate(timeout=20)

    def has(self, mountpoint: Path) -> Mount | None:
        """What it has mounted there."""
        table = Path(f"/proc/{self._pid}/mountinfo").read_text(encoding="utf-8")
        found = map(parse_mount, table.splitlines())
        return next((mount for mount in found if mount.mountpoint == mountpoint), None)

    def read(self, path: Path) -> str:
        """A file as the host has it."""
        argv = ["nsenter", f"--mount={self.namespace}", "--", "cat", str(path)]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=20).stdout


@pytest.fixture
def host(runtime: Path) -> Iterator[Host]:
    argv = ["unshare", "--mount", "--propagation", "shared", sys.executable, "-c", PYTHON_SAYS]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"r"
        yield Host(process.pid, runtime)
        process.communicate(timeout=20)


@pytest.fixture
def address(target: Target, tmp_path: Path) -> list[Any]:
    lun = target.serve(make_image(tmp_path / "image", "ext4"))
    return [lun.portal, lun.iqn, lun.lun]


@pytest.mark.parametrize("mount_with", ["kernel", "fuse2fs"])
def test_a_mount_is_the_hosts_and_goes_in_both(
    host: Host, address: list[Any], runtime: Path, tmp_path: Path, mount_with: str
) -> None:
    mountpoint, lun = runtime / "a/mnt", runtime / "attach/qemu/vol.lun"
    with host.service() as service:
        service.do("mount", address, str(mountpoint), mount_with)
        mount = host.has(mountpoint)
        assert mount is not None
        assert {"nosuid", "nodev"} <= mount.options
        assert host.has(lun), "what serves the LUN is there when the service's namespace is gone"
        service.do("write", f"{mountpoint}/x", "from inside")
        assert host.read(mountpoint / "x") == "from inside"
        service.do("unmount", False)
        assert not service.do("is_there", str(mountpoint))
        assert not service.do("is_there", str(lun))
    assert host.has(mountpoint) is host.has(lun) is None
    assert os.path.ismount(mountpoint) is False
    fsck(tmp_path / "image", "ext4")


def test_who_keeps_it_busy_is_named_on_either_side(
    host: Host, address: list[Any], runtime: Path
) -> None:
    mountpoint = runtime / "mnt"
    with host.service() as service:
        service.do("mount", address, str(mountpoint), "kernel")
        service.do("write", f"{mountpoint}/x", "1")
        with host.holds(mountpoint / "x") as pid:
            refused, words = service.ask("unmount", False)
            assert refused == "FsBusyError"
            assert f"(pid {pid}, {mountpoint}/x)" in words
        service.do("hold", f"{mountpoint}/x")
        refused, words = service.ask("unmount", False)
        assert refused == "FsBusyError", "an open file in the slave keeps the host's mount"
        assert f"{mountpoint}/x)" in words
        assert host.has(mountpoint)
        service.do("let_go")
        with host.holds(mountpoint / "x"):
            service.do("unmount", True)
            assert host.has(mountpoint) is None
            assert not service.do("is_there", str(mountpoint))


def test_a_service_that_starts_again_finds_it_writes_to_it_and_takes_it_away(
    host: Host, address: list[Any], runtime: Path
) -> None:
    """ProtectSystem=strict makes what is mounted at its start read-only in the service's view."""
    mountpoint = runtime / "mnt"
    with host.service() as service:
        service.do("mount", address, str(mountpoint), "kernel")
    assert host.has(mountpoint)
    read_only = ["mount", "-o", "remount,bind,ro", str(mountpoint)]
    with host.service(*read_only) as service:
        assert service.ask("write", f"{mountpoint}/x", "1")[0] == "OSError"
        service.do("mount", address, str(mountpoint), "kernel")
        service.do("write", f"{mountpoint}/x", "1")
        service.do("unmount", False)
        assert host.has(mountpoint) is None


def test_a_folder_of_the_services_own_is_no_mountpoint(
    host: Host, address: list[Any], runtime: Path
) -> None:
    """PrivateTmp= and the like: a mount would be there on the host, and here it would not."""
    (runtime / "own").mkdir()
    with ExitStack() as stack:
        service = stack.enter_context(host.service("mount", "-t", "tmpfs", "own", f"{runtime}/own"))
        refused, words = service.ask("mount", address, f"{runtime}/own/mnt", "kernel")
        stack.callback(service.do, "unmount", False)
        assert refused == "HostError"
        assert "a folder of its own" in words
    assert host.has(runtime / "own/mnt") is None
