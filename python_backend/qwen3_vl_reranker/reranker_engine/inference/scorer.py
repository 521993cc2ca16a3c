"""Loads a checkpoint and scores requests with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reranker_engine.model import weights
from reranker_engine.model.config import read_config, read_json
from reranker_engine.model.errors import CheckpointError
from reranker_engine.model.reranker import Prompts, Stretch
from reranker_engine.model.vision import VisualFeatures

from .batching import passes
from .cache import FeatureCache
from .errors import InputError
from .media import MediaReader
from .pixels import Pixels, Visual
from .prompt import Budgets, Loaded, Part, PromptBuilder
from .request import RequestLimits, parse_request
from .sources import MediaPolicy
from .tokenizer import TextTokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from PIL import Image

    from reranker_engine.model.decoder import Past

    from .request import Content, Reference, RerankRequest

DEFAULT_FPS = 1.0
DEFAULT_MAX_FRAMES = 64
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class ScorerSettings:
    """How to load and run a checkpoint.

    Attributes:
        device: ``cpu``, ``cuda`` or ``cuda:<n>``.
        dtype: Of weights and activations; None takes bf16 on a GPU and fp32 on a CPU.
        budgets: Limits on prompts.
        limits: How large a request may be.
        media: What media may be read.
        max_batch_tokens: Tokens of one forward pass of the decoder.
        vision_cache_bytes: What the features of images and videos seen before may take; 0 keeps none.
    """

    device: str = "cpu"
    dtype: torch.dtype | None = None
    budgets: Budgets = field(default_factory=Budgets)
    limits: RequestLimits = field(default_factory=RequestLimits)
    media: MediaPolicy = field(default_factory=MediaPolicy)
    max_batch_tokens: int = 16384
    vision_cache_bytes: int = 64 * 2**20


@dataclass(frozen=True)
class Prepared:
    """A request that is checked, decoded and tokenized: nothing of what is left to do can be the client's fault."""

    query: Part
    documents: tuple[Part, ...]


class Scorer:
    """One loaded checkpoint."""

    def __init__(self, folder: Path, settings: ScorerSettings) -> None:
        """Load the checkpoint in ``folder``; nothing is written there.

        Raises:
            CheckpointError: The folder is not a complete, whole checkpoint of the right kind.
        """
        weights.check_folder(folder)
        config = read_config(folder)
        tokenizer = TextTokenizer(folder)
        preprocessor = read_json(folder / PREPROCESSOR)
        self.settings = settings
        self._prompts = PromptBuilder(tokenizer, config, settings.budgets)
        try:
            mean, std = (tuple(float(part) for part in preprocessor[key]) for key in ("image_mean", "image_std"))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: {PREPROCESSOR} lacks image_mean or image_std ({error})") from error
        self._pixels = Pixels(config.vision, mean, std)
        device = torch.device(settings.device)
        dtype = settings.dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
        self.cache = FeatureCache(settings.vision_cache_bytes)
        self.model = weights.load(folder, dtype=dtype, device=device, yes=tokenizer.yes, no=tokenizer.no)

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
        seen = _Seen(self.settings.limits.max_visual_tokens)
        most = self.settings.limits.max_request_tokens
        try:
            content = self._load(request.query, request, seen)
        except InputError as error:
            raise error.at("query") from error
        query = self._prompts.query(request.instruction, content)
        tokens = len(query.tokens)
        documents = []
        for index, document in enumerate(request.documents):
            try:
                documents.append(self._prompts.document(query, self._load(document, request, seen)))
            except InputError as error:
                raise error.at(f"document {index}") from error
            tokens += len(documents[-1].tokens)
            if tokens > most:
                raise InputError(
                    f"document {index}: makes more than {most} tokens in one request; send fewer documents at a time"
                )
        return Prepared(query, tuple(documents))

    def score(self, requests: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """Scores of each request's documents, in document order, each in 0..1 (or NaN if the weights make it so).

        Pairs of all requests share forward passes; each distinct image or video is seen once, if
        the cache does not know it.
        """
        return [torch.from_numpy(logits).sigmoid().numpy() for logits in self.logits(requests)]

    @torch.inference_mode()
    def logits(self, requests: Sequence[Prepared]) -> list[NDArray[np.float32]]:
        """As ``score``, before the sigmoid."""
        features = self._see(requests)
        prefixes = [len(request.query.tokens) for request in requests]
        lengths = [[len(document.tokens) for document in request.documents] for request in requests]
        results = [np.empty(len(request.documents), dtype=np.float32) for request in requests]
        kept: dict[int, Past] = {}
        for portions in passes(prefixes, lengths, self.settings.max_batch_tokens):
            prompts = []
            for portion in portions:
                query, documents = requests[portion.request].query, requests[portion.request].documents
                prefix = _stretch(query, 0, features) if portion.first else kept.pop(portion.request)
                own = tuple(_stretch(documents[at], query.length, features) for at in portion.documents)
                prompts.append(Prompts(prefix, own, keep=not portion.last))
            logits, pasts = self.model(prompts)
            parts = logits.cpu().split([len(portion.documents) for portion in portions])
            for portion, part, past in zip(portions, parts, pasts, strict=True):
                results[portion.request][list(portion.documents)] = part.numpy()
                if past is not None:
                    kept[portion.request] = past
        return results

    def _see(self, requests: Sequence[Prepared]) -> dict[int, VisualFeatures]:
        """Features of each distinct image and video, by the ``id`` of its ``Visual``.

        Each is seen on its own. Seen together, its features would be rounded differently in different company, and in
        half precision a score that took them from the cache would differ from one that did not.
        """
        parts = [part for request in requests for part in (request.query, *request.documents)]
        visuals = {id(visual): visual for part in parts for visual in part.visuals}
        known: dict[bytes, VisualFeatures] = {}
        for visual in visuals.values():
            if visual.digest in known:
                continue
            features = self.cache.get(visual.digest)
            if features is None:
                features = self.model.see(visual.patches, [visual.grid])
                self.cache.put(visual.digest, features)
            known[visual.digest] = features
        return {key: known[visual.digest] for key, visual in visuals.items()}

    def _load(self, content: Content, request: RerankRequest, seen: _Seen) -> Loaded:
        fps = request.fps or DEFAULT_FPS
        max_frames = request.max_frames or DEFAULT_MAX_FRAMES

        reader = request.reader

        def image(reference: Reference) -> Visual:
            return self._pixels.image(reader.image(reader.read(reference)))

        def video(one: Reference | tuple[Reference, ...]) -> Visual:
            if not isinstance(one, tuple):
                return self._pixels.video(reader.video(reader.read(one), fps, max_frames))
            return self._pixels.frames(map(frame, count(), one), len(one), max_frames)

        def frame(index: int, reference: Reference) -> Image.Image:
            try:
                return reader.image(reader.read(reference))
            except InputError as error:
                raise error.at(f"frame {index}") from error

        visuals = [
            *seen.once("video", content.videos, video),
            *seen.once("image", content.images, image),
        ]
        return Loaded(tuple(visuals), content.texts)


class _Seen:
    """The images and videos of one request.

    The same one often stands in several documents; it is then decoded once and, being one object, seen once.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._tokens = 0
        self._visuals: dict[object, Visual] = {}

    def once(self, kind: str, references: Sequence[Any], load: Callable[[Any], Visual]) -> list[Visual]:
        """Load each reference, or take what an equal one gave before."""
        visuals = []
        for index, reference in enumerate(references):
            key = (kind, reference)
            if key not in self._visuals:
                try:
                    self._visuals[key] = self._counted(load(reference))
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


def _stretch(part: Part, position: int, features: dict[int, VisualFeatures]) -> Stretch:
    """A part of the prompt, begun at ``position``, with what the vision tower saw."""
    return Stretch(
        tokens=torch.from_numpy(part.tokens),
        positions=torch.from_numpy(part.positions + position),
        visual_places=torch.from_numpy(part.places),
        features=tuple(features[id(visual)] for visual in part.visuals),
    )
