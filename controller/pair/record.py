"""What a side of a pair remembers across restarts.

Owns the shape of the catalogue's entry for one side. Must hold no live state. A local pair has
two entries of the same name, one a role.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from controller.api.messages import Direction, Fence, Mode, Name, PairKind, PairState, Role
from controller.pair.generations import HISTORY, Side

Goal = Literal["mirror", "reverse", "split"]
OPEN_TO_HOSTS = frozenset((PairState.SSUS, PairState.SSWS))
"""Where hosts may write to an S-VOL, if that was asked for."""


class PairRecord(BaseModel):
    """One side of one pair."""

    model_config = ConfigDict(extra="forbid", validate_assignment=False)

    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    name: Name
    kind: PairKind
    role: Role
    volume: Name
    """This side's volume."""
    other_volume: Name
    peer: Name | None
    mode: Mode
    fence: Fence
    rate_limit_bytes_per_s: int | None
    state: PairState
    goal: Goal
    """What the operator last asked for; what the pair returns to by itself after a cut."""
    halted: bool = False
    """An error of a store: an operator has to look before the pair goes on."""
    guarded: bool = False
    """Split to keep one consistent copy (law L7); resumes when the source is in sync again."""
    reason: str = ""
    next_step: str = ""
    behind: bool = False
    """P-VOL: a quick split is being copied behind; the S-VOL is no point in time before its end."""
    writable: bool = False
    """S-VOL: hosts may write to it while split."""
    settled: bool = True
    """S-VOL: what it held at the split has been flushed. Until then a crash would leave no point
    in time, and hosts may not write."""
    label: str = ""
    split_at: float = 0.0
    """P-VOL: when it was split, as the command said; for people."""
    backup_number: int = 0
    """P-VOL: the number of the backup that the S-VOL holds; 0 when it is none."""
    instant: str = ""
    """P-VOL: what all pairs that were split for one backup of several data sets share. While the
    pair is guarded as well, nobody has said yet that all of them were split."""
    closed: Literal["", "taken over", "swapping"] = ""
    """P-VOL: why its hosts may not write, beside what the state says."""
    copies_back: int = 0
    """P-VOL: how often a copy back into its volume was begun."""
    swaps: int = 0
    """How often the roles were exchanged."""
    half: Literal["", "p", "s"] = ""
    """Which of the pair's two bitmap files is this side's, once its role doesn't tell."""
    current: str
    baseline: str
    history: list[str] = []

    def side(self, *, consistent: bool) -> Side:
        """This side as the direction rules see it."""
        return Side(self.current, self.baseline, tuple(self.history), consistent)

    def begin_generation(self, generation: str) -> None:
        """The first write since the sides parted."""
        self.history = [self.current, *self.history][:HISTORY]
        self.current = generation

    def agree(self, current: str) -> None:
        """Both sides are equal: they share a generation again."""
        if current != self.current:
            self.history = [self.current, *self.history][:HISTORY]
        self.current = current
        self.baseline = current

    @property
    def bitmap_name(self) -> str:
        """The file of this side's bitmap."""
        half = self.half or ("p" if self.role is Role.P_VOL else "s")
        return f"{self.id}.{half}.bitmap"

    @property
    def copying(self) -> Direction | None:
        """Which way a copy runs in this state."""
        if self.state is PairState.COPY:
            return Direction.FORWARD
        return Direction.REVERSE if self.state is PairState.RCPY else None
