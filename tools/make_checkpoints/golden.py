"""Makes ``demo/golden/golden.jsonl``: labelled rerank requests that the rollout's ``output`` gate scores.

    .venv/bin/python tools/make_checkpoints/golden.py

One case a line: ``{"id", "kind", "query", "documents", "relevance", "instruction"?}``, self-contained: pictures are
data URIs, videos lists of them. A quarter of the cases ask for combinations that training never saw.
"""

from __future__ import annotations

import argparse
import io
import json
import random
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapes import COMBINATIONS, HELD_OUT, SEEN, Thing, choose_documents, tell

if TYPE_CHECKING:
    from PIL import Image

OUT = Path(__file__).resolve().parents[2] / "demo" / "golden" / "golden.jsonl"
SEED = 424242
INSTRUCTION = "Retrieve the document that shows the same shape in the same colour."
# kind: (number of cases, kinds of the query, kinds of the documents)
KINDS = {
    "text": (14, ("text",), ("text",)),
    "image": (14, ("text", "image"), ("image",)),
    "video": (8, ("text", "image"), ("video",)),
    "mixed": (12, ("text", "image", "video"), ("text", "image", "video")),
}
DOCUMENTS, VIDEO_DOCUMENTS = (10, 12), (6, 6)
VIDEO_IN_MIXED = 2
"""Few videos: each costs as much as twenty texts, and every rollout scores the whole set twice."""


def make_golden(seed: int = SEED) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    cases = []
    for kind, (count, query_kinds, document_kinds) in KINDS.items():
        for number in range(count):
            wanted = rng.choice(HELD_OUT if number % 4 == 3 else SEEN)
            total = rng.randint(*(VIDEO_DOCUMENTS if kind == "video" else DOCUMENTS))
            chosen = choose_documents(rng, wanted, COMBINATIONS, rng.choice((2, 3)), total)
            query = tell(rng, wanted, query_kinds[number % len(query_kinds)])
            documents = []
            videos = 0
            for combination in chosen:
                told = rng.choice(document_kinds)
                if kind == "mixed" and told == "video":
                    videos += 1
                    told = told if videos <= VIDEO_IN_MIXED else "image"
                documents.append(tell(rng, combination, told))
            cases.append(
                {
                    "id": f"{kind}-{number:02d}",
                    "kind": kind,
                    "query": _content(query),
                    "documents": [_content(document) for document in documents],
                    "relevance": [int(combination == wanted) for combination in chosen],
                    **({"instruction": INSTRUCTION} if number % 7 == 6 else {}),
                }
            )
    return cases


def _content(thing: Thing) -> dict[str, Any]:
    if thing.kind == "text":
        return {"text": thing.text}
    frames = [_uri(frame) for frame in thing.frames]
    return {"image": frames[0]} if thing.kind == "image" else {"video": frames}


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text("".join(json.dumps(case) + "\n" for case in make_golden()), encoding="utf-8")
    print(f"{options.out}: {options.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
