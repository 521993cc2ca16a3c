"""Records what the official code's readers make of the accepted files of ``media_files.py``.

    python -m tests.unit.engine.record_media

Run it in an environment of its own, with ``qwen-vl-utils``, ``decord``, ``torchcodec`` (and FFmpeg's libraries for it)
and ``torchvision`` beside torch, Pillow and PyAV. qwen-vl-utils takes torchcodec where it is installed, else decord.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tests.unit.engine.media_files import IMAGES, VIDEOS, File
from tests.unit.engine.media_makers import seen

OUT = Path(__file__).parent / "data" / "media.json"
PACKAGES = ("torchcodec", "decord", "qwen-vl-utils", "pillow", "av")


def by_torchcodec(data: bytes) -> dict[str, Any]:
    from torchcodec.decoders import VideoDecoder

    video = VideoDecoder(data)
    count, rate = video.metadata.num_frames, video.metadata.average_fps
    assert count
    assert rate
    first, last = (frame.permute(1, 2, 0).numpy() for frame in video.get_frames_at([0, count - 1]).data)
    return {"frames": count, "fps": round(rate, 4), "first": seen(first), "last": seen(last)}


def by_decord(data: bytes) -> dict[str, Any]:
    import decord

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        video = decord.VideoReader(file.name)
        first, last = video.get_batch([0, len(video) - 1]).asnumpy()
        rate = round(video.get_avg_fps(), 4)
        return {"frames": len(video), "fps": rate, "first": seen(first), "last": seen(last)}


def read(file: File) -> dict[str, Any]:
    """By reader; ``{"error": ...}`` where one fails."""
    found = {}
    for name, reader in {"torchcodec": by_torchcodec, "decord": by_decord}.items():
        try:
            found[name] = reader(file.build())
        except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded
            found[name] = {"error": f"{type(error).__name__}"}
    return found


def main() -> None:
    library = torch.library.Library("torchvision", "DEF")  # see record_reference.py
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from qwen_vl_utils.vision_process import to_rgb

    recorded: dict[str, dict[str, Any]] = {
        "made with": {package: importlib.metadata.version(package) for package in PACKAGES},
        "videos": {file.name: read(file) for file in VIDEOS if file.error is None},
        "images": {
            file.name: seen(to_rgb(Image.open(io.BytesIO(file.build())))) for file in IMAGES if file.error is None
        },
    }
    lines = [
        f'"{kind}": {{\n' + ",\n".join(f" {json.dumps(key)}: {json.dumps(one)}" for key, one in entries.items()) + "\n}"
        for kind, entries in recorded.items()
    ]
    OUT.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
