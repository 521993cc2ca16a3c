"""The faults: what each does, where it is tried, and whether a client may notice.

``strike`` returns when the fault is over as far as a supervisor, or a person with another task, would end it: the
process is started again, the disk has room again. What is left is Baton's.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.waiting import Failed
from tests.chaos.fault import (
    ALONE,
    BEFORE_TRAFFIC,
    NO_COPY,
    NOTICED,
    SHARED,
    SPLIT,
    SPLITTER,
    Blow,
    Fault,
    Missed,
    Target,
    candidate,
    live,
    send,
    splitter,
    stable,
)
from tests.chaos.frozen import FROZEN
from tests.chaos.stage import ALIAS, ENGINE, LEASE_S, Stage

from baton.errors import BatonError
from baton.journal import JOURNAL
from baton.triton.config_file import CONFIG

# The control plane


def control_killed(blow: Blow) -> None:
    blow.stage.kill_serve()
    blow.stage.start_serve()


def control_ended(blow: Blow) -> None:
    blow.stage.kill_serve(signal.SIGTERM)
    blow.stage.start_serve()


def control_stopped(seconds: float) -> Callable[[Blow], None]:
    def strike(blow: Blow) -> None:
        serve = blow.stage.serve
        if not serve.runs:
            raise Missed("the control plane had ended")
        serve.send(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            serve.send(signal.SIGCONT)

    return strike


# Engine, splitter, Triton


def gets(target: Target, number: int) -> Callable[[Blow], None]:
    """A signal, once."""
    return lambda blow: send(target(blow), number)


def triton_killed(blow: Blow) -> None:
    assert blow.stage.triton.pid is not None
    os.kill(blow.stage.triton.pid, signal.SIGKILL)
    blow.stage.restart_triton()


def triton_ended(blow: Blow) -> None:
    blow.stage.restart_triton()


def triton_stopped(blow: Blow) -> None:
    pid = blow.stage.triton.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(2.5)
    finally:
        os.kill(pid, signal.SIGCONT)


# Disks and files


def disk_full(blow: Blow) -> None:
    with blow.stage.disk.full():
        time.sleep(1.5 * LEASE_S)


def repository_frozen(blow: Blow) -> None:
    with blow.stage.disk.frozen():
        time.sleep(1.5)


def candidate_cut(blow: Blow) -> None:
    assert blow.new is not None
    shards = sorted(blow.stage.files.folder(blow.new).glob("*.safetensors"))
    if not shards:
        raise Missed("the candidate's folder is not there")
    shard = blow.draw.choice(shards)
    os.truncate(shard, shard.stat().st_size // 2)


def candidate_removed(blow: Blow) -> None:
    assert blow.new is not None
    shutil.rmtree(blow.stage.files.folder(blow.new))


def live_touched(blow: Blow) -> None:
    version = blow.stage.files.alias()
    os.utime(blow.stage.files.folder(version or 0) / "config.json")


def journal(*, up: bool, damage: Callable[[Path, random.Random], None]) -> Callable[[Blow], None]:
    def strike(blow: Blow) -> None:
        if not up:
            blow.stage.kill_serve()
        damage(blow.stage.state / JOURNAL, blow.draw)
        if not up:
            blow.stage.start_serve()

    return strike


def flip(path: Path, draw: random.Random) -> None:
    """A burst of wrong bytes in each page, as a bad controller leaves them."""
    with path.open("r+b") as file:
        size = path.stat().st_size
        for page in range(0, size, 4096):
            file.seek(page + draw.randrange(16, 4000))
            file.write(draw.randbytes(64))
    log = path.with_name(path.name + "-wal")
    if log.exists():
        os.truncate(log, log.stat().st_size // 2)


def flipped_without_room(blow: Blow) -> None:
    blow.stage.kill_serve()
    with blow.stage.disk.full():
        flip(blow.stage.state / JOURNAL, blow.draw)
        with suppress(Failed):  # as long as nothing can be written it ends, and says so
            blow.stage.serve.start()
    blow.stage.supervise()


def halve(path: Path, _draw: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def state_gone(blow: Blow) -> None:
    blow.stage.kill_serve()
    for entry in blow.stage.state.iterdir():
        entry.unlink()
    blow.stage.start_serve()


def edited(model: Callable[[Stage], str], edit: Callable[[str], str]) -> Callable[[Blow], None]:
    """An editor saves ``config.pbtxt`` in place."""

    def strike(blow: Blow) -> None:
        path = blow.stage.repository / model(blow.stage) / CONFIG
        try:
            path.write_text(edit(path.read_text()))
        except (OSError, BatonError) as error:
            raise Missed(str(error)) from None

    return strike


def without_policy(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith("version_policy")) + "\n"


def garbage(text: str) -> str:
    return text[: len(text) // 2] + "\n}} not what Triton reads {{\n"


def _engine(_stage: Stage) -> str:
    return ENGINE


def _alias(_stage: Stage) -> str:
    return ALIAS


WITH_CANDIDATE = (*BEFORE_TRAFFIC, *SPLIT)
FAULTS = (
    Fault("control plane: kill -9", "killed and started again", control_killed),
    Fault("control plane: SIGTERM", "ended and started again", control_ended),
    Fault(
        "control plane: stopped, short",
        f"SIGSTOP for {LEASE_S / 3:.1f} s, within the lease",
        control_stopped(LEASE_S / 3),
    ),
    Fault(
        "control plane: stopped, long",
        f"SIGSTOP for {2 * LEASE_S:.0f} s, twice the lease",
        control_stopped(2 * LEASE_S),
    ),
    Fault(
        "candidate: kill -9",
        "its engine process is killed",
        gets(candidate, signal.SIGKILL),
        ("loading", "validating", *SPLIT),
    ),
    Fault(
        "candidate: hangs", "its engine process gets SIGSTOP", gets(candidate, signal.SIGSTOP), ("validating", *SPLIT)
    ),
    Fault(
        "live engine: kill -9", "the process that serves alone is killed", gets(live, signal.SIGKILL), ALONE, NOTICED
    ),
    Fault(
        "live engine: hangs", "the process that serves alone gets SIGSTOP", gets(live, signal.SIGSTOP), ALONE, NOTICED
    ),
    Fault("stable in a split: kill -9", "its engine process is killed", gets(stable, signal.SIGKILL), SHARED),
    Fault("stable in a split: hangs", "its engine process gets SIGSTOP", gets(stable, signal.SIGSTOP), SHARED),
    Fault("splitter: kill -9", "its process is killed", gets(splitter, signal.SIGKILL), SPLIT, fails=SPLITTER),
    *FROZEN,
    Fault("Triton: kill -9", "killed and started again", triton_killed, fails=NO_COPY),
    Fault("Triton: SIGTERM", "ended, within 5 s, and started again", triton_ended, fails=NO_COPY),
    Fault("Triton: stopped", "SIGSTOP for 2.5 s", triton_stopped),
    Fault("state: disk full", f"no byte left for {1.5 * LEASE_S:.0f} s", disk_full, disks=True),
    Fault("state: gone", "killed, the state directory is emptied, started again", state_gone),
    Fault(
        "journal: bytes flipped",
        "killed, 64 bytes of each page overwritten, started again",
        journal(up=False, damage=flip),
    ),
    Fault("journal: bytes flipped, in use", "the same while the control plane uses it", journal(up=True, damage=flip)),
    Fault(
        "journal: bytes flipped, disk full",
        "killed, the same, no byte left when it is started",
        flipped_without_room,
        disks=True,
    ),
    Fault("journal: cut", "killed, cut to half of its size, started again", journal(up=False, damage=halve)),
    Fault("journal: cut, in use", "the same while the control plane uses it", journal(up=True, damage=halve)),
    Fault("repository: frozen", "fsfreeze for 1.5 s", repository_frozen, disks=True),
    Fault("candidate: file cut", "one shard loses its second half", candidate_cut, WITH_CANDIDATE),
    Fault("candidate: folder removed", "rm -r of its folder", candidate_removed, WITH_CANDIDATE),
    Fault("live folder: touched", "a file's time changes, its content does not", live_touched),
    Fault(
        "engine's config: no policy", "the line with the version policy is taken out", edited(_engine, without_policy)
    ),
    Fault("engine's config: garbage", "its second half is overwritten", edited(_engine, garbage)),
    Fault("alias's config: garbage", "its second half is overwritten", edited(_alias, garbage)),
    Fault(
        "splitter's config: garbage",
        "its second half is overwritten",
        edited(lambda s: s.files.splitter_name, garbage),
        SPLIT,
    ),
)
