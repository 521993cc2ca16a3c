"""Scores equal those that the official implementation gave on the same requests (see record_reference.py)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.unit.engine.digest import weights_digest
from tests.unit.engine.reference_cases import make_cases
from tests.unit.engine.reference_cases_media import is_video
from tests.unit.engine.support import ROOT

from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.media import MediaReader
from reranker_engine.inference.scorer import DEFAULT_FPS, DEFAULT_MAX_FRAMES, Scorer, ScorerSettings

RECORDED = json.loads((Path(__file__).parent / "data" / "reference.json").read_text(encoding="utf-8"))
CHECKPOINTS = sorted(RECORDED["checkpoints"])
FAMILIES = sorted({name.partition("/")[0] for name in RECORDED["digests"]})
TOLERANCE = 1e-4
"""Of scores and of logits, in fp32. Both, as a score near 0 or 1 hides what happens to its logit."""
HALF_TOLERANCE = 0.25
"""Of logits in bf16, as promised in docs/reference/engine.md."""
COMPANY = 4
"""Cases that are scored in one call."""
SLOW = ("frames", "large", "length", "mixed", "video")
"""Families of which the first checkpoint takes every fourth case, so that the test stays quick."""


@pytest.fixture(scope="module")
def cases():
    return make_cases()


@pytest.fixture(scope="module", params=CHECKPOINTS)
def recorded(request):
    """(scorer, official logits by case, whether it takes every case) of a demo checkpoint."""
    folder = ROOT / "demo" / "checkpoints" / request.param
    entry = RECORDED["checkpoints"][request.param]
    assert weights_digest(folder) == entry["weights"], f"{folder} changed: record its reference scores again"
    official = {name: np.float32(logits) for name, logits in entry["logits"].items()}
    return Scorer(folder, ScorerSettings()), official, request.param == CHECKPOINTS[-1]


def prepared(scorer, case):
    return scorer.prepare(
        scorer.parse(
            json.dumps(case.query).encode(),
            [json.dumps(document).encode() for document in case.documents],
            None if case.instruction is None else case.instruction.encode(),
            json.dumps(case.options).encode(),
            case.media,
        )
    )


def logits(scorer, cases, change=lambda one: one):
    found = {}
    for start in range(0, len(cases), COMPANY):
        chosen = cases[start : start + COMPANY]
        answers = scorer.logits([change(prepared(scorer, case)) for case in chosen])
        found.update(zip((case.id for case in chosen), answers, strict=True))
    return found


def differences(found, official):
    """By case: the largest difference of its documents, in logits or in scores, whichever is larger."""
    return {
        name: max(np.abs(ours - official[name]).max(), np.abs(sigmoid(ours) - sigmoid(official[name])).max())
        for name, ours in found.items()
    }


def sigmoid(values):
    return torch.from_numpy(values).sigmoid().numpy()


def in_family(cases, family):
    return [case for case in cases if case.family == family]


def test_the_cases_are_those_recorded(cases):
    """Else a difference in scores would tell of the media, and not of the engine."""
    assert len(cases) >= 200
    changed = [case.id for case in cases if RECORDED["digests"].get(case.id) != case.digest()]
    assert not changed, f"made otherwise than with {RECORDED['made with']}: record again"
    for name in CHECKPOINTS:
        assert RECORDED["checkpoints"][name]["logits"].keys() == {case.id for case in cases}


def test_the_cases_reach_the_limits(cases, base):
    tokens = {case.id: _pair_tokens(prepared(base, case)) for case in in_family(cases, "length")}
    limit = base.settings.budgets.max_length + 5
    assert tokens["length/limit-1"] == limit - 1
    # One fits to the token, the others are cut.
    assert all(tokens[f"length/limit{over}"] == limit for over in ("+0", "+1", "+2", "+700"))
    assert all(tokens[f"length/{kind}-cut"] == limit for kind in ("image", "video", "image-query", "list"))


def _pair_tokens(one):
    return len(one.query.tokens) + max(len(document.tokens) for document in one.documents)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_the_official_ones(recorded, cases, family):
    scorer, official, whole = recorded
    chosen = in_family(cases, family)[:: 1 if whole or family not in SLOW else 4]
    found = differences(logits(scorer, chosen), official)
    worst = max(found, key=found.get)
    assert found[worst] <= TOLERANCE, {name: one for name, one in found.items() if one > TOLERANCE}


def test_the_frames_of_encoded_videos_are_the_official_ones(cases):
    reader = MediaReader()
    compared = 0
    for case in cases:
        fps, most = case.options.get("fps", DEFAULT_FPS), case.options.get("max_frames", DEFAULT_MAX_FRAMES)
        for index, data in enumerate(case.media):
            if is_video(data):
                video = reader.video(data, fps, most)
                official = RECORDED["videos"][case.id][str(index)]
                assert list(video.indices) == official["frames"], (case.id, index)
                assert video.fps == pytest.approx(official["fps"], abs=1e-5), (case.id, index)
                compared += 1
    assert compared == sum(len(videos) for videos in RECORDED["videos"].values())


@pytest.mark.parametrize("family", ["edge", "text", "image", "mixed"])
def test_a_position_off_by_one_is_noticed(recorded, cases, family):
    """The parity test can tell: a fault as small as every document position one too far is far over its tolerance."""
    scorer, official, _ = recorded

    def off_by_one(one):
        return replace(one, query=replace(one.query, length=one.query.length + 1))

    found = differences(logits(scorer, in_family(cases, family)[:6], off_by_one), official)
    assert max(found.values()) > 10 * TOLERANCE


@pytest.mark.parametrize("family", ["image", "images", "frames", "video", "mixed"])
def test_dropped_deepstack_is_noticed(recorded, cases, family, monkeypatch):
    scorer, official, _ = recorded
    encode_visuals = scorer.model.encode_visuals

    def without(*arguments):
        features = encode_visuals(*arguments)
        return features._replace(deepstack=[level * 0 for level in features.deepstack])

    monkeypatch.setattr(scorer, "cache", FeatureCache(0))
    monkeypatch.setattr(scorer.model, "encode_visuals", without)
    found = differences(logits(scorer, in_family(cases, family)[:4]), official)
    assert max(found.values()) > 10 * TOLERANCE


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_half_precision_stays_near(cases, name):
    """bf16 moves logits, and by no more than is promised."""
    half = Scorer(ROOT / "demo" / "checkpoints" / name, ScorerSettings(dtype=torch.bfloat16))
    official = RECORDED["checkpoints"][name]["logits"]
    found = logits(half, [case for case in cases if case.family not in ("frames", "large", "length")][::6])
    apart = {case: float(np.abs(ours - official[case]).max()) for case, ours in found.items()}
    worst = max(apart, key=apart.get)
    assert 0 < apart[worst] <= HALF_TOLERANCE, apart
