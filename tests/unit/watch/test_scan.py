from __future__ import annotations

import os
import shutil
import threading

import pytest
from tests.unit.verify.tiny import files, write

from baton.verify.listing import look
from baton.watch import scan as scan_module
from baton.watch.scan import Scanner


@pytest.fixture
def engine(tmp_path):
    folder = tmp_path / "repository" / "engine"
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text("")
    return folder


def by_name(folders):
    return {folder.name: folder for folder in folders}


def test_every_entry_is_told_and_odd_names_get_a_mend(engine):
    write(engine / "10")
    write(engine / "2")
    (engine / "3").mkdir()
    for name in ("007", "2a", "0", "notes", ".5.tmp", "99999999999"):
        (engine / name).mkdir()
    (engine / "readme.txt").write_text("x")
    (engine / "4").write_text("a file")
    (engine / "5").symlink_to("/nowhere")
    (engine / "warmup").mkdir()
    folders = Scanner().scan(engine, 5.0)
    assert [folder.name for folder in folders[:3]] == ["2", "3", "10"]
    found = by_name(folders)
    assert set(found) == {"10", "2", "3", "007", "2a", "0", "notes", ".5.tmp", "99999999999", "readme.txt", "4", "5"}
    assert [name for name in found if found[name].complete] == ["2", "10"]
    assert found["3"].missing
    assert found["3"].version == 3
    assert found["10"].size == sum(map(len, files().values()))
    problems = {name: folder.problem for name, folder in found.items() if folder.problem}
    assert all(found[name].version is None for name in problems)
    assert "rename it to 7" in problems["007"]
    assert "version 2," in problems["2a"]
    assert "file" in problems["4"]
    assert "not there (/nowhere)" in problems["5"]
    assert "hidden" in problems[".5.tmp"].lower()
    assert "reload all of them" in problems["readme.txt"]


def test_a_linked_version_is_followed(engine, tmp_path):
    target = write(tmp_path / "elsewhere")
    (engine / "6").symlink_to(target)
    scanner = Scanner()
    (before,) = scanner.scan(engine, 1.0)
    assert before.complete
    (target / "config.json").chmod(0o600)
    (after,) = scanner.scan(engine, 2.0)
    assert after.fingerprint != before.fingerprint


def test_quiet_since_and_first_seen(engine):
    scanner = Scanner()
    content = files()
    shard = content.pop("model-00002-of-00002.safetensors")
    write(engine / "7", content)
    times = [scanner.scan(engine, now)[0] for now in (10.0, 11.0)]
    assert {(folder.first_seen, folder.quiet_since) for folder in times} == {(10.0, 10.0)}
    assert times[1].missing == ("model-00002-of-00002.safetensors is not there yet",)
    (engine / "7" / "model-00002-of-00002.safetensors").write_bytes(shard)
    (folder,) = scanner.scan(engine, 12.0)
    assert (folder.complete, folder.first_seen, folder.quiet_since) == (True, 10.0, 12.0)
    shutil.rmtree(engine / "7")
    assert scanner.scan(engine, 13.0) == []
    write(engine / "7")
    (folder,) = scanner.scan(engine, 14.0)
    assert (folder.first_seen, folder.quiet_since) == (14.0, 14.0)


@pytest.mark.parametrize(
    "touch",
    [
        lambda path: path.write_bytes(path.read_bytes() + b" "),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.chmod(0o640),
        lambda path: os.link(path, path.with_name("hard")),
        lambda path: path.unlink(),
        lambda path: path.rename(path.with_name("other.json")),
        lambda path: (path.parent / "new").mkdir(),
        lambda path: path.parent.chmod(0o750),
    ],
)
def test_the_fingerprint_changes_whenever_triton_would_reload(engine, touch):
    folder = write(engine / "7")
    before = look(folder).fingerprint
    assert look(folder).fingerprint == before
    touch(folder / "config.json")
    assert look(folder).fingerprint not in {before, ""}


def test_files_that_another_clock_dated_are_seen(engine):
    ahead = 4_000_000_000.0
    os.utime(write(engine / "7") / "config.json", (ahead, ahead))
    scanner = Scanner()
    assert [scanner.scan(engine, now)[0].newest for now in (1.0, 2.0)] == [ahead, ahead]
    os.utime(engine / "7" / "config.json", (1.0, 1.0))
    assert 1.0 < scanner.scan(engine, 3.0)[0].newest < ahead


def test_what_is_whole_and_unchanged_is_not_read_again(engine, monkeypatch):
    asked = []

    def counted(checkpoint):
        asked.append(checkpoint.name)
        return () if checkpoint.name == "1" else ("something",)

    monkeypatch.setattr(scan_module, "missing_parts", counted)
    write(engine / "1")
    (engine / "2").mkdir()
    scanner = Scanner()
    for now in range(3):
        scanner.scan(engine, float(now))
    assert asked == ["1", "2", "2", "2"]
    (engine / "1" / "config.json").touch()
    scanner.scan(engine, 4.0)
    assert asked[4:] == ["1", "2"]


def test_a_directory_that_is_not_there_has_no_entries(tmp_path):
    assert Scanner().scan(tmp_path / "gone", 1.0) == []


def test_entries_that_vanish_in_the_middle(engine):
    done = threading.Event()

    def churn():
        for _ in range(40):
            write(engine / "7")
            (engine / "x").symlink_to("y")
            shutil.rmtree(engine / "7")
            (engine / "x").unlink()
        done.set()

    worker = threading.Thread(target=churn)
    worker.start()
    scanner = Scanner()
    while not done.is_set():
        scanner.scan(engine, 1.0)
    worker.join()
    assert scanner.scan(engine, 2.0) == []


def test_only_what_triton_passes_over_is_harmless(engine):
    """It reloads every version for a new name that is not of ASCII digits, and ends at a number beyond 64 bits."""
    harmless, deadly = ("0", "007", "99999999999", "0" + "9" * 25), ("9" * 25, "+" + "9" * 25)
    for name in (*harmless, *deadly, "٣", "²", "+5", "6 ", "-1", "notes"):
        (engine / name).mkdir()
    (engine / ("8" * 25)).write_text("a file, which Triton does not look at")
    found = by_name(Scanner().scan(engine, 5.0))
    assert {name for name in found if found[name].harmless} == {*harmless, "9" * 25, "8" * 25}
    assert {name for name in found if found[name].deadly} == set(deadly)
    assert all(found[name].problem for name in found)


def test_which_other_versions_a_version_s_links_lead_into(engine):
    write(engine / "1")
    write(engine / "2")
    (engine / "2" / "config.json").unlink()
    (engine / "2" / "config.json").symlink_to("../1/config.json")
    (engine / "3").symlink_to("2")
    (engine / "4").symlink_to(engine / "3")
    write(engine.parent / "store")
    (engine / "5").symlink_to("../store")
    write(engine / "6")
    (engine / "6" / "again.json").symlink_to("config.json")
    found = {folder.version: folder.uses for folder in Scanner().scan(engine, 5.0) if folder.version is not None}
    assert found == {1: set(), 2: {1}, 3: {1, 2}, 4: {1, 2, 3}, 5: set(), 6: set()}
