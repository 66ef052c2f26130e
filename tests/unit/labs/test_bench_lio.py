"""What `deploy/bench lio` compares with what."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import bench_lio
from deploy.labs.problem import LabError

pytestmark = pytest.mark.plain


def test_without_tcmu_runner_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_lio, "LIBRARIES", tmp_path)
    with pytest.raises(LabError, match="tcmu-runner with its qcow handler is not") as raised:
        bench_lio.measure_lio(tmp_path)
    assert raised.value.next_step == "deploy/setup tools bench"


def test_each_of_ours_is_compared_with_each_of_theirs_in_the_same_round() -> None:
    rounds = {
        "trilund": [10.0, 20.0, 40.0],
        "file": [20.0, 40.0, 80.0],
        "fileio": [10.0, 10.0, 10.0],
        "tcmu-runner": [5.0, 20.0, 20.0],
    }
    (row,) = bench_lio.ratios({"a case": rounds}).values()
    assert row == {
        "trilund": 20.0,
        "file": 40.0,
        "fileio": 10.0,
        "tcmu-runner": 20.0,
        "trilund/fileio": 2.0,
        "file/fileio": 4.0,
        "trilund/tcmu-runner": 2.0,
        "file/tcmu-runner": 4.0,
    }
