"""A process that loads one version, as the engine's process behind Triton does, in steps whose memory can be looked at.

For each line that it is given it takes a step and answers with a line of JSON: ``reading`` the checkpoint, then
``testing`` it. It stays until its input ends, so that what two of them share can be seen.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import bench.speed  # noqa: F401 - it puts the engine on the path


def main(folder: Path, weights: str) -> None:
    import torch

    from reranker_engine.inference.scorer import Scorer
    from reranker_engine.inference.selftest import self_test
    from reranker_engine.service.allocator import keep_freed_memory
    from reranker_engine.service.settings import read_settings

    parameters = {"weights": weights, "threads": "1"}
    config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
    settings = read_settings(config, "CPU", "0", gpus=0)
    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    before = figure("VmRSS")
    _say({"resident": before})
    sys.stdin.readline()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # The peak is that from here on.
    scorer = Scorer(folder, settings.scorer)
    size = sum(one.nbytes for one in scorer.model.parameters())
    _say({"peak": figure("VmHWM") - before, "weights": size, "mapped": scorer.mapped})
    sys.stdin.readline()
    self_test(scorer)
    _say({"peak": figure("VmHWM") - before})
    sys.stdin.readline()


def figure(name: str) -> int:
    """A figure of this process from /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status does not tell {name}; this needs Linux")


def _say(what: dict[str, float]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
