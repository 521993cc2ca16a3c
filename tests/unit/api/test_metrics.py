"""The metrics page and the health of the control plane, over HTTP."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from harness.network import fetch
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.facts.recorder import Recorder

from baton.domain import Gate, Outcome, Phase
from baton.errors import ConfigError, Refused, Unreachable
from baton.metrics import MetricsServer


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@pytest.fixture
def server(app: Recorder) -> Iterator[MetricsServer]:
    with MetricsServer(app, "127.0.0.1:0") as server:
        yield server


def _get(server: MetricsServer, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{server.address}{path}", headers=headers)
    try:
        return 200, fetch(request, timeout_s=5)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def _samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (s.name, frozenset(s.labels.items())): s.value for f in text_string_to_metric_families(text) for s in f.samples
    }


def _key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_every_metric(app: Recorder, server: MetricsServer) -> None:
    app.at("one of two servers is away")
    away = _samples(_get(server, "/metrics")[1])
    assert away[_key("baton_server_live", server="a")] == 1
    assert away[_key("baton_server_live", server="b")] == 0
    assert away[_key("baton_server_in_sync", server="b")] == 0
    assert away[_key("baton_time_to_live_seconds", service="ranker")] == app.told.history[0].time_to_live_s
    assert away[_key("baton_rollout_duration_seconds", service="ranker")] == app.told.history[0].duration_s
    app.at("paused")
    code, text = _get(server, "/metrics")
    assert code == 200
    found, service = _samples(text), {"service": "ranker"}
    for phase in Phase:
        assert found[_key("baton_service_phase", **service, phase=phase)] == (phase is Phase.SHIFTING)
    assert found[_key("baton_stable_version", **service)] == 1
    assert found[_key("baton_candidate_version", **service)] == 2
    assert found[_key("baton_candidate_weight_percent", **service)] == 20
    load = next(gate for gate in app.told.status.services[0].gates if gate.gate is Gate.LOAD)
    assert found[_key("baton_gate_verdict", **service, gate="load", verdict="pass")] == 1
    assert found[_key("baton_gate_verdict", **service, gate="load", verdict="fail")] == 0
    assert found[_key("baton_gate_observed", **service, gate="load")] == load.observed
    assert found[_key("baton_gate_limit", **service, gate="load")] == load.limit == 60
    assert _key("baton_gate_observed", **service, gate="integrity") not in found
    assert found[_key("baton_rollouts_total", **service, outcome="live")] == 1
    for outcome in Outcome:  # also those that never happened, so that the first one is an increase
        assert _key("baton_rollouts_total", **service, outcome=outcome) in found
    assert found[_key("baton_paused")] == 1
    assert found[_key("baton_loop_last_timestamp_seconds")] == app.told.loop_at
    assert any(name == "baton_build_info" for name, _ in found)


def test_nothing_serves_yet(app: Recorder, server: MetricsServer) -> None:
    app.at("empty")
    found = _samples(_get(server, "/metrics")[1])
    assert found[_key("baton_stable_version", service="ranker")] == 0


def test_openmetrics_is_spoken_where_it_is_asked_for(server: MetricsServer) -> None:
    _, text = _get(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    families = {f.name: f.type for f in openmetrics.text_string_to_metric_families(text)}
    assert families["baton_rollouts"] == "counter"


def test_health(app: Recorder, server: MetricsServer) -> None:
    assert _get(server, "/healthz") == (200, "ok\n")
    assert _get(server, "/readyz") == (200, "ok\n")
    app.feels(ready=False)
    assert _get(server, "/healthz")[0] == 200
    assert _get(server, "/readyz")[0] == 503
    app.feels(live=False, message="The loop stands still.")
    assert _get(server, "/healthz") == (503, "The loop stands still.\n")
    assert _get(server, "/other")[0] == 404


def test_a_facade_that_fails_gives_503_and_words(app: Recorder, server: MetricsServer) -> None:
    app.error = Unreachable("Gone.", mend="Look.")
    assert _get(server, "/metrics") == (503, "Gone. Look.\n")


def test_a_port_in_use_and_a_bad_address(app: Recorder, server: MetricsServer) -> None:
    with pytest.raises(Refused, match=f"127.0.0.1:{server.port} can't be opened"):
        MetricsServer(app, server.address).start()
    with pytest.raises(ConfigError):
        MetricsServer(app, "9464")


def test_it_can_be_stopped_and_started_again(app: Recorder) -> None:
    server = MetricsServer(app, "127.0.0.1:0").start()
    first = server.address
    server.stop()
    server.stop()
    with MetricsServer(app, first) as again:
        assert _get(again, "/healthz")[0] == 200
