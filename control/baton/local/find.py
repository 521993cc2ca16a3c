"""Finds a Triton server on this machine: an installed one, or the one inside a Python package.

The package (``nvidia-pytriton``) carries the real server, the python backend and one stub for each Python
version. Only these files are used. The package itself is never imported, because that has side effects.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from baton.errors import ConfigError

DEFAULT_BINARY = Path("/opt/tritonserver/bin/tritonserver")
"""Where NVIDIA's container images keep the server."""
WHEEL = "nvidia-pytriton"
STUB = "triton_python_backend_stub"
LIBRARY = "libtriton_python.so"
UTILITIES = "triton_python_backend_utils.py"

_WHEEL_SERVERS = {"0.7.0": "2.51.0"}
"""The server's version inside each known release of the wheel, which does not say so itself."""
_LIBPYTHON = re.compile(rb"libpython(?P<major>\d)[^\0/]*?\.(?P<minor>\d+)\.so[.\d]*")
"""Also matches the name of a copy that a wheel carries, such as ``libpython3-419a3a08.13.so.1.0``."""


@dataclass(frozen=True, slots=True)
class Installation:
    """One Triton server with a python backend that runs the current Python version."""

    binary: Path
    backends: Path
    """The directory that holds ``python/libtriton_python.so``."""
    libraries: tuple[Path, ...]
    """What ``LD_LIBRARY_PATH`` must hold for the server and the stub, in this order."""
    stub: Path
    """The process that runs models, built for the current Python version."""
    source: Literal["installed", "wheel"]
    version: str | None
    """The server's version where the files tell it, such as ``2.51.0``."""


def find_triton(explicit: Path | None = None) -> Installation:
    """Finds a server that can start.

    ``explicit`` is a ``tritonserver`` binary or the directory that holds ``bin/tritonserver``; without it the
    order is ``/opt/tritonserver``, ``PATH``, the Python package.

    Raises ``ConfigError`` naming what is missing and what to do about it.
    """
    binary = find_binary(explicit)
    root = binary.parent.parent
    packaged = (root / "python_backend_stubs").is_dir()
    backends = root / "backends"
    for name in (LIBRARY, UTILITIES):
        if not (backends / "python" / name).is_file():
            raise ConfigError(
                f"{binary} has no python backend: {backends / 'python' / name} is not there.",
                mend=f"Use a complete Triton installation, or install its package: pip install {WHEEL}==0.7.0",
            )
    stub = find_stub(root)
    # The wheel keeps its shared libraries beside its packages: site-packages/pytriton/tritonserver/bin/tritonserver.
    carried = root.parent.parent / "nvidia_pytriton.libs" if packaged else root / "lib"
    libraries: tuple[Path, ...] = (carried,) if carried.is_dir() else ()
    libpython = find_libpython(stub, libraries)
    if libpython is not None and libpython not in libraries:
        libraries += (libpython,)
    return Installation(
        binary=binary,
        backends=backends,
        libraries=libraries,
        stub=stub,
        source="wheel" if packaged else "installed",
        version=_version(root, packaged=packaged),
    )


def find_binary(explicit: Path | None = None) -> Path:
    """The ``tritonserver`` to run. Raises ``ConfigError`` when there is none."""
    if explicit is not None:
        for candidate in (explicit, explicit / "tritonserver", explicit / "bin" / "tritonserver"):
            if candidate.is_file():
                return _executable(candidate.absolute())
        raise ConfigError(
            f"There is no tritonserver at {explicit}.", mend="Name the binary, or the directory that holds bin/."
        )
    if DEFAULT_BINARY.is_file():
        return _executable(DEFAULT_BINARY)
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        # A link in /usr/local/bin has no backends beside it; the file that it names has.
        return Path(on_path).resolve()
    packaged = _wheel_root()
    if packaged is not None and (packaged / "bin" / "tritonserver").is_file():
        return _executable(packaged / "bin" / "tritonserver")
    raise ConfigError(
        f"No tritonserver in {DEFAULT_BINARY.parent}, in PATH or in the packages of {sys.executable}.",
        mend=f"Install it with: {sys.executable} -m pip install {WHEEL}==0.7.0 (Linux on x86-64), "
        "or run Baton in NVIDIA's Triton container.",
    )


def find_stub(root: Path) -> Path:
    """The stub of the current Python version. Raises ``ConfigError`` when the server has none for it."""
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    stubs = root / "python_backend_stubs"
    if stubs.is_dir():
        stub = stubs / wanted / STUB
        if stub.is_file():
            return stub
        offered = ", ".join(sorted((entry.name for entry in stubs.iterdir()), key=_numbers))
        raise ConfigError(
            f"{root} carries no python stub for Python {wanted}, only for {offered}.",
            mend="Create the virtual environment with one of these Python versions.",
        )
    stub = root / "backends" / "python" / STUB
    if not stub.is_file():
        raise ConfigError(f"{stub} is not there.", mend="Install Triton's python backend.")
    built_for = stub_python(stub)
    if built_for not in (None, wanted):
        raise ConfigError(
            f"The python stub of {root} is built for Python {built_for}, and Baton runs on Python {wanted}.",
            mend=f"Run Baton with Python {built_for}, so that models see the packages of Baton's environment, "
            "or start Triton by other means and use `ctl serve`.",
        )
    return stub


def stub_python(stub: Path) -> str | None:
    """The Python version that a stub is linked against, such as ``3.11``; None when it does not tell."""
    match = _LIBPYTHON.search(stub.read_bytes())
    return f"{int(match['major'])}.{int(match['minor'])}" if match else None


def find_libpython(stub: Path, libraries: tuple[Path, ...] = ()) -> Path | None:
    """The directory of the libpython that ``stub`` needs; None when the system's loader finds it by itself.

    The running Python's own library comes first: one of the same name elsewhere has another build's modules.
    Raises ``ConfigError`` when it is nowhere, which is so for a Python that was built without a shared library.
    """
    match = _LIBPYTHON.search(stub.read_bytes())
    if match is None:
        return None
    name = os.fsdecode(match.group())
    own = (sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix, "lib")))
    for directory in (*libraries, *(Path(entry) for entry in own if entry)):
        if (directory / name).is_file():
            return directory
    if name in _loader_cache():
        return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    raise ConfigError(
        f"{name} is not there, and Triton's python backend can't run without it: "
        f"{sys.base_prefix} was built without a shared library.",
        mend=f"Install one (Debian, Ubuntu: apt install libpython{version}; pyenv: "
        f"PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install {version}; uv: uv python install {version}) "
        "and create the virtual environment anew with it.",
    )


def _loader_cache() -> str:
    """What ``ldconfig`` knows; empty where there is no such program (musl)."""
    program = shutil.which("ldconfig") or "/sbin/ldconfig"
    if not Path(program).is_file():
        return ""
    return subprocess.run([program, "-p"], capture_output=True, text=True, check=False).stdout  # noqa: S603


def _executable(binary: Path) -> Path:
    if not os.access(binary, os.X_OK):
        raise ConfigError(f"{binary} is not executable.", mend=f"chmod +x {binary}")
    return binary


def _wheel_root() -> Path | None:
    """``pytriton/tritonserver`` of the running interpreter. ``find_spec`` of a top-level name imports nothing."""
    spec = importlib.util.find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "tritonserver"


def _version(root: Path, *, packaged: bool) -> str | None:
    file = root / "TRITON_VERSION"
    if file.is_file():
        return file.read_text().strip()
    if not packaged:
        return None
    try:
        return _WHEEL_SERVERS.get(importlib.metadata.version(WHEEL))
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
