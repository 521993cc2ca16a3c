"""Editing the version policy of a well-formed ``config.pbtxt`` changes nothing else; no text brings the editor down."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baton.errors import RepositoryError
from baton.triton import pbtxt

PATH = Path("engine/config.pbtxt")
QUICK = settings(suppress_health_check=list(HealthCheck), derandomize=True)

words = st.text(alphabet="abz_ {}[]<>#:'\\\"\n\té", max_size=12)
versions = st.frozensets(st.integers(1, 2**31 - 1), max_size=4)


def quoted(text: str) -> str:
    """A string as protobuf's text format writes it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t") + '"'


def policy(chosen: frozenset[int]) -> str:
    listed = ", ".join(map(str, sorted(chosen)))
    return f"version_policy {{ specific {{ versions: [ {listed} ] }} }}"


comments = st.text(alphabet="ab {}\"'#", max_size=15).map("#{}\n".format)
parameters = words.map(
    lambda t: f"parameters {{ key: {quoted('version_policy' + t)} value: {{ string_value: {quoted(t)} }} }}"
)
OTHERS = (
    words.map(lambda t: f"name: {quoted(t)}"),
    words.map(lambda t: "backend: '" + quoted(t)[1:-1].replace("'", "\\'").replace('\\\\"', '"') + "'"),
    st.integers(0, 99).map("max_batch_size: {}".format),
    parameters,
    st.just('input [ { name: "version_policy" data_type: TYPE_STRING dims: [ 1 ] }, # {\n { name: "b" dims: -1 } ]'),
    st.just("instance_group < kind: KIND_CPU count: 2 >;"),
    st.just('default_model_filename: "a" "version_policy { latest { } }"'),
    st.just("ensemble_scheduling { step [ { model_name: 'version_policy' model_version: 3 } ] }"),
    st.just("something_newer { version_policy { latest { num_versions: 2 } } }"),
)
spaces = st.sampled_from([" ", "\n", "\n\n", "\t", "  # {\n", '\n# version_policy { all { } } "\n'])
policies = st.one_of(
    st.just(""),
    versions.filter(bool).map(policy),
    versions.filter(bool).map(lambda v: policy(v).replace("{", "<").replace("}", ">")),
    versions.filter(bool).map(lambda v: policy(v).replace("policy {", "policy: # } \n{")),
    st.just("version_policy: { latest { num_versions: 1 } }"),
    st.just("version_policy\n{ all { } }"),
)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, str, str]:
    """What stands before the version policy, the policy (or nothing), and what stands after it. Each field once."""
    fields = [draw(OTHERS[n]) for n in draw(st.lists(st.sampled_from(range(len(OTHERS))), unique=True, max_size=8))]
    fields += draw(st.lists(comments, max_size=2))
    fields = [field + draw(spaces) for field in draw(st.permutations(fields))]
    cut = draw(st.integers(0, len(fields)))
    return "".join(fields[:cut]), draw(policies), draw(spaces) + "".join(fields[cut:])


@QUICK
@given(configurations(), versions, versions)
def test_nothing_else_changes(configuration, first, second):
    before, written, after = configuration
    text = before + written + after
    original = pbtxt.parse(text, PATH)
    edited = pbtxt.with_specific_versions(text, first, PATH)
    if first:
        assert pbtxt.specific_versions(edited, PATH) == first
    if written:
        assert edited.startswith(before)
        assert edited.endswith(after)
    else:
        assert edited.startswith(text)
    changed = pbtxt.parse(edited, PATH)
    for config in (original, changed):
        config.ClearField("version_policy")
    assert original == changed
    again = pbtxt.with_specific_versions(edited, second, PATH)
    assert again == pbtxt.with_specific_versions(text, second, PATH), "the way there does not matter"
    assert pbtxt.with_specific_versions(again, second, PATH) == again


@QUICK
@given(st.one_of(st.text(max_size=80), words, configurations().flatmap(lambda c: st.just("".join(c)[:-3]))), versions)
def test_any_text(text, chosen):
    for call in (
        lambda: pbtxt.parse(text, PATH),
        lambda: pbtxt.specific_versions(text, PATH),
        lambda: pbtxt.with_specific_versions(text, chosen, PATH),
    ):
        with contextlib.suppress(RepositoryError):
            call()


@pytest.mark.parametrize("text", ['name: "\\xff"', "version_policy { specific { versions: [ 1 ] } }\n" * 2])
def test_refused_texts(text):
    with pytest.raises(RepositoryError, match=r"engine/config\.pbtxt"):
        pbtxt.with_specific_versions(text, frozenset({1}), PATH)


def test_a_policy_that_is_not_explicit_is_refused():
    for text in ("", "version_policy { latest { num_versions: 1 } }", "version_policy { all { } }"):
        with pytest.raises(RepositoryError, match="no explicit version policy"):
            pbtxt.specific_versions(text, PATH)


def test_no_version_at_all():
    edited = pbtxt.with_specific_versions('name: "a"\n', frozenset(), PATH)
    assert pbtxt.specific_versions(edited, PATH) == frozenset()
