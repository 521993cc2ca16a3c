"""The lifecycle of a rollout: a table of every transition that may happen, and why it happens.

The journal refuses any other transition. ``python -m baton.lifecycle`` prints the diagram in
``docs/reference/lifecycle.md`` from the table, and a test fails when the two differ.

What the table alone makes true:

* Every phase of a rollout leads to ``rolling_back``: an abort wins from anywhere.
* ``rolling_back`` leads to nothing but the end: nothing overtakes an abort.
* Clients meet the candidate in ``shifting`` first, and only ``validating``, ``shadowing`` and ``waiting`` lead there.
* An old version is dropped in ``retiring`` alone. From there an abort leads to ``rolling_back``, and nothing else back.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.domain import Phase


@dataclass(frozen=True, slots=True)
class Transition:
    """One row. ``None`` is the beginning (``before``) or the end (``after``) of a rollout."""

    before: Phase | None
    after: Phase | None
    sentence: str


TRANSITIONS: tuple[Transition, ...] = (
    Transition(None, Phase.VERIFYING, "a complete folder, or a person, asks for it"),
    Transition(None, Phase.LOADING, "a person calls an earlier version back"),
    Transition(Phase.VERIFYING, Phase.LOADING, "the files are whole, fit the service, and there is room"),
    Transition(Phase.LOADING, Phase.VALIDATING, "READY on every server"),
    Transition(Phase.VERIFYING, Phase.WAITING, "a gate holds for want of evidence: what is not proved does not go on"),
    Transition(
        Phase.VALIDATING,
        Phase.WAITING,
        "every gate passed, and a person has the last word; or a gate holds for want of evidence",
    ),
    Transition(Phase.VALIDATING, Phase.SHADOWING, "every gate passed; live requests are mirrored to it first"),
    Transition(Phase.VALIDATING, Phase.SHIFTING, "every gate passed, and no shadow is asked for"),
    Transition(Phase.VALIDATING, Phase.RETIRING, "only a verification was asked for"),
    Transition(Phase.WAITING, Phase.VERIFYING, "a gate of the files that held is asked again"),
    Transition(Phase.WAITING, Phase.VALIDATING, "a gate that held is asked again: a person retries, or Baton restarts"),
    Transition(Phase.WAITING, Phase.SHADOWING, "a person promotes it; live requests are mirrored to it first"),
    Transition(Phase.WAITING, Phase.SHIFTING, "a person promotes it"),
    Transition(
        Phase.SHADOWING, Phase.SHIFTING, "its answers to mirrored requests are good, or a person skips the rest"
    ),
    Transition(Phase.SHIFTING, Phase.WAITING, "a step is a pause: its share of traffic stays until a person promotes"),
    Transition(Phase.SHIFTING, Phase.BAKING, "the alias has moved on every server"),
    Transition(Phase.BAKING, Phase.RETIRING, "the old version was kept for its time, or is not kept"),
    Transition(Phase.RETIRING, None, "what no longer serves is unloaded"),
    Transition(Phase.VERIFYING, Phase.ROLLING_BACK, "a gate failed, or a person aborts"),
    Transition(Phase.LOADING, Phase.ROLLING_BACK, "it did not load, or a person aborts"),
    Transition(Phase.VALIDATING, Phase.ROLLING_BACK, "a gate failed, or a person aborts"),
    Transition(
        Phase.WAITING, Phase.ROLLING_BACK, "a person aborts, a newer version supersedes it, or live traffic fails"
    ),
    Transition(Phase.SHADOWING, Phase.ROLLING_BACK, "its answers to mirrored requests are bad, or a person aborts"),
    Transition(Phase.SHIFTING, Phase.ROLLING_BACK, "live traffic fails, the splitter fails, or a person aborts"),
    Transition(
        Phase.BAKING,
        Phase.ROLLING_BACK,
        "it does not answer, or a person rolls back: one flip, the old version is still loaded",
    ),
    Transition(Phase.RETIRING, Phase.ROLLING_BACK, "a person aborts while the old version may still be loaded"),
    Transition(Phase.ROLLING_BACK, None, "the stable version serves alone"),
)

ALLOWED: frozenset[tuple[Phase | None, Phase | None]] = frozenset((t.before, t.after) for t in TRANSITIONS)


def mermaid() -> str:
    """The table as a Mermaid state diagram."""

    def name(phase: Phase | None) -> str:
        return "[*]" if phase is None else phase.value

    rows = [f"    {name(t.before)} --> {name(t.after)}: {t.sentence}" for t in TRANSITIONS]
    return "\n".join(["stateDiagram-v2", *rows]) + "\n"


if __name__ == "__main__":
    print(mermaid(), end="")  # noqa: T201 - printing is what this module does when it is run
