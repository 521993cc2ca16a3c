"""Files that come with Baton: backends for Triton, the configuration of each engine, and the demo's checkpoints."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shared(*parts: str) -> Path:
    """The path of such a file or folder, for example ``shared("python_backend")``. It need not be there.

    In an installation it lies in ``baton/data``, where ``setup.py`` put it; in a checkout at the checkout's root.
    """
    installed = _PACKAGE / "data"
    return (installed if installed.is_dir() else _PACKAGE.parents[1]).joinpath(*parts)
