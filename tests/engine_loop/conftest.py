import sys
from pathlib import Path

# The helpers are imported as ``tests.support``, also when these tests run alone.
sys.path.insert(0, str(Path(__file__).parents[2]))

import shutil

import pytest


@pytest.fixture
def place(tmp_path):
    from plane import Place, tmpfs

    root = tmpfs(tmp_path)
    yield Place(root)
    if root != tmp_path:
        shutil.rmtree(root)
