"""What an error of Triton's means while a gate asks a candidate."""

from __future__ import annotations

from typing import Any

import pytest

from baton.config import ServiceConfig
from baton.controller.gates import Gates
from baton.domain import Gate, Verdict
from baton.errors import BatonError, CheckpointError, KeyRefused, TimedOut, TritonError, Unreachable


class Candidate:
    candidate, previous = 2, None


def ask(error: BatonError) -> Any:
    def raising(_rollout: object, _cancelled: object) -> Any:
        raise error

    nothing: Any = None
    gates = Gates(ServiceConfig("ranker", "ranker_engine"), nothing, {}, nothing, local=False)
    gates._asks[Gate.WARMUP] = raising
    rollout: Any = Candidate()
    return gates.ask(Gate.WARMUP, rollout, lambda: False)


@pytest.mark.parametrize(
    "error", [TritonError("NaN in layer 3"), TimedOut("no answer in 30 s"), CheckpointError("cut")]
)
def test_what_the_candidate_answers_or_does_not_is_a_verdict(error):
    result = ask(error)
    assert result.verdict is Verdict.FAIL
    assert error.message in result.message


@pytest.mark.parametrize("error", [Unreachable("server a is away"), KeyRefused("server a refused the admin key")])
def test_what_says_nothing_about_it_is_none(error):
    with pytest.raises(type(error)):
        ask(error)
