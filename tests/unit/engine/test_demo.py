"""The demo's golden set and checkpoints are what the documentation says they are."""

from __future__ import annotations

import pytest
from evaluate import GOLDEN, evaluate, ndcg, read_golden
from golden import make_golden
from shapes import COLOURS, HELD_OUT, SEEN, SHAPES
from tests.unit.engine.support import BASE, RETRAINED, ROOT

CASES = read_golden()


def test_the_golden_set_is_small_and_complete():
    assert GOLDEN == ROOT / "demo" / "golden" / "golden.jsonl"
    assert GOLDEN.stat().st_size < 2_000_000
    assert 40 <= len(CASES) <= 60
    assert len({case["id"] for case in CASES}) == len(CASES)
    assert {case["kind"] for case in CASES} == {"text", "image", "video", "mixed"}
    for case in CASES:
        assert 6 <= len(case["documents"]) == len(case["relevance"]) <= 12
        assert set(case["relevance"]) == {0, 1}


def test_the_golden_set_is_what_its_script_makes():
    """All but the pictures' bytes, which depend on the version of the PNG encoder."""

    def shape(case):
        contents = [case["query"], *case["documents"]]
        told = [(sorted(content), content.get("text"), len(content.get("video", ()))) for content in contents]
        return case["id"], case["kind"], told, case["relevance"], case.get("instruction")

    assert [shape(case) for case in make_golden()] == [shape(case) for case in CASES]


def test_held_out_combinations_leave_every_colour_and_shape_to_be_learnt():
    assert not set(HELD_OUT) & set(SEEN)
    for part, names in ((0, COLOURS), (1, SHAPES)):
        assert {pair[part] for pair in SEEN} == set(names) == {pair[part] for pair in HELD_OUT}


def test_ndcg():
    assert ndcg([0.9, 0.5, 0.1], [1, 0, 0]) == 1
    assert ndcg([0.1, 0.5, 0.9], [1, 0, 0]) == pytest.approx(0.5)
    assert ndcg([0.9, 0.8, 0.7], [0, 1, 1]) == pytest.approx((0.6309 + 0.5) / (1 + 0.6309), abs=1e-4)


@pytest.mark.slow
def test_retrained_ranks_clearly_better_than_base():
    cases = [case for case in CASES if case["kind"] in ("text", "image")]
    before, after = evaluate(BASE, cases), evaluate(RETRAINED, cases)
    assert after["all"] >= before["all"] + 0.02
    assert after["all"] >= 0.93
