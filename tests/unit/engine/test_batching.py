"""A pair scores the same alone and in company, and company is bounded."""

from __future__ import annotations

import json
import random
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import COMBINATIONS, draw, film, tell
from tests.unit.engine.support import BASE, data_uri, score
from torch.nn import functional

from reranker_engine.inference import scorer as scorer_module
from reranker_engine.inference.batching import MAX_SKIPPED, RemainingWork, next_pass, vision_batches
from reranker_engine.inference.cache import FeatureCache
from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.model import decoder, packing
from reranker_engine.model.packing import SliceLengths, layout


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
    scorer = Scorer(BASE, ScorerSettings(max_batch_tokens=budget))
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
    encode_visuals = base.model.encode_visuals
    monkeypatch.setattr(base, "cache", FeatureCache(0))
    monkeypatch.setattr(
        base.model, "encode_visuals", lambda patches, grids: seen.append(len(grids)) or encode_visuals(patches, grids)
    )
    picture = data_uri(draw(random.Random(1), ("red", "circle")))
    score(base, {"image": picture}, [{"image": picture}, {"image": [picture, picture]}])
    assert seen == [1]


@pytest.mark.parametrize(("dtype", "together"), [(torch.float32, [3, 2]), (torch.bfloat16, [1] * 5)])
def test_several_pictures_are_seen_at_once_in_fp32_only(monkeypatch, dtype, together):
    """As many as the bound holds, which here is three pictures of 64x64, 16 patches each."""
    monkeypatch.setattr(scorer_module, "VISION_BATCH_PATCHES", 3 * 16 + 15)
    scorer = Scorer(BASE, ScorerSettings(dtype=dtype, vision_cache_bytes=0))
    seen = []
    encode_visuals = scorer.model.encode_visuals
    monkeypatch.setattr(
        scorer.model, "encode_visuals", lambda patches, grids: seen.append(len(grids)) or encode_visuals(patches, grids)
    )
    pictures = [{"image": data_uri(draw(random.Random(at), ("red", "circle")))} for at in range(5)]
    score(scorer, {"text": "red"}, pictures)
    assert seen == together


def test_pictures_of_several_sizes_seen_together_have_the_features_that_each_has_alone(base):
    """A video among them; a fault in who gets whose features would move them by far more."""
    still = draw(random.Random(1), ("red", "circle"))
    contents = [
        *({"image": data_uri(still.resize(size))} for size in ((96, 64), (64, 64), (160, 96))),
        {"video": [data_uri(frame) for frame in film(random.Random(2), ("blue", "star"), 4)]},
        {"image": data_uri(draw(random.Random(3), ("green", "ring")))},
    ]
    raw = [json.dumps(one).encode() for one in contents]
    visuals = [part.visuals[0] for part in base.prepare(base.parse(b'{"text": "red"}', raw)).documents]
    (group,) = vision_batches(visuals, 10**6)
    assert sorted(map(id, group)) == sorted(map(id, visuals))
    with torch.inference_mode():
        alone = [base.model.encode_visuals(visual.patches, [visual.grid]) for visual in group]
        found = base.model.encode_visuals(
            torch.cat([visual.patches for visual in group]), [visual.grid for visual in group]
        )
    parts = found.split([visual.tokens for visual in group])
    for one, part in zip(alone, parts, strict=True):
        assert part.embeds.untyped_storage().nbytes() == part.embeds.nbytes, "a view keeps all of them in memory"
        for expected, level in zip((one.embeds, *one.deepstack), (part.embeds, *part.deepstack), strict=True):
            assert (expected - level).abs().max() <= 1e-4 * expected.abs().max()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 7), min_size=1, max_size=8)), min_size=1, max_size=4),
    st.integers(40, 3000),
)
def test_no_company_and_no_order_changes_a_score(alone, chosen, budget):
    """Any documents of any requests, in any order and any number, cut into passes anywhere."""
    scorer, prepared, expected = alone
    asked = [
        replace(prepared[query], documents=tuple(prepared[query].documents[at] for at in picks))
        for query, picks in chosen
    ]
    found = replaced(scorer, max_batch_tokens=budget).score(asked)
    for (query, picks), scores in zip(chosen, found, strict=True):
        assert np.abs(scores - expected[query][picks]).max() <= 1e-5


def replaced(scorer, **settings):
    """The same loaded model under other settings."""
    other = copy(scorer)
    other.settings = replace(scorer.settings, **settings)
    return other


@pytest.fixture(scope="module")
def alone(base):
    """(scorer, three requests, the score that each of their documents gets on its own)."""
    prepared = [prepare(base, *request) for request in mixed_requests(random.Random(9))]
    expected = [
        np.concatenate([base.score([replace(one, documents=(document,))])[0] for document in one.documents])
        for one in prepared
    ]
    return base, prepared, expected


def test_the_prefix_is_computed_once_a_request(alone, monkeypatch):
    """Passes after a request's first hold its documents' tokens only."""
    scorer, prepared, _ = alone
    one = prepared[2]
    rows = []
    embed = scorer.model.language_model.embed_tokens
    monkeypatch.setattr(
        embed, "forward", lambda tokens: rows.append(len(tokens)) or functional.embedding(tokens, embed.weight)
    )
    longest = max(len(document.tokens) for document in one.documents)
    replaced(scorer, max_batch_tokens=len(one.query.tokens) + longest).score([one])
    assert len(rows) > 1
    assert sum(rows) == len(one.query.tokens) + sum(len(document.tokens) for document in one.documents)


@pytest.mark.parametrize("bound", [1, 100_000])
def test_attention_in_small_groups_gives_the_same_scores(alone, monkeypatch, bound):
    """The bound on expanded keys, and the blocks of a long stretch's queries, are about memory only."""
    scorer, prepared, expected = alone
    monkeypatch.setattr(packing, "EXPANDED_BYTES", bound)
    monkeypatch.setattr(decoder, "QUERY_BLOCK", 50)
    for scores, wanted in zip(scorer.score(prepared), expected, strict=True):
        assert np.abs(scores - wanted).max() <= 1e-5


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_keys_of_fewer_heads_are_repeated_where_the_kernels_want_it(monkeypatch, heads):
    draws = torch.Generator().manual_seed(5)
    q = torch.randn(2, 5, 8, 4, generator=draws)
    k, v = (torch.randn(2, 9, heads, 4, generator=draws) for _ in range(2))
    mask = torch.ones(5, 9, dtype=torch.bool).tril(4)
    expected = decoder.attend(q, k, v, mask)
    asked = []
    monkeypatch.setattr(decoder, "wants_equal_heads", lambda device: not asked.append(device.type))
    torch.testing.assert_close(decoder.attend(q, k, v, mask), expected)
    assert asked == ["cpu"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_within_the_bound_in_company(alone, dtype):
    """The invariance gate allows a logit to move by 0.25 between a pair alone and in a mixed batch."""
    prepared = alone[1]
    half = Scorer(BASE, ScorerSettings(dtype=dtype))
    for one, together in zip(prepared, half.logits(prepared), strict=True):
        each = [half.logits([replace(one, documents=(document,))])[0] for document in one.documents]
        assert np.abs(np.concatenate(each) - together).max() <= 0.25


@given(
    st.lists(
        st.tuples(st.integers(1, 300), st.lists(st.integers(1, 500), min_size=1, max_size=20)), min_size=1, max_size=6
    ),
    st.integers(1, 2000),
    st.none() | st.integers(1, 2000),
)
def test_passes_hold_every_document_once_within_the_budget(requests, budget, turn):
    works = [RemainingWork(prefix, lengths) for prefix, lengths in requests]
    computed, seen = set(), [[] for _ in requests]
    while any(not work.finished for work in works):
        slices = next_pass(works, budget, turn)
        assert slices
        for batch_slice in slices:
            assert batch_slice.documents
            assert batch_slice.first == (batch_slice.request not in computed)
            computed.add(batch_slice.request)
            seen[batch_slice.request] += batch_slice.documents
            prefix, lengths = requests[batch_slice.request]
            assert (
                batch_slice.last
                == (len(seen[batch_slice.request]) == len(lengths))
                == works[batch_slice.request].finished
            )
            assert batch_slice.tokens == batch_slice.first * prefix + sum(lengths[at] for at in batch_slice.documents)
            assert turn is None or batch_slice.tokens <= turn or len(batch_slice.documents) == 1
        assert (
            sum(batch_slice.tokens for batch_slice in slices) <= budget
            or sum(len(batch_slice.documents) for batch_slice in slices) == 1
        )
        kept = [work.cached_tokens for work in works if work.cached_tokens]
        assert sum(kept) <= budget or len(kept) == 1
    assert [sorted(found) for found in seen] == [list(range(len(lengths))) for _, lengths in requests]
    assert all(work.tokens_left == 0 for work in works)


def test_a_small_request_goes_before_a_large_one_that_came_first():
    large, small = RemainingWork(100, [50] * 1000), RemainingWork(20, [30])
    next_pass([large], 4096, 1024)
    assert [batch_slice.request for batch_slice in next_pass([large, small], 4096, 1024)] == [1, 0]
    assert small.finished
    assert not large.finished


def test_no_stream_of_small_requests_keeps_a_large_one_waiting():
    """Small ones fill every pass; the large one still gets one pass in every ``MAX_SKIPPED`` + 1."""
    large, served = RemainingWork(10, [50] * 1000), 0
    for passes in range(1, 41):
        works = [large, *(RemainingWork(10, [90]) for _ in range(12))]
        served += any(batch_slice.request == 0 for batch_slice in next_pass(works, 1000))
        assert served >= passes // (MAX_SKIPPED + 1)


@given(
    st.lists(
        st.builds(
            SliceLengths,
            st.integers(1, 90),
            st.booleans(),
            st.lists(st.integers(1, 60), min_size=1, max_size=12).map(tuple),
        ),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 20_000_000),
)
def test_every_token_attends_in_one_group(slices, bytes_per_token):
    found = layout(slices, bytes_per_token, torch.device("cpu"))
    total = sum((0 if one.cached else one.prefix) + sum(one.documents) for one in slices)
    indices, documents = [], []
    for group in found.groups:
        flat = group.indices.flatten()
        indices += (flat if group.real is None else flat[group.real]).tolist()
        documents += group.documents.tolist()
        assert (
            len(group.indices) == 1
            or (group.indices.shape[1] + group.prefix_tokens) * len(group.indices) * bytes_per_token
            <= packing.EXPANDED_BYTES
        )
        lengths = group.ends + 1
        assert lengths.min() >= packing.MIN_FILL * lengths.max()
        for number, row, end in zip(group.documents.tolist(), group.indices, group.ends, strict=False):
            assert found.ends[number] == row[end]
    assert sorted(indices) == list(range(total))
    assert sorted(documents) == list(range(sum(len(one.documents) for one in slices)))
