"""What the real judges say of a version: a case for every place in the code that makes a verdict.

Each of ``CASES`` asks a real judge, or a real gate, and returns its result; ``test_verdicts.py`` proves that none of
those places is left out, and shows each result on every page. A new verdict in the code needs a case here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.support.settings import (
    judge_invariance,
    judge_latency,
    judge_memory,
    judge_output,
    judge_warmup,
    live_limits,
    rollout_settings,
)
from tests.support.toy import engine_config
from tests.unit.judge.test_judge_invariance import Pair as Scored
from tests.unit.judge.test_judge_live import failing, traffic
from tests.unit.judge.test_judge_live import shadowed as timed
from tests.unit.judge.test_judge_memory import MIB, series
from tests.unit.judge.test_judge_output import RELEVANCE, STABLE, Case, moved
from tests.unit.judge.test_judge_paired import noise, own, shadowed, upside_down
from tests.unit.judge.test_judge_steered import Queues as Steered
from tests.unit.judge.test_judge_steered import clients, crowded, hurried, one_request, one_size
from tests.unit.judge.test_judge_timing import STEADY, Latency, Warmup, quiet
from tests.unit.plan.rollouts import READY, ROLLOUT
from tests.unit.verify.tiny import ARCHITECTURE, write

from baton.config import GateConfig, ServiceConfig, TrafficConfig
from baton.controller.gates import Gates
from baton.controller.live_evidence import OWN_PATIENCE_S, LiveEvidenceCollector
from baton.controller.probing import QUIET_AFTER_S, Probing
from baton.domain import (
    Folder,
    Gate,
    GateResult,
    Kind,
    Model,
    ModelState,
    ModelVersion,
    Phase,
    Release,
    Rollout,
    Signature,
    TensorSpec,
)
from baton.errors import TritonError
from baton.journal import Journal
from baton.judge import judge_live
from baton.plan import Failure, Record, ServerView, Sync, View, plan
from baton.samples import Answer, Pair
from baton.triton.repository import ServiceFiles
from baton.verify.capacity import check_capacity
from baton.verify.checkpoint import describe
from baton.verify.compatibility import check_compatibility
from baton.verify.device import DeviceMemory, Need, Placement, check_devices
from baton.verify.integrity import check_integrity

GOLDEN = Path(__file__).resolve().parents[3] / "demo" / "golden" / "golden.jsonl"
ENGINE = "ranker_engine"
EQUIVALENT, RETRAINED = Release.EQUIVALENT, Release.RETRAINED


def integrity(folder: Path, *, sums: bool = True, cut: bool = False, stopped: bool = False) -> GateResult:
    write(folder, sums=sums)
    if cut:
        shard = folder / "model-00002-of-00002.safetensors"
        shard.write_bytes(shard.read_bytes()[:-10])
    return check_integrity(describe(folder), cancelled=lambda: stopped)


def compatibility(candidate: Path, folder: Path) -> GateResult:
    stable = write(folder / "1")
    return check_compatibility(describe(candidate), describe(stable), architecture=ARCHITECTURE, release=EQUIVALENT)


def output(
    candidate: Sequence[Case] = STABLE,
    release: Release = EQUIVALENT,
    *,
    stable: Sequence[Case] | None = STABLE,
    relevance: dict[str, list[int]] = RELEVANCE,
    **noise: float,
) -> GateResult:
    return judge_output(release, stable, candidate, relevance, version=2, **noise)


def scored(*scores: float, cases: Sequence[Case] = STABLE, kind: str | None = None) -> list[Case]:
    return [replace(case, scores=scores, kind=kind or case.kind) for case in cases]


def uneven(*, complete: bool) -> Latency:
    """Every tenth block is far slower for one of the two, in turn."""
    samples = quiet(1.3, 100)
    stable, candidate = list(samples.stable), list(samples.candidate)
    for index in range(0, 200, 10):
        (stable if index % 20 else candidate)[index] *= 4 + index % 7
    return replace(samples, stable=tuple(stable), candidate=tuple(candidate), complete=complete)


def live(
    answers: Sequence[Answer] = (),
    pairs: Sequence[Pair] = (),
    *,
    release: Release = EQUIVALENT,
    shadow_only: bool = False,
    threshold: float | None = None,
) -> GateResult:
    limits = live_limits(threshold=threshold)
    return judge_live(answers, pairs, release=release, shadow_only=shadow_only, limits=limits, looks=10)


def mirrored(pairs: Sequence[Pair], release: Release = RETRAINED) -> GateResult:
    return live((), pairs, release=release, shadow_only=True, threshold=0.5)


def beside(pairs: Sequence[Pair], release: Release = RETRAINED) -> GateResult:
    """Mirrored requests, and answers of a split whose latency is well: what decides is the scores."""
    return live(traffic(), pairs, release=release, threshold=0.5)


def near(count: int) -> list[Pair]:
    """Two scores of all are off by little."""
    pairs = shadowed(count=count)
    off = [replace(pair, candidate=(pair.stable[0] + 0.002, *pair.stable[1:])) for pair in pairs[:2]]
    return [*off, *pairs[2:]]


def tail() -> list[Answer]:
    return [
        replace(a, took_ms=100.0) if a.role == "candidate" and int(a.id) % 20 in {0, 4} else a for a in traffic(1200)
    ]


def steered(**version: float) -> list[Answer]:
    """A client sends heavy requests to the candidate alone, by ids that it used before."""
    rng = np.random.default_rng(1)
    return clients(rng, Steered(rng, **version))


def known(answers: Sequence[Answer]) -> list[Answer]:
    """All of them to ids that were used before."""
    return [replace(a, again=True) for a in answers]


def stopped_traffic(*, own: bool = False) -> GateResult:
    """The candidate did well, and nobody has met it for long. ``own``: Baton's own requests are all there were."""
    evidence = LiveEvidenceCollector(ServiceConfig("ranker", ENGINE))
    samples = evidence._own if own else evidence._live
    samples.answers.extend(traffic())
    now = last(traffic()) + (OWN_PATIENCE_S + 5.0 if own else 30.0)
    if own:
        return evidence.judge_own(now, EQUIVALENT, shadow_only=False, golden=12)[0]
    return evidence.judge(now, EQUIVALENT, shadow_only=False)


def no_traffic(*, golden: bool, on_no_traffic: str = "probe") -> GateResult:
    """Nobody asks, for a while."""
    nothing: Any = None
    config = ServiceConfig("ranker", ENGINE, traffic=TrafficConfig(on_no_traffic=on_no_traffic))  # type: ignore[arg-type]
    evidence = LiveEvidenceCollector(config)
    asked: Any = [{}] if golden else []
    probing = Probing(config, nothing, asked, nothing, evidence, rollout_settings(), nothing)
    evidence.begin(1, "split", 0.0)
    return probing.judge(QUIET_AFTER_S + 1.0, EQUIVALENT, shadow_only=False)


def last(answers: Sequence[Answer]) -> float:
    return max(answer.at for answer in answers)


def load(state: ModelState | None, *, failed: str = "", after: float = 10.0) -> GateResult:
    """The plan's verdict on a load of version 2 beside version 1."""
    rollout = replace(ROLLOUT, phase=Phase.LOADING, phase_since=100.0)
    server = ServerView(
        "local", live=True, engine={1: READY, **({} if state is None else {2: ModelVersion(state)})}, alias={1: READY}
    )
    failures = {Sync("local", Model.ENGINE): Failure(101.0, 1, failed, refused=True)} if failed else {}
    view = View(
        "ranker",
        now=100.0 + after,
        version_policy=frozenset({1, 2}),
        alias=1,
        servers=(server,),
        folders={v: Folder(str(v), v, f"f{v}") for v in (1, 2)},
        loaded={1: "f1", 2: "f2"},
        rollout=rollout,
        failed=failures,
    )
    effect = plan(view, rollout_settings()).effect
    assert isinstance(effect, Record), effect
    return effect.result


class Server:
    """A server whose versions answer, but for those in ``silent``."""

    name = "local"

    def __init__(self, *silent: int, dies: int | None = None) -> None:
        """``dies``: the version that is silent, too, from the first error on."""
        self.silent = set(silent)
        self.dies = dies

    def engine_infos(self) -> None:
        return

    def infer(self, _model: str, version: int, inputs: Any, _timeout_s: float) -> Any:
        if version in self.silent:
            self.silent |= {self.dies} - {None}
            raise TritonError(f"Failed to process the request(s) for version {version}: Stub process is not healthy.")
        scores = [[(len(bytes(document)) % 17 + 1) / 20 for document in inputs["documents"][0]]]
        return {"scores": np.array(scores, dtype=np.float32), "model_version": np.array([[version]])}


class Plain(Server):
    """A server whose versions take and give numbers; ``gives`` is what they answer."""

    def __init__(self, gives: float, *, takes: str = "FP32") -> None:
        super().__init__()
        self.gives = gives
        self.takes = takes

    def signature(self, _model: str, _version: int) -> Signature:
        return Signature((TensorSpec("x", self.takes, (2,)),), (TensorSpec("y", "FP32", (2,)),), batched=True)

    def infer(self, _model: str, _version: int, _inputs: Any, _timeout_s: float) -> Any:
        return {"y": np.full((1, 2), self.gives, dtype=np.float32)}


def unjudged(folder: Path, server: Server, gate: Gate = Gate.OUTPUT) -> GateResult:
    """A gate of a service without a probe, whose versions may go live unjudged."""
    return asked(gate, folder, probe=None, golden=False, server=server, limits=GateConfig(allow_unjudged=True))


def asked(
    gate: Gate,
    folder: Path,
    *silent: int,
    dies: int | None = None,
    kind: Kind = Kind.ROLLOUT,
    probe: str | None = "reranker",
    golden: bool = True,
    server: Any = None,
    limits: GateConfig | None = None,
) -> GateResult:
    """A gate asked as the control plane asks it; versions in ``silent`` answer with an error."""
    (folder / ENGINE).mkdir(parents=True)
    (folder / ENGINE / "config.pbtxt").write_text(engine_config(ENGINE, [1]))
    limits = limits or GateConfig()
    config = ServiceConfig("ranker", ENGINE, probe=probe, golden=GOLDEN if golden else None, gates=limits)
    server = server or Server(*silent, dies=dies)
    rollout: Rollout = replace(ROLLOUT, kind=kind)
    with closing(Journal(folder / "journal.db")) as journal:
        gates = Gates(config, ServiceFiles(folder, "ranker", ENGINE), {"local": server}, journal, local=True)
        return gates.ask(gate, rollout, lambda: False)


GIB = 1 << 30


def on_gpu(free: int) -> GateResult:
    gpu = DeviceMemory("GPU-1", 24 * GIB, free * GIB, "NVML", 0)
    return check_devices(Need(4 * GIB, GIB), Placement("gpu"), [gpu], margin=0.1, factor=1.2, dtype="bf16")


CASES: dict[str, Callable[[Path], GateResult]] = {
    "integrity passes": integrity,
    "integrity passes without sums": lambda folder: integrity(folder, sums=False),
    "integrity fails": lambda folder: integrity(folder, cut=True),
    "integrity holds": lambda folder: integrity(folder, stopped=True),
    "compatibility passes": lambda folder: compatibility(write(folder / "2"), folder),
    "compatibility fails": lambda folder: compatibility(folder / "gone", folder),
    "capacity passes": lambda _: check_capacity(GIB, 8 * GIB, where="this machine", margin=0.1),
    "capacity fails": lambda _: check_capacity(10 * GIB, 8 * GIB, where="this machine", margin=0.1),
    "capacity on a GPU passes": lambda _: on_gpu(20),
    "capacity on a GPU fails": lambda _: on_gpu(2),
    "capacity is skipped": lambda _: check_capacity(GIB, None, margin=0.1),
    "capacity finds no weights": lambda folder: asked(Gate.CAPACITY, folder),
    "load passes": lambda _: load(ModelState.READY),
    "load fails": lambda _: load(None, failed="failed to load 'ranker_engine': out of memory"),
    "load takes too long": lambda _: load(ModelState.LOADING, after=1000.0),
    "warmup passes": lambda _: judge_warmup(Warmup((0.01,), STEADY)),
    "warmup fails": lambda _: judge_warmup(Warmup((0.05, 0.01, 0.05), STEADY * 3)),
    "warmup got no answer": lambda _: judge_warmup(Warmup((0.01,), STEADY, failure="version 2: hung")),
    "warmup has a broken clock": lambda _: judge_warmup(Warmup((math.nan,), STEADY)),
    "warmup has too few answers": lambda _: judge_warmup(Warmup((0.01,), STEADY[:5], complete=True)),
    "warmup has too few rounds": lambda _: judge_warmup(Warmup((0.05,), STEADY, complete=True)),
    "warmup goes on": lambda _: judge_warmup(Warmup((0.05,), STEADY)),
    "warmup begins": lambda _: judge_warmup(Warmup()),
    "warmup of a rollback": lambda folder: asked(Gate.WARMUP, folder, kind=Kind.ROLLBACK),
    "warmup meets an error": lambda folder: asked(Gate.WARMUP, folder, 2),
    "output passes": lambda _: output(),
    "output is skipped": lambda _: output(stable=None),
    "output fails": lambda _: output(scored(0.93, 0.63, 0.335, 0.13)),
    "output may be noise": lambda _: output(moved(0.0018), noise=0.001, most_noise=0.0015),
    "output looks retrained": lambda _: output(moved(0.03)),
    "output is not finite": lambda _: output(scored(0.9, math.nan, 0.1, 0.2)),
    "output is out of range": lambda _: output(scored(0.9, 1.5, 0.1, 0.2)),
    "output is constant": lambda _: output(scored(0.5, 0.5, 0.5, 0.5)),
    "output is tied in each case": lambda _: output([replace(c, scores=(i / 10,) * 4) for i, c in enumerate(STABLE)]),
    "output is tied in one kind": lambda _: output(
        [replace(c, kind="text") for c in moved(0.0)] + [Case(f"i{i}", (i / 10,) * 4, "image") for i in range(3)],
        stable=None,
    ),
    "output has too few scores": lambda _: output([]),
    "output is not of the same requests": lambda _: output(stable=STABLE[:4]),
    "output of stable is not finite": lambda _: output(stable=scored(0.9, math.nan, 0.1, 0.2)),
    "output retrained passes": lambda _: output(release=RETRAINED),
    "output retrained fails": lambda _: output([replace(c, scores=c.scores[::-1]) for c in STABLE], RETRAINED),
    "output retrained has no labels": lambda _: output(release=RETRAINED, relevance={}),
    "output has no probe": lambda folder: asked(Gate.OUTPUT, folder, probe=None),
    "output has no golden set": lambda folder: asked(Gate.OUTPUT, folder, golden=False),
    "output without a probe passes": lambda folder: unjudged(folder, Plain(0.5)),
    "output without a probe fails": lambda folder: unjudged(folder, Plain(math.nan)),
    "output without a probe holds": lambda folder: unjudged(folder, Plain(0.5, takes="BF16")),
    "invariance is skipped": lambda folder: unjudged(folder, Plain(0.5), Gate.INVARIANCE),
    "output gets no answer of stable": lambda folder: asked(Gate.OUTPUT, folder, 1),
    "invariance passes": lambda _: judge_invariance([Scored(0.5, 0.501)], precision="fp32"),
    "invariance fails": lambda _: judge_invariance([Scored(0.5, 0.6)], precision="half", limit=0.1),
    "invariance holds": lambda _: judge_invariance([], precision="fp32"),
    "invariance of an engine that does not say": lambda _: judge_invariance([Scored(0.5, 0.6)], precision="fp32"),
    "invariance is not finite": lambda _: judge_invariance([Scored(0.5, math.nan)], precision="fp32"),
    "latency passes": lambda _: judge_latency(quiet()),
    "latency is skipped": lambda _: judge_latency(None),
    "latency fails": lambda _: judge_latency(quiet(1.3)),
    "latency got no answer": lambda _: judge_latency(replace(quiet(), candidate_failure="version 2: out of memory")),
    "latency got no answer of stable": lambda _: judge_latency(replace(quiet(), stable_failure="version 1: gone")),
    "latency has too few samples": lambda _: judge_latency(quiet(blocks=19, complete=True)),
    "latency has few samples": lambda _: judge_latency(quiet(blocks=30, complete=True)),
    "latency is too noisy": lambda _: judge_latency(uneven(complete=True)),
    "latency goes on": lambda _: judge_latency(uneven(complete=False)),
    "latency begins": lambda _: judge_latency(quiet(blocks=1)),
    "latency has a broken clock": lambda _: judge_latency(replace(quiet(), candidate=(0.0, *quiet().candidate[1:]))),
    "latency meets an error": lambda folder: asked(Gate.LATENCY, folder, 2),
    "latency meets a silent stable": lambda folder: asked(Gate.LATENCY, folder, 1),
    "latency meets a machine that fails": lambda folder: asked(Gate.LATENCY, folder, 2, dies=1),
    "live passes": lambda _: live(traffic()),
    "live passes in shadow": lambda _: mirrored(shadowed(noise(0.1))),
    "live holds": lambda _: live(),
    "live holds in shadow": lambda _: live(shadow_only=True),
    "live lost its traffic": lambda _: stopped_traffic(),
    "live lost its golden requests": lambda _: stopped_traffic(own=True),
    "live has no traffic": lambda _: no_traffic(golden=True),
    "live has no traffic and no golden set": lambda _: no_traffic(golden=False),
    "live has no traffic and waits for it": lambda _: no_traffic(golden=True, on_no_traffic="hold"),
    "live is not sure of latency": lambda _: live(traffic(130, candidate_ms=14.9)),
    "live is not sure of latency in shadow": lambda _: live((), timed(candidate_ms=14.8), shadow_only=True),
    "live fails by a row of errors": lambda _: live(failing(traffic(), {20, 21, 22})),
    "live fails by many errors": lambda _: live(failing(traffic(), range(0, 100, 10))),
    "live is not sure of errors": lambda _: live(failing(traffic(2000), range(0, 490, 70))),
    "live fails by latency": lambda _: live(traffic(candidate_ms=30.0)),
    "live fails by a slow tail": lambda _: live(tail()),
    "live hangs on known ids by latency": lambda _: live(steered()),
    "live hangs on known ids by late answers": lambda _: live(crowded()),
    "live hangs on timeouts": lambda _: live(hurried()),
    "live hangs on known ids by scores": lambda _: live(known(own(lambda scores: 0 * scores + 0.5))),
    "live hangs on one size": lambda _: live(one_size()),
    "live hangs on one request": lambda _: mirrored(one_request(600)),
    "live passes by known ids": lambda _: live(known(traffic())),
    "live fails by late answers of a hostile client's time": lambda _: live(steered(hangs_from=10.0)),
    "live fails by latency in shadow": lambda _: live((), timed(candidate_ms=25.0), shadow_only=True),
    "live fails by the answers' scores": lambda _: live(own(lambda scores: 0 * scores + 0.5)),
    "live compares no answers": lambda _: live(own(scored=False)),
    "live compares no scores": lambda _: mirrored([replace(p, stable=(), candidate=()) for p in shadowed()]),
    "live passes equivalent": lambda _: beside(shadowed(noise(0.0009)), EQUIVALENT),
    "live passes equivalent but for two": lambda _: beside(near(400), EQUIVALENT),
    "live is not sure it is equivalent": lambda _: beside(near(100), EQUIVALENT),
    "live holds in shadow, equivalent": lambda _: mirrored(shadowed(count=10), EQUIVALENT),
    "live fails equivalent": lambda _: beside(shadowed(noise(0.1)), EQUIVALENT),
    "live fails retrained": lambda _: beside(shadowed(upside_down)),
    "live is not sure of a retrained one": lambda _: mirrored(
        shadowed(lambda scores, rng: 1 - scores if rng.random() < 0.6 else scores, count=40)
    ),
    "live fails by constant scores": lambda _: beside(shadowed(lambda scores, _: 0 * scores + 0.5)),
    "live has no rankings": lambda _: mirrored(shadowed(noise(0.1), documents=1)),
    "live holds in shadow, retrained": lambda _: mirrored(shadowed(count=5)),
    "memory passes": lambda _: judge_memory(series(np.random.default_rng(1))),
    "memory alarms": lambda _: judge_memory([(10.0 * i, MIB * (1000 + 2 * i)) for i in range(61)]),
    "memory holds": lambda _: judge_memory([]),
    "memory rose in steps": lambda _: judge_memory(series(np.random.default_rng(1), steps=(20, 30, 40))),
}
