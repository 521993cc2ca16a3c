"""Every kind of bad input, under traffic: what is said about it, and that what serves is not touched.

``docs/reference/bad-input.md`` tells the same in sentences.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage
from tritonclient.utils import InferenceServerException

from baton.app import App
from baton.client import InvalidInput, Reranker
from baton.errors import Refused
from baton.reasons import Reason, because
from baton.verify.names import is_number

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ME = "tester"
SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One Triton for the module, on which version 1 serves; no test of this module may change that."""
    with stage(tmp_path_factory.mktemp("bad")) as made:
        with made.control():
            made.drop(1)
            made.wait_live(1)
        yield made


@contextlib.contextmanager
def untouched(st: Stage, live: int = 1) -> Iterator[Traffic]:
    """Traffic that must not notice anything: no error, no other version, no second load of the live one."""
    before = st.loads()
    with Traffic(st, clients=2) as traffic:
        yield traffic
        traffic.wait_answers(live, 5)
    assert traffic.errors == []
    assert set(traffic.versions) == {live}
    assert (st.loads() - before)[live] == 0, "the live version was loaded again"
    assert st.policy() == {live}


def make(st: Stage) -> tuple[int, Path]:
    """A number and a healthy checkpoint for it, not yet dropped."""
    numbers = [int(e.name.split("-")[1]) for e in (st.root / "made").iterdir()] if (st.root / "made").is_dir() else []
    numbers += [int(e.name) for e in st.engine_dir().iterdir() if is_number(e.name) and len(e.name) < 10]
    version = max(numbers) + 1
    return version, st.make(version)


def states(app: App) -> dict[str, str]:
    return {str(v.version or v.label): v.state for v in app.versions()}


# The folder


def test_copied_slowly_file_by_file_in_any_order(st: Stage) -> None:
    version, made = make(st)
    files = sorted(made.iterdir())
    random.Random(3).shuffle(files)
    before = st.loads()
    with st.control(stuck_after="1500ms", cut_after="10m", promotion="manual") as app, untouched(st):
        target = st.engine_dir() / str(version)
        target.mkdir()
        stuck = False
        for file in files:
            until(lambda: states(app).get(str(version)) == "incoming", "incoming")
            reason = until(lambda: st.version(version)["reason"], "a reason")
            assert reason.startswith("lacks ") or reason == "changed a moment ago"
            if file.suffix == ".safetensors":
                whole = file.read_bytes()
                (target / file.name).write_bytes(whole[: len(whole) // 2])
                if not stuck:
                    assert st.wait_why(Reason.ARRIVAL_STUCK).figures["version"] == version
                    stuck = True
                with (target / file.name).open("ab") as end:
                    end.write(whole[len(whole) // 2 :])
            else:
                shutil.copy(file, target)
            assert st.loads() == before, "nothing of a folder that is not whole is loaded"
        st.wait_phase("waiting")  # whole at last: it has passed its gates
        app.abort(None, who=ME)
        st.wait_live(1)


def truncate(folder: Path) -> None:
    file = folder / SHARD
    file.write_bytes(file.read_bytes()[:-10])


def lengthen(folder: Path) -> None:
    with (folder / SHARD).open("ab") as file:
        file.write(b"\0" * 10)


def break_header(folder: Path) -> None:
    file = folder / SHARD
    content = file.read_bytes()
    file.write_bytes(content[:8] + b"X" + content[9:])


def wrong_sum(folder: Path) -> None:
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in sorted(folder.iterdir())]
    (folder / "SHA256SUMS").write_text("".join(lines))
    content = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def other_architecture(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def pickles_alone(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")


def with_code(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling.Model"}}))


def wrong_toml(folder: Path) -> None:
    (folder / "version.toml").write_text('release = "better"\n')


REFUSED: dict[Callable[[Path], None], tuple[str, ...]] = {
    truncate: (SHARD, "of", "bytes"),
    lengthen: (SHARD, "bytes"),
    break_header: (SHARD, "header"),
    wrong_sum: (SHARD, "SHA-256", "SHA256SUMS", "copy it again"),
    other_architecture: ("LlamaForCausalLM", "Qwen3VLForConditionalGeneration"),
    without_tokenizer: ("tokenizer.json", "not there"),
    pickles_alone: ("pytorch_model.bin", "pickle", "save the model as safetensors"),
    with_code: ("config.json", "auto_map", "names code", "remove it"),
    wrong_toml: ("version.toml", "release"),
}


@pytest.mark.parametrize("damage", REFUSED, ids=lambda d: d.__name__)
def test_refused_before_anything_is_loaded(st: Stage, damage: Callable[[Path], None]) -> None:
    version, made = make(st)
    damage(made)
    before = st.loads()
    with st.control() as app, untouched(st):
        st.place(made, version)
        ended = st.wait_end(version)
        assert ended["outcome"] == "rejected"
        for word in REFUSED[damage]:
            assert word in ended["message"], ended["message"]
        until(lambda: st.version(version)["state"] == "rejected", "listed as rejected")
        assert st.version(version)["reason"] == ended["message"]
        with pytest.raises(Refused, match=f"ctl retry {version}"):
            app.promote(None, version, full=False, who=ME)
    assert st.loads() == before


def test_what_lies_beside_a_checkpoint_is_no_obstacle(st: Stage) -> None:
    """A folder of `hf download`, a clone and a trainer's output in one passes its gates, and says what it ignores."""
    version, made = make(st)
    beside = {
        f".cache/huggingface/download/{SHARD}.metadata": b"0123\n",
        ".git/hooks/pre-commit.sample": b"#!/bin/sh\n",
        "training_args.bin": b"\x80\x04N.",
        "optimizer.pt": b"PK\x03\x04",
        "model.py": b"raise SystemExit\n",
        "labels.txt": b"cat\ndog\nhorse\n",
    }
    for name, content in beside.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(content)
    with st.control(promotion="manual") as app, untouched(st):
        st.place(made, version)
        [integrity] = [g for g in st.wait_phase("waiting")["gates"] if g["name"] == "integrity"]
        assert f"Ignored: {len(beside)} files" in integrity["message"]
        app.abort(None, who=ME)
        st.wait_live(1)


def test_a_cut_shard_that_is_completed_later_is_taken_up_again(st: Stage) -> None:
    version, made = make(st)
    whole = (made / SHARD).read_bytes()
    truncate(made)
    with st.control(promotion="manual") as app, untouched(st):
        target = st.place(made, version)
        refusal = st.wait_end(version)["message"]
        assert f"{SHARD} is {len(whole) - 10:,} bytes, its header promises {len(whole):,}" in refusal
        (target / SHARD).write_bytes(whole)
        st.wait_phase("waiting")
        app.abort(None, who=ME)
        st.wait_live(1)


def test_index_that_names_a_missing_shard_waits_and_is_told_as_stuck(st: Stage) -> None:
    version, made = make(st)
    (made / SHARD).unlink()
    before = st.loads()
    with st.control(stuck_after="1s") as app, untouched(st):
        target = st.place(made, version)
        assert SHARD in st.wait_why(Reason.ARRIVAL_STUCK).figures["lacks"]
        assert st.version(version)["state"] == "incoming"
        with pytest.raises(Refused, match=SHARD):
            app.promote(None, version, full=False, who=ME)
        shutil.rmtree(target)
        st.wait_message("Version 1 serves.")
    assert st.loads() == before


def test_more_memory_than_there_is(st: Stage) -> None:
    version, made = make(st)
    before = st.loads()
    with st.control(gates={"available_memory": 64 << 20}), untouched(st):
        st.place(made, version)
        ended = st.wait_end(version)
        assert ended["outcome"] == "rejected"
        gate = ended["gates"][-1]
        assert (gate["name"], gate["verdict"]) == ("capacity", "fail")
        assert gate["observed"] > gate["limit"]
        assert "64.0 MiB" in ended["message"]
        assert "short" in ended["message"]
    assert st.loads() == before


# The load


@pytest.mark.parametrize(
    ("toy", "words"),
    [({"raise_at_load": True}, "this toy version raises while it loads"), ({"exit_at_load": True}, "not healthy")],
    ids=["raises", "exits"],
)
def test_engine_that_fails_while_it_loads(st: Stage, toy: dict[str, bool], words: str) -> None:
    version, _ = make(st)
    before = st.loads()
    with st.control(), untouched(st):
        st.drop(version, toy=toy)
        ended = st.wait_end(version)
        assert ended["outcome"] == "rejected"
        for word in (f"Version {version}", "server s0", "Triton says", words):
            assert word in ended["message"]
        st.wait_live(1)
    assert st.loads() - before == {version: 1}, "it is not tried again by itself"


def test_engine_killed_while_it_loads(st: Stage) -> None:
    version, _ = make(st)
    with st.control(), untouched(st):
        st.drop(version, toy={"load_s": 600.0})
        until(lambda: st.loads()[version], "the stub is in initialize()")
        for pid in st.servers[0].stub_pids(st.engines["ranker"], version):
            os.kill(pid, signal.SIGKILL)
        assert "not healthy" in st.wait_end(version)["message"]
        st.wait_live(1)


# Names and numbers


def test_number_lower_than_the_live_one(tmp_path: Path) -> None:
    with stage(tmp_path) as st, st.control() as app:
        st.drop(5)
        st.wait_live(5)
        before = st.loads()
        with untouched(st, live=5):
            st.drop(3)
            until(lambda: states(app).get("3") == "on_disk", "seen")
            assert "lower than version 5" in st.version(3)["reason"]
            st.wait_message("Version 5 serves.")
            with pytest.raises(Refused, match=r"lower than version 5.*rollback --to 3"):
                app.promote(None, 3, full=False, who=ME)
            assert len(app.history()) == 1
        assert st.loads() == before
        # A folder that is a link to one elsewhere is a version like any other.
        made = st.make(6)
        (st.engine_dir() / "6").symlink_to(made)
        st.wait_live(6)
        (st.engine_dir() / "7").symlink_to(tmp_path / "nowhere")
        st.wait_message("nowhere")
        (st.engine_dir() / "7").unlink()
        st.wait_message("Version 6 serves.")


def test_name_that_triton_takes_for_a_version(st: Stage) -> None:
    version, made = make(st)
    with st.control() as app, untouched(st):
        stray = st.engine_dir() / "2a"
        made.rename(stray)
        assert st.wait_why(Reason.UNEXPECTED_ENTRY).figures["name"] == "2a"
        assert st.status()["phase"] == "degraded"
        assert st.status()["problems"]
        assert states(app)["2a"] == "rejected"
        # Nothing else starts either: that load call would reload the live version.
        st.drop(version)
        until(lambda: states(app).get(str(version)) == "on_disk", "seen")
        with pytest.raises(Refused, match="2a"):
            app.promote(None, version, full=False, who=ME)
        shutil.rmtree(st.engine_dir() / str(version))
        shutil.rmtree(stray)
        st.wait_message("Version 1 serves.")


@pytest.mark.parametrize("name", ["٣", "+5"])
def test_name_of_digits_that_triton_takes_for_something_else(st: Stage, name: str) -> None:
    """Python calls the first one a digit. To Triton it is a new entry, for which it reloads what serves."""
    version, made = make(st)
    with st.control(), untouched(st):
        made.rename(st.engine_dir() / name)
        assert st.wait_why(Reason.UNEXPECTED_ENTRY).figures["name"] == name
        st.drop(version)
        shutil.rmtree(st.engine_dir() / str(version))
        shutil.rmtree(st.engine_dir() / name)
        st.wait_message("Version 1 serves.")


def test_number_at_which_triton_ends(st: Stage) -> None:
    version, made = make(st)
    name = "9" * 25
    with st.control() as app, untouched(st):
        made.rename(st.engine_dir() / name)
        assert st.wait_why(Reason.DEADLY_ENTRY).figures["name"] == name
        st.drop(version)
        until(lambda: states(app).get(str(version)) == "on_disk", "seen")
        with pytest.raises(Refused, match=name):
            app.promote(None, version, full=False, who=ME)
        shutil.rmtree(st.engine_dir() / str(version))
        assert st.servers[0].poll() is None
    # Also where it was there already when the control plane started.
    with st.control(), untouched(st):
        st.wait_why(Reason.DEADLY_ENTRY)
        shutil.rmtree(st.engine_dir() / name)
        st.wait_message("Version 1 serves.")


def test_name_that_triton_passes_over(st: Stage) -> None:
    version, made = make(st)
    with st.control(promotion="manual") as app, untouched(st):
        stray = st.engine_dir() / "007"
        made.rename(stray)
        reason = until(lambda: next((v.reason for v in app.versions() if v.label == "007"), None), "seen")
        assert "rename it to 7" in reason
        assert states(app)["007"] == "rejected"
        st.drop(version)
        st.wait_phase("waiting")  # rollouts go on, and the live version is not loaded again by them
        app.abort(None, who=ME)
        st.wait_live(1)
        shutil.rmtree(stray)


@pytest.mark.parametrize("on_newer", ["queue", "supersede"])
def test_second_version_while_one_rolls_out(st: Stage, on_newer: str) -> None:
    first, _ = make(st)
    second = first + 1
    with st.control(on_newer=on_newer, promotion="manual") as app, untouched(st):
        st.drop(first)
        st.wait_phase("waiting")
        st.drop(second)
        until(lambda: str(second) in states(app), "seen")
        if on_newer == "supersede":
            ended = st.wait_end(first)
            assert ended["outcome"] == "superseded"
            assert st.ended_why(first) == because(Reason.SUPERSEDED, version=second)
        else:
            until(lambda: states(app)[str(second)] == "on_disk", "whole, and it waits")
            assert st.status()["candidate"] == first
            app.abort(None, who=ME)
            assert st.wait_end(first)["outcome"] == "aborted"
        until(lambda: st.status()["candidate"] == second, "the second has its turn")
        st.wait_phase("waiting")
        app.abort(None, who=ME)
        st.wait_live(1)


# Folders that change under way


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_folder_lost_while_it_rolls_out(st: Stage, how: str) -> None:
    version, _ = make(st)
    with st.control(promotion="manual"), untouched(st):
        target = st.drop(version)
        st.wait_phase("waiting")
        if how == "removed":
            target.rename(st.root / f"gone-{version}")  # in one act: half removed is changed
        else:
            (target / "README.md").write_text("new\n")
        ended = st.wait_end(version)
        assert ended["outcome"] == "rejected"
        gone = how == "removed"
        reason = Reason.FOLDER_REMOVED_MEANWHILE if gone else Reason.FOLDER_CHANGED_MEANWHILE
        assert st.ended_why(version).reason is reason
        st.wait_live(1)


def test_live_folder_changed_and_proved_unchanged(st: Stage) -> None:
    version, _ = make(st)
    live = st.engine_dir() / "1"
    file = live / "config.json"
    content = file.read_bytes()
    with st.control(promotion="manual") as app, untouched(st):
        st.wait_live(1)
        with pytest.raises(Refused) as refused:
            app.retry(None, 1, release=None, who=ME)
        assert refused.value.reason is Reason.UNCHANGED
        file.write_bytes(content + b"\n")
        assert st.wait_why(Reason.FOLDER_CHANGED).figures["version"] == 1
        assert st.status()["phase"] == "degraded"
        with pytest.raises(Refused, match=r"config\.json differs"):
            app.retry(None, 1, release=None, who=ME)
        st.drop(version)
        until(lambda: states(app).get(str(version)) == "on_disk", "seen")
        assert st.status()["rollout"] is None, "nothing is loaded while that stands"
        shutil.rmtree(st.engine_dir() / str(version))
        file.write_bytes(content)
        until(lambda: version not in {v.version for v in app.versions()}, "gone")
        # Nobody needs to say so: it is hashed again whenever it looks otherwise.
        st.wait_message("Version 1 serves.")


@pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")  # watchdog, of a folder that was moved and back
def test_live_folder_removed(tmp_path: Path) -> None:
    with stage(tmp_path) as st, st.control(promotion="manual") as app:
        st.drop(1)
        st.wait_phase("waiting")
        app.promote(None, None, full=False, who=ME)
        st.wait_live(1)
        with Traffic(st, clients=2) as traffic:
            kept = (st.engine_dir() / "1").rename(tmp_path / "kept")
            assert st.wait_why(Reason.FOLDER_GONE).figures["version"] == 1
            assert st.status()["stable"] == 1
            st.drop(2)
            until(lambda: states(app).get("2") == "on_disk", "seen")
            with pytest.raises(Refused, match="is gone"):
                app.retry(None, 1, release=None, who=ME)
            st.wait_why(Reason.FOLDER_GONE)
            assert st.loads() == {1: 1}, "nothing is loaded while that stands"
            kept.rename(st.engine_dir() / "1")
            # Moving a folder changes its ctime, which makes Triton count it as changed; its content is proved first.
            st.wait_phase("waiting")
            app.promote(None, None, full=False, who=ME)
            st.wait_live(2)
            traffic.wait_answers(2)
        assert traffic.errors == []
        assert st.loads()[2] == 1


# Requests


def tensors(document: bytes) -> list[triton.InferInput]:
    """A request as it goes over the wire, unchecked by the client."""
    inputs = []
    for name, items in (("query", [b'{"text": "red"}']), ("documents", [b'{"text": "red"}', document])):
        tensor = triton.InferInput(name, [1, len(items)], "BYTES")
        tensor.set_data_from_numpy(np.array([items], dtype=np.object_))
        inputs.append(tensor)
    return inputs


def test_request_that_cannot_be_decoded(st: Stage) -> None:
    results: list[tuple[bool, triton.InferResult | None, InferenceServerException | None]] = []
    asked = [number % 2 == 0 for number in range(40)]
    with untouched(st), triton.InferenceServerClient(st.servers[0].grpc_url) as client:
        for good in asked:
            # All at once: Triton puts good and bad ones into the same batches.
            document = b'{"text": "a red one"}' if good else b'{"sound": 1}'
            client.async_infer(
                "ranker", tensors(document), lambda result, error, good=good: results.append((good, result, error))
            )
        until(lambda: len(results) == len(asked), "all answers")
        for good, result, error in results:
            assert (error is None) == good
            if result is not None:
                assert result.as_numpy("scores").shape == (1, 2)
            if error is not None:
                assert "INVALID_ARGUMENT" in str(error.status())
                assert "document 1" in str(error)
                assert "text, image or video" in str(error)
    with Reranker(f"grpc://{st.servers[0].grpc_url}", model="ranker") as ranker:
        with pytest.raises(InvalidInput, match=r"documents\[1\]"):
            ranker.rank("red", ["a red one", {"sound": "x"}])
        assert ranker.rank("red", ["a red one"]).version == 1
