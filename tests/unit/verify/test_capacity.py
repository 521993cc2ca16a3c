from __future__ import annotations

import pytest
from tests.unit.verify.tiny import safetensors, write

from baton.domain import Verdict
from baton.errors import CheckpointError
from baton.verify.capacity import available_memory, check_capacity, estimate_bytes
from baton.verify.checkpoint import describe

MIB, GIB = 1 << 20, 1 << 30


def test_the_estimate_is_weights_times_overhead_plus_the_process(tmp_path):
    folder = write(tmp_path / "1")  # 4 tensors of fp32, 80 elements
    assert estimate_bytes(describe(folder), overhead=1.0, process=0) == 320
    assert estimate_bytes(describe(folder), overhead=1.5, process=100) == 580


def test_whole_numbers_keep_their_size(tmp_path):
    folder = tmp_path / "1"
    write(folder, {"model.safetensors": safetensors({"w": (10,)}, dtype="I8", width=1)})
    assert estimate_bytes(describe(folder), overhead=1.0, process=0) == 10
    with pytest.raises(CheckpointError, match="neither"):
        estimate_bytes(describe(tmp_path), overhead=1.0)


def test_it_fits_with_the_margin_or_not_at_all():
    assert check_capacity(100, 110, margin=0.1).verdict is Verdict.PASS
    result = check_capacity(10 * GIB, 10 * GIB, where="server a", margin=0.1)
    assert result.verdict is Verdict.FAIL
    assert result.observed > result.limit
    assert result.message == (
        "An estimated 10.0 GiB of memory plus a margin of 10% does not fit into the 10.0 GiB that are free on "
        "server a: 1.0 GiB short. Free that much, or serve a smaller type."
    )
    result = check_capacity(3 * MIB, 4 * MIB, margin=0.1)
    figures = "An estimated 3.0 MiB of memory plus a margin of 10% fits into the 4.0 MiB that are free."
    assert result.message == figures
    assert check_capacity(100, 100, margin=0).verdict is Verdict.PASS


def test_what_can_not_be_measured_is_skipped_and_said():
    result = check_capacity(100, None, margin=0.1)
    assert result.verdict is Verdict.PASS
    assert result.skipped
    assert result.message.startswith("Skipped")


def kernel(tmp_path, group="/a/b", **groups):
    proc, cgroup = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:   1000 kB\nHugePages_Total: 0\n")
    (proc / "self" / "cgroup").write_text(f"4:memory:/old\n0::{group}\n")
    for name, (limit, current, stat) in groups.items():
        folder = cgroup if name == "root" else cgroup.joinpath(*name.split("_"))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{current}\n")
        (folder / "memory.stat").write_text(stat)
    return available_memory(proc=proc, cgroup=cgroup)


def test_memory_without_limits(tmp_path):
    assert kernel(tmp_path, a_b=("max", 10, "")) == 1000 * 1024


def test_the_tightest_group_above_counts(tmp_path):
    assert kernel(tmp_path, a=(5000, 2000, ""), a_b=("max", 2000, "")) == 3000


def test_page_cache_is_given_back_and_mapped_weights_are_not(tmp_path):
    stat = "anon 100\ninactive_file 1000\nactive_file 500\nfile_mapped 400\nslab_reclaimable 50\n"
    assert kernel(tmp_path, a_b=(5000, 4000, stat)) == 5000 - (4000 - 1100 - 50)


def test_more_in_use_than_allowed_is_nothing(tmp_path):
    assert kernel(tmp_path, a_b=(5000, 6000, "")) == 0


def test_a_group_seen_from_inside_a_container(tmp_path):
    assert kernel(tmp_path, group="/../../x", root=(5000, 1000, "")) == 4000


def test_a_system_that_does_not_tell(tmp_path):
    assert available_memory(proc=tmp_path, cgroup=tmp_path) is None
    assert available_memory() > 0
