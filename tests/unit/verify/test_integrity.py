from __future__ import annotations

import hashlib
import json
import os

import pytest
from tests.support.evidence import rests_on
from tests.unit.verify.tiny import edit, files, safetensors, shards, write

from baton.domain import Verdict
from baton.errors import CheckpointError, Refused
from baton.evidence import IntegrityEvidence
from baton.verify.checkpoint import describe
from baton.verify.integrity import check_integrity, manifest

SHARD = "model-00001-of-00002.safetensors"


def refused(folder):
    result = check_integrity(describe(folder))
    assert result.verdict is Verdict.FAIL, result
    assert result.observed == len(rests_on(result, IntegrityEvidence).problems)
    return result.message


def test_a_whole_checkpoint_passes_and_says_what_it_rests_on(tmp_path):
    result = check_integrity(describe(write(tmp_path / "1")))
    assert result.verdict is Verdict.PASS
    assert "no SHA256SUMS" in result.message
    assert rests_on(result, IntegrityEvidence).tensors == 4
    result = check_integrity(describe(write(tmp_path / "2", sums=True)))
    hashed = sum(map(len, files().values()))
    assert result.verdict is Verdict.PASS
    assert rests_on(result, IntegrityEvidence).hashed_bytes == hashed
    assert f"{hashed:,} bytes of 8 files match SHA256SUMS" in result.message


def test_cut_off_and_too_long(tmp_path):
    folder = write(tmp_path / "1")
    whole = files()[SHARD]
    (folder / SHARD).write_bytes(whole[:-10])
    message = refused(folder)
    assert f"{SHARD} is {len(whole) - 10:,} bytes, its header promises {len(whole):,}: 10 bytes are missing" in message
    assert message.count(SHARD) == 1
    (folder / SHARD).write_bytes(whole + bytes(3))
    assert "3 bytes are too many" in refused(folder)


def test_a_hash_that_does_not_match(tmp_path):
    folder = write(tmp_path / "1", sums=True)
    (folder / SHARD).write_bytes(files(fill=1)[SHARD])
    assert f"{SHARD} ({len(files()[SHARD]):,} bytes) has SHA-256" in refused(folder)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("nonsense\n", "SHA256SUMS, line 9"),
        ("0" * 64 + "  ../secret\n", "outside the folder"),
        ("0" * 64 + "  /etc/passwd\n", "outside the folder"),
    ],
)
def test_sums_that_can_not_be_followed(tmp_path, line, words):
    folder = write(tmp_path / "1", sums=True)
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(line)
    assert words in refused(folder)


def test_sums_as_the_coreutils_write_them(tmp_path):
    folder = write(tmp_path / "1")
    digest = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(
        f"# a comment\n\n{'0' * 64}  SHA256SUMS\n{digest.upper()} *./config.json\r\n\\{digest}  back\\\\slash\n"
    )
    result = check_integrity(describe(folder))
    assert result.verdict is Verdict.PASS, result
    assert rests_on(result, IntegrityEvidence).hashed_files == 1
    assert "Of SHA256SUMS 1 lines name files that are not served, and were not checked." in result.message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_settings_that_name_code_are_refused(tmp_path, name):
    folder = write(tmp_path / "1")
    edit(folder, name, auto_map={"AutoModel": "modeling_x.Model"})
    assert f"{name} has the key 'auto_map'" in refused(folder)


def test_settings_that_name_code_deep_inside_are_refused(tmp_path):
    folder = write(tmp_path / "1")
    edit(folder, "config.json", parts=[{"inner": {"auto_map": {"AutoConfig": "x"}}}])
    assert "auto_map" in refused(folder)


def test_the_word_in_a_vocabulary_is_a_token(tmp_path):
    folder = write(tmp_path / "1")
    table = json.loads((folder / "tokenizer.json").read_text())
    table["model"]["vocab"]["auto_map"] = 3
    (folder / "tokenizer.json").write_text(json.dumps(table))
    assert check_integrity(describe(folder)).verdict is Verdict.PASS


def test_index_and_shards_must_agree(tmp_path):
    folder = write(tmp_path / "1")
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    first = next(iter(index))
    edit(folder, "model.safetensors.index.json", weight_map=index | {"ghost": SHARD})
    assert f"tensor 'ghost' is in {SHARD}, and it is not" in refused(folder)
    edit(folder, "model.safetensors.index.json", weight_map={key: index[key] for key in index if key != first})
    assert f"{SHARD} holds tensor {first!r}; model.safetensors.index.json does not know it" in refused(folder)
    edit(folder, "model.safetensors.index.json", weight_map=index | {first: "../outside.safetensors"})
    assert "not the name of a safetensors file beside it" in refused(folder)
    edit(folder, "model.safetensors.index.json", weight_map=[])
    assert "no weight_map" in refused(folder)


def test_weights_that_can_be_read_in_two_ways(tmp_path):
    folder = write(tmp_path / "1")
    (folder / "model.safetensors").write_bytes(safetensors({"w": (1,)}))
    assert "both there" in refused(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00003.safetensors")
    assert check_integrity(describe(folder)).verdict is Verdict.PASS  # the index does not name it, so it is not served


def test_missing_files_are_named(tmp_path):
    folder = write(tmp_path / "1")
    (folder / "model-00002-of-00002.safetensors").unlink()
    (folder / "tokenizer.json").unlink()
    message = refused(folder)
    assert "model-00002-of-00002.safetensors is not there" in message
    assert "tokenizer.json is not there" in message
    assert "the folder is gone" in refused(tmp_path / "gone")


def test_links_inside_are_followed_and_links_out_are_refused(tmp_path):
    folder = write(tmp_path / "1")
    (folder / SHARD).rename(folder / "blob")
    (folder / SHARD).symlink_to("blob")
    assert check_integrity(describe(folder)).verdict is Verdict.PASS
    (folder / "blob").rename(tmp_path / "blob")
    (folder / SHARD).unlink()
    (folder / SHARD).symlink_to("../blob")
    assert f"{SHARD} is a link that leads out of the folder" in refused(folder)
    link = tmp_path / "2"
    link.symlink_to(write(tmp_path / "elsewhere"))
    assert check_integrity(describe(link)).verdict is Verdict.PASS


def test_odd_entries_are_refused(tmp_path):
    folder = write(tmp_path / "1")
    os.mkfifo(folder / "vocab.json")
    assert "vocab.json is a fifo" in refused(folder)
    (folder / "vocab.json").unlink()
    (folder / "vocab.json").mkdir()
    assert "vocab.json is a folder" in refused(folder)


def test_broken_texts_are_named(tmp_path):
    folder = write(tmp_path / "1")
    (folder / "config.json").write_text('{"a": nonsense, "b": "' + "x" * 100 + '"}')
    assert "config.json is not valid JSON" in refused(folder)
    write(folder)
    (folder / "version.toml").write_text('lable = "x"\n')
    assert "the key 'lable' is unknown" in refused(folder)


def test_progress_and_cancel(tmp_path):
    folder = write(tmp_path / "1", sums=True)
    seen = []
    check_integrity(describe(folder), progress=lambda done, total: seen.append((done, total)))
    total = sum(map(len, files().values()))
    assert seen[-1] == (total, total)
    assert check_integrity(describe(folder), cancelled=lambda: True).verdict is Verdict.HOLD
    seen.clear()
    table = manifest(describe(folder), progress=lambda done, total: seen.append((done, total)))
    assert table[SHARD] == hashlib.sha256(files()[SHARD]).hexdigest()
    assert set(table) == set(files())
    with pytest.raises(Refused):
        manifest(describe(folder), cancelled=lambda: True)


def test_a_manifest_of_what_can_not_be_read(tmp_path):
    assert manifest(describe(tmp_path / "gone")) == {}
    folder = write(tmp_path / "1")
    assert len(manifest(describe(folder))) == len(files()) == len(shards()) + 6
    with pytest.raises(CheckpointError):
        check_and_raise(folder)


def check_and_raise(folder):
    def vanish(done, total):
        for path in folder.iterdir():
            path.unlink()

    manifest(describe(folder), progress=vanish)
