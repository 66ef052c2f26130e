"""How a bug is planted: it replaces a method of the controller from outside, for a while.

Owns `Mutant`. Nothing of a mutant is in production code. One that no longer fits the code fails
to be planted with AttributeError, which a test asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

Patch = tuple[Any, str, Any]
"""What is replaced: an object, the name of its attribute, and the bug."""


@dataclass(frozen=True)
class Mutant:
    """A planted bug and the law it breaks."""

    name: str
    law: str
    patches: Callable[[], list[Patch]]
    slow: int = 0
    """Seeds a hunt took when it took many: the slow ones are hunted first."""

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The bug is there for as long as the block runs."""
        changed = [mock.patch.object(*patch) for patch in self.patches()]
        for patch in changed:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(changed):
                patch.stop()
