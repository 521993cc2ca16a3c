"""``python -m bench.memory``: what loading a version takes, in memory and in time.

Makes a checkpoint of some hundred MiB with random weights. Then, with ``weights = copy`` and with ``map``:

- two versions with the same files (hard links) are loaded in fresh processes, and their memory is compared;
- a real Triton loads one, again and again, and each time it is asked the same request a hundred times.

Prints two tables, and ends with exit code 1 when a promise does not hold.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from bench.memory.measure import Memory, link, memory
from bench.memory.starts import PARTS, REQUESTS, Start, starts
from harness.command import SHORT, few
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

PEAK = 1.1
SECOND = 0.1
FIRST = 1.5
WAYS = ("copy", "map")
WIDE = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 6, "num_attention_heads": 16,
        "num_key_value_heads": 8}  # fmt: skip
console = Console(highlight=False)


def show_memory(found: dict[str, Memory]) -> list[str]:
    """Prints the first table; returns the promises that did not hold."""
    size = next(iter(found.values())).weights
    table = Table(
        title=f"Memory as a multiple of the weights ({size / 2**20:.0f} MiB, fp32)", title_justify="left",
        box=SIMPLE_HEAD,
    )  # fmt: skip
    table.add_column("weights", no_wrap=True)
    for name in ("peak while reading", "with the self-test", "PSS of a version", "PSS a second one adds"):
        table.add_column(name, justify="right")
    broken = []
    for way, one in found.items():
        table.add_row(way, f"{one.read:.2f}", f"{one.tested:.2f}", f"{one.one:.2f}", f"{one.second:.2f}")
        if one.read > PEAK:
            broken.append(f"{way}: reading took {one.read:.2f} x the weights; at most {PEAK} is promised")
        if way == "map" and one.second > SECOND:
            broken.append(f"{way}: a second version added {one.second:.2f} x the weights; {SECOND} at most is promised")
    console.print(table)
    return broken


def show_starts(found: dict[str, list[Start]]) -> list[str]:
    """Prints the second table; returns the promises that did not hold."""
    count = len(next(iter(found.values())))
    table = Table(
        title=(
            f"Seconds from Triton's load call to READY, medians of {count}; then the first\n"
            f"answer to a request, and its ratio to the median of the next {REQUESTS - 1}"
        ),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("weights", no_wrap=True)
    for name in (*(part.replace("_", "-") for part in PARTS), "rest", "READY", "first", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    broken = []
    for way, rounds in found.items():
        first = statistics.median(one.first for one in rounds)
        seconds = [statistics.median(one.parts[part] for one in rounds) for part in PARTS]
        seconds += [statistics.median(one.rest for one in rounds), statistics.median(one.ready for one in rounds)]
        seconds.append(statistics.median(one.answers[0] for one in rounds))
        table.add_row(way, *(f"{one:.2f}" for one in seconds), f"{first:.2f}")
        if first > FIRST and not SHORT:
            broken.append(f"{way}: the first answer took {first:.2f} x the others' median; at most {FIRST} is promised")
    console.print(table)
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="What loading a version takes.")
    parser.add_argument(
        "--rounds", type=int, default=few(3, 1), metavar="N", help="loads of each kind by Triton (default: 3)"
    )
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    from bench.speed.cases import TEXT, VISION, make_checkpoint  # loads torch

    with tempfile.TemporaryDirectory(prefix="baton-memory-") as directory:
        home = Path(directory)
        checkpoint = home / "checkpoint"
        make_checkpoint(checkpoint, text=TEXT | WIDE, vision=VISION | {"out_hidden_size": WIDE["hidden_size"]})
        link(checkpoint, home / "linked")
        broken = show_memory({way: memory(checkpoint, home / "linked", way) for way in WAYS})
        broken += show_starts({way: list(starts(home / way, checkpoint, way, rounds)) for way in WAYS})
    for line in broken:
        console.print(f"[red]✖ {line}[/red]")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
