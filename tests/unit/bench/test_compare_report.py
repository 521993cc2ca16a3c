"""What the comparison prints, from figures that are written down by hand."""

from __future__ import annotations

import io
from dataclasses import replace

from bench.compare.measure import Measured, Swing
from bench.compare.paths import Cost
from bench.compare.report import best, cost_table, table
from bench.compare.run import promises
from rich.console import Console

CALM = Swing(0.040, 0.031, 0.052)
GOOD = Measured(12.3, 0, 400, 0, CALM, CALM, 0.05, 300 * 2**20, 500 * 2**20)
NOTHING = Swing(float("nan"), float("nan"), float("nan"))
HEADS = ("(a) stop, start", "(b) poll", "(c) nginx", "(d) one process", "(e) Baton")


def printed(shown):
    page = io.StringIO()
    Console(file=page, width=80).print(shown)
    return page.getvalue()


def test_the_table_fits_into_80_columns_with_long_figures():
    slow = replace(GOOD, update_s=1234.5, during=Swing(12.345, 0.031, 98.765), memory_peak=123456 * 2**20)
    text = printed(table(dict.fromkeys(HEADS, slow)))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert text.count("31-98765") == 5
    assert "…" not in text


def test_a_swing_without_any_answer_is_shown_as_unknown():
    lines = [line.split() for line in printed(table({"(a) x": replace(GOOD, during=NOTHING)})).splitlines()]
    assert ["p95", "during,", "ms", "-"] in lines
    assert ["lowest", "to", "highest", "-"] in lines


def test_the_best_of_each_row_is_named_even_when_it_is_not_baton():
    sentence = best({"(a) x": replace(GOOD, failed=3), "(b) y": replace(GOOD, update_s=2.5), "(e) Baton": GOOD})
    assert "time of the update (b);" in sentence
    assert "failed requests (b) (e);" in sentence
    assert "memory at peak all." in sentence


def test_what_can_not_be_told_is_never_the_best():
    sentence = best({"(a) x": replace(GOOD, during=NOTHING), "(b) y": GOOD})
    assert "p95 during (b);" in sentence


def test_ratios_are_to_the_first_path_of_the_same_concurrency():
    costs = [Cost("direct", 1, 0.01, 0.02), Cost("public", 1, 0.011, 0.03), Cost("direct", 8, 0.1, 0.2)]
    lines = [line.split() for line in printed(cost_table(costs, "Costs")).splitlines()]
    assert ["public", "1", "11.0", "30.0", "1.10", "x", "1.50", "x"] in lines
    assert ["direct", "8", "100.0", "200.0", "1.00", "x", "1.00", "x"] in lines


def test_promises_are_kept_with_no_failure_no_gap_and_a_cheap_alias():
    assert promises(GOOD, [Cost("direct", 1, 0.010, 0.02), Cost("public", 1, 0.0109, 0.05)]) == []


def test_each_broken_promise_is_named():
    paths = [Cost("direct", 1, 0.010, 0.02), Cost("public", 1, 0.012, 0.02)]
    failed, dark, dear = promises(replace(GOOD, failed=2, dark_s=1), paths)
    assert "2 requests failed" in failed
    assert "1 s without service" in dark
    assert "1.20 times" in dear
