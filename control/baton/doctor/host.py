"""The machine that Triton runs on: shared memory, memory, GPU, and the server that runs there.

A running Triton is looked at from outside, by /proc. Not covered: a Triton in another container than this, of which
only what the host's /proc shows is seen.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from baton.config import Config
from baton.doctor import installation
from baton.doctor.finding import GIB, Finding, Setup, bad, enough, good, limited, skipped
from baton.local import procfs
from baton.local.exec_wrapper import OWN, Memory, explain, memory_for, memory_here
from baton.local.find import DEFAULT_BINARY, STUB
from baton.local.process import has_gpu
from baton.ownership import user
from baton.tls import is_loopback
from baton.verify.capacity import available_memory

MINIMUM_MEMORY = 2 * GIB
MINIMUM_SHM = 256 * 2**20
"""Bytes. A stub's region starts at 1 MiB and grows to its largest request; Docker's default is 64 MiB."""
MINIMUM_FILES = 4096
"""Open files: each connection of a client is one, and some dozens for each loaded version."""
MOST_LOOKED_AT = 10_000
"""Files of the repository whose rights are looked at."""
_RUN_TIMEOUT = 20.0
_OWN_MEMORY = (
    "Let users make namespaces (sysctl user.max_user_namespaces; on Debian kernel.unprivileged_userns_clone=1, on "
    "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0) and start `ctl up` again, or in a container of its own."
)
_OTHERS_MEMORY = (
    "Start that Triton again with a /dev/shm of its own: `ctl up` does so; docs/explanation/security.md says how else."
)


@dataclass(frozen=True, slots=True)
class Running:
    """A Triton that runs, and its command line."""

    pid: int
    words: tuple[str, ...]

    @property
    def root(self) -> Path:
        """Its root directory, as this machine sees it."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def of_baton(self) -> bool:
        """Whether `ctl up` started it, and starts it anew with the models that serve then."""
        return any(value.startswith("python,shm-region-prefix-name=baton-") for value in self.option("backend-config"))

    def option(self, name: str) -> list[str]:
        """The values of an option, written as one word or as two."""
        flag, words = f"--{name}", self.words
        after = [words[at + 1] for at, word in enumerate(words[:-1]) if word == flag]
        return after + [word.removeprefix(f"{flag}=") for word in words if word.startswith(f"{flag}=")]

    def seen(self, path: Path | str) -> Path:
        """A path of its own, such as in a container, as this machine sees it."""
        return Path(f"/proc/{self.pid}/cwd" if not Path(path).is_absolute() else self.root, str(path).lstrip("/"))

    @property
    def in_container(self) -> bool:
        """Whether it has another root directory than this process; no where that can't be seen."""
        return os.access(self.root, os.X_OK) and not _same(self.root, Path("/"))


def findings(setup: Setup) -> Iterator[Finding]:
    """All that is found on this machine."""
    servers = servers_of(setup.config)
    if not servers and not setup.starts:  # on a machine that is Triton's alone there may be no configuration
        servers = [Running(pid, words) for pid, words in procfs.servers()]
    if setup.starts:
        yield from installation.startable()
        yield installation.own_backends(setup.config, setup.backends)
        yield installation.own_packages()
    elif not servers:
        yield from installation.installed(setup.config)
    yield memory()
    yield shared_memory()
    yield requests(setup.config.repository, setup.config.state, starts=setup.starts)
    yield gpu()
    if not servers:
        yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1], "this user's processes")
    for server in servers:
        yield from running(setup.config, server, several=len(servers) > 1)


def servers_of(config: Config) -> list[Running]:
    """Those that run here and are meant by the configuration: by the folder that they serve from, or by their port."""
    here = [one.grpc for one in config.servers if is_loopback(one.grpc)]
    heard = {procfs.listener(int(address.rpartition(":")[2])) for address in here}
    every = [Running(pid, words) for pid, words in procfs.servers()]
    return [
        one
        for one in every
        if one.pid in heard
        or any(_same(one.seen(place), config.repository) for place in one.option("model-repository"))
    ]


def running(config: Config, server: Running, *, several: bool = False) -> Iterator[Finding]:
    """What a Triton that runs was started with, and may do."""
    for found in _running(config, server):
        name = f"{found.name} ({server.pid})" if several else found.name
        yield Finding(name, found.verdict, found.message, found.mend)


def _running(config: Config, server: Running) -> Iterator[Finding]:
    yield mode(server)
    yield repository(config, server)
    yield loads(config, server)
    yield reads(config, server)
    limit = _limit(server.pid)
    yield skipped("open files", f"process {server.pid} has ended") if limit is None else open_files(limit, "Triton")
    if server.of_baton:  # its backends and packages are Baton's own
        return
    place = next(iter(server.option("backend-directory")), str(DEFAULT_BINARY.parents[1] / "backends"))
    yield installation.folder_backends(config, server.seen(place), Path(place))
    uid, _ = _ids(server.pid)
    if server.in_container:
        message = "Triton runs in another container than this: `ctl doctor --role triton` in there looks at them"
        yield skipped("engine packages", message)
    elif uid != os.geteuid():  # whoever runs it chose the programs in its PATH, and they would run as this user
        message = "Triton is another user's: `ctl doctor --role triton` as that user looks at them"
        yield skipped("engine packages", message)
    else:
        yield installation.interpreter_packages(Path(place) / "python" / STUB, _path(server.pid))
    yield shared_memory_of(server)


def mode(server: Running) -> Finding:
    asked = next(iter(server.option("model-control-mode")), "none")
    if asked == "explicit":
        return good("control mode", "explicit")
    effect = "loads whatever is copied in, before any gate" if asked == "poll" else "loads everything at its start"
    message = f"process {server.pid} runs in the mode {asked}: it {effect}, and Baton can't load or unload a version"
    return bad("control mode", message, "Start it again with --model-control-mode=explicit.")


def repository(config: Config, server: Running) -> Finding:
    name, places = "served folder", server.option("model-repository") + server.option("model-store")
    if not config.repository.is_dir():
        return skipped(name, f"{config.repository} is not there, so it can't be compared")
    if any(_same(server.seen(place), config.repository) for place in places):
        return good(name, f"{config.repository}, where Baton writes")
    if not os.access(server.root, os.X_OK):
        return skipped(name, f"another user's Triton: whether {', '.join(places)} is {config.repository} is not seen")
    message = f"process {server.pid} serves from {', '.join(places) or 'nowhere'}: what Baton writes never reaches it"
    return bad(name, message, f"Write `repository` as that folder in baton.toml, or start it with {config.repository}.")


def loads(config: Config, server: Running) -> Finding:
    name, asked = "models at start", server.option("load-model")
    if server.of_baton:
        return good(name, "`ctl up` loads what serves")
    wanted = [model for one in config.services for model in (one.name, one.engine)]
    lacking = [] if "*" in asked else [model for model in wanted if model not in asked]
    if not lacking:
        return good(name, ", ".join(asked))
    message = f"started without {', '.join(lacking)}: after a restart it serves nobody until Baton has loaded them"
    mend = f"Start it with {' '.join(f'--load-model={model}' for model in lacking)} once a version is live."
    return limited(name, message, mend)


def reads(config: Config, server: Running) -> Finding:
    """Whether the user that Triton runs as may read what it serves."""
    name = "rights of Triton"
    uid, groups = _ids(server.pid)
    if uid is None:
        return skipped(name, f"process {server.pid} has ended")
    if not config.repository.is_dir():
        return skipped(name, f"{config.repository} is not there yet")
    if uid == 0:
        return good(name, "it runs as root, and reads everything")
    try:
        closed = _unreadable(config, uid, groups, mounted=server.in_container)
    except OSError as error:
        return skipped(name, f"{error.filename}: {error.strerror}")
    if closed is None:
        return good(name, f"{user(uid)} may read {config.repository}")
    message = f"{user(uid)}, as whom Triton runs, may not read {closed}: the version that needs it can't be loaded"
    if closed in config.repository.resolve().parents:  # all that lies in it is nobody's business
        return bad(name, message, f"chmod a+x {closed}  (others may pass through it then, and not list it)")
    return bad(name, message, f"chmod -R a+rX {closed}  (of a version that serves: Triton loads it again for that)")


def _unreadable(config: Config, uid: int, groups: frozenset[int], *, mounted: bool) -> Path | None:
    """The first path that such a user may not read. ``mounted``: in a container, which has other folders above."""
    real = config.repository.resolve()
    for above in () if mounted else reversed(real.parents):
        if not _may(above.stat(), uid, groups, stat.S_IXOTH):
            return above
    left = MOST_LOOKED_AT
    for service in config.services:
        for place, _, names in os.walk(real / service.engine, onerror=_raise):
            if not _may(Path(place).stat(), uid, groups, stat.S_IROTH | stat.S_IXOTH):
                return Path(place)
            for file in names[:left]:
                with suppress(FileNotFoundError):  # a link to nowhere is told by the gates
                    if not _may(Path(place, file).stat(), uid, groups, stat.S_IROTH):
                        return Path(place, file)
            left = max(left - len(names), 0)
    return None


def _raise(error: OSError) -> None:
    raise error


def _may(status: os.stat_result, uid: int, groups: frozenset[int], wanted: int) -> bool:
    shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
    return status.st_mode & (wanted << shift) == wanted << shift


def _ids(pid: int) -> tuple[int | None, frozenset[int]]:
    """The user and the groups of a process."""
    fields = dict(line.split(":", 1) for line in procfs.text(Path(f"/proc/{pid}/status")).splitlines() if ":" in line)
    if "Uid" not in fields:
        return None, frozenset()
    groups = [fields["Gid"].split()[1], *fields.get("Groups", "").split()]
    return int(fields["Uid"].split()[1]), frozenset(int(one) for one in groups)


def _limit(pid: int) -> int | None:
    """How many files a process may open; None where it has ended."""
    found = re.search(r"^Max open files\s+(\w+)", procfs.text(Path(f"/proc/{pid}/limits")), re.MULTILINE)
    if found is None:
        return None
    return resource.RLIM_INFINITY if found[1] == "unlimited" else int(found[1])


def _path(pid: int) -> str:
    """The ``PATH`` of a process; this one's where that can't be seen."""
    with suppress(OSError):
        for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if variable.startswith(b"PATH="):
                return os.fsdecode(variable.removeprefix(b"PATH="))
    return os.environ.get("PATH", "")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def open_files(limit: int, whose: str) -> Finding:
    if limit == resource.RLIM_INFINITY:
        return good("open files", "without limit")
    if limit >= MINIMUM_FILES:
        return good("open files", f"at most {limit} for {whose}")
    message = f"{whose} may open {limit} files, and each client's connection is one: further clients are turned away"
    return limited(
        "open files", message, "ulimit -n 65536; in systemd LimitNOFILE=65536; docker run --ulimit nofile=65536"
    )


def memory() -> Finding:
    free = available_memory()
    if free is None:
        return limited("memory", "this system does not say how much is free", "Look at it by other means.")
    return enough("memory", free, MINIMUM_MEMORY, "Two versions are loaded during a rollout: free or add memory.")


def shared_memory(place: Path | None = None, name: str = "shared memory") -> Finding:
    place = place or procfs.SHARED_MEMORY
    try:
        space, status = os.statvfs(place), place.stat()
    except OSError:
        mend = "Mount a tmpfs there: the python backend talks to its models through it."
        return bad(name, f"{procfs.SHARED_MEMORY} is not there: no version can be loaded", mend)
    if not os.access(place, os.W_OK | os.X_OK) and status.st_uid != os.geteuid():
        message = f"this user may not write in {procfs.SHARED_MEMORY} (mode {stat.S_IMODE(status.st_mode):04o})"
        return bad(name, f"{message}: no version can be loaded", f"chmod 1777 {procfs.SHARED_MEMORY}")
    if stat.S_IMODE(status.st_mode) & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        message = f"every user may remove others' files in {procfs.SHARED_MEMORY}, and so break requests"
        return limited(name, message, f"chmod 1777 {procfs.SHARED_MEMORY}")
    mend = (
        "A version that takes a larger request fails then. docker run --shm-size=1g; Kubernetes: an emptyDir with "
        "medium: Memory at /dev/shm; or mount -o remount,size=1g /dev/shm"
    )
    return enough(name, space.f_bavail * space.f_frsize, MINIMUM_SHM, mend)


def shared_memory_of(server: Running) -> Finding:
    """Where that is another one than this process sees."""
    name, place = "its shared memory", server.seen(procfs.SHARED_MEMORY)
    if _same(place, procfs.SHARED_MEMORY):
        return good(name, "the same as this machine's")
    if not os.access(server.root, os.X_OK):
        return skipped(name, "another user's Triton: `ctl doctor --role triton` as that user looks at it")
    return shared_memory(place, name)


def requests(repository: Path, state: Path, *, starts: bool) -> Finding:
    """Who can read clients' requests in shared memory; ``starts``: Baton starts a Triton here, or may."""
    name = "requests private"
    found, why = memory_here(memory := memory_for(repository, state)) if starts else (Memory.OWN, "")
    if found is not Memory.OPEN and (regions := procfs.open_regions()):
        more = f" and {len(regions) - 1} more" if regions[1:] else ""
        message = f"every user of this machine can read clients' requests in {procfs.SHARED_MEMORY}/{regions[0]}{more}"
        return limited(name, message, _OTHERS_MEMORY)
    if not starts:
        return good(name, f"no Triton here leaves them open in {procfs.SHARED_MEMORY}")
    if found is Memory.OWN:
        return good(name, explain(found, why))
    return limited(
        name, explain(found, why), _OWN_MEMORY if memory == OWN else f"Move {repository} and {state} to a disk."
    )


def gpu() -> Finding:
    """No GPU is needed. One that is there must be usable."""
    name, program = "GPU", shutil.which("nvidia-smi")
    if not has_gpu():
        return good(name, "none is seen here: versions compute on the CPU (a container sees one with --gpus all)")
    if program is None:
        return good(name, "one is there; nvidia-smi, which would tell more, is not")
    query = "--query-gpu=name,memory.free,memory.total,driver_version"
    try:
        done = subprocess.run(  # noqa: S603 - NVIDIA's own program
            [program, query, "--format=csv,noheader"], capture_output=True, text=True, timeout=_RUN_TIMEOUT, check=False
        )
        answer, code = (done.stdout or done.stderr).strip(), done.returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        answer, code = str(error), 1
    rows = [re.split(r",\s*", line) for line in answer.splitlines()]
    if code or not rows or any(len(row) != query.count(",") + 1 for row in rows):
        message = f"one is there and can't be used: {' '.join(answer.split()) or f'nvidia-smi ended with {code}'}"
        return limited(
            name, message, "Load or install the driver that fits the kernel; `dmesg | grep -i nvrm` says more."
        )
    cards = "; ".join("{}: {} of {} free, driver {}".format(*row) for row in rows)
    with suppress(importlib.metadata.PackageNotFoundError):
        if (torch := importlib.metadata.version("torch")).endswith("+cpu"):
            message = f"{cards}; but torch {torch} beside Baton computes on the CPU alone"
            return limited(name, message, "Install torch anew from PyPI's own index, without the one for CPUs.")
    return good(name, cards)
