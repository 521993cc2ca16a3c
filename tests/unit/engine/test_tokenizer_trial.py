"""A tokenizer that would take clients' texts for ever, or panic over them, fails the load and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.unit.engine.support import BACKEND, BASE
from tests.unit.engine.tokenizers import PUBLISHED

from reranker_engine.model.errors import CheckpointError
from reranker_engine.service import tokenizer_trial
from reranker_engine.service.tokenizer_trial import TokenizerTrial, pieces

SETTINGS = json.loads((BASE / "tokenizer.json").read_text("utf-8"))


def written(folder, **parts):
    (folder / "tokenizer.json").write_text(json.dumps(SETTINGS | parts), "utf-8")
    return folder


def split(pattern):
    one = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [one, SETTINGS["pre_tokenizer"]["pretokenizers"][1]]}


def tried(folder):
    with TokenizerTrial(folder) as found:
        found.finish()


def test_the_demos_tokenizer_passes():
    tried(BASE)


@pytest.mark.slow
@pytest.mark.parametrize("pattern", PUBLISHED)
def test_tokenizers_as_they_are_published_pass(tmp_path, pattern):
    tried(written(tmp_path, pre_tokenizer=split(pattern)))


def replace(pattern):
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}


PANICS = {
    "the finding": {"pre_tokenizer": split("(z+){1,999}[qQ]")},
    "repeats on repeats": {"pre_tokenizer": split("z{1,30}{1,30}[qQ]")},
    "hidden by a comment": {"pre_tokenizer": split("(?#[)(z+)+[qQ]")},
    "hidden by the extended form": {"pre_tokenizer": split("(?x)# [\n(z+)+[qQ]")},
    "words that begin alike": {"pre_tokenizer": split("(?:foo|bar|foobar){1,999}!?Q")},
    "alternatives in a normalizer": {"normalizer": replace("(?:z|zz)+[qQ]")},
    "in a sequence": {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, replace("(z+)+[qQ]")]}},
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
}


@pytest.mark.parametrize("name", PANICS)
def test_what_panics_in_the_trial_is_refused_with_the_text(tmp_path, name):
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be used: the tokenizers library fail") as caught:
        tried(written(tmp_path, **PANICS[name]))
    assert "PanicException" in str(caught.value)
    assert "take the tokenizer that the model was published with" in str(caught.value)


SLOW = {
    "after a word": {"pre_tokenizer": split("open(?:(?:[a-z]+){1,99}[QX]|sesame)")},
    "a lookahead": {"pre_tokenizer": split("(?=(?:z+)+[qQ])z")},
    "three repeats in a row": {"pre_tokenizer": split("z*[zZ]*[z-]*[qQ]")},
    "the square of a text": {"pre_tokenizer": split(r"\p{N}{1,3}(?=(?:\p{N}{3})*$)")},
    "huge bounded repeats": {"pre_tokenizer": split("(a{999}){999}")},
}


@pytest.mark.parametrize("name", SLOW)
def test_what_takes_too_long_is_ended(tmp_path, monkeypatch, name):
    """With the limit itself the fastest of them ends just before it on some machines; the demo's takes 0.3 s."""
    monkeypatch.setattr(tokenizer_trial, "CPU_S", 2)
    with pytest.raises(CheckpointError, match=r"its trial with the text .* took more than 2 s"):
        tried(written(tmp_path, **SLOW[name]))


def test_what_takes_too_much_memory_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "MEMORY_BYTES", 2**28)
    double = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    chain = {"type": "Sequence", "normalizers": [double] * 40}
    with pytest.raises(CheckpointError, match=r"its trial with the text 'a', over and over ended the process \(-6\)"):
        tried(written(tmp_path, normalizer=chain))


@pytest.mark.parametrize("parts", [
    {"added_tokens": [*SETTINGS["added_tokens"], {**SETTINGS["added_tokens"][0], "id": 9999, "content": "(z+)+[qQ]"}]},
    {"decoder": {**replace("(z+)+[qQ]")}},
    {"pre_tokenizer": split("(?<=z)z{1,99}")},
    {"normalizer": replace(" {2,}")},
])  # fmt: skip
def test_what_no_text_of_a_client_meets_is_harmless(tmp_path, parts):
    """Added tokens are no patterns, and the engine decodes nothing."""
    tried(written(tmp_path, **parts))


def test_what_loading_tells_by_itself_is_left_to_it(tmp_path):
    tried(tmp_path)
    tried(written(tmp_path, pre_tokenizer=split("[")))


def test_texts_are_made_of_what_stands_in_the_patterns():
    units, words = pieces({"normalizer": replace("(ab|c)+"), "pre_tokenizer": split(r"\p{L}d\[e")})
    assert words == ("ab", "a", "b", "c", "d", "[", "e")
    assert set(words) < set(units)


def test_a_trial_that_is_left_ends_with_it(tmp_path):
    def endless(_):
        while True:
            yield "on and on"
            time.sleep(0.01)

    with TokenizerTrial(tmp_path, endless) as found:
        child = found._child
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_trial_that_does_not_end_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_trial, "WALL_S", 0.2)

    def stands(_):
        threading.Event().wait()
        yield ""

    with TokenizerTrial(tmp_path, stands) as found:
        child = found._child
        with pytest.raises(CheckpointError, match=r"its trial did not end within 0\.2 s"):
            found.finish()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_trial_holds_nothing_of_the_process_that_began_it(tmp_path):
    """A stub inherits Triton's ports, and a child would keep them from the next Triton."""

    def looks(_):
        held = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the listing itself
                held.append(str(entry.readlink()).partition(":")[0])
        yield repr(sorted(held))
        os.kill(os.getpid(), signal.SIGKILL)

    with (
        (tmp_path / "open").open("w"),
        pytest.raises(CheckpointError) as caught,
        TokenizerTrial(tmp_path, looks) as found,
    ):
        found.finish()
    # The null device as input, output and errors, and the way back.
    assert "with the text ['/dev/null', '/dev/null', '/dev/null', 'pipe'] took" in str(caught.value)


def test_nothing_heavy_is_imported_for_it():
    program = (
        "import sys; from reranker_engine.service import tokenizer_trial; "
        "print([name for name in ('torch', 'PIL', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=BACKEND, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert Path(tokenizer_trial.__file__).is_relative_to(BACKEND)
