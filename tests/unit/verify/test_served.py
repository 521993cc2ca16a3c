"""Folders as people have them: what a checkpoint serves is proved, what lies beside it is named in one line.

Each case is a habit of a tool, an operating system or a person, from public reports, with its one right answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.evidence import rests_on
from tests.unit.verify.tiny import edit, files, safetensors, shards, write

from baton.domain import Verdict
from baton.evidence import IntegrityEvidence
from baton.push import push
from baton.verify.checkpoint import describe
from baton.verify.compatibility import check_compatibility
from baton.verify.completeness import missing_parts
from baton.verify.integrity import check_integrity, manifest
from baton.verify.listing import look
from baton.watch.scan import Scanner

ROOT = Path(__file__).resolve().parents[3]
SHARD = "model-00001-of-00002.safetensors"
PICKLE = b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x04evil."
PROGRAM = b"#!/bin/sh\nrm -rf /\n"
ZIP = b"PK\x03\x04" + bytes(30)

BESIDE: dict[str, dict[str, bytes]] = {
    # How it came here
    "hf download --local-dir": {
        ".cache/huggingface/.gitignore": b"*",
        f".cache/huggingface/download/{SHARD}.metadata": b"0123\nabcd\n1.0\n",
        ".cache/huggingface/download/config.json.lock": b"",
        ".cache/huggingface/download/3f2a.incomplete": b"half",
    },
    "git clone": {
        ".git/HEAD": b"ref: refs/heads/main\n",
        ".git/hooks/pre-commit.sample": PROGRAM,
        ".git/hooks/fsmonitor-watchman.sample": b"#!/usr/bin/perl\n",
        ".git/lfs/objects/ab/cd/abcd": b"\x80\x04",
        ".gitattributes": b"*.safetensors filter=lfs\n",
    },
    "modelscope download": {".msc": PICKLE, ".mv": b"v1", "configuration.json": b"{}", "._____temp/config.json": b"{"},
    "wget -r": {"index.html": b"<!doctype html>", "robots.txt": b"", "index.html.tmp": b""},
    "aws s3 sync that was stopped": {"runs/events.6Fb3c2D1": b"x"},
    "rclone": {"README.md.a1b2c3d4.partial": b"x"},
    "a download of a browser": {"README.md.crdownload": b"x"},
    # What trained it
    "Trainer": {
        "training_args.bin": PICKLE,
        "optimizer.pt": ZIP,
        "scheduler.pt": ZIP,
        "rng_state_0.pth": ZIP,
        "trainer_state.json": b"{}",
        "runs/Nov29/events.out.tfevents.1": b"\x18\0",
    },
    "DeepSpeed": {"global_step500/mp_rank_00_model_states.pt": ZIP, "zero_to_fp32.py": PROGRAM, "latest": b"global_step500"},
    "FSDP": {"pytorch_model_fsdp_0/__0_0.distcp": ZIP, "pytorch_model_fsdp_0/.metadata": PICKLE},
    "accelerate": {"random_states_0.pkl": PICKLE, "sampler.bin": PICKLE},
    "wandb and mlflow": {"wandb/run-1/run.wandb": b":W&B", "MLmodel": b"a: b", "python_env.yaml": b"a: b"},
    "a person": {"run.sh": PROGRAM, "results.xlsx": ZIP, "notes.docx": ZIP, "labels.txt": b"cat\ndog\nhorse\n"},
    "a notebook": {".ipynb_checkpoints/a.ipynb": b"{", "__pycache__/m.cpython-311.pyc": b"\xa7\r\r\n"},
    "earlier checkpoints": {"checkpoint-500/optimizer.pt": ZIP, "checkpoint-500/model.safetensors": b"old"},
    # What else was published with it
    "the same weights in other formats": {
        "pytorch_model.bin": ZIP,
        "tf_model.h5": b"\x89HDF\r\n\x1a\n",
        "flax_model.msgpack": b"\x80",
        "model.onnx": b"\x08\x07",
        "onnx/model_quantized.onnx": b"\x08\x07",
        "model-q4.gguf": b"GGUF",
        "openvino/openvino_model.bin": b"\0",
    },
    "code of the repository": {"modeling_x.py": b"raise SystemExit\n", "scripts/example.py": PROGRAM, "kernel.so": b"\x7fELF"},
    "a model.py of Triton": {"model.py": b"raise SystemExit\n"},
    "sentence-transformers": {"modules.json": b"[]", "1_LogitScore/config.json": b"{}", "config_sentence_transformers.json": b"{}"},
    "shards that an earlier save left": {"model-00003-of-00003.safetensors": safetensors({"t": (2,)})},
    "a LoRA adapter beside the merged model": {"adapter_config.json": b"{}", "adapter_model.safetensors": safetensors({"a": (1,)})},
    "assets and papers": {"README.md": b"#", "LICENSE": b"", "assets/a.png": b"\x89PNG", "paper.pdf": b"%PDF"},
    # What machines leave
    "macOS": {".DS_Store": b"\0\0\0\1Bud1", "._config.json": b"\0\5\x16\7", "__MACOSX/._a": b"\0"},
    "Windows": {"Thumbs.db": b"\xd0\xcf", "desktop.ini": b"[x]", "model:Zone.Identifier": b"[ZoneTransfer]"},
    "editors": {".config.json.swp": b"b0VIM", "config.json~": b"{", "#config.json#": b"{", ".vscode/settings.json": b"{"},
    "NFS and FUSE": {".nfs00000000a1": b"x", ".fuse_hidden0001": b"x", "lost+found/x": b""},
    "a lock": {"config.json.lock": b"", ".lock": b""},
    "names that a terminal would obey": {"evil\x1b[2Jname": b"x", "two\nlines": b"x"},
}  # fmt: skip
"""Files beside a whole checkpoint, by where they come from. Right answer of each: it is served, they are ignored."""


def put(folder: Path, beside: dict[str, bytes]) -> None:
    for name, content in beside.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("habit", BESIDE)
def test_what_lies_beside_a_checkpoint_is_ignored(tmp_path: Path, habit: str) -> None:
    folder = write(tmp_path / "7")
    alone = manifest(describe(folder))
    put(folder, BESIDE[habit])
    assert missing_parts(describe(folder)) == ()
    result = check_integrity(describe(folder))
    assert result.verdict is Verdict.PASS, result.message
    count, size = len(BESIDE[habit]), sum(map(len, BESIDE[habit].values()))
    evidence = rests_on(result, IntegrityEvidence)
    assert (evidence.ignored_files, evidence.ignored_bytes) == (count, size)
    assert f"Ignored: {count} file" in result.message
    assert result.message.isprintable()
    assert check_compatibility(describe(folder), None, architecture=None).verdict is Verdict.PASS
    assert manifest(describe(folder)) == alone


@pytest.mark.parametrize("habit", BESIDE)
def test_push_brings_what_is_served_and_nothing_else(tmp_path: Path, habit: str) -> None:
    source = write(tmp_path / "source")
    put(source, BESIDE[habit])
    (tmp_path / "models" / "engine").mkdir(parents=True)
    folder = push(source, tmp_path / "models", "engine").folder
    assert {path.name for path in folder.iterdir()} == {*files(), "SHA256SUMS"} - {"README.md"}


def test_what_is_ignored_stays_in_the_fingerprint(tmp_path: Path) -> None:
    """Triton loads a version anew for any file under it."""
    folder = write(tmp_path / "7")
    before = look(folder).fingerprint
    (folder / "notes.txt").write_text("x")
    assert look(folder).fingerprint != before


def test_sums_over_everything(tmp_path: Path) -> None:
    """`find . -type f | xargs sha256sum > SHA256SUMS` in a clone names files that push does not copy."""
    source = write(tmp_path / "source")
    put(source, BESIDE["git clone"] | BESIDE["Trainer"])
    every = [path for path in source.rglob("*") if path.is_file()]
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  ./{p.relative_to(source)}\n" for p in every]
    (source / "SHA256SUMS").write_text("".join(lines))
    assert missing_parts(describe(source)) == ()
    result = check_integrity(describe(source))
    assert result.verdict is Verdict.PASS
    assert f"Of SHA256SUMS {len(BESIDE['git clone'] | BESIDE['Trainer'])} lines name files" in result.message
    (tmp_path / "models" / "engine").mkdir(parents=True)
    pushed = push(source, tmp_path / "models", "engine").folder
    assert check_integrity(describe(pushed)).verdict is Verdict.PASS
    (pushed / SHARD).write_bytes(files(fill=1)[SHARD])
    assert check_integrity(describe(pushed)).verdict is Verdict.FAIL


def test_a_shard_whose_header_is_as_long_as_a_pickle_begins(tmp_path: Path) -> None:
    """1,152 bytes: the file begins with 80 04, as pickles of protocol 4 do."""
    folder = write(tmp_path / "7")
    content = files()[SHARD]
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].ljust(1152)
    (folder / SHARD).write_bytes(struct.pack("<Q", 1152) + header + content[8 + length :])
    assert (folder / SHARD).read_bytes()[:2] == b"\x80\x04"
    assert check_integrity(describe(folder)).verdict is Verdict.PASS


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n"
REFUSED: dict[str, tuple[dict[str, bytes | None], str]] = {
    "a clone without git lfs, weights": ({SHARD: LFS}, f"{SHARD} can't be used: it is a Git LFS pointer"),
    "a clone without git lfs, tokenizer": ({"tokenizer.json": LFS}, "run `git lfs pull`"),
    "an error page saved as weights": ({SHARD: b"<!DOCTYPE html><p>404"}, "web page, perhaps the error of a download"),
    "a pickle renamed": ({SHARD: PICKLE + bytes(100)}, "it is a pickle by its content"),
    "a zip renamed": ({SHARD: ZIP + bytes(100)}, "it is a zip file by its content"),
    "an executable template": ({"chat_template.jinja": b"\x7fELF"}, "it is a program by its content"),
    "settings that name code": ({"config.json": b'{"auto_map": {"AutoModel": "x.Y"}}'}, "names code to import"),
    "half of a series": ({"model-00002-of-00002.safetensors": None}, "model-00002-of-00002.safetensors is not there"),
    "two sets of weights": ({"model.safetensors": safetensors({"w": (1,)})}, "can't tell which weights are meant"),
    "pickles alone": (
        {**dict.fromkeys(shards()), "model.safetensors.index.json": None, "pytorch_model.bin": ZIP},
        "pytorch_model.bin is a pickle, which runs code when it is read: save the model as safetensors",
    ),
    "an adapter alone": (
        {**dict.fromkeys(shards()), "model.safetensors.index.json": None, "adapter_config.json": b"{}"},
        "adapter_config.json belongs to a LoRA adapter: merge it into its base model",
    ),
    "a GGUF file alone": (
        {**dict.fromkeys(shards()), "model.safetensors.index.json": None, "model-q4.gguf": b"GGUF"},
        "model-q4.gguf is of another format",
    ),
}
"""What is wrong with the served files themselves, by how it came about, and what is said of it."""


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_served_is_judged(tmp_path: Path, case: str) -> None:
    folder = write(tmp_path / "7")
    changes, words = REFUSED[case]
    for name, content in changes.items():
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
    result = check_integrity(describe(folder))
    assert result.verdict is Verdict.FAIL
    assert words in result.message


def test_a_folder_of_pickles_is_refused_after_a_while_and_not_waited_for_for_ever(tmp_path: Path) -> None:
    folder = write(tmp_path / "models" / "7")
    for name in (*shards(), "model.safetensors.index.json"):
        (folder / name).unlink()
    (folder / "pytorch_model.bin").write_bytes(ZIP)
    (found,) = Scanner().scan(tmp_path / "models", 0.0)
    assert found.cut
    assert "save the model as safetensors" in found.missing[0]


def test_a_snapshot_of_the_hugging_face_cache_is_served_where_it_lies(tmp_path: Path) -> None:
    """docs/reference/engine.md: a version may be a link to one. Its files are links to blobs, which are named by their hash."""
    hub = tmp_path / "hub" / "models--org--name"
    snapshot = hub / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for name, content in files().items():
        digest = hashlib.sha256(content).hexdigest()
        (hub / "blobs" / digest).write_bytes(content)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    (tmp_path / "models").mkdir()
    version = tmp_path / "models" / "7"
    version.symlink_to(snapshot)
    assert missing_parts(describe(version)) == ()
    assert check_integrity(describe(version)).verdict is Verdict.PASS
    (snapshot / "merges.txt").symlink_to("/etc/hostname")
    assert "merges.txt is a link that leads out of the folder" in check_integrity(describe(version)).message


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to become somebody else")
def test_files_of_another_user_are_named_with_the_rights_that_they_need() -> None:
    """safetensors 0.8 writes shards with mode 0600."""
    with tempfile.TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        folder = write(Path(open_to_all) / "7")
        (folder / SHARD).chmod(0o600)
        told = as_nobody(lambda: check_integrity(describe(folder)).message)
    assert f"{SHARD} can't be opened: Permission denied" in told
    assert "Give user nobody, who runs Baton, and the user who runs Triton the right to read it: chmod a+r" in told
    assert "remove" not in told


def as_nobody(ask: Callable[[], str]) -> str:
    """What ``ask`` says in a child process of that user."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            os.write(into, ask().encode())
        finally:
            os._exit(0)
    os.close(into)
    with os.fdopen(out) as reader:
        told = reader.read()
    os.waitpid(child, 0)
    return told


TRACED = """
import sys
from pathlib import Path
opened = []
folder = Path(sys.argv[1]).resolve()
def note(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        import os
        opened.append(os.fsdecode(args[0]))
sys.addaudithook(note)
sys.path.insert(0, sys.argv[2])
from reranker_engine.inference.scorer import Scorer, ScorerSettings
Scorer(folder, ScorerSettings())
for name in sorted({Path(o).name for o in opened if Path(o).parent == folder}):
    print(name)
"""


def test_the_engine_opens_nothing_that_is_ignored(tmp_path: Path) -> None:
    """Of the demo's checkpoint with all of the above beside it, watched while the real engine loads it."""
    folder = tmp_path / "7"
    folder.mkdir()
    for path in (ROOT / "demo" / "checkpoints" / "base").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for habit, beside in BESIDE.items():
        if "shards" not in habit:
            put(folder, {name: content for name, content in beside.items() if not (folder / name).exists()})
    done = subprocess.run(
        [sys.executable, "-c", TRACED, str(folder), str(ROOT / "python_backend" / "qwen3_vl_reranker")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    opened = set(done.stdout.split())
    assert {"config.json", "tokenizer.json"} <= opened
    assert opened <= set(manifest(describe(folder)))


def test_settings_of_sub_models_are_not_ours(tmp_path: Path) -> None:
    folder = write(tmp_path / "7")
    put(folder, {"vae/config.json": json.dumps({"auto_map": {"a": "b"}}).encode()})
    assert check_integrity(describe(folder)).verdict is Verdict.PASS
    edit(folder, "config.json", auto_map={"a": "b"})
    assert check_integrity(describe(folder)).verdict is Verdict.FAIL
