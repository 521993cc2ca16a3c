"""``make bench``: what Baton adds to Triton's own load time, how long a way back takes, and other ways to update.

Both sides are measured in turn in one run, on the same folder and the same machine: times here are ratios, since the
machine may be busy with other things. Ends with exit code 1 when a rollback during the bake time took a second, or
when ``bench.compare`` finds that a request failed while Baton updated.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from bench.compare.run import compare
from harness.command import SHORT, few, no_options
from harness.places import CHECKPOINTS, ENGINE, MODELS, ROOT
from harness.rig import Rig
from harness.triton import running_triton
from harness.waiting import Failed, until
from rich.console import Console
from rich.table import Table

from baton.codec import encode
from baton.errors import BatonError
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import ServiceFiles

ROUNDS = few(3, 1)
ROLLBACK_LIMIT_S = 1.0
STEPS = (
    ("noticed and quiet", None, "begin"),
    ("integrity, compatibility, capacity", "begin", "loading"),
    ("load", "loading", "validating"),
    ("warmup", "validating", "warmup"),
    ("output", "warmup", "output"),
    ("invariance", "output", "invariance"),
    ("latency", "invariance", "latency"),
    ("alias moved", "latency", "baking"),
)
console = Console(highlight=False)


def bare_load(home: Path) -> list[float]:
    """Seconds from Triton's load call to READY of one more version, without Baton; the version is dropped each time."""
    repository = home / "model_repository"
    files = ServiceFiles(repository, "reranker", ENGINE)
    shutil.copytree(MODELS / ENGINE, files.engine_dir)
    for version in (1, 2):
        shutil.copytree(CHECKPOINTS / "base", files.folder(version))
    files.set_policy(frozenset({1}))
    times = []
    with (
        running_triton(home, repository, load=[ENGINE]) as triton,
        closing(GrpcTriton("bare", triton.grpc_url)) as client,
    ):
        for _ in range(ROUNDS):
            files.set_policy(frozenset({1, 2}))
            start = time.perf_counter()
            client.load(ENGINE, 600.0)
            times.append(time.perf_counter() - start)
            files.set_policy(frozenset({1}))
            client.load(ENGINE, 600.0)
            until(lambda: set(ready(client)) == {1}, "version 2 to leave")
    return times


def ready(client: GrpcTriton) -> list[int]:
    return [v for v, m in client.index().get(ENGINE, {}).items() if m.state != "UNAVAILABLE"]


def rollouts(rig: Rig, made: Path) -> tuple[list[dict[str, float]], list[float]]:
    """For each round: seconds of each step of a rollout, and of the rollback that follows it in the bake time."""
    place(rig, made, 1)
    rig.rest(1)
    steps, backs = [], []
    for number in range(2, 2 + ROUNDS):
        dropped = place(rig, made, number)
        rig.wait_live(number)
        steps.append(split(rig, number, dropped))
        rig.ctl("rollback", "--yes")
        row = rig.ended(number)
        events = rig.events(row["id"])
        times = {event["kind"]: event["at"] for event in events}
        moved = next(e["at"] for e in events if e["kind"] == "policy" and e["at"] > times["halt"])
        # The policy is written only after the alias had moved back on every server.
        backs.append(moved - times["halt"])
    return steps, backs


def place(rig: Rig, made: Path, number: int) -> float:
    folder = made / str(number)
    shutil.copytree(CHECKPOINTS / "base", folder)
    return rig.drop(folder, number)


def split(rig: Rig, number: int, dropped: float) -> dict[str, float]:
    """Seconds between the marks that the journal has of a rollout."""
    row = next(r for r in encode(rig.api.history()) if r["candidate"] == number)
    marks: dict[Any, float] = {None: dropped}
    for event in rig.events(row["id"]):
        if event["kind"] == "phase":
            marks[event["why"].figures["after"]] = event["at"]
        elif event["kind"] == "verdict":
            marks[event["data"]["name"]] = event["at"]
        elif event["kind"] == "begin":
            marks["begin"] = event["at"]
    times = {name: marks[end] - marks[start] for name, start, end in STEPS}
    return {**times, "all": marks["baking"] - dropped}


def steps_and_rollback() -> bool:
    """Prints the first table; whether each rollback was as quick as promised. Raises ``Failed``."""
    with tempfile.TemporaryDirectory(prefix="baton-bench-") as directory:
        home = Path(directory)
        console.print(f"Bare load of demo/checkpoints/base, {ROUNDS} times, then {ROUNDS} rollouts of the same folder.")
        bare = statistics.median(bare_load(home / "bare"))
        with Rig(home / "baton", ROOT / "bench" / "rollouts.toml") as rig:
            made = home / "made"
            made.mkdir()
            steps, backs = rollouts(rig, made)
    total = statistics.median(s["all"] for s in steps)
    table = Table(title="From a complete folder to live, without other traffic (medians)", title_justify="left")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("of the bare load", justify="right")
    table.add_row("bare Triton load of the same folder", f"{bare:.2f}", "1.00 x")
    for name, _, _ in STEPS:
        took = statistics.median(s[name] for s in steps)
        table.add_row(f"  {name}", f"{took:.2f}", f"{took / bare:.2f} x")
    table.add_row("complete folder to live", f"{total:.2f}", f"{total / bare:.2f} x")
    table.add_row("rollback in the bake time, slowest", f"{max(backs):.3f}", "")
    console.print(table)
    if max(backs) >= ROLLBACK_LIMIT_S and not SHORT:
        console.print(
            f"[red]✖ a rollback in the bake time took {max(backs):.2f} s, {ROLLBACK_LIMIT_S:.0f} s is promised[/red]"
        )
        return False
    return True


def main() -> int:
    no_options("python -m bench.rollouts", __doc__)
    try:
        # Both tables, also when the first one says no.
        kept = [steps_and_rollback(), compare(console)]
    except (Failed, BatonError) as error:
        console.print(f"[red]✖ {error}[/red]", soft_wrap=True)
        return 1
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
