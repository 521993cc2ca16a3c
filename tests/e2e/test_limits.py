"""Clocks that are ahead, configuration from a checkout, a machine that can't load: a real Triton, under traffic."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage

from baton.plan import loading
from baton.reasons import Reason

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ME = "tester"


@pytest.fixture
def st(tmp_path: Path) -> Iterator[Stage]:
    with stage(tmp_path) as made:
        yield made


def drop_ahead(st: Stage, version: int, hours: float) -> None:
    """A version that came from a machine whose clock is ahead, by `rsync -a` say."""
    made = st.make(version)
    ahead = time.time() + 3600 * hours
    for path in (*made.rglob("*"), made):
        os.utime(path, (ahead, ahead))
    st.place(made, version)


def test_files_that_are_ahead_of_the_clock(st: Stage) -> None:
    """As first version and later; the engine's config.pbtxt is a link into a checkout with the line ends of Windows."""
    config, checkout = st.engine_dir() / "config.pbtxt", st.root / "checkout"
    checkout.mkdir()
    target = checkout / "engine.pbtxt"
    target.write_bytes(config.read_bytes().replace(b"\n", b"\r\n"))
    target.chmod(0o664)
    config.unlink()
    config.symlink_to(target)
    with st.control(keep_previous="0s") as app:
        drop_ahead(st, 1, 2.0)
        st.wait_live(1)
        (problem,) = st.status()["problems"]
        assert "version 1 are dated 1" in problem
        assert "Triton passes over a config.pbtxt" in problem
        with Traffic(st, clients=2) as traffic:
            traffic.wait_answers(1)
            st.drop(2)
            st.wait_live(2)
            drop_ahead(st, 3, 4.0)
            st.wait_live(3)
            st.drop(4)
            until(lambda: st.loads()[4], "version 4 is loaded")
            app.abort(None, who=ME)
            st.wait_end(4)
            assert st.policy() == {3}
            st.drop(5)
            st.wait_live(5)
            traffic.wait_answers(5)
        assert traffic.errors == []
        assert st.loads() == Counter(dict.fromkeys(range(1, 6), 1)), "and nothing is loaded anew"
    assert config.is_symlink()
    text = target.read_bytes()
    assert text.count(b"\n") == text.count(b"\r\n") > 10
    assert stat.S_IMODE(target.stat().st_mode) == 0o664


def test_a_python_package_that_is_not_there(st: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The version is not refused for it, and goes live by itself once the machine is mended."""
    monkeypatch.setattr(loading, "SERVER_RETRY_S", 1.0)
    model = st.servers[0].backend_directory / "toy_reranker" / "model.py"
    if model.parent.is_symlink():  # the test's own copy: the next server must not meet it
        whole = model.parent.resolve()
        model.parent.unlink()
        model.parent.mkdir()
        model.write_text((whole / "model.py").read_text())
    good = model.read_text()
    with st.control(keep_previous="0s") as app:
        st.drop(1)
        st.wait_live(1)
        with Traffic(st, clients=2) as traffic:
            model.write_text(f"{good}\nimport torch_nowhere\n")
            st.drop(2)
            error = st.wait_why(Reason.MACHINE_RESTS).figures["error"]
            assert "No module named 'torch_nowhere'" in error
            assert "lacks `torch_nowhere`. Install it there." in error
            assert "<module>" not in error
            until(lambda: st.policy() == {1}, "a restart of Triton would find what serves alone")
            told = app.rollout(app.history()[0].id).events
            assert [e.kind for e in told].count("refused") == 1, "once, however often it is tried"
            model.write_text(good)
            st.wait_live(2)
            traffic.wait_answers(2)
        assert traffic.errors == []
        assert app.history()[0].outcome == "live"
