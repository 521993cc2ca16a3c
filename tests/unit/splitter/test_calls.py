"""What the splitter does about a version whose process stands still, and what it counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness.waiting import until
from tests.unit.splitter.fakes import Stage, failing, scored

from traffic_splitter.calls import FROZEN_S, RESCAN_INTERVAL_S
from traffic_splitter.processes import Processes

NOT_HEALTHY = "Stub process 'ranker_engine_0_0' is not healthy."
WRAPPED = f"Failed to process the request(s) for model instance 'ranker_engine_0_0', message: {NOT_HEALTHY}"


def stands_still(stage: Stage, version: int, for_s: float, looks: int = 4):
    """The version's answer to a request during which its process stands still, looked at so often."""

    def answer(_request):
        stage.processes.stopped.add(100 + version)
        for _ in range(looks):
            stage.clock.now += for_s / looks
            stage.calls.check()
        killed = 100 + version in stage.processes.killed
        return failing(NOT_HEALTHY) if killed else scored(0.3, 0.4)

    return answer


@pytest.mark.parametrize("version", [1, 2])
def test_what_stands_still_is_ended_while_a_call_waits_and_is_called_no_more(version):
    stage = Stage(weight=100)
    stage.versions[version] = stands_still(stage, version, 2 * FROZEN_S)
    if version == 1:
        stage.draws = [0.999]
        stage.follow(weight=50)
    request = stage.send()
    assert stage.processes.killed == [100 + version]
    assert [a.error for a in request.replies] == [None], "the other one answers"
    assert stage.warnings == [
        f"version {version}: its process was frozen for {FROZEN_S:.1f} s while requests waited for it, and was killed"
    ]
    for _ in range(3):
        stage.clock.now += 60.0
        stage.draws = [0.999]
        later = stage.send()
        assert version not in later.calls, "neither a trial of the breaker's nor a failover"
        assert [a.error for a in later.replies] == [None]
    assert stage.calls.report()[str(version)]["begun"] == 1


def test_a_short_pause_costs_nothing():
    stage = Stage(weight=100)
    stage.versions[2] = stands_still(stage, 2, 0.9 * FROZEN_S)
    assert stage.send().replies[0].error is None
    assert stage.processes.killed == []


def test_nobody_looks_while_no_call_waits():
    stage = Stage(weight=100)
    stage.send()
    stage.processes.stopped.add(102)
    stage.clock.now += 60.0
    stage.calls.check()
    assert stage.processes.killed == []


@pytest.mark.parametrize("words", [NOT_HEALTHY, WRAPPED, "Failed to obtain the health mutex."])
def test_a_version_that_triton_gave_up_is_ended_at_once(words):
    stage = Stage(weight=100, shadow=100)
    stage.versions[2] = failing(words)
    assert stage.send().replies[0].error is None
    assert stage.processes.killed == [102]
    calls = stage.calls.report()["2"]
    assert (calls["begun"], calls["ended"]) == (1, 1)
    assert "showed no sign of life" in calls["given_up"]
    assert "is not asked" not in str(stage.samples()), "it is refused, as by the breaker"


def test_other_errors_end_nothing():
    stage = Stage(weight=100)
    stage.versions[2] = failing("out of memory")
    stage.send()
    assert stage.processes.killed == []
    assert stage.calls.given_up(2) is None


@pytest.mark.parametrize("words", [NOT_HEALTHY, "Failed to obtain the health mutex", "' is not healthy"])
def test_a_client_that_writes_what_triton_says_ends_nothing(words):
    """An engine's error quotes what it refuses."""
    stage = Stage(weight=100)
    stage.versions[1] = stage.versions[2] = failing(f'options: truncation is "{words}"; it must be "cut" or "refuse"')
    stage.send()
    assert stage.processes.killed == []
    assert stage.calls.given_up(1) is stage.calls.given_up(2) is None


def test_neither_is_it_mirrored_to():
    stage = Stage(shadow=100)
    stage.versions[2] = failing(NOT_HEALTHY)
    for _ in range(3):
        stage.send()
    assert stage.calls.report()["2"]["begun"] == 1
    assert "showed no sign of life" in stage.samples("pair")[-1]["error"]


def test_loaded_anew_it_is_called_again():
    stage = Stage(weight=100)
    stage.versions[2] = failing(NOT_HEALTHY)
    stage.send()
    stage.versions[2] = scored(0.3, 0.4)
    stage.clock.now += RESCAN_INTERVAL_S
    assert stage.send().calls == [1], "it has no process yet"
    stage.processes.runs[2] = {202: 2}
    stage.clock.now += RESCAN_INTERVAL_S
    assert stage.send().calls == [2]


def test_where_it_can_not_be_ended_it_is_called_no_more_though_it_runs():
    stage = Stage(weight=100)
    stage.processes.may_kill = False
    stage.versions[2] = failing(NOT_HEALTHY)
    stage.send()
    stage.clock.now += 60.0
    assert stage.send().calls == [1]
    assert "it could not be ended" in stage.warnings[0]


def test_of_several_processes_the_others_go_on():
    stage = Stage(weight=100)
    stage.processes.runs[2] = {102: 1, 103: 1}
    stage.processes.named = set()  # Triton speaks of the one that was ended
    stage.versions[2] = stands_still(stage, 2, 2 * FROZEN_S)
    stage.send()
    assert stage.processes.killed == [102]
    assert len(stage.warnings) == 1
    stage.versions[2] = scored(0.3, 0.4)
    assert stage.send().calls == [2]


# The processes themselves


@pytest.fixture
def stub(tmp_path: Path):
    """A process that looks like Triton's of version 2, a child of this one."""
    code = tmp_path / "ranker_engine" / "2" / "model.py"
    code.parent.mkdir(parents=True)
    code.write_text("print('there', flush=True)\nimport time\ntime.sleep(600)\n")
    words = ["triton_python_backend_stub", str(code), "region", "1", "1", "1", "x", "x", "ranker_engine_0_0"]
    with subprocess.Popen(words, executable=sys.executable, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield process
        process.kill()


def test_a_stopped_process_is_seen_and_ended(stub):
    seen = Processes("ranker_engine", parent=os.getpid())
    assert list(seen.running(2)) == [stub.pid]
    assert not seen.running(1)
    assert not Processes("other", parent=os.getpid()).running(2)
    assert not Processes("ranker_engine", parent=stub.pid).running(2)
    assert not seen.frozen(2)
    os.kill(stub.pid, signal.SIGSTOP)
    until(lambda: seen.frozen(2), "it is seen to stand still")
    assert seen.kill(seen.frozen(2))
    assert stub.wait(60) == -signal.SIGKILL
    assert not seen.running(2)


def test_triton_s_words_name_the_process(stub):
    seen = Processes("ranker_engine", parent=os.getpid())
    assert list(seen.named_in(2, NOT_HEALTHY)) == [stub.pid]
    assert not seen.named_in(2, "Stub process 'ranker_engine_0_1' is not healthy.")
    assert list(seen.named_in(2, "Failed to obtain the health mutex.")) == [stub.pid]


def test_a_process_that_has_the_number_of_another_one_now_is_left_alone(stub):
    seen = Processes("ranker_engine", parent=os.getpid())
    assert seen.kill({stub.pid: 1})
    assert stub.poll() is None
