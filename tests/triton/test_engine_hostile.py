"""The engine in a real server: what means harm is answered with its error, and leaves nothing behind."""

from __future__ import annotations

import pytest
from tests.unit.engine.run_hostile import Run, attack, judge, server

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def test_a_real_server_answers_every_case_and_is_unharmed(tmp_path):
    """``python -m tests.unit.engine.hostile --rounds 1000`` is the same at length."""
    with server(tmp_path) as running:
        run = Run(running)
        before, after = attack(run, 150)
        assert judge(run, before, after) == []
