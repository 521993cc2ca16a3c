"""``make up``: ``ctl up`` on the demo checkpoints, in a repository of its own under ``.baton``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from demo.rig import CHECKPOINTS, ROOT, Rig

from baton.push import push

STATE = ROOT / ".baton"


def main() -> None:
    """Put the first version in place, if there is none yet; then become ``ctl up``."""
    repository = STATE / "up" / "model_repository"
    (repository / Rig.engine).mkdir(parents=True, exist_ok=True)
    if not any(entry.is_dir() for entry in (repository / Rig.engine).iterdir()):
        push(CHECKPOINTS / "base", repository, Rig.engine, label="v1.0")
    ctl = Path(sys.executable).with_name("ctl")
    print(f"In another terminal: {os.path.relpath(ctl)} status --watch")
    print(
        f"A new version:       {os.path.relpath(ctl)} push demo/checkpoints/retrained --release retrained\n", flush=True
    )
    words = [
        "--config",
        str(ROOT / "demo" / "baton.toml"),
        "--state",
        str(STATE),
        "up",
        "--repository",
        str(repository),
    ]
    os.execv(ctl, [str(ctl), *words])


if __name__ == "__main__":
    main()
