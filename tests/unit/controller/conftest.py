import shutil

import pytest


@pytest.fixture
def place(tmp_path):
    from tests.unit.controller.plane import Place, tmpfs

    root = tmpfs(tmp_path)
    yield Place(root)
    if root != tmp_path:
        shutil.rmtree(root)
