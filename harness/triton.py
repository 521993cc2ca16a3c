"""A real Triton."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.places import BACKENDS

from baton.local import LocalTriton

END_S = 8.0
"""A server with a dead or hung model uses its whole exit timeout of 30 s. Nobody here need wait for that."""


@contextlib.contextmanager
def running_triton(
    home: Path,
    repository: Path,
    *,
    load: Sequence[str] = (),
    backends: Sequence[Path] = (BACKENDS,),
    kind: type[LocalTriton] = LocalTriton,
    **options: Any,
) -> Iterator[LocalTriton]:
    """A server on free ports that has ``load`` loaded. At the end it is gone, also where it stands still.

    Its state and its log (``triton.log``) lie in ``home``. ``options`` are those of ``LocalTriton.start``.
    """
    server = kind.prepare(home / "state", backends)
    try:
        start(server, home, repository, load=load, **options)
        yield server
    finally:
        if server.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(server.pid, signal.SIGCONT)
        server.stop(timeout=END_S)


def start(server: LocalTriton, home: Path, repository: Path, *, load: Sequence[str] = (), **options: Any) -> None:
    """Start a server, also once more: then on the ports that it had, since clients don't look for other ones."""
    had = {f"{name}_port": getattr(server.ports, name) or None for name in ("http", "grpc", "metrics")}
    settings: dict[str, Any] = {"log_file": home / "triton.log", "die_with_parent": True} | had | options
    server.start(repository, load=load, **settings)
