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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.chaos.stage import ALIAS, ENGINE, LEASE_S, Stage, wait
from demo.rig import Failed

from baton.domain import ModelState
from baton.errors import BatonError
from baton.journal import JOURNAL
from baton.triton.repository import CONFIG, SPLITTER_VERSION

BEFORE_TRAFFIC = ("verifying", "loading", "validating")
SHARED = ("shifting", "waiting")
"""Where clients meet the candidate."""
SPLIT = ("shadowing", *SHARED)
AFTER = ("baking", "retiring", "rolling_back", "steady")
PHASES = (*BEFORE_TRAFFIC, *SPLIT, *AFTER)
ALONE = tuple(phase for phase in PHASES if phase not in SHARED)

KEPT = ""
"""No request may fail: a living copy answers."""
NOTICED = "until it is noticed that what serves does not answer"
SPLITTER = "until the public name leads past the dead splitter"
NO_COPY = "until Triton and a copy of the model are there again"


@dataclass(slots=True)
class Blow:
    """One strike: on which stage, with which versions, and by whose dice."""

    stage: Stage
    old: int
    new: int | None
    draw: random.Random
    at: float = field(default_factory=time.time)
    """When it struck, in seconds since the epoch."""

    def now(self) -> None:
        self.at = time.time()


class Missed(Exception):
    """What was to be hit was not there."""


@dataclass(frozen=True, slots=True)
class Fault:
    name: str
    does: str
    strike: Callable[[Blow], None]
    phases: tuple[str, ...] = PHASES
    fails: str = KEPT
    """Until when requests may fail; empty: never."""
    disks: bool = False
    """It needs file systems of its own."""


# The control plane


def control_killed(blow: Blow) -> None:
    blow.stage.kill_serve()
    blow.stage.start_serve()


def control_ended(blow: Blow) -> None:
    blow.stage.kill_serve(signal.SIGTERM)
    blow.stage.start_serve()


def control_stopped(seconds: float) -> Callable[[Blow], None]:
    def strike(blow: Blow) -> None:
        process = blow.stage.serve.process
        if process is None or process.poll() is not None:
            raise Missed("the control plane had ended")
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            process.send_signal(signal.SIGCONT)

    return strike


# Engine, splitter, Triton


def hit(blow: Blow, model: str, version: int | None, number: int) -> None:
    """A signal to the process that runs a version."""
    stub = None if version is None else blow.stage.stub(model, version)
    if stub is None:
        raise Missed(f"{model} version {version} has no process")
    try:
        os.kill(stub.pid, number)
    except ProcessLookupError:
        raise Missed(f"{model} version {version} has no process") from None


def await_in(blow: Blow, phases: tuple[str, ...], condition: Callable[[dict[str, Any]], Any], what: str) -> None:
    """Until the condition holds of the service, while it is in one of the phases; then is when the fault strikes."""

    def met() -> bool:
        service = blow.stage.service()
        if service["phase"] not in phases:
            raise Missed(f"it is {service['phase']} already")
        return bool(condition(service))

    wait(met, what)
    blow.now()


def live_hit(number: int) -> Callable[[Blow], None]:
    return lambda blow: hit(blow, ENGINE, blow.stage.files.alias(), number)


def stable_hit(number: int) -> Callable[[Blow], None]:
    """Once the candidate answered clients."""

    def strike(blow: Blow) -> None:
        await_in(blow, SHARED, lambda service: service["traffic"]["observed"], "an answer of the candidate")
        hit(blow, ENGINE, blow.old, number)

    return strike


def candidate_hit(number: int) -> Callable[[Blow], None]:
    return lambda blow: hit(blow, ENGINE, blow.new, number)


def splitter_killed(blow: Blow) -> None:
    """Once it is loaded: for a load whose process is gone Triton 24.10 waits until it is restarted itself."""
    await_in(blow, SPLIT, lambda _service: blow.stage.splitter() is ModelState.READY, "the splitter")
    hit(blow, blow.stage.files.splitter_name, SPLITTER_VERSION, signal.SIGKILL)


def triton_killed(blow: Blow) -> None:
    assert blow.stage.triton.pid is not None  # noqa: S101 - it was supervised just now
    os.kill(blow.stage.triton.pid, signal.SIGKILL)
    blow.stage.restart_triton()


def triton_ended(blow: Blow) -> None:
    blow.stage.restart_triton()


def triton_stopped(blow: Blow) -> None:
    pid = blow.stage.triton.pid
    assert pid is not None  # noqa: S101 - it was supervised just now
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
    assert blow.new is not None  # noqa: S101 - there is one in these phases
    shards = sorted(blow.stage.files.folder(blow.new).glob("*.safetensors"))
    if not shards:
        raise Missed("the candidate's folder is not there")
    shard = blow.draw.choice(shards)
    os.truncate(shard, shard.stat().st_size // 2)


def candidate_removed(blow: Blow) -> None:
    assert blow.new is not None  # noqa: S101 - there is one in these phases
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
        candidate_hit(signal.SIGKILL),
        ("loading", "validating", *SPLIT),
    ),
    Fault("candidate: hangs", "its engine process gets SIGSTOP", candidate_hit(signal.SIGSTOP), ("validating", *SPLIT)),
    Fault("live engine: kill -9", "the process that serves alone is killed", live_hit(signal.SIGKILL), ALONE, NOTICED),
    Fault("live engine: hangs", "the process that serves alone gets SIGSTOP", live_hit(signal.SIGSTOP), ALONE, NOTICED),
    Fault("stable in a split: kill -9", "its engine process is killed", stable_hit(signal.SIGKILL), SHARED),
    Fault("stable in a split: hangs", "its engine process gets SIGSTOP", stable_hit(signal.SIGSTOP), SHARED),
    Fault("splitter: kill -9", "its process is killed", splitter_killed, SPLIT, fails=SPLITTER),
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
    Fault("public name's config: garbage", "its second half is overwritten", edited(_alias, garbage)),
    Fault(
        "splitter's config: garbage",
        "its second half is overwritten",
        edited(lambda s: s.files.splitter_name, garbage),
        SPLIT,
    ),
)
