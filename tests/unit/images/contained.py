"""Runs the Triton image's entry point as a container would, on this machine's Triton and without a container runtime.

For root that is as ``docker run --user --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges`` does
it: namespaces of its own for processes and mounts (the entry point is process 1), everything read-only but /tmp and
/dev/shm, the user ``nobody`` without any capability. Another user runs it as himself.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.waiting import until
from tests.support.triton import ROOT, TOY_BACKENDS

from baton.local.assemble import assemble
from baton.local.find import find_triton
from baton.local.ports import Ports, choose_ports, is_listening

ENTRY_POINT = ROOT / "docker" / "triton-entrypoint.py"
NOBODY = 65534
ISOLATED = os.geteuid() == 0
USER = NOBODY if ISOLATED else os.geteuid()
INSIDE = Path("/mnt")
"""Where the sandbox mounts ``place``, since /tmp is its own."""
_BEGIN = f"""
mount -t tmpfs tmpfs {INSIDE}
mkdir {INSIDE}/place
mount --bind "$1" {INSIDE}/place
mount -o remount,bind,ro {INSIDE}/place
shift
"""
_END = f"""
mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm
mount -o remount,bind,ro /
cd /
exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def _opened() -> str:
    """Mounts an empty /tmp, and what runs, also where that lies in there or in a folder that only its owner enters."""
    kept, back = [], []
    covered = {Path("/tmp"): 1777}  # as the modes are written
    for number, needed in enumerate(sorted({Path(path).resolve() for path in (sys.base_prefix, sys.prefix, ROOT)})):
        hidden = [
            folder for folder in reversed(needed.parents) if folder in covered or not folder.stat().st_mode & 0o001
        ]
        closed = next(iter(hidden), None)
        if closed is not None:
            copy = f"{INSIDE}/{number}"
            kept.append(f"mkdir {copy}; mount --bind '{needed}' {copy}")
            back.append(f"mkdir -p '{needed}'; mount --bind {copy} '{needed}'; mount -o remount,bind,ro '{needed}'")
            covered.setdefault(closed, 755)
    mounts = [f"mount -t tmpfs -o mode={mode} tmpfs '{folder}'" for folder, mode in covered.items()]
    return "\n".join([*kept, *mounts, *back])


@dataclass(frozen=True)
class Contained:
    process: subprocess.Popen[bytes]
    """``unshare`` in the sandbox, else the entry point itself."""
    ports: Ports
    log: Path

    def children(self) -> dict[int, list[str]]:
        """The command line of each process of the container, the entry point's and Triton's among them."""
        found, left = dict[int, list[str]](), [self.process.pid]
        while left:
            pid = left.pop()
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
                left += [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return found

    def triton(self) -> int:
        """The process id of the server."""
        (pid,) = [pid for pid, words in self.children().items() if Path(words[0]).name == "tritonserver"]
        return pid

    def entry_point(self) -> int:
        (pid,) = [pid for pid, words in self.children().items() if words[:2] == [sys.executable, str(ENTRY_POINT)]]
        return pid


def command(place: Path, words: Sequence[str]) -> list[str]:
    entry = [sys.executable, str(ENTRY_POINT), *words]
    if not ISOLATED:
        return entry
    apart = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    return [*apart, "sh", "-e", "-c", _BEGIN + _opened() + _END, "sh", str(place), *entry]


def seen(place: Path, path: Path) -> str:
    """How the entry point sees a path in ``place``."""
    return str(INSIDE / "place" / path.relative_to(place)) if ISOLATED else str(path)


def environment(place: Path, key: Path | None) -> dict[str, str]:
    installation = find_triton(None)
    variables = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(installation.binary.parent), os.defpath]),
        "LD_LIBRARY_PATH": os.pathsep.join(map(str, installation.libraries)),
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return variables | ({} if key is None else {"BATON_ADMIN_KEY_FILE": seen(place, key)})


def refusal(place: Path, key: Path | None, *words: str) -> subprocess.CompletedProcess[str]:
    """What the entry point says when it does not start."""
    return subprocess.run(
        command(place, words),
        env=environment(place, key),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def given(key: Path, mode: int, owner: int = USER) -> Path:
    key.chmod(mode)
    if ISOLATED:
        os.chown(key, owner, owner)
    return key


@contextlib.contextmanager
def contained(place: Path, repository: Path, key: Path, *words: str) -> Iterator[Contained]:
    """The entry point's Triton with the toy backend, on free ports of loopback; it answers when this is entered.

    ``place`` holds the repository and the key; the log goes to ``place/triton.log``.
    """
    backends = assemble(find_triton(None), [TOY_BACKENDS], place / "state")
    shutil.copytree(backends, place / "backends", dirs_exist_ok=True)
    place.chmod(0o755)
    ports = choose_ports("127.0.0.1", http=None, grpc=None, metrics=None)
    options = [
        f"--model-repository={seen(place, repository)}",
        f"--backend-directory={seen(place, place / 'backends')}",
        "--allow-gpu-metrics=false",
        *(f"--{name}-address=127.0.0.1" for name in ("http", "grpc", "metrics")),
        *(f"--{name}-port={getattr(ports, name)}" for name in ("http", "grpc", "metrics")),
        f"--backend-config=python,shm-region-prefix-name=contained-{os.getpid()}-{time.monotonic_ns()}-",
        *words,
    ]
    log = place / "triton.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(place, options), env=environment(place, key), stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    one = Contained(process, ports, log)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        return is_listening("127.0.0.1", ports.grpc) and is_listening("127.0.0.1", ports.http)

    try:
        until(answers, "Triton listens")
        yield one
    finally:
        for pid in one.children():
            if pid != process.pid or not ISOLATED:
                with contextlib.suppress(ProcessLookupError):  # it went with another one
                    os.kill(pid, signal.SIGKILL)
        process.wait()
