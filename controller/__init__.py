"""The storage subsystem: volumes, pairs, the link between controllers, and their control."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("trilun")
except metadata.PackageNotFoundError:
    __version__ = "0+source"
