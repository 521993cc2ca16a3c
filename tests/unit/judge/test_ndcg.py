import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.judge import mean_ndcg_at_10, ndcg_at_10

lists = st.lists(st.tuples(st.floats(0, 1, allow_nan=False, width=32), st.integers(0, 4)), min_size=1, max_size=30).map(
    lambda pairs: tuple(zip(*pairs, strict=True))
)


def test_a_known_figure():
    # Gains 7, 0, 1 in this order: 7/log2(2) + 0 + 1/log2(4) = 7.5; ideal 7 + 1/log2(3).
    assert ndcg_at_10([0.9, 0.5, 0.1], [3, 0, 1]) == pytest.approx(7.5 / (7 + 1 / math.log2(3)))


def test_only_ten_count():
    scores = [1 - i / 20 for i in range(11)]
    assert ndcg_at_10(scores, [0] * 10 + [1]) == 0.0


def test_nothing_relevant_is_no_figure():
    assert ndcg_at_10([0.1, 0.2], [0, 0]) is None
    assert mean_ndcg_at_10([([0.1, 0.2], [0, 0])]) == (None, 0)
    assert mean_ndcg_at_10([([0.1, 0.2], [0, 0]), ([0.1, 0.2], [0, 1])]) == (1.0, 1)


def test_ties_are_the_mean_over_their_orders():
    relevance = [3, 0, 1, 2]
    tied = ndcg_at_10([0.9, 0.5, 0.5, 0.5], relevance)
    orders = [ndcg_at_10([0.9, *order], relevance) for order in itertools.permutations((0.5, 0.4, 0.3))]
    assert tied == pytest.approx(sum(orders) / len(orders))


@pytest.mark.parametrize(("scores", "relevance"), [([0.1], [1, 0]), ([math.nan, 0.2], [1, 0]), ([0.1, 0.2], [-1, 0])])
def test_nonsense_raises(scores, relevance):
    with pytest.raises(ValueError, match=r".+"):
        ndcg_at_10(scores, relevance)


@given(lists)
def test_in_zero_to_one_and_blind_to_the_order_given(pair):
    scores, relevance = pair
    value = ndcg_at_10(scores, relevance)
    assert value is None or 0.0 <= value <= 1.0
    turned = ndcg_at_10(scores[::-1], relevance[::-1])
    assert value == turned or value == pytest.approx(turned)


@given(lists)
def test_the_right_order_is_one(pair):
    _, relevance = pair
    value = ndcg_at_10([float(grade) for grade in relevance], relevance)
    assert value is None or value == pytest.approx(1.0)


@given(lists)
def test_raising_the_best_document_never_hurts(pair):
    scores, relevance = pair
    best = max(range(len(relevance)), key=relevance.__getitem__)
    raised = [2.0 if i == best else score for i, score in enumerate(scores)]
    before, after = ndcg_at_10(scores, relevance), ndcg_at_10(raised, relevance)
    assert before is None or after >= before - 1e-12
