from __future__ import annotations

import pytest
import torch
from tests.unit.engine.support import BASE

from reranker_engine.inference.scorer import Scorer, ScorerSettings
from reranker_engine.service.allocator import keep_freed_memory


@pytest.fixture(scope="session", autouse=True)
def _lean():
    torch.set_num_threads(1)
    keep_freed_memory()


@pytest.fixture(scope="session")
def base():
    """The base checkpoint, loaded with default settings."""
    return Scorer(BASE, ScorerSettings())
