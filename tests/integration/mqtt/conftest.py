"""The broker fixtures for this folder."""

from __future__ import annotations

from tests.brokers import broker, stopped_broker

__all__ = ["broker", "stopped_broker"]
