"""A Triton that Baton starts, or that is installed here: the server, its stub, its backends, the engine's packages."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from baton.config import Config
from baton.doctor.finding import Finding, bad, failed, good, limited, skipped
from baton.doctor.models import template
from baton.errors import BatonError, RepositoryError
from baton.local.assemble import find_backends
from baton.local.find import STUB, find_binary, find_libpython, find_stub, find_triton, stub_python
from baton.share import shared
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, read
from baton.triton.repository import SPLITTER_BACKEND

if TYPE_CHECKING:
    from baton.local.find import Installation

ENGINE_PACKAGES = ("torch", "transformers", "safetensors", "PIL", "av")
"""What the reranker's engine imports, by import name."""
_RUN_TIMEOUT = 60.0
_LOOK = (
    "import importlib.util as u, json, sys; "
    "print(json.dumps([sys.version_info[:2], [n for n in sys.argv[1:] if u.find_spec(n) is None]]))"
)


def startable(explicit: Path | None = None) -> Iterator[Finding]:
    """The server that Baton would start: the binary, its stub and the stub's libpython."""
    name = "tritonserver"
    try:
        binary = find_binary(explicit)
        name = "python stub"
        stub = find_stub(binary.parent.parent)
        yield good(name, str(stub))
        name = "libpython"
        installation = find_triton(explicit)
        place = find_libpython(stub, installation.libraries)
        yield good(name, f"in {place}" if place else "the system's loader finds it")
    except BatonError as error:
        yield failed(name, error, "Install Triton anew.")
    else:
        yield runs(installation)


def runs(installation: Installation) -> Finding:
    env = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in installation.libraries)}
    command = [str(installation.binary), "--help"]
    try:
        done = subprocess.run(  # noqa: S603 - the binary that a start would run
            command, env=env, capture_output=True, text=True, errors="replace", timeout=_RUN_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return bad("tritonserver", f"{installation.binary}: {error}", "Install it anew.")
    # Some releases end --help with another code than 0; a loader that misses a library writes none of the usage.
    if "Usage" not in done.stdout + done.stderr:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"ended with code {done.returncode}"]
        message = f"{installation.binary} does not run: {lines[-1]}"
        return bad("tritonserver", message, "Install what the message names, or Triton anew.")
    version = installation.version or "of unknown version"
    return good("tritonserver", f"{version} ({installation.source}) at {installation.binary}")


def installed(config: Config) -> Iterator[Finding]:
    """A Triton that is installed here and does not run, and that Baton does not start."""
    try:
        binary = find_binary()
    except BatonError as error:
        yield failed("tritonserver", error, "Install Triton anew.")
        return
    yield good("tritonserver", f"at {binary}; it does not run")
    yield folder_backends(config, binary.parent.parent / "backends")
    yield interpreter_packages(binary.parent.parent / "backends" / "python" / STUB, os.environ.get("PATH", ""))


def needed_backends(config: Config) -> dict[str, str]:
    """Each backend that Triton needs, and the model that needs it."""
    needed: dict[str, str] = {}
    for service in config.services:
        file = config.repository / service.engine / CONFIG
        try:
            text = read(file)
        except RepositoryError:
            text = None
        own = template(service)
        if text is None and own is not None:
            file, text = own, own.read_text("utf-8")
        try:
            backend = pbtxt.parse(text or "", file).backend
        except RepositoryError:
            backend = ""
        if backend:
            needed[backend] = service.engine
        needed[SPLITTER_BACKEND] = service.splitter
    return needed


def own_backends(config: Config, directories: Sequence[Path]) -> Finding:
    """Those that Baton hands to the Triton that it starts."""
    try:
        names = [name for name, _ in find_backends(directories)]
    except BatonError as error:
        return failed("backends", error, "Correct the directory.")
    if not names:
        mend = "Name a directory such as python_backend/, unless Triton brings the engine's backend itself."
        return limited("backends", "no python-based backend was named", mend)
    return _lacking(config, set(names), f"{', '.join(names)}", "Name its directory with --backends.")


def folder_backends(config: Config, folder: Path, seen_as: Path | None = None) -> Finding:
    """Those in Triton's backend directory. ``seen_as``: its path for Triton, in a container another one."""
    shown = seen_as or folder
    try:
        names = {one.name for one in folder.iterdir() if one.is_dir()}
    except OSError as error:
        return skipped("backends", f"{shown} can't be looked at: {error.strerror}")
    mend = f"cp -r {shared('python_backend')}/* {shown}/"
    return _lacking(config, names, f"{', '.join(sorted(names))} in {shown}", mend)


def _lacking(config: Config, names: set[str], shown: str, mend: str) -> Finding:
    if lacking := {backend: model for backend, model in needed_backends(config).items() if backend not in names}:
        told = " and ".join(f"{backend}, which {model} needs" for backend, model in lacking.items())
        effect = "no rollout can split traffic" if set(lacking) == {SPLITTER_BACKEND} else "no version can be loaded"
        return bad("backends", f"no {told}: {effect}. There are {shown}", mend)
    return good("backends", shown)


def own_packages(names: Sequence[str] = ENGINE_PACKAGES) -> Finding:
    """Beside Baton, whose environment the models of its own Triton see.

    ``find_spec`` of a top-level name imports nothing: torch alone would take seconds.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return good("engine packages", ", ".join(names))
    mend = f'{sys.executable} -m pip install "triton-baton[engine]"; with `ctl serve` Triton\'s own machine needs them.'
    message = f"not installed beside Baton: {', '.join(missing)}: no version can be loaded"
    return bad("engine packages", message, mend)


def interpreter_packages(stub: Path, path: str, names: Sequence[str] = ENGINE_PACKAGES) -> Finding:
    """What the Python of Triton's stubs finds: it is the one of ``PATH``, and ignores PYTHONPATH (seen on 24.10)."""
    name = "engine packages"
    try:
        wanted = stub_python(stub)
    except OSError as error:
        return skipped(name, f"{stub} can't be read: {error.strerror}")
    program = shutil.which("python3", path=path)
    if program is None:
        return skipped(name, f"no python3 is in Triton's PATH ({path}), by which its stubs find their packages")
    try:
        done = subprocess.run(  # noqa: S603 - the interpreter whose packages the models see
            [program, "-E", "-c", _LOOK, *names], capture_output=True, text=True, timeout=_RUN_TIMEOUT, check=True
        )
        version, missing = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return skipped(name, f"{program} does not say what it finds: {error}")
    found = ".".join(str(part) for part in version)
    if wanted not in {None, found}:
        message = f"Triton's stubs run Python {wanted}, and python3 in its PATH is {found}: they may find no packages"
        return limited(name, message, f"Put a Python {wanted} with the engine's packages first into Triton's PATH.")
    if missing:
        message = f"{program}, which Triton's stubs follow, lacks {', '.join(missing)}: no version can be loaded"
        return bad(name, message, f'{program} -m pip install "triton-baton[engine]"')
    return good(name, f"{', '.join(names)} beside {program}")
