"""Reads and replaces one ``config.pbtxt``: every byte as it is, in one rename, safe from others who write beside it.

Not covered: what the text means (``pbtxt``), and which files there are (``repository``).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from baton.errors import RepositoryError, Unreadable, Untrusted
from baton.ownership import Found, follow, new_file, unlink

CONFIG = "config.pbtxt"


def read(path: Path, *, errors: str = "surrogateescape") -> str | None:
    """A file's text with its line endings and its bytes that are no UTF-8, or None when there is no file.

    ``errors``: what to do with those bytes; by default :func:`write_atomically` writes them back as they were, since
    Triton accepts them in comments and strings (seen on 24.10).

    Raises:
        Unreadable: the file system does not give it, it is no plain file, or a link leads to it that belongs to a user
            who does not own the file.
    """
    try:
        with follow(path) as found:
            found.check_links()
            if not found.is_file:  # reading a fifo may never end
                kind = "a folder" if found.is_folder else "no ordinary file"
                raise Unreadable(
                    f"{path} can't be read: it is {kind}.",
                    mend="Put the file there; Triton itself exits when it finds a folder of that name.",
                )
            with found.open() as file:
                return file.readall().decode(errors=errors)
    except FileNotFoundError:
        if path.is_symlink():
            to = path.readlink()
            raise Unreadable(f"{path} is a link to {to}, which is not there.", mend="Put it back.") from None
        return None
    except Untrusted as error:
        raise Unreadable(f"{path} can't be read: {error.message}", mend=error.mend) from None
    except OSError as error:
        raise Unreadable(f"{path} can't be read: {error.strerror}.") from None


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one rename, durably. Its owner, rights and extended attributes stay.

    A link stays, too: what it leads to is replaced. A second name of the file (a hard link) keeps the old content. The
    temporary file lies beside the repository's model folder, not in it: Triton counts every file there.

    Others who can write in the repository may change what is served by it, but must not get other files of Baton's user
    overwritten. So links are checked (``baton.ownership``), and directories are used by their descriptors.

    Raises:
        RepositoryError: the file system refuses it, or a link may not be followed; the old content stands.
    """
    staging = f".{path.parent.name}.{path.name}.baton"
    with file_errors(path), ExitStack() as stack:
        model = stack.enter_context(follow(path.parent))
        model.check_links()
        old = _old(stack, path, model)
        linked = old is not None and bool(old.makers)
        name, place = (path.name, model.descriptor) if old is None else (old.name, old.folder)
        folder = _opened(stack, ".", place)
        beside = folder if linked else _opened(stack, "..", place)
        stack.callback(unlink, staging, beside)
        with new_file(staging, beside, 0o600) as file:
            file.write(text.encode(errors="surrogateescape"))
            file.flush()
            _copy_attributes(file.fileno(), old)
            _date_after(file.fileno(), path.parent)
        os.replace(staging, name, src_dir_fd=beside, dst_dir_fd=folder)
        os.fsync(folder)


def _old(stack: ExitStack, path: Path, model: Found) -> Found | None:
    """The file that is to be replaced, where there is one.

    Raises:
        RepositoryError: it is a link that leads nowhere, or to the model's own folder.
        Untrusted: it is a link that is not to be followed.
    """
    try:
        found = stack.enter_context(follow(path.name, model.descriptor))
    except FileNotFoundError:
        if path.is_symlink():
            raise RepositoryError(
                f"{path} is a link to {path.readlink()}, which is not there. Nothing was written.", mend="Put it back."
            ) from None
        return None
    found.check_links()
    if found.makers and found.path.is_relative_to(model.path):
        raise RepositoryError(
            f"{path} is a link to {found.path}, in the same model's folder, and Triton loads every version anew when "
            f"anything beside {CONFIG} changes there. Nothing was written.",
            mend=f"Put the file itself in the link's place, or its target outside of {path.parent}.",
        )
    return found


def _opened(stack: ExitStack, name: str, at: int) -> int:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
    stack.callback(os.close, descriptor)
    return descriptor


def _copy_attributes(descriptor: int, old: Found | None) -> None:
    """Give a new file the rights, the owner and the attributes (ACLs too) of the one that it replaces.

    What only root may set is left out otherwise: the content is more important. Triton may run as another user, so a
    file that replaces none can be read by everybody.
    """
    if old is None:
        os.fchmod(descriptor, 0o644)
        return
    for user, group in ((-1, old.status.st_gid), (old.status.st_uid, -1)):
        with suppress(PermissionError):
            os.fchown(descriptor, user, group)
    os.fchmod(descriptor, stat.S_IMODE(old.status.st_mode))
    held = f"/proc/self/fd/{old.descriptor}"
    with suppress(OSError):  # a file system without such attributes
        for name in os.listxattr(held):
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(held, name))


def _date_after(descriptor: int, model: Path) -> None:
    """Make sure that Triton notices the file: give it a later time than any other in the model's folder.

    Triton (24.10) ignores a load call unless the newest time in the folder has grown since the last one. A version that
    a machine with another clock wrote, or a clock that was set back, would hide every change until that time has come.
    """
    newest = _newest(model, set())
    now = os.fstat(descriptor)
    if newest is not None and newest[0] >= now.st_mtime_ns:
        time, noted = newest
        os.utime(descriptor, ns=(now.st_atime_ns, time + max(1000, now.st_mtime_ns - noted)))


def _newest(path: Path, seen: set[tuple[int, int]]) -> tuple[int, int] | None:
    """The newest time at or below a path, links followed, in ns, and when the file system noted it."""
    try:
        status = path.stat()
        entries = list(path.iterdir()) if stat.S_ISDIR(status.st_mode) else []
    except OSError:  # gone meanwhile, or Triton can't read it either
        return None
    place = (status.st_dev, status.st_ino)
    if entries and place in seen:
        return None
    seen.add(place)
    found = [(max(status.st_mtime_ns, status.st_ctime_ns), status.st_ctime_ns)]
    return max(found + [one for entry in entries if (one := _newest(entry, seen)) is not None])


@contextmanager
def held(folder: Path) -> Iterator[Path]:
    """A model's folder by a path that leads only to it, whatever is put in its place meanwhile.

    Raises:
        Untrusted: a link of a user whose folder it is not leads to it: what is removed there would be another's.
        OSError: it is not there.
    """
    with follow(folder) as found:
        found.check_links()
        yield folder / f"/proc/self/fd/{found.descriptor}"


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's errors into one that names the file, the cause and what to do."""
    try:
        yield
    except OSError as error:
        raise RepositoryError(
            f"{path} can't be written: {error.strerror}. The old content stands.",
            mend=f"{_what_to_do(error.errno, path)} Baton goes on by itself.",
        ) from None
    except Untrusted as error:
        raise RepositoryError(
            f"{path} can't be written: {error.message} The old content stands.", mend=error.mend
        ) from None


def _what_to_do(number: int | None, path: Path) -> str:
    where = os.path.realpath(path)
    match number:
        case errno.EROFS:
            return (
                f"{where} is on a file system that is mounted read-only, as a ConfigMap is: Baton moves traffic by "
                f"writing this file, so the repository must be on a volume that it may write."
            )
        case errno.EBUSY | errno.EXDEV:
            return f"{where} is a mount of its own: mount the repository as a whole, so that files can be replaced."
        case errno.EPERM | errno.EACCES:
            return (
                f"Give Baton's user the right to write in the folder of {where} and in the one above; "
                f"`lsattr` shows whether it was made immutable (`chattr -i`)."
            )
        case errno.ENOSPC | errno.EDQUOT:
            return "Make room on the disk."
    return "Make room on the disk, or correct its rights."
