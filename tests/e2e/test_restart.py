"""The control plane ends in the middle of things and starts again: what it began is finished, traffic never notices."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.stage import Stage, Traffic, stage, toml, until

from baton.api import SOCKET, ApiClient
from baton.errors import BatonError

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


@contextlib.contextmanager
def serving(config: Path, state: Path, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], ApiClient]]:
    """``ctl serve``; it answers when this is entered."""
    command = [sys.executable, "-c", "import sys; from baton.cli import main; main(sys.argv[1:])"]
    with (
        log.open("ab") as errors,
        subprocess.Popen([*command, "--config", str(config), "serve"], stdout=errors, stderr=errors) as process,
    ):
        try:
            client = ApiClient(state / SOCKET)

            def answers() -> bool:
                assert process.poll() is None, log.read_text()
                try:
                    return bool(client.status().services[0].updated_at)
                except BatonError:
                    return False

            until(answers, "ctl serve answers")
            yield process, client
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(60)


def test_ctl_serve_killed_in_each_phase(st: Stage) -> None:
    with st.control():
        live = st.wait_phase("steady")["stable"]
    settings = st.settings(keep_previous="1s")
    settings["control"]["metrics"] = "127.0.0.1:0"
    config, state, log = st.root / "baton.toml", Path(settings["state"]), st.root / "serve.log"
    config.write_text(toml(settings))

    def phase_of(client: ApiClient) -> str:
        return str(client.status().services[0].phase)

    for version, phase in enumerate(("loading", "validating", "baking", "retiring"), start=100):
        before = st.loads()
        with Traffic(st, clients=2) as traffic:
            with serving(config, state, log) as (process, client):
                until(lambda c=client: phase_of(c) == "steady", "steady")
                st.drop_copy(live, version, **toy_for(phase))
                until(lambda c=client, p=phase: phase_of(c) == p, phase)
                process.send_signal(signal.SIGKILL)
                process.wait(60)
            traffic.wait_answers(version if phase in {"baking", "retiring"} else live)
            with serving(config, state, log) as (_, client):
                until(lambda c=client, v=version: _rests_on(c, v), f"version {version} live; {phase_of(client)}")
                live = version
                traffic.wait_answers(live)
        assert traffic.errors == [], phase
        assert st.policy() == {live}
        assert st.loads() - before == {version: 1}, f"{phase}: nothing is loaded twice"


def _rests_on(client: ApiClient, version: int) -> bool:
    service = client.status().services[0]
    return service.phase == "steady" and service.stable == version and service.rollout is None
