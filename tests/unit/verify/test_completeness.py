from __future__ import annotations

import os
import shutil
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.verify.tiny import edit, files, safetensors, write

from baton.verify.checkpoint import describe
from baton.verify.completeness import missing_parts

WHOLE = files()


def test_a_whole_checkpoint_lacks_nothing(tmp_path):
    assert missing_parts(describe(write(tmp_path / "1"))) == ()
    assert missing_parts(describe(write(tmp_path / "2", sums=True))) == ()
    single = {name: data for name, data in WHOLE.items() if "model" not in name}
    single["model.safetensors"] = safetensors({"embed_tokens.weight": (2, 2)})
    assert missing_parts(describe(write(tmp_path / "3", single))) == ()


@settings(max_examples=min(40, settings.default.max_examples))
@given(order=st.permutations(sorted(WHOLE)), sums=st.booleans())
def test_copied_file_by_file_it_is_complete_only_at_the_end(tmp_path_factory, order, sums):
    folder = tmp_path_factory.mktemp("copy") / "7"
    source = write(tmp_path_factory.mktemp("source"), sums=sums)
    if sums:
        order = ["SHA256SUMS", *order]
    folder.mkdir()
    for name in order:
        assert missing_parts(describe(folder))
        shutil.copy(source / name, folder / name)
    assert missing_parts(describe(folder)) == ()


@settings(max_examples=min(40, settings.default.max_examples))
@given(order=st.permutations(sorted(WHOLE)), data=st.data())
def test_copied_slowly_it_is_complete_only_at_the_last_byte(tmp_path_factory, order, data):
    folder = tmp_path_factory.mktemp("copy") / "7"
    folder.mkdir()
    for name in order:
        content = WHOLE[name]
        cut = data.draw(st.integers(0, len(content) - 1))
        (folder / name).write_bytes(content[:cut])
        assert missing_parts(describe(folder))
        (folder / name).write_bytes(content)
    assert missing_parts(describe(folder)) == ()


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_file_cut_off_anywhere_is_missing(tmp_path, name):
    folder = write(tmp_path / "7")
    for length in range(len(WHOLE[name])):
        (folder / name).write_bytes(WHOLE[name][:length])
        lacks = missing_parts(describe(folder))
        assert any(sentence.startswith(name) for sentence in lacks), (length, lacks)


def test_the_sentences_name_the_figures(tmp_path):
    folder = write(tmp_path / "7")
    shard = "model-00002-of-00002.safetensors"
    whole = len(WHOLE[shard])
    (folder / shard).write_bytes(WHOLE[shard][:-5])
    assert missing_parts(describe(folder)) == (f"{shard}: {whole - 5:,} of {whole:,} bytes",)
    (folder / shard).write_bytes(WHOLE[shard][:9])
    assert missing_parts(describe(folder)) == (f"{shard}: its header is not there yet",)
    (folder / shard).unlink()
    assert missing_parts(describe(folder)) == (f"{shard} is not there yet",)
    (folder / "model.safetensors.index.json").unlink()
    assert missing_parts(describe(folder)) == ("model.safetensors.index.json is not there yet",)


@pytest.mark.parametrize(
    ("name", "lack"),
    [
        ("config.json", "config.json is not there yet"),
        ("tokenizer.json", "tokenizer.json is not there yet"),
        ("tokenizer_config.json", "tokenizer_config.json is not there yet"),
        ("preprocessor_config.json", "preprocessor_config.json is not there yet"),
        ("video_preprocessor_config.json", "video_preprocessor_config.json is not there yet"),
    ],
)
def test_helper_files_are_missed(tmp_path, name, lack):
    folder = write(tmp_path / "7")
    (folder / name).unlink()
    assert missing_parts(describe(folder)) == (lack,)


def test_other_ways_to_bring_a_tokenizer_and_a_processor(tmp_path):
    folder = write(tmp_path / "7")
    (folder / "tokenizer.json").rename(folder / "vocab.json")
    assert missing_parts(describe(folder)) == ("tokenizer.json is not there yet",)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert missing_parts(describe(folder)) == ()
    (folder / "preprocessor_config.json").unlink()
    (folder / "video_preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text('{"image_processor": {}, "video_processor": {}}')
    assert missing_parts(describe(folder)) == ()
    edit(folder, "processor_config.json", video_processor=None)
    assert missing_parts(describe(folder)) == ("video_preprocessor_config.json is not there yet",)


@pytest.mark.parametrize(
    "name",
    [
        ".model-00001-of-00002.safetensors.Xa81Bz", ".config.json.a1b2c3", "model.safetensors.part",
        "model-00001-of-00002.safetensors.6Fb3c2D1", "tokenizer.json.filepart",
    ],
)  # fmt: skip
def test_temporary_names_of_copying_programs(tmp_path, name):
    folder = write(tmp_path / "7")
    (folder / name).write_bytes(b"x")
    (lack,) = missing_parts(describe(folder))
    assert lack.startswith(name)
    assert "temporary name" in lack


def test_ordinary_names_beside_a_checkpoint_are_not_taken_for_temporary(tmp_path):
    folder = write(tmp_path / "7")
    for name in (".gitattributes", "README.md", "LICENSE", "chat_template.jinja", "1_Pooling/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert missing_parts(describe(folder)) == ()


def test_listed_files_are_missed(tmp_path):
    folder = write(tmp_path / "7", sums=True)
    with (folder / "SHA256SUMS").open("a") as file:
        file.write("0" * 64 + "  chat_template.jinja\n")
    assert missing_parts(describe(folder)) == ("chat_template.jinja is listed in SHA256SUMS and not there yet",)
    (folder / "SHA256SUMS").write_text("0" * 30)
    assert missing_parts(describe(folder)) == ("SHA256SUMS ends early",)
    (folder / "SHA256SUMS").write_text("")
    assert missing_parts(describe(folder)) == ("SHA256SUMS is empty so far",)


def test_what_time_does_not_mend_is_not_missing(tmp_path):
    folder = write(tmp_path / "7")
    shard = folder / "model-00001-of-00002.safetensors"
    shard.write_bytes(WHOLE[shard.name] + b"too long")
    assert missing_parts(describe(folder)) == ()
    shard.write_bytes(b"PK\x03\x04" + bytes(4) + b"data.pkl" * 50)
    assert missing_parts(describe(folder)) == ()


def test_one_folder_too_many_is_noticed(tmp_path):
    write(tmp_path / "7" / "checkpoint-500")
    lacks = missing_parts(describe(tmp_path / "7"))
    assert any("one lies in checkpoint-500/" in sentence for sentence in lacks)


def test_odd_folders_do_not_raise(tmp_path):
    assert missing_parts(describe(tmp_path / "gone")) == ("the folder is gone",)
    (tmp_path / "file").write_text("x")
    assert missing_parts(describe(tmp_path / "file"))
    folder = write(tmp_path / "7")
    os.mkfifo(folder / "vocab.json")
    os.mkfifo(folder / "fifo.safetensors")
    (folder / "loop").symlink_to(folder)
    (folder / "added_tokens.json").symlink_to("added_tokens.json")
    (folder / "chat_template.json").symlink_to("/nowhere/at/all")
    lacks = missing_parts(describe(folder))
    assert "added_tokens.json is a link to what is not there" in lacks
    assert "chat_template.json is a link to what is not there" in lacks


def test_a_folder_that_changes_under_it_never_raises(tmp_path):
    folder = tmp_path / "7"
    done = threading.Event()

    def churn():
        for _ in range(60):
            write(folder)
            shutil.rmtree(folder)
        done.set()

    worker = threading.Thread(target=churn)
    worker.start()
    while not done.is_set():
        assert isinstance(missing_parts(describe(folder)), tuple)
    worker.join()
    assert missing_parts(describe(folder))
