"""Requests about one volume: make it, grow it, say which hosts may log in, delete it.

Owns their shape and limits. Must import pydantic and the standard library only.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from controller.api.base import Name, Params

BLOCK_BYTES = 4096
MAX_VOLUME_BYTES = 64 << 40
MAX_INITIATORS = 32
MAX_INITIATOR_CHARS = 223

VolumeBytes = Annotated[int, Field(ge=BLOCK_BYTES, le=MAX_VOLUME_BYTES, multiple_of=BLOCK_BYTES)]
InitiatorName = Annotated[str, Field(min_length=1, max_length=MAX_INITIATOR_CHARS)]
Initiators = Annotated[list[InitiatorName], Field(max_length=MAX_INITIATORS)]
"""iSCSI names of those that may log in to a volume; none: every initiator may."""


class VolumeCreate(Params):
    """Make a volume: sparse, zero, exported."""

    name: Name
    size_bytes: VolumeBytes
    initiators: Initiators = []


class VolumeGrow(Params):
    """Make a volume larger, under its hosts. Refused while a pair or a view uses it."""

    name: Name
    size_bytes: VolumeBytes


class VolumeAllow(Params):
    """Say which initiators may log in to a volume. Refused where that ends a session."""

    name: Name
    initiators: Initiators = []
    force: bool = False
    """End the sessions that are in the way."""


class VolumeDelete(Params):
    """Delete a volume and its data. Refused while a pair, a view or an initiator uses it."""

    name: Name
