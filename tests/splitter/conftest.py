"""Makes the backend's package importable, as Triton does: by its folder."""

from __future__ import annotations

import sys
from pathlib import Path

BACKEND = Path(__file__).resolve().parents[2] / "python_backend" / "splitter"

if str(BACKEND) not in sys.path:
    sys.path.insert(0, str(BACKEND))
