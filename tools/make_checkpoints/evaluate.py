"""Prints NDCG@10 on the golden set, by kind, for one or several checkpoints, scored in this process.

.venv/bin/python tools/make_checkpoints/evaluate.py [FOLDER ...]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_backend" / "qwen3_vl_reranker"))

import torch  # noqa: E402

from reranker_engine.inference.scorer import Scorer, ScorerSettings  # noqa: E402
from reranker_engine.service.allocator import keep_freed_memory  # noqa: E402
from reranker_engine.service.settings import default_threads  # noqa: E402

GOLDEN = ROOT / "demo" / "golden" / "golden.jsonl"
CHECKPOINTS = [ROOT / "demo" / "checkpoints" / name for name in ("base", "retrained")]
CUT = 10


def ndcg(scores: Sequence[float], relevance: Sequence[int], cut: int = CUT) -> float:
    """Normalised discounted cumulative gain with gains 2^relevance - 1 (Burges et al. 2005)."""

    def gain(labels: Sequence[int]) -> float:
        return sum((2**label - 1) / math.log2(place + 2) for place, label in enumerate(labels[:cut]))

    ranked = [label for _, label in sorted(zip(scores, relevance, strict=True), key=lambda pair: -pair[0])]
    best = gain(sorted(relevance, reverse=True))
    return gain(ranked) / best if best else 0.0


def read_golden(path: Path = GOLDEN) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def evaluate(folder: Path, cases: list[dict[str, Any]]) -> dict[str, float]:
    """Mean NDCG@10 of a checkpoint by kind, and over all cases under ``all``."""
    scorer = Scorer(folder, ScorerSettings())
    found = defaultdict(list)
    for case in cases:
        request = scorer.parse(
            json.dumps(case["query"]).encode(),
            [json.dumps(document).encode() for document in case["documents"]],
            case["instruction"].encode() if "instruction" in case else None,
        )
        scores = scorer.score([scorer.prepare(request)])[0]
        for kind in (case["kind"], "all"):
            found[kind].append(ndcg(scores.tolist(), case["relevance"]))
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="*", default=CHECKPOINTS)
    parser.add_argument("--golden", type=Path, default=GOLDEN)
    options = parser.parse_args()
    torch.set_num_threads(default_threads())
    keep_freed_memory()
    cases = read_golden(options.golden)
    kinds = ["all", "text", "image", "video", "mixed"]
    print(f"{'NDCG@10':<12}" + "".join(f"{kind:>8}" for kind in kinds) + f"{'seconds':>10}")
    for folder in options.folders:
        start = time.monotonic()
        found = evaluate(folder, cases)
        row = "".join(f"{found.get(kind, math.nan):8.3f}" for kind in kinds)
        print(f"{folder.name:<12}{row}{time.monotonic() - start:10.1f}", flush=True)


if __name__ == "__main__":
    main()
