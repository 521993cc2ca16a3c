"""(e) Baton: the new folder is dropped into the repository; clients ask the public name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.compare.way import CHECKPOINT, ENGINE, NEW, OLD, Running, engine_config, infer_url
from demo.rig import Rig, until

from baton.local import procfs
from baton.triton.config_file import CONFIG, write_atomically

SERVICE = "reranker"
CONFIGURATION = Path(__file__).with_name("baton.toml")


@contextmanager
def baton(home: Path) -> Iterator[Running]:
    """(e) Rename a folder into the repository; every gate, then the public name moves."""
    made = home / "made"
    with Rig(home / "rig", CONFIGURATION) as rig:
        # Nothing is loaded yet, so nothing is loaded again for it.
        write_atomically(rig.repository / ENGINE / CONFIG, engine_config(f"specific {{ versions: [ {OLD} ] }}"))

        def drop(version: int) -> None:
            shutil.copytree(CHECKPOINT, made / str(version))
            rig.drop(made / str(version), version)

        def update() -> None:
            drop(NEW)
            rig.wait_live(NEW)

        drop(OLD)
        until(lambda: _steady(rig), f"version {OLD} to serve")
        server = until(rig.server_pid, "Triton's process id")
        sessions = (os.getsid(server), os.getsid(_parent(server)))
        public = infer_url(rig.places["http"], SERVICE)
        yield Running(
            public,
            update,
            lambda: [pid for session in sessions for pid in procfs.session_members(session)],
            paths={
                "engine, directly": infer_url(rig.places["http"], version=OLD),
                "public name": public,
            },
        )


def _steady(rig: Rig) -> bool:
    service = rig.service()
    return (service["stable"], service["phase"]) == (OLD, "steady")


def _parent(pid: int) -> int:
    """The control plane: Triton's parent."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("PPid:"))
