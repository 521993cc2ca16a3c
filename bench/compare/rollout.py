"""(e) Baton: the new folder is dropped into the repository; clients ask the alias."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.compare.way import CHECKPOINT, NEW, OLD, Running, engine_config, infer_url
from harness.places import ENGINE
from harness.rig import Rig
from harness.waiting import until

from baton.local import procfs
from baton.triton.config_file import CONFIG, write_atomically

SERVICE = "reranker"
CONFIGURATION = Path(__file__).with_name("baton.toml")


@contextmanager
def baton(home: Path) -> Iterator[Running]:
    """(e) Rename a folder into the repository; every gate, then the alias moves."""
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
        rig.rest(OLD)
        server = until(rig.server_pid, "Triton's process id")
        sessions = (os.getsid(server), rig.process.pid)
        public = infer_url(rig.places["http"], SERVICE)
        yield Running(
            public,
            update,
            lambda: [pid for session in sessions for pid in procfs.session_members(session)],
            paths={
                "engine, directly": infer_url(rig.places["http"], version=OLD),
                "alias": public,
            },
        )
