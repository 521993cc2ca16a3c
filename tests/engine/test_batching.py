"""A pair scores the same alone and in company, and company is bounded."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapes import COMBINATIONS, draw, film, tell
from tests.engine.support import BASE, data_uri, score

from reranker_engine.inference.batching import MIN_FILL, batches
from reranker_engine.inference.scorer import Scorer, ScorerSettings


def mixed_requests(rng):
    """Three requests of texts, images and a video, of different lengths."""

    def content(kind):
        thing = tell(rng, rng.choice(COMBINATIONS), "text")
        picture = data_uri(draw(rng, thing.combination))
        return {
            "text": {"text": thing.text},
            "long": {"text": thing.text * rng.randint(5, 40)},
            "image": {"image": picture},
            "images": {"image": [picture, data_uri(draw(rng, thing.combination))], "text": thing.text},
            "video": {"video": [data_uri(frame) for frame in film(rng, thing.combination, 2)]},
        }[kind]

    kinds = ["text", "text", "long", "image", "images", "video", "long", "text"]
    return [(content(query), [content(kind) for kind in kinds]) for query in ("text", "image", "long")]


def prepare(scorer, query, documents):
    return scorer.prepare(scorer.parse(json.dumps(query).encode(), [json.dumps(one).encode() for one in documents]))


@pytest.mark.parametrize("budget", [200, 2000, 16384])
def test_a_pair_scores_the_same_alone_and_in_a_mixed_batch(base, budget):
    requests = mixed_requests(random.Random(3))
    scorer = Scorer(BASE, ScorerSettings(max_batch_tokens=budget, max_batch_patches=budget))
    together = scorer.score([prepare(scorer, *request) for request in requests])
    for (query, documents), scores in zip(requests, together, strict=True):
        alone = np.concatenate([score(base, query, [document]) for document in documents])
        assert np.abs(scores - alone).max() <= 1e-5


def test_scores_stand_in_document_order(base):
    query, documents = mixed_requests(random.Random(5))[0]
    order = list(range(len(documents)))
    random.Random(1).shuffle(order)
    scores = score(base, query, documents)
    assert len(set(scores.round(6))) == len(documents)
    assert np.abs(score(base, query, [documents[at] for at in order]) - scores[order]).max() <= 1e-5


def test_the_same_picture_is_seen_once(base, monkeypatch):
    seen = []
    see = base.model.see
    monkeypatch.setattr(base.model, "see", lambda patches, grids: seen.append(len(grids)) or see(patches, grids))
    picture = data_uri(draw(random.Random(1), ("red", "circle")))
    score(base, {"image": picture}, [{"image": picture}, {"image": [picture, picture]}])
    assert seen == [1]


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 2000))
def test_batches_hold_every_item_once_within_the_budget(lengths, budget):
    groups = batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= budget
        assert all(lengths[index] >= MIN_FILL * longest for index in group)
