"""Where things lie in the checkout."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STATE = ROOT / ".baton"
"""The state directory of `make up`. What the demo and the benches make is kept in it as well."""
BACKENDS = ROOT / "python_backend"
MODELS = ROOT / "model_repository"
ENGINE = "qwen3_vl_reranker"
CHECKPOINTS = ROOT / "demo" / "checkpoints"
GOLDEN = ROOT / "demo" / "golden" / "golden.jsonl"
