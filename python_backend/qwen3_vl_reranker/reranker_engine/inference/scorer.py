"""Loads a checkpoint and scores requests with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from reranker_engine.model import weights
from reranker_engine.model.config import read_config, read_normalisation
from reranker_engine.model.reranker import SliceInput, TokenSpan
from reranker_engine.model.vision import VisualFeatures

from .batching import VISION_BATCH_PATCHES, next_pass, vision_batches
from .cache import FeatureCache
from .errors import InputError
from .media import MediaReader
from .pixels import PixelPipeline, Visual
from .prompt import Budgets, DecodedContent, PromptBuilder
from .request import RequestLimits, parse_request
from .scoring import PreparedRequest, Scoring
from .sources import MediaPolicy
from .steps import StepKind, Steps, run_steps
from .tokenizer import LONG_TEXT, TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from .batching import BatchSlice
    from .prompt import PromptPart
    from .references import Reference, Video
    from .request import Content, RerankRequest

T = TypeVar("T", bound="Video")

DEFAULT_FPS = 1.0
DEFAULT_MAX_FRAMES = 64


@dataclass(frozen=True)
class ScorerSettings:
    """How to load and run a checkpoint.

    Attributes:
        devices: ``cpu``, or one or more of ``cuda:<n>``; the model is divided among several.
        dtype: Of weights and activations; None takes bf16 on a GPU and fp32 on a CPU.
        budgets: Limits on prompts.
        limits: How large a request may be.
        media: What media may be read.
        max_batch_tokens: Tokens of one forward pass of the decoder.
        vision_cache_bytes: Limit of the cache of image and video features; 0 turns it off.
        map_weights: Map the weights from the checkpoint's files where possible, instead of copying them.
    """

    devices: tuple[str, ...] = ("cpu",)
    dtype: torch.dtype | None = None
    budgets: Budgets = field(default_factory=Budgets)
    limits: RequestLimits = field(default_factory=RequestLimits)
    media: MediaPolicy = field(default_factory=MediaPolicy)
    max_batch_tokens: int = 16384
    vision_cache_bytes: int = 64 * 2**20
    map_weights: bool = False


class Scorer:
    """One loaded checkpoint."""

    def __init__(self, folder: Path, settings: ScorerSettings) -> None:
        """Load the checkpoint in ``folder``; nothing is written there.

        Raises:
            CheckpointError: The folder is not a complete, undamaged checkpoint of this architecture.
        """
        config = read_config(folder)
        tokenizer = TextTokenizer(folder)
        mean, std = read_normalisation(folder)
        self.settings = settings
        self._prompts = PromptBuilder(tokenizer, config, settings.budgets)
        self._pixels = PixelPipeline(config.vision, mean, std)
        devices = [torch.device(device) for device in settings.devices]
        dtype = settings.dtype or (torch.bfloat16 if devices[0].type == "cuda" else torch.float32)
        self._vision_batch_patches = VISION_BATCH_PATCHES if dtype is torch.float32 else 0
        self.cache = FeatureCache(settings.vision_cache_bytes)
        self.model, self.mapped = weights.load(
            folder, dtype=dtype, devices=devices, yes=tokenizer.yes, no=tokenizer.no, mapped=settings.map_weights
        )

    def watch_layers(self, heartbeat: Callable[[], None]) -> None:
        """Have ``heartbeat`` called after each layer of a pass, on the thread that computes it."""
        self.model.visual.heartbeat = self.model.language_model.heartbeat = heartbeat

    def parse(
        self,
        query: bytes,
        documents: Sequence[bytes],
        instruction: bytes | None = None,
        options: bytes | None = None,
        media: Sequence[bytes] = (),
    ) -> RerankRequest:
        """Check a request; see ``request.parse_request``."""
        reader = MediaReader(self.settings.media, media)
        return parse_request(query, documents, instruction, options, reader, self.settings.limits)

    def prepare(self, request: RerankRequest) -> PreparedRequest:
        """Decode and tokenize a request.

        Raises:
            InputError: Names the query or the document at fault, and the cause.
        """
        return run_steps(self.preparing(request))

    def preparing(self, request: RerankRequest) -> Steps[PreparedRequest]:
        """As ``prepare``, in steps. Different threads may run them, one after the other."""
        visuals_of_request = _RequestVisuals(self.settings.limits.max_visual_tokens)
        most = self.settings.limits.max_request_tokens
        try:
            content = yield from self._load(request.query, request, visuals_of_request)
        except InputError as error:
            raise error.at("query") from error
        yield _tokenizing(request.instruction, *content.texts)
        query = self._prompts.query(request.instruction, content)
        _check_cut("query", query, request)
        yield StepKind.SHORT
        tokens = len(query.tokens)
        documents = []
        for index, document in enumerate(request.documents):
            try:
                content = yield from self._load(document, request, visuals_of_request)
                yield _tokenizing(*content.texts)
                documents.append(self._prompts.document(query, content, request.options.max_document_tokens))
            except InputError as error:
                raise error.at(f"document {index}") from error
            _check_cut(f"document {index}", documents[-1], request)
            tokens += len(documents[-1].tokens)
            if tokens > most:
                raise InputError(
                    f"document {index}: makes more than {most} tokens in one request; send fewer documents at a time"
                )
            yield StepKind.SHORT
        return PreparedRequest(query, tuple(documents))

    def score(self, requests: Sequence[PreparedRequest]) -> list[NDArray[np.float32]]:
        """Scores of each request's documents, in document order, each in 0..1 (or NaN if the weights make it so).

        Pairs of all requests share forward passes. Each distinct image or video that the cache lacks is encoded once.
        """
        return [scores_of(logits) for logits in self.logits(requests)]

    def logits(self, requests: Sequence[PreparedRequest]) -> list[NDArray[np.float32]]:
        """As ``score``, before the sigmoid."""
        scorings = [Scoring(request) for request in requests]
        while any(not scoring.work.finished for scoring in scorings):
            self.advance(scorings)
        return [scoring.logits for scoring in scorings]

    @torch.inference_mode()
    def advance(self, scorings: Sequence[Scoring], max_slice: int | None = None) -> list[BatchSlice]:
        """Compute one pass of some requests, and return its slices.

        If it raises, unfinished scorings are invalid: start them again.

        Args:
            scorings: The requests; at least one is not finished.
            max_slice: See ``next_pass``.
        """
        slices = next_pass([scoring.work for scoring in scorings], self.settings.max_batch_tokens, max_slice)
        self._encode_visuals([(scorings[batch_slice.request], batch_slice) for batch_slice in slices])
        prompts = []
        for batch_slice in slices:
            scoring = scorings[batch_slice.request]
            query, documents = scoring.prepared.query, scoring.prepared.documents
            prefix = scoring.prefix_cache or _span(query, 0, scoring.features)
            own = tuple(_span(documents[at], query.length, scoring.features) for at in batch_slice.documents)
            prompts.append(SliceInput(prefix, own, keep=not batch_slice.last))
        logits, caches = self.model(prompts)
        parts = logits.cpu().split([len(batch_slice.documents) for batch_slice in slices])
        for batch_slice, part, prefix_cache in zip(slices, parts, caches, strict=True):
            scorings[batch_slice.request].store(batch_slice, part.numpy(), prefix_cache)
        return slices

    def _encode_visuals(self, parts: Sequence[tuple[Scoring, BatchSlice]]) -> None:
        """Provide the features of the images and videos of a pass; each distinct one is encoded once.

        Several are encoded together, except in half precision: rounding may depend on the other images in the batch,
        and there it is so coarse that scores with features from the cache would differ from scores without.
        """
        wanted = [
            (scoring, visual)
            for scoring, batch_slice in parts
            for visual in scoring.visuals(batch_slice)
            if id(visual) not in scoring.features
        ]
        known: dict[bytes, VisualFeatures] = {}
        unknown: dict[bytes, Visual] = {}
        for visual in {visual.digest: visual for _, visual in wanted}.values():
            features = self.cache.get(visual.digest)
            if features is None:
                unknown[visual.digest] = visual
            else:
                known[visual.digest] = features
        for group in vision_batches(list(unknown.values()), self._vision_batch_patches):
            found = self.model.encode_visuals(
                torch.cat([visual.patches for visual in group]), [visual.grid for visual in group]
            )
            for visual, features in zip(group, found.split([visual.tokens for visual in group]), strict=True):
                self.cache.put(visual.digest, features)
                known[visual.digest] = features
        for scoring, visual in wanted:
            scoring.features[id(visual)] = known[visual.digest]

    def _load(
        self, content: Content, request: RerankRequest, visuals_of_request: _RequestVisuals
    ) -> Steps[DecodedContent]:
        fps = request.options.fps or DEFAULT_FPS
        max_frames = request.options.max_frames or DEFAULT_MAX_FRAMES

        reader = request.reader

        def picture(reference: Reference) -> Steps[Image.Image]:
            return (yield from reader.image_steps((yield from _bytes(reader, reference))))

        def image(reference: Reference) -> Steps[Visual]:
            return self._pixels.image((yield from picture(reference)))

        def video(one: Video) -> Steps[Visual]:
            if isinstance(one, tuple):
                return (yield from self._pixels.frames_steps(frames(one), len(one), max_frames))
            data = yield from _bytes(reader, one)
            return (yield from self._pixels.video_steps((yield from reader.video_steps(data, fps, max_frames))))

        def frames(references: Sequence[Reference]) -> Iterator[Image.Image | StepKind]:
            for index, reference in enumerate(references):
                try:
                    yield (yield from picture(reference))
                except InputError as error:
                    raise error.at(f"frame {index}") from error

        videos = yield from visuals_of_request.once("video", content.videos, video)
        images = yield from visuals_of_request.once("image", content.images, image)
        return DecodedContent((*videos, *images), content.texts)


class _RequestVisuals:
    """The decoded images and videos of one request.

    The same one is often in several documents; it is then decoded once and, being one object, encoded once.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens = 0
        self._visuals: dict[object, Visual] = {}

    def once(self, kind: str, references: Sequence[T], load: Callable[[T], Steps[Visual]]) -> Steps[list[Visual]]:
        """Load each reference, or take the result of an equal one."""
        visuals = []
        for index, reference in enumerate(references):
            key = (kind, reference)
            if key not in self._visuals:
                try:
                    self._visuals[key] = self._counted((yield from load(reference)))
                except InputError as error:
                    raise error.at(f"{kind} {index}") from error
            visuals.append(self._visuals[key])
        return visuals

    def _counted(self, visual: Visual) -> Visual:
        self._tokens += visual.tokens
        if self._tokens > self._max_tokens:
            raise InputError(
                f"makes more than {self._max_tokens} tokens of images and videos in one request; "
                "send smaller ones, or fewer documents at a time"
            )
        return visual


def _bytes(reader: MediaReader, reference: Reference) -> Steps[bytes]:
    """Read the encoded bytes; the next step may decode them."""
    if reader.is_remote(reference):
        yield StepKind.NETWORK
        reader.read(reference)  # it keeps the bytes
    yield StepKind.LONG
    return reader.read(reference)


def _tokenizing(*texts: str) -> StepKind:
    return StepKind.LONG if sum(map(len, texts)) > LONG_TEXT else StepKind.SHORT


def _span(part: PromptPart, position: int, features: dict[int, VisualFeatures]) -> TokenSpan:
    """A part of the prompt that begins at ``position``, with the features of its images and videos."""
    return TokenSpan(
        tokens=torch.from_numpy(part.tokens),
        positions=torch.from_numpy(part.positions + position),
        visual_indices=torch.from_numpy(part.visual_indices),
        features=tuple(features[id(visual)] for visual in part.visuals),
    )


def scores_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sigmoid, in fp32."""
    return torch.from_numpy(logits).sigmoid().numpy()


def _check_cut(place: str, part: PromptPart, request: RerankRequest) -> None:
    if part.cut and request.options.refuse_truncation:
        raise InputError(
            f"{place}: its text is {part.cut} tokens too long; they would be left out, which options.truncation refuses"
        )
