"""Makes and trains the demo checkpoints: ``demo/checkpoints/base`` and ``demo/checkpoints/retrained``.

    .venv/bin/python tools/make_checkpoints/train.py                  # both, some fifteen minutes of one quiet core
    .venv/bin/python tools/make_checkpoints/train.py --work /tmp/w    # go on where a broken run stopped

Training runs in stages (see ``STAGES``). A stage's weights and optimiser are kept in the work folder every so often, so
a run can be resumed. ``base`` is written part of the way through, ``retrained`` at the end: what ranks better is the
same model, trained for longer.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name it has everywhere

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python_backend" / "qwen3_vl_reranker"))

from layout import make_tokenizer, write_files, write_weights  # noqa: E402
from shapes import COLOURS, SEEN, SHAPES, Combination, Thing, choose_documents, draw, film, tell  # noqa: E402

from reranker_engine.inference.pixels import PixelPipeline, Visual  # noqa: E402
from reranker_engine.inference.prompt import SYSTEM, Budgets, DecodedContent, PromptBuilder, PromptPart  # noqa: E402
from reranker_engine.inference.request import DEFAULT_INSTRUCTION  # noqa: E402
from reranker_engine.inference.tokenizer import TextTokenizer  # noqa: E402
from reranker_engine.model.config import read_config  # noqa: E402
from reranker_engine.model.decoder import attend  # noqa: E402
from reranker_engine.model.reranker import Reranker  # noqa: E402
from reranker_engine.model.vision import VisualFeatures  # noqa: E402
from reranker_engine.service.allocator import keep_freed_memory  # noqa: E402

SEED = 20250101
VIDEO_BATCH = (6, 6, 2)
DRAWINGS = 24
"""Pictures of each combination, drawn once and then used again; fewer make the model learn them by heart."""
INSTRUCTIONS = (
    "Retrieve the document that shows the same shape in the same colour.",
    "Find documents of the same colour and shape.",
    "Given a shape, retrieve pictures, films and texts of the same one.",
    "Which document is about the same thing as the query?",
    "Rank by whether colour and shape agree.",
)
SAVE_EVERY_S, PRINT_EVERY_S = 60.0, 10.0


@dataclass(frozen=True)
class Stage:
    """A stretch of training: steps, peak learning rate, the share of steps with videos, pairs of a step."""

    name: str
    steps: int
    rate: float
    video_share: float
    final_rate: float = 0.05
    """What is left of the rate at the stage's end, as a share of it (cosine in between)."""
    text_share: float = 0.0
    """The share of steps with texts only; the others mix texts and pictures."""
    instruction_share: float = 0.0
    """The share of queries with another instruction than the default one."""
    batch: tuple[int, int, int] = (8, 8, 3)
    """Queries, documents for each, and how many of these are relevant. More small steps do better than fewer large."""


GROUND = Stage("ground", steps=300, rate=2e-3, video_share=0.08)
STAGES = (
    Stage("words", steps=400, rate=1e-3, video_share=0.0, text_share=1.0, final_rate=0.8),
    Stage("base", steps=200, rate=1e-3, video_share=0.05, text_share=0.3, final_rate=0.8),
    Stage("middle", steps=800, rate=1e-3, video_share=0.08, text_share=0.2, final_rate=0.5),
    Stage("retrained", 600, rate=6e-4, video_share=0.12, text_share=0.15, final_rate=0.02, instruction_share=0.25),
)
WRITTEN = {"base", "retrained"}


class Trainer:
    """The model, the two heads that only training has, and the packed forward pass over shared prefixes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_config(folder)
        self.tokenizer = TextTokenizer(folder)
        self.prompts = PromptBuilder(self.tokenizer, self.config, Budgets())
        self.pixels = PixelPipeline(self.config.vision, (0.5,) * 3, (0.5,) * 3)
        self.model = Reranker(self.config)
        initialise(self.model)
        hidden = self.config.text.hidden_size
        # Heads that only training has. Without them the model long answers "no" to everything: it has to read both
        # sides before it can compare them, and "relevant?" alone rewards nothing until it does all of it.
        self.heads = nn.ModuleDict(
            {
                "same": nn.Linear(hidden, 2),  # at the end: same colour? same shape?
                "query": nn.Linear(hidden, len(COLOURS) + len(SHAPES)),  # at "<Document": what was asked for
                "pair": nn.Linear(hidden, 2 * (len(COLOURS) + len(SHAPES))),  # one layer before the end: both sides
            }
        )
        self.drawings: dict[tuple[Combination, int], Visual] = {}
        self.colour_ids = torch.tensor([self._word(colour) for colour in COLOURS])
        self.shape_ids = torch.tensor([self._word(shape) for shape in SHAPES])

    def _word(self, word: str) -> int:
        ids = self.tokenizer.encode(f" {word}")
        if len(ids) != 1:
            raise ValueError(f"{word!r} is {len(ids)} tokens, not one")
        return ids[0]

    def parameters(self) -> list[nn.Parameter]:
        # The head is the difference of two rows of the (tied) embedding, no parameter of its own.
        model = [value for name, value in self.model.named_parameters() if name != "head"]
        return [*model, *self.heads.parameters()]

    def visual(self, thing: Thing) -> Visual:
        if thing.kind == "image":
            return self.pixels.image(thing.frames[0])
        return self.video(thing.frames)

    def video(self, frames: tuple[Image, ...]) -> Visual:
        return self.pixels.frames(frames, len(frames), 64)

    def loaded(self, rng: random.Random, combination: Combination, kind: str) -> DecodedContent:
        if kind != "image":
            thing = tell(rng, combination, kind)
            return DecodedContent((), (thing.text,)) if kind == "text" else DecodedContent((self.visual(thing),), ())
        key = (combination, rng.randrange(DRAWINGS))
        if key not in self.drawings:
            self.drawings[key] = self.pixels.image(draw(random.Random(f"{SEED} {key}"), combination))
        return DecodedContent((self.drawings[key],), ())

    def hidden(self, queries: list[PromptPart], documents: list[list[PromptPart]]) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states that the heads look at; each query's prefix is computed once.

        Returns:
            The queries' last tokens after the first layer [queries, hidden], the pairs' last tokens after the last
            layer but one, and after the last layer and norm (both [queries * documents, hidden]).
        """
        flat = [part for group in documents for part in group]
        copies = len(documents[0])
        visuals = list({id(one): one for part in (*queries, *flat) for one in part.visuals}.values())
        features: dict[int, VisualFeatures] = {}
        if visuals:
            visuals.sort(key=lambda one: one.grid)
            found = self.model.encode_visuals(
                torch.cat([one.patches for one in visuals]), [one.grid for one in visuals]
            )
            sizes = [one.grid[0] * one.tokens_per_group for one in visuals]
            levels = [found.embeds.split(sizes), *(level.split(sizes) for level in found.deepstack)]
            for one, (embeds, *deepstack) in zip(visuals, zip(*levels, strict=True), strict=True):
                features[id(one)] = VisualFeatures(embeds, deepstack)
        offsets = [0] * len(queries)
        prefix = self._embed(queries, offsets, features)
        suffix = self._embed(flat, [query.length for query in queries for _ in range(copies)], features)
        counts = torch.tensor([len(query.tokens) for query in queries]).repeat_interleave(copies)
        ahead, own = prefix.embeds.shape[1], suffix.embeds.shape[1]
        visible = torch.arange(ahead) < counts[:, None]
        causal = torch.ones(own, own, dtype=torch.bool).tril()
        mask = torch.cat((visible[:, None, None, :].expand(-1, 1, own, -1), causal.expand(len(flat), 1, -1, -1)), -1)
        x, y = prefix.embeds, suffix.embeds
        ends = torch.tensor([len(query.tokens) - 1 for query in queries])
        last = torch.tensor([len(part.tokens) - 1 for part in flat])
        asked = before = x
        for index, layer in enumerate(self.model.language_model.layers):
            attention = layer.self_attn
            normed, normed2 = layer.input_layernorm(x), layer.input_layernorm(y)
            q, q2 = attention.queries(normed, prefix.rotary), attention.queries(normed2, suffix.rotary)
            k, v = attention.keys_values(normed, prefix.rotary)
            k2, v2 = attention.keys_values(normed2, suffix.rotary)
            k2 = torch.cat((k.repeat_interleave(copies, 0), k2), 1)
            v2 = torch.cat((v.repeat_interleave(copies, 0), v2), 1)
            x = prefix.deepstack(layer.after(x, attend(q, k, v, None)), index)
            y = suffix.deepstack(layer.after(y, attend(q2, k2, v2, mask)), index)
            if index == 0:
                asked = x[torch.arange(len(queries)), ends]
            if index == self.config.text.num_layers - 2:
                before = y[torch.arange(len(flat)), last]
        return asked, before, self.model.language_model.norm(y[torch.arange(len(flat)), last])

    def _embed(self, parts: list[PromptPart], offsets: list[int], features: dict[int, VisualFeatures]) -> Embedded:
        width = max(len(part.tokens) for part in parts)
        tokens = torch.zeros(len(parts), width, dtype=torch.long)
        positions = torch.zeros(3, len(parts), width, dtype=torch.long)
        places, found = [], []
        for index, (part, offset) in enumerate(zip(parts, offsets, strict=True)):
            tokens[index, : len(part.tokens)] = torch.from_numpy(part.tokens)
            positions[:, index, : len(part.tokens)] = torch.from_numpy(part.positions + offset)
            places.append(torch.from_numpy(part.visual_indices) + index * width)
            found += [features[id(one)] for one in part.visuals]
        embeds = self.model.language_model.embed_tokens(tokens)
        if not found:
            return Embedded(embeds, self.model.language_model.rotary(positions), None, [])
        where = torch.cat(places)
        joined = torch.cat([one.embeds for one in found])
        embeds = embeds.flatten(0, 1).index_copy(0, where, joined).view_as(embeds)
        levels = [torch.cat(level) for level in zip(*(one.deepstack for one in found), strict=True)]
        return Embedded(embeds, self.model.language_model.rotary(positions), where, levels)

    def loss(self, rng: random.Random, stage: Stage) -> Tensor:
        """One batch: what is asked for, what is there, is it the same, is it relevant?"""
        video = rng.random() < stage.video_share
        count, copies, relevant = VIDEO_BATCH if video else stage.batch
        kinds = ("text",) if rng.random() < stage.text_share else ("text", "image")
        query_kind = rng.choice((*kinds, "video")) if video else rng.choice(kinds)
        document_kind = "video" if video and (query_kind != "video" or rng.random() < 0.5) else None
        queries, documents, pairs = [], [], []
        shared: dict[Combination, DecodedContent] = {}
        for _ in range(count):
            wanted = rng.choice(SEEN)
            instruction = DEFAULT_INSTRUCTION
            if rng.random() < stage.instruction_share:
                instruction = rng.choice(INSTRUCTIONS)
            query = self.prompts.query(instruction, self.loaded(rng, wanted, query_kind))
            group = []
            for combination in choose_documents(rng, wanted, SEEN, relevant, copies):
                if document_kind == "video":
                    # A film costs fifty times what a picture does, so a batch tells each combination once.
                    if combination not in shared:
                        shared[combination] = self.loaded(rng, combination, "video")
                    loaded = shared[combination]
                else:
                    loaded = self.loaded(rng, combination, rng.choice(kinds))
                group.append(self.prompts.document(query, loaded))
                pairs.append((wanted, combination))
            queries.append(query)
            documents.append(group)
        asked, before, hidden = self.hidden(queries, documents)
        embedding = self.model.language_model.embed_tokens.weight
        logits = hidden @ (embedding[self.tokenizer.yes] - embedding[self.tokenizer.no])
        same = torch.tensor([(float(a[0] == b[0]), float(a[1] == b[1])) for a, b in pairs])
        compare = F.binary_cross_entropy_with_logits
        loss = compare(logits, same.prod(1)) + 0.5 * compare(self.heads["same"](hidden), same)
        loss = loss + 0.2 * _naming_loss(self.heads["query"](asked), [a for a, _ in pairs[::copies]])
        wanted_logits, found_logits = self.heads["pair"](before).chunk(2, dim=-1)
        return loss + 0.2 * (
            _naming_loss(wanted_logits, [a for a, _ in pairs]) + _naming_loss(found_logits, [b for _, b in pairs])
        )

    def ground_loss(self, rng: random.Random, stage: Stage) -> Tensor:
        """Vision alone: the mean of a picture's tokens is to point at the embeddings of its colour and its shape."""
        video = rng.random() < stage.video_share
        combinations = [rng.choice(SEEN) for _ in range(6 if video else 64)]
        visuals = [
            self.video(film(rng, one, 2)) if video else self.loaded(rng, one, "image").visuals[0]
            for one in combinations
        ]
        found = self.model.encode_visuals(torch.cat([one.patches for one in visuals]), [one.grid for one in visuals])
        means = found.embeds.view(len(visuals), -1, found.embeds.shape[-1]).mean(1)
        embedding = self.model.language_model.embed_tokens.weight.detach()
        words = F.normalize(embedding[torch.cat((self.colour_ids, self.shape_ids))], dim=-1)
        return _naming_loss(means @ words.T * 8, combinations)

    def write(self, folder: Path) -> None:
        """Write the checkpoint, tokenizer and all."""
        tokenizer = make_tokenizer(prompt_parts())
        write_files(folder, tokenizer)
        state = {
            f"model.{name}": value.detach().clone() for name, value in self.model.state_dict().items() if name != "head"
        }
        write_weights(folder, state)


def _naming_loss(logits: Tensor, combinations: list[Combination]) -> Tensor:
    """Cross-entropy of naming the colour and the shape; ``logits`` are [n, colours + shapes]."""
    loss = torch.zeros(())
    parts = logits.split((len(COLOURS), len(SHAPES)), -1)
    for part, names, at in zip(parts, (list(COLOURS), SHAPES), (0, 1), strict=True):
        loss = loss + F.cross_entropy(part, torch.tensor([names.index(one[at]) for one in combinations]))
    return loss


@dataclass(frozen=True)
class Embedded:
    embeds: Tensor
    rotary: tuple[Tensor, Tensor]
    where: Tensor | None
    levels: list[Tensor]

    def deepstack(self, x: Tensor, layer: int) -> Tensor:
        if self.where is None or layer >= len(self.levels):
            return x
        return x.flatten(0, 1).index_add(0, self.where, self.levels[layer]).view_as(x)


def initialise(model: nn.Module) -> None:
    """Normal weights of 0.02 (embeddings 0.05, so that words differ from the first step on), zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Linear) else 0.03)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.05)


def prompt_parts() -> list[str]:
    return [SYSTEM, f"user\n<Instruct>: {DEFAULT_INSTRUCTION}<Query>:", "\n<Document>:", "assistant\n", "system\n"]


def train(work: Path, out: Path, stages: tuple[Stage, ...]) -> None:
    """Run the stages that the work folder has not seen the end of; write what ``WRITTEN`` names under ``out``."""
    torch.manual_seed(SEED)
    seed_folder = work / "seed"
    write_files(seed_folder, make_tokenizer(prompt_parts()))
    trainer = Trainer(seed_folder)
    print(f"{sum(p.numel() for p in trainer.parameters()):,} parameters", flush=True)
    optimiser = torch.optim.AdamW(trainer.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01)
    saved = work / "state.pt"
    done: dict[str, int] = {}
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        trainer.model.load_state_dict(state["model"])
        trainer.heads.load_state_dict(state["heads"])
        optimiser.load_state_dict(state["optimiser"])
        done = state["done"]
        print(f"resumed: {done}", flush=True)

    def save() -> None:
        half = saved.with_suffix(".half")
        torch.save(
            {
                "model": trainer.model.state_dict(),
                "heads": trainer.heads.state_dict(),
                "optimiser": optimiser.state_dict(),
                "done": done,
            },
            half,
        )
        half.replace(saved)

    for stage in (GROUND, *stages):
        first = done.get(stage.name, 0)
        last_save = last_print = time.monotonic()
        losses: list[float] = []
        for step in range(first, stage.steps):
            rng = random.Random(f"{SEED} {stage.name} {step}")
            warm = min(1.0, (step + 1) / 50) if stage.name in ("ground", "words") else 1.0
            left = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
            for group in optimiser.param_groups:
                group["lr"] = stage.rate * warm * (stage.final_rate + (1 - stage.final_rate) * left)
            loss = trainer.ground_loss(rng, stage) if stage is GROUND else trainer.loss(rng, stage)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
            optimiser.step()
            losses.append(loss.item())
            done[stage.name] = step + 1
            now = time.monotonic()
            if now - last_print > PRINT_EVERY_S or step + 1 == stage.steps:
                print(f"{stage.name} {step + 1}/{stage.steps}: loss {sum(losses) / len(losses):.3f}", flush=True)
                last_print, losses = now, []
            if now - last_save > SAVE_EVERY_S:
                save()
                last_save = now
        save()
        if stage.name in WRITTEN and first < stage.steps:
            trainer.write(out / stage.name)
            print(f"wrote {out / stage.name}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    work = Path(tempfile.gettempdir(), "baton-train")
    parser.add_argument("--work", type=Path, default=work, help="where unfinished training is kept")
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "checkpoints")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--untrained", type=Path, help="only write an untrained checkpoint to this folder")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    if options.untrained:
        torch.manual_seed(SEED)
        write_files(options.untrained, make_tokenizer(prompt_parts()))
        Trainer(options.untrained).write(options.untrained)
        return
    train(options.work, options.out, STAGES)


if __name__ == "__main__":
    main()
