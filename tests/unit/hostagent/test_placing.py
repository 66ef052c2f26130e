"""Files that go to another place, and files that have changed since."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.api.restores import Conflict
from hostagent.copying.comparing import Compared, compare_named
from hostagent.copying.content import Work, same_content
from hostagent.copying.copier import copy_named
from hostagent.copying.placing import Placing
from hostagent.copying.verify import Verified, verify_named
from hostagent.errors import HostError, PathRefusedError

QUIET = Work(lambda _: None, lambda: False)


class Restore:
    """Compares, copies and verifies, as the job does."""

    def __init__(self, base: Path) -> None:
        self.backup, self.volume = base / "backup", base / "volume"
        self.backup.mkdir()
        self.volume.mkdir()

    def both(self, **files: str) -> None:
        for root in (self.backup, self.volume):
            for name, text in files.items():
                path = root / name.replace("__", "/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                os.utime(path, ns=(1, 10**18))

    def compare(self, *names: str, to: str = "", limit: int = 100) -> Compared:
        with _Roots(self.backup, self.volume) as (one, two):
            return compare_named(one, two, list(names), Placing("j", to), limit, QUIET)

    def placing(
        self, policy: Conflict, *names: str, to: str = "", compared: bool = True
    ) -> Placing:
        changed = self.compare(*names, to=to).changed
        return Placing("j", to, policy, frozenset(one.path for one in changed), compared=compared)

    def run(self, policy: Conflict, *names: str, to: str = "") -> Verified:
        return self.again(self.placing(policy, *names, to=to), *names)

    def again(self, placing: Placing, *names: str) -> Verified:
        with _Roots(self.backup, self.volume) as (one, two):
            copy_named(one, two, list(names), placing, QUIET)
            return verify_named(one, two, list(names), placing, QUIET)

    def there(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.volume)): path.read_text()
            for path in sorted(self.volume.rglob("*"))
            if path.is_file()
        }


class _Roots:
    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    def __enter__(self) -> list[int]:
        self.fds = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in self.paths]
        return self.fds

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def restore(tmp_path: Path) -> Restore:
    restore = Restore(tmp_path)
    restore.both(
        d__same="same", d__changed="good", d__gone="back", d__touched="good", d__quiet="good"
    )
    (restore.volume / "d/changed").write_text("new and longer")
    (restore.volume / "d/gone").unlink()
    os.utime(restore.volume / "d/touched", ns=(1, 2 * 10**18))
    (restore.volume / "d/quiet").write_text("evil")
    os.utime(restore.volume / "d/quiet", ns=(1, 10**18))
    (restore.volume / "d/new").write_text("new")
    return restore


def test_what_has_changed_is_said_with_how(restore: Restore) -> None:
    compared = restore.compare("d")
    assert {one.path: one.changed for one in compared.changed} == {
        "d/changed": "modification time, size",
        "d/quiet": "content",
        "d/touched": "modification time",
    }
    assert (compared.changed_count, compared.same_count, compared.absent_count) == (3, 2, 1)
    short = restore.compare("d", limit=1)
    assert (len(short.changed), short.changed_count) == (1, 3)


def test_overwrite(restore: Restore) -> None:
    restore.run(Conflict.OVERWRITE, "d")
    assert restore.there() == {
        "d/changed": "good", "d/gone": "back", "d/new": "new", "d/quiet": "good",
        "d/same": "same", "d/touched": "good",
    }  # fmt: skip


def test_keep_both(restore: Restore) -> None:
    inode = (restore.volume / "d/changed").stat().st_ino
    placing = restore.placing(Conflict.KEEP_BOTH, "d")
    restore.again(placing, "d")
    expected = {
        "d/changed": "good", "d/changed.before-j": "new and longer", "d/gone": "back",
        "d/new": "new", "d/quiet": "good", "d/quiet.before-j": "evil", "d/same": "same",
        "d/touched": "good", "d/touched.before-j": "good",
    }  # fmt: skip
    assert restore.there() == expected
    assert (restore.volume / "d/changed.before-j").stat().st_ino == inode, "kept, not copied"
    restore.again(placing, "d")
    assert restore.there() == expected, "a repeated copy changes nothing"


@pytest.mark.parametrize("compared", [False, True])
def test_what_was_compared_is_not_read_again(
    restore: Restore, compared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = restore.placing(Conflict.OVERWRITE, "d", compared=compared)
    read: list[int] = []

    def counted(one: int, two: int, size_bytes: int, work: Work) -> bool:
        read.append(size_bytes)
        return same_content(one, two, size_bytes, work)

    monkeypatch.setattr("hostagent.copying.comparing.same_content", counted)
    restore.again(placing, "d")
    restore.again(placing, "d")
    assert restore.there()["d/quiet"] == "good"
    # Those that had changed are read again: they may be restored already.
    assert len(read) == (4 if compared else 7)


def test_skip_leaves_files_and_their_directories_alone(restore: Restore) -> None:
    (restore.volume / "d").chmod(0o711)
    verified = restore.run(Conflict.SKIP, "d")
    assert restore.there() == {
        "d/changed": "new and longer", "d/gone": "back", "d/new": "new", "d/quiet": "evil",
        "d/same": "same", "d/touched": "good",
    }  # fmt: skip
    assert (restore.volume / "d").stat().st_mode & 0o777 == 0o711
    assert sorted(f.path for f in verified.files) == ["d", "d/gone", "d/same"]


def test_keep_both_goes_on_after_a_death_between_its_two_steps(restore: Restore) -> None:
    placing = restore.placing(Conflict.KEEP_BOTH, "d")
    os.link(restore.volume / "d/changed", restore.volume / "d/changed.before-j")
    restore.again(placing, "d")
    assert (restore.volume / "d/changed").read_text() == "good"
    assert (restore.volume / "d/changed.before-j").read_text() == "new and longer"


def test_a_kept_name_that_is_taken_is_never_overwritten(restore: Restore) -> None:
    (restore.volume / "d/changed.before-j").write_text("precious")
    with pytest.raises(HostError, match="is there already"):
        restore.run(Conflict.KEEP_BOTH, "d")
    assert (restore.volume / "d/changed.before-j").read_text() == "precious"


@pytest.mark.parametrize("policy", list(Conflict)[:3])
def test_a_file_where_a_directory_was_and_the_other_way_round(
    restore: Restore, policy: Conflict
) -> None:
    restore.both(x__deep__f="file", y="file")
    (restore.volume / "x/deep/f").unlink()
    (restore.volume / "x/deep").rmdir()
    (restore.volume / "x/deep").write_text("now a file")
    (restore.volume / "y").unlink()
    (restore.volume / "y").mkdir()
    (restore.volume / "y/inside").write_text("inside")
    assert {c.path: c.changed for c in restore.compare("x", "y").changed} == {
        "x/deep": "a file now",
        "y": "a directory now",
    }
    if policy is Conflict.OVERWRITE:
        with pytest.raises(HostError, match="'x/deep' is a file on the volume now"):
            restore.run(policy, "x", "y")
        return
    placing = restore.placing(policy, "x", "y")
    restore.again(placing, "x", "y")
    restore.again(placing, "x", "y")
    there = {name: text for name, text in restore.there().items() if name[0] in "xy"}
    if policy is Conflict.SKIP:
        assert there == {"x/deep": "now a file", "y/inside": "inside"}
    else:
        assert there == {
            "x/deep.before-j": "now a file", "x/deep/f": "file",
            "y.before-j/inside": "inside", "y": "file",
        }  # fmt: skip


def test_another_place_keeps_relative_paths_and_touches_nothing_else(restore: Restore) -> None:
    before = restore.there()
    restore.run(Conflict.KEEP_BOTH, "d/changed", "d/gone", to="restored/monday")
    assert restore.there() == {
        **before,
        "restored/monday/d/changed": "good",
        "restored/monday/d/gone": "back",
    }
    place = restore.volume / "restored"
    assert place.stat().st_mode & 0o777 == 0o755
    (place / "monday/d/gone").write_text("changed there")
    restore.run(Conflict.KEEP_BOTH, "d/changed", "d/gone", to="restored/monday")
    assert (place / "monday/d/gone").read_text() == "back"
    assert (place / "monday/d/gone.before-j").read_text() == "changed there"


def test_the_whole_volume_to_another_place(restore: Restore) -> None:
    os.link(restore.backup / "d/same", restore.backup / "d/link")
    (restore.backup / "empty").mkdir(mode=0o750)
    restore.run(Conflict.FAIL, "", to="all")
    assert (restore.volume / "all/d/changed").read_text() == "good"
    assert (restore.volume / "all/d/link").stat().st_nlink == 2
    assert (restore.volume / "all/empty").stat().st_mode & 0o777 == 0o750
    assert (restore.volume / "d/changed").read_text() == "new and longer"


def test_a_place_behind_a_link_is_refused(restore: Restore) -> None:
    (restore.volume / "out").symlink_to("/tmp")
    with pytest.raises(PathRefusedError, match="symbolic link"):
        restore.run(Conflict.OVERWRITE, "d/gone", to="out/here")


def test_a_place_that_is_a_file_is_refused(restore: Restore) -> None:
    with pytest.raises(HostError, match="'d/same' is a file on the volume now"):
        restore.run(Conflict.OVERWRITE, "d/gone", to="d/same/x")


def test_a_changed_hard_link_is_kept_on_its_own(restore: Restore) -> None:
    restore.both(h__one="good")
    os.link(restore.backup / "h/one", restore.backup / "h/two")
    (restore.volume / "h/two").write_text("changed")
    restore.run(Conflict.KEEP_BOTH, "h")
    assert (restore.volume / "h/one").stat().st_ino == (restore.volume / "h/two").stat().st_ino
    assert (restore.volume / "h/two.before-j").read_text() == "changed"


def test_long_names_still_get_a_second_one() -> None:
    placing = Placing("restore-0123456789")
    kept = placing.kept_name("ü" * 127)
    assert len(os.fsencode(kept)) == 255
    assert kept.endswith(".before-restore-0123456789")
