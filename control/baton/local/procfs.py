"""Triton's processes, TCP ports and shared memory on this machine, read from /proc.

A process can end between any two reads; then its files raise ``OSError``, and it counts as gone. Not covered: processes
in a container with its own process ids, and other systems than Linux (there nothing is found).
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from baton.local.exec_wrapper import PLACE
from baton.local.find import STUB

SHARED_MEMORY = Path(PLACE)
_STUB_WORDS = 6
"""How many words of a stub's command line are read, its server's process id the last."""
_GONE_WITHIN_S = 10.0
_BEGUN, ARG_START, ENV_START, ENV_END = 19, 45, 47, 48
"""Where its begin and the addresses of its words and variables stand in /proc/PID/stat, counted from the state."""
STOPPED = "T"
"""The state of a process after SIGSTOP. Under a debugger it is ``t``, and that is left alone: a person looks at it."""
GROUPS = Path("/sys/fs/cgroup")
"""Where control groups are mounted: version 2 here or in ``unified``, the freezer of version 1 in ``freezer``."""
ASLEEP = "SD"
ENDED = "ZX"
"""States of a process that has ended, and whose parent has not yet read its exit status."""
_LISTEN = "0A"
"""The state of a listening socket in /proc/net/tcp."""


@dataclass(frozen=True, slots=True)
class Stub:
    """One process that runs one version of a python model."""

    pid: int
    repository: Path
    """As the server was given it: in a container, a path of the container's."""
    model: str
    version: int | None
    region: str
    """The name of its shared-memory region."""
    server: int
    """The process id of the server that started it."""


def stubs(prefix: str = "") -> Iterator[Stub]:
    """The stubs whose shared-memory region begins with ``prefix``: by default those of every server on this machine.

    Triton 2.51 starts them as ``stub REPOSITORY/MODEL/VERSION/model.py REGION SIZE GROWTH SERVER_PID ...``, also
    for python-based backends, where that file does not exist.
    """
    for pid, words in _commands():
        if len(words) < _STUB_WORDS or Path(words[0]).name != STUB or not words[2].startswith(prefix):
            continue
        if not words[5].isdecimal():  # another release's, or no Triton's at all
            continue
        place = Path(words[1])
        number = place.parent.name
        yield Stub(
            pid=pid,
            repository=place.parent.parent.parent,
            model=place.parent.parent.name,
            version=int(number) if number.isdecimal() else None,
            region=words[2],
            server=int(words[5]),
        )


def servers() -> Iterator[tuple[int, tuple[str, ...]]]:
    """The process ids and command lines of every Triton that this process can see."""
    for pid, words in _commands():
        if Path(words[0]).name == "tritonserver" and (state := stat(pid)) is not None and state[0] not in ENDED:
            yield pid, tuple(words[:-1])


def session_members(session: int) -> list[int]:
    """Every process of a session, the server's children and grandchildren included; zombies are left out."""
    members = []
    for pid in _pids():
        state = stat(pid)
        if state is not None and state[0] not in ENDED and int(state[3]) == session:
            members.append(pid)
    return members


def kill_session(session: int) -> list[int]:
    """SIGKILL to what is left of a server's session; waits until it is gone. Returns the process ids."""
    members = session_members(session)
    for pid in members:
        kill(pid)
    # One that the kernel can't end, because its disk does not answer, is not waited for without end.
    deadline = time.monotonic() + _GONE_WITHIN_S
    for pid in members:
        wait_end(pid, max(deadline - time.monotonic(), 0.0))
    return members


def sweep(family: str) -> list[str]:
    """Removes what servers of one family left that died without cleaning up: stubs and shared memory.

    ``family`` is the prefix that the regions of all servers of one state directory share; a server of it that
    still runs keeps everything whose region begins with its own, longer prefix. Returns what was removed.
    """
    alive: set[str] = set()
    for _, words in _commands():
        alive.update(word.partition("shm-region-prefix-name=")[2] for word in words if family in word)
    keep = tuple(prefix for prefix in alive if prefix.startswith(family))
    removed: list[str] = []
    for stub in stubs(family):
        if not stub.region.startswith(keep):
            kill(stub.pid)
            removed.append(f"process {stub.pid}")
    return removed + remove_regions(family, keep=keep)


def remove_regions(prefix: str, *, keep: tuple[str, ...] = ()) -> list[str]:
    """Unlinks the shared-memory regions that begin with ``prefix``, but not with one of ``keep``."""
    removed = []
    if SHARED_MEMORY.is_dir():
        for region in SHARED_MEMORY.iterdir():
            if region.name.startswith(prefix) and not region.name.startswith(keep):
                region.unlink(missing_ok=True)
                removed.append(region.name)
    return removed


def open_regions() -> list[str]:
    """The regions of running stubs that every user of this machine can read in :data:`SHARED_MEMORY`."""
    found = []
    for stub in stubs():
        with suppress(OSError):  # gone, or in a /dev/shm of its own
            if (SHARED_MEMORY / stub.region).stat().st_mode & 0o077:
                found.append(stub.region)
    return found


def has_own_mounts(pid: int) -> bool:
    """Whether a process of this user sees other mounts than this one; not where it has ended."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino != Path("/proc/self/ns/mnt").stat().st_ino
    except OSError:
        return False


def begun(pid: int) -> int | None:
    """When a process began, in the kernel's ticks since boot; None when it has ended, a zombie too."""
    fields = stat(pid)
    return None if fields is None or fields[0] in ENDED else int(fields[_BEGUN])


def frozen(pid: int) -> bool:
    """Whether a process is frozen: by SIGSTOP, or by its control group (which its state does not show)."""
    fields = stat(pid)
    if fields is None or fields[0] not in ASLEEP + STOPPED:
        return False
    return fields[0] == STOPPED or _group_is_frozen(pid)


def _group_is_frozen(pid: int) -> bool:
    for line in text(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, kind, place = line.split(":", 2)
        place = place.lstrip("/")
        if kind == "freezer" and text(GROUPS / "freezer" / place / "freezer.state").startswith("FROZEN"):
            return True
        if not kind:
            return any("frozen 1" in text(g / place / "cgroup.events") for g in (GROUPS, GROUPS / "unified"))
    return False


def uptime() -> float:
    """Seconds since boot, with the time that the machine was suspended: the clock of :func:`begun_at`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def begun_at(begun: int) -> float:
    """A process's beginning as :func:`begun` tells it, on the clock ``CLOCK_BOOTTIME``: seconds since boot."""
    return begun / os.sysconf("SC_CLK_TCK")


def watch_end(pid: int, ended: Callable[[], None]) -> None:
    """Have ``ended`` called, from a thread of its own, when a process ends that need not be a child of this one.

    Only a hint: where the process has ended already, or the kernel gives no descriptor of it (Linux before 5.3, a
    container's filter, another system), nothing is called.
    """

    def wait() -> None:
        if wait_end(pid):
            ended()

    threading.Thread(target=wait, name=f"baton-end-of-{pid}", daemon=True).start()


def wait_end(pid: int, timeout_s: float | None = None) -> bool:
    """Wait until a process has ended that need not be a child of this one; whether that was seen in time."""
    try:
        descriptor = os.pidfd_open(pid)
    except (OSError, AttributeError):  # it has ended, or this system has no such descriptors
        return False
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        return bool(end.poll(None if timeout_s is None else timeout_s * 1000))
    finally:
        os.close(descriptor)


def kill(pid: int) -> None:
    """SIGKILL; nothing where it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def blank(pid: int, secret: str) -> bool:
    """Overwrites a text in a process's command line and environment with stars.

    What the process read of it before is a copy, and stays. False where the text still stands: the kernel lets a
    process write there only into its own children (Yama), or into none (mode 2 of Yama and above, some sandboxes).
    """
    fields = stat(pid)
    if fields is None:
        return True  # gone, and its command line with it
    begin, end = int(fields[ARG_START]), int(fields[ENV_END])
    wanted = os.fsencode(secret)
    try:
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(begin)
            words = memory.read(end - begin) or b""
            at = words.find(wanted)
            while at >= 0:
                memory.seek(begin + at)
                memory.write(b"*" * len(wanted))
                at = words.find(wanted, at + len(wanted))
        return wanted not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, OverflowError):
        return not Path(f"/proc/{pid}").exists()


def port_owner(port: int) -> str:
    """``process 123 (name)`` that listens on a TCP port, or ``another process`` where that can't be seen."""
    pid = listener(port)
    name = "" if pid is None else text(Path(f"/proc/{pid}/comm")).strip()
    return f"process {pid} ({name})" if name else "another process"


def listener(port: int) -> int | None:
    """The process id of what listens on a TCP port; None where that can't be seen."""
    rows = [row.split() for table in ("tcp", "tcp6") for row in text(Path(f"/proc/net/{table}")).splitlines()[1:]]
    inodes = {
        f"socket:[{columns[9]}]"
        for columns in rows
        if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port
    }
    for pid in _pids():
        try:
            if any(_link(handle) in inodes for handle in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
        except OSError:  # gone, or another user's
            continue
    return None


def _link(handle: Path) -> str:
    try:
        return str(handle.readlink())
    except OSError:  # closed meanwhile
        return ""


def _pids() -> Iterator[int]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - names, thousands of them
    except FileNotFoundError:  # not Linux
        names = []
    return (int(name) for name in names if name.isdecimal())


def _commands() -> Iterator[tuple[int, list[str]]]:
    for pid in _pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        yield pid, [os.fsdecode(word) for word in words]


def text(path: Path) -> str:
    """Of a file of the kernel's; empty where it can't be read."""
    try:
        return path.read_text()
    except OSError:  # gone, or this kernel does not have it
        return ""


def stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name: state, parent, group, session and so on."""
    return text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split() or None
