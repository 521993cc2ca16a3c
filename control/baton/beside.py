"""The folder beside the repository, in which Baton makes versions and removes them.

``<repository>.staging-<user id>/<engine>`` is private (mode 0700), and used by its descriptor. It lies beside the
repository for two reasons: any new entry in the engine's directory that is no version makes Triton (24.10) reload all
versions, and a rename is atomic only within one file system.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from baton.errors import RepositoryError
from baton.ownership import open_folder, own_folder, user, writers

_log = logging.getLogger(__name__)


@contextmanager
def beside(repository: Path, engine: str) -> Iterator[tuple[int, Path]]:
    """This user's folder for an engine, made if it is not there: its descriptor, and its path for people.

    ``repository`` is without links. Raises ``Untrusted`` for a folder that others may change, ``RepositoryError`` where
    it can't be made, ``OSError``.
    """
    above = repository.parent
    if others := writers(above, within=False):
        _log.warning(
            "%s can be changed by %s. They could replace the repository %s by another one. "
            "Let nobody but Baton's users write there.", above, others, repository.name,
        )  # fmt: skip
    root = folder_beside(repository)
    with ExitStack() as stack:
        parent, _ = stack.enter_context(open_folder(above))
        try:
            mine = stack.enter_context(own_folder(root.name, parent, root))
        except PermissionError as error:
            raise RepositoryError(
                f"{root} can't be created: {os.strerror(error.errno or 0)}. "
                "A version is copied there first, and removed from there.",
                mend=f"Let a user who may write in {above} create it: install -d -o {user(os.geteuid())} -m 700 {root}",
            ) from None
        yield stack.enter_context(own_folder(engine, mine, root / engine)), root / engine


def folder_beside(repository: Path) -> Path:
    """Each user has one: in a folder of somebody else's, nothing is safe from him."""
    return repository.with_name(f"{repository.name}.staging-{os.geteuid()}")


def check_file_system(folder: int, place: Path, home: int, engine: Path) -> None:
    """Whether a rename leads from one to the other. Raises ``RepositoryError``."""
    if os.fstat(folder).st_dev != os.fstat(home).st_dev:
        raise RepositoryError(
            f"{place} and {engine} are on different file systems. A version could not appear there in one step.",
            mend="Mount the folder above the repository, and not the repository itself.",
        )
