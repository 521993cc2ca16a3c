"""`make docs` fails on each fault in a page, and finds none in the pages as they are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


FAULTS = {
    "[dead](reference/nowhere.md)": "reference/nowhere.md",
    "[bad](reference/ctl.md#nowhere)": "#nowhere",
    "[outside](../control/nowhere.py)": "../control/nowhere.py",
    "![picture](https://example.com/a.png)": "fetches from the network",
}
"""By what somebody writes into a page: what the build says of it."""


def test_faults_in_pages_fail_it(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for path in ROOT.iterdir():  # what pages link to outside of docs/
        if path.name not in {"docs", "mkdocs.yml", "site"}:
            (tmp_path / path.name).symlink_to(path)
    with (tmp_path / "docs" / "index.md").open("a") as page:
        page.write("\n" + "\n\n".join(FAULTS))
    (tmp_path / "docs" / "alone.md").write_text("# A page that is not in the navigation")
    target = re.search(r"^docs: .*\n\t@(\S+)=(\S+) \$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert target is not None
    name, value, words = target.groups()
    built = subprocess.run(
        [sys.executable, "-m", *words.split()],
        cwd=tmp_path, env={**os.environ, name: value}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode != 0
    assert [told for told in [*FAULTS.values(), "alone.md"] if told not in built.stderr] == []
    assert built.stderr.count("WARNING") == len(FAULTS) + 1, built.stderr
