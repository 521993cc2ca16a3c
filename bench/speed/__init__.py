"""The engine's speed: what is measured by ``python -m bench.engine``."""

import sys

from harness.places import BACKENDS, ENGINE, ROOT

# The engine is found as Triton finds it, by its folder; the training code makes the checkpoint's files.
sys.path[:0] = [str(BACKENDS / ENGINE), str(ROOT / "tools" / "make_checkpoints")]
