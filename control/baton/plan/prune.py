"""Which version folders may be removed from disk, and when: after a rollout, or because a person asked for it.

What is to go is written down as a :class:`Pruning` when a rollout ends, or by ``ctl prune``. So a folder that comes
later is never removed by it, also in the place of one that was to go. It goes one version at a time, and each is looked
at once more before it does. A rollout that begins ends the pruning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from baton.domain import Folder, Phase, Pruning, ReleaseStatus, VersionRecord
from baton.plan.effects import Decision, EndPruning, Prune, Reload, Sync
from baton.plan.view import RolloutSettings, View
from baton.reasons import Reason, Why, because


def pruning(view: View, phase: Phase, settings: RolloutSettings) -> Decision | None:
    """Remove the next of the versions that are to go. None when there are none, or it is not the time.

    ``ctl pause`` stops what goes on by itself, and not what a person asked for.
    """
    asked = view.pruning
    if asked is None or (view.paused and asked.who is None):
        return None
    if any(isinstance(e, Sync | Reload) for e in view.running):
        return None  # Triton is reading the engine's directory
    for version in asked.versions:
        folder = view.folders.get(version)
        if folder is None or asked.folders.get(version, folder.fingerprint) != folder.fingerprint:
            continue
        if needed(view, version, settings, view.way_back) is None:
            return Decision(phase, because(Reason.PRUNING, version=version), Prune(version))
    return Decision(phase, because(Reason.PRUNED_ALL), EndPruning())


def noted(view: View, versions: tuple[int, ...], keep: int, who: str | None = None) -> Pruning:
    """What is written down of the versions that are to go."""
    return Pruning(versions, keep, who, {version: view.folders[version].fingerprint for version in versions})


def surplus(view: View, keep: int, settings: RolloutSettings, way_back: int | None) -> tuple[int, ...]:
    """The versions that are to go, lowest first: all but those that are needed and the ``keep`` newest of the rest."""
    free = sorted(v for v in view.folders if needed(view, v, settings, way_back) is None)
    return tuple(free[: max(0, len(free) - keep)])


def needed(view: View, version: int, settings: RolloutSettings, way_back: int | None) -> Why | None:
    """Why the version's folder must stay on disk; None where nothing needs it."""
    folder, rollout = view.folders[version], view.rollout
    if version == view.alias:
        return because(Reason.SERVES, version=version)
    if rollout is not None and version in (rollout.candidate, rollout.previous):
        return because(Reason.STAYS_FOR_ROLLOUT, candidate=rollout.candidate)
    holds = tuple(s.name for s in view.servers if version in s.in_memory())
    if holds or version in view.version_policy:
        return because(Reason.STAYS_LOADED, servers=holds)
    if view.unreachable():
        return because(Reason.STAYS_UNSEEN, servers=view.unreachable())
    if version == way_back:
        return because(Reason.STAYS_WAY_BACK)
    if folder.missing or view.now - folder.quiet_since < settings.settle:
        return because(Reason.STAYS_ARRIVING)
    if view.alias is None or (version > view.alias and view.undecided(version)):
        return because(Reason.STAYS_WAITING)
    if users := tuple(sorted(other for other, one in view.folders.items() if version in one.uses)):
        return because(Reason.STAYS_USED, versions=users)
    return None


def after(
    view: View, candidate: int, settings: RolloutSettings, served: Iterable[int], withdrawn: Collection[int]
) -> Pruning | None:
    """What retention removes once ``candidate`` has become the version that serves. None: nothing.

    ``served`` and ``withdrawn`` as in :func:`way_back`, the end of this rollout included.
    """
    if settings.keep_versions is None:
        return None
    back = way_back(candidate, served, view.records, view.folders, withdrawn)
    versions = surplus(replace(view, rollout=None), settings.keep_versions, settings, back)
    return noted(view, versions, settings.keep_versions) if versions else None


def way_back(
    alias: int | None,
    served: Iterable[int],
    records: Mapping[int, VersionRecord],
    folders: Mapping[int, Folder],
    withdrawn: Collection[int] = (),
) -> int | None:
    """The version that served before the present one and was not taken back itself. ``served``: the latest first."""
    for version in served:
        record = records.get(version)
        taken_back = version in withdrawn or (record is not None and record.status is ReleaseStatus.WITHDRAWN)
        if version != alias and not taken_back and version in folders:
            return version
    return None
