"""What each version takes of this machine's memory: told of the processes of a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.toy import make_checkpoint, make_repository
from tests.support.triton import ask, running_triton

from baton.local import procfs
from baton.watch.memory import MemoryWatch

pytestmark = pytest.mark.triton
MB = 1_000_000


def test_versions_of_a_real_server(tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository", {"toy": [1, 2], "pair": [3]})
    make_checkpoint(tmp_path / "repository" / "toy" / "1", toy={"leak_mb": 20.0}, seed=1)
    config = repository / "pair" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", "count: 2"))
    (tmp_path / "link").symlink_to(repository)
    with running_triton(tmp_path, tmp_path / "link", load=["toy", "pair"]) as server:
        watch = MemoryWatch(repository, procfs.stubs)
        sample = watch.sample()
        assert {key: sorted(usage.pids) for key, usage in sample.items()} == {
            (model, version): sorted(server.stub_pids(model, version))
            for model, version in (("toy", 1), ("toy", 2), ("pair", 3))
        }
        assert len(sample["pair", 3].pids) == 2
        for usage in sample.values():
            assert 5 * MB * len(usage.pids) < usage.resident_bytes <= usage.rss_bytes < 500 * MB
            assert usage.gpu_bytes is None
        for _ in range(2):
            ask(server, "toy", "red", ["red"], version=1)
        after = watch.sample()
        assert 40 * MB < after["toy", 1].rss_bytes - sample["toy", 1].rss_bytes < 60 * MB
        assert after["toy", 2].rss_bytes - sample["toy", 2].rss_bytes < 5 * MB
        (tmp_path / "other").mkdir()
        assert MemoryWatch(tmp_path / "other", procfs.stubs).sample() == {}
        assert MemoryWatch(tmp_path / "absent", procfs.stubs).sample() == {}
    assert watch.sample() == {}
