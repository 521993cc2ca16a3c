"""``make demo``: the whole story on this machine, told while it happens, with a table at the end.

A real Triton, the real engine, real trained checkpoints (small ones), and clients that ask all the time. It ends
with exit code 1 when anything that Baton promises did not hold.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness.command import SHORT, few, no_options
from harness.memory import Peak, pss
from harness.places import CHECKPOINTS, ROOT, STATE
from harness.rig import Rig
from harness.traffic import Request, Traffic, questions, rerankers
from harness.waiting import Failed, until
from rich.console import Console
from rich.table import Table
from tools.make_checkpoints import faults

from baton.codec import encode
from baton.errors import BatonError
from baton.reasons import Reason

HOME = STATE / "demo"
RATE, CLIENTS, BASELINE_S = 8.0, 8, few(15.0, 3.0)
LOADING_BYTES = 80 << 20
"""An engine process that takes so much has begun with its load; one that has loaded takes four times as much."""
SILENT = (Reason.NO_ANSWER, Reason.BACK_FROM_SILENT)
"""Why a version that does not answer is taken back: before all traffic went to it, and after."""
console = Console(highlight=False)


class Story:
    """The steps, and what was seen at each."""

    traffic: Traffic
    """What the clients ask and get all the while."""

    def __init__(self, rig: Rig, made: Path) -> None:
        self.rig = rig
        self.made = made
        self.began = time.time()
        self.windows: list[tuple[float, float]] = []
        """When rollouts were under way."""
        self.facts: dict[str, Any] = {}
        self.broken: list[str] = []
        self.served: set[int] = set()
        self.asked: list[tuple[float, float]] = []
        """When which share of traffic was asked for, in percent, twice a second."""

    def say(self, text: str) -> None:
        console.print(f"[dim]{time.time() - self.began:6.1f} s[/dim]  {text}", soft_wrap=True)

    def expect(self, holds: bool, promise: str) -> None:  # noqa: FBT001 - reads as an assertion
        if not holds:
            self.broken.append(promise)
            console.print(f"          [red]✖ {promise}[/red]", soft_wrap=True)

    @contextmanager
    def window(self) -> Iterator[None]:
        start = time.time()
        yield
        self.windows.append((start, time.time()))

    # Steps

    def good(self, number: int, folder: Path, what: str, *flags: str, full: bool = False) -> dict[str, Any]:
        """Push a version that has to go through: by all its steps, or with ``full`` until a person has seen enough."""
        self.say(f"[bold]ctl push[/bold] {what} {' '.join(flags)}")
        push = ("push", str(folder), "--repository", str(self.rig.repository), *flags)
        self.served.add(number)
        with self.window(), self.progress():
            if full:
                code, _ = self.rig.ctl(*push, "--no-wait", check=False)
                if self.meets_traffic(number):
                    self.say(f"version {number} answered mirrored requests well: [bold]ctl promote --full[/bold]")
                    code, _ = self.rig.ctl("promote", "--full", "--yes", check=False)
            else:
                code, _ = self.rig.ctl(*push, check=False)
                while self.lacks_evidence():
                    code, _ = self.rig.ctl("retry", str(number), check=False)
        row = next(r for r in encode(self.rig.api.history()) if r["candidate"] == number)
        self.expect(
            code == 0 and self.rig.service()["stable"] in (number, row["previous"]), f"version {number} goes live"
        )
        self.say(
            f"[green]✔[/green] version {number} is live, {row['time_to_live_s'] or 0:.1f} s after its rollout began"
        )
        return row

    def lacks_evidence(self) -> bool:
        """Whether a gate waits for a person to ask it again, since the machine was too noisy for it."""
        held = self.rig.lacks_evidence()
        if held:
            self.say(f"{held} [bold]ctl retry[/bold]")
        return bool(held)

    def meets_traffic(self, number: int) -> bool:
        """Wait until the version has a share of traffic; False when its rollout ended before that."""

        def told(service: dict[str, Any]) -> str:
            row = self.rig.row(number)
            if row is not None and row["ended_at"] is not None:
                return "ended"
            if self.lacks_evidence():
                self.rig.ctl("retry", str(number), "--no-wait")
            return "met" if service["phase"] == "shifting" else ""

        return bool(self.rig.until(told, f"version {number} to meet traffic") == "met")

    def bad(
        self, number: int, folder: Path, what: str, gate: str, meanwhile: Callable[[], None] | None = None,
        outcome: str = "rejected",
    ) -> None:  # fmt: skip
        """Drop a version that has to be refused, or taken back, while the present one serves on.

        ``gate``: what finds it, ``one or another``; ``health`` stands for no gate, but that it does not answer.
        """
        stable = self.rig.service()["stable"]
        self.say(f"a folder is dropped: {what}")
        with self.window(), self.progress():
            self.rig.drop(folder, number)
            if meanwhile is not None:
                meanwhile()
            row = self.rig.ended(number)
        failed = [g["name"] for g in row["gates"] if g["verdict"] == "fail"]
        by = ", ".join(failed) or ("health" if row["code"] in SILENT else "nothing")
        self.expect(row["outcome"] == outcome and by in gate.split(" or "), f"{what}: {outcome} by {gate} (was: {by})")
        self.expect(self.rig.service()["stable"] == stable, f"version {stable} serves on")
        told = outcome.replace("_", " ")
        self.say(f"[yellow]✖[/yellow] {told} by [bold]{by}[/bold]; version {stable} serves on: {row['message']}")

    @contextmanager
    def progress(self) -> Iterator[None]:
        """Tells each new phase and verdict of the rollout while something else waits for its end."""
        stop = threading.Event()

        def watch() -> None:
            told: set[tuple[str, str]] = set()
            while not stop.wait(0.5):
                service = self.rig.service()
                self.asked.append((time.time(), service["weight"] if service["phase"] == "shifting" else 0.0))
                news = [("phase", service["phase"])] if service["rollout"] else []
                if service["phase"] == "shifting" and service["step"]["index"]:
                    news.append(("step", service["step"]["name"]))
                if service["rollout"]:
                    judged = ("pass", "fail", "hold")
                    news += [(g["name"], g["verdict"]) for g in service["gates"] if g["verdict"] in judged]
                for key in news:
                    if key not in told:
                        told.add(key)
                        console.print(f"          [dim]{key[0]} {key[1]}[/dim]")

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def checkpoints(made: Path) -> dict[str, Path]:
    """Every version of the story, made from the two trained ones."""
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    base, retrained = CHECKPOINTS / "base", CHECKPOINTS / "retrained"
    folders = {"base": base, "retrained": retrained}
    for name, make, source in (
        ("equivalent", faults.equivalent, base),
        ("truncated", faults.truncated, retrained),
        ("constant", faults.constant, retrained),
        ("slow", faults.slow, retrained),
        ("killed", faults.equivalent, retrained),
        ("again", faults.equivalent, retrained),
    ):
        folders[name] = made / name
        make(source, folders[name])
    for name, source in (("undeclared", base), ("dying", retrained)):
        folders[name] = made / name
        shutil.copytree(source, folders[name])
    return folders


def tell(rig: Rig, story: Story) -> Traffic:
    """The story itself; returns the traffic that went on all the while."""
    folders = checkpoints(story.made)
    story.say("[bold]ctl push[/bold] the first version: there is nothing to compare it with, the other gates hold")
    rig.ctl("push", str(folders["base"]), "--repository", str(rig.repository), "--label", "v1.0")
    story.served.add(1)
    story.say("[green]✔[/green] version 1 is live")
    traffic = Traffic(rerankers(rig.urls, questions(text=4, image=4), CLIENTS), rate=RATE)
    story.traffic = traffic
    traffic.start()
    try:
        story.say(f"{CLIENTS} clients ask {RATE:.0f} times a second over gRPC and HTTP, until the end")
        start = time.time()
        until(lambda: time.time() - start > BASELINE_S, "the baseline")
        story.facts["baseline"] = (start, time.time())
        story.facts["memory before"] = rig.memory()
        with Peak(rig.memory) as peak:
            acts(rig, story, folders)
        story.facts["memory peak"] = peak.largest
    finally:
        traffic.stop()
    return traffic


def acts(rig: Rig, story: Story, folders: dict[str, Path]) -> None:
    """What happens to version 1."""
    row = story.good(2, folders["equivalent"], "an equivalent version", "--label", "v1.0-resharded", full=SHORT)
    story.facts["drop to live"] = row["time_to_live_s"]
    story.facts["split"] = share(story, story.traffic, 2)
    if SHORT:
        back(rig, story, 1)
        rig.rest()
        story.bad(3, folders["truncated"], "a truncated file", "integrity")
        return
    declared = ("--label", "v2.0", "--release", "retrained")
    row = story.good(3, folders["retrained"], "a retrained version", *declared, full=True)
    output = next(g for g in row["gates"] if g["name"] == "output")
    story.facts["ndcg"] = (output["evidence"]["ndcg_stable"], output["evidence"]["ndcg_candidate"])
    story.expect(story.facts["ndcg"][1] > story.facts["ndcg"][0], "the retrained version ranks better")
    rig.rest()
    story.bad(4, folders["truncated"], "a truncated file", "integrity")
    story.bad(5, folders["undeclared"], "other weights, not declared as retrained", "output")
    story.bad(6, folders["constant"], "a version that scores a constant", "output")
    story.bad(7, folders["slow"], "a version with the right scores that is slow", "latency")

    def kill_engine() -> None:
        # Well into its load: of a process that ends before it began with that, Triton (24.10) never hears.
        pid = until(lambda: [p for p in rig.stubs(8) if pss(p) > LOADING_BYTES], "version 8 to load")[0]
        os.kill(pid, signal.SIGKILL)

    story.bad(8, folders["dying"], "a version whose engine process dies (kill -9) while it loads", "load", kill_engine)

    def kill_in_split() -> None:
        if story.meets_traffic(9):
            story.say("version 9 has a share of traffic: [bold]kill -9[/bold] of its engine process")
            os.kill(rig.stubs(9)[0], signal.SIGKILL)

    story.served.add(9)
    outcome = "rolled_back"
    dying = "a version whose engine process dies while it has traffic"
    # Its process is seen to end within a round of the control plane, its failures at the next look at live traffic.
    story.bad(9, folders["killed"], dying, "health or live", kill_in_split, outcome)
    story.good(10, folders["again"], "an equivalent version", "--label", "v2.0-resharded", full=True)
    back(rig, story, 3)


def back(rig: Rig, story: Story, version: int) -> None:
    """A person goes back to the version before, which is still loaded."""
    story.facts["back on"] = version
    story.say(f"[bold]ctl rollback[/bold]: version {version} is still loaded")
    start = time.time()
    with story.window():
        rig.ctl("rollback", "--yes")
    at = {event["kind"]: event["at"] for event in rig.events()}
    story.facts["rollback"] = at["alias"] - at["halt"]
    story.facts["rollback asked"] = start
    story.expect(rig.service()["stable"] == version, f"version {version} serves again")
    story.say(f"[green]✔[/green] back on version {version}")


def share(story: Story, traffic: Traffic, version: int) -> tuple[int, float, float]:
    """Answers of a version while traffic was split, how many were to be expected of the weights, and their spread.

    Requests that were due within a second of a change of the weight are left out.
    """
    got, expected, variance = 0, 0.0, 0.0
    for (at, weight), (_, before), (end, after) in zip(story.asked[2:], story.asked, story.asked[3:], strict=False):
        if weight and before == weight == after:
            for answer in traffic.between(at, end):
                got += answer.version == version
                expected += weight / 100
                variance += weight / 100 * (1 - weight / 100)
    story.expect(
        abs(got - expected) <= 4.5 * variance**0.5, f"the share of traffic is as asked ({got}, {expected:.1f})"
    )
    return got, expected, variance**0.5


def p95_ms(answers: Sequence[Request]) -> float:
    """95th percentile of the latencies, in milliseconds; NaN without answers."""
    return float(np.percentile([a.latency_s for a in answers], 95) * 1000) if answers else float("nan")


def table(story: Story, traffic: Traffic) -> Table:
    """What was measured, and whether what was promised held."""
    start, end = story.facts["baseline"]
    before = traffic.between(start, end)
    during = [a for window in story.windows for a in traffic.between(*window)]
    wrong = wrong_versions(story, traffic)
    story.expect(not traffic.failures, f"no failed request (were: {len(traffic.failures)}; {traffic.errors[:1]})")
    story.expect(not wrong, f"no answer of a version that had not passed its gates (were: {wrong[:3]})")
    back = [
        a.came for a in traffic.answers if a.due > story.facts["rollback asked"] and a.version == story.facts["back on"]
    ]
    first_back = min(back, default=float("nan")) - story.facts["rollback asked"]
    rows = [
        ("requests sent", f"{traffic.sent:,}"),
        ("requests failed", str(len(traffic.failures))),
        ("answers from a version that had not passed, or with another version's scores", str(len(wrong))),
        ("answers of version 2 while traffic was split / expected of its weights", "{} / {:.1f} ± {:.1f}".format(
            *story.facts["split"])),
        ("p95 before / during rollouts", f"{p95_ms(before):.0f} / {p95_ms(during):.0f} ms"),
        ("an equivalent rollout: from its begin to live, by all its steps", f"{story.facts['drop to live']:.1f} s"),
        ("time to roll back: decision to alias moved", f"{story.facts['rollback'] * 1000:.0f} ms"),
        ("time to roll back: command to first answer of the old version", f"{first_back:.1f} s"),
        ("memory of Triton and its engines, before / at peak", "{:.0f} / {:.0f} MiB".format(
            story.facts["memory before"] / 2**20, story.facts["memory peak"] / 2**20)),
    ]  # fmt: skip
    if "ndcg" in story.facts:
        rows.append(("NDCG@10 of the golden set, base / retrained", "{:.3f} / {:.3f}".format(*story.facts["ndcg"])))
    shown = Table(title="Baton's demo on this machine", title_justify="left")
    shown.add_column("what")
    shown.add_column("measured", justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def wrong_versions(story: Story, traffic: Traffic) -> list[str]:
    """Answers of versions that may not answer, and answers whose scores are not those of the version they name.

    The equivalent versions give the same scores to 1e-3; base and retrained differ by far more.
    """
    family = {1: "base", 2: "base", 3: "retrained", 9: "retrained", 10: "retrained"}
    reference: dict[tuple[str, int], tuple[float, ...]] = {}
    wrong = []
    for answer in traffic.answers:
        if answer.version not in story.served:
            wrong.append(f"version {answer.version} answered")
            continue
        first = reference.setdefault((family[answer.version or 0], answer.question), answer.scores)
        if max(abs(a - b) for a, b in zip(first, answer.scores, strict=True)) > 1e-3:
            wrong.append(f"version {answer.version} gave other scores than before")
    apart = [
        max(abs(a - b) for a, b in zip(reference["base", q], reference["retrained", q], strict=True))
        for kind, q in reference
        if kind == "base" and ("retrained", q) in reference
    ]
    story.expect(SHORT or (bool(apart) and min(apart) > 5e-3), "base and retrained can be told apart by their scores")
    return wrong


def main() -> int:
    no_options("python -m demo.story", __doc__)
    console.print(f"[bold]Baton's demo[/bold]: a real Triton, real traffic, about {few('ten', 'three')} minutes.\n")
    try:
        with Rig(HOME, ROOT / "demo" / "baton.toml") as rig:
            story = Story(rig, HOME / "made")
            story.say(f"Triton and the control plane run: gRPC {rig.places['grpc']}, HTTP {rig.places['http']}")
            traffic = tell(rig, story)
            shown = table(story, traffic)
    except (Failed, BatonError) as error:
        console.print(f"[red]✖ {error}[/red]", soft_wrap=True)
        console.print(f"The logs lie in {HOME}.")
        return 1
    console.print()
    console.print(shown)
    for promise in story.broken:
        console.print(f"[red]✖ did not hold: {promise}[/red]", soft_wrap=True)
    for event in rig.events() if story.broken else ():
        if event["kind"] == "health":
            since_s = event["at"] - story.began
            console.print(f"{since_s:6.1f} s  Baton noted: {event['message']}", soft_wrap=True, markup=False)
    if not story.broken:
        console.print(
            "[green]✔ everything that was promised held.[/green] Next: `make up`, then `.venv/bin/ctl status`."
        )
    return 1 if story.broken else 0


if __name__ == "__main__":
    sys.exit(main())
