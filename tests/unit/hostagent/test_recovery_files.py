"""Which files belong together, and that a part of them is refused."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.recovery import DatabaseInfo, DatabaseKind
from controller.api.restores import Conflict
from hostagent.recovery.files import FileSet, PartOfDatabaseError, named_sets
from hostagent.recovery.sets import file_sets, remove_foreign

MOUNTPOINT = PurePosixPath("/srv/db")
CLUSTER = FileSet("main", "postgresql", ("pg/main", "space"))
SQLITE = FileSet("app", "sqlite", ("app.db", "app.db-wal"), ("app.db-journal", "app.db-shm"))
OVERWRITE = Conflict.OVERWRITE


def chosen(names: list[str], *sets: FileSet, policy: Conflict = OVERWRITE, place: str = "") -> int:
    return len(named_sets(sets or (CLUSTER, SQLITE), names, place, "ds", policy))


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["books"], 0),
        (["pg/main", "space"], 1),
        (["pg", "space", "books"], 1),
        ([""], 2),
        (["app.db", "app.db-wal"], 1),
        (["app.db", "app.db-shm", "app.db-wal"], 1),
        (["pg/other", "app.database"], 0),
    ],
)
def test_a_whole_database_comes_back(names: list[str], count: int) -> None:
    assert chosen(names) == count


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (["pg/main"], "pg/main + space"),
        (["space"], "pg/main + space"),
        (["pg/main/base/5/16384"], "pg/main + space"),
        (["pg"], "pg/main + space"),
        (["app.db"], "app.db + app.db-wal"),
        (["app.db-wal"], "app.db + app.db-wal"),
        (["app.db-shm"], "app.db + app.db-wal"),
    ],
)
def test_a_part_is_refused_with_the_set_and_the_command(names: list[str], together: str) -> None:
    with pytest.raises(PartOfDatabaseError, match="belong together") as caught:
        chosen(names)
    assert together in caught.value.message
    command = together.replace(" + ", " ")
    assert f"trilun restore --data-set ds --conflict overwrite {command}" in caught.value.next_step


def test_the_refusal_is_the_one_in_the_manual() -> None:
    one = FileSet("main", "postgresql", ("pg/15/main",))
    with pytest.raises(PartOfDatabaseError) as caught:
        named_sets([one], ["pg/15/main/base"], "", "demo", OVERWRITE)
    manual = (Path(__file__).parents[3] / "docs/operating.md").read_text(encoding="utf-8")
    assert f" failed: find: {caught.value.message}\nnext: {caught.value.next_step}\n" in manual


@pytest.mark.parametrize("policy", [Conflict.KEEP_BOTH, Conflict.SKIP])
def test_files_of_now_may_not_stay_among_it(policy: Conflict) -> None:
    with pytest.raises(PartOfDatabaseError, match="only come back as it was") as caught:
        chosen(["app.db", "app.db-wal"], policy=policy)
    assert "--conflict overwrite" in caught.value.next_step
    assert chosen(["books"], policy=policy) == 0


def test_a_part_may_go_to_another_directory_but_not_into_a_database() -> None:
    assert chosen(["pg/main/base"], place="rescued", policy=Conflict.KEEP_BOTH) == 0
    with pytest.raises(PartOfDatabaseError, match="inside of"):
        chosen(["books"], place="pg/main/base")


def test_a_database_that_leaves_the_volume_is_refused() -> None:
    away = FileSet("main", "postgresql", ("pg",), elsewhere=("/mnt/wal",))
    with pytest.raises(PartOfDatabaseError, match=r"outside of this volume: /mnt/wal"):
        chosen(["pg"], away)


_NAMES = st.lists(st.sampled_from(["a", "b", "a/b", "a/b/c", "b/a", ""]), min_size=1, unique=True)


@given(_NAMES, _NAMES)
def test_what_is_let_through_is_whole(names: list[str], needed: list[str]) -> None:
    one = FileSet("x", "hook", tuple(needed))
    try:
        found = named_sets([one], names, "", "ds", OVERWRITE)
    except PartOfDatabaseError:
        return
    covered = [any(PurePosixPath(p).is_relative_to(n) for n in names) for p in needed]
    assert all(covered) if found else not any(covered)


# ---------------------------------------------------------------- on a file system


def sets_of(root: Path, kind: DatabaseKind, path: str, *also: str) -> list[FileSet]:
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        info = DatabaseInfo(name="x", kind=kind, path=path, also=list(also))
        return file_sets(fd, [info], MOUNTPOINT)
    finally:
        os.close(fd)


def test_postgresqls_links_belong_to_it(tmp_path: Path) -> None:
    spaces = tmp_path / "pg/15/main/pg_tblspc"
    spaces.mkdir(parents=True)
    (spaces / "16390").symlink_to("/srv/db/fast")
    (spaces / "16391").symlink_to("/srv/db/pg/15/main/inside")
    (tmp_path / "pg/15/main/pg_wal").symlink_to("../../wal")
    (one,) = sets_of(tmp_path, "postgresql", "pg/15/main")
    assert one.needed == ("pg/15/main", "pg/wal", "fast")
    assert one.elsewhere == ()
    (spaces / "16392").symlink_to("/mnt/slow")
    (one,) = sets_of(tmp_path, "postgresql", "pg/15/main")
    assert one.elsewhere == ("/mnt/slow",)


def test_mariadbs_linked_schemas_and_tables_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "mysql/shop").mkdir(parents=True)
    (tmp_path / "mysql/shop/orders.isl").write_text("/srv/db/big/shop/orders.ibd\n")
    (tmp_path / "mysql/archive").symlink_to("/srv/db/old/archive")
    (one,) = sets_of(tmp_path, "mariadb", "mysql", "redo")
    assert one.needed == ("mysql", "redo", "old/archive", "big/shop/orders.ibd")


def test_sqlites_companions_belong_to_it_as_far_as_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "app.db").touch()
    (tmp_path / "app.db-wal").touch()
    (one,) = sets_of(tmp_path, "sqlite", "app.db")
    assert one.needed == ("app.db", "app.db-wal")
    assert one.optional == ("app.db-journal", "app.db-shm")


def test_a_database_that_the_backup_lacks_has_no_set(tmp_path: Path) -> None:
    assert sets_of(tmp_path, "postgresql", "pg/15/main") == []


def test_what_the_backup_lacks_is_removed_and_nothing_else(tmp_path: Path) -> None:
    backup, volume = tmp_path / "backup", tmp_path / "volume"
    for root in (backup, volume):
        (root / "pg/base").mkdir(parents=True)
        (root / "pg/base/1").write_text(root.name)
        (root / "app.db").touch()
    (backup / "pg/swapped").write_text("a file then")
    (volume / "pg/swapped").mkdir()
    (volume / "pg/swapped/deep").touch()
    (volume / "pg/base/2").touch()
    (volume / "pg/later").symlink_to("/etc")
    (volume / "app.db-journal").touch()
    (volume / "books").touch()
    then, now = (os.open(root, os.O_RDONLY | os.O_DIRECTORY) for root in (backup, volume))
    sets = [
        FileSet("pg", "hook", ("pg",)),
        FileSet("app", "sqlite", ("app.db",), ("app.db-journal",)),
    ]
    try:
        assert remove_foreign(then, now, sets) == 4
        assert remove_foreign(then, now, sets) == 0
    finally:
        os.close(then)
        os.close(now)
    left = sorted(str(path.relative_to(volume)) for path in volume.rglob("*"))
    assert left == ["app.db", "books", "pg", "pg/base", "pg/base/1"]
    assert (volume / "pg/base/1").read_text() == "volume"
    assert Path("/etc").is_dir()
