"""Every verb, from its class alone: over the socket, in the facade and in the control plane."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from tests.unit.facts.moments import moment
from tests.unit.facts.recorder import Recorder

from baton import verbs
from baton.api import ApiClient, ApiServer
from baton.api.wire import SOMEBODY, read, written
from baton.app import HANDLERS, App
from baton.domain import Release
from baton.errors import UsageError
from baton.verbs import VERBS, Facade, Verb, answer_of, name_of, parameters

FILLED: list[Verb[Any]] = [
    verbs.Status("reranker"),
    verbs.Versions("reranker"),
    verbs.History("reranker", 3),
    verbs.Rollout(2),
    verbs.Health(),
    verbs.Promote("reranker", 2, full=True, who="carol"),
    verbs.Rollback("reranker", 1, changed=True, who="carol"),
    verbs.Abort("reranker", who="carol"),
    verbs.Retry("reranker", 3, Release.RETRAINED, who="carol"),
    verbs.Verify("reranker", 4, who="carol"),
    verbs.Prune("reranker", 2, dry_run=True, who="carol"),
    verbs.Pause(who="carol"),
    verbs.Resume(who="carol"),
    verbs.Expect("reranker", 2, 0.5),
]
"""Each with a value in every field."""
BARE: list[Verb[Any]] = [
    *(verbs.Status(), verbs.Versions(), verbs.History(), verbs.Promote(), verbs.Rollback(), verbs.Abort()),
    *(verbs.Retry(), verbs.Verify(None, 4), verbs.Prune(), verbs.Pause(), verbs.Resume(), verbs.Expect(None, 2, 0.5)),
]


def named(verb: Verb[Any]) -> str:
    return name_of(type(verb))


def test_none_is_left_out() -> None:
    assert [type(verb) for verb in FILLED] == list(VERBS.values()) == list(HANDLERS)
    assert {name for name in vars(Facade) if not name.startswith("_")} == {"ask", *VERBS}
    for verb in FILLED:
        assert all(getattr(verb, name) != one.default for name, one in parameters(type(verb)).items())


@pytest.mark.parametrize("verb", [*FILLED, *BARE], ids=named)
def test_it_arrives_as_it_was_asked(verb: Verb[Any], tmp_path: Path) -> None:
    app = Recorder("a way back")
    with ApiServer(app, tmp_path / "baton.sock"):
        answer = ApiClient(tmp_path / "baton.sock").ask(verb)
    assert app.calls == [verb]
    assert answer == app.ask(verb)


@pytest.mark.parametrize("verb", FILLED, ids=named)
def test_the_facade_takes_its_fields(verb: Verb[Any]) -> None:
    app = Recorder("a way back")
    method: Callable[..., Any] = getattr(app, named(verb))
    assert method(**{name: getattr(verb, name) for name in parameters(type(verb))}) == app.ask(verb)
    assert app.calls == [verb] * 2


@pytest.mark.parametrize(("kind", "handler"), HANDLERS.items(), ids=lambda one: one.__name__)
def test_its_handler_takes_it_and_answers_what_it_promises(kind: type[Verb[Any]], handler: Callable[..., Any]) -> None:
    hints = get_type_hints(handler, {**handler.__globals__, "App": App})
    assert handler.__name__ == name_of(kind)
    assert hints["return"] == answer_of(kind)
    assert kind in hints.values()


@pytest.mark.parametrize("verb", FILLED, ids=named)
def test_a_parameter_of_another_type_is_named(verb: Verb[Any]) -> None:
    given = written(verb)
    for name in given:
        with pytest.raises(UsageError, match=f"^{named(verb)}: {name} = "):
            read(named(verb), {**given, name: [1]})
    with pytest.raises(UsageError, match=f"{named(verb)} knows no parameter 'colour'"):
        read(named(verb), {**given, "colour": "red"})


def test_what_is_left_out() -> None:
    assert read("promote", {}) == verbs.Promote(who=SOMEBODY)
    assert read("expect", {"version": 2, "timeout_s": 1}) == verbs.Expect(None, 2, 1.0)
    assert read("history", {"limit": "7"}) == verbs.History(None, 7)
    with pytest.raises(UsageError, match="verify needs the parameter 'version'"):
        read("verify", {})


def test_the_journal_is_told_who_asks() -> None:
    assert "@" in verbs.Pause().who
    assert replace(verbs.Pause(), who="carol").who == "carol"
    assert moment("a way back").history[0].who == "ann@host via ctl"
