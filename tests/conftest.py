"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A shared machine may stand still for a moment: no test fails because it was slow.
settings.register_profile("baton", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("baton")
