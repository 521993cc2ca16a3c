"""Loads a checkpoint and scores requests with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from reranker_engine.model import weights
from reranker_engine.model.config import read_config, read_normalisation
from reranker_engine.model.reranker import Prompts, Stretch
from reranker_engine.model.vision import VisualFeatures

from .batching import SEEN_PATCHES, next_pass, seen_together
from .cache import FeatureCache
from .errors import InputError
from .media import MediaReader
from .pixels import Pixels, Visual
from .prompt import Budgets, Loaded, PromptBuilder
from .request import RequestLimits, parse_request
from .scoring import Prepared, Scoring
from .sources import MediaPolicy
from .steps import Next, Steps, finished
from .tokenizer import LONG_TEXT, TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from .batching import Portion
    from .prompt import Part
    from .references import Reference, Video
    from .request import Content, RerankRequest

T = TypeVar("T", bound="Video")

DEFAULT_FPS = 1.0
DEFAULT_MAX_FRAMES = 64


@dataclass(frozen=True)
class ScorerSettings:
    """How to load and run a checkpoint.

    Attributes:
        devices: ``cpu``, or one or more of ``cuda:<n>``, among which the model is divided.
        dtype: Of weights and activations; None takes bf16 on a GPU and fp32 on a CPU.
        budgets: Limits on prompts.
        limits: How large a request may be.
        media: What media may be read.
        max_batch_tokens: Tokens of one forward pass of the decoder.
        vision_cache_bytes: What the features of images and videos seen before may take; 0 keeps none.
        map_weights: Leave weights on a mapping of the checkpoint's files where that can be done.
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
            CheckpointError: The folder is not a complete, whole checkpoint of the right kind.
        """
        config = read_config(folder)
        tokenizer = TextTokenizer(folder)
        mean, std = read_normalisation(folder)
        self.settings = settings
        self._prompts = PromptBuilder(tokenizer, config, settings.budgets)
        self._pixels = Pixels(config.vision, mean, std)
        devices = [torch.device(device) for device in settings.devices]
        dtype = settings.dtype or (torch.bfloat16 if devices[0].type == "cuda" else torch.float32)
        self._seen_patches = SEEN_PATCHES if dtype is torch.float32 else 0
        self.cache = FeatureCache(settings.vision_cache_bytes)
        self.model, self.mapped = weights.load(
            folder, dtype=dtype, devices=devices, yes=tokenizer.yes, no=tokenizer.no, mapped=settings.map_weights
        )

    def watch_layers(self, beat: Callable[[], None]) -> None:
        """Have ``beat`` called after each layer of a pass, on the thread that computes it."""
        self.model.visual.beat = self.model.language_model.beat = beat

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

    def prepare(self, request: RerankRequest) -> Prepared:
        """Decode and tokenize a request.

        Raises:
            InputError: Names the query or the document at fault, and the cause.
        """
        return finished(self.preparing(request))

    def preparing(self, request: RerankRequest) -> Steps[Prepared]:
        """As ``prepare``, in steps; any thread may go on with it, one at a time."""
        seen = _Seen(self.settings.limits.max_visual_tokens)
        most = self.settings.limits.max_request_tokens
        try:
            content = yield from self._load(request.query, request, seen)
        except InputError as error:
            raise error.at("query") from error
        yield _tokenizing(request.instruction, *content.texts)
        query = self._prompts.query(request.instruction, content)
        _check_cut("query", query, request)
        yield Next.SHORT
        tokens = len(query.tokens)
        documents = []
        for index, document in enumerate(request.documents):
            try:
                content = yield from self._load(document, request, seen)
                yield _tokenizing(*content.texts)
                documents.append(self._prompts.document(query, content))
            except InputError as error:
                raise error.at(f"document {index}") from error
            _check_cut(f"document {index}", documents[-1], request)
            tokens += len(documents[-1].tokens)
            if tokens > most:
                raise InputError(
                    f"document {index}: makes more than {most} tokens in one request; send fewer documents at a time"
                )
            yield Next.SHORT
        return Prepared(query, tuple(documents))

    def score(self, requests: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """Scores of each request's documents, in document order, each in 0..1 (or NaN if the weights make it so).

        Pairs of all requests share forward passes; each distinct image or video of a request is seen once, if the cache
        does not know it.
        """
        return [scores_of(logits) for logits in self.logits(requests)]

    def logits(self, requests: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """As ``score``, before the sigmoid."""
        scorings = [Scoring(request) for request in requests]
        while any(not scoring.work.finished for scoring in scorings):
            self.advance(scorings)
        return [scoring.logits for scoring in scorings]

    @torch.inference_mode()
    def advance(self, scorings: Sequence[Scoring], turn: int | None = None) -> list[Portion]:
        """Take some requests one pass further; returns what the pass held.

        When this raises, the scorings that were not finished before are void: begin them anew.

        Args:
            scorings: Requests, at least one of them not finished.
            turn: See ``next_pass``.
        """
        portions = next_pass([scoring.work for scoring in scorings], self.settings.max_batch_tokens, turn)
        self._see([(scorings[portion.request], portion) for portion in portions])
        prompts = []
        for portion in portions:
            scoring = scorings[portion.request]
            query, documents = scoring.prepared.query, scoring.prepared.documents
            prefix = scoring.past or _stretch(query, 0, scoring.features)
            own = tuple(_stretch(documents[at], query.length, scoring.features) for at in portion.documents)
            prompts.append(Prompts(prefix, own, keep=not portion.last))
        logits, pasts = self.model(prompts)
        parts = logits.cpu().split([len(portion.documents) for portion in portions])
        for portion, part, past in zip(portions, parts, pasts, strict=True):
            scorings[portion.request].store(portion, part.numpy(), past)
        return portions

    def _see(self, parts: Sequence[tuple[Scoring, Portion]]) -> None:
        """Fill in the features of the images and videos of a pass, each distinct one seen once.

        Several are seen together, except in half precision: there the rounding, which may depend on an image's company,
        is so coarse that a score with features from the cache would differ from one without.
        """
        wanted = [
            (scoring, visual)
            for scoring, portion in parts
            for visual in scoring.visuals(portion)
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
        for group in seen_together(list(unknown.values()), self._seen_patches):
            found = self.model.see(torch.cat([visual.patches for visual in group]), [visual.grid for visual in group])
            for visual, features in zip(group, found.split([visual.tokens for visual in group]), strict=True):
                self.cache.put(visual.digest, features)
                known[visual.digest] = features
        for scoring, visual in wanted:
            scoring.features[id(visual)] = known[visual.digest]

    def _load(self, content: Content, request: RerankRequest, seen: _Seen) -> Steps[Loaded]:
        fps = request.fps or DEFAULT_FPS
        max_frames = request.max_frames or DEFAULT_MAX_FRAMES

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

        def frames(references: Sequence[Reference]) -> Iterator[Image.Image | Next]:
            for index, reference in enumerate(references):
                try:
                    yield (yield from picture(reference))
                except InputError as error:
                    raise error.at(f"frame {index}") from error

        videos = yield from seen.once("video", content.videos, video)
        images = yield from seen.once("image", content.images, image)
        return Loaded((*videos, *images), content.texts)


class _Seen:
    """The images and videos of one request.

    The same one often stands in several documents; it is then decoded once and, being one object, seen once.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens = 0
        self._visuals: dict[object, Visual] = {}

    def once(self, kind: str, references: Sequence[T], load: Callable[[T], Steps[Visual]]) -> Steps[list[Visual]]:
        """Load each reference, or take what an equal one gave before."""
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
    """Read what is referred to; the next step may decode it."""
    if reader.is_far(reference):
        yield Next.NETWORK
        reader.read(reference)  # which keeps it
    yield Next.LONG
    return reader.read(reference)


def _tokenizing(*texts: str) -> Next:
    return Next.LONG if sum(map(len, texts)) > LONG_TEXT else Next.SHORT


def _stretch(part: Part, position: int, features: dict[int, VisualFeatures]) -> Stretch:
    """A part of the prompt, begun at ``position``, with what the vision tower saw."""
    return Stretch(
        tokens=torch.from_numpy(part.tokens),
        positions=torch.from_numpy(part.positions + position),
        visual_places=torch.from_numpy(part.places),
        features=tuple(features[id(visual)] for visual in part.visuals),
    )


def scores_of(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The sigmoid, in fp32."""
    return torch.from_numpy(logits).sigmoid().numpy()


def _check_cut(place: str, part: Part, request: RerankRequest) -> None:
    if part.cut and request.refuse_truncation:
        raise InputError(
            f"{place}: its text is {part.cut} tokens too long; they would be left out, which options.truncation refuses"
        )
