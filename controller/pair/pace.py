"""How fast a resync goes: the rate cap, and the measured rate for progress and ETA.

Owns the two small calculations. Pure: time comes in as seconds of a monotonic clock.
"""

from __future__ import annotations

ROUNDING_S = 1e-6


class RateCap:
    """A token bucket. None means no cap."""

    def __init__(self, rate_bytes_per_s: int | None, now_s: float, burst_s: float = 0.1) -> None:
        self._rate = rate_bytes_per_s
        self._burst_s = burst_s
        self._level_bytes = 0.0
        self._at_s = now_s

    def delay_s(self, now_s: float) -> float:
        """How long to wait before the next piece; 0 when it may go now."""
        if self._rate is None:
            return 0.0
        self._level_bytes = max(0.0, self._level_bytes - (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        over_s = self._level_bytes / self._rate - self._burst_s
        # What is left by rounding is no reason to wait: a clock may not see it pass.
        return over_s if over_s > ROUNDING_S else 0.0

    def spent(self, piece_bytes: int) -> None:
        """Count a piece that was sent."""
        self._level_bytes += piece_bytes


class Meter:
    """An exponentially weighted rate, half forgotten after `half_life_s`."""

    def __init__(self, now_s: float, half_life_s: float = 2.0) -> None:
        self._half_life_s = half_life_s
        self._rate = 0.0
        self._pending_bytes = 0
        self._at_s = now_s
        self._started = False

    def add(self, count_bytes: int, now_s: float) -> None:
        """Bytes that were done by now."""
        self._pending_bytes += count_bytes
        elapsed_s = now_s - self._at_s
        if elapsed_s < 0.1:
            return
        sample = self._pending_bytes / elapsed_s
        weight = 1.0 if not self._started else 1 - 0.5 ** (elapsed_s / self._half_life_s)
        self._rate += (sample - self._rate) * weight
        self._started = True
        self._pending_bytes = 0
        self._at_s = now_s

    @property
    def rate_bytes_per_s(self) -> float:
        """The rate; 0 while nothing is known."""
        return self._rate

    def eta_s(self, left_bytes: int) -> float | None:
        """Seconds until `left_bytes` are done; None while no rate is known."""
        if left_bytes == 0:
            return 0.0
        return left_bytes / self._rate if self._rate > 0 else None
