"""A measurement that misses what docs/numbers.md promises is a failure, and says where."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy import bench
from deploy.bench_bars import BARS, bar_of, missed

pytestmark = pytest.mark.plain

ROOT = Path(__file__).resolve().parents[3]
GOOD_FILE = {"wire / union": 1.05, "union - file, MiB": 16.0, "seconds": 90.0}
GOOD_RESTORE: dict[str, dict[str, float]] = {
    "ext4, one file, 10 GiB": GOOD_FILE,
    "xfs, one file, 1 TiB": GOOD_FILE,
    "ext4, growth to 1 TiB: copy": {"seconds": 2.0},
    "ext4, whole volume": {"wire / union": 1.02, "union, MiB": 64.0, "seconds": 9.0},
}
GOOD_GROUP = {"longest write in PAIR, ms": 900.0, "longest write at a split, ms": 200.0}


def test_what_is_at_its_bar_has_met_it() -> None:
    assert missed("restore", GOOD_RESTORE) == []
    assert missed("group", GOOD_GROUP) == []
    assert missed("share", {"share of one pair beside four": 9.0}) == []


@pytest.mark.parametrize("line", GOOD_RESTORE)
def test_each_line_of_a_restore_can_miss(line: str) -> None:
    for value, number in GOOD_RESTORE[line].items():
        found = GOOD_RESTORE | {line: GOOD_RESTORE[line] | {value: number * 1.01}}
        sentences = missed("restore", found)
        assert len(sentences) == (bar_of("restore", line, value) is not None)
        assert all(f"{line}: {value} is" in each for each in sentences)


def test_what_is_no_number_or_was_not_measured_is_missed() -> None:
    assert missed("group", GOOD_GROUP | {"longest write at a split, ms": float("nan")})
    assert "nothing was measured" in missed("group", {"writes": 7.0})[0]


def test_the_page_of_numbers_has_every_goal() -> None:
    page = (ROOT / "docs" / "numbers.md").read_text(encoding="utf-8")
    assert [bar.goal for bar in BARS if f"| {bar.goal}" not in page] == []


@pytest.mark.parametrize(("waited_ms", "code"), [(150.0, 0), (250.0, 1)])
def test_the_command_fails_and_names_the_line(
    waited_ms: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = GOOD_GROUP | {"longest write at a split, ms": waited_ms}
    monkeypatch.setitem(bench.MEASURES, "group", lambda _directory: found)
    monkeypatch.setattr(sys, "argv", ["bench", "group"])
    assert bench.main() == code
    shown = capsys.readouterr()
    (line,) = [each for each in shown.out.splitlines() if "at a split" in each]
    assert line.split()[-3:] == [f"{waited_ms:.2f}", "bar", "200"]
    assert ("bench group: longest write at a split, ms is 250" in shown.err) is bool(code)
