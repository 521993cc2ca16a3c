"""Records the official implementation's logits, which the parity tests hold the engine to.

    python tests/unit/engine/record_reference.py OFFICIAL_FILE

OFFICIAL_FILE is ``src/models/qwen3_vl_reranker.py`` of a checkout of QwenLM/Qwen3-VL-Embedding (Apache 2.0; it is not
part of this repository). Its needs are not the engine's: run this in an environment of its own with ``qwen-vl-utils``,
``decord``, ``scipy`` and ``torchvision`` beside torch, transformers, Pillow and PyAV. Decord is the reader of encoded
videos that qwen-vl-utils takes by itself; the one of torchvision has left torchvision.

On transformers 5 the official class needs two repairs, made here on the loaded object: the model wants
``mm_token_type_ids`` (image 1, video 2), and a video's outer vision tokens, which transformers 4.57 replaced, have to
go from the chat template. With both its scores equal those of the unmodified class on 4.57 to 5e-7.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import logging
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "make_checkpoints")]

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from tests.unit.engine.digest import weights_digest  # noqa: E402
from tests.unit.engine.reference_cases import make_cases  # noqa: E402
from tests.unit.engine.reference_cases_media import Case, is_video  # noqa: E402

OUT = HERE / "data" / "reference.json"
OUTER_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
PACKAGES = ("torch", "torchvision", "transformers", "qwen-vl-utils", "decord", "pillow", "av")


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

    class Refuse(logging.Handler):
        """The official class answers what it cannot decode with the score of another prompt, and a line in the log."""

        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError(record.getMessage())

    module.logger.addHandler(Refuse(logging.ERROR))

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


class Recorder:
    """Gives cases to the official class and keeps what it answers."""

    def __init__(self, file: Path, checkpoint: Path) -> None:
        self.official = load_official(file, checkpoint)
        self._logits: list[float] = []
        self._read: dict[str, Any] = {}
        self.official.score_linear.register_forward_hook(lambda *seen: self._logits.extend(seen[2].flatten().tolist()))
        self._watch_videos()

    def _watch_videos(self) -> None:
        """Keep which frames of encoded videos are looked at, and the frame rate that their times come from."""
        from qwen_vl_utils import vision_process

        read = vision_process.VIDEO_READER_BACKENDS["decord"]

        def watched(element: dict[str, Any]) -> Any:
            frames, metadata, fps = read(element)
            index = Path(element["video"]).stem
            self._read[index] = {"frames": metadata["frames_indices"], "fps": round(metadata["fps"], 6)}
            return frames, metadata, fps

        vision_process.VIDEO_READER_BACKENDS = {"decord": watched}

    def record(self, case: Case) -> dict[str, Any]:
        """``{"logits": [one a document]}``, and ``"videos"``, by their place in the media, where some are encoded."""
        self._logits.clear()
        self._read.clear()
        with tempfile.TemporaryDirectory() as folder:
            inputs: dict[str, Any] = {
                "query": official_input(case.query, case, Path(folder)),
                "documents": [official_input(document, case, Path(folder)) for document in case.documents],
                **case.options,
            }
            if case.instruction is not None:
                inputs["instruction"] = case.instruction
            scores = self.official.process(inputs)
        # What is recorded is what the scores were made of: the logit tells differences that a score near 1 hides.
        assert torch.equal(torch.tensor(scores), torch.tensor(self._logits).sigmoid())
        found: dict[str, Any] = {"logits": [float(f"{logit:.8g}") for logit in self._logits]}
        if self._read:
            found["videos"] = dict(self._read)
        return found


def official_input(content: dict[str, Any], case: Case, folder: Path) -> dict[str, Any]:
    """The same content as the official class takes it: images decoded, encoded videos as files."""

    def media(value: Any) -> Any:
        if isinstance(value, list):
            return [media(one) for one in value]
        data = case.media[value["media"]]
        if is_video(data):
            path = folder / f"{value['media']}.video"
            path.write_bytes(data)
            return str(path)
        image = Image.open(io.BytesIO(data))
        image.load()
        return image

    return {key: value if key == "text" else media(value) for key, value in content.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("official", type=Path)
    parser.add_argument("--checkpoints", type=Path, default=ROOT / "demo" / "checkpoints")
    parser.add_argument("--names", nargs="+", default=["base", "retrained"])
    options = parser.parse_args()
    declare_torchvision_operators()
    cases = make_cases()
    recorded: dict[str, Any] = {
        "made with": {package: importlib.metadata.version(package) for package in PACKAGES},
        "digests": {case.id: case.digest() for case in cases},
        "videos": {},
        "checkpoints": {},
    }
    for name in options.names:
        folder = options.checkpoints / name
        recorder = Recorder(options.official, folder)
        logits = {}
        for case in cases:
            found = recorder.record(case)
            logits[case.id] = found["logits"]
            if "videos" in found:
                recorded["videos"][case.id] = found["videos"]
            print(name, case.id, found["logits"], flush=True)  # noqa: T201
        recorded["checkpoints"][name] = {"weights": weights_digest(folder), "logits": logits}
    OUT.write_text(compact(recorded), encoding="utf-8")


def compact(recorded: dict[str, Any]) -> str:
    """JSON with a line a case."""
    text = json.dumps(recorded, indent=1)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text) + "\n"


if __name__ == "__main__":
    main()
