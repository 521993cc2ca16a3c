"""The control plane's files: the state directory, the model repository's folder, keys, and what was left behind.

Nothing is changed, apart from files without a name, which the kernel removes at once. Not covered: what the files of
the repository say (``models``).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from baton import secret
from baton.beside import folder_beside
from baton.config import Config
from baton.doctor.finding import GIB, Finding, Fix, bad, enough, existing, good, limited, skipped
from baton.durable import make_private
from baton.errors import ConfigError, Refused
from baton.ownership import open_folder, open_own, unlink, user, writers
from baton.reasons.words import format_bytes
from baton.verify.listing import look
from baton.verify.names import version_of
from baton.watch.watcher import NETWORK, file_system

MINIMUM_DISK = 2 * GIB
MINIMUM_VERSIONS = 2
"""So many more versions should fit on the disk."""
MINIMUM_WATCHES = 8192
LEFT_AFTER_S = 86_400.0
"""An interrupted push that is older is taken for one that nobody goes on with."""


def repository_and_state(config: Config) -> Iterator[Finding]:
    """All that is found of them, in the order in which a start would meet the trouble."""
    repository, state = config.repository, config.state
    yield disk("repository disk", repository)
    yield disk("state disk", state)
    for one in config.services:
        yield room_for_versions(repository, one.name, one.engine, one.rollout.keep_versions)
    yield writable("repository", repository)
    yield writable("state", state)
    yield private(state)
    yield state_file_system(state)
    yield others(repository, state)
    yield renames(repository, [service.engine for service in config.services])
    yield repository_file_system(repository)
    yield watches()
    yield from keys(config)
    yield leftovers(repository, state)


def disk(name: str, path: Path) -> Finding:
    free = shutil.disk_usage(existing(path)).free
    return enough(name, free, MINIMUM_DISK, f"Free space at {path}: each version is a whole checkpoint.")


def room_for_versions(repository: Path, service: str, engine: str, keep: int | None) -> Finding:
    """How many more versions of the newest one's size fit on the disk, and what ``keep_versions`` would hold."""
    name, folder = f"room for {service}", repository / engine
    if not folder.is_dir():
        return good(name, f"{folder} will be made")
    sizes = {int(p.name): look(p).own_size for p in folder.iterdir() if version_of(p.name) is not None}
    free = shutil.disk_usage(folder).free
    newest = sizes[max(sizes)] if sizes else 0
    if not newest:
        return good(name, f"{format_bytes(free)} free, and no version that takes any")
    held = "" if keep is None else f"; keep_versions = {keep} holds up to {format_bytes(newest * (keep + 2))}"
    message = (
        f"{format_bytes(free)} free; {len(sizes)} on disk take {format_bytes(sum(sizes.values()))}; {free // newest} "
        f"more of the size of version {max(sizes)} ({format_bytes(newest)}) fit{held}"
    )
    if free // newest >= MINIMUM_VERSIONS:
        return good(name, message)
    mend = "`ctl prune --dry-run --keep 0` shows what could be removed; set keep_versions in [services.rollout]."
    return limited(name, message, mend)


def writable(name: str, path: Path) -> Finding:
    path = path.absolute()
    place = existing(path)
    try:
        # In the system's own words, and also where permissions lie (a read-only mount, root squashed by NFS). A
        # hidden name at the repository's root is no model to Triton.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        mend = f"Give the user that runs Baton (uid {os.getuid()}) write access to {place}."
        return bad(f"{name} writable", f"{place}: {error.strerror}", mend)
    made = "" if place == path else f"; {path} will be made"
    return good(f"{name} writable", f"{place}{made}")


def private(state: Path) -> Finding:
    """Baton makes the state directory for its user alone; one that was there before keeps its mode."""
    name = "state private"
    if not state.is_dir():
        make = Fix(f"Make the state directory {state}, for its owner alone", partial(make_private, state))
        return good(name, f"{state} will be made for its owner alone", fix=make)
    status = state.stat()
    if status.st_uid not in {0, os.geteuid()}:
        owner = user(status.st_uid)
        message = f"{state} belongs to {owner}, who could put keys and code of his own into it"
        return limited(name, message, f"Run Baton as {owner}, or give it the directory: chown")
    if (mode := stat.S_IMODE(status.st_mode)) & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"{state} may be opened by others than its owner (mode {mode:04o}): the journal and logs lie there"
        close = Fix(f"Let only its owner open {state} (mode 0700)", partial(_chmod, state, 0o700), beside_baton=True)
        return limited(name, message, f"chmod 700 {state}", fix=close)
    return good(name, "for its owner alone")


def _chmod(path: Path, mode: int) -> None:
    """Of this user's own file or directory; raises ``OSError`` for a link."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def state_file_system(path: Path) -> Finding:
    """SQLite's write-ahead log needs memory that its readers share, and ``flock`` must keep everybody else out."""
    name = "state file system"
    mend = "Put the state directory on a disk of this machine; docs/how-to/backup-restore.md says why."
    if NETWORK.fullmatch(kind := file_system(path)):
        message = f"{path} is on {kind}: the journal may be damaged there, and two control planes may act at once"
        return limited(name, message, mend)
    try:
        held = locks(existing(path))
    except OSError as error:
        return skipped(name, f"{kind or 'unknown'}; whether locks hold can't be tried: {error.strerror}")
    if not held:
        return bad(name, f"{path} is on {kind or 'a file system'} without locks: two control planes may act", mend)
    return good(name, f"{kind or 'unknown'}; locks hold")


def locks(place: Path) -> bool:
    """Whether ``flock`` keeps a second one out in that directory. Raises ``OSError`` where no file can be made."""
    with tempfile.TemporaryFile(dir=place) as first, Path(f"/proc/self/fd/{first.fileno()}").open("rb") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # it knows no locks
            return False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def others(repository: Path, state: Path) -> Finding:
    """Who can write in the repository decides what is served. Whom the state directory belongs to runs Baton."""
    name = "repository writers"
    if not repository.is_dir():
        return good(name, f"{repository} will be made")
    us = state.stat().st_uid if state.is_dir() else os.geteuid()
    try:
        places = [repository, *(entry for entry in sorted(repository.iterdir()) if entry.is_dir())]
        found = {place: who for place in places if (who := writers(place, us=us))}
        if who := writers(repository.resolve().parent, us=us, within=False):
            found[repository.resolve().parent] = who
    except OSError as error:
        mend = f"Give the user that runs Baton (uid {os.getuid()}) the right to read it."
        return limited(name, f"{error.filename}: {error.strerror}", mend)
    if not found:
        return good(name, f"{user(us)} and root alone")
    place, who = next(iter(found.items()))
    more = f", and in {len(found) - 1} more of its folders" if len(found) > 1 else ""
    mend = f"`chmod go-w` what only Baton and whoever pushes should write, or trust all of them: {place}"
    return limited(name, f"{who} can write in {place}{more}, and so change what is served", mend)


def renames(repository: Path, engines: list[str]) -> Finding:
    """`ctl push` stages a version beside the repository and publishes it by one rename, which crosses no mount."""
    name = "push"
    if not repository.is_dir():
        return skipped(name, f"{repository} is not there yet")
    real = repository.resolve()
    staging = folder_beside(real)
    above = staging if staging.is_dir() else real.parent
    if not os.access(above, os.W_OK | os.X_OK):
        message = f"`ctl push` can't stage versions: this user may not write in {above}"
        mend = f"Have it made by who may: install -d -o {user(os.geteuid())} -m 700 {staging}"
        return limited(name, message, mend)
    for place in (real, *(real / engine for engine in engines if (real / engine).is_dir())):
        if mount(place) != mount(above):
            message = f"`ctl push` can't publish: {place} is another mount than {above}, and no rename leads across"
            return bad(name, message, f"Mount {real.parent} instead of {place}.")
    return good(name, f"staged in {staging}, on the same file system")


def mount(path: Path) -> str:
    """The kernel's number of the mount that a path lies on; a rename across two fails even on one file system."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    finally:
        os.close(descriptor)
    return next((line.split()[1] for line in lines if line.startswith("mnt_id:")), "")


def repository_file_system(path: Path) -> Finding:
    if NETWORK.fullmatch(kind := file_system(path)):
        message = f"{path} is on {kind}, which does not report changes made on other machines"
        return limited("file system", message, "Let Baton poll the repository instead of waiting for events.")
    return good("file system", kind or "unknown")


def watches() -> Finding:
    limits = {}
    for name in ("max_user_watches", "max_user_instances"):
        file = Path("/proc/sys/fs/inotify", name)
        if not file.is_file():
            return limited("file watches", "this system has no inotify", "Let Baton poll the repository.")
        limits[name] = int(file.read_text())
    message = f"{limits['max_user_watches']} watches, {limits['max_user_instances']} instances a user"
    if limits["max_user_watches"] < MINIMUM_WATCHES:
        mend = f"sysctl fs.inotify.max_user_watches={8 * MINIMUM_WATCHES}; or let Baton poll the repository."
        return limited("file watches", f"only {message}", mend)
    return good("file watches", message)


def keys(config: Config) -> Iterator[Finding]:
    """The files with secrets that the configuration names: there, whole, and for their owner alone."""
    named = [
        (f"key of {one.name}", one.admin_key_file, f"admin_key_file of server {one.name}") for one in config.servers
    ]
    named.append(("token", config.control.api.token_file, "token_file of [control.api]"))
    for name, path, setting in named:
        if path is None:
            continue
        try:
            secret.read(path, setting)
        except ConfigError as error:
            yield bad(name, error.message, error.mend, fix=_closing(path))
        else:
            yield good(name, f"{path}, for its owner alone")


def _closing(path: Path) -> Fix | None:
    """To close a secret to others, where that is what is wrong with it and it is this user's."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        if ours and secret.open_to_others(status.st_mode, status.st_uid, os.geteuid()):
            return Fix(f"Let only its owner open {path} (mode 0600)", partial(_chmod, path, 0o600), beside_baton=True)
    return None


def leftovers(repository: Path, state: Path) -> Finding:
    """What pushes and starts that were broken off left behind. A push of the last day may be gone on with."""
    name = "leftovers"
    staging, oldest = folder_beside(repository.resolve()), time.time() - LEFT_AFTER_S
    try:
        pushes = [one for engine in _folders(staging) for one in sorted(engine.iterdir()) if one.name != ".lock"]
        beside = [*repository.glob(".*.config.pbtxt.baton"), *(state / "backends").glob(".new-*")]
        old = [path for path in (*pushes, *beside) if newest(path) < oldest]
    except OSError as error:
        return skipped(name, f"{error.filename}: {error.strerror}")
    recent = len(pushes) - len(set(old) & set(pushes))
    resumed = "; a push that was broken off today goes on when it is given again" if recent else ""
    if not old:
        return good(name, f"none{resumed}")
    more = f" and {len(old) - 1} more" if old[1:] else ""
    message = f"{old[0]}{more}: a push or a start was broken off more than a day ago; it takes room{resumed}"
    remove = Fix(f"Remove {', '.join(str(path) for path in old)}", partial(_remove, old, staging))
    return limited(name, message, "Remove it, or push the same folder again: that goes on with it.", fix=remove)


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.is_symlink()) if folder.is_dir() else []


def newest(path: Path) -> float:
    """When a file, or anything in a folder, was last changed."""
    times = [path.lstat().st_mtime]
    for place, _, files in os.walk(path):
        times += [Path(place).lstat().st_mtime, *(Path(place, file).lstat().st_mtime for file in files)]
    return max(times)


def _remove(paths: list[Path], staging: Path) -> None:
    """Remove leftovers, those of pushes under the lock of pushes; raises ``Refused`` while one is under way."""
    for path in paths:
        with contextlib.ExitStack() as stack:
            folder, _ = stack.enter_context(open_folder(path.parent))
            if path.is_relative_to(staging):
                lock = open_own(".lock", os.O_RDWR | os.O_CREAT, at=folder)
                stack.callback(os.close, lock)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise Refused(
                        f"A push in {path.parent} is under way.", mend="Do it again when it is done."
                    ) from None
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path.name, dir_fd=folder)
            else:
                unlink(path.name, folder)
