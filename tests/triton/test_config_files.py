"""``config.pbtxt`` as editors, templates, mounts and GitOps leave it: what Triton takes, Baton takes, and keeps."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.toy import engine_config, make_checkpoint
from tests.support.triton import running_triton

from baton.errors import RepositoryError, TritonError, Unreadable
from baton.local.find import find_triton
from baton.triton import pbtxt
from baton.triton.grpc import GrpcTriton
from baton.triton.repository import ServiceFiles

NAME = "engine"
POLICY = "version_policy { specific { versions: [ 1 ] } }"
BASE = engine_config(NAME, [1])
TWO = POLICY.replace("1", "2")


class Taken(NamedTuple):
    """A file that Triton takes. ``after``: the same with version 2 in its policy instead."""

    before: bytes
    after: bytes


class Refused(NamedTuple):
    """A file that Triton does not take, and the words in which Baton says so."""

    before: bytes
    words: str
    by_reading: bool = True
    """Baton knows it from the file alone, before Triton is asked."""


def everywhere(change: tuple[bytes, bytes], count: int = -1) -> Taken:
    """The ordinary file with something replaced in it, which must be so afterwards, too."""
    texts = (BASE.encode(), BASE.replace(POLICY, TWO).encode())
    return Taken(*(text.replace(*change, count) for text in texts))


def policy(before: str, after: str) -> Taken:
    return Taken(BASE.replace(POLICY, before).encode(), BASE.replace(POLICY, after).encode())


def around(before: bytes, after: bytes = b"") -> Taken:
    return Taken(*(before + text.encode() + after for text in (BASE, BASE.replace(POLICY, TWO))))


BOM = b"\xef\xbb\xbf"
CORPUS: dict[str, Taken | Refused] = {
    "as it is": everywhere((b"", b"")),
    "crlf": everywhere((b"\n", b"\r\n")),
    "crlf in a part of it": everywhere((b"\n", b"\r\n"), 7),
    "no newline at its end": everywhere((b"} }\n", b"} }")),
    "tabs": everywhere((b"  ", b"\t")),
    "blanks at the ends of lines": everywhere((b"\n", b" \t \n")),
    "form feeds": around(b"\f\v", b"\f\n"),
    "comments in UTF-8": around("# café ☃ \u2028 \u00a0 version_policy { }\r\n".encode()),
    "a comment in Latin-1": around(b"# caf\xe9\n"),
    "a string in Latin-1": around(b'parameters { key: "by" value: { string_value: "Ren\xe9" } }\n'),
    "no name": everywhere((b'name: "engine"\n', b"")),
    "strings in pieces": everywhere((b'"toy_reranker"', b"'toy_' \"reranker\"")),
    "with colons": policy(
        "version_policy: { specific: { versions: [1] } }", "version_policy: { specific: { versions: [ 2 ] } }"
    ),
    "angle brackets": policy(
        "version_policy < specific < versions: 1 > >", "version_policy < specific < versions: [ 2 ] > >"
    ),
    "one field a version": policy(
        "version_policy { specific { versions: 1 versions: 1 } }", "version_policy { specific { versions: [ 2 ] } }"
    ),
    "separators": policy(
        "version_policy { specific { versions: 1; }; };", "version_policy { specific { versions: [ 2 ] }; };"
    ),
    "hexadecimal": policy(
        "version_policy { specific { versions: 0x1, }, },", "version_policy { specific { versions: [ 2 ] }, },"
    ),
    "on many lines, with comments": policy(
        "version_policy { # {\n  specific {\n    # ask Ann\n    versions: [ 1 # one\n    ]  # end\n  }\n}",
        "version_policy { # {\n  specific {\n    # ask Ann\n    versions: [ 2 ] # one\n  # end\n  }\n}",
    ),
    "on many lines, with crlf": policy(
        "version_policy {\r\n  specific {\r\n    versions: [\r\n      1\r\n    ]\r\n  }\r\n}",
        "version_policy {\r\n  specific {\r\n    versions: [ 2 ]\r\n  }\r\n}",
    ),
    "byte order mark": Refused(BOM + BASE.encode(), "byte order mark"),
    "UTF-16": Refused(BASE.encode("utf-16"), "zero byte in line 1"),
    "a zero byte in a comment": Refused(b"# a\0b\n" + BASE.encode(), "zero byte in line 1"),
    "Ctrl-Z at its end": Refused(BASE.encode() + b"\x1a", "can't be parsed: 18:1"),
    "a space of a web page": Refused(BASE.replace("max_", "\u00a0max_").encode(), r"U\+00A0.*line 3"),
    "typographic quotes": Refused(BASE.replace('"toy_reranker"', "“toy_reranker”").encode(), "can't be parsed: 2:10"),
    "empty": Refused(b"", "names no input and no output"),
    "old Mac line ends after a comment": Refused(b"# a\r" + BASE.encode().replace(b"\n", b"\r"), "names no input"),
    "two policies": Refused(f"{BASE}{TWO}\n".encode(), "can't be parsed: 18"),
    "two kinds of policy": Refused(
        BASE.replace(POLICY, "version_policy { latest { num_versions: 1 } specific { versions: 1 } }").encode(),
        "can't be parsed: 17.*specific",
    ),
    "a name twice": Refused(f'{BASE}name: "engine"\n'.encode(), "can't be parsed: 18"),
    "a version in quotes": Refused(BASE.replace("[ 1 ] } }", '"1" } }').encode(), "can't be parsed: 17"),
    "a comma too many": Refused(BASE.replace("[ 1 ] } }", "[ 1, ] } }").encode(), "can't be parsed: 17"),
    "slashes for a comment": Refused(b"// ours\n" + BASE.encode(), "can't be parsed: 1:1"),
    "a template that nobody filled in": Refused(BASE.replace(": 8", ": ${max}").encode(), "can't be parsed: 3"),
    "a merge that nobody ended": Refused(b"<<<<<<< HEAD\n" + BASE.encode(), "can't be parsed: 1:1"),
    "json": Refused(b'{"name": "engine"}', "can't be parsed: 1:1"),
    "another model's name": Refused(BASE.replace(NAME, "other").encode(), "calls the model 'other'", by_reading=False),
    "a typing error": Refused(BASE.replace("max_b", "Max_b").encode(), "3:1.*Max_batch_size", by_reading=False),
    "a newer field": Refused(BASE.encode() + b"newer { a: 1 }\n", "18:1.*newer", by_reading=False),
}
ACCEPTED = {what: case for what, case in CORPUS.items() if isinstance(case, Taken)}
UNUSABLE = {what: case for what, case in CORPUS.items() if isinstance(case, Refused)}


@pytest.fixture
def files(tmp_path: Path) -> ServiceFiles:
    (tmp_path / "repository" / NAME / "1").mkdir(parents=True)
    made = ServiceFiles(tmp_path / "repository", "public", NAME)
    config_of(made).write_text(BASE)
    return made


def config_of(files: ServiceFiles) -> Path:
    return files.engine_dir / "config.pbtxt"


@pytest.mark.parametrize("what", ACCEPTED)
def test_only_the_policy_changes(files, what):
    case = ACCEPTED[what]
    config_of(files).write_bytes(case.before)
    assert files.policy() == {1}
    files.set_policy(frozenset({2}))
    assert config_of(files).read_bytes() == case.after
    files.set_policy(frozenset())
    files.set_policy(frozenset({2}))
    assert config_of(files).read_bytes() == case.after, "also after a time with no version at all"


@pytest.mark.parametrize("what", UNUSABLE)
def test_what_triton_does_not_take_is_named(files, what):
    case, path = UNUSABLE[what], config_of(files)
    path.write_bytes(case.before)
    if case.by_reading:
        with pytest.raises(RepositoryError, match=f"(?s){path}.*{case.words}"):
            files.policy()
    else:
        assert files.policy() == {1}, "a newer Triton may know it"
        assert re.search(f"{path}.*{case.words}", pbtxt.doubts(path.read_text(), path))
    assert path.read_bytes() == case.before


@pytest.mark.triton
def test_triton_says_the_same(tmp_path):
    """Each file of the corpus in a model of its own: what Triton does with it, and with what Baton makes of it."""
    find_triton(None)
    repository = tmp_path / "repository"
    models = {f"m{number}": case for number, case in enumerate(CORPUS.values())}
    for name, case in models.items():
        for version in (1, 2):
            make_checkpoint(repository / name / str(version), seed=version)
        (repository / name / "config.pbtxt").write_bytes(case.before.replace(b'"engine"', f'"{name}"'.encode()))
    with running_triton(tmp_path, repository) as running:
        server = GrpcTriton("one", running.grpc_url)
        for (name, case), what in zip(models.items(), CORPUS, strict=True):
            if isinstance(case, Refused):
                with pytest.raises(TritonError, match="failed to poll"):
                    server.load(name, 60.0)
                continue
            server.load(name, 60.0)
            assert server.index()[name][1].state == "READY", what
            ServiceFiles(repository, "public", name).set_policy(frozenset({2}))
            server.load(name, 60.0)
            assert server.index()[name][2].state == "READY", what
            assert server.index()[name][1].state != "READY", what
            server.unload(name, 60.0)
        server.close()


def test_owner_rights_and_attributes_stay(files):
    path = config_of(files)
    path.chmod(0o664)
    if os.geteuid() == 0:
        os.chown(path, 4711, 4712)
    try:
        os.setxattr(path, "user.note", b"kept")
        attributes = True
    except OSError:  # not every file system has them
        attributes = False
    before = path.stat()
    files.set_policy(frozenset({2}))
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert not attributes or os.getxattr(path, "user.note") == b"kept"


def test_a_link_stays_and_its_target_changes(files, tmp_path):
    """Configuration from a checkout, by one link or by two, as a ConfigMap's ``..data`` is."""
    path, checkout = config_of(files), tmp_path / "checkout"
    (checkout / "..2026").mkdir(parents=True)
    (checkout / "..data").symlink_to("..2026")
    (checkout / "..2026" / "engine.pbtxt").write_text(BASE)
    path.unlink()
    path.symlink_to(checkout / "..data" / "engine.pbtxt")
    files.set_policy(frozenset({2}))
    assert path.is_symlink()
    assert (checkout / "..data").is_symlink()
    assert (checkout / "..2026" / "engine.pbtxt").read_text() == BASE.replace(POLICY, TWO)
    assert {p.name for p in checkout.rglob("*")} == {"..2026", "..data", "engine.pbtxt"}, "nothing is left beside"


def test_a_model_folder_that_is_a_link(files, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    files.engine_dir.rename(elsewhere)
    files.engine_dir.symlink_to(elsewhere)
    files.set_policy(frozenset({2}))
    assert files.policy() == {2}
    assert files.engine_dir.is_symlink()
    assert {p.name for p in elsewhere.iterdir()} == {"1", "config.pbtxt"}


def test_a_link_within_the_model_s_folder_is_refused(files):
    """Triton would load every version anew each time that its target is written."""
    path = config_of(files)
    path.rename(path.with_name("config.production.pbtxt"))
    path.symlink_to("config.production.pbtxt")
    with pytest.raises(RepositoryError, match=r"same model's folder.*Nothing was written.*target outside of"):
        files.set_policy(frozenset({2}))
    assert path.read_text() == BASE
    assert path.is_symlink()


def test_another_name_of_the_file_keeps_what_it_held(files, tmp_path):
    """A hard link is what a backup by `cp -al` makes: it must not change under somebody's hands."""
    backup = tmp_path / "backup.pbtxt"
    backup.hardlink_to(config_of(files))
    files.set_policy(frozenset({2}))
    assert backup.read_text() == BASE
    assert files.policy() == {2}


def test_a_link_to_nowhere(files):
    path = config_of(files)
    path.unlink()
    path.symlink_to("/nowhere/engine.pbtxt")
    with pytest.raises(Unreadable, match=r"is a link to /nowhere/engine.pbtxt, which is not there\. Put it back"):
        files.policy()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file(files, make):
    path = config_of(files)
    path.unlink()
    make(path)
    with pytest.raises(Unreadable, match=r"can't be read: it is (a folder|no ordinary file)\. Put the file there"):
        files.policy()
    kind = path.stat().st_mode
    assert stat.S_ISDIR(kind) or stat.S_ISFIFO(kind)


@pytest.mark.parametrize(
    ("number", "mend"),
    [
        (errno.EROFS, "mounted read-only, as a ConfigMap is"),
        (errno.EBUSY, "mount the repository as a whole"),
        (errno.EXDEV, "mount the repository as a whole"),
        (errno.EPERM, "chattr -i"),
        (errno.EACCES, "right to write in the folder"),
        (errno.EDQUOT, "Make room on the disk"),
    ],
)
def test_what_the_file_system_refuses_is_told_with_its_mend(files, monkeypatch, number, mend):
    def refuse(*_args: object, **_where: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RepositoryError, match=f"{config_of(files)} can't be written: .*old content stands.*{mend}"):
        files.set_policy(frozenset({2}))
    assert config_of(files).read_text() == BASE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files immutable")
def test_an_immutable_file(files):
    path = config_of(files)
    if subprocess.run(["chattr", "+i", path], capture_output=True, check=False).returncode:
        pytest.skip("this file system knows no immutable files")
    try:
        with pytest.raises(RepositoryError, match=r"Operation not permitted.*chattr -i"):
            files.set_policy(frozenset({2}))
        assert path.read_text() == BASE
    finally:
        subprocess.run(["chattr", "-i", path], check=True)
