"""The gates of answers in half precision, and ``capacity`` on GPUs: the real gates over the in-memory Triton.

Not run on a GPU: its memory, and what an engine on it says of itself, are told by the fake.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import re
from dataclasses import replace
from typing import Any

import pytest
from tests.support.evidence import rests_on
from tests.unit.controller.plane import ENGINE, NAME, Place, Plane
from tests.unit.plan.rollouts import ROLLOUT
from tests.unit.verify.tiny import safetensors, write

from baton.codec import encode
from baton.config import GateConfig, ServiceConfig
from baton.controller.gates import Gates
from baton.controller.settings import live_limits
from baton.domain import EngineInfo, Gate, GateResult, Outcome, Rollout, Verdict
from baton.errors import Unreachable
from baton.evidence import CapacityEvidence, InvarianceEvidence, OutputEvidence
from baton.journal import Journal
from baton.testing import Behaviour, FakeTriton
from baton.verify import capacity, device
from baton.verify.device import DeviceMemory

BF16 = EngineInfo("cpu", "bf16", "none", "cpu", "bf16")
FP32 = EngineInfo("cpu", "fp32", "none", "cpu", "fp32")
GPU = EngineInfo("cuda:0", "bf16", "none", "cuda:0", "bf16")
FIRST: Any = replace(ROLLOUT, candidate=1, previous=None)
SECOND: Any = replace(ROLLOUT, candidate=2, previous=1)
GIB = 1 << 30


@pytest.fixture
def journal(place):
    with contextlib.closing(Journal(place.root / "state" / "journal.db")) as opened:
        yield opened


def golden(place: Place, cases: int) -> Any:
    path = place.root / "golden.jsonl"
    rows = [
        {"id": f"c{i}", "kind": "text", "query": {"text": f"query {i}"},
         "documents": [{"text": f"document {i} {j}"} for j in range(4)]}
        for i in range(cases)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gates(place: Place, journal: Journal, *, cases: int = 4, **limits: Any) -> Gates:
    """As the control plane makes them when it starts."""
    config = ServiceConfig(NAME, ENGINE, probe="reranker", golden=golden(place, cases), gates=GateConfig(**limits))
    return Gates(config, place.files, place.servers, journal, local=False)


def serve(place: Place, **versions: Behaviour) -> None:
    """``v1=Behaviour(...)``: these versions are loaded."""
    server = place.servers["a"]
    for name, behaviour in versions.items():
        number = int(name[1:])
        server.versions[number] = behaviour
        if not place.files.folder(number).exists():
            place.drop(number)
    place.files.set_policy(frozenset(int(name[1:]) for name in versions) | place.files.policy())
    server.load(ENGINE, 10.0)


def ask(asked: Gates, gate: Gate, rollout: Rollout) -> GateResult:
    return asked.ask(gate, rollout, lambda: False)


def invariance(result: GateResult) -> InvarianceEvidence:
    return rests_on(result, InvarianceEvidence)


def output(result: GateResult) -> OutputEvidence:
    return rests_on(result, OutputEvidence)


def test_what_the_engine_says_decides_how_invariance_is_judged(place, journal):
    """0.02 is too much of a score in fp32, and little in logits."""
    serve(place, v1=Behaviour(info=FP32, noise=0.02), v2=Behaviour(info=BF16, noise=0.02))
    result = ask(gates(place, journal), Gate.INVARIANCE, FIRST)
    assert (result.verdict, result.limit) == (Verdict.FAIL, 0.005)
    assert (invariance(result).precision, invariance(result).runs) == ("fp32", "fp32 on cpu")
    result = ask(gates(place, journal), Gate.INVARIANCE, SECOND)
    assert (invariance(result).precision, invariance(result).unit, result.limit) == ("half", "logits", 0.25)
    assert invariance(result).runs == "bf16 on cpu"
    result = ask(gates(place, journal, precision="fp32"), Gate.INVARIANCE, SECOND)
    assert invariance(result).precision == "fp32", "what is configured comes first"


def test_an_engine_that_does_not_say_is_held_to_fp32_and_the_refusal_says_how_to_mend_that(place, journal):
    serve(place, v1=Behaviour(noise=0.02))
    result = ask(gates(place, journal), Gate.INVARIANCE, FIRST)
    assert (result.verdict, invariance(result).precision, invariance(result).runs) == (Verdict.FAIL, "fp32", None)
    assert 'set `precision = "half"`' in result.message
    result = ask(gates(place, journal, precision="half"), Gate.INVARIANCE, FIRST)
    assert invariance(result).unit == "logits"


def test_scores_kept_from_a_quiet_time_need_no_room_for_noise(place, journal):
    serve(place, v1=Behaviour(info=BF16, noise=0.004))
    assert ask(gates(place, journal), Gate.OUTPUT, FIRST).verdict is Verdict.PASS
    noise = journal.notes.noise().get(NAME)
    assert (noise.version, noise.runs, noise.documents) == (1, "bf16 on cpu", 16)
    assert noise.furthest == pytest.approx(0.004, rel=0.01)
    # Live traffic moves what the stable version answers now; what it answered alone is in the journal.
    serve(place, v2=Behaviour(info=BF16, noise=0.004))
    place.servers["a"].versions[1] = Behaviour(info=BF16, shift=0.003)
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert (result.verdict, result.observed, result.limit) == (Verdict.PASS, 0.0, 0.001)
    assert output(result).noise is None
    place.servers["a"].versions[2] = Behaviour(info=BF16, shift=0.0015)
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert (result.verdict, result.limit) == (Verdict.FAIL, 0.001)


@pytest.mark.parametrize(
    ("noise", "differs", "verdict", "limit"),
    [
        (0.0006, 0.0011, Verdict.PASS, 0.0012),
        (0.0006, 0.0014, Verdict.FAIL, 0.0012),
        (0.0060, 0.0014, Verdict.PASS, 0.0015),
        (0.0060, 0.0030, Verdict.HOLD, 0.0015),
        (0.0060, 0.0200, Verdict.FAIL, 0.0015),
        (0.0000, 0.0014, Verdict.FAIL, 0.0010),
    ],
)
def test_beside_live_traffic_the_stable_versions_noise_is_allowed_for(place, journal, noise, differs, verdict, limit):
    """It was adopted: nothing of it is kept. What only noise may explain is neither passed nor refused."""
    serve(place, v1=Behaviour(info=BF16, noise=noise), v2=Behaviour(info=BF16, shift=differs, noise=0.3))
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert (result.verdict, result.limit) == (verdict, pytest.approx(limit, rel=0.01))
    assert output(result).noise == pytest.approx(noise, abs=1e-6)
    assert journal.notes.noise().get(NAME).version == 1, "the candidate's own noise widens nothing"


def test_another_golden_set_or_type_makes_what_is_kept_worthless(place, journal):
    serve(place, v1=Behaviour(info=BF16, noise=0.004))
    ask(gates(place, journal), Gate.OUTPUT, FIRST)
    serve(place, v2=Behaviour(info=BF16))
    place.servers["a"].versions[1] = Behaviour(info=BF16, shift=0.003, noise=0.002)
    asked = gates(place, journal, cases=5)
    assert output(ask(asked, Gate.OUTPUT, SECOND)).noise == pytest.approx(0.002, rel=0.01)
    place.servers["a"].versions[1] = Behaviour(info=GPU, shift=0.003, noise=0.001)
    assert output(ask(asked, Gate.OUTPUT, SECOND)).noise == pytest.approx(0.001, rel=0.01)


def test_in_fp32_nothing_is_measured_and_an_old_figure_goes(place, journal):
    serve(place, v1=Behaviour(info=BF16, noise=0.004))
    ask(gates(place, journal), Gate.OUTPUT, FIRST)
    config = ServiceConfig(NAME, ENGINE)
    noise = journal.notes.noise().get(NAME)
    assert live_limits(config, noise.furthest).tolerance == pytest.approx(0.008, rel=0.01)
    assert live_limits(config, 0.5).tolerance == config.live.noise
    assert live_limits(config).tolerance == config.gates.output_tolerance
    place.servers["a"].versions[1] = Behaviour(info=FP32, noise=0.004)
    ask(gates(place, journal), Gate.OUTPUT, FIRST)
    assert journal.notes.noise().get(NAME) is None


def test_what_the_engine_said_stands_while_the_metrics_are_away(place, journal, monkeypatch):
    def away(_self: FakeTriton) -> Any:
        raise Unreachable("the metrics are away")

    serve(place, v1=Behaviour(info=BF16))
    asked = gates(place, journal)
    assert invariance(ask(asked, Gate.INVARIANCE, FIRST)).precision == "half"
    monkeypatch.setattr(FakeTriton, "engine_infos", away)
    assert invariance(ask(asked, Gate.INVARIANCE, FIRST)).runs == "bf16 on cpu"
    assert invariance(ask(gates(place, journal), Gate.INVARIANCE, FIRST)).precision == "fp32"


def test_an_engine_that_was_changed_since_does_not_refuse_an_equal_version(place, journal):
    """Its code or a setting moved scores of some requests; what is kept of the stable version is from before that."""
    serve(place, v1=Behaviour(info=FP32))
    assert ask(gates(place, journal), Gate.OUTPUT, FIRST).verdict is Verdict.PASS
    serve(place, v2=Behaviour(info=FP32, shift=0.003))
    place.servers["a"].versions[1] = Behaviour(info=FP32, shift=0.003)
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert (result.verdict, result.observed) == (Verdict.PASS, 0.0)
    place.servers["a"].versions[2] = Behaviour(info=FP32, shift=0.006)
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert (result.verdict, result.observed) == (Verdict.FAIL, pytest.approx(0.003, rel=0.01))


def test_what_the_stable_version_still_gives_refuses_another(place, journal):
    """It is asked again before a refusal, and what it gave alone counts, if it is within its noise of that."""
    serve(place, v1=Behaviour(info=BF16, noise=0.004))
    ask(gates(place, journal), Gate.OUTPUT, FIRST)
    serve(place, v2=Behaviour(info=BF16, shift=0.003, noise=0.004))
    place.servers["a"].versions[1] = Behaviour(info=BF16, shift=0.003, noise=0.004)
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert (result.verdict, result.limit, output(result).noise) == (Verdict.FAIL, 0.001, None)
    place.servers["a"].versions[1] = Behaviour(info=BF16, answer_error="gone")
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert result.verdict is Verdict.HOLD


def test_what_a_refused_version_gave_is_not_kept(place, journal):
    """Its folder is mended and serves, put there by hand: a copy of the refused one must not pass beside it."""
    serve(place, v1=Behaviour(info=FP32), v2=Behaviour(info=FP32, shift=0.005))
    assert ask(gates(place, journal), Gate.OUTPUT, SECOND).verdict is Verdict.FAIL
    serve(place, v3=Behaviour(info=FP32, shift=0.005))
    place.servers["a"].versions[2] = Behaviour(info=FP32)
    third: Any = replace(ROLLOUT, candidate=3, previous=2)
    assert ask(gates(place, journal), Gate.OUTPUT, third).verdict is Verdict.FAIL


def test_a_stable_version_whose_scores_are_no_numbers_leaves_no_such_figure(place, journal):
    serve(place, v1=Behaviour(info=BF16, noise=math.nan), v2=Behaviour(info=BF16, shift=0.003))
    result = ask(gates(place, journal), Gate.OUTPUT, SECOND)
    assert result.verdict is Verdict.FAIL
    json.dumps(encode(result.evidence), allow_nan=False)
    assert journal.notes.noise().get(NAME).furthest == 0.0


def test_without_a_golden_set_an_old_noise_does_not_widen_what_live_traffic_may_show(place, journal):
    """It was measured in bf16. By now the golden set is gone, and the engine runs in fp32."""
    serve(place, v1=Behaviour(info=BF16, noise=0.004))
    ask(gates(place, journal), Gate.OUTPUT, FIRST)
    config = ServiceConfig(NAME, ENGINE, probe="reranker", gates=GateConfig(allow_unjudged=True))
    asked = Gates(config, place.files, place.servers, journal, local=False)
    serve(place, v2=Behaviour(info=BF16))
    assert ask(asked, Gate.OUTPUT, SECOND).verdict is Verdict.PASS
    assert journal.notes.noise().get(NAME) is not None, "it runs in half precision still"
    place.servers["a"].versions[2] = Behaviour(info=FP32)
    assert ask(asked, Gate.OUTPUT, SECOND).verdict is Verdict.PASS
    assert journal.notes.noise().get(NAME) is None


class FileGates:
    """The real gate ``capacity``; the others pass."""

    def __init__(self, place: Place) -> None:
        unused: Any = None
        self._gates = Gates(ServiceConfig(NAME, ENGINE), place.files, place.servers, unused, local=False)

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Any) -> GateResult:
        return (
            self._gates.ask(gate, rollout, cancelled) if gate is Gate.CAPACITY else GateResult(gate, Verdict.PASS, "")
        )


def checkpoint(place: Place, version: int, elements: int) -> None:
    """A folder that declares so many weights in fp32; the file has a hole in the place of them."""
    made = place.root / f"made-{version}"
    header = safetensors({"w": (1, 1)})
    text = header[8 : 8 + int.from_bytes(header[:8], "little")].decode()
    text = text.replace('"shape": [1, 1]', f'"shape": [1, {elements}]').replace("[0, 4]", f"[0, {elements * 4}]")
    head = text.strip().encode()
    head += b" " * (-len(head) % 8)
    write(made, {"model.safetensors": len(head).to_bytes(8, "little") + head})
    with (made / "model.safetensors").open("r+b") as file:
        file.truncate(8 + len(head) + elements * 4)
    made.rename(place.files.folder(version))


def placed(place: Place, group: str) -> None:
    """Write the instance group of the engine."""
    path = place.repository / ENGINE / "config.pbtxt"
    text = re.sub(r"instance_group \[.*?\]", f"instance_group [ {group} ]", path.read_text(), flags=re.DOTALL)
    path.write_text(text)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("{ count: 3 kind: KIND_CPU }", ("host", (), 3)),
        ("{ kind: KIND_CPU }, { count: 2 kind: KIND_CPU }", ("host", (), 3)),
        ("{ count: 2 kind: KIND_AUTO }", ("any", (), 2)),
        ("{ count: 1 kind: KIND_GPU gpus: [ 0 ] }, { count: 1 kind: KIND_GPU gpus: [ 1 ] }", ("gpu", (0, 1), 1)),
        ("{ count: 1 kind: KIND_GPU gpus: [ 0, 1 ] }, { count: 2 kind: KIND_GPU gpus: [ 1 ] }", ("gpu", (0, 1), 3)),
        ("{ count: 1 kind: KIND_GPU }, { count: 4 kind: KIND_CPU }", ("gpu", (), 1)),
    ],
)
def test_instances_are_counted_where_they_run(place, group, expected):
    placed(place, group)
    found = place.files.placement()
    assert (found.device, found.gpus, found.count) == expected


class Machine:
    """The gate ``capacity`` for servers of this machine, which has so many bytes free, and these GPUs by NVML."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch, journal: Journal, servers: Any = None) -> None:
        self.free, self.nvml = 64 * GIB, []
        monkeypatch.setattr(capacity, "available_memory", lambda: self.free)
        monkeypatch.setattr(device, "nvml", lambda: self.nvml)
        self._gates = Gates(ServiceConfig(NAME, ENGINE), place.files, servers or place.servers, journal, local=True)

    def ask(self, rollout: Rollout = SECOND) -> GateResult:
        return ask(self._gates, Gate.CAPACITY, rollout)


@pytest.fixture
def machine(place, monkeypatch, journal):
    checkpoint(place, 2, GIB)  # 4 GiB as stored, 2 GiB in bf16
    serve(place, v1=Behaviour(info=GPU))
    placed(place, "{ count: 1 kind: KIND_AUTO }")
    return Machine(place, monkeypatch, journal)


def gpu(name: str, free: int, source: str = "NVML", number: int | None = None) -> DeviceMemory:
    return DeviceMemory(name, 24 * GIB, free * GIB, source, number)


def test_a_process_takes_memory_of_the_host_wherever_it_computes(machine):
    machine.nvml = [gpu("GPU-0", 20, number=0)]
    result = machine.ask()
    assert (result.verdict, rests_on(result, CapacityEvidence).what) == (Verdict.PASS, "device memory")
    machine.free = 256 << 20
    result = machine.ask()
    assert (result.verdict, rests_on(result, CapacityEvidence).what) == (Verdict.FAIL, "memory")
    assert "that are free on this machine" in result.message


def test_each_instance_on_the_host_has_weights_of_its_own(place, machine):
    place.servers["a"].versions[1] = Behaviour(info=FP32)
    machine.free = 8 * GIB
    placed(place, "{ count: 1 kind: KIND_CPU }")
    one = machine.ask()
    assert one.verdict is Verdict.PASS
    placed(place, "{ count: 2 kind: KIND_CPU }")
    two = machine.ask()
    assert (two.verdict, two.observed) == (Verdict.FAIL, 2 * one.observed)


def test_what_is_on_a_gpu_is_not_judged_by_the_hosts_memory_while_nobody_tells_of_the_gpu(machine):
    machine.free = 3 * GIB
    result = machine.ask()
    assert (result.verdict, result.skipped) == (Verdict.PASS, True)
    assert "the free memory on the GPUs can't be seen" in result.message


def test_a_server_is_given_the_gpus_that_it_sees(place, machine):
    """NVML shows three. The server sees one of them, which it calls 0; somebody else fills the first."""
    placed(place, "{ count: 1 kind: KIND_GPU gpus: [ 0 ] }")
    machine.nvml = [gpu(f"GPU-{i}", free, number=i) for i, free in enumerate((1, 20, 2))]
    place.servers["a"].gpus = [gpu("GPU-1", 5, "Triton's metrics")]
    result = machine.ask()
    assert (result.verdict, rests_on(result, CapacityEvidence).device) == (Verdict.PASS, "GPU-1")
    assert rests_on(result, CapacityEvidence).available_bytes == 20 * GIB, "NVML is read now, Triton was a while ago"
    place.servers["a"].gpus = [gpu("GPU-elsewhere", 1, "Triton's metrics")]
    result = machine.ask()
    assert rests_on(result, CapacityEvidence).device == "GPU-elsewhere", "it is behind a tunnel"


def test_servers_with_a_gpu_each_do_not_count_for_one_another(place, machine, monkeypatch, journal):
    servers = {"a": place.servers["a"], "b": copy.copy(place.servers["a"])}
    both = Machine(place, monkeypatch, journal, servers)
    for name, server in servers.items():
        server.gpus = [gpu(f"GPU-{name}", 5, "Triton's metrics")]
    assert both.ask().verdict is Verdict.PASS
    servers["b"].gpus = servers["a"].gpus
    assert both.ask().verdict is Verdict.FAIL


def test_what_would_not_fit_onto_the_gpu_is_refused_before_it_is_loaded(place):
    server = place.servers["a"]
    place.answers = FileGates(place)  # type: ignore[assignment]
    server.versions[1] = server.versions[2] = server.versions[3] = Behaviour(info=GPU)
    config = (place.repository / ENGINE / "config.pbtxt").read_text()
    (place.repository / ENGINE / "config.pbtxt").write_text(config.replace("KIND_CPU", "KIND_GPU"))
    assert place.files.placement().device == "gpu"
    server.gpus = [DeviceMemory("GPU-one", 24 * GIB, 20 * GIB, "Triton's metrics")]
    plane = Plane(place)
    checkpoint(place, 1, 100_000)
    plane.live(1)
    calls = len(server.calls)
    server.gpus = [DeviceMemory("GPU-one", 24 * GIB, 3 * GIB, "Triton's metrics")]
    checkpoint(place, 2, 2 * GIB)  # 8 GiB as stored, 4 GiB in bf16
    plane.run(lambda: plane.ended(2) is not None, "the end of version 2")
    assert plane.ended(2) is Outcome.REJECTED
    refused = plane.journal.rollouts.newest(service=NAME)[0].gates[Gate.CAPACITY]
    evidence = rests_on(refused, CapacityEvidence)
    assert evidence.weights_bytes == 4 * GIB
    assert (evidence.device, evidence.dtype, evidence.source) == (
        "GPU-one", "bf16", "Triton's metrics",
    )  # fmt: skip
    assert "does not fit into the 3.0 GiB that are free on GPU-one, by Triton's metrics" in refused.message
    assert len(server.calls) == calls, "no load was called"
    server.gpus = [DeviceMemory("GPU-one", 24 * GIB, 6 * GIB, "Triton's metrics")]
    checkpoint(place, 3, 2 * GIB)
    plane.live(3)
    plane.close()
