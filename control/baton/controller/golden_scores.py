"""The golden scores of versions: what gate ``output`` compares with, and how far a version's scores move by themselves.

In half precision the company that a document has in a batch moves its score (by up to 0.008 in a model of 16 layers, by
0.017 in one of 28), while the same requests, one at a time, repeat exactly. So:

- A candidate gets the golden requests one at a time, and nobody else asks it. What it gave then is kept in the journal,
  and is what a later candidate is compared with: nothing is allowed for noise.
- Where nothing is kept (the version was adopted, the golden set is another one, the engine runs in another type), the
  stable version is asked beside its live traffic. Its scores may be off by its noise then.
- The noise is measured once, at the first rollout in half precision, and kept: the golden documents are scored again,
  each alone. It is always the stable version's, or the first version's: no candidate widens its own limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from baton.config import GateConfig
from baton.domain import EngineInfo
from baton.errors import Unreachable
from baton.journal import Journal
from baton.judge.limits import NOISE_FACTOR
from baton.probe import GoldenSet, Infer, Probe
from baton.samples import CaseScores, GoldenScores, Noise, Precision
from baton.triton.port import Triton

MOVED_BY_LAYOUT: Final = 0.01
"""Scores change by up to 0.008 when the same pairs are batched differently in half precision, by 1e-6 in fp32."""
FULL: Final = frozenset({"fp32", "fp64", "float32", "float64"})
MOST_KEPT: Final = 50_000
"""Scores in the journal, half a megabyte. Those of a larger golden set are known to this process alone."""


class EngineRuns:
    """What versions of an engine say that they run in. What was heard stands while a server's metrics do not answer."""

    def __init__(self, engine: str) -> None:
        self._engine = engine
        self._heard: dict[tuple[str, int], frozenset[EngineInfo]] = {}

    def infos(self, server: Triton, version: int) -> frozenset[EngineInfo]:
        """Of the version's instances on the server; nothing where that can't be seen."""
        try:
            told = (server.engine_infos() or {}).get(self._engine, {}).get(version, frozenset())
        except Unreachable:
            return self._heard.get((server.name, version), frozenset())
        self._heard[server.name, version] = told
        return told

    def words(self, server: Triton, version: int) -> str | None:
        """Type and device of the version's instances, as ``bf16 on cuda:0``; None where they do not say."""
        each = sorted({f"{info.dtype} on {info.device}" for info in self.infos(server, version) if info.dtype})
        return ", ".join(each) or None

    def precision(self, configured: str, server: Triton, version: int) -> Precision:
        """Half where the configuration says so, or (``auto``) an instance says that it runs in less than fp32.

        An engine that does not say is held to the limits of fp32, which are the narrower ones.
        """
        if configured != "auto":
            return "half" if configured == "half" else "fp32"
        types = {info.dtype for info in self.infos(server, version)} - {None}
        return "half" if types - FULL else "fp32"


@dataclass(frozen=True, slots=True)
class Stable:
    """The stable version's golden scores. ``kept``: it gave them while nobody else asked it."""

    scores: list[CaseScores]
    kept: bool


class GoldenScorer:
    """Of one service that has a golden set. One rollout's gates use it at a time."""

    def __init__(
        self, service: str, runs: EngineRuns, asked: Probe, golden: GoldenSet, limits: GateConfig, journal: Journal
    ) -> None:
        self._service = service
        self._runs = runs
        self._asked = asked
        self._golden = golden
        self._limits = limits
        self._journal = journal
        self._known: dict[int, GoldenScores] = {}
        """What this process was told, also where it is too much for the journal."""

    def candidate(self, server: Triton, infer: Infer, version: int, cancelled: Callable[[], bool]) -> list[CaseScores]:
        """Ask the candidate, which has no other requests, and keep what it answers."""
        scores = self._ask(infer, version, cancelled)
        self._remember(server, version, scores)
        return scores

    def stable(
        self, server: Triton, infer: Infer, version: int, noise: Noise | None, cancelled: Callable[[], bool]
    ) -> Stable:
        """What the version gave as a candidate, if it still gives the same; else what it gives now.

        It serves live traffic meanwhile: each golden request keeps others waiting, and shares batches with them.
        One answer shows whether it is still itself.
        """
        known = self._known.get(version) or (self._journal.notes.golden_scores().get(self._service) or {}).get(version)
        if known is not None and (known.golden, known.runs) == (
            self._golden.digest,
            self._runs.words(server, version),
        ):
            now = self._asked.smoke(infer, version, timeout_s=self._limits.request_timeout)
            moved = max(MOVED_BY_LAYOUT, 0.0 if noise is None else NOISE_FACTOR * noise.furthest)
            then = next(case for case in known.scores if case.case == now.case)
            if _furthest([then], [now]) <= moved:
                self._known[version] = known
                return Stable(list(known.scores), kept=True)
        return self._now(server, infer, version, noise, cancelled)

    def again(
        self,
        server: Triton,
        infer: Infer,
        version: int,
        kept: Stable,
        noise: Noise | None,
        cancelled: Callable[[], bool],
    ) -> Stable:
        """What was kept, if the version still gives all of it; else what it gives now.

        Asked before a candidate is refused by it: an engine whose code or settings were changed since gives other
        scores for some requests, whichever version it has loaded.
        """
        now = self._now(server, infer, version, noise, cancelled)
        moved = self._limits.output_tolerance if noise is None else NOISE_FACTOR * noise.furthest
        if _furthest(kept.scores, now.scores) > moved:
            return now
        self._remember(server, version, kept.scores)
        return kept

    def _now(
        self, server: Triton, infer: Infer, version: int, noise: Noise | None, cancelled: Callable[[], bool]
    ) -> Stable:
        self._known.pop(version, None)
        scores = self._ask(infer, version, cancelled)
        if noise is None:  # in fp32 the company makes no difference
            self._remember(server, version, scores)
        return Stable(scores, kept=False)

    def keep(self, candidate: int | None, stable: int | None) -> None:
        """Write down what these two versions gave while nobody else asked them, and forget others.

        Of a candidate that passed: the folder of one that was refused may be mended, and serve under the same number.
        """
        self._known = {v: scores for v, scores in self._known.items() if v in (candidate, stable)}
        scores = [score for known in self._known.values() for case in known.scores for score in case.scores]
        fit = len(scores) <= MOST_KEPT and all(map(math.isfinite, scores))  # what is no number is no JSON
        self._journal.notes.golden_scores().put(self._service, self._known if fit else {})

    def noise(
        self, server: Triton, infer: Infer, version: int, precision: Precision, cancelled: Callable[[], bool]
    ) -> Noise | None:
        """How far scores of this service's versions move by themselves: the kept figure, or measured of ``version``.

        None in fp32, where they do not. A figure of another golden set, or another type, is measured anew.
        """
        note = self._journal.notes.noise()
        if precision == "fp32":
            forget_noise(self._journal, self._service)
            return None
        runs = self._runs.words(server, version)
        found = note.get(self._service)
        if found is None or (found.golden, found.runs) != (self._golden.digest, runs):
            moved = self._asked.score_alone(infer, version, cancelled=cancelled, timeout_s=self._limits.request_timeout)
            # What is no number is no noise, and no JSON: the gate `invariance` refuses it.
            each = [far for pair in moved if math.isfinite(far := abs(pair.alone - pair.mixed))]
            found = Noise(self._golden.digest, runs, version, max(each, default=0.0), len(each))
            note.put(self._service, found)
        return found

    def _remember(self, server: Triton, version: int, scores: list[CaseScores]) -> None:
        self._known[version] = GoldenScores(self._golden.digest, self._runs.words(server, version), tuple(scores))

    def _ask(self, infer: Infer, version: int, cancelled: Callable[[], bool]) -> list[CaseScores]:
        timeout = self._limits.request_timeout
        return self._asked.score_golden(infer, version, cancelled=cancelled, timeout_s=timeout)


def forget_noise(journal: Journal, service: str) -> None:
    """Of a service that was served in half precision, and is no more: it would widen what live traffic may show."""
    note = journal.notes.noise()
    if note.get(service) is not None:
        note.put(service, None)


def _furthest(some: Sequence[CaseScores], others: Sequence[CaseScores]) -> float:
    """The largest difference of a score; infinite where one of them is no number."""
    pairs = [pair for a, b in zip(some, others, strict=True) for pair in zip(a.scores, b.scores, strict=True)]
    return max((far if math.isfinite(far := abs(a - b)) else math.inf for a, b in pairs), default=0.0)
