"""A volume and what belongs to it.

Owns what it may not be used for just now. Must not change a file. Refuses with RejectedError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from controller.api.codes import Code
from controller.api.errors import RejectedError
from controller.catalogue import VolumeRecord
from controller.volume.intent import IntentRecord
from controller.volume.metadata import Metadata
from controller.volume.volume import Volume


@dataclass(slots=True)
class Shelved:
    """A volume and what belongs to it."""

    record: VolumeRecord
    volume: Volume
    iqn: str
    metadata: Metadata | None
    """A view has none."""
    view_of: str | None = None
    claims: int = 0
    """Pairs that are being made of it and don't track it yet."""
    busy: str = ""
    """What is done to it, such as "being deleted": nothing may begin to use it meanwhile."""

    def check_not_busy(self) -> None:
        """RejectedError while something is done to it."""
        if self.busy:
            raise RejectedError(
                Code.IN_USE, f"volume '{self.record.name}' is {self.busy}", "try again afterwards"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """While a pair is made of it: it neither goes nor grows."""
        self.claims += 1
        try:
            yield
        finally:
            self.claims -= 1

    @property
    def hot_at_start(self) -> IntentRecord | None:
        """What the log said when it was opened: None means that nothing it says can be trusted."""
        return None if self.metadata is None else self.metadata.hot

    def check_no_copies(self) -> None:
        """RejectedError while a pair or a view needs it as it is."""
        self.check_not_busy()
        name = self.record.name
        if self.volume.trackers or self.claims:
            raise RejectedError(
                Code.IN_USE,
                f"volume '{name}' belongs to a pair",
                "delete the pair first: trilun pair list names it, then trilun pair delete NAME",
            )
        if self.volume.views:
            raise RejectedError(Code.IN_USE, f"a view of '{name}' is open", "close it first")


def taken(code: Code, what: str, pair: str) -> RejectedError:
    """A pair is in the way."""
    return RejectedError(code, what, f"delete that first: trilun pair delete {pair}")
