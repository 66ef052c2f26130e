"""The contract of `pair.takeover` and `pair.swap`: which controller serves the hosts.

Owns the shape only.
"""

from __future__ import annotations

from controller.api.base import Name, Params


class PairTakeover(Params):
    """Let hosts write to the S-VOL, because the P-VOL is lost. Asked of the S-VOL's controller."""

    name: Name


class PairSwap(Params):
    """Exchange the roles of a remote pair. Where they are as asked it is a no-op."""

    name: Name
    to: Name
    """The controller whose volume is the P-VOL afterwards."""
    force: bool = False
    """Although an initiator is logged in to the P-VOL: its writes are refused from then on. Or,
    where a swap was cut off and the old P-VOL is to go on alone: although the other side may have
    taken the role."""
