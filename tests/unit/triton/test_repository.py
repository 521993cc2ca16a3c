"""The files that Baton writes: whole or not at all, and accepted by Triton's own reader."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.toy import engine_config

from baton.errors import BatonError, RepositoryError, Unreadable
from baton.testing import DiskRepository, FakeTriton
from baton.triton import pbtxt, repository
from baton.triton.config_file import write_atomically
from baton.triton.key import Caps, Key, token_file
from baton.triton.repository import ServiceFiles
from baton.verify.device import Placement

CAPS = Caps(weight=50.0, shadow=25.0, lease_s=15.0, contents=False)


@pytest.fixture
def files(tmp_path: Path) -> ServiceFiles:
    root, state = tmp_path / "repository", tmp_path / "state"
    state.mkdir()
    (root / "engine" / "3").mkdir(parents=True)
    (root / "engine" / "4").mkdir()
    (root / "engine" / "config.pbtxt").write_text("# kept\n" + engine_config("engine", [3, 4], rich=True))
    return ServiceFiles(root, "public", "engine", Key(token_file(state, "public"), CAPS))


def again(files: ServiceFiles, caps: Caps = CAPS) -> ServiceFiles:
    """As a control plane that starts again with the same state directory has them."""
    state = files.repository.parent / "state"
    return ServiceFiles(files.repository, "public", "engine", Key(token_file(state, "public"), caps))


def listing(files: ServiceFiles) -> set[str]:
    return {str(p.relative_to(files.repository)) for p in files.repository.rglob("*")}


def test_policy(files):
    assert files.policy() == {3, 4}
    files.set_policy(frozenset({4}))
    assert files.policy() == {4}
    assert (files.engine_dir / "config.pbtxt").read_text().startswith("# kept\n")
    assert listing(files) == {"engine", "engine/3", "engine/4", "engine/config.pbtxt"}, "nothing is left beside"


def test_alias(files):
    assert files.alias() is None
    files.set_alias(3)
    assert files.alias() == 3
    files.set_alias(4)
    assert files.alias() == 4
    assert (files.alias_dir / "3").is_dir(), "a restart in between still finds what the old file named"
    files.tidy_alias()
    assert not (files.alias_dir / "3").exists()
    server = FakeTriton("a", DiskRepository(files.repository))
    server.load("engine", 1.0)
    server.load("public", 1.0)
    assert set(server.index()["public"]) == {4}
    files.set_alias(None)
    assert files.alias() is None
    files.set_alias(None)


def test_the_alias_has_the_tensors_of_its_engine(files):
    files.set_alias(4)
    path = files.alias_dir / "config.pbtxt"
    alias, engine = (pbtxt.parse(p.read_text(), p) for p in (path, files.engine_dir / "config.pbtxt"))
    assert alias.max_batch_size == engine.max_batch_size
    assert [(t.name, t.data_type, list(t.dims), t.optional) for t in alias.input] == [
        (t.name, t.data_type, list(t.dims), t.optional) for t in engine.input
    ]
    assert [t.name for t in alias.output] == [t.name for t in engine.output]
    assert pbtxt.specific_versions(path.read_text(), path) == {4}
    [step] = alias.ensemble_scheduling.step
    assert (step.model_name, step.model_version) == ("engine", 4)
    assert dict(step.input_map) == {t.name: t.name for t in engine.input}
    assert dict(step.output_map) == {name: name for name in ("scores", "model_version", "logits", "tokens")}


@pytest.mark.parametrize("rich", [True, False])
def test_adopting_passes_on_what_the_model_has(files, rich):
    config = pbtxt.parse(files.alias_text_for(engine_config("engine", [3], rich=rich), 3), files.alias_dir)
    further = {"logits", "tokens"} if rich else set()
    assert {tensor.name for tensor in config.output} == {"scores", "model_version"} | further


def test_an_alias_by_way_of_the_splitter(files):
    files.set_alias(3)
    assert not files.split()
    files.set_splitter(3)
    files.set_alias(3, split=True)
    assert (files.alias(), files.split()) == (3, True), "stable is still what the alias stands for"
    path = files.alias_dir / "config.pbtxt"
    config = pbtxt.parse(path.read_text(), path)
    [step] = config.ensemble_scheduling.step
    assert (step.model_name, step.model_version) == ("public_splitter", 1)
    assert pbtxt.specific_versions(path.read_text(), path) == {3}, "answers tell stable's number, as before"
    assert not {"baton_control", "baton_report"} & {t.name for t in (*config.input, *config.output)}
    assert not {"baton_control", "baton_report"} & {*step.input_map, *step.output_map}
    files.set_alias(3)
    assert (files.alias(), files.split()) == (3, False)
    files.set_alias(None)
    assert (files.alias(), files.split()) == (None, False)


def test_the_splitter_has_the_tensors_of_its_engine(files):
    assert files.splitter() is None
    files.set_splitter(4)
    assert files.splitter() == 4
    path = files.splitter_dir / "config.pbtxt"
    splitter, engine = (pbtxt.parse(p.read_text(), p) for p in (path, files.engine_dir / "config.pbtxt"))
    assert (splitter.backend, splitter.max_batch_size) == ("splitter", engine.max_batch_size)
    assert {k: v.string_value for k, v in splitter.parameters.items()} == {
        "engine": "engine",
        "stable": "4",
        "token_sha256": hashlib.sha256(files.token().encode()).hexdigest(),
        "max_weight": "50.0",
        "max_shadow": "25.0",
        "max_lease_s": "15.0",
        "contents": "false",
    }
    tensors = [(t.name, t.data_type, list(t.dims)) for t in engine.input]
    assert [(t.name, t.data_type, list(t.dims)) for t in splitter.input][:-1] == tensors
    assert all(t.optional for t in splitter.input), "a control request holds none of them"
    assert [t.name for t in splitter.output] == [*(t.name for t in engine.output), "baton_report"]
    assert splitter.input[-1].name == "baton_control"


def test_each_splitter_has_a_token_of_its_own_and_its_files_hold_none(files):
    state, tokens = files.repository.parent / "state", set()
    for stable in (3, 4, 3):
        files.set_splitter(stable)
        tokens.add(files.token())
        assert files.keyed()
        [file] = state.iterdir()
        assert (stat.S_IMODE(file.stat().st_mode), file.read_text().strip()) == (0o600, files.token())
        for path in files.repository.rglob("*"):
            assert path.is_dir() or not any(token in path.read_text() for token in tokens), path
    assert len(tokens) == 3
    assert min(map(len, tokens)) == 43, "32 random bytes"


def test_one_who_starts_again_finds_the_token(files):
    files.set_splitter(3)
    other = again(files)
    assert other.token() == files.token()
    assert other.keyed()


def test_a_token_that_was_lost_or_could_be_read_no_longer_fits(files):
    files.set_splitter(3)
    [file] = (files.repository.parent / "state").iterdir()
    for spoil in (file.unlink, lambda: file.chmod(0o640), lambda: file.write_text("")):
        before = files.token()
        spoil()
        files = again(files)
        assert files.token() == ""
        assert not files.keyed()
        files.set_splitter(3)
        assert files.keyed()
        assert files.token() != before


def test_other_caps_no_longer_fit(files):
    files.set_splitter(3)
    for caps in (replace(CAPS, weight=60.0), replace(CAPS, contents=True), replace(CAPS, lease_s=5.0)):
        other = again(files, caps)
        assert not other.keyed()
        other.set_splitter(3)
        assert other.keyed()


def test_a_token_in_clear_of_a_baton_of_before_goes(files):
    files.set_splitter(3)
    config, clear = files.splitter_dir / "config.pbtxt", files.splitter_dir / "1" / "token"
    clear.write_text("0" * 64)
    assert not files.keyed(), "whatever else is right"
    files.set_splitter(3)
    assert files.keyed()
    assert not clear.exists()
    known = ServiceFiles(files.repository, "public", "engine")._splitter_text(files._engine(), 3)
    config.write_text(known)
    assert files.splitter() == 3
    assert not files.keyed(), "it names no hash"


def test_a_file_system_that_is_gone_says_so(files, monkeypatch):
    files.set_splitter(3)

    def gone(_path: Path) -> bool:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(Path, "exists", gone)
    with pytest.raises(Unreadable, match="Stale file handle"):
        files.keyed()


@pytest.mark.parametrize("cut", ["renew", "_splitter_text", "_clear_token"])
def test_whoever_is_killed_while_it_is_written_writes_it_once_more(files, monkeypatch, cut):
    files.set_splitter(3)
    (files.splitter_dir / "1" / "token").write_text("0" * 64)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Key if cut == "renew" else ServiceFiles, cut, killed)
        with pytest.raises(KeyboardInterrupt):
            files.set_splitter(3)
    other = again(files)
    assert not other.keyed()
    other.set_splitter(3)
    assert other.keyed()


def test_the_splitter_s_files_are_taken_away_whole(files):
    before = listing(files)
    files.set_splitter(3)
    files.set_splitter(None)
    assert files.splitter() is None
    assert listing(files) == before
    files.set_splitter(None)


def test_a_full_disk_leaves_no_splitter_by_halves(files, monkeypatch):
    def full(*_args: object, **_where: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", full)
        with pytest.raises(BatonError, match="No space left on device"):
            files.set_splitter(3)
    assert files.splitter() is None
    assert not files.keyed()
    files.set_splitter(3)
    assert files.splitter() == 3


def test_what_is_no_splitter_of_ours_counts_as_none(files):
    files.set_splitter(3)
    (files.splitter_dir / "config.pbtxt").write_text('backend: "splitter"')
    assert files.splitter() is None
    files.set_splitter(3)
    assert files.splitter() == 3


def test_whether_the_engine_batches(files):
    assert files.batches()
    path = files.engine_dir / "config.pbtxt"
    path.write_text(path.read_text().replace("max_batch_size: 8", "max_batch_size: 0"))
    assert not files.batches()
    files.set_splitter(3)
    splitter = files.splitter_dir / "config.pbtxt"
    assert pbtxt.parse(splitter.read_text(), splitter).max_batch_size == 0


def test_an_alias_that_baton_did_not_write(files):
    files.alias_dir.mkdir()
    (files.alias_dir / "config.pbtxt").write_text('platform: "ensemble"')
    with pytest.raises(RepositoryError, match="not an alias that Baton wrote"):
        files.alias()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_keeps_the_old_content(files, monkeypatch, call):
    def full(*_args: object, **_where: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = listing(files)
    with monkeypatch.context() as broken:
        broken.setattr(os, call, full)
        with pytest.raises(RepositoryError, match=r"No space left on device.*The old content stands"):
            files.set_policy(frozenset({4}))
    assert files.policy() == {3, 4}
    assert listing(files) == before
    files.set_policy(frozenset({4}))
    assert files.policy() == {4}


def test_a_reader_never_meets_half_a_file(tmp_path, monkeypatch):
    """At every system call of a write the file holds the old text or the new one."""
    path = tmp_path / "model" / "config.pbtxt"
    path.parent.mkdir()
    write_atomically(path, "old")
    met: list[str] = []
    for module, name in ((os, "fsync"), (repository, "sync_directory")):
        real = getattr(module, name)

        def looking(*args: object, real=real) -> object:
            met.append(path.read_text())
            assert {p.name for p in path.parent.iterdir()} == {"config.pbtxt"}, "Triton counts every entry there"
            return real(*args)

        monkeypatch.setattr(module, name, looking)
    write_atomically(path, "new")
    assert met[0] == "old"
    assert met[-1] == "new"
    assert set(met) <= {"old", "new"}


def test_no_configuration(tmp_path):
    files = ServiceFiles(tmp_path, "public", "engine")
    for call in (files.policy, lambda: files.set_policy(frozenset({1})), lambda: files.set_alias(1)):
        with pytest.raises(RepositoryError, match=r"config\.pbtxt does not exist"):
            call()
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "config.pbtxt").write_bytes("name".encode("utf-16"))
    with pytest.raises(RepositoryError, match=r"zero byte in line 1.*Save it as UTF-8"):
        files.policy()


def test_tidying_takes_nothing_that_somebody_else_put_there(files: ServiceFiles) -> None:
    files.set_alias(3)
    files.set_alias(4)
    for name in ("007", "0", "٣", "²", "+5", "9" * 25, "notes"):
        (files.alias_dir / name).mkdir()
    (files.alias_dir / "5").mkdir()
    (files.alias_dir / "5" / "model.safetensors").write_text("the only copy")
    (files.alias_dir / "6").write_text("a file")
    (files.alias_dir / "8").symlink_to(files.engine_dir / "3")
    before = {entry.name for entry in files.alias_dir.iterdir()}
    files.tidy_alias()
    assert before - {entry.name for entry in files.alias_dir.iterdir()} == {"3"}
    assert (files.alias_dir / "5" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("group", "placement"),
    [
        ("", Placement("any", dtype="bf16", batch_tokens=512)),
        ("kind: KIND_CPU count: 2", Placement("host", count=2, dtype="bf16", batch_tokens=512)),
        ("kind: KIND_AUTO", Placement("any", dtype="bf16", batch_tokens=512)),
        ("kind: KIND_GPU gpus: [ 2, 1 ]", Placement("gpu", (1, 2), dtype="bf16", batch_tokens=512)),
        ("kind: KIND_MODEL", Placement("gpu", (0, 3), divided=True, dtype="bf16", batch_tokens=512)),
    ],
)
def test_where_the_instances_run_is_read_from_the_configuration(tmp_path, group, placement):
    """As NVIDIA's format has it. Not run on a GPU."""
    files = ServiceFiles(tmp_path, "ranker", "engine")
    files.engine_dir.mkdir()
    parameters = "".join(
        f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}\n'
        for name, value in (("dtype", "bf16"), ("max_batch_tokens", "512"), ("devices", "0, 3"))
    )
    instances = f"instance_group [ {{ {group} }} ]\n" if group else ""
    text = "version_policy { specific { versions: [ 1 ] } }\n" + instances + parameters
    (files.engine_dir / "config.pbtxt").write_text(text)
    assert files.placement() == placement
    (files.engine_dir / "config.pbtxt").write_text(text.replace("bf16", "auto").replace("512", ""))
    assert (files.placement().dtype, files.placement().batch_tokens) == (None, None)
