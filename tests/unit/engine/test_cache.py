"""The cache of vision features: it leaves scores as they are, finds by content, and is bounded in bytes."""

from __future__ import annotations

import io
import json
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import COMBINATIONS, draw, film
from tests.unit.engine.support import BASE, data_uri

from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.model.vision import VisualFeatures


def features(tokens):
    return VisualFeatures(torch.zeros(tokens, 4), [torch.zeros(tokens, 4)])


BYTES_PER_TOKEN = 32


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9)), max_size=60), st.integers(0, 500))
def test_it_never_takes_more_than_its_limit(calls, limit):
    """Against a plain list of what was used, newest last."""
    cache, used, asked = FeatureCache(limit), [], 0
    sizes = {}
    for name, tokens in calls:
        digest = bytes([name])
        asked += 1
        found = cache.get(digest)
        assert (found is not None) == (name in used)
        if found is not None:
            used.remove(name)
            used.append(name)
            assert len(found.embeds) == sizes[name]
            continue
        cache.put(digest, features(tokens))
        if tokens * BYTES_PER_TOKEN <= limit:
            used.append(name)
            sizes[name] = tokens
            while sum(sizes[one] for one in used) * BYTES_PER_TOKEN > limit:
                used.pop(0)
        assert cache.used == sum(sizes[one] for one in used) * BYTES_PER_TOKEN <= limit
        assert len(cache) == len(used)
    assert cache.hits + cache.misses == asked


def test_putting_the_same_content_again_replaces_it():
    cache = FeatureCache(1000)
    for tokens in (4, 6):
        cache.put(b"a", features(tokens))
    assert cache.used == 6 * BYTES_PER_TOKEN
    assert len(cache) == 1


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16])
def scorers(request):
    """One checkpoint without a cache, and with one that holds a few pictures only."""
    cold = Scorer(BASE, ScorerSettings(dtype=request.param, vision_cache_bytes=0))
    few = 3 * 4 * 128 * 2 * cold.model.language_model.embed_tokens.weight.element_size()
    return cold, Scorer(BASE, ScorerSettings(dtype=request.param, vision_cache_bytes=few)), few


def pictures():
    rng = random.Random(4)
    stills = [{"image": data_uri(draw(rng, rng.choice(COMBINATIONS)))} for _ in range(5)]
    return [*stills, {"video": [data_uri(frame) for frame in film(rng, ("red", "star"), 2)]}, {"text": "a red star"}]


PICTURES = [json.dumps(one).encode() for one in pictures()]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from(PICTURES), st.lists(st.sampled_from(PICTURES), min_size=1, max_size=5)),
        min_size=1,
        max_size=4,
    )
)
def test_cold_and_warm_scores_are_the_same(scorers, requests):
    """To the bit in half precision, where rounding is coarse; in fp32 images are seen together, in changing company."""
    cold, warm, limit = scorers
    apart = 1e-5 if cold.model.language_model.embed_tokens.weight.dtype is torch.float32 else 0
    for query, documents in requests:
        expected, found = (one.score([one.prepare(one.parse(query, documents))])[0] for one in (cold, warm))
        assert np.abs(expected - found).max() <= apart
    assert warm.cache.used <= limit
    assert cold.cache.used == 0


def test_hits_are_counted_and_save_the_vision_tower(base, monkeypatch):
    cache = FeatureCache(2**20)
    monkeypatch.setattr(base, "cache", cache)
    request = base.prepare(base.parse(b'{"text": "red"}', PICTURES[:3]))
    first = base.score([request])[0]
    assert (cache.hits, cache.misses) == (0, 3)
    monkeypatch.setattr(base.model, "encode_visuals", None)
    assert np.array_equal(base.score([request])[0], first)
    assert (cache.hits, cache.misses) == (3, 3)


def test_content_counts_not_its_encoding(base):
    """The same pixels as PNG and as BMP are one; another picture of the same size is not."""
    image, other = draw(random.Random(1), ("red", "star")), draw(random.Random(1), ("blue", "star"))
    encoded = []
    for picture, kind in ((image, "PNG"), (image, "BMP"), (other, "PNG")):
        buffer = io.BytesIO()
        picture.save(buffer, format=kind)
        encoded.append(buffer.getvalue())
    documents = [json.dumps({"image": {"media": index}}).encode() for index in range(3)]
    prepared = base.prepare(base.parse(b'{"text": "red"}', documents, media=encoded))
    digests = [document.visuals[0].digest for document in prepared.documents]
    assert digests[0] == digests[1] != digests[2]


def test_the_same_pixels_in_another_grid_are_another_content(base):
    wide, high = (draw(random.Random(1), ("red", "star")).resize(size) for size in ((128, 64), (64, 128)))
    documents = [json.dumps({"image": data_uri(picture)}).encode() for picture in (wide, high)]
    prepared = base.prepare(base.parse(b'{"text": "red"}', documents))
    first, second = (document.visuals[0] for document in prepared.documents)
    reshaped = replace(second, frames=first.frames.reshape(second.frames.shape))
    assert reshaped.digest != first.digest
