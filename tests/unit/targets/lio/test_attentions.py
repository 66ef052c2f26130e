"""Unit attentions at all initiators: what is written, and when a size has grown."""

from __future__ import annotations

from pathlib import Path

import pytest

from targets.lio.attentions import grown, raise_at_all
from targets.lio.configfs import Kind, Operation

LUN = "iscsi/iqn.2026-11.io.trilun:n.v/tpgt_1/lun/lun_0"


@pytest.mark.parametrize(
    ("shown", "written"),
    [
        ("TG Port Alias: default_tg_pt_gp\nTG Port Group ID: 0\n", "default_tg_pt_gp"),
        ("TG Port Alias: mine\nTG Port Group ID: 5\n", "mine"),
        ("", "NULL"),
    ],
)
def test_a_lun_is_put_into_the_group_it_is_in(tmp_path: Path, shown: str, written: str) -> None:
    file = tmp_path / LUN / "alua_tg_pt_gp"
    file.parent.mkdir(parents=True)
    file.write_text(shown)
    raise_at_all(tmp_path, LUN)
    # configfs takes a write as a whole; a file keeps what was longer.
    assert file.read_text().startswith(written)


def test_a_lun_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        raise_at_all(tmp_path, LUN)


def test_what_has_grown_is_what_was_resized() -> None:
    steps = [
        Operation(Kind.WRITE, "core/user_747/trilun-n@1/attrib/dev_size", "8192"),
        Operation(Kind.WRITE, "core/user_747/trilun-n@2/attrib/dev_size", "8192"),
        Operation(Kind.WRITE, "core/user_747/trilun-n@3/attrib/cmd_time_out", "68"),
        Operation(Kind.WRITE, "core/user_747/trilun-n@4/control", "dev_size=8192"),
    ]
    assert grown(steps, {"core/user_747/trilun-n@2"}) == {"trilun-n@1"}
