"""Versions that load and answer, and must not serve: each is refused with the figure and the limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.support.stage import Stage, Traffic, stage

pytestmark = [pytest.mark.triton, pytest.mark.slow]


@pytest.fixture(scope="module")
def st(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("gates")) as made:
        with made.control():
            made.drop(1)
            made.wait_live(1)
        yield made


@dataclass(frozen=True)
class Bad:
    """A version that must not serve, the gate that has to see it, and words of the refusal."""

    gate: str
    words: tuple[str, ...]
    toy: dict[str, Any] = field(default_factory=dict)
    checkpoint: dict[str, Any] = field(default_factory=dict)
    release: str = "equivalent"
    figures: bool = True
    limits: dict[str, Any] = field(default_factory=dict)


BAD = {
    "constant": Bad("output", ("0.500000",), {"constant": 0.5}, figures=False),
    "nan": Bad("output", ("nan",), {"nan": True}, figures=False),
    "depends on its batch": Bad(
        "invariance", ("largest difference", "limit 0.005"), {"batch_noise": 0.3}, release="retrained"
    ),
    "slow": Bad("latency", ("limit 1.5",), {"delay_ms": 100.0}, limits={"latency_limit": 1.5}),
    "answers with errors": Bad(
        "warmup", ("Version", "this toy version fails now and then"), {"error_rate": 1.0}, figures=False
    ),
    "ranks worse": Bad("output", ("NDCG@10", "0.99"), checkpoint={"seed": 7, "quality": 0.1}, release="retrained"),
    "retrained and not declared": Bad("output", ("±0.001", "--release retrained"), checkpoint={"seed": 8}),
    # Last: Triton keeps a version whose stub died in a request as UNLOADING for ever.
    "dies at its first request": Bad("warmup", ("Version", "not healthy"), {"exit_on_request": True}, figures=False),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(st: Stage, name: str) -> None:
    bad, version = BAD[name], list(BAD).index(name) + 2
    before = st.loads()
    with st.control(gates=bad.limits, drain_timeout="3s") as app, Traffic(st, clients=2) as traffic:
        made = st.make(version, toy=bad.toy, **bad.checkpoint)
        (made / "version.toml").write_text(f'release = "{bad.release}"\n')
        st.place(made, version)
        ended = st.wait_end(version)
        assert ended["outcome"] == "rejected", ended["message"]
        failed = ended["gates"][-1]
        assert (failed["name"], failed["verdict"]) == (bad.gate, "fail")
        assert failed["message"] == ended["message"]
        for word in bad.words:
            assert word in ended["message"]
        if bad.figures:
            assert failed["observed"] is not None
            assert failed["limit"] is not None
        st.wait_live(1)
        assert st.version(version)["state"] == "rejected"
        assert st.version(version)["reason"] == ended["message"]
        assert st.policy() == {1}
        assert app.history(limit=1)[0].candidate == version, "it is not tried again by itself"
        traffic.wait_answers(1)
    assert traffic.errors == []
    assert set(traffic.versions) == {1}, "no client met the refused version"
    assert st.loads() - before == {version: 1}
