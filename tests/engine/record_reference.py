"""Records the official implementation's scores, which the parity tests hold the engine to.

    python tests/engine/record_reference.py OFFICIAL_FILE

OFFICIAL_FILE is ``src/models/qwen3_vl_reranker.py`` of a checkout of QwenLM/Qwen3-VL-Embedding (Apache 2.0; it is not
part of this repository). Its needs are not the engine's: run this in an environment of its own with ``qwen-vl-utils``,
``scipy`` and ``torchvision`` beside torch and transformers.

On transformers 5 the official class needs two repairs, made here on the loaded object: the model wants
``mm_token_type_ids`` (image 1, video 2), and a video's outer vision tokens, which transformers 4.57 replaced, have to
go from the chat template. With both its scores equal those of the unmodified class on 4.57 to 5e-7.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "demo" / "train")]

import torch  # noqa: E402
from digest import weights_digest  # noqa: E402
from PIL import Image  # noqa: E402
from reference_cases import make_cases  # noqa: E402

OUT = HERE / "data" / "reference.json"
OUTER_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def declare_torchvision_operators() -> None:
    """Let torchvision be imported beside a CPU build of torch, where its compiled operators do not load."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_keep"] = library  # the declarations last as long as the library object does


def load_official(file: Path, checkpoint: Path) -> Any:
    """The official class on ``checkpoint`` in fp32, repaired."""
    spec = importlib.util.spec_from_file_location("official_reranker", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Repaired(module.Qwen3VLReranker):  # type: ignore[misc, name-defined]
        def compute_scores(self, inputs: dict[str, Any]) -> list[float]:
            ids = inputs["input_ids"]
            config = self.model.config
            types = torch.zeros_like(ids)
            types[ids == config.image_token_id] = 1
            types[ids == config.video_token_id] = 2
            inputs["mm_token_type_ids"] = types
            # The model keeps the last multimodal prompt's offset and would add it to a plain text after it.
            self.model.rope_deltas = None
            return super().compute_scores(inputs)

    official = Repaired(str(checkpoint), dtype=torch.float32)
    template = official.processor.chat_template
    assert OUTER_VIDEO in template
    official.processor.chat_template = template.replace(OUTER_VIDEO, "<|video_pad|>")
    return official


def pictures(value: Any) -> Any:
    """Data URIs, however deep in lists, to images."""
    if isinstance(value, list):
        return [pictures(one) for one in value]
    image = Image.open(io.BytesIO(b64decode(value.partition(",")[2])))
    image.load()
    return image


def official_input(content: dict[str, Any]) -> dict[str, Any]:
    return {key: value if key == "text" else pictures(value) for key, value in content.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path)
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "demo" / "checkpoints")
    parser.add_argument("--names", nargs="+", default=["base", "retrained"])
    options = parser.parse_args()
    declare_torchvision_operators()
    cases = make_cases()
    recorded: dict[str, Any] = {"cases": cases, "checkpoints": {}}
    for name in options.names:
        folder = options.checkpoints / name
        official = load_official(options.official, folder)
        scores = {}
        for case in cases:
            inputs = {
                "query": official_input(case["query"]),
                "documents": [official_input(document) for document in case["documents"]],
            }
            if "instruction" in case:
                inputs["instruction"] = case["instruction"]
            scores[case["id"]] = official.process(inputs)
            print(name, case["id"], [round(score, 4) for score in scores[case["id"]]])  # noqa: T201
        recorded["checkpoints"][name] = {"weights": weights_digest(folder), "scores": scores}
    OUT.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
