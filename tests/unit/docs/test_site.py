"""The site of `make docs` is built of the pages as they are, and a page with a fault fails it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As the make target does, into a folder of the test's own."""
    target = re.search(r"^docs: .*\n\t@(\S+) \$\(BIN\)/(mkdocs build)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert target is not None
    name, _, value = target[1].partition("=")
    words = [sys.executable, "-m", *target[2].split(), "--site-dir", str(site)]
    return subprocess.run(words, cwd=root, env={**os.environ, name: value}, capture_output=True, text=True, check=False)


def test_it_is_built(tmp_path: Path) -> None:
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stderr
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    made = {path.relative_to(tmp_path).with_suffix("") for path in tmp_path.rglob("*.html")}
    assert {page.with_name("index") if page.name == "README" else page for page in pages} <= made
    assert (tmp_path / "schema.json").read_text() == (ROOT / "docs" / "schema.json").read_text()


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
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert [told for told in [*FAULTS.values(), "alone.md"] if told not in built.stderr] == []
