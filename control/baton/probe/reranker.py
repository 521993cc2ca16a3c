"""The probe of a reranker: scores of (query, document) pairs, by the tensors of the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

from baton.client import Content, decode, encode
from baton.errors import TritonError
from baton.probe.base import Infer, Stop, Tensors, check
from baton.probe.golden import GoldenCase, GoldenSet
from baton.samples import CaseScores, ScorePair

NEEDED = frozenset({"query", "documents", "scores", "model_version"})
"""The tensors that a model must have to be asked by this probe, and by any client."""
_ALONE = 100
"""Documents that are scored one at a time, about, where a golden set is large."""
_INVARIANCE_CASES = 4
_INVARIANCE_DOCUMENTS = 4
"""Of each case. Each is a request of its own, besides one mixed request for each case."""
_MIXED_WITH = 12
"""Documents of other cases in a mixed batch, at most."""
_LATENCY_REQUESTS = 8
"""So few that the p95 of all answers lies well inside the answers to the largest, and not on the edge between two."""


class RerankerProbe:
    """Sends the requests of a golden set, see :class:`~baton.probe.base.Probe`."""

    def __init__(self, golden: GoldenSet) -> None:
        self._golden = golden

    @property
    def relevance(self) -> Mapping[str, Sequence[int]]:
        """The grades of the labelled cases' documents, by case."""
        return self._golden.relevance

    def smoke(self, infer: Infer, version: int, *, timeout_s: float) -> CaseScores:
        """Ask the smallest golden question, and see that the version answers with its own number."""
        case = min(self._golden.cases, key=lambda case: case.size)
        return _scored(case, _ask(infer, version, case, case.documents, timeout_s))

    def score_golden(self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float) -> list[CaseScores]:
        """Score each golden request, one at a time.

        In half precision another layout of the same pairs moves scores by up to 0.008, while the same requests repeat
        exactly: so each version gets the same documents in the same requests, never two of them at once.
        """
        answers = []
        for case in self._golden.cases:
            check(cancelled)
            answers.append(_scored(case, _ask(infer, version, case, case.documents, timeout_s)))
        return answers

    def score_alone(self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float) -> list[ScorePair]:
        """Score each golden request whole, and then its documents one at a time.

        Of a large golden set, cases spread evenly over it. In the demo's bf16 model this moved scores the furthest of
        the layouts that were tried: 0.0006, and 0.00005 or less in halves, in other company, or in reverse order.
        """
        documents = sum(len(case.documents) for case in self._golden.cases)
        count = max(1, len(self._golden.cases) * _ALONE // max(documents, _ALONE))
        pairs = []
        for case in _spread(self._golden.cases, count):
            check(cancelled)
            together = _ask(infer, version, case, case.documents, timeout_s)
            for number, document in enumerate(case.documents):
                check(cancelled)
                [alone] = _ask(infer, version, case, [document], timeout_s)
                pairs.append(ScorePair(case.id, number, alone, together[number]))
        return pairs

    def check_invariance(self, infer: Infer, version: int, *, cancelled: Stop, timeout_s: float) -> list[ScorePair]:
        """Score pairs alone, then between other cases' documents of other kinds and lengths, in reverse order."""
        pairs = []
        for case in _spread(_one_of_each_kind_first(self._golden.cases), _INVARIANCE_CASES):
            documents = [case.documents[i] for i in range(min(len(case.documents), _INVARIANCE_DOCUMENTS))]
            alone = []
            for document in documents:
                check(cancelled)
                alone += _ask(infer, version, case, [document], timeout_s)
            others = [
                other.documents[0] for other in _one_of_each_kind_first(self._golden.cases) if other.id != case.id
            ][:_MIXED_WITH]
            # One of the others before each of ours, the rest behind: positions, neighbours and padding all change.
            mixed: list[Content] = []
            places: list[int] = []
            for document in reversed(documents):
                mixed += others[len(places) : len(places) + 1]
                places.append(len(mixed))
                mixed.append(document)
            mixed += others[len(places) :]
            check(cancelled)
            together = _ask(infer, version, case, mixed, timeout_s)
            pairs += [ScorePair(case.id, i, alone[i], together[place]) for i, place in enumerate(reversed(places))]
        return pairs

    def requests(self) -> Sequence[Tensors]:
        """Return each golden request whole, the kinds taking turns: a few of them have something of each."""
        return _Requests(_one_of_each_kind_first(self._golden.cases))

    def latency_requests(self, documents: int | None = None) -> list[Tensors]:
        """Return up to eight golden requests spread evenly over the sizes, smallest first.

        ``documents``: the most of each request; the stable version answers them beside live traffic.
        """
        by_size = sorted(self._golden.cases, key=lambda case: (case.size, case.id))
        return [_inputs(case, case.documents[:documents]) for case in _spread(by_size, _LATENCY_REQUESTS)]


class _Requests(Sequence[Tensors]):
    """Encoded when they are asked for: a golden set may be large."""

    def __init__(self, cases: Sequence[GoldenCase]) -> None:
        self._cases = cases

    def __len__(self) -> int:
        return len(self._cases)

    @overload
    def __getitem__(self, index: int) -> Tensors: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Tensors]: ...
    def __getitem__(self, index: int | slice) -> Tensors | Sequence[Tensors]:
        if isinstance(index, slice):
            return _Requests(self._cases[index])
        return _inputs(self._cases[index], self._cases[index].documents)


def _inputs(case: GoldenCase, documents: Sequence[Content]) -> Tensors:
    return encode(case.query, documents, instruction=case.instruction, options=case.options)


def _ask(infer: Infer, version: int, case: GoldenCase, documents: Sequence[Content], timeout_s: float) -> list[float]:
    scores, answered = decode(infer(version, _inputs(case, documents), timeout_s))
    if answered != version:
        raise TritonError(f"Version {version} was asked, and {answered} says that it answered (case {case.id}).")
    if len(scores) != len(documents):
        raise TritonError(
            f"Version {version} gave {len(scores)} scores for {len(documents)} documents, case {case.id}."
        )
    return scores


def _scored(case: GoldenCase, scores: list[float]) -> CaseScores:
    return CaseScores(case.id, case.kind, tuple(scores))


def _one_of_each_kind_first(cases: Sequence[GoldenCase]) -> list[GoldenCase]:
    """Order the cases so that the kinds take turns."""
    turn: dict[str, int] = {}
    ranks = []
    for case in cases:
        turn[case.kind] = turn.get(case.kind, 0) + 1
        ranks.append(turn[case.kind])
    return [case for _, case in sorted(zip(ranks, cases, strict=True), key=lambda pair: pair[0])]


def _spread(cases: Sequence[GoldenCase], count: int) -> list[GoldenCase]:
    """Take ``count`` of the cases at even distances, first and last included; of one, the first."""
    if len(cases) <= count:
        return list(cases)
    if count == 1:
        return [cases[0]]
    return [cases[round(i * (len(cases) - 1) / (count - 1))] for i in range(count)]


def _case(name: str, query: str, *documents: str) -> GoldenCase:
    return GoldenCase(name, "text", {"text": query}, tuple({"text": text} for text in documents))


BUILTIN = GoldenSet(
    (
        _case(
            "built-in-1",
            "how to repair a flat bicycle tyre",
            "Take the wheel off, find the hole in the inner tube, and glue a patch over it.",
            "The harbour was built of granite in the eighteenth century.",
            "A bicycle has two wheels.",
            "Bake the bread for forty minutes.",
        ),
        _case(
            "built-in-2",
            "red round shape",
            "a red round shape is seen here",
            "a blue square thing",
            "An invoice is due after thirty days.",
            "red",
        ),
    ),
    digest="",
)
"""What any reranker can be asked that has no golden set: documents that it has to tell apart."""

PROBE = RerankerProbe
