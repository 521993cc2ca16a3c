"""``python -m bench.journal``: size of a journal and time of what is read from it, before and after old events go.

The rollouts are written as the control plane writes them, each with its verdicts and with so many events as one by the
default traffic steps has.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from baton import report
from baton.codec import encode
from baton.domain import (
    ANSWER_GATES,
    FILE_GATES,
    Gate,
    GateResult,
    Kind,
    Outcome,
    Phase,
    Release,
    ReleaseStatus,
    Rollout,
    Verdict,
    VersionRecord,
)
from baton.evidence import LiveEvidence, LiveSamples
from baton.journal import JOURNAL, Journal
from baton.journal.retention import Retention
from baton.reasons import Reason, because

NAME = "reranker"
DAY_S = 86_400.0
PROGRESS = 24
"""Progress events of a rollout: 120 s of steps, judged every 5 s."""
TIMES = 5
LIVE = LiveEvidence(checks=(), samples=LiveSamples(420, 410, 90), worst=())


def write(journal: Journal, candidate: int, at: float) -> None:
    """One rollout from its beginning to its end."""
    why = because(Reason.NEW_VERSION)
    asked = Rollout(
        0, NAME, Kind.ROLLOUT, candidate, candidate - 1 or None, Phase.VERIFYING, "watcher", why, Release.EQUIVALENT,
        f"v{candidate}", f"{candidate:032x}", at, at,
    )  # fmt: skip
    rollout = journal.rollouts.begin(asked)
    for gate in FILE_GATES:
        journal.rollouts.record(rollout, GateResult(gate, Verdict.PASS, "as it has to be: 14 files", 1.0, 2.0), at)
    for phase in (Phase.LOADING, Phase.VALIDATING):
        journal.rollouts.advance(rollout, phase, why, at)
        rollout = replace(rollout, phase=phase)
    for gate in ANSWER_GATES:
        journal.rollouts.record(rollout, GateResult(gate, Verdict.PASS, "as good as the stable one", 1.0, 2.0), at)
    journal.rollouts.advance(rollout, Phase.SHIFTING, why, at)
    rollout = replace(rollout, phase=Phase.SHIFTING)
    verdict = GateResult(Gate.LIVE, Verdict.PASS, "410 of 420 requests compared: as good", 1.0, 1.5, evidence=LIVE)
    for step in range(PROGRESS):
        journal.rollouts.progress(
            rollout, 5.0, at + step, because(Reason.MOVED_ON, before="a", after="b", why=why), verdict
        )
    for phase in (Phase.BAKING, Phase.RETIRING):
        journal.rollouts.advance(rollout, phase, why, at)
        rollout = replace(rollout, phase=phase)
    serves = because(Reason.SERVES, version=candidate)
    record = VersionRecord(candidate, ReleaseStatus.RELEASED, serves, asked.fingerprint, loaded=True, at=at)
    journal.rollouts.end(rollout, Outcome.LIVE, serves, at, [record])


def took(work: Callable[[], object]) -> float:
    """The median, in milliseconds."""
    times = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def figures(path: Path, journal: Journal, count: int) -> Iterator[tuple[str, str]]:
    db = journal.database.connection
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    pages, free, size = (
        db.execute(f"PRAGMA {what}").fetchone()[0] for what in ("page_count", "freelist_count", "page_size")
    )

    def history(limit: int) -> object:
        return [encode(report.rollout(one, {}, {})) for one in journal.rollouts.newest(service=NAME, limit=limit)]

    def again() -> None:
        Journal(path).close()

    yield "file, MiB", f"{path.stat().st_size / 2**20:.1f}"
    yield "of that in use, MiB", f"{(pages - free) * size / 2**20:.1f}"
    yield "events", str(db.execute("SELECT count(*) FROM event").fetchone()[0])
    yield "history of 50, ms", f"{took(lambda: history(50)):.1f}"
    yield f"history of {count}, ms", f"{took(lambda: history(count)):.0f}"
    yield "events of an old rollout, ms", f"{took(lambda: journal.events.newest(rollout=1)):.2f}"
    yield "opening the journal, ms", f"{took(again):.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.journal", description="How large a journal grows.")
    parser.add_argument("--rollouts", type=int, default=5_000)
    parser.add_argument("--keep", type=int, default=1_000, help="as [control] keep_rollouts; all are a year old")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="baton-journal-") as directory:
        path = Path(directory) / JOURNAL
        with contextlib.closing(Journal(path)) as journal:
            journal.database.connection.execute("PRAGMA synchronous = OFF")  # it is the result that counts here
            for number in range(1, asked.rollouts + 1):
                write(journal, number, float(number))
            journal.database.connection.execute("PRAGMA synchronous = FULL")
            before = dict(figures(path, journal, asked.rollouts))
            retention, now = Retention(journal.database, 90 * DAY_S, asked.keep), 365 * DAY_S
            events, steps = -1, []
            while events != (events := journal.database.connection.execute("SELECT count(*) FROM event").fetchone()[0]):
                begin = time.perf_counter()
                retention.apply(NAME, asked.rollouts, now)
                steps.append(time.perf_counter() - begin)
            after = dict(figures(path, journal, asked.rollouts))
    for name, value in before.items():
        print(f"{name:28} {value:>10} {after[name]:>10}")
    print(f"{len(steps)} transactions, {max(steps) * 1000:.0f} ms at most, {sum(steps):.1f} s in all")


if __name__ == "__main__":
    main()
