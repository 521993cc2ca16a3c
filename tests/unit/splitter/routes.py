"""Routes as the control plane sends them. Apart from the rig, so that tests without Triton import no client."""

from __future__ import annotations

from typing import Any


def route_of(**route: Any) -> dict[str, Any]:
    """A route to version 2 that compares scores; ``route`` replaces keys."""
    usual = {
        "candidate": 2,
        "weight": 0,
        "shadow": 0,
        "lease_s": 600,
        "salt": "7",
        "deadline_s": 60,
        "compare": "scores",
        "kinds": ["query", "documents"],
        "contents": False,
    }
    return usual | route
