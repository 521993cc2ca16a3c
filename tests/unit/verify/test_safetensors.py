from __future__ import annotations

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.unit.verify.tiny import header_of, safetensors

from baton.errors import CheckpointError
from baton.verify.files import UnfinishedError

FAST = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(**changes: object) -> dict:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


def test_reads_what_the_reference_library_writes(tmp_path):
    path = tmp_path / "model.safetensors"
    arrays = {
        "a": np.zeros((2, 3), np.float32),
        "b": np.ones((4,), np.float16),
        "none": np.zeros((0, 5), np.int64),
        "scalar": np.array(3, np.uint8),
    }
    save_file(arrays, path, metadata={"format": "pt"})
    header = header_of(path)
    assert header.expected_size == path.stat().st_size
    assert {name: (tensor.dtype, tensor.shape, tensor.size) for name, tensor in header.tensors.items()} == {
        "a": ("F32", (2, 3), 24), "b": ("F16", (4,), 8), "none": ("I64", (0, 5), 0), "scalar": ("U8", (), 1),
    }  # fmt: skip


def test_the_message_names_file_and_figures(tmp_path):
    path = tmp_path / "model-00002-of-00005.safetensors"
    whole = safetensors({"w": (225_270,)})
    path.write_bytes(whole[:812_345])
    with pytest.raises(UnfinishedError) as caught:
        header_of(path)
    missing = len(whole) - 812_345
    assert caught.value.message == (
        f"model-00002-of-00005.safetensors is 812,345 bytes, its header promises {len(whole):,}: "
        f"{missing:,} bytes are missing."
    )


def test_truncation_at_every_boundary_is_truncation(tmp_path):
    path = tmp_path / "m.safetensors"
    whole = safetensors({"a": (2, 2), "b": (3,)})
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UnfinishedError):
            header_of(path)


def test_a_file_allocated_in_advance_is_not_there_yet(tmp_path):
    path = tmp_path / "m.safetensors"
    whole = safetensors({"a": (2, 2), "b": (3,)})
    header_end = 8 + int.from_bytes(whole[:8], "little")
    for written in (0, 4, 8, 20, header_end - 1):
        path.write_bytes(whole[:written].ljust(len(whole), b"\0"))
        with pytest.raises(UnfinishedError):
            header_of(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (safetensors({"w": (2,)}) + b"more", "4 bytes are too many"),
        (struct.pack("<Q", 16_777_217) + b"{}", "at most 16,777,216"),
        (struct.pack("<Q", 2**64 - 1) + b"{}", "at most 16,777,216"),
        (raw(b"PK\x03\x04 rest"), "where '{' belongs"),
        (raw(b"{]"), "is not valid JSON"),
        (raw([1]), "no JSON header"),
        (raw(b'{"w": 1, "w": 2}'), "stands twice"),
        (raw(b"{" + b'"a":{' * 5000 + b"}" * 5000), "JSON"),
        (raw(b'{"a": ' + b"9" * 5000 + b"}"), "JSON"),
        (raw({"w": 1}), "dtype, shape and data_offsets"),
        (raw(one(more=1), bytes(8)), "nothing else"),
        (raw(one(dtype="F33"), bytes(8)), "unknown type 'F33'"),
        (raw(one(shape=[3]), bytes(8)), "spans 8 bytes, its shape 3 in F32 needs 12"),
        (raw(one(shape=[2**62, 2**62]), bytes(8)), "larger than any memory"),
        (raw(one(shape=[-2]), bytes(8)), "no list of whole numbers"),
        (raw(one(shape=[True, 2]), bytes(8)), "no list of whole numbers"),
        (raw(one(shape=[1] * 100), bytes(8)), "no list of whole numbers"),
        (raw(one(data_offsets=[8, 0]), bytes(8)), "spans -8 bytes"),
        (raw(one(data_offsets=[0, 8, 9]), bytes(8)), "not two whole numbers"),
        (raw(one(data_offsets=[0.0, 8]), bytes(8)), "not two whole numbers"),
        (raw(one(data_offsets=[4, 12]), bytes(12)), "leaves a gap"),
        (raw(one() | {"v": one()["w"]}, bytes(8)), "overlaps"),
        (raw({"__metadata__": {"a": 1}}), "not text to text"),
        (raw({"w": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"1"), "in F4 needs"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, content, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        header_of(path)
    assert words in str(caught.value)
    assert "m.safetensors" in str(caught.value)


def test_what_is_no_file_is_refused(tmp_path):
    for name in ("gone", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(CheckpointError, match=name):
            header_of(tmp_path / name)


@FAST
@given(st.binary(max_size=400))
def test_any_bytes_give_a_header_or_a_checkpoint_error(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with suppress(CheckpointError):
        header_of(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
DTYPE = st.sampled_from(["F32", "F4", "X"]) | JSON
ENTRY = st.fixed_dictionaries({"dtype": DTYPE, "shape": JSON, "data_offsets": JSON})


@FAST
@given(st.dictionaries(st.text(max_size=8), ENTRY | JSON, max_size=4), st.binary(max_size=20))
def test_any_json_gives_a_header_or_a_checkpoint_error(tmp_path, table, data):
    path = tmp_path / "m.safetensors"
    path.write_bytes(raw(table, data))
    try:
        header = header_of(path)
    except CheckpointError:
        return
    assert header.expected_size == path.stat().st_size
