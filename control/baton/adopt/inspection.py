"""What is found of a model before it is adopted. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from baton.adopt.record import read_record, record_files
from baton.domain import ModelState
from baton.errors import CheckpointError, Refused, RepositoryError
from baton.probe.reranker import NEEDED
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, read
from baton.triton.grpc import GrpcTriton
from baton.triton.port import Index
from baton.triton.releases import Known, known, said
from baton.verify.checkpoint import describe
from baton.verify.completeness import missing_parts
from baton.verify.names import LARGEST, ends_triton, name_problem, version_of


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found of a model. ``obstacles`` must be mended first; ``notes`` are what the operator should know."""

    release: str
    model: str
    engine: str
    repository: Path
    version: int | None
    """The version that answers a request without a version; None when none is loaded."""
    config: str
    """Its ``config.pbtxt`` as it stands."""
    obstacles: tuple[str, ...]
    notes: tuple[str, ...]


def inspect(
    server: GrpcTriton, repository: Path, state: Path, model: str | None = None, engine: str | None = None
) -> Inspection:
    """Look at a running Triton and its repository. Changes nothing.

    Raises:
        Unreachable: Triton does not answer.
        KeyRefused: it wants an admin key.
        Refused: there is no such model, or several and none was named.
    """
    release, index = server.release(), server.index()
    adopted = [path.stem for path in record_files(state)]
    model = model or (adopted[0] if adopted else _only_one(index, repository))
    if model not in index:
        raise Refused(f"Triton has no model {model} in its repository.", mend=f"It has: {', '.join(sorted(index))}.")
    engine = engine or f"{model}_engine"
    ready = sorted(v for v, m in index[model].items() if m.state is ModelState.READY)
    version = ready[-1] if ready else None
    obstacles, notes, text = [], [], ""
    if known(release) is Known.REFUSED:
        obstacles.append(said(release))
    elif known(release) is not Known.RUN:
        notes.append(said(release))
    if not server.explicit():
        obstacles.append(
            "Triton does not take load calls. Restart it with --model-control-mode=explicit "
            f"--load-model={model}: Baton loads and unloads versions by these calls."
        )
    if version is None:
        obstacles.append(f"No version of {model} is loaded, so there is nothing to adopt. Load it first.")
    elif version_of(str(version)) is None:
        obstacles.append(
            f"{model} serves version {version}, and Baton takes versions from 1 to {LARGEST:,}. Give its folder such a "
            "number, and load it."
        )
    try:
        text = config_text(repository / model / CONFIG)
        obstacles += _unfit(text, repository / model / CONFIG)
    except RepositoryError as error:
        obstacles.append(f"{error} Name the folder that Triton serves from with --repository.")
    obstacles += _unfit_folders(repository / model, ready)
    obstacles += [
        f"{repository / name} is there already. Name another engine with --engine."
        for name in (engine, f"{model}_splitter")
        if (repository / name).exists()
    ]
    obstacles += [
        f"This user may not write in {place}, and Baton works by writing there. Grant it, or run ctl as its owner."
        for place in (repository, repository / model)
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK)
    ]
    if model in adopted or model in [read_record(state, one).engine for one in adopted]:
        # All else follows from that.
        obstacles = [f"{model} was adopted already, or an earlier try was interrupted. `ctl eject` undoes it."]
    if len(ready) > 1:
        others = ", ".join(str(v) for v in ready[:-1])
        notes.append(
            f"Clients can no longer ask {model} for version {others} by number: it has version {version} alone."
        )
    notes.append(f"For a moment two copies of version {version} are in memory.")
    notes.append(
        "At its next restart Triton needs --model-control-mode=explicit "
        f"--load-model={model}; it then loads the engine as well."
    )
    return Inspection(release, model, engine, repository, version, text, tuple(obstacles), tuple(notes))


def _only_one(index: Index, repository: Path) -> str:
    found = []
    for name, versions in sorted(index.items()):
        with suppress(RepositoryError):
            text = config_text(repository / name / CONFIG)
            if any(m.state is ModelState.READY for m in versions.values()) and not _unfit(text, repository / name):
                found.append(name)
    if len(found) != 1:
        what = f"Several models can be adopted: {', '.join(found)}." if found else "No model here can be adopted."
        raise Refused(what, mend="Name one with --model, and the folder that Triton serves from with --repository.")
    return found[0]


def config_text(path: Path) -> str:
    text = read(path)
    if text is None:
        raise RepositoryError(f"There is no {path}.")
    pbtxt.parse(text, path)
    return text


def _unfit(text: str, path: Path) -> list[str]:
    """What of a configuration Baton can't roll out yet."""
    config = pbtxt.parse(text, path)
    named = {tensor.name for tensor in config.input} | {tensor.name for tensor in config.output}
    found = []
    if config.HasField("ensemble_scheduling"):
        found.append(f"{path.parent.name} is an ensemble. Adopt the model behind it.")
    elif lacking := sorted(NEEDED - named):
        found.append(f"{path} has no tensor {', '.join(lacking)}: only rerankers can be adopted so far.")
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        found.append(f"{path} asks for sequences or for several answers a request, which an alias can't pass on.")
    return found


def _unfit_folders(folder: Path, ready: list[int]) -> Iterator[str]:
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        if ends_triton(entry.name) and entry.is_dir():
            yield f"{entry}: {name_problem(entry.name)}"
        if not entry.exists():
            yield f"{entry} is a link to what is not there, and Triton loads no model with such a one. Remove it."
    for version in ready:
        place = folder / str(version)
        try:
            missing = missing_parts(describe(place)) if place.is_dir() else ("the folder",)
        except CheckpointError as error:
            yield f"{place} is no checkpoint: {error}"
            continue
        if missing:
            yield f"{place} is not version {version} that Triton serves: {missing[0]}. Is --repository the right one?"
