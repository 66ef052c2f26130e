"""How far a piece of work is, how fast it goes and when it will be done.

Pure: time is an argument. Owns the rate (over the last seconds, so that it follows changes) and
the limit of how often progress is told. Never fails.
"""

from __future__ import annotations

from collections import deque

from controller.api.messages import Progress

WINDOW_S = 5.0
INTERVAL_S = 0.5
"""At most two a second are published."""
MAX_SAMPLES = 64


class Meter:
    """Measures one piece of work of `total_bytes`."""

    def __init__(self, total_bytes: int, now_s: float) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._samples: deque[tuple[float, int]] = deque([(now_s, 0)], maxlen=MAX_SAMPLES)
        self._told_s: float | None = None

    def set_done(self, done_bytes: int, now_s: float, left_bytes: int | None = None) -> None:
        """Note how far it is; `left_bytes` where the total isn't known beforehand."""
        self._done_bytes = done_bytes
        if left_bytes is not None:
            self._total_bytes = done_bytes + left_bytes
        if now_s - self._samples[-1][0] >= WINDOW_S / MAX_SAMPLES:
            self._samples.append((now_s, done_bytes))
        while len(self._samples) > 2 and now_s - self._samples[0][0] > WINDOW_S:
            self._samples.popleft()

    def add(self, length_bytes: int, now_s: float) -> None:
        """Note that more was done."""
        self.set_done(self._done_bytes + length_bytes, now_s)

    def due(self, now_s: float) -> bool:
        """Whether progress should be told now; when it says so, it is taken as told."""
        if self._told_s is not None and now_s - self._told_s < INTERVAL_S:
            return False
        self._told_s = now_s
        return True

    def progress(self, now_s: float) -> Progress:
        """Where the work stands."""
        started_s, then_bytes = self._samples[0]
        took_s = now_s - started_s
        rate = max(0.0, (self._done_bytes - then_bytes) / took_s) if took_s > 0 else 0.0
        left = max(0, self._total_bytes - self._done_bytes)
        eta_s = 0.0 if left == 0 else (left / rate if rate > 0 else None)
        return Progress(
            done_bytes=self._done_bytes, left_bytes=left, rate_bytes_per_s=rate, eta_s=eta_s
        )
