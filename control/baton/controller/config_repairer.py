"""Keeps the ``config.pbtxt`` files that Triton reads usable: what an edit broke is restored to its last usable text.

A running Triton ignores a ``config.pbtxt`` that it can't read, and one that restarts serves nothing because of it. So
the last usable text of each file is recorded in the journal. It is written over a broken file, whose text is kept in
the journal's event. Where only the version policy of the engine's file is at fault, only that is restored. Every other
edit stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baton.domain import Model
from baton.errors import RepositoryError, Unreadable
from baton.journal import Journal
from baton.plan import BrokenConfig, RecordConfig
from baton.reasons import Reason, Why, because
from baton.triton import pbtxt
from baton.triton.config_file import CONFIG, file_errors, read, write_atomically
from baton.triton.repository import ServiceFiles

MOST_TEXT = 20_000
"""Characters of a broken file that the journal keeps."""
BOM = "\ufeff"
LogEvent = Callable[[Why, Mapping[str, Any]], None]
"""Writes an event into the journal, with its data."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """What a service's files say. Where some are broken (``repairs``) nothing else is known."""

    version_policy: frozenset[int] = frozenset()
    alias: int | None = None
    split: bool = False
    splitter: int | None = None
    repairs: tuple[BrokenConfig, ...] = ()
    unrecorded: tuple[RecordConfig, ...] = ()
    """Usable texts that the journal does not have yet."""


class ConfigRepairer:
    """Of one service. Used under the loop's lock. ``read`` changes nothing; ``repair`` and ``record`` do."""

    def __init__(self, files: ServiceFiles, journal: Journal, clock: Callable[[], float], log_event: LogEvent) -> None:
        self._files = files
        self._journal = journal
        self._clock = clock
        self._log_event = log_event
        self._broken_since: dict[Model, float] = {}
        self._sources: dict[Model, tuple[Path, Callable[[], Any]]] = {
            Model.ENGINE: (files.engine_dir / CONFIG, files.policy),
            Model.ALIAS: (files.alias_dir / CONFIG, files.alias_and_split),
            Model.SPLITTER: (files.splitter_dir / CONFIG, files.splitter),
        }
        """Each model's file, and what parses it."""

    def read(self) -> ConfigFiles:
        """What the files say, which of them need a repair, and which texts are to be recorded.

        Raises:
            RepositoryError: a file can't be used, and the journal has no text to restore.
            Unreadable: the file system does not give a file. Nobody knows whether it is broken.
        """
        repairs: list[BrokenConfig] = []
        texts: dict[Model, str] = {}
        policy, alias, splitter = [self._parsed(model, repairs, texts) for model in self._sources]
        version, split = alias or (None, False)
        if version is not None and not _is_folder(self._files.alias_dir / str(version)):
            problem = f"The folder {self._files.alias_dir / str(version)} is missing: Triton can't load the alias."
            repairs.append(BrokenConfig(Model.ALIAS, problem, float("-inf")))
        if repairs:
            return ConfigFiles(repairs=tuple(repairs))
        if version is not None and version not in policy:
            # Such a policy is corrected in a moment, and a repair must not bring it back.
            texts.pop(Model.ENGINE, None)
        if splitter is None:
            texts.pop(Model.SPLITTER, None)
        unrecorded = tuple(RecordConfig(model, text) for model, text in texts.items())
        return ConfigFiles(policy, version, split, splitter, unrecorded=unrecorded)

    def record(self, model: Model, text: str | None) -> None:
        """Record a file's last usable text. None: Baton itself is about to remove the file."""
        self._journal.notes.config_text(model).put(self._files.alias_name, text)

    def repair(self, model: Model) -> None:
        """Restore the file if it still can't be used, and the alias's version folder.

        Raises:
            RepositoryError: it can't be written.
        """
        repairs: list[BrokenConfig] = []
        self._parsed(model, repairs, {})
        for broken in repairs:
            self._restore(self._sources[model][0], broken.problem, self._recorded(model) or "")
        self._broken_since.pop(model, None)
        if model is Model.ALIAS and (version := self._files.alias()) is not None:
            folder = self._files.alias_dir / str(version)
            with file_errors(folder):
                folder.mkdir(exist_ok=True)

    def _parsed(self, model: Model, repairs: list[BrokenConfig], texts: dict[Model, str]) -> Any:
        """What a file says, or None and an entry in ``repairs``. ``texts`` gets its text if that is news."""
        (path, parse), recorded = self._sources[model], self._recorded(model)
        text = read(path)
        try:
            if text is None and recorded is not None:
                raise RepositoryError(f"{path} was removed.")  # noqa: TRY301 - treated as any other fault of the file
            found = parse()
            if found is None and recorded is not None:
                raise RepositoryError(f"{path} is no longer what Baton wrote.")  # noqa: TRY301 - as above
        except Unreadable:
            raise
        except RepositoryError as error:
            if recorded is None:
                raise
            repairs.append(BrokenConfig(model, error.message, self._broken_since.setdefault(model, self._clock())))
            return None
        self._broken_since.pop(model, None)
        # A text that is the same before and after it was parsed is the one that was parsed.
        if text is not None and text != recorded and text == read(path):
            texts[model] = text
        return found

    def _restore(self, path: Path, problem: str, recorded: str) -> None:
        broken = read(path)
        text, what = self._repaired(path, broken, recorded)
        with file_errors(path):
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, text)
        why = because(Reason.PUT_BACK, what=what, error=problem)
        log.warning("%s: %s", self._files.alias_name, why)
        kept = None if broken is None else broken[:MOST_TEXT].encode(errors="surrogateescape").decode(errors="replace")
        self._log_event(why, {"path": str(path), "stood_there": kept})

    def _repaired(self, path: Path, broken: str | None, recorded: str) -> tuple[str, str]:
        """The text to write over a broken one, and which part of the file that restores."""
        if broken is not None and path.parent == self._files.engine_dir:
            edited = broken.removeprefix(BOM)  # editors on Windows put it before everything
            try:
                if pbtxt.parse_engine(edited, path).version_policy.HasField("specific") and edited != broken:
                    return edited, "the file, without the byte order mark that an editor wrote"
                policy = pbtxt.specific_versions(recorded, path)
                return pbtxt.with_specific_versions(edited, policy, path), "its version policy"
            except RepositoryError:
                pass  # more than the policy is wrong with it
        return recorded, "the last good file"

    def _recorded(self, model: Model) -> str | None:
        # Read each time: a journal that had to be begun anew does not have it.
        return self._journal.notes.config_text(model).get(self._files.alias_name)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError as error:  # a network file system whose server is gone
        raise Unreadable(f"{path} can't be read: {error.strerror}.") from None
