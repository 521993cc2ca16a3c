"""Without a golden set nothing goes live that is not proved, nor by any verb what does not answer with sense."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from harness.waiting import until
from tests.support.stage import Stage, Traffic, stage

from baton.app import App
from baton.errors import Refused
from baton.reasons import Reason

pytestmark = pytest.mark.triton

GARBAGE: tuple[dict[str, Any], ...] = ({"nan": True}, {"error_rate": 1.0}, {"constant": 0.5})


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("unjudged")) as made:
        yield made


def refused(st: Stage, app: App, version: int, toy: dict[str, Any]) -> None:
    st.drop(version, toy=toy)
    first = st.wait_end(version)
    assert first["outcome"] == "rejected", first["message"]
    assert [g["verdict"] for g in first["gates"] if g["name"] == "output"] == ["fail"], first["gates"]
    app.retry(None, version, release=None, who="ann")
    app.promote(None, version, full=True, who="ann")
    again = st.wait_end(version, after=first["id"])
    assert again["outcome"] == "rejected", again["message"]
    with pytest.raises(Refused):
        app.promote(None, version, full=True, who="ann")


def waits(st: Stage, app: App, version: int, previous: int) -> None:
    st.wait_phase("waiting")
    why = st.wait_why(Reason.UNJUDGED)
    assert (why.figures["version"], why.figures["previous"]) == (version, previous)
    for full in (False, True):
        with pytest.raises(Refused) as refused:
            app.promote(None, version, full=full, who="ann")
        assert refused.value.reason is Reason.NOT_PROMOTED
    assert st.why() == why
    assert st.status()["stable"] != version


def test_what_is_not_proved_does_not_go_live(st: Stage) -> None:
    with st.control(golden=False) as app:
        for version, toy in enumerate(GARBAGE, start=1):
            refused(st, app, version, toy)
        st.drop(4)
        st.wait_live(4)
        with Traffic(st, clients=1) as traffic:
            for version, toy in enumerate(({}, *GARBAGE), start=5):
                st.drop(version, toy=toy)
                waits(st, app, version, 4)
                app.abort(None, who="ann")
                assert st.wait_end(version)["outcome"] == "aborted"
            st.drop(9)
            waits(st, app, 9, 4)
            assert traffic.errors == []
            assert set(traffic.versions) == {4}

    # A golden set is there, and the same rollout goes on.
    with st.control():
        assert {g["name"]: g["verdict"] for g in st.wait_live(9)["gates"]}["latency"] == "pass"

    allowed = {"golden": False, "gates": {"allow_unjudged": True}}
    with st.control(**allowed) as app, Traffic(st, clients=1) as traffic:
        for version, toy in enumerate(GARBAGE, start=10):
            refused(st, app, version, toy)
        st.drop(13)
        gates = {g["name"]: g for g in st.wait_live(13)["gates"]}
        assert all(gates[name]["skipped"] for name in ("warmup", "output", "invariance", "latency"))
        until(lambda: traffic.versions[13], "an answer of version 13")
        assert traffic.errors == []
        assert set(traffic.versions) == {9, 13}
