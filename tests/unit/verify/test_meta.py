from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from baton.domain import Release, VersionMeta
from baton.errors import CheckpointError
from baton.verify.checkpoint import read_meta
from baton.verify.meta import check_table, render_table
from baton.verify.names import ends_triton, highest_number, is_number, name_problem, version_of


def meta(tmp_path, text):
    folder = tmp_path / "7"
    folder.mkdir(exist_ok=True)
    (folder / "version.toml").write_text(text)
    return read_meta(folder)


def test_without_the_file_the_label_is_the_number(tmp_path):
    (tmp_path / "7").mkdir()
    assert read_meta(tmp_path / "7") == VersionMeta("7")


def test_everything_is_read(tmp_path):
    text = """
        label = "v2.1"
        release = "retrained"
        trained_at = 2026-01-31T12:00:00Z
        notes = "two\\nlines"
        [metrics]
        ndcg = 0.97
        steps = 400
        held_out = true
    """
    metrics = {"ndcg": 0.97, "steps": 400, "held_out": True}
    expected = VersionMeta("v2.1", Release.RETRAINED, True, "2026-01-31T12:00:00+00:00", metrics, "two\nlines")  # noqa: FBT003
    assert meta(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("= 1", "not valid TOML"),
        ("label = 7", "printable text of 1 to 100"),
        ('label = " "', "printable text"),
        ('label = "a\\u001bb"', "printable text"),
        ('release = "new"', '"equivalent" or "retrained"'),
        ("release = []", '"equivalent" or "retrained"'),
        ("trained_at = 7", "a date"),
        ("metrics = 7", "a table"),
        ("metrics.a = nan", "metrics.a"),
        ("metrics.a = [1]", "metrics.a"),
        ('notes = "\\u0007"', "without control characters"),
        ('owner = "me"', "Allowed are label, release, trained_at, metrics, notes"),
    ],
)
def test_wrong_values_name_the_key_and_what_is_allowed(tmp_path, text, words):
    with pytest.raises(CheckpointError) as caught:
        meta(tmp_path, text)
    assert "version.toml" in str(caught.value)
    assert words in str(caught.value)


PRINTABLE = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(lambda text: text.isprintable())
FIGURE = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False) | st.booleans() | PRINTABLE


@given(
    st.fixed_dictionaries(
        {"label": PRINTABLE.filter(str.strip)},
        optional={
            "release": st.sampled_from([release.value for release in Release]),
            "trained_at": PRINTABLE,
            "notes": PRINTABLE | st.just("a\n\tb"),
            "metrics": st.dictionaries(PRINTABLE, FIGURE, min_size=1, max_size=3),
        },
    )
)
def test_what_is_written_reads_back(table):
    assert check_table(tomllib.loads(render_table(table))) == table


def test_names_of_versions():
    assert [version_of(name) for name in ("1", "42", "2147483647")] == [1, 42, 2**31 - 1]
    odd = ("0", "00", "007", "-1", "+1", "2a", " 2", "2147483648", "9" * 5000, "٣", "", ".5", "v2", "1.0")
    assert [version_of(name) for name in odd] == [None] * len(odd)
    assert "rename it to 7" in name_problem("007")
    assert "version 2," in name_problem("2a")
    assert "count from 1" in name_problem("0")
    assert "hidden" in name_problem(".5.tmp")
    assert "2,147,483,647" in name_problem("2147483648")
    assert all(name_problem(name) for name in odd)
    assert "version 8," in name_problem("+8")
    assert "version 8," in name_problem(" 8")
    assert "version -8," in name_problem("-8")
    assert highest_number(["1", "+8", " 7", "-9"]) == 8
    assert highest_number([]) == 0
    assert highest_number(["3", "007", "9b", "x12", "config.pbtxt", "9" * 50]) == 9


def test_what_triton_takes_for_digits():
    assert all(map(is_number, ("0", "1", "007", "9" * 5000)))
    assert not any(map(is_number, ("", "+1", "1 ", " 1", "-1", "1a", "٣", "²", "1\n")))


def test_numbers_at_which_triton_ends():
    edge = 2**63
    deadly = (str(edge), "9" * 25, "9" * 5000, f"+{edge}", f" {edge}x", f"-{edge + 1}", f"+0{edge}")
    assert [name for name in deadly if not ends_triton(name)] == []
    assert all("Triton ends" in name_problem(name) for name in deadly)
    others = (str(edge - 1), f"-{edge}", "0" + "9" * 25, "0", "007", "2a", "٣" * 25, "x" + "9" * 25, "", "-", "1")
    assert [name for name in others if ends_triton(name)] == []
