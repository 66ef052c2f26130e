"""Which data set the paths of a restore mean, and what receipts say."""

from __future__ import annotations

import pytest

from controller.api import messages as m
from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.cli.locate import data_set_of
from controller.cli.output import console
from controller.cli.receipts import plan_parts, receipt_parts

pytestmark = pytest.mark.plain


def nodes(**mountpoints: str) -> dict[str, m.NodeStatus]:
    """One agent pair a data set."""
    return {
        f"{part}-{name}": m.NodeStatus(
            node=f"{part}-{name}",
            kind=m.NodeKind.AGENT,
            online=True,
            version="0",
            data_sets=[m.DataSetRef(name=name, part=part, mountpoint=mountpoint)],
        )
        for name, mountpoint in mountpoints.items()
        for part in ("host1", "host2")
    }


@pytest.mark.parametrize(
    ("paths", "found"),
    [
        (["/srv/db/x", "/srv/db/y/*.dat"], "db"),
        (["/srv/db"], "db"),
        (["/srv/db/inner/x"], "inner"),
        (["/srv/dbx/y"], None),
        (["x", "etc/hosts"], None),
        (["x", "/srv/web/y"], "web"),
        (["/elsewhere/x"], None),
    ],
)
def test_an_absolute_path_tells_its_data_set(paths: list[str], found: str | None) -> None:
    known = nodes(db="/srv/db", web="/srv/web", inner="/srv/db/inner")
    assert data_set_of(known, paths) == found


def test_paths_of_several_data_sets_are_refused() -> None:
    with pytest.raises(RejectedError, match="several data sets: db, web") as caught:
        data_set_of(nodes(db="/srv/db", web="/srv/web"), ["/srv/db/x", "/srv/web/x"])
    assert caught.value.code is Code.BAD_REQUEST


def test_a_place_that_two_data_sets_share_tells_nothing() -> None:
    assert data_set_of(nodes(db="/srv", web="/srv"), ["/srv/x"]) is None


def printed(parts: list[object]) -> str:
    out = console()
    with out.capture() as captured:
        for part in parts:
            out.print(part)
    return captured.get()


def test_a_receipt_reads_as_it_counts() -> None:
    receipt = m.Receipt(
        job="restore-1",
        kind=m.JobKind.RESTORE,
        data_set="db",
        files=[m.RestoredFile(path="a", kind="file", size_bytes=5000)],
        file_count=2000,
        unchanged_count=7,
        to="restored",
        conflict=m.Conflict.KEEP_BOTH,
        conflicts=[
            m.ConflictInfo(path="a", changed="size", action="keep", kept_as="a.before-restore-1")
        ],
        conflict_count=3,
        verified=True,
        step_s={"copy": 1.25},
        started_at=1.0,
        finished_at=2.0,
    )
    text = printed(list(receipt_parts(receipt)))
    for words in (
        "2000",
        "and 1999 more",
        "and 2 more",
        "a.before-restore-1",
        "--conflict keep-both",
        "copy 1.2 s",
        "1970-01-01 00:00:01 UTC",
        "restored",
    ):
        assert words in text, words


@pytest.mark.parametrize("unknown", ["", "host 1 is away"])
def test_a_plan_says_what_its_starting_point_means(unknown: str) -> None:
    plan = m.RestorePlan(
        data_set="db",
        files=[],
        missing=["gone"],
        bytes_to_copy=1,
        direction=m.Direction.REVERSE,
        rule="because",
        starting_point="in_sync",
        meaning="what it means",
        overwritten_bytes=0,
        union_bytes=0,
        conflict_count=4,
        conflicts_unknown=unknown,
        eta_s=1,
        steps=["plan"],
    )
    text = printed(list(plan_parts(plan)))
    assert "in sync" in text
    assert "what it means" in text
    assert ("unknown: host 1 is away" if unknown else "4 (--conflict keep-both)") in text
