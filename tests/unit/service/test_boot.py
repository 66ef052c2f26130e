"""A controller knows the boot of its machine, in its sandbox and outside of one."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.service.boot import VARIABLE, boot_id

UNIT = Path(__file__).resolve().parents[3] / "systemd/trilund@.service"
PLAIN = "0123456789abcdef0123456789abcdef"
WITH_DASHES = "01234567-89ab-cdef-0123-456789abcdef\n"


def test_the_units_word_and_the_kernels_are_the_same(tmp_path: Path) -> None:
    kernel = tmp_path / "boot_id"
    kernel.write_text(WITH_DASHES)
    assert boot_id({}, kernel) == boot_id({VARIABLE: PLAIN}, tmp_path / "hidden") == PLAIN


def test_who_cannot_tell_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="hidden"):
        boot_id({VARIABLE: ""}, tmp_path / "hidden")


def test_the_kernel_tells_here() -> None:
    assert len(bytes.fromhex(boot_id({}))) == 16


def test_the_unit_hides_the_kernels_file_and_tells_instead() -> None:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    assert "ProcSubset=pid" in lines
    assert f"Environment={VARIABLE}=%b" in lines
