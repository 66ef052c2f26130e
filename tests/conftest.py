"""What all tests share: generated input is judged by its outcome, never by the time it took."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "trilun", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("trilun")
