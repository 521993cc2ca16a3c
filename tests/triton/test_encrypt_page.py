"""docs/how-to/encrypt-triton.md as it is written: its certificates, its options, its configuration, and a rollout."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
from harness.control_plane import ControlPlane
from harness.places import ROOT
from harness.traffic import Traffic, rerankers
from tests.support.certificate import write_secret
from tests.support.stage import Stage, stage, toml
from tests.support.tls import TlsTriton
from tests.support.toy import make_checkpoint
from tests.support.triton import OUR_BACKENDS, TOY_BACKENDS

from baton.tls import Tls

pytestmark = [pytest.mark.triton, pytest.mark.slow]
PAGE = (ROOT / "docs/how-to/encrypt-triton.md").read_text()
KEY = "planted-admin-key-83c1"
TRAFFIC = {"steps": [{"weight": 50, "hold": "2s"}], "shadow_share": 50, "shadow_for": "2s", "interval": "1s"}
LIVE = {"min_requests": 20, "min_pairs": 10, "latency_limit": 30.0}


def blocks(kind: str, **places: str) -> list[str]:
    """What the page says is to be typed, with other places for its own."""
    found = re.findall(rf"^    ```{kind}\n(.*?)^    ```", PAGE, re.DOTALL | re.MULTILINE)
    text = "\0".join(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in found)
    for old, new in places.items():
        text = text.replace(old, new)
    return text.split("\0")


def test_the_page_as_written(tmp_path: Path) -> None:
    here = {"10.0.0.5": "127.0.0.1", "/etc/triton": str(tmp_path), "/etc/baton": str(tmp_path)}
    certificates, start, look = blocks("sh", **here)
    subprocess.run(["bash", "-ec", certificates], cwd=tmp_path, check=True, capture_output=True)
    options = [word for word in shlex.split(start) if word.startswith(("--grpc-use-ssl", "--grpc-server", "--allow"))]
    assert len(options) == 4
    kind = type("Triton", (TlsTriton,), {"tls": Tls(tmp_path / "ca.pem")})
    write_secret(tmp_path / "admin.key", KEY)
    backends = (TOY_BACKENDS, OUR_BACKENDS)
    root = tmp_path / "stage"
    root.mkdir()
    with stage(root, backends=backends, kind=kind, http=False, extra_args=options[:3], admin_key=KEY) as st:
        assert options[3] == "--allow-http=false"
        rolled_out(st, here, look)


def rolled_out(st: Stage, here: dict[str, str], look: str) -> None:
    address = st.servers[0].grpc_url
    (server,) = tomllib.loads(blocks("toml", **here)[0])["servers"]
    settings = st.settings(traffic=TRAFFIC, live=LIVE)
    settings["servers"] = [settings["servers"][0] | server | {"grpc": address}]
    settings["control"]["metrics"] = "127.0.0.1:0"
    file = st.root / "baton.toml"
    file.write_text(toml(settings))
    log = st.root / "serve.log"
    with ControlPlane("serve", options=("--config", str(file)), log=log) as plane:
        st.drop(1)
        plane.rest(1)
        checks = {one["name"]: one for one in plane.ctl(*shlex.split(look)[1:], check=False)[1]}
        assert checks["way to a"]["ok"] is True
        assert "encrypted; the certificate" in checks["way to a"]["message"]
        assert checks["access to a"]["ok"] is True
        clients = rerankers([address], [("red round shape", ["a red round shape", "blue"])], 3, model="ranker",
                            tls=Tls(Path(server["ca_file"])))  # fmt: skip
        with Traffic(clients, pause_s=0.04) as traffic:
            plane.ctl("push", str(make_checkpoint(st.root / "next")), "--no-wait")
            row = plane.ended(2)
            plane.rest(2)
        assert row["outcome"] == "live", row
        assert traffic.failures == []
        assert traffic.versions[1] > 0
        assert traffic.versions[2] > 0
        (script,) = blocks("python", **here, **{'127.0.0.1:8001",': f'{address}", model="ranker",'})
        names: dict[str, object] = {}
        exec(script, names)
    assert "clear text" not in log.read_text()
    assert KEY not in log.read_text() + json.dumps(checks)
