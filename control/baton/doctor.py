"""The checks of ``ctl doctor``: what on this machine would keep Baton from working, and what to do about it.

Nothing is printed, and nothing is changed apart from a probe file that is removed at once. Not checked: whether the
configured servers answer (the control plane's health tells that), and machines other than this one.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from baton import secret
from baton.errors import BatonError, KeyRefused
from baton.local import procfs
from baton.local.assemble import find_backends
from baton.local.exec_wrapper import OWN, Memory, explain, memory_for, memory_here
from baton.local.find import find_binary, find_libpython, find_stub, find_triton
from baton.local.ports import open_port
from baton.ownership import user, writers
from baton.reasons.words import format_bytes
from baton.triton.grpc import GrpcTriton
from baton.verify.capacity import available_memory
from baton.verify.listing import look
from baton.verify.names import version_of
from baton.watch.watcher import NETWORK, file_system

if TYPE_CHECKING:
    from baton.config import ServerConfig
    from baton.local.find import Installation

MINIMUM_PYTHON = (3, 11)
ENGINE_PACKAGES = ("torch", "transformers", "safetensors", "PIL", "av")
"""What the reranker's engine imports, by import name."""
GIB = 2**30
MINIMUM_MEMORY = 2 * GIB
MINIMUM_DISK = 2 * GIB
MINIMUM_SHM = 256 * 2**20
"""Bytes. A stub's region starts at 1 MiB and grows to its largest request; Docker's default is 64 MiB."""
MINIMUM_VERSIONS = 2
"""So many more versions should fit on the disk."""
MINIMUM_WATCHES = 8192
_RUN_TIMEOUT = 60.0
_RESTRICT = (
    "Start it with --grpc-restricted-protocol=model-repository,shared-memory,logging,trace:admin-key=KEY and the same "
    "after --http-restricted-api=, and name a file with KEY in admin_key_file."
)
_OWN_MEMORY = (
    "Let users make namespaces (sysctl user.max_user_namespaces; on Debian kernel.unprivileged_userns_clone=1, on "
    "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0) and start `ctl up` again, or in a container of its own."
)
_OTHERS_MEMORY = (
    "Start that Triton again with a /dev/shm of its own: `ctl up` does so; docs/explanation/security.md says how else."
)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The result of one check. ``ok`` None: it is not known, or works with the limit that ``message`` names.

    ``mend`` says what to do; only a check that is ``True`` has none.
    """

    name: str
    ok: bool | None
    message: str
    mend: str | None = None


def _good(name: str, message: str) -> Diagnosis:
    return Diagnosis(name, ok=True, message=message)


def _limited(name: str, message: str, mend: str) -> Diagnosis:
    return Diagnosis(name, ok=None, message=message, mend=mend)


def _bad(name: str, message: str, mend: str | None) -> Diagnosis:
    return Diagnosis(name, ok=False, message=message, mend=mend)


def checks(
    *,
    repository: Path,
    state: Path,
    backends: Sequence[Path] = (),
    triton: Path | None = None,
    host: str = "127.0.0.1",
    ports: Mapping[str, int] | None = None,
    engine_packages: Sequence[str] = ENGINE_PACKAGES,
    no_triton: str = "",
) -> list[Diagnosis]:
    """Every check, in the order in which a start would meet the trouble.

    ``ports`` maps names (``http``, ``grpc``, ``metrics``, ``console``) to the port numbers that ``ctl up`` would
    open; leave it out while Baton runs. ``no_triton`` says why Baton starts no Triton here, so that what only a Triton
    needs is not asked of this machine.
    """
    results = [_python()]
    if no_triton:
        results.append(_good("Triton", f"Baton starts none on this machine: {no_triton}"))
    else:
        results += [*_triton(triton), _backends(backends)]
    results += [_port(name, host, number) for name, number in (ports or {}).items() if number]
    results += [] if no_triton else [_memory()]
    results += [_disk("repository disk", repository), _disk("state disk", state)]
    results += [] if no_triton else [_shared_memory()]
    results += [
        _requests(repository, state, starts=not no_triton),
        _writable("repository", repository),
        _writable("state", state),
        _private(state),
        _others(repository, state),
        _file_system(repository),
        _state_file_system(state),
        _watches(),
    ]
    return results if no_triton else [*results, _packages(engine_packages)]


def access(servers: Sequence[ServerConfig], state: Path) -> list[Diagnosis]:
    """Who may load and unload models on those of the configured servers that answer: everybody, or Baton alone.

    A server without a key in the configuration is also tried with the key of `ctl up` in ``state``.
    """
    results = []
    for server in servers:
        name = f"access to {server.name}"
        try:
            _ask_index(server, None)
        except KeyRefused as error:
            refusal = error
        except BatonError:
            continue  # the control plane's health tells whether a server is reached
        else:
            results.append(_limited(name, f"{server.grpc} lets anybody load and unload models", _RESTRICT))
            continue
        key_file = server.admin_key_file or state / "admin.key"
        try:
            if server.admin_key_file is None and not key_file.is_file():
                raise refusal
            _ask_index(server, secret.read(key_file, f"admin_key_file of server {server.name}"))
        except BatonError as error:
            results.append(_failed(name, error))
        else:
            results.append(_good(name, f"only with the key in {key_file}"))
    return results


def room_for_versions(repository: Path, service: str, engine: str, keep: int | None) -> Diagnosis:
    """How many more versions of the newest one's size fit on the disk, and what ``keep_versions`` would hold."""
    name, folder = f"room for {service}", repository / engine
    if not folder.is_dir():
        return _good(name, f"{folder} will be made")
    sizes = {int(p.name): look(p).own_size for p in folder.iterdir() if version_of(p.name) is not None}
    free = shutil.disk_usage(folder).free
    newest = sizes[max(sizes)] if sizes else 0
    if not newest:
        return _good(name, f"{format_bytes(free)} free, and no version that takes any")
    held = "" if keep is None else f"; keep_versions = {keep} holds up to {format_bytes(newest * (keep + 2))}"
    message = (
        f"{format_bytes(free)} free; {len(sizes)} on disk take {format_bytes(sum(sizes.values()))}; {free // newest} "
        f"more of the size of version {max(sizes)} ({format_bytes(newest)}) fit{held}"
    )
    if free // newest >= MINIMUM_VERSIONS:
        return _good(name, message)
    mend = "`ctl prune --dry-run --keep 0` shows what could be removed; set keep_versions in [services.rollout]."
    return _limited(name, message, mend)


def _ask_index(server: ServerConfig, key: str | None) -> None:
    """Raises ``BatonError`` where the server does not show its repository to whoever has that key."""
    with contextlib.closing(GrpcTriton(server.name, server.grpc, admin_key=key)) as triton:
        triton.index()


def _python() -> Diagnosis:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info[:2] >= MINIMUM_PYTHON:
        return _good("Python", f"{version} at {sys.executable}")
    wanted = ".".join(str(part) for part in MINIMUM_PYTHON)
    return _bad("Python", f"{version} is too old", f"Use Python {wanted} or newer.")


def _triton(explicit: Path | None) -> Iterable[Diagnosis]:
    """The server, its stub and the stub's libpython."""
    name = "tritonserver"
    try:
        binary = find_binary(explicit)
        name = "python stub"
        stub = find_stub(binary.parent.parent)
        yield _good(name, str(stub))
        name = "libpython"
        installation = find_triton(explicit)
        place = find_libpython(stub, installation.libraries)
        yield _good(name, f"in {place}" if place else "the system's loader finds it")
    except BatonError as error:
        yield _failed(name, error)
    else:
        yield _runs(installation)


def _runs(installation: Installation) -> Diagnosis:
    env = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(str(path) for path in installation.libraries)}
    command = [str(installation.binary), "--help"]
    try:
        done = subprocess.run(  # noqa: S603 - the binary that a start would run
            command, env=env, capture_output=True, text=True, errors="replace", timeout=_RUN_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return _bad("tritonserver", f"{installation.binary}: {error}", "Install it anew.")
    # Some releases end --help with another code than 0; a loader that misses a library writes none of the usage.
    if "Usage" not in done.stdout + done.stderr:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"ended with code {done.returncode}"]
        message = f"{installation.binary} does not run: {lines[-1]}"
        return _bad("tritonserver", message, "Install what the message names, or Triton anew.")
    version = installation.version or "of unknown version"
    return _good("tritonserver", f"{version} ({installation.source}) at {installation.binary}")


def _backends(directories: Sequence[Path]) -> Diagnosis:
    try:
        names = [name for name, _ in find_backends(directories)]
    except BatonError as error:
        return _failed("backends", error)
    if names:
        return _good("backends", ", ".join(names))
    mend = "Name a directory such as python_backend/, unless Triton brings the engine's backend itself."
    return _limited("backends", "no python-based backend was named", mend)


def _port(name: str, host: str, number: int) -> Diagnosis:
    try:
        open_port(host, name, number).close()
    except BatonError as error:
        return _bad(f"port {name}", error.message, f"Stop it, or pass another --{name}-port.")
    return _good(f"port {name}", f"{number} is free")


def _memory() -> Diagnosis:
    free = available_memory()
    if free is None:
        return _limited("memory", "this system does not say how much is free", "Look at it by other means.")
    return _enough("memory", free, MINIMUM_MEMORY, "Two versions are loaded during a rollout: free or add memory.")


def _disk(name: str, path: Path) -> Diagnosis:
    free = shutil.disk_usage(_existing(path)).free
    return _enough(name, free, MINIMUM_DISK, f"Free space at {path}: each version is a whole checkpoint.")


def _shared_memory() -> Diagnosis:
    if not procfs.SHARED_MEMORY.is_dir():
        mend = "Mount a tmpfs there: the python backend talks to its models through it."
        return _bad("shared memory", f"{procfs.SHARED_MEMORY} is not there", mend)
    mend = "Requests with large media need more: docker run --shm-size=1g, or mount -o remount,size=1g /dev/shm"
    return _enough("shared memory", shutil.disk_usage(procfs.SHARED_MEMORY).free, MINIMUM_SHM, mend)


def _requests(repository: Path, state: Path, *, starts: bool) -> Diagnosis:
    """Who can read clients' requests in shared memory; ``starts``: Baton starts a Triton here, or may."""
    name = "requests private"
    found, why = memory_here(memory := memory_for(repository, state)) if starts else (Memory.OWN, "")
    if found is not Memory.OPEN and (regions := procfs.open_regions()):
        more = f" and {len(regions) - 1} more" if regions[1:] else ""
        message = f"every user of this machine can read clients' requests in {procfs.SHARED_MEMORY}/{regions[0]}{more}"
        return _limited(name, message, _OTHERS_MEMORY)
    if not starts:
        return _good(name, f"no Triton here leaves them open in {procfs.SHARED_MEMORY}")
    if found is Memory.OWN:
        return _good(name, explain(found, why))
    return _limited(
        name, explain(found, why), _OWN_MEMORY if memory == OWN else f"Move {repository} and {state} to a disk."
    )


def _writable(name: str, path: Path) -> Diagnosis:
    path = path.absolute()
    place = _existing(path)
    try:
        # In the system's own words, and also where permissions lie (a read-only mount, root squashed by NFS). A
        # hidden name at the repository's root is no model to Triton.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        mend = f"Give the user that runs Baton (uid {os.getuid()}) write access to {place}."
        return _bad(f"{name} writable", f"{place}: {error.strerror}", mend)
    made = "" if place == path else f"; {path} will be made"
    return _good(f"{name} writable", f"{place}{made}")


def _private(state: Path) -> Diagnosis:
    """Baton makes the state directory for its user alone; one that was there before keeps its mode."""
    name = "state private"
    if state.is_dir() and (owner := state.stat().st_uid) not in {0, os.geteuid()}:
        message = f"{state} belongs to {user(owner)}, who could put keys and code of his own into it"
        return _limited(name, message, f"Run Baton as {user(owner)}, or give it the directory: chown")
    mode = stat.S_IMODE(state.stat().st_mode) if state.is_dir() else 0o700
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"{state} may be opened by others than its owner (mode {mode:04o}): the journal and logs lie there"
        return _limited(name, message, f"chmod 700 {state}")
    return _good(name, "for its owner alone")


def _others(repository: Path, state: Path) -> Diagnosis:
    """Who can write in the repository decides what is served. Whom the state directory belongs to runs Baton."""
    name = "repository writers"
    if not repository.is_dir():
        return _good(name, f"{repository} will be made")
    us = state.stat().st_uid if state.is_dir() else os.geteuid()
    try:
        places = [repository, *(entry for entry in sorted(repository.iterdir()) if entry.is_dir())]
        found = {place: who for place in places if (who := writers(place, us=us))}
        if who := writers(repository.resolve().parent, us=us, within=False):
            found[repository.resolve().parent] = who
    except OSError as error:
        mend = f"Give the user that runs Baton (uid {os.getuid()}) the right to read it."
        return _limited(name, f"{error.filename}: {error.strerror}", mend)
    if not found:
        return _good(name, f"{user(us)} and root alone")
    place, who = next(iter(found.items()))
    more = f", and in {len(found) - 1} more of its folders" if len(found) > 1 else ""
    mend = f"`chmod go-w` what only Baton and whoever pushes should write, or trust all of them: {place}"
    return _limited(name, f"{who} can write in {place}{more}, and so change what is served", mend)


def _file_system(path: Path) -> Diagnosis:
    if NETWORK.fullmatch(kind := file_system(path)):
        message = f"{path} is on {kind}, which does not report changes made on other machines"
        return _limited("file system", message, "Let Baton poll the repository instead of waiting for events.")
    return _good("file system", kind or "unknown")


def _state_file_system(path: Path) -> Diagnosis:
    """SQLite's write-ahead log needs memory that its readers share, and ``flock`` must keep everybody else out."""
    if NETWORK.fullmatch(kind := file_system(path)):
        message = f"{path} is on {kind}: the journal may be damaged there, and two control planes may act at once"
        mend = "Put the state directory on a disk of this machine; docs/how-to/backup-restore.md says why."
        return _limited("state file system", message, mend)
    return _good("state file system", kind or "unknown")


def _watches() -> Diagnosis:
    limits = {}
    for name in ("max_user_watches", "max_user_instances"):
        file = Path("/proc/sys/fs/inotify", name)
        if not file.is_file():
            mend = "Let Baton poll the repository."
            return _limited("file watches", "this system has no inotify", mend)
        limits[name] = int(file.read_text())
    message = f"{limits['max_user_watches']} watches, {limits['max_user_instances']} instances a user"
    if limits["max_user_watches"] < MINIMUM_WATCHES:
        mend = f"sysctl fs.inotify.max_user_watches={8 * MINIMUM_WATCHES}; or let Baton poll the repository."
        return _limited("file watches", f"only {message}", mend)
    return _good("file watches", message)


def _packages(names: Sequence[str]) -> Diagnosis:
    """``find_spec`` of a top-level name imports nothing: torch alone would take seconds."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if not missing:
        return _good("engine packages", ", ".join(names))
    mend = f'{sys.executable} -m pip install "baton[engine]"; with `ctl serve` Triton\'s own machine needs them.'
    return _bad("engine packages", f"not installed beside Baton: {', '.join(missing)}", mend)


def _existing(path: Path) -> Path:
    """``path``, or the nearest directory above it that is there."""
    place = path.absolute()
    while not place.is_dir():
        place = place.parent
    return place


def _enough(name: str, free: int, minimum: int, mend: str) -> Diagnosis:
    message = f"{free / GIB:.1f} GiB free"
    if free >= minimum:
        return _good(name, message)
    return _bad(name, f"{message}, less than {minimum / GIB:.2g} GiB", mend)


def _failed(name: str, error: BatonError) -> Diagnosis:
    return _bad(name, error.message, error.mend)
