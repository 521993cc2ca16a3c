"""The engine's speed: what is measured by ``python -m bench.engine``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ROOT / "python_backend"
# The engine is found as Triton finds it, by its folder; the training code makes the checkpoint's files.
sys.path[:0] = [str(BACKENDS / "qwen3_vl_reranker"), str(ROOT / "tools" / "make_checkpoints")]
