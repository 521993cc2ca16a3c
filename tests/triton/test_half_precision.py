"""``python -m bench.half_precision`` in short: real Triton, bf16 on a CPU, two equal and two changed versions."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.triton, pytest.mark.slow]
ROUNDING = 1e-6
"""Of fp32, in which the head computes: 3e-8 was seen."""
NO_LIMIT_OF_TIME = """
[services.gates]
latency_min_samples = 40
latency_max_samples = 400
latency_limit = 1000
warmup_limit = 1000
"""
"""The limits of scores are the default's. How fast the versions are is not what is asked here."""


def test_an_equal_version_passes_and_a_changed_one_is_refused(tmp_path):
    from bench.half_precision import served, verify, versions  # loads torch

    with served(tmp_path, limits=NO_LIMIT_OF_TIME) as rig:
        (info,) = {(row["dtype"], row["device"]) for row in rig.service()["versions"]}
        assert info == ("bf16", "cpu")
        for number, (made, kind, wanted) in enumerate(versions((1, 2), tmp_path), start=2):
            one = verify(rig, made, number, kind, wanted)
            assert one.right, f"{kind}: {one.outcome}, {one.gates}"
            output = one.gates["output"]
            if wanted == "verified":
                assert output["observed"] < ROUNDING
                assert output["limit"] == 0.001
                invariance = one.gates["invariance"]["evidence"]
                assert (invariance["precision"], invariance["runs"]) == ("half", "bf16 on cpu")
            else:
                assert (one.gate, output["verdict"]) == ("output", "fail")
                assert output["observed"] > output["limit"]
