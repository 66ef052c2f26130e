"""Sizes: exact or refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.service.sizes import exact_size, format_size, parse_size

pytestmark = pytest.mark.plain


@given(st.integers(min_value=0, max_value=1 << 60))
def test_exact_sizes_read_back(size_bytes: int) -> None:
    assert parse_size(exact_size(size_bytes)) == size_bytes


@given(st.integers(min_value=0, max_value=1 << 20), st.sampled_from("KMGT"))
def test_short_and_long_units_are_the_same(count: int, unit: str) -> None:
    assert parse_size(f"{count}{unit}") == parse_size(f" {count} {unit}iB ")


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1GiB", 1 << 30), ("1.5GiB", 3 << 29), ("4096", 4096), ("0.5K", 512), ("7B", 7)],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1GB", "ambiguous"),
        ("1.5kB", "ambiguous"),
        ("", "is not a size"),
        ("-1", "is not a size"),
        ("1e9", "is not a size"),
        ("1gib", "is not a size"),
        ("0.3", "not a whole number of bytes"),
        ("1.0001K", "not a whole number of bytes"),
        ("9" * 30, "is not a size"),
        ("٣", "is not a size"),
    ],
)
def test_what_is_not_a_size_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_size(text)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    try:
        size_bytes = parse_size(text)
    except ValueError:
        return
    assert size_bytes >= 0


@given(st.integers(min_value=0, max_value=1 << 60))
def test_sizes_for_people_are_short_and_near(size_bytes: int) -> None:
    text = format_size(size_bytes)
    match = re.fullmatch(r"([\d.]+) ([KMGTP]iB|B)", text)
    assert match is not None
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB", "PiB"].index(match[2])
    assert abs(float(match[1]) * scale - size_bytes) <= 0.051 * scale
