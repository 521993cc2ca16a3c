"""A Triton that ends by itself fails a test at once, and the test is run once more with another one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from harness.waiting import until
from tests.support.stage import Stage, stage

pytestmark = [pytest.mark.triton, pytest.mark.slow]
TRIES: list[int] = []


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as made:
        yield made


def test_a_test_is_run_again_where_triton_ended_by_itself(st: Stage) -> None:
    server = st.servers[0]
    assert server.pid is not None
    TRIES.append(server.pid)
    with st.control():
        if len(TRIES) == 1:
            os.kill(server.pid, signal.SIGABRT)
            until(lambda: server.poll() is not None, "its end")
        st.status()
        st.drop(1)
        st.wait_live(1)
    assert len(set(TRIES)) == 2
