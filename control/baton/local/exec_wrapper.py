"""A program that runs between Baton and a command: it sets the process up, and then becomes the command.

``exec_wrapper.py PARENT_PID TRACED MEMORY COMMAND...``: PARENT_PID 0 for a command that may outlive its parent,
TRACED 1 for one that stops at its first instruction, so that :func:`baton.local.argv_secret.reveal` can put in what
its command line leaves out. MEMORY is :data:`OWN` for shared memory of its own where the kernel allows it,
:data:`SHARED` for the machine's, closed to others where it can be; both with umask 077 and without core dumps. Empty,
it leaves all that as it is. Exits with :data:`UNTRACEABLE` where it may not be traced. Without a command it exits
with what became of MEMORY, a :class:`Memory`, and its standard error says why. Run as a file of its own (``python -I
-S``), so it imports nothing of Baton. All of it survives ``exec``.

Triton's python backend keeps requests in ``/dev/shm``, in files that every user may read: boost makes them so by a
``fchmod`` after the umask was applied (``shared_memory_object.hpp``). A mount namespace with a tmpfs of mode 0700 there
hides them. Where the kernel allows none, a filter of system calls leaves that one ``fchmod`` out, and the umask holds:
a file that was closed after it had appeared could have been opened before. All of it is done here, and not by the
program ``unshare``: one with the needed options is not everywhere, it can't try first, and each program between would
stop for the tracer.
"""

from __future__ import annotations

import ctypes
import enum
import os
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
PTRACE_TRACEME = 0
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_NOSUID, MS_NODEV, MS_REC, MS_SLAVE = 0x2, 0x4, 0x4000, 0x80000
CAP_WAKE_ALARM = 1 << 35
"""The one capability that a login session brings (systemd 254), and nobody misses."""
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW = 1, 4
FILTERED = {"x86_64": (0xC000003E, 91, 317), "aarch64": (0xC00000B7, 52, 277)}
"""By machine: the kernel's name of it (AUDIT_ARCH) and its numbers of ``fchmod`` and ``seccomp``."""
BOOSTS_MODE = 0o644
OWN, SHARED = "own", "shared"
PLACE = "/dev/shm"  # noqa: S108 - where the kernel keeps POSIX shared memory
UNTRACEABLE = 126
_TIMEOUT_S = 60.0


class Memory(enum.IntEnum):
    """Who can open a command's shared memory. The values are exit codes."""

    OWN = 0
    """Nobody else: it lies in a tmpfs that only this command and its children see."""
    CLOSED = 3
    """Nobody else; but it lies in the machine's ``/dev/shm``, where others see names and sizes and can fill it up."""
    OPEN = 4
    """Every user of the machine."""


def wrapped_command(command: Sequence[str], *, parent: int = 0, traced: bool = False, memory: str = "") -> list[str]:
    """The words that run ``command`` so: see above. This interpreter has to be there when they are used."""
    return [sys.executable, "-I", "-S", __file__, str(parent), str(int(traced)), memory, *command]


def memory_for(*paths: Path) -> str:
    """:data:`OWN`; :data:`SHARED` where one of these paths is in the machine's: the command has to see it."""
    place = Path(PLACE).resolve()
    return SHARED if any(path.resolve().is_relative_to(place) for path in paths) else OWN


def memory_here(memory: str) -> tuple[Memory, str]:
    """What a command that is started now would get, and why it is no more."""
    words = wrapped_command([], memory=memory)
    done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    why = f"the kernel gives it no other ({done.stderr.strip()})" if memory == OWN else "it uses files that lie there"
    return Memory(done.returncode), why


def explain(memory: Memory, why: str) -> str:
    """What a Triton with that memory means for clients, in a sentence."""
    if memory is Memory.OWN:
        return f"Triton has a {PLACE} of its own, which other users can't open"
    shares = f"Triton shares the machine's {PLACE}, since {why}"
    if memory is Memory.CLOSED:
        return f"{shares}; other users can't open clients' requests there, but see names and sizes, and can fill it up"
    return f"{shares}; every user of this machine can read clients' requests there"


def main() -> None:
    parent, traced, memory, command = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3], sys.argv[4:]
    libc = ctypes.CDLL(None, use_errno=True)
    if memory:
        os.umask(0o077)
        no_core()
        result, why = _close_memory(libc, own=memory == OWN)
        if not command:
            sys.stderr.write(why)
            sys.exit(result)
    if parent:
        # After the namespaces, which would reset it. SIGKILL, because a server with a model that hangs while it
        # loads ignores SIGTERM for ever (seen on 2.51). Its stubs notice within two seconds, end, and remove their
        # shared memory.
        _done(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # the parent ended before this was set
            sys.exit(1)
    if traced and libc.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
        sys.exit(UNTRACEABLE)
    os.execv(command[0], command)  # noqa: S606


def no_core() -> None:
    """No core dump of this process and its children from now on: it would hold keys and clients' requests.

    A limit of 1 byte is the kernel's own word for "none": with 0 it still hands the memory to a program that
    ``kernel.core_pattern`` names, which may write it down (``do_coredump`` in Linux's fs/coredump.c).
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    one = 1 if most == resource.RLIM_INFINITY else min(1, most)
    resource.setrlimit(resource.RLIMIT_CORE, (one, one))


def _close_memory(libc: ctypes.CDLL, *, own: bool) -> tuple[Memory, str]:
    why = ""
    if own:
        take = partial(_own_memory, libc)
        # What a first step did can't be taken back where a second one fails: so a child tries.
        why = _fails_in_a_child(take)
        if not why:
            take()
            return Memory.OWN, ""
    try:
        _filter_fchmod(libc)
    except OSError as error:
        return Memory.OPEN, "; ".join(filter(None, (why, error.strerror)))
    return Memory.CLOSED, why


def _fails_in_a_child(act: Callable[[], None]) -> str:
    """Why ``act`` fails; empty where it succeeds."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except OSError as error:
            os.write(writing, str(error.strerror).encode())
        finally:
            os._exit(code)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor, not a path
        why = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    return why or ("" if status == 0 else f"a try ended with status {status}")


def _own_memory(libc: ctypes.CDLL) -> None:
    """A tmpfs as large as the machine's, for this user alone, which ends with the last process in it."""
    size = os.statvfs(PLACE)
    user, group = os.geteuid(), os.getegid()
    if _capabilities():
        # A user namespace would take them away: root could no longer read other users' files.
        _done(libc.unshare(CLONE_NEWNS), "unshare(CLONE_NEWNS)")
    else:
        _done(libc.unshare(CLONE_NEWUSER | CLONE_NEWNS), "unshare(CLONE_NEWUSER | CLONE_NEWNS)")
        # The same ids inside: a process that is root inside would keep all rights there through its exec.
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    # What the machine mounts later comes here as well, and nothing goes back.
    _done(libc.mount(None, b"/", None, MS_REC | MS_SLAVE, None), "mount(MS_SLAVE)")
    options = f"mode=0700,size={size.f_blocks * size.f_frsize}".encode()
    _done(libc.mount(b"tmpfs", PLACE.encode(), b"tmpfs", MS_NOSUID | MS_NODEV, options), f"mount({PLACE})")


def _capabilities() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16) & ~CAP_WAKE_ALARM
    return 0


def _filter_fchmod(libc: ctypes.CDLL) -> None:
    """From now on ``fchmod`` to :data:`BOOSTS_MODE` says that it was done, and does nothing."""
    machine = FILTERED.get(os.uname().machine)
    if machine is None or struct.calcsize("P") != struct.calcsize("Q"):
        raise OSError(0, f"no filter for {os.uname().machine}")
    arch, fchmod, seccomp = machine
    load, equal, give = 0x20, 0x15, 0x06  # BPF: a word of the call's data, a comparison, the answer
    program = [
        (load, 0, 0, 4), (equal, 0, 5, arch),
        (load, 0, 0, 0), (equal, 0, 3, fchmod),
        (load, 0, 0, 24), (equal, 0, 1, BOOSTS_MODE),
        (give, 0, 0, 0x00050000), (give, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ERRNO with 0, SECCOMP_RET_ALLOW
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = struct.pack("HP", len(program), ctypes.addressof(code))
    _done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    number, act, flags = (ctypes.c_long(n) for n in (seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW))
    _done(libc.syscall(number, act, flags, head), "seccomp")


def _done(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


if __name__ == "__main__":
    main()
