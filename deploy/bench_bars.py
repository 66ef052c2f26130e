"""What a measurement may be at most, as docs/numbers.md promises it.

Owns the table, and what it says of a result. Must not measure or print anything. Where nothing is
promised there is no bar.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast


@dataclass(frozen=True)
class Bar:
    """One promise: a value of a line, in every line whose name holds `line`."""

    what: str
    """The measurement, as `deploy/bench` names it."""
    line: str
    value: str
    """The value's name in its line; empty where the line is one value."""
    at_most: float
    goal: str
    """As docs/numbers.md has it."""

    def is_for(self, what: str, line: str, value: str) -> bool:
        """Whether it is about this value."""
        return what == self.what and self.line in line and value == self.value


BARS = (
    Bar("restore", "one file", "wire / union", 1.05, "≤ 1.05"),
    Bar("restore", "one file", "union - file, MiB", 16.0, "≤ 16 MiB"),
    Bar("restore", "growth to 1 TiB", "seconds", 2.0, "≤ 2 s"),
    Bar("restore", "whole volume", "wire / union", 1.02, "≤ 1.02"),
    Bar("group", "longest write at a split, ms", "", 200.0, "≤ 200 ms"),
)


def bar_of(what: str, line: str, value: str = "") -> float | None:
    """What a value may be at most; None where nothing is promised."""
    return next((bar.at_most for bar in BARS if bar.is_for(what, line, value)), None)


def values_of(found: Mapping[str, object]) -> Iterator[tuple[str, str, float]]:
    """Every value of a result: its line, its name there, and what it is."""
    for line, value in found.items():
        named = cast("Mapping[str, float]", value if isinstance(value, dict) else {"": value})
        yield from ((line, name, number) for name, number in named.items())


def missed(what: str, found: Mapping[str, object]) -> list[str]:
    """A sentence for each value that is more than it may be, or that no longer is there."""
    sentences = []
    for line, value, number in values_of(found):
        bar = bar_of(what, line, value)
        # Not "more than": what is no number is no pass.
        if bar is not None and not number <= bar:
            name = f"{line}: {value}" if value else line
            sentences.append(f"{name} is {number:.4g}, and may be {bar:g} at most")
    return sentences + [
        f"nothing was measured for '{bar.line}', which may be {bar.at_most:g} at most"
        for bar in BARS
        if bar.what == what and not any(bar.is_for(what, *each[:2]) for each in values_of(found))
    ]
