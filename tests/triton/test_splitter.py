"""The splitter on the real Triton server, as clients of the alias see it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http
from google.protobuf import text_format
from harness.triton import start
from harness.waiting import until
from tests.support.gateway import serving
from tests.support.stage import Traffic, expected_score
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS, running_triton, tensors
from tests.unit.splitter.rig import LONG_S, Rig, version_of
from tests.unit.splitter.routes import route_of
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from baton.gateway.app import Service

pytestmark = pytest.mark.triton

ECHO = Path(__file__).parent / "backends"
HANG_S = 600.0
"""Far above any deadline here, and above what a client waits: where no deadline bounds it, the client fails."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("splitter")
    (home / "repository").mkdir()
    with running_triton(home, home / "repository", backends=(TOY_BACKENDS, OUR_BACKENDS, ECHO)) as running:
        yield running, home / "repository"
        # Versions that hang would keep it from ending until its time for that is over.
        running.stop(timeout=0.0)


numbers = itertools.count()


@pytest.fixture
def rig(server):
    """A service of its own for each test, not loaded yet."""
    running, repository = server
    if running.poll() is not None:  # Triton ended by itself in the test before: that one alone is to fail
        start(running, repository.parent, repository)
    made = Rig(running, repository, f"s{next(numbers)}")
    yield made
    made.end()


def split(rig: Rig, *versions: dict, **route) -> Rig:
    """Stable, then the candidate; the alias leads to the splitter."""
    rig.toys(*(versions or ({}, {})))
    rig.begin()
    rig.route(**route)
    return rig


def traffic(rig: Rig, clients: int = 4) -> Traffic:
    """Clients by gRPC and HTTP at the alias."""
    return Traffic(SimpleNamespace(servers=[rig.server]), service=rig.name, clients=clients, pause_s=0.0)


def test_a_gateway_that_looks_whether_it_is_answered_is_no_client(rig, monkeypatch):
    monkeypatch.setattr("baton.gateway.app.PROBE_EVERY_S", 0.0)
    split(rig, weight=50)
    services = {rig.name: Service(rig.name, rig.engine)}
    with serving(rig.server.grpc_url, services=services, ready_within=1e-6) as (_, client):
        for _ in range(5):  # the first goes the clients' way
            assert client.get("/readyz").status_code == 200
    assert rig.control()["counts"]["requests"] == 1


@pytest.mark.parametrize("weight", [5, 50])
def test_the_candidate_gets_its_share(rig, weight):
    split(rig, weight=weight)
    count = 600
    share = sum(version_of(rig.infer()) == 2 for _ in range(count)) / count
    deviation = (weight / 100 * (1 - weight / 100) / count) ** 0.5
    assert abs(share - weight / 100) < 5 * deviation
    rig.counted(requests=count, candidate=round(share * count))


def test_an_id_stays_with_the_candidate_as_the_weight_grows(rig):
    split(rig)
    ids = [f"id-{number}" for number in range(60)]
    before: set[str] = set()
    seen_until = 0
    for weight in (10, 50, 80):
        rig.route(weight=weight)
        rounds = []
        for _ in range(2):
            for request_id in ids:
                rig.infer(request_id=request_id)

            def told(after: int = seen_until) -> list[dict]:
                samples = rig.samples("answer", after)
                return samples if {sample["id"] for sample in samples} == set(ids) else []

            samples = until(told, "a sample of each request")
            # Where they were sent, not who answered: a machine that stands still makes any candidate late.
            rounds.append({sample["id"] for sample in samples if sample["role"] == "candidate"})
            seen_until = max(sample["seq"] for sample in samples)
        assert rounds[0] == rounds[1]
        assert before < rounds[0]
        before = rounds[0]
    assert 30 < len(before) < 60


def test_everyone_gets_the_answer_to_their_own_question(rig):
    split(rig, weight=50, shadow=50)
    questions = [[{"text": f"red {number} {other}"} for other in range(1 + number % 5)] for number in range(24)]
    asked = [tensors(triton, {"text": "red"}, documents) for documents in questions]
    right = [
        {v: rig.client.infer(rig.engine, inputs, model_version=str(v)).as_numpy("scores") for v in (1, 2)}
        for inputs in asked
    ]

    def by_grpc(turn: int) -> None:
        with triton.InferenceServerClient(rig.server.grpc_url) as client:
            for number in range(turn, len(asked), 4):
                result = client.infer(rig.name, asked[number], request_id=str(number))
                assert result.get_response().id == str(number)
                assert np.array_equal(result.as_numpy("scores"), right[number][version_of(result)])

    def by_http(turn: int) -> None:
        with tritonclient.http.InferenceServerClient(rig.server.http_url) as client:
            for number in range(turn, len(asked), 4):
                inputs = tensors(tritonclient.http, {"text": "red"}, questions[number])
                result = client.infer(rig.name, inputs, request_id=str(number))
                assert result.get_response()["id"] == str(number)
                assert np.array_equal(result.as_numpy("scores"), right[number][version_of(result)])

    with ThreadPoolExecutor(8) as clients:
        for done in [clients.submit(ask, turn) for turn in range(4) for ask in (by_grpc, by_http) for _ in range(3)]:
            done.result(LONG_S)


def echo(rig: Rig, batch: int) -> Rig:
    rig.engine_files(f"""
        name: "{rig.engine}" backend: "echo" max_batch_size: {batch}
        input [
          {{ name: "blob" data_type: TYPE_STRING dims: [-1] optional: true }},
          {{ name: "numbers" data_type: TYPE_FP32 dims: [-1, 2] optional: true }},
          {{ name: "flag" data_type: TYPE_BOOL dims: [1] }}
        ]
        output [
          {{ name: "seen" data_type: TYPE_STRING dims: [1] }},
          {{ name: "half" data_type: TYPE_FP16 dims: [3] }},
          {{ name: "copy" data_type: TYPE_STRING dims: [-1] }}
        ]
        instance_group [ {{ kind: KIND_CPU count: 1 }} ]
        version_policy {{ specific {{ versions: [1, 2] }} }}
        """)
    for version in (1, 2):
        rig.files.folder(version).mkdir()
    rig.begin()
    return rig


def echo_inputs(batch: int, *, all_of_them: bool, megabytes: int = 0) -> list[triton.InferInput]:
    lead = (1,) if batch else ()
    given = [("flag", np.ones((*lead, 1), dtype=bool), "BOOL")]
    if all_of_them:
        blob = [b"", b"\0\xff" * 50, b"x" * (megabytes << 20)]
        given.append(("numbers", np.arange(6, dtype=np.float32).reshape(*lead, 3, 2), "FP32"))
        given.append(("blob", np.array(blob, dtype=np.object_).reshape(*lead, 3), "BYTES"))
    inputs = []
    for name, array, kind in given:
        inputs.append(triton.InferInput(name, array.shape, kind))
        inputs[-1].set_data_from_numpy(array)
    return inputs


def seen(result) -> dict:
    return json.loads(result.as_numpy("seen").reshape(-1)[0])


@pytest.mark.parametrize("batch", [0, 4])
@pytest.mark.parametrize("version", [1, 2])
def test_a_version_sees_what_it_would_see_without_the_splitter(rig, batch, version):
    echo(rig, batch)
    rig.route(weight=100 if version == 2 else 0, compare="half", kinds=["blob"])
    for all_of_them in (False, True):
        wanted = ["seen", "half", "copy"] if all_of_them else ["seen", "half"]
        options = {
            "request_id": "r-1",
            "timeout": 60_000_000,
            "parameters": {"text": "ä", "yes": True, "number": 7},
            "outputs": [triton.InferRequestedOutput(name) for name in wanted],
        }
        inputs = echo_inputs(batch, all_of_them=all_of_them)
        straight = rig.client.infer(rig.engine, inputs, model_version=str(version), **options)
        # Asked itself, the splitter passes on which outputs are wanted; an ensemble asks for all it maps.
        split = rig.client.infer(rig.splitter, inputs, **options)
        assert seen(split) == seen(straight)
        assert seen(split)["version"] == version
        assert {output.name for output in split.get_response().outputs} == set(wanted)
        public = rig.infer(*inputs, **options)
        assert seen(public) == seen(straight) | {"wanted": ["copy", "half", "seen"]}
        assert public.get_response().id == "r-1"
        for name in wanted[1:]:
            assert np.array_equal(public.as_numpy(name), straight.as_numpy(name))
    # Without a word about outputs all of the engine's come, and not the report.
    every = rig.client.infer(rig.splitter, inputs)
    assert {output.name for output in every.get_response().outputs} == {"seen", "half", "copy"}


def test_numbers_among_the_parameters_and_sequences(rig):
    echo(rig, 0)
    inputs = echo_inputs(0, all_of_them=False)
    # Triton refuses floats from a model to another one: they arrive as texts.
    assert seen(rig.infer(*inputs, parameters={"share": 1.5}))["parameters"] == {"share": "1.5"}
    wanted = [triton.InferRequestedOutput("seen")]
    options = {"sequence_id": 77, "sequence_start": True, "outputs": wanted}
    found = seen(rig.client.infer(rig.splitter, inputs, **options))
    assert found == seen(rig.client.infer(rig.engine, inputs, model_version="1", **options))
    assert found["correlation"] == 77


def test_forty_megabytes_arrive_whole_at_both_versions(rig):
    echo(rig, 0)
    rig.route(weight=50, shadow=100, compare="half", kinds=["blob"])
    inputs = echo_inputs(0, all_of_them=True, megabytes=40)
    straight = seen(rig.client.infer(rig.engine, inputs, model_version="1"))["inputs"]
    # Ids that a hash with the salt "7" sends to the candidate and to stable.
    for request_id, version in (("a", 2), ("b", 1)):
        found = seen(rig.infer(*inputs, request_id=request_id))
        assert (found["inputs"], found["version"]) == (straight, version)
    until(lambda: rig.samples("pair"), "a shadow of a large request")
    assert all(pair["outcome"] == "ok" for pair in rig.samples("pair"))


@pytest.mark.parametrize("weight", [0, 100])
def test_an_error_of_stables_goes_back_with_its_message(rig, weight):
    echo(rig, 4)
    rig.route(weight=weight, compare="half", kinds=[])
    with pytest.raises(InferenceServerException) as refusal:
        rig.infer(*echo_inputs(4, all_of_them=False), parameters={"refuse": "INVALID_ARG"})
    assert "refused as asked" in refusal.value.message()
    # Before 25.04 Triton tells a model that calls another one no code.
    assert refusal.value.status() in {"StatusCode.INTERNAL", "StatusCode.INVALID_ARGUMENT"}
    rig.counted(client_errors=1, failed=0)


def test_a_candidate_that_raises_costs_no_client_its_answer(rig):
    # Seldom enough that five in a row, which open the breaker for five seconds, are one in 100,000.
    split(rig, {}, {"error_rate": 0.1}, weight=50)
    with traffic(rig) as clients:
        until(lambda: rig.control()["counts"]["failed"] > 10, "some failed attempts")
        clients.wait_answers(2, 50)
    assert clients.errors == []
    assert any("now and then" in sample["error"] for sample in rig.samples("answer") if sample["outcome"] == "failed")


@pytest.mark.parametrize("how", ["hang", "killed"])
def test_a_candidate_that_does_not_answer_costs_a_deadline_and_no_answer(rig, how):
    split(rig, {}, {"hang_on_request": HANG_S} if how == "hang" else {}, weight=50, deadline_s=0.5)
    with traffic(rig) as clients:
        clients.wait_answers(1, 5)
        if how == "killed":
            clients.wait_answers(2, 5)
            os.kill(rig.pid(2), signal.SIGKILL)
        if how == "hang":
            until(lambda: rig.control()["breaker"]["opened"], "the breaker opens")
            clients.wait_answers(1, 200)
            # Half open, one request tries and fails again.
            until(lambda: rig.control()["breaker"]["opened"] >= 2, "the breaker opens again")
        else:
            # One that Triton gave up is not called again before it has a new process.
            until(lambda: rig.control()["calls"]["2"]["given_up"], "it is given up")
            asked = rig.control()["counts"]["sent_to_candidate"]
            clients.wait_answers(1, 200)
            assert rig.control()["counts"]["sent_to_candidate"] == asked
    assert clients.errors == []
    counts = rig.counted(requests=len(clients.answers), stable=clients.versions[1], candidate=clients.versions[2])[
        "counts"
    ]
    assert counts["late"] + counts["failed"] >= (6 if how == "hang" else 1)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_stable_version_that_dies_costs_no_answer_while_the_candidate_has_a_share(rig, how):
    split(rig, {"delay_ms": 50}, {}, weight=10, deadline_s=2)
    with traffic(rig) as clients:
        clients.wait_answers(1, 20)
        clients.wait_answers(2, 5)
        os.kill(rig.pid(1), how)
        try:
            clients.wait_answers(2, 100)
        finally:
            os.kill(rig.pid(1), signal.SIGKILL)  # else Triton waits for it when it ends
    assert clients.errors == []
    assert rig.control()["counts"]["rescued"] > 20


@pytest.mark.parametrize("version", [1, 2])
def test_a_process_that_stands_still_and_goes_on_brings_nothing_down(rig, version):
    """Woken after Triton lost deadline with it, it would take the whole server with it (24.10)."""
    split(rig, weight=50)
    server, pid = rig.server.pid, rig.pid(version)
    other = 3 - version
    with traffic(rig) as clients:
        clients.wait_answers(1, 20)
        clients.wait_answers(2, 20)
        os.kill(pid, signal.SIGSTOP)
        frozen_at = time.monotonic()
        told = until(lambda: rig.control()["calls"][str(version)]["given_up"], "it is given up")
        assert "was frozen for" in told
        time.sleep(max(0.0, frozen_at + 1.5 - time.monotonic()))  # the moment that is harmful
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        clients.wait_answers(other, 50)
        begun = rig.control()["calls"][str(version)]["begun"]
        clients.wait_answers(other, 50)
        calls = until(lambda: (c := rig.control()["calls"][str(version)])["ended"] == c["begun"] and c, "the last end")
        assert calls["begun"] == begun, "nothing more is sent to it"
    assert clients.errors == []
    assert rig.server.pid == server
    assert Path(f"/proc/{server}").exists()
    # Loaded anew, it is called again.
    rig.point("engine", stable=other)
    rig.unload(rig.engine)
    rig.load(rig.engine)
    rig.point("splitter")
    with traffic(rig) as clients:
        clients.wait_answers(version, 20)


def test_many_at_once_at_a_hung_candidate_are_all_answered(rig):
    """More than Triton has threads for calls between models: were they all lost, so would be every answer."""
    split(rig, {}, {"hang_on_request": HANG_S}, weight=100, deadline_s=1)
    answers: list[object] = []
    for _ in range(80):
        rig.client.async_infer(rig.name, QUESTION_OF_ALL, lambda result, error: answers.append(error or result))
    until(lambda: len(answers) == 80, "an answer to each")
    assert {version_of(answer) for answer in answers} == {1}
    counts = rig.counted(requests=80, stable=80)["counts"]
    assert (counts["late"], counts["refused"]) == (counts["sent_to_candidate"], 80 - counts["sent_to_candidate"])


def test_when_the_lease_ends_stable_serves_alone(rig):
    split(rig, weight=100)
    assert version_of(rig.infer()) == 2
    rig.route(weight=100, lease_s=0.5)
    report = until(lambda: (r := rig.control())["route"] is None and r, "the end of the lease")
    assert report["lapses"] == 1
    assert [version_of(rig.infer()) for _ in range(20)] == [1] * 20


def test_only_the_token_steers_and_not_through_the_alias(rig):
    split(rig, weight=0)
    for asked in ({"token": "guess"}, {"token": ""}, {}):
        with pytest.raises(InferenceServerException, match="token is missing or wrong") as refusal:
            rig.control_raw(json.dumps(asked | {"route": {}}).encode())
        assert refusal.value.status() == "StatusCode.INVALID_ARGUMENT"
    with pytest.raises(InferenceServerException, match=r"route\.weight must be a number from 0 to 100"):
        rig.route(weight=-1)
    assert rig.control()["route"]["weight"] == 0
    tensor = triton.InferInput("baton_control", [1, 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[rig.files.token().encode()]], dtype=np.object_))
    with pytest.raises(InferenceServerException, match="baton_control"):
        rig.infer(*tensors(triton, {"text": "x"}, [{"text": "y"}]), tensor)


def test_shadows_tell_both_scores_and_kinds_and_reach_no_client(rig):
    split(rig, {}, {"wrong_on": "image"}, shadow=100)
    text = [{"text": "a red round shape"}, {"text": "the blue square thing"}]
    image = [{"image": {"media": 0}}, {"text": "another"}]
    for number, documents in enumerate((text, image)):
        result = rig.infer(*tensors(triton, {"text": "red round shape"}, documents), request_id=str(number))
        assert version_of(result) == 1
        # One after the other: on a slow machine more than a few at a time would be dropped.
        until(lambda n=number: len(rig.samples("pair")) > n, "the pair")
    first, second = rig.samples("pair")
    assert [pair["outcome"] for pair in (first, second)] == ["ok", "ok"]
    assert (first["id"], first["kind"]) == ("0", "documents.text,query.text")
    assert (second["id"], second["kind"]) == ("1", "documents.image,documents.text,query.text")
    assert first["stable"][0] == pytest.approx(expected_score(seed=1), abs=1e-6)
    assert first["candidate"][0] == pytest.approx(expected_score(seed=2), abs=1e-6)
    # Seeds alone move a score by about 0.01; the wrong one is on the other side of a half.
    assert second["candidate"][0] == pytest.approx(1 - second["stable"][0], abs=0.1)
    assert second["candidate"][1] == pytest.approx(second["stable"][1], abs=0.1)
    assert rig.control()["counts"]["candidate"] == 0


def test_nobody_waits_for_shadows_of_a_hung_candidate(rig):
    split(rig, {}, {"hang_on_request": HANG_S}, shadow=100, deadline_s=1)
    with traffic(rig) as clients:
        clients.wait_answers(1, 200)
        until(lambda: rig.control()["counts"]["shadow_failed"], "a late shadow")
        clients.wait_answers(1, 50)
    assert clients.errors == []
    assert set(clients.versions) == {1}
    counts = rig.control()["counts"]
    assert counts["shadowed"] <= 4
    assert counts["shadow_dropped"] > 100


def test_control_is_answered_while_every_thread_is_busy(rig):
    split(rig, {"hang_on_request": HANG_S}, {})
    answers: list[object] = []
    for _ in range(70):
        rig.client.async_infer(rig.name, QUESTION_OF_ALL, lambda result, error: answers.append(error or result))
    rig.counted(requests=70, stable=0)  # every thread is busy, and others wait in line
    assert rig.route(weight=5)["route"]["weight"] == 5
    assert not answers
    os.kill(rig.pid(1), signal.SIGKILL)
    until(lambda: len(answers) == 70, "an answer to each, if only an error")


QUESTION_OF_ALL = tensors(triton, {"text": "red"}, [{"text": "a red thing"}])


def test_the_alias_moves_under_load_and_the_splitter_comes_and_goes(rig):
    rig.toys({}, {})
    rig.load(rig.engine)
    rig.point("engine")
    with traffic(rig) as clients:
        for _ in range(4):
            rig.files.set_splitter(1)
            rig.load(rig.splitter)
            rig.point("splitter")
            rig.route(weight=50)
            clients.wait_answers(2, 10)
            rig.route(candidate=None)
            clients.wait_answers(1, 10)
            for _ in range(3):
                rig.point("engine")
                rig.point("splitter")
            rig.point("engine")
            rig.unload(rig.splitter)
            rig.files.set_splitter(None)
            clients.wait_answers(1, 10)
    assert clients.errors == []
    assert {answer.response_version for answer in clients.answers} == {"1"}


@pytest.mark.parametrize("version", [1, 2])
def test_unloading_the_splitter_waits_for_what_is_in_flight(rig, version):
    split(rig, {"delay_ms": 1500}, {"delay_ms": 1500}, weight=100 if version == 2 else 0)
    answers: list[object] = []
    for _ in range(8):
        rig.client.async_infer(rig.name, QUESTION_OF_ALL, lambda result, error: answers.append(error or result))
    until(lambda: rig.control()["counts"]["requests"] == 8, "all requests have come")
    rig.point("engine")
    rig.unload(rig.splitter)
    until(lambda: len(answers) == 8, "all answers")
    assert {version_of(answer) for answer in answers} == {version}
    until(lambda: not rig.client.is_model_ready(rig.splitter), "the splitter is gone")


def test_a_hung_candidate_does_not_stand_in_the_way_of_the_next_splitter(rig):
    """The old one stays until the hung call ends (Triton waits for it); the new one serves beside it."""
    split(rig, {}, {"hang_on_request": HANG_S}, {}, weight=100, deadline_s=0.5)
    assert version_of(rig.infer()) == 1
    old = rig.control()["pid"]
    rig.point("engine")
    rig.unload(rig.splitter)
    assert version_of(rig.infer()) == 1
    rig.files.set_splitter(1)
    rig.load(rig.splitter)
    rig.point("splitter")
    report = rig.route(candidate=3, weight=100)
    assert report["pid"] != old
    assert version_of(rig.infer()) == 3
    assert Path(f"/proc/{old}").exists()
    os.kill(rig.pid(2), signal.SIGKILL)
    until(lambda: not Path(f"/proc/{old}").exists(), "the old splitter's process is gone")
    assert version_of(rig.infer()) == 3


@pytest.mark.parametrize("wrong", ["token_sha256", "max_weight", "stable", "engine"])
def test_a_splitter_with_wrong_files_does_not_load_and_says_why(rig, wrong):
    rig.toys({})
    rig.load(rig.engine)
    rig.files.set_splitter(1)
    path = rig.files.repository / rig.splitter / "config.pbtxt"
    good = {
        "stable": "1",
        "engine": rig.engine,
        "token_sha256": rig.files.key.parameters()["token_sha256"],
        "max_weight": "100.0",
    }[wrong]
    bad = "" if wrong in {"stable", "engine"} else "x"
    path.write_text(path.read_text().replace(f'string_value: "{good}"', f'string_value: "{bad}"'))
    with pytest.raises(InferenceServerException, match=rf"{wrong} (must be|is missing)"):
        rig.load(rig.splitter)


def test_a_splitter_with_files_of_a_baton_of_before_serves_stable_and_nobody_steers_it(rig):
    rig.toys({}, {})
    rig.files.set_splitter(1)
    path = rig.files.repository / rig.splitter / "config.pbtxt"
    config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    for name in rig.files.key.parameters():
        del config.parameters[name]
    path.write_text(text_format.MessageToString(config))
    (path.parent / "1" / "token").write_text("c1ea4" * 12)
    rig.load(rig.engine)
    rig.load(rig.splitter)
    rig.point("splitter")
    assert version_of(rig.infer()) == 1
    for token in (rig.files.token(), "c1ea4" * 12, ""):
        with pytest.raises(InferenceServerException, match="token is missing or wrong"):
            rig.control(token=token, route=route_of(weight=100))
    with traffic(rig) as clients:
        clients.wait_answers(1)
        rig.files.set_splitter(1)
        rig.load(rig.splitter)
        rig.route(weight=100)
        clients.wait_answers(2)
    assert clients.errors == []


def test_what_fails_by_a_timeout_that_the_client_chose_is_marked(rig):
    split(rig, {}, {"least_timeout_ms": 1000}, weight=0, shadow=100)
    for number in range(1, 7):
        rig.infer(timeout=500_000)
        rig.counted(shadow_failed=number)
    rig.infer(timeout=2_000_000)
    rig.counted(shadowed=7)
    rig.route(weight=100)
    rig.infer(timeout=500_000)
    rig.counted(failed=1)
    until(lambda: len(rig.samples("pair")) == 7, "the last one")
    assert [pair.get("hurried", False) for pair in rig.samples("pair")] == [True] * 6 + [False]
    assert [sample["hurried"] for sample in rig.samples("answer") if sample["outcome"] == "failed"] == [True]
    assert rig.control()["breaker"] == {"state": "closed", "opened": 0}
