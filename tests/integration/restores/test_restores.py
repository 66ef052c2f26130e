"""Looking into a backup and restoring from it, with every real part: programs, iSCSI, mounts.

One stage for all; the tests stand in the order of a day, and each leaves the pair in sync.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.pair import DATA_SET, LocalPair
from hostagent.programs import find_program
from tests.integration.restores.stage import BINARY, MIB, PROGRAMS, Stage, until

pytestmark = [pytest.mark.root, pytest.mark.tools]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("needs root (mounts, loop devices)")
    for program, package in PROGRAMS.items():
        if find_program(program) is None:
            pytest.skip(f"needs '{program}' of the package {package}")
    # Short: it becomes part of mount points and sockets.
    directory = Path(tempfile.mkdtemp(prefix="trilun-restores-", dir="/var/tmp"))
    stage = Stage(LocalPair(directory))
    try:
        stage.raise_up()
        yield stage
    finally:
        stage.pair.stop()
        assert not os.path.ismount(stage.files)
        shutil.rmtree(directory)


def test_nothing_has_changed_yet(stage: Stage) -> None:
    out = stage.pair.trilun("diff")
    assert out["differences"] == []
    assert out["compared_count"] >= 8
    assert out["read_bytes"] == 0, "what was not touched is not read"


def test_a_backup_is_looked_into_without_changing_it(stage: Stage) -> None:
    third = stage.digest("third")
    lines = stage.trilun("ls", "-l", "d").splitlines()
    assert [line.split()[-1] for line in lines] == ["a.dat", "b.dat", "deep", "note.txt"]
    assert lines[0].split()[4] == "5000"
    assert "link -> /etc/passwd" in stage.trilun("ls", "-l", str(stage.files / "link"))
    found = stage.pair.trilun("ls", "-R", str(stage.files / "d"))["entries"]
    assert [entry["name"] for entry in found if entry["type"] == "-"] == [
        "a.dat", "b.dat", "note.txt", "c.dat",
    ]  # fmt: skip
    reader = stage.start("cat", "binary")
    assert reader.communicate(timeout=60)[0] == BINARY
    document = stage.pair.trilun("cat", "binary")
    assert base64.b64decode(document["data_base64"]) == BINARY
    refused = stage.trilun("cat", "large", "--max-bytes", "1MiB", expect=3)
    assert f"--max-bytes {12 * MIB}" in refused
    assert "no regular file" in stage.trilun("cat", "link", expect=2)
    assert stage.trilun("ls", "d/none", expect=4)
    assert stage.views() == []
    assert stage.digest("third") == third


def test_a_client_that_is_interrupted_closes_what_it_opened(stage: Stage) -> None:
    reader = stage.start("cat", "large")
    assert reader.stdout is not None
    reader.stdout.read(1)
    assert len(stage.views()) == 1
    reader.send_signal(signal.SIGINT)
    reader.communicate(timeout=60)
    assert reader.returncode == 130
    assert stage.views() == []


def test_an_agent_that_dies_closes_it_at_its_next_start(stage: Stage) -> None:
    reader = stage.start("cat", "large")
    assert reader.stdout is not None
    reader.stdout.read(1)
    stage.pair.kill("host2")
    stage.pair.launch_agent(2)
    stage.pair.wait_online("host2")
    until(lambda: not stage.views(), "the view to be closed")
    reader.kill()
    reader.communicate(timeout=60)
    until(lambda: not _running(stage), "the look to end")


def _running(stage: Stage) -> list[str]:
    jobs = stage.pair.trilun("job", "list")["jobs"]
    return [str(job["id"]) for job in jobs if job["state"] == "running"]


def test_what_has_changed_is_told_by_path(stage: Stage) -> None:
    files = stage.files
    (files / "d/a.dat").write_bytes(b"A" * 5000)
    (files / "d/b.dat").write_bytes(b"shorter")
    (files / "d/deep/c.dat").unlink()
    (files / "same").chmod(0o600)
    (files / "fresh").write_text("since then")
    out = stage.trilun("diff", expect=1).splitlines()
    assert sorted(line for line in out if line[1:2] == " ") == [
        "A fresh",
        "C d/a.dat (content, modification time)",
        "C d/b.dat (modification time, size)",
        "M same (mode)",
        "R d/deep/c.dat",
    ]
    assert stage.trilun("diff", "same", expect=1).startswith("M same (mode)")


def test_of_a_large_file_only_what_was_written_is_read(stage: Stage) -> None:
    large = stage.files / "large"
    before = large.stat()
    large.touch()
    found = stage.pair.trilun("diff", "large", check=False)
    assert [(each["what"], each["detail"]) for each in found["differences"]] == [
        ("metadata", "modification time")
    ]
    # Blocks of this small file system are smaller than those that are marked.
    assert found["read_bytes"] <= 16 << 10
    with large.open("r+b") as file:
        file.seek(5 << 20)
        file.write(b"here")
    os.utime(large, ns=(before.st_atime_ns, before.st_mtime_ns))
    found = stage.pair.trilun("diff", "large", check=False)
    assert [(each["what"], each["detail"]) for each in found["differences"]] == [
        ("changed", "content")
    ]
    assert 0 < found["read_bytes"] <= 64 << 10


def test_a_dry_run_in_sync(stage: Stage) -> None:
    patterns = [f"{stage.files}/d/*.dat", "d/**/c.dat"]
    plan = stage.pair.trilun("restore", "--dry-run", *patterns)["plan"]
    assert [file["path"] for file in plan["files"]] == ["d/a.dat", "d/b.dat", "d/deep/c.dat"]
    assert plan["starting_point"] == "in_sync"
    assert plan["overwritten_bytes"] == 0
    assert [(c["path"], c["action"]) for c in plan["conflicts"]] == [
        ("d/a.dat", "keep"),
        ("d/b.dat", "keep"),
    ]
    assert plan["expected_union_bytes"] >= plan["bytes_to_copy"] == 11100
    text = stage.trilun("restore", "--dry-run", *patterns)
    for words in ("in sync", "2 (--conflict keep-both)", "stays", "d/deep/c.dat", "takes about"):
        assert words in text, words
    missing = stage.trilun("restore", "--dry-run", "d/*.none", "d/a.dat", expect=1)
    assert "not in the backup: d/*.none" in missing
    assert stage.state() == "PAIR"
    assert stage.views() == []


def test_to_another_place(stage: Stage) -> None:
    receipt = stage.pair.trilun("restore", "d/*.dat", "d/deep/", "--to", "restored/today")[
        "receipt"
    ]
    assert stage.text("restored/today/d/a.dat") == "a" * 5000
    assert stage.text("restored/today/d/deep/c.dat") == "c" * 100
    assert stage.text("d/a.dat") == "A" * 5000
    assert (receipt["to"], receipt["conflict_count"]) == ("restored/today", 0)


def test_each_policy(stage: Stage) -> None:
    refused = stage.trilun("restore", "d/a.dat", "--conflict", "fail", expect=1)
    assert "changed since the backup: d/a.dat" in refused
    kept = stage.pair.trilun("restore", "d/a.dat", "--conflict", "skip", "--verify")["receipt"]
    assert [c["action"] for c in kept["conflicts"]] == ["skip"]
    assert stage.text("d/a.dat") == "A" * 5000
    job = stage.pair.trilun("restore", "d/a.dat")
    (conflict,) = job["receipt"]["conflicts"]
    assert conflict["kept_as"] == f"d/a.dat.before-{job['id']}"
    assert stage.text("d/a.dat") == "a" * 5000
    assert stage.text(conflict["kept_as"]) == "A" * 5000
    receipt = stage.pair.trilun("restore", "d/b.dat", "--conflict", "overwrite")["receipt"]
    assert stage.text("d/b.dat") == "b" * 6000
    assert receipt["wire_bytes"] <= 1.05 * receipt["union_bytes"]
    assert stage.text("fresh") == "since then"


def test_a_dry_run_and_a_restore_of_a_split_pair(stage: Stage) -> None:
    stage.pair.trilun("pair", "split", "demo-remote")
    (stage.files / "lost").write_bytes(os.urandom(MIB))
    (stage.files / "d/note.txt").write_text("changed on the first only")
    os.sync()
    plan = stage.pair.trilun("restore", "--dry-run", "d/note.txt", "same")["plan"]
    assert plan["starting_point"] == "split"
    assert plan["overwritten_bytes"] >= MIB
    assert f"{plan['overwritten_bytes']} bytes in blocks written on the first" in plan["meaning"]
    # The second volume has the note as it was, and the mode as it is.
    assert [c["path"] for c in plan["conflicts"]] == ["same"]
    text = stage.trilun("restore", "--dry-run", "d/note.txt")
    assert "already split" in text
    assert "--discard-writes: " in text
    assert (stage.state(), stage.views()) == ("PSUS", [])
    refused = stage.trilun("restore", "d/note.txt", expect=1)
    assert f"{plan['overwritten_bytes']} bytes in blocks that were written on 'first'" in refused
    assert (stage.files / "lost").exists()
    receipt = stage.pair.trilun("restore", "--discard-writes", "d/note.txt")["receipt"]
    assert receipt["discarded_bytes"] >= MIB
    assert stage.text("d/note.txt") == "a note\n"
    assert not (stage.files / "lost").exists()
    assert stage.state() == "PAIR"


def test_jobs_and_receipts_outlive_the_agent(stage: Stage) -> None:
    before = [j for j in stage.pair.trilun("job", "list")["jobs"] if j["kind"] == "restore"]
    assert len(before) >= 6
    stage.pair.stop("host2")
    stage.pair.launch_agent(2)
    stage.pair.wait_online("host2")
    after = [j for j in stage.pair.trilun("job", "list")["jobs"] if j["kind"] == "restore"]
    assert after == before
    with_receipt = [job for job in before if job["receipt"] is not None]
    last = with_receipt[-1]
    shown = stage.pair.trilun("job", "show", last["id"])
    assert shown == last
    text = stage.trilun("job", "show", last["id"])
    for words in ("on the wire", "union", "discarded", "verified", "conflicts", "copy ", DATA_SET):
        assert words in text, words
    assert json.dumps(shown["receipt"]["step_s"]) != "{}"


def test_in_the_end_first_equals_second(stage: Stage) -> None:
    stage.pair.stop("host1")
    until(lambda: not os.path.ismount(stage.files), "host 1 to unmount")
    assert stage.digest("first") == stage.digest("second")
