"""Opens files and folders that another user may have prepared, and refuses those that are not safe.

A path is only a name: others may put something else there between a check and its use. So each part of a path is opened
without following links, each link is read and checked, and the checked descriptor itself is then read or written.

The rule for links: a link is followed if the user who made it owns what it leads to, so nobody can make Baton open a
file that is not his (Linux has the same rule in ``/tmp``, ``protected_symlinks``). Links of this process's user and of
root are always followed. A link with a second name (a hard link) counts as made by the owner of its directory, since a
hard link keeps its owner. Links in ``/proc`` are followed by their text, too.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import io
import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from baton.errors import Untrusted

_LINKS: Final = 40
"""As many as the kernel follows in one path."""
_ANYBODY: Final = -1
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """What a path leads to. Both descriptors only stand for a place (``O_PATH``) and are closed by ``follow``.

    ``folder`` is the directory that holds it under ``name``, ``path`` the path without links, ``makers`` the ids of
    the users who made the links on the way.
    """

    descriptor: int
    status: os.stat_result
    folder: int
    name: str
    path: Path
    makers: frozenset[int]

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.status.st_mode)

    def open(self) -> io.FileIO:
        """The plain file itself, to read from, whatever its name leads to by now; raises ``OSError``."""
        return io.FileIO(os.open(f"/proc/self/fd/{self.descriptor}", os.O_RDONLY | os.O_CLOEXEC))

    def check_links(self) -> None:
        """Raises ``Untrusted`` if a link on the way was made by a user who does not own what it leads to."""
        for maker in self.makers - {0, os.geteuid(), self.status.st_uid}:
            raise Untrusted(
                f"A link that {user(maker)} made leads to {self.path}, which belongs to {user(self.status.st_uid)}: "
                "Baton follows a link only to a file of the user who made the link.",
                mend="Put the file itself in the link's place, or make the link yourself.",
            )

    def check_public(self, *, inside: bool) -> None:
        """Whether a file's content may become readable for everybody.

        ``inside``: whether it lies in the folder that is copied. A link out of it may have come with an archive or a
        clone, and lead to the user's keys.

        Raises ``Untrusted`` for a file that not everybody may read, and that lies outside or that others could have put
        there.
        """
        if self.status.st_mode & stat.S_IROTH:
            return
        if not inside:
            raise Untrusted(
                f"A link leads out of the folder, to {self.path}, which not everybody may read, as everybody could in "
                "the repository.",
                mend="If it is meant: put the file itself in the link's place, or `chmod o+r` it.",
            )
        holder = os.fstat(self.folder)
        if self.status.st_uid != holder.st_uid:
            raise Untrusted(
                f"{self.path} belongs to {user(self.status.st_uid)}, its folder to {user(holder.st_uid)}, and not "
                "everybody may read it, as everybody could in the repository.",
                mend="If it is meant: `chmod o+r` by its owner, or `chown` to the folder's.",
            )
        if self.status.st_nlink > 1 and holder.st_mode & _OTHERS_WRITE:
            raise Untrusted(
                f"{self.path} has {self.status.st_nlink} names, not everybody may read it, and others than "
                f"{user(holder.st_uid)} may write in its folder: it may be a hard link to another file.",
                mend="If it is meant: `chmod go-w` the folder, `chmod o+r` the file, or copy it.",
            )


@contextlib.contextmanager
def follow(path: str | Path, at: int | None = None) -> Iterator[Found]:
    """What a path leads to, from the directory ``at`` or the working directory. Nothing is checked, no file is opened.

    Raises ``OSError`` where it leads to nothing (a ring of links, too), or a directory on the way may not be searched.
    """
    text = os.fspath(path)
    parts = text.split("/")[::-1]
    makers: set[int] = set()
    links = 0
    held: list[int] = []

    def opened(name: str, within: int | None) -> int:
        held.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within))
        return held[-1]

    def close_all_but(*needed: int) -> None:
        """A path may have more parts than a process may have descriptors."""
        for descriptor in held:
            if descriptor not in needed:
                os.close(descriptor)
        held[:] = needed

    try:
        here = folder = opened("/" if text.startswith("/") else ".", at)
        last = "."
        while parts:
            close_all_but(*{here, folder})
            name = parts.pop()
            if name in {"", "."}:
                continue
            found = opened(name, here)
            status = os.fstat(found)
            if not stat.S_ISLNK(status.st_mode):
                here, folder, last = found, here, name
                continue
            links += 1
            if links > _LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), text)
            makers |= _makers(status, os.fstat(here))
            to = os.readlink("", dir_fd=found)
            if to.startswith("/"):
                here = opened("/", None)
            parts += to.split("/")[::-1]
        yield Found(here, os.fstat(here), folder, last, _real(here), frozenset(makers))
    finally:
        close_all_but()


def _real(descriptor: int) -> Path:
    try:
        return Path(f"/proc/self/fd/{descriptor}").readlink()
    except FileNotFoundError:  # which would say that the file is not there
        raise OSError(errno.ENOSYS, "/proc is not mounted") from None


def _makers(link: os.stat_result, holder: os.stat_result) -> set[int]:
    if link.st_nlink == 1:
        return {link.st_uid}
    return {link.st_uid, _ANYBODY if holder.st_mode & _OTHERS_WRITE else holder.st_uid}


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[tuple[int, Path]]:
    """A folder's descriptor, to list it, to write in it and to sync it, and its path without links.

    Raises ``Untrusted`` where a link on the way is another user's and the folder is not, ``OSError`` for no folder.
    """
    with follow(path) as found:
        found.check_links()
        descriptor, real = os.open(".", _FOLDER, dir_fd=found.descriptor), found.path
    try:
        yield descriptor, real
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def own_folder(name: str, at: int, place: Path, *, mode: int = 0o700) -> Iterator[int]:
    """A folder of this user's own within the directory ``at``, made with that mode if it is not there.

    ``place`` is its path, for people. Raises ``OSError``, and ``Untrusted`` where a link, a file, or a folder that
    others made or may write in has that name.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=at)
    mend = (
        f"Look into {place}, remove it, and do it again; see to it that others can't write where it lies. "
        "Where the file system gives all files to one user, run it as that user."
    )
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=at)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        raise Untrusted(f"{place} is no folder, but a link or a file. Nothing was touched.", mend=mend) from None
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
            whose = f"belongs to {user(status.st_uid)}, mode {stat.S_IMODE(status.st_mode):04o}"
            raise Untrusted(
                f"{place} {whose}: others than {user(os.geteuid())} could change what is in it. Nothing was touched.",
                mend=mend,
            )
        os.fchmod(descriptor, mode)  # whatever the umask
        yield descriptor
    finally:
        os.close(descriptor)


def open_own(path: str | Path, flags: int, mode: int = 0o600, *, at: int | None = None) -> int:
    """Open, or make with ``O_CREAT``, a file of Baton's own; ``O_TRUNC`` must not be in ``flags``.

    Raises ``OSError``, and ``Untrusted`` where a link, another user's file (root's may be) or no plain file has that
    name; or, where it is to be written, a hard link to another one.
    """
    try:
        # O_NONBLOCK: a fifo that nobody reads is an error then, and no wait for ever.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode, dir_fd=at)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENXIO}:
            raise
        raise _foreign(path, "is a link or no plain file") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        wrong = "is no plain file"
    elif status.st_uid not in {0, os.geteuid()}:
        wrong = f"belongs to {user(status.st_uid)}"
    else:
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        wrong = "has a second name, a hard link" if writing and status.st_nlink > 1 else ""
    if wrong:
        os.close(descriptor)
        raise _foreign(path, wrong)
    return descriptor


@contextlib.contextmanager
def new_file(name: str, at: int | None, mode: int) -> Iterator[BinaryIO]:
    """A new file of that mode in the directory ``at`` (None: the working directory), synced at the end of the block.

    What had that name is removed first. Raises ``OSError``, also where others make a file of that name meanwhile.
    """
    unlink(name, at)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, 0o600, dir_fd=at), "wb") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask
        yield file
        file.flush()
        os.fsync(file.fileno())


def unlink(name: str, at: int | None) -> None:
    """Remove a file, or a link itself, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=at)


def _foreign(path: str | Path, wrong: str) -> Untrusted:
    return Untrusted(
        f"{path} {wrong}: another user may have put it there. Nothing was written.",
        mend="Remove it, and see to it that only the user that runs Baton can write in its folder.",
    )


def check_owner(path: Path) -> None:
    """Raises ``Untrusted`` for a directory of another user than this process's or root."""
    owner = path.stat().st_uid
    if owner not in {0, os.geteuid()}:
        raise Untrusted(
            f"The directory {path} belongs to {user(owner)}, who could put files of his own in the place of "
            f"Baton's; Baton runs as {user(os.geteuid())}.",
            mend=f"Run Baton as {user(owner)}, or `chown {user(os.geteuid())}` the directory and what is in it.",
        )


def writers(path: Path, *, us: int | None = None, within: bool = True) -> str:
    """Who besides the user ``us`` (this process's) and root can write in a directory, in words; empty for nobody.

    Without ``within`` only those count who can also rename or remove what others have in there.
    """
    status = path.stat()
    mode = 0 if status.st_mode & stat.S_ISVTX and not within else status.st_mode
    if mode & stat.S_IWOTH:
        return "every user of this machine"
    found = [] if status.st_uid in {0, os.geteuid() if us is None else us} else [user(status.st_uid)]
    # The group of one, which has its user's name, is what many systems give to each user.
    if mode & stat.S_IWGRP and status.st_gid != 0 and _group(status.st_gid) != user(status.st_uid):
        found.append(f"the group {_group(status.st_gid)}")
    return " and ".join(found)


def user(number: int) -> str:
    """A user's name, or the number of one that has none, as in containers."""
    if number == _ANYBODY:
        return "somebody"
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"uid {number}"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return f"gid {number}"
