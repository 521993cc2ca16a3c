"""The control plane ends in the middle of things and starts again: what it began is finished, traffic never notices."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from harness.control_plane import ControlPlane
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage, toml

pytestmark = [pytest.mark.triton, pytest.mark.slow]
PHASES = ("verifying", "loading", "validating", "waiting", "baking", "retiring", "rolling_back")


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("restart")) as made:
        with made.control():
            made.drop(1)
            made.wait_live(1)
        yield made


def toy_for(phase: str) -> dict[str, Any]:
    """What makes the phase long enough to be met."""
    if phase == "verifying":
        return {"padding_mb": 192}
    if phase in {"loading", "rolling_back"}:
        return {"load_s": 1.5}
    return {"delay_ms": 20.0} if phase == "validating" else {}


def test_closed_in_each_phase_and_opened_again(st: Stage) -> None:
    live = 1
    for version, phase in enumerate(PHASES, start=2):
        settings = {
            "promotion": "manual" if phase == "waiting" else "automatic",
            "keep_previous": "1s" if phase == "baking" else "0s",
        }
        before = st.loads()
        with Traffic(st, clients=2) as traffic:
            with st.control(**settings) as app:
                st.wait_live(live)
                st.drop_copy(live, version, **toy_for(phase))
                if phase == "rolling_back":
                    until(lambda n=version: st.loads()[n], "loading")
                    app.abort(None, who="tester")
                st.wait_phase(phase)
            with st.control(**settings) as app:
                if phase == "waiting":
                    st.wait_phase("waiting")
                    app.promote(None, None, full=False, who="tester")
                ended = st.wait_end(version)
                expected = "aborted" if phase == "rolling_back" else "live"
                assert ended["outcome"] == expected, (phase, ended)
                live = version if expected == "live" else live
                st.wait_live(live)
                assert st.policy() == {live}
                traffic.wait_answers(live)
        assert traffic.errors == [], phase
        assert st.loads() - before == {version: 1}, f"{phase}: nothing is loaded twice"


def test_an_empty_state_beside_a_live_triton(st: Stage) -> None:
    with st.control():
        live = st.wait_phase("steady")["stable"]
    # What was withdrawn is forgotten with the state: a higher number that is still there would count as new.
    for folder in st.engine_dir().iterdir():
        if folder.name.isdigit() and int(folder.name) > live:
            shutil.rmtree(folder)
    before = st.loads()
    with Traffic(st, clients=2) as traffic, st.control(state=st.root / "new-state", promotion="manual") as app:
        st.wait_live(live)
        assert app.history() == (), "what serves is adopted as it is"
        assert st.version(live)["state"] == "serving"
        # The next rollout goes on from there.
        st.drop_copy(live, 50)
        assert st.wait_phase("waiting")["stable"] == live
        app.promote(None, 50, full=False, who="tester")
        st.wait_live(50)
        traffic.wait_answers(50)
    assert traffic.errors == []
    assert st.loads() - before == {50: 1}


# As a process, killed


def test_ctl_serve_killed_in_each_phase(st: Stage) -> None:
    with st.control():
        live = st.wait_phase("steady")["stable"]
    settings = st.settings(keep_previous="1s")
    settings["control"]["metrics"] = "127.0.0.1:0"
    config = st.root / "baton.toml"
    config.write_text(toml(settings))

    serve = ControlPlane("serve", options=("--config", str(config)), log=st.root / "serve.log")
    for version, phase in enumerate(("loading", "validating", "baking", "retiring"), start=100):
        before = st.loads()
        with Traffic(st, clients=2) as traffic:
            with serve:
                serve.rest()
                st.drop_copy(live, version, **toy_for(phase))
                serve.until(lambda service, p=phase: service["phase"] == p, phase)
                serve.kill()
            traffic.wait_answers(version if phase in {"baking", "retiring"} else live)
            with serve:
                serve.rest(version)
                live = version
                traffic.wait_answers(live)
        assert traffic.errors == [], phase
        assert st.policy() == {live}
        assert st.loads() - before == {version: 1}, f"{phase}: nothing is loaded twice"
