"""The contract of first volumes on host 1: frozen for a moment, released and taken back.

Owns the shape only.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from controller.api.base import Info, Name, Params


class FsFreeze(Params):
    """Freeze the data set's file system on host 1; it thaws by itself after `ttl_s`."""

    data_set: Name
    ttl_s: Annotated[float, Field(gt=0, le=60)] = 10.0


class FsRelease(Params):
    """Unmount and detach the first volume on host 1 for the sake of a restore job."""

    data_set: Name
    job: Name
    force: bool = False
    """Lazy-free force: kill nothing, but unmount even when a process holds the file system."""


class FsReclaim(Params):
    """Attach and mount the first volume again after a job."""

    data_set: Name
    job: Name


class HostFs(Info):
    """What host 1 has of a data set."""

    data_set: Name
    mounted: bool
    frozen: bool
    released_for: str = ""
    """Id of the job it was released for."""
    mountpoint: str
    elapsed_s: float = 0.0
