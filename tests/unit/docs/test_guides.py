"""Each command of a page is run as written by a test, or marked as not run; and what reads the pages finds faults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from harness.waiting import Failed
from tests.e2e.guides import EVERY_DAY, GUIDES
from tests.support.guides import DOCS, ROOT, Reader, Step, missing, section, shape, steps

PAGES = sorted(DOCS.rglob("*.md"))
ELSEWHERE: Mapping[str, str] = {
    "how-to/disk-space.md": "tests/e2e/test_retention.py",
    "how-to/encrypt-triton.md": "tests/triton/test_encrypt_page.py",
    "how-to/http-port.md": "tests/triton/test_up.py",
    "how-to/rerank-url.md": "tests/triton/test_gateway.py",
}
"""Pages whose commands another test runs: which."""


def run() -> set[Step]:
    """What the guides run."""
    return {step for guide in (*GUIDES, EVERY_DAY) for step in guide.steps()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_each_command_is_run_or_marked(page: Path) -> None:
    name = str(page.relative_to(DOCS))
    known = run()
    open_ones = [str(step) for step in steps(page) if step.command and not step.not_run and step not in known]
    if name in ELSEWHERE:
        assert open_ones, f"{name} has no commands that are run elsewhere"
        assert (ROOT / ELSEWHERE[name].partition("::")[0]).is_file()
    else:
        assert open_ones == []


PAGE = """
# Try `it`

```sh
# a comment is no command
echo one \\
    more      # with a comment
cat > file <<'END'
echo not a command
END
```

```text
not what cat prints
```

*Not run by our tests: needs a GPU.*

```sh
nvidia-smi
```

## Then: more

```console
$ echo "a
> b"
a
b
$ true
```

```toml title="baton.toml"
a = 1
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_what_is_found_in_a_page(page: Path) -> None:
    found = steps(page)
    assert [step.command.splitlines()[:1] for step in found] == [
        ["echo one \\"], ["cat > file <<'END'"], ["nvidia-smi"], ['echo "a'], ["true"], [],
    ]  # fmt: skip
    assert found[0].command == "echo one \\\n    more      # with a comment"
    assert found[1].prints == ("not what cat prints",)
    assert [step.not_run for step in found] == ["", "", "needs a GPU", "", "", ""]
    assert [step.heading for step in found] == [*["try-it"] * 3, *["then-more"] * 3]
    assert found[3].prints == ("a", "b")
    assert (found[5].file, found[5].text) == ("baton.toml", "a = 1\n")
    lines = PAGE.splitlines()
    assert [lines[step.line - 1] for step in found[:5]] == [
        "echo one \\", "cat > file <<'END'", "nvidia-smi", '$ echo "a', "$ true",
    ]  # fmt: skip


def test_a_heading_that_is_not_there() -> None:
    with pytest.raises(Failed, match="nowhere"):
        section("how-to/install.md", "nowhere")


def reader(folder: Path) -> Reader:
    return Reader(folder, {"PATH": os.environ["PATH"]}, {"/srv/": f"{folder}/srv/", "/srv/baton": f"{folder}/b"})


def followed(folder: Path, text: str) -> Reader:
    page = ROOT / "docs" / "none.md"
    (folder / "page.md").write_text(text)
    listed = [replace(step, page=page) for step in steps(folder / "page.md")]
    with reader(folder) as made:
        made.follow(listed)
    return made


def test_a_reader_goes_on_where_the_last_command_ended(tmp_path: Path) -> None:
    made = followed(
        tmp_path,
        '```sh\nmkdir -p /srv/x /srv/baton\ncd /srv/x\nA=12\n```\n```toml title="/srv/x/f"\n/srv/baton\n```\n'
        "```console\n$ echo $A $(pwd) && cat f\n12 /srv/x\n/srv/baton\n```\n",
    )  # fmt: skip
    assert made.commands == 4
    assert (tmp_path / "srv" / "x" / "f").read_text() == f"{tmp_path}/b\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```sh\ntrue\nfalse\n```", "line 3: false.*exit code 1"),
        ("```console\n$ echo version 2 serves\nversion 1 serves\n```", "did not print this line:\nversion 1 serves"),
        ("```console\n$ printf 'b\\na\\n'\na\nb\n```", "did not print this line:\nb"),
        ("```console\n$ exit 3\n```", "The shell ended"),
    ],
)
def test_a_fault_in_a_page_is_found(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(Failed, match=f"(?s){why}"):
        followed(tmp_path, text)


def test_an_error_that_a_page_shows_is_none(tmp_path: Path) -> None:
    followed(tmp_path, "```console\n$ echo Error: no; false\nError: no\n```")


@pytest.mark.parametrize(
    ("claimed", "printed", "lost"),
    [
        (["✔ load  pass  2.08 (limit 900)"], "10:37:32  ✔ load   pass     14 (limit 900)", None),
        (["live, 5m 17s after"], "is live, 45.2 s after it", None),
        (["74 tensors in 16 files", "match."], "9 tensors in\n  1 files\n match.", None),
        (["Version 2 has 5 % of traffic"], "Version 3 has 5 % of traffic", "Version 2 has 5 % of traffic"),
        (["(v2.0)"], "(v3.0)", "(v2.0)"),
        (["a", "...", "b"], "a x b", None),
        (["begin of a line ..."], "begin of a line and its end", None),
        (["b", "a"], "a b", "a"),
    ],
)
def test_what_counts_as_printed(claimed: list[str], printed: str, lost: str | None) -> None:
    assert missing(claimed, printed) == lost


def test_a_shape_keeps_versions() -> None:
    assert shape("Version 2\n (v2.0) took 3.5 s") != shape("Version 3 (v2.0) took 3.5 s")
    assert shape("took 3.5 s at 10:37:32") == shape("took  12 ms at 09:00:00")
