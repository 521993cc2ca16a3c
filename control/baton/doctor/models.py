"""The repository's ``config.pbtxt`` files: the keys that Baton, its clients and the template want, and these lack.

No file is rewritten, and one that is not there may be written: Triton loads every version again, the live one too, when
more than the version policy changes. Not covered: what Triton itself makes of a file.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from baton.config import DEFAULT_SERVICE, Config, ServiceConfig
from baton.doctor.finding import Finding, Fix, Setup, bad, failed, good, limited, skipped
from baton.domain import Model
from baton.errors import Refused, RepositoryError
from baton.journal import JOURNAL, Journal
from baton.probe.reranker import NEEDED
from baton.share import shared
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, read, write_atomically
from baton.triton.repository import ServiceFiles

TRITONS_PARAMETERS = frozenset({"EXECUTION_ENV_PATH", "FORCE_CPU_ONLY_INPUT_TENSORS", "TRITON_BATCH_STRATEGY_PATH"})
"""What Triton's python backend reads itself; the engine refuses all others that it does not know."""
_RELOADS = "Triton then loads every version again, the live one too: do it when few clients ask."


def engines(setup: Setup) -> Iterator[Finding]:
    """Each service's engine and alias."""
    for service in setup.config.services:
        found = list(engine(setup, service))
        yield from found
        if all(one.verdict in {"ok", "warn"} for one in found):
            yield alias(setup.config, service)


def template(service: ServiceConfig) -> Path | None:
    """The ``config.pbtxt`` that comes with Baton for a service of that probe."""
    file = shared("model_repository", DEFAULT_SERVICE.engine, CONFIG)
    return file if service.probe == DEFAULT_SERVICE.probe and file.is_file() else None


def engine(setup: Setup, service: ServiceConfig) -> Iterator[Finding]:
    """What the deployed file of an engine lacks, one finding for each key; one that it is whole where nothing is."""
    name, repository = f"{service.engine} config", setup.config.repository
    path = repository / service.engine / CONFIG
    if not repository.is_dir():
        yield skipped(name, f"{repository} is not there yet; `ctl init` makes one to begin with")
        return
    try:
        text = read(path)
        if text is None:
            yield _missing(name, service, path, setup)
            return
        config, doubt = pbtxt.parse(text, path), pbtxt.doubts(text, path)
    except RepositoryError as error:
        yield failed(name, error, "Correct the file; what Triton has loaded serves on meanwhile.")
        return
    own = template(service)
    model = None if own is None else pbtxt.parse(own.read_text("utf-8"), own)
    found = [
        *_common(service.engine, config, path),
        *([] if model is None else _kind(service.engine, config, model, path)),
    ]
    if doubt:
        found.append(limited(name, doubt, "Correct it: Triton may refuse the file at its next start."))
    yield from found or [good(name, f"{path} has all keys that Baton needs{_defaults(config, model)}")]


def _missing(name: str, service: ServiceConfig, path: Path, setup: Setup) -> Finding:
    own = shared("model_repository", service.engine, CONFIG)
    message = f"{path} is not there: no version of {service.engine} can be loaded, and nothing can be pushed"
    if not own.is_file():
        return bad(name, message, "Write it; docs/reference/engine.md and the file that `ctl init` writes show how.")

    def write() -> None:
        if _recorded(service, setup.config.state):
            raise Refused(
                "Baton has recorded what stood there, the operator's parameters too.",
                mend="Start it: it puts that back.",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_atomically(path, own.read_text("utf-8"))

    fix, mend = Fix(f"Write {path} as it comes with Baton", write), f"install -D -m 644 {own} {path}"
    if setup.starts:
        return limited(name, f"{message}, before `ctl up` has written it", mend, fix=fix)
    return bad(name, message, mend, fix=fix)


def _recorded(service: ServiceConfig, state: Path) -> bool:
    """Whether the journal has a text for the engine's file. Opening it may write: only `--fix` asks, under the lock."""
    if not (state / JOURNAL).is_file():
        return False
    with contextlib.closing(Journal(state / JOURNAL)) as journal:
        return journal.notes.config_text(Model.ENGINE).get(service.name) is not None


def _common(engine: str, config: Any, path: Path) -> Iterator[Finding]:
    """What an engine of any kind needs."""
    if config.HasField("ensemble_scheduling"):
        message = f"{path} is an ensemble: Baton can't choose which version of the model behind it answers"
        yield bad(f"{engine} ensemble_scheduling", message, "Name the model behind it as `engine` in [[services]].")
    if lacking := [field for field in ("input", "output") if not getattr(config, field)]:
        message = (
            f"{path} names no {' and no '.join(lacking)}, and the alias is made from them: clients can't be served"
        )
        yield bad(f"{engine} {lacking[0]}", message, "Write down each tensor that clients send and get.")
    if config.version_policy.WhichOneof("policy_choice") != "specific":
        numbers = [int(one.name) for one in path.parent.iterdir() if one.name.isdecimal()]
        message = (
            f"{path} has no explicit version_policy: clients would get what is loaded last, before a gate has "
            "judged it, and Baton starts no rollout"
        )
        lines = f"version_policy {{ specific {{ versions: [ {max(numbers, default=1)} ] }} }}"
        mend = f"Write, with the number that serves: `{lines}`. That alone loads nothing anew."
        yield bad(f"{engine} version_policy", message, mend)
    if config.HasField("sequence_batching") or config.model_transaction_policy.decoupled:
        message = f"{path} asks for sequences or for several answers a request, which an alias can't pass on"
        yield bad(
            f"{engine} scheduling", message, "Serve it without Baton, or without sequence_batching and decoupled."
        )
    if config.model_warmup:
        message = f"{path} has model_warmup: a warm-up request that fails ends the whole server (seen on 24.10)"
        yield limited(f"{engine} model_warmup", message, f"Take it out; Baton warms versions up itself. {_RELOADS}")
    if config.dynamic_batching.HasField("default_queue_policy"):
        message = f"{path} has default_queue_policy: now and then a lone client waits half a second more (24.10)"
        yield limited(f"{engine} default_queue_policy", message, f"Take it out. {_RELOADS}")


def _kind(engine: str, config: Any, model: Any, path: Path) -> Iterator[Finding]:
    """What the template of the service's kind has, and this has not, or has in another way."""
    if config.max_batch_size < 1:
        message = f"{path} has no max_batch_size: each request begins with a batch dimension, and all are refused"
        yield bad(f"{engine} max_batch_size", message, f"Add `max_batch_size: {model.max_batch_size}`. {_RELOADS}")
    for kind in ("input", "output"):
        has = {tensor.name: tensor for tensor in getattr(config, kind)}
        for wanted in getattr(model, kind):
            yield from _tensor(engine, kind, has.get(wanted.name), wanted, path)
        known = {tensor.name for tensor in getattr(model, kind)}
        for tensor in (tensor for name, tensor in has.items() if kind == "input" and name not in known):
            if not tensor.optional:
                message = f"{path} wants an input that no client of a reranker sends: each request is refused"
                yield bad(f"{engine} {tensor.name}", message, f"Add to it `optional: true`. {_RELOADS}")
    if not config.HasField("dynamic_batching"):
        message = f"{path} has no dynamic_batching: requests are computed one after the other, never together"
        yield limited(
            f"{engine} dynamic_batching",
            message,
            f"Add `{_line('dynamic_batching', model.dynamic_batching)}`. {_RELOADS}",
        )
    if config.backend == model.backend:
        known = model.parameters.keys() | TRITONS_PARAMETERS
        for name in sorted(config.parameters.keys() - known):
            message = f"{path} has the parameter {name}, unknown to the engine: it refuses to load any version"
            near = difflib.get_close_matches(name, known, 1)
            meant = f"Is {near[0]} meant? " if near else ""
            yield bad(f"{engine} {name}", message, f"{meant}docs/reference/engine.md has all parameters.")


def _tensor(engine: str, kind: str, has: Any, wanted: Any, path: Path) -> Iterator[Finding]:
    name, lines = f"{engine} {wanted.name}", _line(kind, wanted)
    if has is None and wanted.name in NEEDED:
        yield bad(
            name, f"{path} lacks the {kind} {wanted.name}: no request can be answered", f"Add `{lines}`. {_RELOADS}"
        )
    elif has is None:
        effect = "requests that send it are refused" if kind == "input" else "clients that ask for it get an error"
        message = (
            f"{path} lacks the {kind} {wanted.name}: {effect}, all others are served. Baton never adds it by itself"
        )
        yield limited(name, message, f"Add `{lines}`. {_RELOADS}")
    elif has.data_type != wanted.data_type or list(has.dims) != list(wanted.dims):
        message = f"{path} has the {kind} {wanted.name} with another type or shape: requests are refused"
        yield bad(name, message, f"Write it as `{lines}`. {_RELOADS}")
    elif kind == "input" and wanted.optional and not has.optional:
        message = f"{path} has the input {wanted.name} without `optional`: requests without it are refused"
        yield bad(name, message, f"Write it as `{lines}`. {_RELOADS}")
    elif kind == "input" and wanted.allow_ragged_batch and not has.allow_ragged_batch:
        message = (
            f"{path} has {wanted.name} without allow_ragged_batch: requests of different sizes never share a batch"
        )
        yield limited(name, message, f"Write it as `{lines}`. {_RELOADS}")


def _line(field: str, message: Any) -> str:
    """A message as one line of ``config.pbtxt``."""
    return f"{field} {{ {text_format.MessageToString(message, as_one_line=True)} }}"


def _defaults(config: Any, model: Any) -> str:
    """Which parameters are left out, so that the engine's own defaults hold."""
    if model is None or config.backend != model.backend:
        return ""
    left_out = sorted(model.parameters.keys() - config.parameters.keys())
    return f"; defaults hold for the parameters {', '.join(left_out)}" if left_out else ""


def alias(config: Config, service: ServiceConfig) -> Finding:
    """Whether the alias's file leads where Baton wants it, and passes on what the engine takes and gives."""
    name, files = f"{service.name} config", ServiceFiles(config.repository, service.name, service.engine)
    path = files.alias_dir / CONFIG
    try:
        version = files.alias()
        if version is None:
            message = f"Baton writes {path} when a version has passed its gates; until then no client is answered"
            return skipped(name, message)
        engine_path = files.engine_dir / CONFIG
        has, wants = (pbtxt.parse(read(one) or "", one) for one in (path, engine_path))
    except RepositoryError as error:
        return failed(name, error, "Correct the file; what Triton has loaded serves on meanwhile.")
    lacking = [
        f"the {kind} {tensor.name}"
        for kind in ("input", "output")
        for tensor in getattr(wants, kind)
        if tensor.name not in {one.name for one in getattr(has, kind)}
    ]
    if has.max_batch_size != wants.max_batch_size:
        lacking.append(f"max_batch_size: {wants.max_batch_size}")
    if lacking:
        message = f"{path} lacks {', '.join(lacking)}, which the engine has: clients can't use it"
        return limited(name, message, "Baton writes the file anew at the next rollout; nothing is to be done by hand.")
    return good(name, f"leads to {service.engine} version {version}")
