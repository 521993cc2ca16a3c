"""Puts a model that a running Triton serves under Baton, and takes it out again. Clients keep asking it by its name.

For a model ``reranker`` whose version 7 serves, adopting changes the repository like this:

=============================  ==================================================================================
``reranker_engine/7/...``      the files of ``reranker/7``, moved by hard links: no bytes are copied
``reranker_engine/config...``  what ``reranker/config.pbtxt`` was, with another name and an explicit version policy
``reranker/config.pbtxt``      the alias: an ensemble with one step, which leads to version 7 of the engine
``reranker/7/``                an empty folder: Triton answers with the number 7, as before
=============================  ==================================================================================

The engine is loaded beside the model first, so that for a moment two copies are in memory. Then one load call turns the
model into the alias. Triton 24.10 keeps answering during that call, in both directions (tests/triton/test_adopt.py).

Each step can be repeated. At each moment a Triton that starts anew finds a repository that serves the same version.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from baton import probe
from baton.adopt.inspection import Inspection, config_text, inspect
from baton.adopt.record import FOLDER, Adopted, read_record, record_file, write
from baton.domain import ModelState
from baton.durable import sync_directory
from baton.errors import BatonError, Refused, RepositoryError, TritonError
from baton.probe.base import Probe, Tensors
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, read, write_atomically
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import ServiceFiles
from baton.verify.names import is_number, version_of

__all__ = ["FOLDER", "Adopted", "Answers", "Inspection", "adopt", "changes", "eject", "inspect"]

PROBE = "reranker"
SAME = 1e-3
"""The engine and the model that it was made of may differ by this much in a score: they are the same version."""
LOAD_S, ASK_S = 900.0, 30.0
SOME = 20
"""Requests before the change, and after it."""
EVERY_S = 0.02
"""Time between two requests that are sent while the files change."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class Answers:
    """What requests got that were sent while the files changed."""

    asked: int = 0
    failed: int = 0
    slowest_s: float = 0.0
    error: str = ""


def changes(found: Inspection) -> dict[Path, tuple[str, str]]:
    """The text of each ``config.pbtxt`` that adopting writes, by its path, and the model's text before."""
    assert found.version is not None  # noqa: S101 - that is an obstacle
    path = found.repository / found.model / CONFIG
    engine = _engine_text(found.config, found.engine, found.version, path)
    alias = ServiceFiles(found.repository, found.model, found.engine).alias_text_for(engine, found.version)
    return {found.repository / found.engine / CONFIG: (found.config, engine), path: (found.config, alias)}


def adopt(server: GrpcTriton, found: Inspection, state: Path, tell: Tell) -> Answers:
    """Do what :func:`changes` shows, while requests are sent to the model. Gives what these got.

    After an error the model serves as before: the files are put back and the engine is unloaded.

    Raises:
        Refused: something stands in the way; nothing was changed.
        TritonError: Triton refused the engine, the splitter or the alias.
        RepositoryError: a file can't be written.
    """
    if found.obstacles or found.version is None:
        raise Refused("; ".join(found.obstacles))
    record = Adopted(found.model, found.engine, str(found.repository.absolute()), found.version, found.config)
    files = ServiceFiles(found.repository, found.model, found.engine)
    write(state, record)
    try:
        for folder in _versions(files.alias_dir):
            _link(folder, files.engine_dir / folder.name)
        write_atomically(
            files.engine_dir / CONFIG,
            _engine_text(found.config, found.engine, found.version, files.alias_dir / CONFIG),
        )
        tell(f"The files of {found.engine} are in place.")
        _try_splitter(server, files, found.version)
        server.load(found.engine, LOAD_S)
        _same_answers(server, record)
        tell(f"{found.engine} version {found.version} is loaded and gives the same scores as {found.model}.")
        with _asked(server, found.model) as answers:
            files.set_alias(found.version)
            server.load(found.model, LOAD_S)
            # An ensemble that was just loaded is made anew by the next load call, unless that comes at once (24.10).
            server.load(found.model, LOAD_S)
            _leads(server, found.model, found.engine)
            _move_out(files, found.version)
    except BaseException:
        _put_back(server, record, state)
        raise
    tell(f"{found.model} is the alias now and leads to {found.engine} version {found.version}.")
    return answers


def eject(server: GrpcTriton, state: Path, model: str | None, tell: Tell) -> tuple[Adopted, Answers, bool]:
    """Undo an adoption: the model serves by itself again, with the version that the alias leads to.

    Gives the record, what requests got meanwhile, and whether ``config.pbtxt`` is again what it was: where another
    version serves by now than its version policy would choose, it names that version.

    Raises:
        Refused: nothing was adopted, or traffic is split; nothing was changed.
        TritonError: Triton refused the model; the alias serves as before.
    """
    record = read_record(state, model)
    files = ServiceFiles(Path(record.repository), record.model, record.engine)
    path = files.alias_dir / CONFIG
    led = pbtxt.parse(text := config_text(path), path).HasField("ensemble_scheduling")
    if led:
        serving, split = files.alias_and_split()
        if serving is None or split:
            raise Refused(
                f"Traffic of {record.model} is split between two versions.",
                mend="Start the control plane, end the rollout with `ctl abort`, and stop it again.",
            )
        _link_back(files)
        text = _original(record, serving, files)
    else:
        serving = _chosen(text, files)  # an earlier try got that far
    with _asked(server, record.model) as answers:
        write_atomically(path, text)
        try:
            server.load(record.model, LOAD_S)
            _leads(server, record.model, None)
        except BatonError:
            if led:  # else an earlier try may have removed a part of the engine's files already
                files.set_alias(serving)
                server.load(record.model, LOAD_S)
                _move_out(files, serving)
            raise
    tell(f"{record.model} serves version {serving} by itself.")
    for name in (record.engine, files.splitter_name):
        if name in server.index():
            server.unload(name, ASK_S)
        shutil.rmtree(files.repository / name, ignore_errors=True)
    record_file(state, record.model).unlink()
    return record, answers, text == record.config


def _engine_text(text: str, engine: str, version: int, path: Path) -> str:
    return pbtxt.with_specific_versions(pbtxt.with_name(text, engine, path), frozenset({version}), path)


def _versions(folder: Path) -> list[Path]:
    """Folders that are versions to somebody: also ``007``, which Triton leaves out. A file called ``5`` is none."""
    return sorted(entry for entry in folder.iterdir() if is_number(entry.name) and entry.is_dir())


def _link(source: Path, target: Path) -> None:
    """Make ``target`` the same tree as ``source`` by hard links, or by copies where those are not possible."""
    if source.is_symlink():
        if not target.is_symlink():
            with suppress(OSError):
                target.rmdir()  # the alias's empty folder
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(source.readlink())
        return
    target.mkdir(parents=True, exist_ok=True)
    shutil.copymode(source, target)
    for entry in sorted(source.iterdir()):
        to = target / entry.name
        if entry.is_dir() and not entry.is_symlink():
            _link(entry, to)
        elif not os.path.lexists(to):
            try:
                os.link(entry, to, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
                    raise
                shutil.copy2(entry, to, follow_symlinks=False)
    sync_directory(target)


def _try_splitter(server: GrpcTriton, files: ServiceFiles, version: int) -> None:
    """Load the splitter once: without its backend no traffic can be split, and a rollout would find out too late."""
    files.set_splitter(version)
    try:
        server.load(files.splitter_name, LOAD_S)
    except TritonError as error:
        raise TritonError(
            f"Triton can't load Baton's splitter: {error.message}",
            mend="Copy python_backend/splitter, and the engine's folder beside it if Triton runs that one, into "
            "Triton's backend directory (/opt/tritonserver/backends in NVIDIA's image). No restart is needed.",
        ) from None
    finally:
        with suppress(BatonError):
            server.unload(files.splitter_name, ASK_S)
        files.set_splitter(None)


def _asker() -> Probe:
    asker = probe.builtin(PROBE)
    assert asker is not None  # noqa: S101 - it brings requests of its own
    return asker


def _same_answers(server: GrpcTriton, record: Adopted) -> None:
    asker = _asker()

    def ask(model: str) -> tuple[float, ...]:
        def infer(version: int, inputs: Tensors, timeout_s: float) -> Tensors:
            return server.infer(model, version, inputs, timeout_s)

        return asker.smoke(infer, record.version, timeout_s=ASK_S).scores

    before, now = ask(record.model), ask(record.engine)
    if any(abs(a - b) > SAME for a, b in zip(before, now, strict=True)):
        raise TritonError(f"{record.engine} answers {now} where {record.model} answers {before}.")


@contextmanager
def _asked(server: GrpcTriton, model: str) -> Iterator[Answers]:
    """Send requests to the model all the while, as clients do: by its name alone."""
    requests, answers, stop = _asker().requests(), Answers(), threading.Event()

    def ask() -> None:
        while not stop.wait(EVERY_S):
            begun = time.monotonic()
            try:
                server.infer(model, None, requests[answers.asked % len(requests)], ASK_S)
            except BatonError as error:
                answers.failed += 1
                answers.error = answers.error or str(error)
            answers.asked += 1
            answers.slowest_s = max(answers.slowest_s, time.monotonic() - begun)

    thread = threading.Thread(target=ask, name="baton-adopt")
    thread.start()
    try:
        _some_more(answers)
        yield answers
        _some_more(answers)
    finally:
        stop.set()
        thread.join()


def _some_more(answers: Answers) -> None:
    """Wait for requests that were begun from now on: the load call itself takes milliseconds."""
    enough = answers.asked + SOME
    while answers.asked < enough:
        time.sleep(EVERY_S)


def _move_out(files: ServiceFiles, version: int) -> None:
    """Take the versions' files out of the alias's folder; the engine has them."""
    for folder in _versions(files.alias_dir):
        if not (files.engine_dir / folder.name).exists():
            raise RepositoryError(f"{files.engine_dir / folder.name} is gone, so {folder} stays where it is.")
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    (files.alias_dir / str(version)).mkdir(exist_ok=True)
    sync_directory(files.alias_dir)


def _link_back(files: ServiceFiles) -> None:
    """Give the model its versions' files back. An empty folder of the alias would be a version to Triton."""
    held = {folder.name for folder in _versions(files.engine_dir)} if files.engine_dir.is_dir() else set()
    for name in sorted(held):
        _link(files.engine_dir / name, files.alias_dir / name)
    for folder in _versions(files.alias_dir):
        if folder.name not in held and not folder.is_symlink():
            with suppress(OSError):
                folder.rmdir()


def _put_back(server: GrpcTriton, record: Adopted, state: Path) -> None:
    """After an adoption that failed: files and Triton as they were, as far as that can be done."""
    files = ServiceFiles(Path(record.repository), record.model, record.engine)
    _link_back(files)
    if read(files.alias_dir / CONFIG) != record.config:
        write_atomically(files.alias_dir / CONFIG, record.config)
        server.load(record.model, LOAD_S)
    with suppress(BatonError):
        server.unload(record.engine, ASK_S)
    shutil.rmtree(files.engine_dir, ignore_errors=True)
    record_file(state, record.model).unlink(missing_ok=True)


def _original(record: Adopted, serving: int, files: ServiceFiles) -> str:
    """The model's own configuration. Where that would choose another version than serves, it names that version."""
    if _chosen(record.config, files) == serving:
        return record.config
    return pbtxt.with_specific_versions(record.config, frozenset({serving}), files.alias_dir / CONFIG)


def _chosen(text: str, files: ServiceFiles) -> int:
    """The version that Triton answers with when a request names none: the highest of those that the policy allows."""
    policy = pbtxt.parse(text, files.alias_dir / CONFIG).version_policy
    if policy.HasField("specific"):
        return max(policy.specific.versions, default=0)
    return max((version_of(folder.name) or 0 for folder in _versions(files.alias_dir)), default=0)


def _leads(server: GrpcTriton, model: str, engine: str | None) -> None:
    """See that Triton serves the model as the ensemble that leads to ``engine``, or by itself."""
    loaded = any(m.state is ModelState.READY for m in server.index().get(model, {}).values())
    if not loaded or server.step(model) != engine:
        raise TritonError(f"Triton did not load {model} as {CONFIG} says; its log tells why.")
