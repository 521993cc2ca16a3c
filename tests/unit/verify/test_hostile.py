"""Checkpoints that mean harm are refused from their files alone, before Triton sees them."""

from __future__ import annotations

import json
import os
import pickle
import socket
import struct
import zipfile

import pytest
from tests.support.evidence import rests_on
from tests.unit.engine.tokenizers import PUBLISHED
from tests.unit.verify.tiny import edit, header_of, safetensors, tokenizer, write

from baton.domain import Release, Verdict
from baton.errors import CheckpointError
from baton.evidence import IntegrityEvidence
from baton.verify.checkpoint import describe, read_meta
from baton.verify.compatibility import check_compatibility
from baton.verify.completeness import missing_parts
from baton.verify.integrity import check_integrity
from baton.verify.patterns import pattern_problem, pipeline_problems
from baton.watch.scan import Scanner

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "models" / "2")


def refused(folder, words):
    """Refused by the gate, with a sentence that can be printed; and the watch outlives it."""
    result = check_integrity(describe(folder))
    assert result.verdict is Verdict.FAIL, result
    assert words in result.message
    assert result.message.isprintable()
    missing_parts(describe(folder))
    for entry in Scanner().scan(folder.parent, 0.0):
        assert all(text.isprintable() for text in (entry.problem or "", *entry.missing))


class Evil:
    def __reduce__(self):
        return (os.system, ("touch /tmp/owned",))


def zipped(tmp_path):
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil()))
    return (tmp_path / "z").read_bytes()


@pytest.mark.parametrize("name", ["merges.txt", "spiece.model", "chat_template.jinja"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_another_name(folder, name, protocol):
    (folder / name).write_bytes(pickle.dumps(Evil(), protocol))
    refused(folder, f"{name} is not what its name says: it is a pickle by its content, which runs code when it is read")


def test_a_pickle_as_weights(folder, tmp_path):
    (folder / SHARD).write_bytes(pickle.dumps(Evil()) + bytes(100))
    refused(folder, f"{SHARD} can't be used: it is a pickle by its content")
    (folder / SHARD).write_bytes(zipped(tmp_path))
    refused(folder, f"{SHARD} can't be used: it is a zip file by its content, as PyTorch's pickles are")


@pytest.mark.parametrize(("head", "words"), [
    (b"\x7fELF\x02\x01\x01", "is a program"), (b"MZ\x90\0\3", "is a program"), (b"#!/bin/sh\n", "is a program"),
    (b"\x93NUMPY\x01\0v\0", "is a NumPy or HDF5 file"), (b"\x89HDF\r\n\x1a\n", "is a NumPy or HDF5 file"),
])  # fmt: skip
def test_programs_and_archives_under_another_name(folder, head, words):
    (folder / "merges.txt").write_bytes(head + bytes(500))
    refused(folder, f"merges.txt is not what its name says: it {words}")


def test_merges_begin_as_a_comment(folder):
    (folder / "merges.txt").write_text("#version: 0.2\nc d\n")
    assert check_integrity(describe(folder)).verdict is Verdict.PASS


@pytest.mark.parametrize("name", ["evil\x1b[2Jname", "two\nlines", "bell\a", "\u202egnp.exe", "null\u0085", "\u2066a"])
def test_names_that_a_terminal_would_obey(folder, name):
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    named = {tensor: f"{name}.safetensors" if file == SHARD else file for tensor, file in index.items()}
    edit(folder, "model.safetensors.index.json", weight_map=named)
    (folder / SHARD).rename(folder / f"{name}.safetensors")
    refused(folder, "has control characters or broken encoding in its name")


@pytest.mark.parametrize("name", [b"evil\x1b[2Jname", b"two\nlines", b"\xff\xfe.txt"])
def test_such_names_of_files_that_are_not_served_are_never_printed(folder, name):
    with open(os.fsencode(folder) + b"/" + name, "wb"):  # noqa: PTH123 - a name of bytes
        pass
    result = check_integrity(describe(folder))
    assert result.verdict is Verdict.PASS
    assert result.message.isprintable()
    assert rests_on(result, IntegrityEvidence).ignored_files == 1


def test_folders_beside_the_versions_may_be_called_anything(tmp_path):
    for name in (b"\x1b]0;owned\x07", b"1\n2", b"\xff", "\u202e1".encode()):
        os.mkdir(os.fsencode(tmp_path) + b"/" + name)  # noqa: PTH102 - a name of bytes
    found = Scanner().scan(tmp_path, 0.0)
    assert len(found) == 4
    assert all(entry.version is None and entry.problem and entry.problem.isprintable() for entry in found)


@pytest.mark.parametrize("target", ["/etc", "/etc/passwd", "../..", "../../secret", "there", "/dev/zero", "/proc/self"])
def test_links_that_leave_the_folder(folder, target):
    (folder.parent.parent / "secret").write_text("secret")
    (folder / "there").symlink_to("/etc/hostname")  # a link to a link
    (folder / "chat_template.jinja").symlink_to(target)
    refused(folder, "is a link that leads out of the folder")


def test_what_is_no_file(folder):
    os.mkfifo(folder / "vocab.json")
    refused(folder, "vocab.json is a fifo: put the file itself in its place")
    (folder / "vocab.json").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{here}/vocab.json")
        os.close(here)
        refused(folder, "vocab.json is a socket: put the file itself in its place")


def test_folders_in_folders_without_end(folder):
    deep = folder
    for _ in range(1500):  # deeper than the interpreter's stack
        deep = deep / "d"
        deep.mkdir()
    refused(folder, "lies more than 32 folders deep")
    for _ in range(1500):
        deep.rmdir()
        deep = deep.parent


def test_a_hundred_thousand_files(folder):
    for number in range(10_050):
        (folder / f"{number}.txt").touch()
    refused(folder, "holds more than 10,000 files")


def header(text, size=0):
    return struct.pack("<Q", len(text)) + text + bytes(size)


def one(**changes):
    return json.dumps({"t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}).encode()


BYTE = b'{"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}'
TWINS = b'{"t": ' + BYTE + b', "t": ' + BYTE + b"}"


@pytest.mark.parametrize(("content", "words"), [
    (header(one(shape=[2**40], data_offsets=[0, 2**42])), "bytes are missing"),
    (header(one(shape=[2**62, 2**62], data_offsets=[0, 16]), 16), "larger than any memory"),
    (header(one(shape=[2**32] * 60), 16), "larger than any memory"),
    (header(one(shape=[0] * 65), 16), "no list of whole numbers"),
    (header(one(shape=[-2, -2]), 16), "no list of whole numbers"),
    (header(one(shape=[2.0, 2]), 16), "no list of whole numbers"),
    (header(one(shape=[True, 4]), 16), "no list of whole numbers"),
    (header(one(data_offsets=[16, 0]), 16), "spans"),
    (header(one(data_offsets=[-16, 0]), 16), "not two whole numbers"),
    (header(one(data_offsets=[8, 24]), 24), "leaves a gap"),
    (header(one(dtype="\x1b[2J"), 16), "unknown type"),
    (header(TWINS, 1), "the key 't' stands twice"),
    (header(b'{"a": ' + b"[" * 100_000), "recursion"),
    (header(b'{"a":' * 100_000), "recursion"),
    (header(b'{"t": ' + b"9" * 100_000 + b"}"), "not valid JSON"),
    (header(b"{\xff" * 10), "not UTF-8"),
    (header(b"[]"), "has no JSON header"),
    (struct.pack("<Q", 2**63) + b"{}", "at most 16,777,216 are allowed"),
    (struct.pack("<Q", 100_000_000) + b"{}", "at most 16,777,216 are allowed"),
])  # fmt: skip
def test_headers_that_lie(tmp_path, content, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        header_of(path)
    assert str(caught.value).isprintable()


def test_terabytes_that_are_not_there(folder):
    """The header and the size of a sparse file agree; nothing is read of it but the header."""
    text = one(shape=[2**38], data_offsets=[0, 2**40])
    with (folder / "model-00003-of-00003.safetensors").open("wb") as file:
        file.write(header(text))
        file.truncate(len(text) + 8 + 2**40)
    result = check_integrity(describe(folder))
    assert (result.verdict, rests_on(result, IntegrityEvidence).ignored_bytes) == (Verdict.PASS, len(text) + 8 + 2**40)


def test_settings_of_megabytes(folder):
    with (folder / "config.json").open("ab") as file:
        file.truncate(5 << 20)
    refused(folder, "config.json is 5,242,880 bytes; such a file is 4,194,304 bytes at most")


def test_tokenizers_too_large_to_read(folder):
    with (folder / "tokenizer.json").open("ab") as file:
        file.truncate(100 << 20)
    refused(folder, "tokenizer.json is 104,857,600 bytes; such a file is 67,108,864 bytes at most")


@pytest.mark.parametrize("key", ["auto_map", "custom_pipelines"])
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_code_by_name(folder, file, key):
    edit(folder, file, inner={key: {"AutoModel": "evil.Model"}})
    refused(folder, f"{file} has the key '{key}', which names code to import")


@pytest.mark.parametrize("depth", [400, 700, 800])
def test_settings_nested_as_deeply_as_can_be_parsed(folder, depth):
    for name, key in (("config.json", "auto_map"), ("tokenizer.json", "Regex")):
        text = (folder / name).read_text()
        nested = "[" * depth + f'{{"{key}": "(a+)+$"}}' + "]" * depth
        (folder / name).write_text(f'{text[:-1]}, "normalizer": {nested}}}')
    refused(folder, "config.json has the key 'auto_map'")
    message = check_compatibility(describe(folder), None, architecture=None).message
    assert "tokenizer.json: the normalizer has the pattern" in message


@pytest.mark.parametrize(("changes", "words"), [
    ({"text_config": {"hidden_size": 10**9}}, "text_config.hidden_size 1000000000: no model is that large"),
    ({"intermediate_size": 10**12}, "intermediate_size 1000000000000: no model is that large"),
    ({"vision_config": {"depth": 1, "num_position_embeddings": 10**18}}, "vision_config.num_position_embeddings"),
    ({"negative": -(10**9)}, "negative -1000000000"),
    ({"vision_config": {"depth": 1, "deepstack_visual_indexes": [0] * 10_001}}, "with 10,001 elements"),
    ({"architectures": ["\x1b[2JBert"]}, "\\x1b[2JBert"),
    ({"architectures": None, "model_type": "\x1b]0;x\x07"}, "\\x1b]0;x"),
])  # fmt: skip
def test_settings_that_no_model_has(folder, changes, words):
    edit(folder, "config.json", **changes)
    result = check_compatibility(describe(folder), None, architecture="Qwen3VLForConditionalGeneration")
    assert result.verdict is Verdict.FAIL
    assert words in result.message
    assert result.message.isprintable()


CATASTROPHES = [
    r"(a+)+$", r"(a*)*b", r"(?:a+)*", r"(?i:a+){2,}", r"(a|a)*", r"(a|aa)+$", r"([a-z]+)*\d", r"(.*a){1000}", r"((ab)*)*",
    r"(?:(?:a+)?b?)+", r"(a)\1+", r"(?<x>a)\k<x>", r"(?R)?", r"\g<0>", "a" * 3000, r"[[a]+](x+)+", r"[]](x+)+", r"\((x+)+",
    # Repeats with an end multiply.
    r"(z+){1,999}[qQ]", r"(z{1,30}){1,30}[qQ]", r"((z{1,9}){1,9}){1,9}q", r"(z+){2}[qQ]", r"(?:z|z){1,20}q", r"(z?){1,30}q",
    r"(a{999}){999}", r"((a{90}){90}){90}", r"(?=(z{1,30}){1,30}q)", r"(?<!(z{1,3}){1,9})q", r"(?i:(z+){2,9})",
    # A repeat may stand on a repeat.
    r"z+{1,999}[qQ]", r"z{1,30}{1,30}[qQ]", r"z{1,5}+[qQ]", r"z{1,5}*", r"z+?{2,99}q", r"z++{1,99}q", r"z{,30}{,30}q",
    # What would hide the rest from who looks at it.
    r"(?#[)(z+)+[qQ]", "(?x)# [\n(z+)+", r"(?ix: [ ](z+)+)", r"\c[(z+)+[qQ]]", r"\C-[(z+)+[qQ]]", r"\M-[(z+)+[qQ]]",
    r"(?{[})(z+)+[qQ]", r"(*FAIL[[])(z+)+", r"[[:x](z+)+[qQ]]", r"[z",
]  # fmt: skip


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_patterns_that_never_end(folder, pattern):
    assert pattern_problem(pattern)
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    table = tokenizer() | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split]}}
    (folder / "tokenizer.json").write_text(json.dumps(table))
    result = check_compatibility(describe(folder), None, architecture=None)
    assert result.verdict is Verdict.FAIL
    assert "tokenizer.json: the pre_tokenizer has the pattern" in result.message
    assert result.message.isprintable()


@pytest.mark.parametrize("pattern", [
    *PUBLISHED, r"(?:\r?\n)+", r"(?:\p{N}{3})+", r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))", r"(?:[[:alpha:]]{1,4} ){1,3}",
    r"\p{Han}+|[\p{Lu}\p{M}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+(?i:'s|'t)?", r"\x{1F600}{1,9}", r"\{(?:a|b)\}", r"a{1,999}",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s",
])  # fmt: skip
def test_patterns_of_published_tokenizers(pattern):
    assert pattern_problem(pattern) is None


def test_a_part_that_serves_already_is_taken_as_it_is(folder, tmp_path):
    table = tokenizer() | {"normalizer": {"type": "Replace", "pattern": {"Regex": "(a|b)+"}, "content": "x"}}
    stable = write(tmp_path / "models" / "1")
    for one_of_both in (folder, stable):
        (one_of_both / "tokenizer.json").write_text(json.dumps(table))
    assert check_compatibility(describe(folder), None, architecture=None).verdict is Verdict.FAIL
    assert (
        check_compatibility(describe(folder), describe(stable), architecture=None, release=Release.EQUIVALENT).verdict
        is Verdict.PASS
    )


def test_replacements_that_grow():
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    chain = {"normalizer": {"type": "Sequence", "normalizers": [double] * 30}}
    assert list(pipeline_problems(chain, {})) == [
        "its replacements may make a text 1,073,741,824 times as long; at most 16 is allowed"
    ]
    space = {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}}
    assert list(pipeline_problems(space, {})) == []


@pytest.mark.parametrize("text", [
    'label = "\\u001b[2J"', 'notes = "\\u0007"', '[metrics]\nndcg = "\\u001b]0;x"', '[metrics]\n"\\u202e" = 1',
    "[metrics]\nndcg = nan", 'trained_at = "\\u009b2J"', "label = " + "[" * 10_000, f"[metrics]\nn = {10**100}",
    f"[metrics]\nn = {'9' * 5000}", "a.b.c = 1", "\x00",
])  # fmt: skip
def test_what_a_version_says_of_itself(folder, text):
    (folder / "version.toml").write_text(text)
    with pytest.raises(CheckpointError, match=r"version\.toml"):
        read_meta(folder)
    refused(folder, "version.toml")


def test_a_file_of_gigabytes_without_weights(folder):
    (folder / "x.safetensors").write_bytes(safetensors({"t": (2,)}))
    with (folder / "SHA256SUMS").open("wb") as file:
        file.truncate(1 << 30)
    refused(folder, "SHA256SUMS is 1,073,741,824 bytes")


def test_ten_thousand_large_texts(folder):
    for name in ("vocab", "tekken", "added_tokens", "special_tokens_map", "chat_template"):
        with (folder / f"{name}.json").open("wb") as file:
            file.truncate(60 << 20)
    words = "Its JSON files are 300.0 MiB together; at most 256.0 MiB are allowed."
    refused(folder, words)
    assert missing_parts(describe(folder)) == (words,)
    assert words in check_compatibility(describe(folder), None, architecture=None).message
