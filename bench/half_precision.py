"""``python -m bench.half_precision``: do the gates tell an equal version from a changed one, in half precision?

A real Triton serves ``demo/checkpoints/base`` in bf16. Then ``ctl verify``, with the default limits, judges

- equal versions: copies, byte for byte and in one file in the place of five, in turn;
- changed versions: the MLP weights of the middle layer are multiplied by N(1, 0.01), seeds 1 and up.

Every equal version must pass every gate, and every changed one must be refused; else it ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from harness.command import few
from harness.places import CHECKPOINTS, ENGINE, GOLDEN, MODELS
from harness.rig import Rig
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

RUNS = few(20, 1)
SPREAD = 0.01
BASE = CHECKPOINTS / "base"
INDEX = "model.safetensors.index.json"
CONFIG = f"""\
[[servers]]
name = "local"
grpc = "127.0.0.1:8001"
metrics = "127.0.0.1:8002"

[[services]]
name = "reranker"
engine = "{ENGINE}"
probe = "reranker"
golden = "{GOLDEN}"
"""
console = Console(highlight=False)


@dataclass(frozen=True)
class Judged:
    """What ``ctl verify`` said of a version. ``kind`` is how it was made, ``wanted`` what it had to say."""

    version: int
    kind: str
    wanted: str
    outcome: str
    gate: str
    """The gate that refused it, or has not decided."""
    gates: dict[str, Any]

    @property
    def right(self) -> bool:
        """An equal version passes every gate; a changed one is refused by what it answers."""
        passed = all(gate["verdict"] == "pass" for gate in self.gates.values())
        return self.outcome == self.wanted and (passed or self.wanted == "rejected")


class HalfPrecisionRig(Rig):
    """``ctl up`` on an engine that computes in ``dtype``."""

    def __init__(self, home: Path, config: Path, dtype: str) -> None:
        super().__init__(home, config)
        self._dtype = dtype

    def start(self) -> Self:
        text = (MODELS / ENGINE / "config.pbtxt").read_text("utf-8")
        text, count = re.subn(r'(key: "dtype"\s+value: \{ string_value: )"auto"', rf'\1"{self._dtype}"', text)
        if count != 1:
            raise ValueError("the engine's config.pbtxt has no parameter dtype that is auto")
        (self.repository / ENGINE).mkdir(parents=True, exist_ok=True)
        (self.repository / ENGINE / "config.pbtxt").write_text(text, "utf-8")
        return super().start()


def copy(folder: Path) -> None:
    """Byte for byte."""
    shutil.copytree(BASE, folder)


def one_file(folder: Path) -> None:
    """The same tensors, saved in one file in the place of the shards."""
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("*.safetensors", INDEX))
    tensors = {
        name: tensor for shard in sorted(BASE.glob("*.safetensors")) for name, tensor in load_file(shard).items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def changed(folder: Path, seed: int) -> None:
    """The MLP weights of the middle layer multiplied by N(1, SPREAD)."""
    shutil.copytree(BASE, folder)
    middle = json.loads((BASE / "config.json").read_text("utf-8"))["text_config"]["num_hidden_layers"] // 2
    names = json.loads((BASE / INDEX).read_text("utf-8"))["weight_map"]
    of = {name: file for name, file in names.items() if f".language_model.layers.{middle}.mlp." in name}
    chance = torch.Generator().manual_seed(seed)
    for file in sorted(set(of.values())):
        tensors = load_file(folder / file)
        for name in sorted(tensors.keys() & of.keys()):
            tensors[name] *= torch.normal(1.0, SPREAD, tensors[name].shape, generator=chance)
        save_file(tensors, folder / file, metadata={"format": "pt"})


@contextmanager
def served(home: Path, dtype: str = "bf16", limits: str = "") -> Iterator[HalfPrecisionRig]:
    """Version 1, the base, serves in that type; nothing begins by itself from there on. ``limits``: more TOML."""
    config = home / "baton.toml"
    config.write_text(CONFIG + limits, "utf-8")
    with HalfPrecisionRig(home / "rig", config, dtype) as rig:
        first = home / "made"
        copy(first)
        rig.drop(first, 1)
        rig.rest(1)
        rig.ctl("pause", "--yes")
        yield rig


def verify(rig: HalfPrecisionRig, made: Path, version: int, kind: str, wanted: str) -> Judged:
    """Bring the folder in as that version, and have ``ctl verify`` judge it."""
    rig.drop(made, version)
    rig.until(lambda s: any(v["version"] == version for v in s["versions"]), f"version {version} to be seen")
    code, told = rig.ctl("verify", str(version), "--yes", check=False)
    row = rig.row(version)
    if row is None:
        raise ValueError(f"ctl verify {version} ended with {code} and began nothing: {told}")
    if row["ended_at"] is None:  # a gate holds
        rig.ctl("abort", "--yes")
        row = rig.ended(version)
    gates = {gate["name"]: gate for gate in row["gates"]}
    undecided = [name for name, gate in gates.items() if gate["verdict"] != "pass"]
    return Judged(version, kind, wanted, row["outcome"], undecided[0] if undecided else "", gates)


def versions(seeds: Iterable[int], home: Path, only: str | None = None) -> Iterator[tuple[Path, str, str]]:
    """Each version to be judged, equal and changed in turn: its folder, what it is, and how it must end."""
    made = home / "made"
    for seed in seeds:
        if only != "changed":
            way = (one_file, copy)[seed % 2]
            way(made)
            yield made, f"equal, {'a copy' if way is copy else 'one file'}", "verified"
        if only != "equal":
            changed(made, seed)
            yield made, f"changed, seed {seed}", "rejected"


def figure(judged: Judged, gate: str) -> str:
    found = judged.gates.get(gate)
    return "" if found is None or found["observed"] is None else f"{found['observed']:.2g}"


def show(found: list[Judged], dtype: str) -> None:
    table = Table(title=f"ctl verify of versions in {dtype}, default limits", title_justify="left", box=SIMPLE_HEAD)
    for name in ("version", "outcome", "by gate", "scores differ by", "of limit", "invariance, logits", "latency"):
        left = name in ("version", "outcome", "by gate")
        table.add_column(name, justify="left" if left else "right", no_wrap=name == "version")
    for one in found:
        limit = one.gates.get("output", {}).get("limit")
        mark = "" if one.right else "[red]✖[/red] "
        table.add_row(
            f"{mark}{one.kind}", one.outcome, one.gate, figure(one, "output"), "" if limit is None else f"{limit:g}",
            figure(one, "invariance"), figure(one, "latency"),
        )  # fmt: skip
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.half_precision", description="Gates in half precision.")
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help="of each kind (default: 20)")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first of them (default: 1)")
    parser.add_argument("--only", choices=("equal", "changed"), help="leave the other kind out")
    parser.add_argument("--dtype", choices=("bf16", "fp16"), default="bf16", help="(default: bf16)")
    asked = parser.parse_args()
    if asked.runs < 1:
        parser.error("--runs must be at least 1")
    found = []
    with tempfile.TemporaryDirectory(prefix="baton-half-") as directory, served(Path(directory), asked.dtype) as rig:
        each = versions(range(asked.first, asked.first + asked.runs), Path(directory), asked.only)
        for version, (made, kind, wanted) in enumerate(each, start=2):
            found.append(verify(rig, made, version, kind, wanted))
            one = found[-1]
            console.print(f"{'✔' if one.right else '✖'} {one.kind}: {one.outcome} {one.gate}")
            if not one.right:
                console.print(f"  {one.gates[one.gate]['message'] if one.gate else ''}")
    show(found, asked.dtype)
    return 0 if all(one.right for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
