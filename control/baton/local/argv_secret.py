"""Hides words of a command line, which everybody on the machine may read, from all but the process itself.

Triton takes its admin key on the command line only (seen on 2.51). So the command is started with a name in the place
of each such word, and with the word itself in an environment variable of that name, which the kernel shows to the same
user alone. At its first instruction, before any of its code has run, ``ptrace`` stops the process; its argument is
pointed at the word in its environment, and the variable is taken away, so that no child inherits it. What /proc shows
as the command line is the memory in which the name stands.

The layout of that memory is the kernel's: the words and the variables one after the other, and below them the two
arrays of their addresses, each ended by a null (``create_elf_tables`` in Linux's fs/binfmt_elf.c).
"""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from baton.local import procfs

RESTRICTED = ("model-repository", "shared-memory", "logging", "trace")
"""What a server with an admin key answers to nobody else, over HTTP and gRPC alike."""
PREFIX = "BATON_HIDDEN_"
PTRACE_POKEDATA, PTRACE_DETACH = 5, 17
_ADDRESS = struct.calcsize("P")


def restrictions(admin_key: str | None) -> list[str]:
    """The options by which a server answers what :data:`RESTRICTED` names only to who shows the key."""
    if admin_key is None:
        return []
    allowed = f"{','.join(RESTRICTED)}:admin-key={admin_key}"
    return [f"--http-restricted-api={allowed}", f"--grpc-restricted-protocol={allowed}"]


def masked(command: Sequence[str], secret: str) -> tuple[list[str], dict[str, str]]:
    """The command with the value of each option that holds the secret replaced by a name, and the words by name.

    A command that runs with the names would not have the secret: its options have to be such that it refuses them.
    """
    words, concealed = list(command), dict[str, str]()
    for at, word in enumerate(command):
        if secret in word:
            name = f"{PREFIX}{len(concealed)}"
            concealed[name] = word
            words[at] = f"{word.partition('=')[0]}={name}"
    return words, concealed


def reveal(pid: int, concealed: Mapping[str, str]) -> bool:
    """Give a command that was started by ``exec_wrapper.py``, with the variables, its real words, and let it go on.

    Waits until it has stopped. To be called in the thread that started it, before anybody waits for its end. False
    where it ended, or can't be changed: then it is killed, and only to be waited for.
    """
    if not concealed or _revealed(pid, concealed):
        return True
    os.kill(pid, signal.SIGKILL)
    return False


def _revealed(pid: int, concealed: Mapping[str, str]) -> bool:
    stop = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
    if stop is None or (stop.si_code, stop.si_status) != (os.CLD_TRAPPED, signal.SIGTRAP):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    libc.ptrace.restype = ctypes.c_long
    with suppress(OSError, ValueError):
        changes = _changes(pid, {os.fsencode(name) for name in concealed})
        if all(libc.ptrace(PTRACE_POKEDATA, pid, where, what) == 0 for where, what in changes):
            return bool(libc.ptrace(PTRACE_DETACH, pid, None, None) == 0)
    return False


def _changes(pid: int, names: set[bytes]) -> list[tuple[int, int]]:
    """Where to write which address. Raises ``OSError`` or ``ValueError`` where the memory is not as it must be."""
    fields = procfs.stat(pid)
    if fields is None:
        raise ValueError("it is gone")
    arguments, variables, end = (int(fields[at]) for at in (procfs.ARG_START, procfs.ENV_START, procfs.ENV_END))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        low = _begin_of_mapping(pid, arguments)
        memory.seek(low)
        below, texts = memory.read(arguments - low), memory.read(end - arguments)
    words = _addressed(texts[: variables - arguments], arguments)
    values = _addressed(texts[variables - arguments :], variables)
    array = [*words, 0, *values, 0]
    begin = low + below.index(struct.pack(f"{len(array)}P", *array))
    places = dict(zip(array, itertools.count(begin, _ADDRESS), strict=False))
    changes = []
    for at, value in values.items():
        name, _, word = value.partition(b"=")
        if name in names:
            mine = next(a for a, w in words.items() if w.rpartition(b"=")[2] == name)
            changes.append((places[mine], at + len(value) - len(word)))
            changes.append((places[at], at + len(value)))  # an empty text in the place of the variable
    if len(changes) != 2 * len(names):
        raise ValueError("a variable is missing")
    return changes


def _addressed(texts: bytes, begin: int) -> dict[int, bytes]:
    """Each text that a null ends, by its address."""
    ended = texts.split(b"\0")[:-1]
    return dict(zip(itertools.accumulate((len(t) + 1 for t in ended), initial=begin), ended, strict=False))


def _begin_of_mapping(pid: int, address: int) -> int:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            return low
    raise ValueError(f"{address:#x} is in no mapping")
