"""Who may steer a split, and how far: not who reads the repository, and nobody beyond what is configured."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from harness.control_plane import ControlPlane
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage, toml
from tests.support.stranger import attempt
from tests.support.triton import OUR_BACKENDS, ROOT, TOY_BACKENDS
from tests.unit.splitter.routes import route_of

from baton.triton import pbtxt
from baton.triton.key import token_file
from baton.triton.repository import ServiceFiles

pytestmark = [pytest.mark.triton, pytest.mark.slow]
SPLITTER = "ranker_splitter"
TRAFFIC: dict[str, Any] = {
    "steps": [{"weight": 50, "hold": "600s"}],
    "shadow_share": 0,
    "interval": "1s",
    "lease": "4s",
}
BEYOND: list[tuple[dict[str, Any], str]] = [
    ({"weight": 100}, "route.weight is 100, and this service is configured for at most 50"),
    ({"shadow": 100}, "route.shadow is 100, and this service is configured for at most 0"),
    ({"lease_s": 3600}, "route.lease_s is 3600, and this service is configured for at most 4"),
    ({"contents": True}, "route.contents must be false: this service is not configured to keep documents"),
]


@pytest.fixture(scope="module")
def st() -> Iterator[Stage]:
    # pytest's own folders are closed to other users, who then could read nothing anyway.
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        with stage(root, backends=(TOY_BACKENDS, OUR_BACKENDS)) as made:
            with made.control():
                made.drop(1)
                made.wait_live(1)
            yield made


def configure(st: Stage, **traffic: Any) -> Path:
    """Writes the configuration of ``ctl serve``."""
    file = st.root / "serve.toml"
    table = st.settings(traffic=TRAFFIC | traffic, live={"latency_limit": 30.0}, keep_previous="1s")
    file.write_text(toml(table | {"control": {"rescan": "1s", "metrics": "127.0.0.1:0"}}))
    return file


@pytest.fixture
def serve(st: Stage) -> Iterator[ControlPlane]:
    with ControlPlane("serve", options=("--config", str(configure(st))), log=st.root / "serve.log") as made:
        yield made


@contextlib.contextmanager
def split(st: Stage, serve: ControlPlane) -> Iterator[tuple[Traffic, int]]:
    """A new version has half of the traffic; at the end it is taken back."""
    with Traffic(st) as traffic:
        stable, number = st.serving(), st.unused()
        traffic.wait_answers(stable)
        st.drop_copy(stable, number)
        serve.until(lambda service: service["weight"] == 50, "a split")
        traffic.wait_answers(number)
        try:
            yield traffic, number
        finally:  # else the next test waits for the end of the step, ten minutes
            serve.api.abort(None)
            serve.rest(stable)
    assert traffic.errors == []


def files(st: Stage) -> ServiceFiles:
    return ServiceFiles(st.repository, "ranker", "ranker_engine")


def parameters(st: Stage) -> dict[str, str]:
    path = st.repository / SPLITTER / "config.pbtxt"
    return {k: v.string_value for k, v in pbtxt.parse(path.read_text(), path).parameters.items()}


def kept(st: Stage) -> str:
    """The token in the state directory."""
    return token_file(st.root / "state", "ranker").read_text().strip()


def in_repository(st: Stage, word: str) -> list[Path]:
    return [p for p in st.repository.rglob("*") if p.is_file() and word.encode() in p.read_bytes()]


def steer(st: Stage, token: str, **route: Any) -> str:
    """Why the splitter refuses; an empty text when it does not."""
    with triton.InferenceServerClient(st.servers[0].grpc_url) as client:
        return attempt(client, SPLITTER, token, route_of(**route))


def doing(serve: ControlPlane) -> dict[str, Any]:
    traffic = serve.service().get("traffic") or {}
    return dict(next(iter(traffic.get("splitters", [])), {}))


def follows(serve: ControlPlane, weight: float) -> bool:
    return doing(serve).get("weight") == weight and not serve.service()["problems"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else")
def test_who_reads_the_repository_steers_nothing(st: Stage, serve: ControlPlane) -> None:
    with split(st, serve) as (_, number):
        route = json.dumps(route_of(candidate=number, weight=100, shadow=100, lease_s=3600, contents=True))
        words = [str(st.repository), st.servers[0].grpc_url, SPLITTER, route]
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.stranger", *words],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
        assert found["taken"] == [], "a word of the repository steers the splitter"
        assert found["words"] > 20, "it read what is there"
        assert all("the token is missing or wrong" in why for why in found["refusals"]), found["refusals"]
        assert serve.service()["weight"] == 50
        file = token_file(st.root / "state", "ranker")
        assert (stat.S_IMODE(file.stat().st_mode), file.stat().st_uid) == (0o600, 0)
        # Not by user=: that forks, and gRPC's threads of this process don't survive it in the child.
        as_nobody = subprocess.run(["runuser", "-u", "nobody", "--", "cat", file], capture_output=True, check=False)
        assert b"Permission denied" in as_nobody.stderr
        assert as_nobody.stdout == b""


def test_the_repository_holds_a_hash_alone(st: Stage, serve: ControlPlane) -> None:
    with split(st, serve):
        token = kept(st)
        assert in_repository(st, token) == []
        assert parameters(st) == {
            "engine": "ranker_engine",
            "stable": "1",
            "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
            "max_weight": "50.0",
            "max_shadow": "0.0",
            "max_lease_s": "4.0",
            "contents": "false",
        }
    assert in_repository(st, token) == []


def test_whoever_has_the_token_is_held_to_what_is_configured_and_is_told_of(st: Stage, serve: ControlPlane) -> None:
    with split(st, serve) as (_, number):
        token, usual = kept(st), {"candidate": number, "weight": 50, "shadow": 0, "lease_s": 4}
        for more, why in BEYOND:
            assert why in steer(st, token, **(usual | more))
        until(lambda: follows(serve, 50), "nothing came of it")
        assert doing(serve) == doing(serve) | {"server": "s0", "candidate": number, "shadow": 0, "contents": False}
        assert 0 < doing(serve)["lease_left_s"] <= 4

        assert steer(st, token, **(usual | {"weight": 7})) == ""
        [problem] = until(lambda: serve.service()["problems"], "it is told")
        assert "followed a route that this control plane did not send" in problem
        assert f"7 % to version {number}" in problem
        until(lambda: doing(serve)["weight"] == 50, "and is replaced")
        assert "did not send" in serve.log.read_text()
        assert token not in serve.log.read_text()


def old_format(st: Stage) -> None:
    """As a Baton of before wrote it and left it: the token in clear in the version folder, nothing in its place."""
    path = st.repository / SPLITTER / "config.pbtxt"
    config = pbtxt.parse(path.read_text(), path)
    for name in ("token_sha256", "max_weight", "max_shadow", "max_lease_s", "contents"):
        del config.parameters[name]
    path.write_text(str(config))
    (st.repository / SPLITTER / "1" / "token").write_text("c1ea4" * 12)


def pid(st: Stage) -> int:
    """The process of the splitter that answers."""
    with triton.InferenceServerClient(st.servers[0].grpc_url) as client:
        tensor = triton.InferInput("baton_control", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[json.dumps({"token": kept(st)}).encode()]], dtype=np.object_))
        report = client.infer(SPLITTER, [tensor], outputs=[triton.InferRequestedOutput("baton_report")])
    return int(json.loads(report.as_numpy("baton_report").reshape(-1)[0])["pid"])


def test_a_control_plane_that_is_killed_in_a_split_finds_its_token(st: Stage, serve: ControlPlane) -> None:
    with split(st, serve) as (traffic, number):
        token, process = kept(st), pid(st)
        serve.kill()
        serve.start()
        until(lambda: follows(serve, 50), "the split goes on")
        traffic.wait_answers(number)
        assert kept(st) == token
        assert pid(st) == process, "nothing was loaded again"


@pytest.mark.parametrize("how", ["lost", "readable", "configured", "old files", "old files loaded"])
def test_files_that_do_not_fit_are_renewed_in_a_split(st: Stage, serve: ControlPlane, how: str) -> None:
    with split(st, serve) as (traffic, number):
        before, process = kept(st), pid(st)
        serve.kill()
        if how == "lost":
            token_file(st.root / "state", "ranker").unlink()
        elif how == "readable":
            token_file(st.root / "state", "ranker").chmod(0o644)
        elif how == "configured":
            configure(st, steps=[{"weight": 50, "hold": "300s"}, {"weight": 60, "hold": "300s"}], contents=True)
        else:
            token_file(st.root / "state", "ranker").unlink()
            old_format(st)
            if how == "old files loaded":  # Triton was started again with the new backend, before the control plane
                with triton.InferenceServerClient(st.servers[0].grpc_url) as client:
                    client.load_model(SPLITTER)
        serve.start()
        until(lambda: follows(serve, 50), f"the split goes on; {serve.service()}")
        traffic.wait_answers(number)
        token = kept(st)
        assert token != before
        assert parameters(st)["token_sha256"] == hashlib.sha256(token.encode()).hexdigest()
        assert not (st.repository / SPLITTER / "1" / "token").exists()
        assert in_repository(st, token) == in_repository(st, before) == in_repository(st, "c1ea4" * 12) == []
        assert pid(st) != process
        assert traffic.errors == []
        if how == "configured":
            assert (parameters(st)["contents"], parameters(st)["max_weight"]) == ("true", "60.0")
            assert doing(serve)["contents"] is True
            assert steer(st, token, candidate=number, weight=61, lease_s=4) != ""


def test_an_empty_state_directory_in_a_split(st: Stage, serve: ControlPlane) -> None:
    """It is adopted: stable alone answers, and the next split has a token of its own."""
    with Traffic(st) as traffic:
        stable, number = st.serving(), st.unused()
        st.drop_copy(stable, number)
        serve.until(lambda service: service["weight"] == 50, "a split")
        traffic.wait_answers(number)
        before = kept(st)
        serve.kill()
        for version in range(stable + 1, number):  # what was taken back before would count as new
            shutil.rmtree(st.engine_dir() / str(version))
        shutil.rmtree(st.root / "state")
        serve.start()
        # The candidate counts as a new version, and meets its gates and a split again.
        until(lambda: serve.service()["weight"] == 50 and kept(st) != before, f"another split; {serve.service()}")
        until(lambda: follows(serve, 50), "it is steered")
        traffic.wait_answers(number)
        assert parameters(st)["token_sha256"] == hashlib.sha256(kept(st).encode()).hexdigest()
        serve.api.abort(None)
        serve.rest(stable)
    assert traffic.errors == []
