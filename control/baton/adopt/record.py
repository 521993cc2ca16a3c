"""What the state directory keeps of an adoption: one JSON file for each model, which ``ctl eject`` needs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baton.durable import make_private, sync_directory
from baton.errors import ConfigError, Refused

FOLDER = "adopted"
"""In the state directory."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The record of an adoption in the state directory."""

    model: str
    engine: str
    repository: str
    version: int
    config: str
    """The text of the model's ``config.pbtxt`` before."""


def record_file(state: Path, model: str) -> Path:
    return state / FOLDER / f"{model}.json"


def write(state: Path, record: Adopted) -> None:
    make_private(state)
    path = record_file(state, record.model)
    make_private(path.parent)
    draft = path.with_suffix(".new")
    with draft.open("w") as file:
        json.dump(asdict(record), file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_directory(path.parent)


def record_files(state: Path) -> list[Path]:
    """That of each adopted model; its stem is the model's name."""
    return sorted((state / FOLDER).glob("*.json"))


def read_record(state: Path, model: str | None) -> Adopted:
    found = record_files(state)
    if model is not None:
        found = [path for path in found if path.stem == model]
    if len(found) != 1:
        names = ", ".join(path.stem for path in found)
        raise Refused(
            f"Several models were adopted: {names}." if found else f"Nothing was adopted from {state}.",
            mend="Name one with --model." if found else "Name the state directory of `ctl adopt` with --state.",
        )
    try:
        data: Mapping[str, Any] = json.loads(found[0].read_text())
        return Adopted(**data)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{found[0]} can't be read: {error}.") from None
