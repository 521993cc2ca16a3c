"""Removes version folders from the repository, each at once or not at all.

A folder is first renamed into the folder beside the repository (``baton.beside``), and its files are deleted there.
Where it lay Triton saw a whole version before the rename, and sees none after it. Killed at any moment, Baton leaves
the whole version, or what the next start deletes. A folder that is a link leaves as a link: what it leads to stays.

Not covered: whether the version may go. ``baton.plan.prune`` decides that.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from baton.beside import beside, check_file_system, folder_beside
from baton.errors import RepositoryError
from baton.ownership import open_folder, user
from baton.verify.files import error_text

_REMOVED: Final = re.compile(r"removed-[0-9]+-[0-9a-f]{8}")
"""The names of what was taken out and is to be deleted."""


class Removal:
    """Of one engine. Raises ``RepositoryError`` and ``Untrusted``; may be used from any thread."""

    def __init__(self, repository: Path, engine: str) -> None:
        self._repository = repository
        self._engine = engine
        self._clean = False
        """Nothing is left, as far as this object knows."""

    def take_out(self, version: int) -> None:
        """Take a version's folder out of the repository. Nothing happens where there is none."""
        home_path = self._repository / self._engine
        with self._errors(f"Version {version} can't be removed: {home_path / str(version)}"), ExitStack() as stack:
            home, _ = stack.enter_context(open_folder(home_path))
            try:
                status = os.stat(str(version), dir_fd=home, follow_symlinks=False)
            except FileNotFoundError:
                return
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
                raise RepositoryError(f"{home_path / str(version)} is no version's folder, and stays.")
            repository = self._repository.resolve()
            out, place = stack.enter_context(beside(repository, self._engine))
            check_file_system(out, place, home, repository / self._engine)
            name = f"removed-{version}-{secrets.token_hex(4)}"
            try:
                os.rename(str(version), name, src_dir_fd=home, dst_dir_fd=out)
            except PermissionError as error:
                raise RepositoryError(
                    f"Version {version} can't be removed: {error_text(error)}. {home_path / str(version)} belongs to "
                    f"{user(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}; Baton runs as "
                    f"{user(os.geteuid())}. Clients are not affected.",
                    mend="Move it out of the repository as a user who may, or give Baton the right to write it.",
                ) from None
            self._clean = False
            for folder in (home, out):
                with suppress(OSError):  # it is out; after a power loss it may be back, whole
                    os.fsync(folder)

    def left(self) -> tuple[int, ...]:
        """The versions that were taken out and whose files are still to be deleted. It only looks."""
        found = () if self._clean else self._names()
        self._clean = not found
        return tuple(sorted(int(name.split("-")[1]) for name in found))

    def _names(self) -> tuple[str, ...]:
        try:
            names = os.listdir(folder_beside(self._repository.resolve()) / self._engine)  # noqa: PTH208 - names alone
        except OSError:  # there is none, as long as nothing was pushed or removed
            return ()
        return tuple(filter(_REMOVED.fullmatch, names))

    def delete(self) -> None:
        """Delete the files of what was taken out, also by a control plane that was killed before it was done."""
        if not (names := self._names()):
            return
        refused: RepositoryError | None = None
        left = "What is left of a removed version can't be deleted"
        with self._errors(left), beside(self._repository.resolve(), self._engine) as (out, place):
            for name in names:
                try:
                    with self._errors(f"{left}: {place / name}"):
                        _delete(name, out)
                except RepositoryError as error:
                    refused = refused or error  # the others may go
        if refused is not None:
            raise refused

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RepositoryError(
                f"{what}: {error_text(error)}. Clients are not affected.",
                mend="Let Baton's user write there, or remove it by hand.",
            ) from error


def _delete(name: str, at: int) -> None:
    """Links are not followed: ``rmtree`` and ``fwalk`` go by descriptors."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=at, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=at)
        return
    for _path, _folders, _files, folder in os.fwalk(name, dir_fd=at):
        with suppress(OSError):  # a folder without the right to write keeps its files
            os.fchmod(folder, 0o700)
    shutil.rmtree(name, dir_fd=at)
