"""Disks of their own for the state directory and the repository, which can be filled and frozen. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

STATE_BYTES, REPOSITORY_BYTES = 64 << 20, 1 << 30


def run(*command: str) -> None:
    """Raises ``OSError`` with what the program said."""
    # Where programs for root alone lie, which not every root has in its PATH.
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"PATH": path})
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")


@dataclass(frozen=True, slots=True)
class Disks:
    """``why_not``: the reason when there are none; then what needs them is left out."""

    state: Path
    repository: Path
    why_not: str = ""

    @contextlib.contextmanager
    def full(self) -> Iterator[None]:
        """No byte can be written to the state directory meanwhile."""
        ballast = self.state / "ballast"
        try:
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(1 << 16))
            with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0")
            yield
        finally:
            ballast.unlink(missing_ok=True)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Whatever writes to the repository waits meanwhile; reading goes on."""
        run("fsfreeze", "--freeze", str(self.repository))
        try:
            yield
        finally:
            run("fsfreeze", "--unfreeze", str(self.repository))


@contextlib.contextmanager
def disks(home: Path) -> Iterator[Disks]:
    """``home/state`` on a small file system in memory, ``home/repository`` on an ext4 in a file."""
    state, repository, image = home / "state", home / "repository", home / "repository.ext4"
    state.mkdir()
    repository.mkdir()
    mounted: list[Path] = []
    why_not = "" if os.geteuid() == 0 else "only root may mount"
    try:
        if not why_not:
            try:
                run("mount", "-t", "tmpfs", "-o", f"size={STATE_BYTES}", "baton-chaos", str(state))
                mounted.append(state)
                with image.open("wb") as file:
                    file.truncate(REPOSITORY_BYTES)
                run("mkfs.ext4", "-q", "-F", str(image))
                run("mount", "-o", "loop", str(image), str(repository))
                mounted.append(repository)
                (repository / "lost+found").rmdir()  # Triton takes it for a model
            except OSError as error:
                why_not = str(error)
        yield Disks(state, repository, why_not)
    finally:
        for place in mounted:
            run("umount", "--lazy", str(place))
