"""Scores equal those that the official implementation gave on the same pairs (see record_reference.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.engine.digest import weights_digest
from tests.engine.support import ROOT, score

from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.scorer import Scorer, ScorerSettings

RECORDED = json.loads((Path(__file__).parent / "data" / "reference.json").read_text(encoding="utf-8"))
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=sorted(RECORDED["checkpoints"]))
def recorded(request):
    """(scorer, official scores by case) of a demo checkpoint."""
    folder = ROOT / "demo" / "checkpoints" / request.param
    entry = RECORDED["checkpoints"][request.param]
    assert weights_digest(folder) == entry["weights"], f"{folder} changed: record its reference scores again"
    return Scorer(folder, ScorerSettings()), entry["scores"]


def differences(scorer, scores, prepare=lambda prepared: prepared):
    found = {}
    for case in RECORDED["cases"]:
        request = scorer.parse(
            json.dumps(case["query"]).encode(),
            [json.dumps(document).encode() for document in case["documents"]],
            case["instruction"].encode() if "instruction" in case else None,
        )
        ours = scorer.score([prepare(scorer.prepare(request))])[0]
        found[case["id"]] = float(np.abs(ours - scores[case["id"]]).max())
    return found


def test_enough_is_recorded():
    assert len(RECORDED["cases"]) >= 24


def test_scores_equal_the_official_ones(recorded):
    found = differences(*recorded)
    worst = max(found, key=found.get)
    assert found[worst] <= TOLERANCE, found


def test_a_position_off_by_one_is_noticed(recorded):
    """The parity test can tell: a fault as small as every document position one too far is far over its tolerance."""

    def off_by_one(prepared):
        return replace(prepared, query=replace(prepared.query, length=prepared.query.length + 1))

    assert max(differences(*recorded, off_by_one).values()) > 10 * TOLERANCE


def test_dropped_deepstack_is_noticed(recorded, monkeypatch):
    scorer, scores = recorded
    see = scorer.model.see

    def without(*arguments):
        features = see(*arguments)
        return features._replace(deepstack=[level * 0 for level in features.deepstack])

    monkeypatch.setattr(scorer, "cache", FeatureCache(0))
    monkeypatch.setattr(scorer.model, "see", without)
    assert max(differences(scorer, scores).values()) > 10 * TOLERANCE


def test_score_helper_agrees_with_the_recorded_form(base):
    """The other tests' helper sends what the recorded cases send."""
    case = RECORDED["cases"][0]
    expected = RECORDED["checkpoints"]["base"]["scores"][case["id"]]
    assert np.abs(score(base, case["query"], case["documents"]) - expected).max() <= TOLERANCE


def test_half_precision_stays_near(base):
    """bf16 moves logits, and less than the invariance gate allows."""
    half = Scorer(ROOT / "demo" / "checkpoints" / "base", ScorerSettings(dtype=torch.bfloat16))
    for case in RECORDED["cases"][:12]:
        raw = [json.dumps(document).encode() for document in case["documents"]]
        request = base.parse(json.dumps(case["query"]).encode(), raw)
        full, near = (scorer.logits([scorer.prepare(request)])[0] for scorer in (base, half))
        assert np.abs(full - near).max() <= 0.25
