"""Nobody gets in without a key, and no key gets out: not through a log, a process list, the journal or an answer."""

from __future__ import annotations

import contextlib
import json
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.control_plane import CTL, ControlPlane
from harness.network import fetch
from harness.waiting import until
from tests.support.certificate import Certificate, make_certificate, write_secret
from tests.support.listening import listening
from tests.support.stage import Stage, Traffic, stage, toml
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.api import ApiClient, Network
from baton.codec import encode
from baton.errors import BatonError, Refused
from baton.triton.key import token_file

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ADMIN, TOKEN, WRONG = "planted-admin-key-1f7c", "planted-api-token-93ab", "planted-wrong-token-77cd"
SPLIT: dict[str, Any] = {"steps": [{"weight": 50, "hold": "600s"}], "shadow_share": 0, "shadow_for": "0s"}


@contextlib.contextmanager
def serve(st: Stage, pair: Certificate, key_file: Path, name: str) -> Iterator[tuple[dict[str, Any], Path]]:
    """``ctl serve`` on the stage's Triton, with umask 0: no file is private but by Baton's own doing; and its log."""
    table = st.settings(traffic=SPLIT, live={"latency_limit": 30.0}, state=st.root / name)
    table["state"] = str(table["state"])
    table["servers"][0]["admin_key_file"] = str(key_file)
    table["control"] |= {
        "metrics": "127.0.0.1:0",
        "api": {
            "listen": "127.0.0.1:0",
            "certificate": str(pair.certificate),
            "key": str(pair.key),
            "token_file": str(write_secret(st.root / f"{name}.token", TOKEN)),
        },
    }
    (st.root / f"{name}.toml").write_text(toml(table))
    log = st.root / f"{name}.log"
    one = ControlPlane("serve", options=("--config", str(st.root / f"{name}.toml")), log=log, umask=0)
    with one:
        yield {**one.places, "pid": one.process.pid}, log
    assert one.process.returncode == 0


def in_repository(repository: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}


def every_command_line() -> bytes:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                found.append((entry / "cmdline").read_bytes())
    return b"\n".join(found)


def state_of(client: ApiClient) -> dict[str, Any]:
    return dict(encode(client.status().services[0]))


def test_no_secret_gets_out(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path / "tls")
    key_file = write_secret(tmp_path / "admin.key", ADMIN)
    with (
        stage(tmp_path, backends=(TOY_BACKENDS, OUR_BACKENDS), admin_key=ADMIN, die_with_parent=True) as st,
        serve(st, pair, key_file, "state") as (where, log),
    ):
        wrong = Network.at(where["network"], write_secret(tmp_path / "wrong", WRONG), pair.certificate)
        right = Network.at(where["network"], tmp_path / "state.token", pair.certificate)
        client = ApiClient(right)
        answers: list[str] = []
        st.drop(1)
        until(lambda: (state_of(client)["stable"], state_of(client)["phase"]) == (1, "steady"), "version 1 serves")
        with Traffic(st) as traffic:
            st.drop_copy(1, 2)
            until(lambda: state_of(client)["weight"] == 50, "traffic is split")
            splitter = token_file(tmp_path / "state", "ranker").read_text().strip()
            held = in_repository(st.repository)
            assert any(text.count(b"token_sha256") for text in held.values())
            for planted in (ADMIN, TOKEN, WRONG, splitter):
                assert [path for path, text in held.items() if planted.encode() in text] == []
            traffic.wait_answers(2)
            for call in (
                lambda: ApiClient(wrong).promote(None, 2, full=True),
                lambda: client.retry(None, 2),
                lambda: client.promote("no-such-service", 2),
            ):
                with pytest.raises(BatonError) as caught:
                    call()
                answers.append(str(caught.value))
            answers.append(every_command_line().decode(errors="replace"))
            client.abort(None)
            until(lambda: state_of(client)["phase"] == "steady", "version 1 serves alone")
        assert traffic.errors == []
        st.drop_copy(1, 3, raise_at_load=True)
        until(lambda: client.history()[0].candidate == 3 and client.history()[0].ended_at, "3 is refused")
        answers += [json.dumps(encode(answer)) for answer in (client.status(), client.versions(), client.history())]
        answers += [json.dumps(encode(client.rollout(item.id))) for item in client.history()]
        answers.append(fetch(f"{where['console']}/metrics"))

        state = tmp_path / "state"
        assert stat.S_IMODE(state.stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(where["api"]).stat().st_mode) == 0o600
        assert all(address.is_loopback for _, address in listening(where["pid"]))

        kept = [
            log,
            *(path for path in tmp_path.rglob("*.log")),
            *(path for path in state.rglob("*") if path.is_file() and path != token_file(state, "ranker")),
            *in_repository(st.repository),
        ]
        assert stat.S_IMODE(token_file(state, "ranker").stat().st_mode) == 0o600
        assert any(path.name.startswith("journal") for path in kept)
        for name, planted in (("key", ADMIN), ("token", TOKEN), ("wrong token", WRONG), ("splitter's", splitter)):
            for path in kept:
                assert planted.encode() not in path.read_bytes(), f"{name} in {path}"
            for answer in answers:
                assert planted not in answer, name
        assert "was refused: its token is missing or wrong" in log.read_text()


def test_a_wrong_key_is_told_and_nothing_else_is_tried(tmp_path: Path) -> None:
    pair = make_certificate(tmp_path / "tls")
    key_file = write_secret(tmp_path / "admin.key", WRONG)
    with (
        stage(tmp_path, admin_key=ADMIN) as st,
        serve(st, pair, key_file, "state") as (where, log),
    ):
        client = ApiClient(Path(where["api"]))
        until(lambda: "refused the admin key" in state_of(client)["message"], "it says what is wrong")
        st.drop(1)
        until(lambda: [v for v in client.versions() if v.version == 1], "the version is seen")
        service = state_of(client)
        assert service["phase"] == "degraded"
        assert "admin_key_file in [[servers]]" in service["message"]
        assert "does not answer" not in service["message"]
        with pytest.raises(Refused):
            client.promote(None, 9)
        assert client.history() == ()
        text = log.read_text()
        assert text.count("WARNING") <= 2, text  # said once by the loop and once by the service, not each second
        assert WRONG not in text


def test_a_token_that_others_may_read_stops_the_start(tmp_path: Path) -> None:
    token = write_secret(tmp_path / "token", TOKEN)
    token.chmod(0o644)
    (tmp_path / "repository").mkdir()
    file = tmp_path / "baton.toml"
    api = {"listen": "127.0.0.1:0", "certificate": "c", "key": "k", "token_file": "token"}
    file.write_text(toml({"repository": "repository", "state": "state", "control": {"api": api}}))
    command = [CTL, "--config", str(file), "serve"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "may be opened by others" in " ".join(done.stderr.split())
    assert TOKEN not in done.stderr + done.stdout
