"""Names and words that were given up stay away: each thing has one name, and that is the field's.

The changelog, journals that were recorded, and values that are persisted or on the wire are no part of this.
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ENGINE = ("python_backend/qwen3_vl_reranker", "tests/unit/engine")
SPLITTER = ("python_backend/splitter", "tests/unit/splitter")
CONTROL = (
    "control",
    "tests/unit/controller",
    "tests/unit/plan",
    "tests/unit/facts",
    "tests/simulation",
    "tests/support",
)
EVERYWHERE = ("README.md", "CONTRIBUTING.md", "docs", "control", "python_backend", "demo", "bench", "harness", "tests")
SENTENCES = ("control/baton/reasons", "tests/unit/reasons/sentences.txt", "tests/unit/judge/messages.txt")
"""What a person reads in ``ctl``."""
EXEMPT = ("control/baton/migration.py", "tests/unit/journal/recorded", "tests/unit/docs/test_retired_terms.py")
"""What reads or holds old journals, and this."""
IDENTIFIERS: Mapping[tuple[str, ...], Mapping[str, str]] = {
    CONTROL: {
        "Keeper": "ConfigRepairer",
        "Rounds": "PeriodicRunner",
        "Engines": "EngineInfoMonitor",
        "Calls": "ModelLoader",
        "Records": "RolloutRecorder",
        "Proof": "ContentVerifier",
        "Prove": "VerifyContent",
        "Steering": "SplitterClient",
        "Split": "TrafficSplit",
        "Standing": "ReleaseStatus",
        "Sick": "Unhealthy",
        "sick": "unhealthy",
        "unwell": "handle_unhealthy",
        "strays": "unexpected",
        "Claim": "StateLock",
        "Policy": "RolloutSettings",
        "Check": "ProbeVersion, Diagnosis or LiveCheck",
        "step_aside": "unload_splitter",
        "unsplit": "bypass_splitter",
        "_lost": "rollback_source_lost",
        "_hopeless": "previous_unrecoverable",
        "tether": "exec_wrapper",
        "PaceCheck": "LiveLatencyCheck",
        "Careful": "QuarantineTriton",
        "Infos": "EngineInfos",
        "Beats": "Heartbeats",
        "hold_reason": "loads_blocked",
        "name_what_serves": "repair_version_policy",
        "drop_all_but": "unload_all_but",
        "drop_extra": "unload_unnamed",
        "Crowd": "RepeatedIdLoad",
        "at_the_same_time": "simultaneous",
    },
    ENGINE: {
        "Turns": "Scheduler",
        "Desk": "ResponseBuilder",
        "Asked": "PendingRequest",
        "Portion": "BatchSlice",
        "Stretch": "TokenSpan",
        "Lanes": "PreparationPool",
        "Pace": "Throughput",
    },
    SPLITTER: {
        "Patience": "AdaptiveDeadline",
        "Tally": "SampleWriter",
        "Ledger": "SampleBuffer",
        "_Flight": "HedgedRequest",
    },
}
"""By where they were used: a name of Python code that was given up, and the one to use."""
PROSE: Mapping[tuple[str, ...], Mapping[str, str]] = {
    (*SPLITTER, "docs/explanation/splitter.md"): {r"rescue[ds]?": "failover"},
    ("control/baton/local", "control/baton/triton", "control/baton/testing"): {r"st(?:and|ands|ood) still": "frozen"},
    EVERYWHERE: {r"public names?": "alias"},
    SENTENCES: {
        r"what serves": "the stable version, or the version that serves",
        r"told|tells": "said, reported or named",
        r"stands? still|stood still": "is frozen",
        r"ways? back": "rollback",
        r"ill|sick": "unhealthy, or: does not answer",
        r"strays?": "unexpected entry",
        r"rests": "waits, or backoff",
        r"mirror(?:ed|s)?(?!:)": "shadow, or copy",
        r"begins? anew": "starts a new rollout",
        r"serves on(?! the| every)": "keeps serving",
        r"any more": "no longer",
        r"want of": "because there is no",
    },
}
"""By where they stood: words of pages, comments, docstrings and messages (patterns), and the one to use."""
ON_THE_WIRE = {"rescued"}
"""Written as code, it is a field of the splitter's answers, which keeps its name."""


def files(places: tuple[str, ...], *kinds: str) -> Iterator[Path]:
    for place in places:
        found = ROOT / place
        for path in [found] if found.is_file() else sorted(found.rglob("*")):
            if path.suffix in kinds and not str(path.relative_to(ROOT)).startswith(EXEMPT):
                yield path


def split(text: str) -> tuple[str, str]:
    """The names in a program, and its comments and texts; a line of text that is a name alone is none."""
    names, prose = [], []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            names.append(token.string)
        elif token.type == tokenize.COMMENT or (token.type == tokenize.STRING and " " in token.string):
            prose.append(token.string)
    return "\n".join(names), "\n".join(prose)


def code_left_out(text: str) -> str:
    """Prose without what is set as code."""
    return re.sub(r"```.*?```|``[^`]*``|`[^`]*`", "", text, flags=re.DOTALL)


def put_back(path: Path, text: str, names: Mapping[str, str], words: Mapping[str, str]) -> list[str]:
    """What of the given-up terms a file has, each with the one to use."""
    program, prose = split(text) if path.suffix == ".py" else ("", text)
    used = set(program.split())
    found = [f"{path}: {old} is called {new}" for old, new in names.items() if old in used]
    prose = " ".join(code_left_out(prose).split())
    return found + [
        f"{path}: for {hit.group()!r} say {new}"
        for old, new in words.items()
        for hit in re.finditer(rf"\b(?:{old})\b", prose, re.IGNORECASE)
        if hit.group() not in ON_THE_WIRE
    ]


@pytest.mark.parametrize("places", IDENTIFIERS, ids=lambda places: places[0])
def test_no_name_that_was_given_up_is_back(places: tuple[str, ...]) -> None:
    assert [
        one
        for path in files(places, ".py")
        for one in put_back(path.relative_to(ROOT), path.read_text(), IDENTIFIERS[places], {})
    ] == []


@pytest.mark.parametrize("places", PROSE, ids=lambda places: places[0])
def test_no_word_that_was_given_up_is_back(places: tuple[str, ...]) -> None:
    assert [
        one
        for path in files(places, ".py", ".md", ".txt")
        for one in put_back(path.relative_to(ROOT), path.read_text(), {}, PROSE[places])
    ] == []


def test_one_that_is_put_back_is_found() -> None:
    names, words = IDENTIFIERS[ENGINE], {r"public names?": "alias"}
    program = 'class Desk:\n    """The public name moves."""\n    # public names\n    label = "public name"\n'
    assert put_back(Path("a.py"), program, names, words) == [
        "a.py: Desk is called ResponseBuilder",
        "a.py: for 'public name' say alias",
        "a.py: for 'public names' say alias",
        "a.py: for 'public name' say alias",
    ]
    assert put_back(Path("a.md"), "The Desk has `public name` in code.", names, words) == []
    assert put_back(Path("a.md"), "A public\nname.", names, words) == ["a.md: for 'public name' say alias"]
