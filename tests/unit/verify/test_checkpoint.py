"""The one description of a version folder: made of what was listed, and of each file once."""

from __future__ import annotations

import errno
import json
import os
import time
from io import FileIO

import pytest
from tests.unit.verify.tiny import edit, files, tokenizer, write

from baton.domain import Verdict
from baton.errors import CheckpointError
from baton.verify import checkpoint as checkpoint_module
from baton.verify.capacity import estimate_bytes
from baton.verify.checkpoint import describe, read, read_meta
from baton.verify.compatibility import check_compatibility
from baton.verify.completeness import missing_parts
from baton.verify.files import UnfinishedError, open_regular
from baton.verify.integrity import check_integrity, manifest
from baton.verify.listing import look
from baton.watch.scan import Scanner

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "models" / "7", sums=True)


@pytest.fixture
def opened(monkeypatch):
    """The names of the files that were opened to be parsed, in order."""
    names = []
    real = open_regular

    def noted(path):
        names.append(path.name)
        return real(path)

    monkeypatch.setattr(checkpoint_module, "open_regular", noted)
    monkeypatch.setattr(checkpoint_module, "_CACHE", checkpoint_module._Cache(checkpoint_module.KEPT))
    return names


def age(folder):
    """Of long ago: that a file is wrong is believed from then on."""
    for path in folder.iterdir():
        os.utime(path, (1.0, 1.0))


def meanwhile(monkeypatch, name, act):
    """``act`` happens when the file was opened, before it is read."""
    real = FileIO.read
    todo = [act]

    class Slow(FileIO):
        def read(self, *size):
            if todo:
                todo.pop()()
            return real(self, *size)

    def opening(path):
        if path.name != name:
            return open_regular(path)
        with open_regular(path) as file:
            return Slow(os.dup(file.fileno()))

    monkeypatch.setattr(checkpoint_module, "open_regular", opening)


def test_each_file_is_parsed_once_for_the_scan_and_all_gates(folder, opened):
    Scanner().scan(folder.parent, 0.0)
    assert sorted(opened) == sorted([*files(), "SHA256SUMS"])
    opened.clear()
    assert missing_parts(describe(folder)) == ()
    assert check_integrity(describe(folder)).verdict is Verdict.PASS
    assert check_compatibility(describe(folder), describe(folder), architecture=None).verdict is Verdict.PASS
    assert estimate_bytes(describe(folder), overhead=1.0) > 0
    assert describe(folder).meta() == read_meta(folder)
    assert opened == []


def test_only_what_changed_is_parsed_again(folder, opened):
    before = describe(folder)
    opened.clear()
    edit(folder, "config.json", more=1)
    after = describe(folder)
    assert opened == ["config.json"]
    assert (before.settings("config.json").get("more"), after.settings("config.json")["more"]) == (None, 1)
    assert after.parts["tokenizer.json"] is before.parts["tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "content"), [("tokenizer.json", b'{"model": '), ("config.json", b"x" * 100), (SHARD, b"\x10")]
)
def test_what_is_wrong_is_read_again_until_the_clock_can_tell(folder, opened, monkeypatch, name, content):
    (folder / name).write_bytes(content)
    now = [(folder / name).stat().st_ctime + 1.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    for _ in range(2):
        with pytest.raises(CheckpointError):
            describe(folder).value(name)
    assert opened.count(name) == 2
    now[0] += 60.0
    opened.clear()
    for _ in range(3):
        with pytest.raises(CheckpointError):
            describe(folder).value(name)
    assert opened == [name]


def test_what_can_not_be_opened_for_a_moment_is_opened_again(folder, opened, monkeypatch):
    def full(_path):
        raise CheckpointError("config.json can't be opened: Too many open files.") from OSError(errno.EMFILE)

    age(folder)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "open_regular", full)
        assert check_integrity(describe(folder)).verdict is Verdict.FAIL
    assert check_integrity(describe(folder)).verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["config.json", SHARD, "SHA256SUMS", "model.safetensors.index.json"])
@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_a_file_that_changes_while_it_is_read_is_not_believed(folder, monkeypatch, opened, name, how):
    whole = (folder / name).read_bytes()

    def act():
        if how == "written":
            (folder / name).write_bytes(whole + b" ")
        elif how == "replaced":
            (folder / "new").write_bytes(whole)
            (folder / "new").rename(folder / name)
        else:
            (folder / name).unlink()

    meanwhile(monkeypatch, name, act)
    seen = describe(folder)
    assert isinstance(seen.parts[name].error, UnfinishedError)
    assert any(sentence.startswith(f"{name} changed while it was read") for sentence in missing_parts(seen))
    result = check_integrity(seen)
    assert result.verdict is Verdict.FAIL
    assert f"{name} changed while it was read. Try again when the folder is at rest." in result.message


def test_a_broken_text_of_a_file_that_is_being_written_is_not_held_against_it(folder, monkeypatch, opened):
    (folder / "config.json").write_text('{"a": nonsense, "b": "' + "x" * 100 + '"}')
    meanwhile(monkeypatch, "config.json", lambda: write(folder))
    assert "config.json changed while it was read" in missing_parts(describe(folder))
    assert missing_parts(describe(folder)) == ()


def test_a_file_that_changes_while_it_is_hashed(folder):
    for ask in (check_integrity, manifest):
        done = []

        def touch(*figures, done=done):
            if not done:
                os.utime(folder / "config.json", (len(done), 5.0))
            done.append(figures)

        seen = describe(folder)
        try:
            told = ask(seen, progress=touch).message
        except CheckpointError as error:
            told = str(error)
        assert "config.json changed while it was read" in told


def test_files_that_appear_after_the_listing_belong_to_the_next_one(folder):
    listing = look(folder)
    (folder / "config.json").unlink()
    (folder / "merges.txt").write_text("a b\n")
    seen = read(listing)
    assert "merges.txt" not in seen.top
    assert isinstance(seen.parts["config.json"].error, UnfinishedError)


def test_what_is_kept_is_bounded(tmp_path, opened):
    cache = checkpoint_module._CACHE = checkpoint_module._Cache(room=20_000)
    for number in range(1, 30):
        describe(write(tmp_path / str(number)))
        assert cache._held <= 20_000
    assert cache._held == sum(size for _, size in cache._parts.values()) > 10_000
    opened.clear()
    describe(tmp_path / "29")
    assert opened == []  # the last one fits, the first one was dropped
    describe(tmp_path / "1")
    assert sorted(opened) == sorted(files())


def test_what_is_too_large_to_keep_is_still_scanned_once(folder, opened):
    """A scan is done several times a second: that a large file is whole is remembered without what it holds."""
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(2_000)))
    cache = checkpoint_module._CACHE = checkpoint_module._Cache(room=30_000)
    for _ in range(3):
        assert missing_parts(read(look(folder), values=False)) == ()
    assert opened.count("tokenizer.json") == 1
    assert describe(folder).tokenizer().count == 2_001
    assert opened.count("tokenizer.json") == 2
    assert all(part is None for key, (part, _) in cache._parts.items() if key[0].name == "tokenizer.json")
    (folder / "tokenizer.json").write_text('{"model": ')
    assert missing_parts(read(look(folder), values=False)) == ("tokenizer.json ends early",)


def test_a_kept_error_holds_nothing_of_the_file(folder, opened):
    """An exception holds its cause and its frames, and those the text."""
    (folder / "tokenizer.json").write_text('{"a": nonsense, "b": "' + "x" * 1_000_000 + '"}')
    age(folder)
    error = describe(folder).parts["tokenizer.json"].error
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"tokenizer\.json is not valid JSON") as caught:
            describe(folder).tokenizer()
        assert caught.value is not error
        assert error.__traceback__ is None


def test_headers_without_end(folder, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "HEADERS_TOTAL", 300)
    words = "The headers of its weights are more than 300 bytes together."
    seen = describe(folder)
    assert missing_parts(seen) == (words,)
    for result in (check_integrity(seen), check_compatibility(seen, None, architecture=None)):
        assert result.verdict is Verdict.FAIL
        assert words in result.message
    with pytest.raises(CheckpointError, match="headers of its weights"):
        estimate_bytes(seen, overhead=1.0)


def test_a_folder_that_may_not_be_listed(folder, monkeypatch):
    real = os.scandir

    def denied(path):
        if str(path).endswith("private"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path)

    (folder / "private").mkdir()
    monkeypatch.setattr(os, "scandir", denied)
    seen = describe(folder)
    assert (seen.listing.fingerprint, missing_parts(seen)) == ("", ())
    assert check_integrity(seen).message == "7 can't be read: Permission denied."
    (found,) = Scanner().scan(folder.parent, 0.0)
    assert (found.problem, found.fingerprint, found.size, found.newest) == (
        "7 can't be read: Permission denied.",
        "",
        0,
        0.0,
    )


def test_a_vocabulary_that_does_not_count_is_read_as_text_only(folder, opened):
    """``tokenizer.json`` is there: an older file beside it must be JSON, and no more."""
    (folder / "vocab.json").write_text(json.dumps({"a": "b"}))
    assert check_integrity(describe(folder)).verdict is Verdict.PASS
    (folder / "tokenizer.json").unlink()
    (folder / "SHA256SUMS").unlink()
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert "vocab.json does not map tokens" in check_compatibility(describe(folder), None, architecture=None).message
