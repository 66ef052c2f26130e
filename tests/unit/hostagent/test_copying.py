"""Copies compared with their source, by a comparison that shares no code with the copier."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.api.codes import Code
from hostagent.copying.content import Work
from hostagent.copying.copier import Copied, copy_named, leftovers_prefix
from hostagent.copying.placing import Placing
from hostagent.copying.verify import verify_named
from hostagent.copying.walk import find
from hostagent.errors import HostError, InterruptedWorkError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root (owners, device nodes)")
QUIET = Work(lambda _: None, lambda: False)


class Sides:
    """A source and a target folder."""

    def __init__(self, base: Path) -> None:
        self.source, self.target = base / "source", base / "target"
        self.source.mkdir()
        self.target.mkdir()

    def copy(self, *names: str, work: Work = QUIET, job: str = "j") -> Copied:
        with Opened(self.source) as one, Opened(self.target) as two:
            return copy_named(one, two, list(names), Placing(job), work)

    def verify(self, *names: str) -> None:
        with Opened(self.source) as one, Opened(self.target) as two:
            verify_named(one, two, list(names), Placing("j"), QUIET)

    def both(self, *names: str) -> Copied:
        copied = self.copy(*names)
        self.verify(*names)
        return copied


class Opened:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    return Sides(tmp_path)


def snapshot(root: Path) -> dict[str, object]:
    """Everything a copy must keep, with links as groups of paths."""
    found: dict[str, object] = {}
    groups: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        name = str(path.relative_to(root))
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        xattrs = {a: os.getxattr(path, a, follow_symlinks=False) for a in listed(path)}
        link = groups.setdefault(status.st_ino, name) if not path.is_dir() else name
        found[name] = (
            status.st_mode,
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            status.st_rdev,
            content,
            xattrs,
            link,
        )
    return found


def listed(path: Path) -> list[str]:
    return os.listxattr(path, follow_symlinks=False)


# ---------------------------------------------------------------- trees


names = st.sampled_from(["a", "b", "ü ", "c.d", "-e", "\udcff"])
node = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=9000), st.integers(0, 0o7777)),
    st.tuples(st.just("link"), st.sampled_from(["a", "../x", "/etc/passwd", "gone"])),
    st.tuples(st.just("hard")),
    st.tuples(st.just("fifo")),
)
tree: st.SearchStrategy[object] = st.recursive(
    node, lambda inner: st.dictionaries(names, inner, max_size=5), max_leaves=20
)


def build(path: Path, shape: object, files: list[Path]) -> None:
    if isinstance(shape, dict):
        path.mkdir()
        for name, inner in shape.items():
            build(path / name, inner, files)
        os.utime(path, ns=(1, 1_700_000_000_123_456_789 + len(shape)))
        return
    assert isinstance(shape, tuple)
    match shape:
        case ("file", data, mode):
            path.write_bytes(data)
            path.chmod(mode | 0o400)
            files.append(path)
        case ("link", to):
            path.symlink_to(to)
        case ("hard",) if files:
            path.hardlink_to(files[0])
        case _:
            os.mkfifo(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(names, tree, max_size=4), st.dictionaries(names, tree, max_size=4))
def test_any_tree_arrives_whole_over_any_other(wanted: object, there: object) -> None:
    base = Path(tempfile.mkdtemp(prefix="trilun-tree-"))
    try:
        sides = Sides(base)
        build(sides.source / "top", wanted, [])
        build(sides.target / "old", there, [])
        before = snapshot(sides.target)
        sides.both("top")
        assert snapshot(sides.target / "top") == snapshot(sides.source / "top")
        after = snapshot(sides.target)
        assert {k: v for k, v in after.items() if k.startswith("old")} == before
        again = sides.copy("top")
        kept = sum(1 for p in (sides.source / "top").rglob("*") if not is_folder(p))
        assert again.unchanged == kept, "a second copy writes nothing"
    finally:
        shutil.rmtree(base)


def is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


# ---------------------------------------------------------------- kinds and metadata


@needs_root
def test_every_kind_and_every_attribute(sides: Sides) -> None:
    top = sides.source / "top"
    top.mkdir(mode=0o2750)
    (top / "setuid").write_bytes(b"x")
    os.chown(top / "setuid", 1234, 4321)
    (top / "setuid").chmod(0o6755)
    os.setxattr(top / "setuid", "user.note", b"\0binary\xff")
    os.setxattr(top / "setuid", "trusted.note", b"t")
    # cap_net_raw+ep, revision 2 (linux/capability.h)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(top / "setuid", "security.capability", capability)
    os.setxattr(top / "setuid", "system.posix_acl_access", acl(0o6))
    os.setxattr(top, "system.posix_acl_default", acl(0o4))
    os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    os.mknod(top / "disk", 0o60600, os.makedev(7, 200))
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(top / "socket"))
    (top / "link").symlink_to("nowhere")
    os.chown(top / "link", 7, 8, follow_symlinks=False)
    os.setxattr(top / "link", "trusted.on-link", b"l", follow_symlinks=False)
    os.utime(top / "link", ns=(5, 1_234_567_890_987_654_321), follow_symlinks=False)
    os.utime(top / "setuid", ns=(1_000_000_007, 1_700_000_000_000_000_001))
    sides.copy("top")
    assert (sides.target / "top/setuid").stat().st_atime_ns == 1_000_000_007
    sides.verify("top")
    assert snapshot(sides.target / "top") == snapshot(sides.source / "top")
    assert (sides.target / "top").stat().st_mode == top.stat().st_mode


def acl(permissions: int) -> bytes:
    """An ACL with a named user, as the kernel stores it (linux/posix_acl_xattr.h)."""
    entries = [(1, 6, -1), (2, permissions, 99), (4, 4, -1), (16, 6, -1), (32, 0, -1)]
    data = (2).to_bytes(4, "little")
    for tag, perm, who in entries:
        data += tag.to_bytes(2, "little") + perm.to_bytes(2, "little")
        data += (who & 0xFFFFFFFF).to_bytes(4, "little")
    return data


@needs_root
def test_a_default_acl_of_the_target_does_not_leak_into_the_copy(sides: Sides) -> None:
    (sides.source / "f").write_bytes(b"x")
    os.setxattr(sides.target, "system.posix_acl_default", acl(0o6))
    sides.both("f")
    assert listed(sides.target / "f") == []


def test_holes_stay_holes(sides: Sides) -> None:
    path = sides.source / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(20 << 20)
        file.write(b"island")
    sides.both("sparse")
    copy = sides.target / "sparse"
    assert copy.stat().st_size == 64 << 20
    assert copy.stat().st_blocks <= path.stat().st_blocks + 16
    assert copy.read_bytes() == path.read_bytes()


def test_hard_links_within_the_set_stay_one_file(sides: Sides) -> None:
    (sides.source / "d").mkdir()
    (sides.source / "a").write_bytes(b"one" * 5000)
    (sides.source / "d/b").hardlink_to(sides.source / "a")
    (sides.source / "outside").hardlink_to(sides.source / "a")
    (sides.target / "d").mkdir()
    (sides.target / "d/b").write_bytes(b"old")
    sides.both("a", "d")
    assert (sides.target / "a").samefile(sides.target / "d/b")
    assert not (sides.target / "outside").exists()


def test_separate_files_do_not_become_links(sides: Sides) -> None:
    for name in ("a", "b"):
        (sides.source / name).write_bytes(b"same")
        os.utime(sides.source / name, ns=(1, 1))
    (sides.target / "a").write_bytes(b"same")
    (sides.target / "a").chmod((sides.source / "a").stat().st_mode & 0o7777)
    os.utime(sides.target / "a", ns=(1, 1))
    (sides.target / "b").hardlink_to(sides.target / "a")
    sides.both("a", "b")
    assert not (sides.target / "a").samefile(sides.target / "b")


def test_missing_parents_come_with_the_sources_metadata(sides: Sides) -> None:
    deep = sides.source / "p/q/r"
    deep.mkdir(parents=True)
    (deep / "f").write_bytes(b"f")
    (deep / "not named").write_bytes(b"n")
    (sides.source / "p/q").chmod(0o711)
    for path in (deep, deep.parent, deep.parent.parent):
        os.utime(path, ns=(3, 3_000_000_001))
    sides.both("p/q/r/f")
    copy = sides.target / "p/q"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o711
    assert copy.stat().st_mtime_ns == 3_000_000_001
    assert [path.name for path in (copy / "r").iterdir()] == ["f"]


def test_an_identical_file_is_not_written(sides: Sides) -> None:
    (sides.source / "f").write_bytes(b"f" * 100_000)
    sides.both("f")
    inode = (sides.target / "f").stat().st_ino
    assert sides.both("f").unchanged == 1
    assert (sides.target / "f").stat().st_ino == inode
    with (sides.target / "f").open("r+b") as file:
        file.seek(70_000)
        file.write(b"!")
    times = (sides.source / "f").stat()
    os.utime(sides.target / "f", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(HostError, match="its content"):
        sides.verify("f")
    assert sides.both("f").unchanged == 0


def test_a_file_and_a_directory_do_not_replace_each_other(sides: Sides) -> None:
    (sides.source / "x").write_bytes(b"x")
    (sides.target / "x").mkdir()
    with pytest.raises(HostError, match="'x' is a directory on the volume now"):
        sides.copy("x")
    (sides.source / "y").mkdir()
    (sides.source / "y/z").write_bytes(b"z")
    (sides.target / "y").write_bytes(b"kept")
    with pytest.raises(HostError, match="'y' is a file on the volume now"):
        sides.copy("y/z")
    with pytest.raises(HostError, match="'y' is a file on the volume now"):
        sides.copy("y")
    assert (sides.target / "y").read_bytes() == b"kept"


def test_links_on_the_target_are_not_followed(sides: Sides, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"kept")
    (sides.source / "d").mkdir()
    (sides.source / "d/f").write_bytes(b"new")
    (sides.source / "f").write_bytes(b"new")
    (sides.target / "d").symlink_to(outside)
    (sides.target / "f").symlink_to(outside / "f")
    with pytest.raises(HostError):
        sides.copy("d/f")
    sides.both("f")
    assert not (sides.target / "f").is_symlink()
    assert (outside / "f").read_bytes() == b"kept"


# ---------------------------------------------------------------- finding, cancelling, resuming


def test_find_names_what_is_missing_and_counts_links_once(sides: Sides) -> None:
    (sides.source / "d").mkdir()
    (sides.source / "d/a").write_bytes(b"12345")
    (sides.source / "d/b").hardlink_to(sides.source / "d/a")
    with Opened(sides.source) as fd:
        found = find(fd, ["d", "d/a/below", "gone"], QUIET)
    assert found.missing == ["d/a/below", "gone"]
    assert found.file_bytes == 5
    assert [(f.path, f.kind, f.size_bytes) for f in found.named] == [("d", "directory", 5)]


def test_find_refuses_a_way_through_a_link(sides: Sides) -> None:
    (sides.source / "link").symlink_to("/etc")
    with Opened(sides.source) as fd, pytest.raises(HostError) as caught:
        find(fd, ["link/passwd"], QUIET)
    assert caught.value.code is Code.BAD_REQUEST
    assert "symbolic link" in caught.value.message


def interrupted_after(calls: int) -> Work:
    count = 0

    def cancelled() -> bool:
        nonlocal count
        count += 1
        return count > calls

    return Work(lambda _: None, cancelled)


@pytest.mark.parametrize("calls", [0, 1, 2, 3, 5, 8])
def test_an_interrupted_copy_leaves_whole_files_and_is_finished_later(
    sides: Sides, calls: int
) -> None:
    (sides.source / "d").mkdir()
    (sides.target / "d").mkdir()
    for name in "abc":
        (sides.source / "d" / name).write_bytes(os.urandom((2 << 20) + 17))
        (sides.target / "d" / name).write_bytes(b"old")
    with pytest.raises(InterruptedWorkError):
        sides.copy("d", work=interrupted_after(calls))
    for name in "abc":
        data = (sides.target / "d" / name).read_bytes()
        assert data in {b"old", (sides.source / "d" / name).read_bytes()}
    (sides.target / "d" / (leftovers_prefix("other") + "1")).write_bytes(b"not ours")
    (sides.source / "d/e").mkdir()
    sides.both("d")
    left = {path.name for path in (sides.target / "d").glob(".*")}
    assert left == {leftovers_prefix("other") + "1"}


def test_progress_adds_up_to_the_size(sides: Sides) -> None:
    sizes = [0, 1, 4096, (3 << 20) + 5]
    for number, size in enumerate(sizes):
        (sides.source / str(number)).write_bytes(b"x" * size)
    done: list[int] = []
    sides.copy("0", "1", "2", "3", work=Work(done.append, lambda: False))
    assert sum(done) == sum(sizes)
    done.clear()
    sides.copy("0", "1", "2", "3", work=Work(done.append, lambda: False))
    assert sum(done) == sum(sizes), "unchanged files count as done"


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    if os.geteuid() != 0:
        pytest.skip("needs root (a small tmpfs)")
    libc = ctypes.CDLL(None, use_errno=True)
    path = tmp_path / "small"
    path.mkdir()
    assert libc.mount(b"none", os.fsencode(path), b"tmpfs", 0, b"size=1m") == 0
    yield lambda: path
    assert libc.umount2(os.fsencode(path), 0) == 0


def test_a_full_target_is_an_error_and_keeps_the_old_file(
    sides: Sides, full_disk: Callable[[], Path]
) -> None:
    (sides.source / "big").write_bytes(b"x" * (3 << 20))
    sides.target = full_disk()
    (sides.target / "big").write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        sides.copy("big")
    assert (sides.target / "big").read_bytes() == b"old"
