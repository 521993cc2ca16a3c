"""What the splitter and the shadow cost while traffic is split, against the alias that leads to the engine."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from bench.compare.paths import Cost, costs
from bench.compare.way import CHECKPOINT, NEW, OLD, engine_config, infer_url
from harness.places import ENGINE
from harness.triton import running_triton

from baton.triton.config_file import CONFIG
from baton.triton.grpc import GrpcTriton
from baton.triton.key import Caps, Key, token_file
from baton.triton.repository import CONTROL, SPLITTER_VERSION, ServiceFiles

PATHS = {
    "alias": None,
    "splitter, candidate 0 %": (0.0, 0.0),
    "splitter, candidate 50 %": (50.0, 0.0),
    "splitter, shadow 25 %": (0.0, 25.0),
}
"""Weight and shadow in percent; None: straight to the engine."""
LOAD_S, LEASE_S = 600.0, 3600.0
CAPS = Caps(weight=50.0, shadow=25.0, lease_s=LEASE_S, contents=False)


def split_costs(home: Path, asked: Sequence[bytes]) -> list[Cost]:
    """Each path's p50 and p95 at each concurrency, all on one Triton with two equal versions of the engine."""
    repository = home / "model_repository"
    engine = repository / ENGINE
    for version in (OLD, NEW):
        shutil.copytree(CHECKPOINT, engine / str(version))
    (engine / CONFIG).write_text(engine_config(f"specific {{ versions: [ {OLD}, {NEW} ] }}"))
    with running_triton(home, repository, load=[ENGINE]) as triton:
        client = GrpcTriton("split", triton.grpc_url)
        urls = {}
        try:
            for number, (path, route) in enumerate(PATHS.items()):
                key = Key(token_file(home / "state", f"public{number}"), CAPS)
                files = ServiceFiles(repository, f"public{number}", ENGINE, key)
                if route is not None:
                    files.set_splitter(OLD)
                    client.load(files.splitter_name, LOAD_S)
                    _steer(client, files, *route)
                files.set_alias(OLD, split=route is not None)
                for _ in range(2):  # an ensemble is made anew by the next load call until it got a second one
                    client.load(files.alias_name, LOAD_S)
                urls[path] = infer_url(triton.http_url, files.alias_name)
            return costs(urls, asked)
        finally:
            client.close()


def _steer(client: GrpcTriton, files: ServiceFiles, weight: float, shadow: float) -> None:
    route = {
        "candidate": NEW,
        "weight": weight,
        "shadow": shadow,
        "lease_s": LEASE_S,
        "salt": "bench",
        "deadline_s": 60.0,
        "compare": "scores",
        "kinds": ["query", "documents"],
        "contents": False,
    }
    asked = json.dumps({"token": files.token(), "route": route}).encode()
    client.infer(files.splitter_name, SPLITTER_VERSION, {CONTROL: np.array([[asked]], dtype=np.object_)}, 10.0)
