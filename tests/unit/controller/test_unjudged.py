"""What is not proved does not go live, by any verb: services without a golden set, over the real gates of answers."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.controller.plane import ENGINE, NAME, Place, Plane

from baton.config import GateConfig, ServiceConfig
from baton.controller.gates import Gates
from baton.domain import FILE_GATES, Gate, GateResult, Outcome, Phase, Rollout, Signature, TensorSpec, Verdict
from baton.errors import InvalidRequest, Refused, TritonError
from baton.probe import NoRequest, ask_builtin
from baton.reasons import Reason
from baton.testing import Behaviour

GOOD = Behaviour()
BAD = {
    "NaN": Behaviour(score=math.nan),
    "errors": Behaviour(answer_error="CUDA error: device-side assert triggered"),
    "constant": Behaviour(score=0.5),
}
PROBES = ["reranker", None]


class Asker(Gates):
    """The real gates, but for those of the files: the folders here hold no checkpoints."""

    def ask(self, gate: Gate, rollout: Rollout, cancelled: Any) -> GateResult:
        if gate in FILE_GATES:
            return GateResult(gate, Verdict.PASS, "passed")
        return super().ask(gate, rollout, cancelled)


def begun(place: Place, *, probe: str | None, allow: bool) -> Plane:
    """A control plane that judges without a golden set."""
    config = ServiceConfig(NAME, ENGINE, probe=probe, gates=GateConfig(allow_unjudged=allow, request_timeout=10.0))
    unused: Any = None
    asker = Asker(config, unused, place.servers, unused, local=False)
    place.answers = asker  # type: ignore[assignment]
    plane = Plane(place)
    asker._journal = plane.journal
    return plane


def drop(place: Place, version: int, behaviour: Behaviour) -> None:
    for server in place.servers.values():
        server.versions[version] = behaviour
    place.drop(version)


def decided(plane: Plane, version: int) -> None:
    def rests() -> bool:
        rollout = plane.journal.rollouts.current(NAME)
        waits = rollout is not None and rollout.phase is Phase.WAITING and rollout.held() is not None
        return waits or plane.ended(version) is not None

    plane.run(rests, f"version {version} is decided")


def by_every_verb(plane: Plane, version: int) -> None:
    """Whatever a person tries, it does not serve."""
    for verb in (
        lambda: plane.app.promote(None, version, full=False, who="ann"),
        lambda: plane.app.promote(None, version, full=True, who="ann"),
        lambda: plane.app.retry(None, version, release=None, who="ann"),
        lambda: plane.app.promote(None, version, full=True, who="ann"),
        lambda: plane.app.rollback(None, version, who="ann"),
        lambda: plane.app.resume(who="ann"),
    ):
        with contextlib.suppress(Refused):
            verb()
        for _ in range(3):
            plane.turn()
            plane.place.now += 20.0
        assert plane.place.files.alias() != version
        decided(plane, version)
    assert plane.place.files.alias() != version


# Of tensors that nobody knows, one answer may be as good as another.
GARBAGE = [(probe, name) for probe in PROBES for name in BAD if (probe, name) != (None, "constant")]


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize(("probe", "name"), GARBAGE)
def test_garbage_goes_live_neither_first_nor_next(place, probe, name, allow):
    plane = begun(place, probe=probe, allow=allow)
    drop(place, 1, BAD[name])
    decided(plane, 1)
    assert plane.ended(1) is Outcome.REJECTED
    by_every_verb(plane, 1)
    drop(place, 2, GOOD)
    plane.live(2)
    drop(place, 3, BAD[name])
    decided(plane, 3)
    assert plane.ended(3) is (Outcome.REJECTED if allow else None)
    by_every_verb(plane, 3)
    assert place.files.alias() == 2
    plane.close()


@pytest.mark.parametrize("probe", PROBES)
def test_an_unjudged_version_waits_until_a_person_allows_it(place, probe):
    plane = begun(place, probe=probe, allow=False)
    drop(place, 1, GOOD)
    plane.live(1)
    newest = plane.journal.rollouts.newest(service=NAME)[0]
    assert newest.gates[Gate.LATENCY].skipped
    assert newest.gates[Gate.OUTPUT].skipped
    drop(place, 2, GOOD)
    decided(plane, 2)
    by_every_verb(plane, 2)
    assert plane.phase() is Phase.WAITING
    why = plane.service.decision.why
    assert (why.reason, why.figures["previous"]) == (Reason.UNJUDGED, 1)
    assert plane.journal.rollouts.newest(service=NAME)[0].held().evidence.missing == "golden"
    with pytest.raises(Refused) as refused:
        plane.app.promote(None, 2, full=True, who="ann")
    assert refused.value.reason is Reason.NOT_PROMOTED
    plane.close()

    plane = begun(place, probe=probe, allow=True)
    plane.live(2)
    newest = plane.journal.rollouts.newest(service=NAME)[0]
    assert all(newest.gates[g].skipped for g in (Gate.WARMUP, Gate.OUTPUT, Gate.INVARIANCE, Gate.LATENCY))
    plane.close()


def test_a_version_that_waits_for_evidence_can_be_aborted(place):
    plane = begun(place, probe="reranker", allow=False)
    drop(place, 1, GOOD)
    plane.live(1)
    drop(place, 2, GOOD)
    decided(plane, 2)
    plane.app.abort(None, who="ann")
    plane.live(1)
    assert plane.ended(2) is Outcome.ABORTED
    plane.close()


def test_a_verification_without_evidence_ends_and_refuses_nothing(place):
    plane = begun(place, probe="reranker", allow=False)
    drop(place, 1, GOOD)
    plane.live(1)
    plane.loop.set_paused(True)
    drop(place, 2, GOOD)
    plane.turn()
    plane.app.verify(None, 2, who="ann")
    plane.run(lambda: plane.ended(2), "the end of the verification")
    ended = plane.journal.rollouts.newest(service=NAME)[0]
    assert (ended.outcome, ended.stop.gate) == (Outcome.ABORTED, Gate.WARMUP)
    assert ended.gates[Gate.WARMUP].evidence.missing == "golden"
    assert 2 not in plane.service.view.records
    plane.close()


def test_a_way_back_is_open_to_what_served(place):
    plane = begun(place, probe=None, allow=True)
    drop(place, 1, GOOD)
    plane.live(1)
    drop(place, 2, GOOD)
    plane.live(2)
    plane.close()
    plane = begun(place, probe=None, allow=False)
    plane.turn()
    plane.app.rollback(None, 1, who="ann")
    plane.live(1)
    plane.close()


# The built-in request of tensors


PLAIN = Signature(
    (
        TensorSpec("x", "FP32", (3, -1)),
        TensorSpec("name", "BYTES", (1,)),
        TensorSpec("more", "FP32", (1,), optional=True),
    ),
    (TensorSpec("y", "FP32", (-1,)),),
    batched=True,
)


def asks(answer: Any, signature: Signature = PLAIN) -> Any:
    def infer(_version: int, inputs: Any, _timeout_s: float) -> Any:
        return answer(inputs) if callable(answer) else {"y": answer}

    return ask_builtin(infer, 2, signature, cancelled=lambda: False, timeout_s=30.0)


def test_the_built_in_request_is_what_the_configuration_declares():
    seen: list[Any] = []

    def answer(inputs: Any) -> Any:
        seen.append(inputs)
        if inputs["x"].shape[-1] < 3:
            raise TritonError("the window is larger than the image")
        return {"y": np.zeros((1, 4), dtype=np.float32)}

    assert asks(answer) is None
    assert [{name: value.shape for name, value in one.items()} for one in seen] == [
        {"x": (1, 3, 1), "name": (1, 1)},
        {"x": (1, 3, 16), "name": (1, 1)},
    ]
    assert seen[0]["x"].dtype == np.float32
    assert seen[0]["name"].dtype == np.object_


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.array([[1.0, math.nan]], dtype=np.float32), "1 of 2 values"),
        (np.array([[math.inf]], dtype=np.float32), "not finite"),
        (np.zeros((1, 2, 2), dtype=np.float32), r"\[1, 2, 2\]"),
        (np.zeros((2, 2), dtype=np.float32), r"\[1, -1\] is declared"),
        (np.zeros((1, 0), dtype=np.float32), "shape"),
        (lambda _: {"z": np.zeros(1)}, "lacks the output y"),
    ],
)
def test_a_wrong_answer_to_it_is_named(answer, words):
    assert re.search(words, asks(answer))


def test_where_none_can_be_made_nothing_is_told():
    odd = replace(PLAIN, inputs=(TensorSpec("x", "BF16", (1,)),))
    with pytest.raises(NoRequest, match="x \\(BF16"):
        asks(np.zeros(1), odd)

    def refuses(_: Any) -> Any:
        raise InvalidRequest("name must be a JSON object")

    with pytest.raises(NoRequest, match="refuses the built-in request"):
        asks(refuses)

    def fails(_: Any) -> Any:
        raise TritonError("CUDA error")

    with pytest.raises(TritonError, match="CUDA error") as error:
        asks(fails)
    assert not isinstance(error.value, NoRequest)
