import json

import pytest
from tests.support.toy import write_golden

from baton.errors import ConfigError
from baton.probe import golden, load_golden

CASE = {"id": "a", "kind": "text", "query": {"text": "q"}, "documents": [{"text": "d"}, {"text": "e"}]}


def test_a_set_is_read_in_order_with_its_digest(tmp_path):
    found = load_golden(write_golden(tmp_path / "golden.jsonl", 5))
    assert [case.id for case in found.cases] == [f"case-{i:03d}" for i in range(5)]
    assert set(found.relevance) == {case.id for case in found.cases}
    assert len(found.digest) == 64


def test_everything_optional_and_blank_lines(tmp_path):
    path = tmp_path / "golden.jsonl"
    full = {
        **CASE,
        "id": "b",
        "relevance": [0, 3],
        "instruction": "i",
        "options": {"fps": 1},
        "notes": "n",
        "query": {"image": "data:image/png;base64,AA==", "text": ["x"]},
    }
    path.write_text(f"\n{json.dumps(CASE)}\n\n{json.dumps(full)}")
    found = load_golden(path)
    assert found.relevance == {"b": (0, 3)}
    assert found.cases[1].instruction == "i"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": ""}, "'id' is not text"),
        ({"kind": None}, "'kind' is not text"),
        ({"query": "q"}, "'query' is not an object"),
        ({"query": {}}, "'query' is not an object"),
        ({"documents": []}, "0 documents"),
        ({"documents": {"text": "d"}}, "'documents' is not a list"),
        ({"documents": [{"text": "d"}, {"text": ""}]}, "documents[1] holds"),
        ({"documents": [{"image": {"media": 0}}]}, "data: URIs"),
        ({"relevance": [1]}, "1 grades for 2 documents"),
        ({"relevance": [1, -1]}, "not a list of grades"),
        ({"relevance": [1, True]}, "not a list of grades"),
        ({"relevance": [1, 11]}, "0 to 10"),
        ({"relevance": 3}, "not a list of grades"),
        ({"relevence": [1, 0]}, "'relevence' is unknown"),
        ({"instruction": 3}, "'instruction' is not text"),
        ({"options": []}, "'options' is not an object"),
    ],
)
def test_a_bad_case_names_file_line_cause_and_mend(tmp_path, change, says):
    path = tmp_path / "golden.jsonl"
    path.write_text(json.dumps(CASE) + "\n" + json.dumps({**CASE, "id": "b", **change}) + "\n")
    with pytest.raises(ConfigError) as raised:
        load_golden(path)
    assert says in str(raised.value)
    assert f"{path}, line 2" in str(raised.value)
    assert raised.value.mend


@pytest.mark.parametrize("line", ["{", "[]", "[" * 100_000, "{}", '{"id": "a"}', '"\\'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "golden.jsonl"
    path.write_text(line)
    with pytest.raises(ConfigError, match="line 1"):
        load_golden(path)


def test_twice_the_same_id_an_empty_and_a_missing_file(tmp_path):
    path = tmp_path / "golden.jsonl"
    path.write_text(f"{json.dumps(CASE)}\n" * 2)
    with pytest.raises(ConfigError, match="was there before"):
        load_golden(path)
    path.write_text("\n")
    with pytest.raises(ConfigError, match="holds no case"):
        load_golden(path)
    with pytest.raises(ConfigError, match="can't be read"):
        load_golden(tmp_path / "none")


def test_sizes_are_bounded(tmp_path, monkeypatch):
    path = write_golden(tmp_path / "golden.jsonl", 5)
    monkeypatch.setattr(golden, "MAX_CASES", 4)
    with pytest.raises(ConfigError, match="more than 4"):
        load_golden(path)
    monkeypatch.setattr(golden, "MAX_BYTES", 10)
    with pytest.raises(ConfigError, match="10 at most"):
        load_golden(path)
