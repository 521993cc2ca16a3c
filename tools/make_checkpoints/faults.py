"""Makes checkpoints that a rollout has to judge: one harmless, four faulty, each from a good one.

    .venv/bin/python tools/make_checkpoints/faults.py KIND SOURCE TARGET

================  ==================================================================================================
``equivalent``    The same weights in another shard layout: every score is the same, and every file differs.
``constant``      The last norm's weights are zero, so every pair scores exactly 0.5: fast, finite, useless.
``slow``          Many more decoder layers that pass their input through unchanged: same scores, several times the time.
``nan``           One weight is not a number. All files are whole; the engine's self-test refuses it while loading.
``truncated``     One shard is cut short, as a broken copy leaves it.
================  ==================================================================================================

Needs numpy and safetensors only, so that making one takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Weights = dict[str, NDArray[Any]]

INDEX = "model.safetensors.index.json"
LAYER = "model.language_model.layers."
FINAL_NORM = "model.language_model.norm.weight"
SLOW_FACTOR = 8
"""How many times the decoder's depth ``slow`` has; its answers then take three to six times as long."""


def read_weights(folder: Path) -> Weights:
    """All tensors of a checkpoint, in the order of its index."""
    weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    shards = {shard: load_file(folder / shard) for shard in sorted(set(weight_map.values()))}
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def write_checkpoint(source: Path, target: Path, weights: Weights, *, shards: int) -> None:
    """Copy ``source``'s other files to ``target`` and write ``weights`` there in ``shards`` files with their index.

    Raises:
        FileExistsError: ``target`` is there already.
    """
    ignore = shutil.ignore_patterns("*.safetensors", INDEX)
    shutil.copytree(source, target, ignore=ignore, copy_function=shutil.copyfile)
    total = sum(array.nbytes for array in weights.values())
    groups: list[Weights] = [{} for _ in range(shards)]
    filled = 0
    for name, array in weights.items():
        groups[min(shards - 1, filled * shards // total)][name] = array
        filled += array.nbytes
    weight_map = {}
    for number, group in enumerate(groups, start=1):
        shard = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file(group, target / shard, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(group, shard))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    for path in target.iterdir():
        path.chmod(0o644)


def equivalent(source: Path, target: Path) -> None:
    """The same tensors, bit for bit, in three shards and in reverse order."""
    weights = read_weights(source)
    write_checkpoint(source, target, dict(reversed(weights.items())), shards=3)


def constant(source: Path, target: Path) -> None:
    """Zero weights in the last norm: the last hidden state is zero, and the sigmoid of zero is 0.5 for every pair."""
    weights = read_weights(source)
    weights[FINAL_NORM] = np.zeros_like(weights[FINAL_NORM])
    write_checkpoint(source, target, weights, shards=4)


def slow(source: Path, target: Path, factor: int = SLOW_FACTOR) -> None:
    """``factor`` times as many decoder layers.

    An added layer is a copy of the last one whose two output projections are zero: it computes everything and adds
    nothing, so that scores stay the same.
    """
    weights = read_weights(source)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    depth = config["text_config"]["num_hidden_layers"]
    last = {name: array for name, array in weights.items() if name.startswith(f"{LAYER}{depth - 1}.")}
    for index in range(depth, depth * factor):
        for name, array in last.items():
            silent = name.endswith(("o_proj.weight", "down_proj.weight"))
            weights[name.replace(f"{LAYER}{depth - 1}.", f"{LAYER}{index}.")] = (
                np.zeros_like(array) if silent else array
            )
    write_checkpoint(source, target, weights, shards=5)
    config["text_config"]["num_hidden_layers"] = depth * factor
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def nan(source: Path, target: Path) -> None:
    """One value in the middle of the decoder is not a number."""
    weights = read_weights(source)
    name = f"{LAYER}1.mlp.down_proj.weight"
    broken = weights[name].copy()
    broken[0, 0] = np.nan
    weights[name] = broken
    write_checkpoint(source, target, weights, shards=5)


def truncated(source: Path, target: Path) -> None:
    """The third shard ends in the middle of its data."""
    weights = read_weights(source)
    write_checkpoint(source, target, weights, shards=5)
    shard = sorted(target.glob("*.safetensors"))[2]
    with shard.open("r+b") as file:
        file.truncate(shard.stat().st_size // 2)


FAULTS: dict[str, Callable[[Path, Path], None]] = {
    "equivalent": equivalent,
    "constant": constant,
    "slow": slow,
    "nan": nan,
    "truncated": truncated,
}


def make(kind: str, source: Path, target: Path) -> Path:
    """Make the checkpoint ``kind`` of ``FAULTS`` from the good one in ``source``; returns ``target``.

    Raises:
        KeyError: There is no such kind.
        FileExistsError: ``target`` is there already.
    """
    FAULTS[kind](source, target)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=sorted(FAULTS))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    print(make(options.kind, options.source, options.target))


if __name__ == "__main__":
    main()
